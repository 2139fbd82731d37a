"""influxdb.conf as it is shipped, in the real influxd."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import daemons
import pytest
from daemons import CONFIGURATION, PROJECT, Influxd
from needs import installed

POINT = "requests,request=GETs_per_minute requests_number=1i 1700000000000000000"

as_root = os.name == "posix" and os.geteuid() == 0


def is_changed() -> bool:
    """Whether somebody has changed the file since it was committed, as far as git knows."""
    if not shutil.which("git"):
        return False
    command = ["git", "diff", "--quiet", "HEAD", "--", CONFIGURATION.name]
    return subprocess.run(command, cwd=PROJECT, stderr=subprocess.DEVNULL, check=False).returncode == 1


as_shipped = pytest.mark.skipif(is_changed(), reason="influxdb.conf is not as it is shipped: it has changes")


def settings(text: str) -> set[tuple[str, str, str]]:
    """(section, name, value) of each line that sets something; quotes, and what else is not a letter or digit, kept."""
    found, section = set(), ""
    for line in text.splitlines():
        if match := re.fullmatch(r"\s*\[+(.+?)\]+\s*", line):
            section = match[1]
        elif match := re.fullmatch(r"\s*([a-z][a-z-]*) = (.+)", line):
            found.add((section, match[1], match[2]))
    return found


def effective_settings(configuration: Path) -> set[tuple[str, str, str]]:
    """The settings that influxd has after it has read a file."""
    command = [installed("influxd"), "config", "-config", str(configuration)]
    env = {name: value for name, value in os.environ.items() if not name.startswith("INFLUXDB_")}
    return settings(subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=20).stdout)


@pytest.fixture
def effective() -> set[tuple[str, str, str]]:
    """The settings that influxd has after it has read the shipped file."""
    return effective_settings(CONFIGURATION)


def listening_addresses(pid: int) -> set[str]:
    """address:port of each TCP socket, IPv4 or IPv6, on which this process accepts connections (Linux)."""
    ours = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):  # closed since
            ours.add(os.readlink(descriptor))
    listening = "0A"
    found = set()
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_, inode = line.split()[:10]
            if state == listening and f"socket:[{inode}]" in ours:
                address, _, port = local.partition(":")
                found.add(f"{'127.0.0.1' if address == '0100007F' else address}:{int(port, 16)}")
    return found


def edited(text: str) -> str:
    """The configuration after somebody has set it up for passwords, other machines, TLS and another disk."""
    for old, new in {
        "# auth-enabled = true": "auth-enabled = true",
        '"127.0.0.1:8086"': '":8086"\n  https-enabled = true\n  https-certificate = "/nowhere"',
        '"127.0.0.1:8088"': '":8088"',
        '"influxdb-data/': '"/nowhere/',
    }.items():
        assert old in text
        text = text.replace(old, new)
    return text


@as_shipped
def test_no_test_depends_on_what_a_person_has_changed_in_the_file(tmp_path, influxd, monkeypatch):
    shipped = CONFIGURATION.read_text(encoding="utf-8")
    changed = tmp_path / "influxdb.conf"
    changed.write_text(edited(shipped), encoding="utf-8")
    monkeypatch.setattr(daemons, "CONFIGURATION", changed)
    for auth in (False, True):
        influx = influxd(auth)
        assert (influx.folder / "influxdb.conf").read_text(encoding="utf-8") == edited(shipped)
        influx.query("CREATE DATABASE math_server")
        assert influx.write(POINT)[0] == (401 if auth else 204)
        assert influx.write(POINT, login=influx.USER) == (204, "")
        assert influx.total() == 1
        assert (influx.folder / "influxdb-data" / "data").is_dir()


@as_shipped
def test_the_shipped_file_is_for_this_machine_only_and_for_a_folder_that_git_ignores(effective):
    assert {("", "bind-address", '"127.0.0.1:8088"'), ("http", "bind-address", '"127.0.0.1:8086"')} <= effective
    folders = {("meta", "dir"), ("data", "dir"), ("data", "wal-dir")}
    found = {value for section, name, value in effective if (section, name) in folders}
    assert found == {'"influxdb-data/meta"', '"influxdb-data/data"', '"influxdb-data/wal"'}


@as_shipped
def test_influxd_knows_every_line_of_the_shipped_file(effective):
    """It ignores what it does not know without a word, so a misspelt name would go unnoticed."""
    debian_spells = {("", "reporting-disabled", "true"): ("", "reporting-enabled", "false")}
    shipped = settings(CONFIGURATION.read_text(encoding="utf-8"))
    assert len(shipped) >= 10
    unknown = {one for one in shipped if not {one, debian_spells.get(one)} & effective}
    assert not unknown


def test_reporting_is_off(effective):
    assert {("", "reporting-disabled", "true"), ("", "reporting-enabled", "false")} & effective


@as_shipped
def test_every_setting_is_preceded_by_its_reason():
    lines = CONFIGURATION.read_text(encoding="utf-8").splitlines()
    alone = []
    for number, line in enumerate(lines):
        before = lines[number - 1].strip()
        if " = " in line and not line.lstrip().startswith("#") and not before.startswith("#"):
            alone.append(line.strip())
    assert alone == ['wal-dir = "influxdb-data/wal"']  # it shares the reason of the line above it


@pytest.mark.skipif(not Path("/proc/self/net/tcp").exists(), reason="reads Linux's /proc")
def test_influxd_listens_on_loopback_only(influxd):
    influx = influxd()
    ports = (influx.port, influx.rpc_port)
    assert listening_addresses(influx.process.pid) == {f"127.0.0.1:{port}" for port in ports}


def test_influxd_keeps_its_data_in_a_folder_that_git_ignores(influxd):
    influx = influxd()
    influx.query("CREATE DATABASE math_server")
    assert influx.write(POINT) == (204, "")
    left = {path.name for path in influx.folder.iterdir()}
    assert left == {"influxdb.conf", "influxdb-data", "stdout", "stderr"}
    assert {path.name for path in (influx.folder / "influxdb-data").iterdir()} == {"meta", "data", "wal"}
    assert "influxdb-data/" in (PROJECT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_influxd_keeps_its_own_statistics_and_profiles_to_itself(influxd):
    influx = influxd()
    assert influx.query("SHOW DATABASES") == []
    assert influx.request("GET", "/debug/pprof/")[0] == 404


def test_influxd_needs_no_root(guard, tmp_path):
    """Where the tests run as root, influxd runs as nobody: in a folder of its own, as tmp_path is root's alone."""
    folder = Path(tempfile.mkdtemp()) if as_root else tmp_path
    try:
        influx = Influxd(guard, folder, user="nobody" if as_root else None)
        if as_root:
            shutil.chown(folder, "nobody")
        with contextlib.closing(influx):
            influx.start()
            influx.query("CREATE DATABASE math_server")
            assert influx.write(POINT) == (204, "")
            assert (folder / "influxdb-data").stat().st_uid != 0
    finally:
        if as_root:
            shutil.rmtree(folder)


@as_shipped
def test_the_shipped_file_asks_for_no_passwords_and_its_comment_is_the_line_that_does(effective, tmp_path):
    assert ("http", "auth-enabled", "false") in effective
    with_auth = tmp_path / "influxdb.conf"
    with_auth.write_text(CONFIGURATION.read_text(encoding="utf-8").replace("# auth-enabled", "auth-enabled"))
    assert ("http", "auth-enabled", "true") in effective_settings(with_auth)


def test_without_passwords_anybody_on_this_machine_may_write(influxd):
    influx = influxd()
    influx.query("CREATE DATABASE math_server")
    assert influx.write(POINT) == (204, "")
    assert [point["requests_number"] for point in influx.points()] == [1]


def test_with_passwords_only_a_user_with_a_password_may_write(influxd):
    influx = influxd(auth=True)
    assert influx.write(POINT)[0] == 401
    assert influx.write(POINT, login=("math_server", "wrong"))[0] == 401
    assert influx.points() == []
    assert influx.write(POINT, login=influx.USER) == (204, "")
    assert influx.total() == 1
