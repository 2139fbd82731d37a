"""README.md tells the truth: its commands are run, in its order, in a copy of the repository, and print what it shows.

Only what belongs to a machine is replaced: the ports, and the making of a virtual environment, which would take a
network and half a minute. Times differ, too, so `1795498610001000000` in the README stands for any.
"""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from books import counted
from daemons import (
    PATIENCE_S,
    PROGRAM,
    PROJECT,
    Daemon,
    Influxd,
    Nginx,
    free_port,
    influxd_environment,
    run_program,
    wait_until,
)
from messages import WRONG_TYPE
from needs import installed

import webserver_influx
from webserver_influx import Destination, Usage, parse_dsn, verdict

README = (PROJECT / "README.md").read_text(encoding="utf-8")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the commands are for a POSIX shell")


# --- the text


class Block(NamedTuple):
    heading: str
    language: str
    lines: list[str]

    def commands(self) -> list[tuple[str, str]]:
        """Each command, and the output that is shown below it; in a `sh` block, none is."""
        if self.language == "sh":
            return [(command, "") for command in whole_commands(self.lines)]
        found: list[tuple[str, str]] = []
        for line in self.lines:
            if line.startswith("$ "):
                found.append((line[2:], ""))
            else:
                command, output = found.pop()
                found.append((command, f"{output}{line}\n"))
        return found


def whole_commands(lines: list[str]) -> Iterator[str]:
    """The lines, those of one command as one: it goes on for as long as a quote is open."""
    command = ""
    for line in lines:
        command += line
        try:
            shlex.split(command)
        except ValueError:
            command += "\n"
        else:
            yield command
            command = ""
    assert not command


def blocks() -> list[Block]:
    """The code blocks of the README, in order."""
    found: list[Block] = []
    heading, inside = "", False
    for line in README.splitlines():
        if line.startswith("```"):
            inside = not inside
            if inside:
                found.append(Block(heading, line[3:], []))
        elif inside:
            found[-1].lines.append(line)
        elif line.startswith("#"):
            heading = line.lstrip("# ")
    return found


def blocks_under(heading: str, language: str) -> list[Block]:
    """The blocks of this language under this heading, in order."""
    return [block for block in blocks() if (block.heading, block.language) == (heading, language)]


def lines_under(heading: str, language: str) -> list[str]:
    """The lines of the one block of this language under this heading."""
    (block,) = blocks_under(heading, language)
    return block.lines


def tables() -> dict[str, list[list[str]]]:
    """The rows of each table, without its head and the line below that, by the first word of the head."""
    found: dict[str, list[list[str]]] = {}
    name = ""
    for line in README.splitlines():
        if not line.startswith("|"):
            name = ""
            continue
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if not name:
            name = cells[0]
            found[name] = []
        elif set(line) != set("| -"):
            found[name].append(cells)
    return found


# --- a terminal


DAEMON = re.compile(r"(^|&& )((?:\w+=\S+ )*)(\.venv/bin/python webserver_influx\.py|influxd |victoria-metrics )")


class Started(Daemon):
    """A command that goes on until it is stopped."""

    def __init__(self, guard, folder: Path, command: str, terminal: Terminal, port: int):
        super().__init__(guard, folder, ["sh", "-c", command], terminal.environment)
        self._options["cwd"] = terminal.folder
        self.port = port

    def answers(self) -> bool:
        socket.create_connection(("127.0.0.1", self.port), 5).close()  # no request: it would be counted
        return True


class Terminal:
    """Runs commands of the README in a copy of the repository."""

    def __init__(self, guard, tmp_path: Path):
        self.guard, self.tmp_path = guard, tmp_path
        self.folder = tmp_path / "copy"
        leave = [".git", ".venv", "__pycache__", ".*_cache", ".hypothesis", "math_server.db*", "influxdb-data"]
        shutil.copytree(PROJECT, self.folder, ignore=shutil.ignore_patterns(*leave))
        self.ports = {name: free_port() for name in ("8008", "8086", "8088", "8428")}
        self.started: list[Started] = []
        self.make_commands()
        of_influxd = influxd_environment(self.ports["8086"], self.ports["8088"])
        self.environment = {
            **{name: value for name, value in of_influxd.items() if name.startswith("INFLUXDB_")},
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "LANG": "C.UTF-8",
            "WEBSERVER_INFLUX_DSN": self.with_ports("influxdb://math_server:math_server1@localhost:8086/math_server"),
            "PYTEST_ADDOPTS": "-m smoke -p no:cacheprovider tests/test_fixtures.py",  # not all tests again
        }

    def make_commands(self) -> None:
        """A `python3`, and a virtual environment, that are the Python of this test run and have what it has."""
        python = f'exec "{sys.executable}" "$@"'
        for path, script in {
            self.tmp_path / "bin" / "python3": f'[ "$*" = "-m venv .venv" ] && exit\n{python}',
            self.folder / ".venv" / "bin" / "python": python,
            self.folder / ".venv" / "bin" / "pip": '[ "$1" = install ] && [ "$2" = -qr ] && [ -s "$3" ]',
        }.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
            path.chmod(0o755)

    def with_ports(self, text: str) -> str:
        """The text with this test's ports in place of the usual ones."""
        return re.sub("|".join(self.ports), lambda match: str(self.ports[match[0]]), text)

    def adapted(self, command: str) -> str:
        """The command with this test's ports, written or implied."""
        command = self.with_ports(command)
        command = re.sub(r"(?<=webserver_influx\.py)", f" --port {self.ports['8008']}", command)
        command = re.sub(r"(influxdb://\S+@localhost)(?= )", rf"\1:{self.ports['8086']}", command)
        command = re.sub(r"tests/load\.py", rf"\g<0> --port {self.ports['8008']}", command)
        command = re.sub(r"^influx(?= )", f"influx -host 127.0.0.1 -port {self.ports['8086']}", command)
        command = re.sub(r"^victoria-metrics", rf"\g<0> -httpListenAddr=127.0.0.1:{self.ports['8428']}", command)
        return DAEMON.sub(r"\1exec env \2\3", command)

    def run(self, block: Block) -> None:
        """Run what a block shows, and compare what it prints."""
        for command, output in block.commands():
            if DAEMON.search(command):
                assert not output
                self.start(command)
            elif command.startswith("influx "):  # what the server delivers may be on its way
                wait_until(lambda c=command, o=output: self.shows(c, o), what=f"{output!r} of {command}")
            else:
                assert self.printed(command) == normal(output) or not output

    def shows(self, command: str, output: str) -> bool:
        """Whether a command succeeds and prints what is shown, if that is anything."""
        ended = self.ended(command)
        return ended.returncode == 0 and (not output or normal(ended.stdout) == normal(output))

    def ended(self, command: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            ["sh", "-c", self.adapted(command)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def printed(self, command: str) -> str:
        """What a command prints that must succeed."""
        ended = self.ended(command)
        assert ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return normal(ended.stdout)

    def start(self, command: str) -> Started:
        """Start what goes on until it is stopped."""
        program = DAEMON.search(command)[3].split()[0]
        port = self.ports[{"influxd": "8086", "victoria-metrics": "8428"}.get(program, "8008")]
        folder = self.tmp_path / f"started-{len(self.started)}"
        folder.mkdir()
        self.started.append(Started(self.guard, folder, self.adapted(command), self, int(port)))
        return self.started[-1].start()

    def ctrl_c(self) -> None:
        """End the command that was started last."""
        assert self.started[-1].stop(signal.SIGINT) == 0
        assert "Traceback" not in self.started[-1].stderr_text()

    def get(self) -> None:
        """One request."""
        assert self.printed("curl -s http://localhost:8008") == "Sum: 0"

    def close(self) -> None:
        for started in self.started:
            started.close()


def normal(output: str) -> str:
    """The output without the times in it, the spaces at the end of lines and the last newline."""
    return re.sub(r" *$", "", re.sub(r"\b[0-9]{19}\b", "TIME", output), flags=re.MULTILINE).rstrip("\n")


@pytest.fixture
def terminal(guard, tmp_path):
    with contextlib.closing(Terminal(guard, tmp_path)) as terminal:
        yield terminal


# --- the tests


CAPACITY = "What can my machine take?"
OTHERS = "Other databases, more machines"
RUSSIAN = "По-русски"
LOGIN = "-username math_server -password math_server1"
SERVER = ".venv/bin/python webserver_influx.py"


def test_every_command_does_what_the_readme_says(terminal):
    for command in ("influxd", "influx", "curl", "hostname"):
        installed(command)
    apart = (CAPACITY, RUSSIAN)  # with tests of their own
    shell = iter([block for block in blocks() if block.language in ("sh", "console") and block.heading not in apart])

    terminal.run(next(shell))  # python3 -m venv … && … webserver_influx.py
    terminal.run(next(shell))  # curl, twice
    terminal.ctrl_c()
    terminal.run(next(shell))  # python3 -m venv … && … pytest
    terminal.run(next(shell))  # python3 -c "import sqlite3 …"

    server = terminal.start(SERVER)
    terminal.run(next(shell))  # influxd
    influxd = terminal.started[-1]
    terminal.run(next(shell))  # influx; what waited is delivered though the server was there first
    assert server.stop(signal.SIGINT) == 0
    first_lines = r"Serving on .*\nEvery 60 s .*\n.* math_server\.db\.\n1 process on .*\n"
    assert re.match(first_lines, server.stdout_text())

    terminal.run(next(shell))  # CREATE USER …
    influxd.stop()
    terminal.run(next(shell))  # INFLUXDB_HTTP_AUTH_ENABLED=true influxd …
    with pytest.raises(AssertionError, match="unable to parse authentication credentials"):
        terminal.printed("influx -database math_server -execute 'SELECT * FROM requests'")

    terminal.run(next(shell))  # WEBSERVER_INFLUX_DSN=…
    terminal.get()
    terminal.ctrl_c()
    total = f"influx {LOGIN} -database math_server -format csv -execute 'SELECT sum(requests_number) FROM requests'"
    assert terminal.printed(total).endswith(",3")

    terminal.run(next(shell))  # webserver_influx.py --tag host=…
    terminal.get()
    terminal.ctrl_c()
    _, of_each, _ = lines_under(OTHERS, "sql")
    sums = terminal.printed(f"influx {LOGIN} -database math_server -execute '{of_each}'")
    assert re.search(rf"^tags: host={socket.gethostname()}$", sums, re.MULTILINE)
    assert re.search(r"^tags: host=$", sums, re.MULTILINE)

    next(shell)  # VictoriaMetrics has a test of its own
    assert not list(shell)


def test_what_influx_prints_means_what_the_table_says(influxd):
    no_point, no_database, no_login = (cells[0].strip("`") for cells in tables()["`influx` prints"])

    def printed(influx: Influxd, login: str = "") -> str:
        where = ["-host", "127.0.0.1", "-port", str(influx.port), *login.split(), "-database", "math_server"]
        command = [installed("influx"), *where, "-execute", "SELECT * FROM requests"]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S).stdout

    influx = influxd()
    assert no_database in printed(influx)
    influx.query("CREATE DATABASE math_server")
    assert no_point == "nothing"
    assert printed(influx) == ""
    influx.write("requests requests_number=1i")
    assert "requests_number\n" in printed(influx)

    with_passwords = influxd(auth=True)
    assert no_login in printed(with_passwords)
    assert any(f"`{LOGIN}`" in cells[1] for cells in tables()["`influx` prints"])
    assert printed(with_passwords, LOGIN) == ""


def as_pattern(cell: str) -> str:
    """A pattern for what the text in a cell stands for; "…" stands for anything, N for a number."""
    pattern = re.escape(cell.strip("`")).replace("…", ".*")
    return re.sub(r"(?<!\w)N(?!\w)", r"[0-9,]+", pattern)


def with_any_numbers(text: str) -> str:
    """A pattern for the text, or for what differs from it in its numbers and in the heights of its chart."""
    pattern = re.sub(r"\d[\d,.]*", r"[0-9][0-9,.]*", re.escape(normal(text)))
    return re.sub("[▁-█]+", "[▁-█ ]+", pattern)


def test_what_a_machine_takes_is_found_as_the_readme_says(terminal):
    for command in ("wrk", "influxd", "influx"):
        installed(command)
    (wrk, load_py), (query,) = (block.lines for block in blocks_under(CAPACITY, "sh"))
    state = terminal.folder / webserver_influx.STATE_FILE
    terminal.start("influxd -config influxdb.conf")
    terminal.start(".venv/bin/python webserver_influx.py")

    def load(command: str) -> int:
        """The number of requests that a load prints."""
        return int(re.search(r"([\d,]+) requests", terminal.printed(command))[1].replace(",", ""))

    assert wrk.count(" -d10 ") == 1
    of_load_py = load(f"{load_py} --seconds 1")
    assert counted(state) == of_load_py > 0
    of_wrk = load(wrk.replace(" -d10 ", " -d1 "))
    terminal.ctrl_c()
    assert 0 <= counted(state) - of_load_py - of_wrk <= 64
    wait_until(lambda: re.search(r"max\n-+ +-+\n\d+ +\d", terminal.ended(query).stdout), what=query)


def test_the_load_of_the_tests_says_in_one_line_what_is_wrong(closed_port):
    command = [sys.executable, str(PROJECT / "tests" / "load.py"), "127.0.0.1", "--port", str(closed_port)]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert re.fullmatch(rf"127\.0\.0\.1, port {closed_port}: .*refused\n", ended.stderr)


def test_the_table_of_limits_has_each_that_the_server_names():
    rows = [as_pattern(cells[0]) for cells in tables()["last line"]]

    def named(cpu: float, idle: float, processes: int = 1) -> str:
        return verdict(Usage(10.0, 1000, cpu * 10, idle * 10), 2.0, 2, processes)

    ends = [named(1.0, 1.0), named(2.0, 0.0, 2), named(0.1, 1.9), named(0.1, 0.0)]
    assert all(re.fullmatch(row, end) for row, end in zip(rows, ends))
    assert named(0.8, 1.0) == ""
    assert rows[4:] == ["none\\ of\\ these"]


@pytest.mark.unmeasured
def test_the_server_shows_the_load_as_the_readme_has_it(server, influxd, at_end):
    wrk = installed("wrk")
    (live,), (minute, last, whole, under_load, verdict_line) = (block.lines for block in blocks_under(CAPACITY, "text"))
    verdicts = [as_pattern(cells[0]) for cells in tables()["last line"]]
    master, slave = os.openpty()
    at_end.callback(os.close, master)
    os.set_blocking(master, False)
    subprocess.run(["stty", "columns", "120"], stdin=slave, check=True)
    env = {"TERM": "xterm", "LC_ALL": "C.UTF-8"}
    web = server("--interval", "10", "--influx", influxd().dsn(), start=False, env=env)
    web.redirect(f"2>{os.ttyname(slave)}")  # of the session that begins with it, this becomes the terminal
    web.start()
    os.close(slave)
    written = b""

    def lines() -> list[str]:
        """All that was written to the terminal, cut where the cursor moved."""
        nonlocal written
        with contextlib.suppress(OSError):  # no more for now, or for ever
            while more := os.read(master, 65536):
                written += more
        without_colour = re.sub(r"\x1b\[[0-9;]*m", "", written.decode(errors="replace"))
        return [line.strip() for line in re.split(r"[\r\n]|\x1b\[[0-9;?]*[A-Za-z]|\x1b[78]", without_colour)]

    def shown(line: str) -> list[str]:
        return [one for one in lines() if re.fullmatch(with_any_numbers(line), one)]

    subprocess.run([wrk, "-t1", "-c64", "-d8", web.url], check=True, capture_output=True)
    wait_until(lambda: shown(live), what=live)
    wait_until(lambda: shown(minute), what=minute)
    assert web.stop(signal.SIGINT) == 0
    assert shown(last)
    assert shown(whole)
    assert shown(under_load), lines()[-8:]
    # None is right, too: this machine may be busy with something else.
    assert any(re.fullmatch(f".* INFO {row}", verdict_line) for row in verdicts)
    a_verdict = [one for one in lines() if re.search(" The server |All CPUs ", one)]
    prefix = with_any_numbers(verdict_line.partition(" The server ")[0])
    assert all(any(re.fullmatch(f"{prefix} {row}", one) for row in verdicts) for one in a_verdict)
    assert len(a_verdict) <= 1


def test_the_commands_of_the_russian_part_do_what_it_says(terminal):
    for command in ("influxd", "influx", "curl"):
        installed(command)
    assert README.splitlines()[3].endswith("[По-русски](#по-русски).")
    influxd, server, curl, users = (
        block for block in blocks() if block.heading == RUSSIAN and block.language in ("sh", "console")
    )
    text = README.partition(f"## {RUSSIAN}\n")[2]
    with_passwords, dsn = (
        "INFLUXDB_HTTP_AUTH_ENABLED=true influxd -config influxdb.conf",
        "export WEBSERVER_INFLUX_DSN=",
    )
    for words in ("use math_server", "SELECT * FROM requests", with_passwords, LOGIN, WRONG_TYPE):
        assert f"`{words}`" in text
    terminal.run(influxd)
    influx = terminal.started[-1]
    assert "doesn't exist" in interactive_influx(terminal, "use math_server")
    assert "`doesn't exist`" in text
    terminal.run(server)
    terminal.run(curl)
    wrong_type = "curl -s -o - -w ' %{http_code}' -d '{}' http://localhost:8008"
    assert terminal.printed(wrong_type) == f"{WRONG_TYPE} 400"
    terminal.ctrl_c()
    table = normal(interactive_influx(terminal, "use math_server", "SELECT * FROM requests"))
    assert re.search(r"TIME +GETs_per_minute +3\b", table)

    terminal.run(users)
    influx.stop()
    terminal.start(with_passwords)
    (command,) = re.findall(f"`({dsn}[^`]+)`", text)
    terminal.start(f"{command.replace('пароль', 'math_server1')} && {SERVER}")
    terminal.get()
    terminal.ctrl_c()
    shown = terminal.printed(f"influx {LOGIN} -database math_server -execute 'SELECT * FROM requests'")
    assert [line.split()[-1] for line in shown.splitlines()[3:]] == ["3", "1"]


def interactive_influx(terminal: Terminal, *statements: str) -> str:
    """What `influx` prints in a terminal, where these statements are typed into it."""
    master, slave = os.openpty()
    environment = {**terminal.environment, "TERM": "dumb"}
    command = [installed("influx"), "-host", "127.0.0.1", "-port", str(terminal.ports["8086"])]
    with subprocess.Popen(command, stdin=slave, stdout=subprocess.PIPE, env=environment, text=True) as process:
        for statement in (*statements, "exit"):
            os.write(master, f"{statement}\n".encode())
        printed = process.communicate(timeout=PATIENCE_S)[0]
    os.close(master)
    os.close(slave)
    return printed


def test_the_lines_for_powershell_say_what_those_for_a_posix_shell_say():
    """As far as that can be told without PowerShell."""
    shell = [command for block in blocks() if block.language in ("sh", "console") for command, _ in block.commands()]
    run, influxdb, ask = (block.lines for block in blocks_under("On Windows", "powershell"))
    (run,) = run
    archive, _, _, influxd = influxdb
    get, post, influx, load_py, test = ask

    def as_posix(line: str) -> str:
        line = line.replace("; ", " && ").replace(".venv\\Scripts\\", ".venv/bin/")
        line = re.sub(r"^\.\\influxdb-(\S+?)-1\\(\w+)\.exe", r"\2", line)
        return re.sub(r"^py(?= )", "python3", line)

    for line in (run, influxd, influx):
        assert as_posix(line) in shell, line
    assert as_posix(load_py).replace(".venv/bin/python", "python3") in shell
    assert f"python3 -m venv .venv && {as_posix(test)}".removesuffix(" -m smoke") in shell
    version = re.search(r"influxdb-([0-9.]+)_", archive)[1]
    assert f"influxdb={version}\n" in (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    assert f".\\influxdb-{version}-1\\" in influxd
    (dsn,) = (re.match(r"WEBSERVER_INFLUX_DSN=(\S+) ", line)[1] for line in shell if line.startswith("WEBSERVER"))
    assert f"`$env:WEBSERVER_INFLUX_DSN = '{dsn}'`" in README
    curl = [shlex.split(line) for line in shell if line.startswith("curl")]
    assert " -Body @{a = 3; b = 3}" in get
    assert curl[0][1:6] == ["-G", "-d", "a=3", "-d", "b=3"]
    assert f" -Body '{curl[1][curl[1].index('-d') + 1]}'" in post
    assert " -Method Post -ContentType application/json " in post


def test_victoriametrics_takes_the_same_points(terminal):
    installed("victoria-metrics")
    installed("curl")
    (block,) = (block for block in blocks() if block.lines[0].startswith("victoria-metrics"))
    terminal.run(block)
    terminal.get()
    terminal.ctrl_c()
    series = 'requests_requests_number{request="GETs_per_minute"}'
    flush = "curl -s http://localhost:8428/internal/force_flush"  # or it takes 10 s until a new series is found
    export = f"{flush} && curl -s http://localhost:8428/api/v1/export -d 'match[]={series}'"
    wait_until(lambda: '"values":[1]' in terminal.printed(export), what="the point in VictoriaMetrics")
    in_a_minute = f"time={time.time() + 60:.0f}"  # an instant query leaves out the last 30 s
    for query in lines_under(OTHERS, "promql"):
        answer = terminal.printed(f"curl -s http://localhost:8428/api/v1/query -d {in_a_minute} -d 'query={query}'")
        assert [float(row["value"][1]) for row in json.loads(answer)["data"]["result"]] == [1]


def test_the_dsns_of_the_readme_are_read():
    """Those of its blocks and sentences, for what else takes the points than an InfluxDB 1.8 on this machine."""
    written = re.findall(r"(?<!\])(?:https\+)?influxdb://[^\s`']+", README)  # but for the form in the table of options
    found = {dsn: parse_dsn(dsn) for dsn in written}
    assert found["influxdb://any:TOKEN@host:8086/bucket"] == Destination("host", 8086, "any", "TOKEN", "bucket")
    assert found["influxdb://vminsert:8480/insert/0/influx/"] == Destination("vminsert", 8480, path="/insert/0/influx")
    assert found["influxdb://host:80/influxdb/math_server"] == Destination("host", 80, path="/influxdb")
    defaults = [dsn for dsn in found if "math_server:" in dsn]
    assert len(defaults) == 3  # as the table of options has it, without what may be left out, and in Russian
    assert all(found[dsn]._replace(password=webserver_influx.PASSWORD) == Destination() for dsn in defaults)
    assert Nginx.LOCATION.format(behind=8086) in README


def test_the_variables_of_the_readme_are_those_of_the_program(monkeypatch):
    options = README.partition("\n## Options\n")[2].partition("\n## ")[0]
    variables = dict(re.findall(r"`(WEBSERVER_INFLUX_[A-Z_]+)=([^`]+)`", options))
    for name, text in variables.items():
        monkeypatch.setenv(name, text)
    options = webserver_influx.parse_arguments([])
    assert options.access_log
    assert options.tags == {"host": "a", "rack": "b"}
    assert variables.keys() == {"WEBSERVER_INFLUX_ACCESS_LOG", "WEBSERVER_INFLUX_TAG"}


def test_several_servers_have_one_sum_and_one_each(server, influxd):
    influx = influxd()
    servers = [
        server("--interval", "0.2", "--influx", influx.dsn(), "--tag", f"host={name}") for name in ("web1", "web2")
    ]
    for web in (servers[0], *servers):
        web.get("/")
    wait_until(lambda: influx.total() == 3)
    in_all, of_each, _ = lines_under(OTHERS, "sql")
    assert [row["sum"] for row in influx.query(in_all)] == [3]
    assert {row["host"]: row["sum"] for row in influx.query(of_each)} == {"web1": 2, "web2": 1}


def policies(influx: Influxd) -> dict[str, tuple[str, bool]]:
    """The duration of each retention policy, and whether it is the default."""
    rows = influx.query("SHOW RETENTION POLICIES ON math_server")
    return {row["name"]: (row["duration"], row["default"]) for row in rows}


A_YEAR = "8784h0m0s"  # 366 days


def test_a_year_of_points_is_kept_and_those_that_are_there_stay_in_sight(server, influxd):
    *_, alter = lines_under(OTHERS, "sql")
    influx = influxd()
    influx.query("CREATE DATABASE math_server")
    assert influx.write(f"requests requests_number=1i {time.time_ns()}") == (204, "")
    influx.query(alter)
    assert policies(influx) == {"autogen": (A_YEAR, True)}
    server("--interval", "0.2", "--influx", influx.dsn()).get("/")
    wait_until(lambda: influx.total() == 2)
    two_years_ago = time.time_ns() - 2 * 366 * 86_400 * 10**9
    assert "points beyond retention policy" in influx.write(f"requests requests_number=1i {two_years_ago}")[1]


def test_the_test_command_is_the_one_that_ci_runs():
    install = "python3 -m venv .venv && .venv/bin/pip install -qr tests/requirements.txt"
    command = f"{install} && .venv/bin/python -m pytest -q"
    assert next(line for line in README.splitlines() if re.search("-m venv .*-m pytest", line)) == command


def test_the_influxdb_that_the_readme_builds_is_the_one_that_ci_tests_with():
    (version,) = re.findall(r"^influxdb=(\S+)$", (PROJECT / ".ci" / "run").read_text(), re.MULTILINE)
    package = "github.com/influxdata/influxdb/cmd"
    assert f"go install {package}/influxd@v{version} {package}/influx@v{version}\n" in README


def test_the_first_screen_holds_all_that_a_person_needs_to_begin():
    first_screen = "\n".join(README.splitlines()[:40])
    for needed in (
        "](#по-русски).\n",
        "\n    sudo apt-get update && sudo apt-get install python3-venv curl\n",
        "&& .venv/bin/python webserver_influx.py\n",
        "$ curl",
        "\nSum: 6.0",
        "Ctrl-C",
        "`math_server.db`",
        "-m pytest -q\n",
    ):
        assert needed in first_screen


def test_every_linked_file_is_there():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    made_by_the_benchmark = ".github/benchmark.svg"
    assert links
    assert [link for link in links if link != made_by_the_benchmark and not (PROJECT / link).exists()] == []


def test_every_linked_section_is_there():
    headings = re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    anchors = {
        re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings
    }  # as GitHub makes them
    links = re.findall(r"\]\(#([^)]+)\)", README)
    assert links
    assert [link for link in links if link not in anchors] == []


def test_the_options_table_names_the_options_of_help_and_their_defaults():
    help_text = run_program("--help").stdout.partition("\nexamples:")[0]
    defaults = {}
    for entry in re.split(r"\n  (?=-)", help_text)[1:]:
        option = re.search(r"--[a-z-]+(?: [A-Z=]+)?", entry)[0]
        match = re.search(r"\(default:\s([^)]*)\)", entry)
        defaults[option] = " ".join(match[1].split()) if match else None
    rows = {re.match(r"`(--[^`]+)`", cells[0])[1]: cells[2].strip("`") for cells in tables()["option"]}
    assert rows.keys() == defaults.keys() - {"--version", "--help"}
    assert webserver_influx.parse_dsn(rows.pop("--influx DSN")) == webserver_influx.Destination()
    assert rows.pop("--tag KEY=VALUE") == "none"
    assert {option: default or None for option, default in rows.items()} == {name: defaults[name] for name in rows}


def test_the_limits_are_those_of_the_program():
    program = webserver_influx
    for words in (
        f"a request line over {program.REQUEST_LINE_BYTES // 1024} KiB: 414",
        f"a method over {program.REQUEST_LINE_BYTES // 1024} KiB: 501",
        f"a head over {program.HEAD_BYTES // 1024} KiB or {program.FIELD_LINES} fields: 431",
        f"a body over {program.BODY_BYTES // 1024**2} MiB: 413",
        f"a head that takes over {program.HEAD_SECONDS:.0f} s: 408",
        f"a body that takes over {program.BODY_SECONDS:.0f} s: 408",
        f"under way {program.GRACE_SECONDS:.0f} s after Ctrl-C: 503",
        f"nested deeper than {program.JSON_NESTING}: 400",
        f"nothing happens for {program.IDLE_SECONDS:.0f} s",
        f"take its responses in {program.SEND_SECONDS:.0f} s",
        f"more than {program.FIELD_LINES} trailers: 431",
        f"a backlog of {program.OUTPUT_BYTES // 1024**2} MiB",
        "500 on Windows",
    ):
        assert words in " ".join(README.split())
    assert 1 / (1 + program.TURN_REST) == 0.2
    assert "a fifth of the time" in README


HOST = b"Host: x\r\n"
JSON_TYPE = b"Content-Type: application/json\r\n"
KEEP_ALIVE = b"Connection: keep-alive\r\n"
POST = b"POST / HTTP/1.1\r\n" + HOST

# For each fault in the table, by its first words, requests that have it. Those for which one has to wait are tested
# elsewhere.
BAD_INPUT = {
    "a malformed head, such as": [
        b"FOO\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"A: \0\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n c\r\n\r\n",
        b"GET / HTTP/1.1\n" + HOST + b"\r\n",
        b"GET / HTTP/1.0\nA: b\n\n",
        b"\r\n\r\nGET / HTTP/1.1\r\n" + HOST + b"\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + HOST * 2 + b"\r\n",
        b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
        b"GET / HTTP/1.0\r\n" + HOST * 2 + b"\r\n",
        b"GET / HTTP/1.0\r\n" + JSON_TYPE * 2 + b"\r\n",
        POST + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Content-Length: +1\r\n\r\n",
        POST + b"Content-Length: 1, 2\r\n\r\n",
        b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, gzip\r\n\r\n",
        POST + b"Transfer-Encoding: chunked, chunked\r\n\r\n",
    ],
    "a head that takes over": [],
    "a request line over": [b"GET /" + b"a" * 8192 + b" HTTP/1.1\r\n" + HOST + b"\r\n"],
    "a head over": [
        b"GET / HTTP/1.1\r\n" + HOST + b"A: b\r\n" * 100 + b"\r\n",
        b"GET / HTTP/1.1\r\n" + HOST + b"A: " + b"b" * 65536 + b"\r\n\r\n",
    ],
    "a transfer coding before": [POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n"],
    "a method over": [b"X" * 9000 + b" / HTTP/1.1\r\n" + HOST + b"\r\n", b"X" * 9000],
    "HTTP other than": [b"GET / HTTP/2.0\r\n" + HOST + b"\r\n"],
    "malformed chunks or a cut-off body": [
        POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;a=\r\nx\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\nA : b\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 1024,
        POST + b"Transfer-Encoding: chunked\r\n\r\n" + (b"1;" + b"a" * 1000 + b"\r\nx\r\n") * 20,
    ],
    "a body that takes over": [],
    "a body over": [
        b"POST / HTTP/1.0\r\nContent-Length: 1048577\r\n\r\n",
        POST + b"Content-Length: 1048577\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n100001\r\n",
    ],
    "more than 100 trailers": [POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"A: b\r\n" * 101],
    "a request under way": [],
    "in HTTP/1.1, an expectation": [POST + b"Content-Length: 1\r\nExpect: tea\r\n\r\n", POST + b"Expect: tea\r\n\r\n"],
    "a `POST` of another type": [
        POST + b"Content-Length: 1\r\n\r\n1",
        POST + b"Content-Type: application/json, text/plain\r\nContent-Length: 1\r\n\r\n1",
        b"POST / HTTP/1.0\r\n" + KEEP_ALIVE + JSON_TYPE + b"\r\n",
        POST + JSON_TYPE + b"\r\n",
        POST + JSON_TYPE + b"Content-Length: 1\r\n\r\n\xff",
        POST + JSON_TYPE + b"Content-Length: 3\r\n\r\nNaN",
        POST + JSON_TYPE + b"Content-Length: 202\r\n\r\n" + b"[" * 101 + b"]" * 101,
        POST + JSON_TYPE + b"Content-Length: 2\r\n\r\n[]",
    ],
    "a registered method": [b"PUT / HTTP/1.1\r\n" + HOST + b"\r\n", b"PUT / HTTP/1.0\r\n" + KEEP_ALIVE + b"\r\n"],
    "a `POST` with a coding (`gzip`)": [
        POST + JSON_TYPE + b"Content-Encoding: gzip\r\nContent-Length: 1\r\n\r\n1",
        POST + JSON_TYPE + b"Content-Encoding: identity, br\r\n\r\n",
    ],
    "an unregistered method": [b"get / HTTP/1.1\r\n" + HOST + b"\r\n", b"BREW / HTTP/1.1\r\n" + HOST + b"\r\n"],
}


def test_bad_input_is_answered_and_counted_as_the_table_says(server):
    web = server()

    faults = [
        (*fault.rpartition(": ")[::2], then, is_counted)
        for cell, then, is_counted in tables()["bad input: status"]
        for fault in cell.split("; ")
    ]
    assert len(faults) == len(BAD_INPUT)
    for (fault, status, then, is_counted), (start, requests) in zip(faults, BAD_INPUT.items()):
        assert fault.startswith(start)
        for request in requests:
            before = counted(web.state)
            closes = then == "close" or then == "close if there is a body" and b"Content-Length" in request
            # Where the connection goes on, a second request on it is answered, and counted.
            follower = b"" if closes else b"GET / HTTP/1.1\r\n" + HOST + b"Connection: close\r\n\r\n"
            reply = web.raw(request + follower, half_close=not closes)
            assert reply.startswith(b"HTTP/1.1 %s " % status.encode()), request
            assert (b"\r\nConnection: close\r\n" in reply.partition(b"\r\n\r\n")[0] + b"\r\n") == closes, request
            assert reply.endswith(b"Sum: 0") != closes, request
            assert counted(web.state) - before == (is_counted == "yes") + bool(follower), request


def test_only_the_log_lines_of_the_program_are_explained():
    """Each piece of a line in the table, between what stands for anything, is in the program's text."""
    program = PROGRAM.read_text(encoding="utf-8")
    cells = [row[0] for name in ("log line", "строка журнала") for row in tables()[name]]
    assert len(cells) >= 12
    of_others = f"error: |{re.escape(webserver_influx.STATE_FILE)}|Address already in use"
    for line in re.findall("`(.+?)`", " ".join(cells)):
        for piece in re.split(rf"…|{of_others}|\bN\b|\b[0-9]+\b", line):
            assert piece.strip(" :;") in program, line


def test_a_body_that_ends_too_early_is_refused_and_counted_a_head_is_refused_only(server):
    web = server()
    for cut_off, number in [(POST[:-3], 0), (POST, 0), (POST + b"Content-Length: 9\r\n\r\n1", 1)]:
        assert web.raw(cut_off, half_close=True).startswith(b"HTTP/1.1 400 ")
        assert counted(web.state) == number


def json_post(body: bytes, fields: bytes = b"", media_type: bytes = JSON_TYPE) -> bytes:
    return POST + media_type + fields + b"Content-Length: %d\r\n\r\n" % len(body) + body


def get(query: bytes) -> bytes:
    return b"GET /?" + query + b" HTTP/1.1\r\n" + HOST + b"\r\n"


# For each row of the other table, requests that it speaks of, and what they are answered.
UNUSUAL_INPUT = {
    "`1_000`": {
        get(b"a=1_000&b=%203%20&c=1e3"): b"Sum: 2003.0",
        json_post(b'{"a": "1_000", "b": " 3 ", "c": 1e3}'): b"Sum: 2003.0",
        get(b"a=1,000&b=0x10"): b"Sum: 0",
    },
    "`+` in a query": {
        get(b"a=1+2&b=1e+2"): b"Sum: 0",
        get(b"a=+1&b=%2B1&c=1e%2B2"): b"Sum: 102.0",
        json_post(b'{"a": 1e+2, "b": "+1"}'): b"Sum: 101.0",
    },
    "bytes from 0x80 up": {
        get("имя=3&b=4".encode()): b"Sum: 7.0",
        get(b"a=\xff3&b=4"): b"Sum: 4.0",
        get(b"a=%FF3&b=4"): b"Sum: 4.0",
    },
    "a sum past": {get(b"a=1e308&b=1e308"): b"Sum: inf", get(b"a=-1e308&b=-1e308"): b"Sum: -inf"},
    "a byte order mark": {
        json_post(b'\xef\xbb\xbf{"a": 3}'): b"Sum: 3.0",
        json_post(b'{"a": 3}', media_type=JSON_TYPE[:-2] + b"; charset=utf-16; a=b\r\n"): b"Sum: 3.0",
    },
    "a body with another method": {
        b"GET /?a=3 HTTP/1.1\r\n" + HOST + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\nx\xff": b"Sum: 3.0",
        b"GET /?a=3 HTTP/1.1\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n": b"Sum: 3.0",
    },
    "extensions of chunks": {
        POST + JSON_TYPE + b"Transfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nHost: y\r\n\r\n": b"Sum: 0",
        POST + JSON_TYPE + b"Content-Length: 2, 2\r\n\r\n{}": b"Sum: 0",
        json_post(b"{}", b"Content-Length: 2\r\n"): b"Sum: 0",
        b"\r\n" + get(b"a=3"): b"Sum: 3.0",
    },
    "HTTP/1.0 with an `Expect` or no `Host`": {
        b"GET /?a=3 HTTP/1.0\r\n" + KEEP_ALIVE + b"\r\n": b"Sum: 3.0",
        b"GET /?a=3 HTTP/1.0\r\n" + KEEP_ALIVE + b"Expect: tea\r\n\r\n": b"Sum: 3.0",
    },
}


def test_unusual_input_is_answered_as_the_other_table_says(server):
    web = server()
    rows = tables()["unusual input"]
    assert len(rows) == len(UNUSUAL_INPUT)
    for (condition, _), (start, requests) in zip(rows, UNUSUAL_INPUT.items()):
        assert condition.startswith(start)
        for request, text in requests.items():
            last = b"GET /last HTTP/1.0\r\n\r\n"
            first, second = re.findall(rb"\r\n\r\n(Sum: [-.a-z0-9]+?)(?=HTTP/|$)", web.raw(request + last))
            assert (first, second) == (text, b"Sum: 0"), request


def test_what_a_person_types_in_any_script_is_added_up(server):
    url = server().url
    (command,) = re.findall(r"`(curl '[^`]+)`", README)
    printed = subprocess.run(
        [*shlex.split(command.replace("localhost:8008", url.removeprefix("http://"))), "-s"],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE_S,
    ).stdout
    assert f"`{command}` is `{printed}`" in README


UNIT = PROJECT / ".systemd" / "webserver_influx.service"


def unit_text() -> str:
    return UNIT.read_text(encoding="utf-8")


def test_the_unit_fits_the_folders_of_the_readme_and_the_limits_of_the_program():
    unit = configparser.ConfigParser(interpolation=None, strict=False)  # a list takes several lines
    unit.optionxform = str
    unit.read_string(unit_text())
    service = unit["Service"]
    assert service["Restart"] == "on-failure"
    assert service["RestartPreventExitStatus"] == str(run_program("--no-such-option").returncode)
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"
    assert int(service["LimitNOFILE"]) > 50_000
    assert service["LogRateLimitIntervalSec"] == "0"  # or journald drops lines of a busy access log
    program, script = service["ExecStart"].split()
    assert program.endswith("/.venv/bin/python")
    assert Path(script).name == "webserver_influx.py"
    folder = script.rpartition("/")[0]
    assert f"\n    sudo cp -rT . {folder} && cd {folder}\n" in README
    assert f"\n    sudo cp {UNIT.relative_to(PROJECT)} /etc/systemd/system/\n" in README
    assert f"`{service['EnvironmentFile'].removeprefix('-')}`" in README


def systemd_analyze(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess:
    """What systemd-analyze says of the unit."""
    path = tmp_path / "webserver_influx.service"
    path.write_text(re.sub(r"(?<=ExecStart=)\S+", sys.executable, unit_text()), encoding="utf-8")
    return subprocess.run(
        [installed("systemd-analyze"), *arguments, str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )


def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path):
    assert "webserver_influx.service" not in systemd_analyze(tmp_path, "verify", "--man=no").stderr


def test_systemd_calls_the_exposure_of_the_unit_ok(tmp_path):
    rated = systemd_analyze(tmp_path, "security", "--no-pager", "--offline=true", "--threshold=20")  # 2.0 of 10
    if "unrecognized option" in rated.stderr:
        pytest.skip("systemd-analyze of this machine is older than systemd 250: it rates running services only")
    assert rated.returncode == 0, rated.stdout


def test_the_password_that_the_readme_gives_is_the_one_that_the_tests_use():
    assert f"math_server:{Influxd.USER[1]}@localhost" in README
