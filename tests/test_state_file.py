"""The state file and the disk below it, as the real program meets them: missing, odd, in use, locked, full."""

from __future__ import annotations

import contextlib
import os
import re
import sqlite3
import subprocess
from pathlib import Path

import pytest
from books import counted, waiting
from daemons import run_program, run_python, wait_until
from needs import installed, linux, posix
from refusals import failure, failure_of
from states import ODD_STATES, make_state, opened


@pytest.mark.smoke
def test_a_state_file_in_a_folder_that_is_missing_is_one_line(tmp_path):
    state = tmp_path / "missing" / "state.db"
    assert failure("--state", str(state), "--port", "0") == f"{state}-count: No such file or directory"


def test_a_state_file_that_is_a_folder_is_one_line(tmp_path):
    line = failure("--state", str(tmp_path), "--port", "0")
    if os.name == "posix":
        assert line == f"{tmp_path}: Is a directory"
    assert not list(tmp_path.iterdir())


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write everything")
def test_a_folder_in_which_nothing_may_be_written_is_one_line(tmp_path):
    state = tmp_path / "state.db"
    tmp_path.chmod(0o500)
    assert failure("--state", str(state), "--port", "0") == f"{state}-count: Permission denied"


def test_a_file_that_is_no_state_file_is_one_line_and_left_as_it_is(state):
    Path(state).write_bytes(b"The novel I have been writing for ten years\n" * 100)
    assert "file is not a database" in failure("--state", state, "--port", "0")
    assert Path(state).read_bytes() == b"The novel I have been writing for ten years\n" * 100


def test_the_database_of_another_program_is_one_line_and_left_as_it_is(state):
    with contextlib.closing(sqlite3.connect(state)) as database:
        database.execute("CREATE TABLE novel (chapter TEXT)")
    before = Path(state).read_bytes()
    line = failure("--state", state, "--port", "0")
    assert line == f"{state} is the database of another program; give another --state"
    assert Path(state).read_bytes() == before


def test_a_state_that_another_server_uses_is_one_line(server, state):
    web = server("--state", state)
    line = failure("--state", state, "--port", "0")
    assert line == f"{state}-count is in use by another server; give this one a --state of its own"
    assert web.get().text == "Sum: 0"


@pytest.mark.parametrize("odd", [*ODD_STATES, "counter"])
def test_the_program_refuses_an_odd_file_in_one_line(tmp_path, odd):
    state, count_file = make_state(tmp_path)
    if odd == "counter":
        count_file.write_bytes(b"foreign")
    else:
        ODD_STATES[odd](state)
    before = state.read_bytes(), count_file.read_bytes()
    ended = run_program("--port", "0", "--state", str(state), env={"WEBSERVER_INFLUX_DSN": "influxdb://127.0.0.1:9"})
    assert str(tmp_path) in failure_of(ended)
    assert (state.read_bytes(), count_file.read_bytes()) == before


def test_after_kill_9_the_next_server_may_have_the_state_at_once(server):
    web = server("--interval", "30")
    web.get()
    web.kill()
    web.start()
    web.get()
    assert "a point now has the 1 request it had counted" in web.stderr_text()


# --- a disk that is full, a database that is locked


def limit_files(pid: int, size: int) -> None:
    """No file of this process may be written beyond so many bytes: to SQLite it is a full disk."""
    import resource

    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


@linux
def test_with_the_disk_full_requests_are_answered_and_counted_and_recording_resumes(server):
    web = server("--interval", "0.2")
    web.get("/?a=1")
    wait_until(lambda: waiting(web.state))
    limit_files(web.process.pid, 4000)
    wait_until(lambda: "No point can be kept" in web.stderr_text())
    before = len(waiting(web.state))
    for _ in range(50):
        assert web.get("/?a=1").text == "Sum: 1.0"
    assert counted(web.state) == 51
    assert len(waiting(web.state)) == before
    limit_files(web.process.pid, -1)
    wait_until(lambda: sum(number for _, number in waiting(web.state)) == 51)
    assert web.stderr_text().count("No point can be kept") == 1
    assert "(File too large in " in web.stderr_text()


@linux
@pytest.mark.parametrize(
    "size", [0, 5000, 17_000, 24_000], ids=["nothing fits", "a part fits", "the counter fits", "the tables fit"]
)
def test_a_disk_that_is_full_at_the_first_start_is_told_in_one_line_and_leaves_no_file(tmp_path, size):
    script = """
        import resource, runpy, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
        sys.argv[0] = "webserver_influx.py"
        runpy.run_path(sys.argv[0], run_name="__main__")
    """
    ended = run_python(script, size, "--port", 0, "--state", tmp_path / "state")
    assert re.fullmatch(f"{tmp_path}/state.*File too large.*", failure_of(ended))
    assert not list(tmp_path.iterdir())


@linux
def test_a_disk_that_is_full_at_a_later_start_is_told_in_one_line(tmp_path):
    state, _ = make_state(tmp_path)
    script = """
        import resource, runpy, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        sys.argv[0] = "webserver_influx.py"
        runpy.run_path(sys.argv[0], run_name="__main__")
    """
    line = failure_of(run_python(script, "--port", 0, "--state", state))
    assert re.fullmatch(rf"{state}: disk I/O error \(File too large in {tmp_path}\)", line)


def test_a_state_file_that_is_locked_at_the_start_is_told_in_one_line(tmp_path):
    state, _ = make_state(tmp_path)
    script = """
        import functools, sqlite3, sys, webserver_influx
        sqlite3.connect = functools.partial(sqlite3.connect, timeout=0.1)
        sys.exit(webserver_influx.main(sys.argv[1:]))
    """
    with contextlib.closing(sqlite3.connect(state, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert str(state) in failure_of(run_python(script, "--port", 0, "--state", state))


# --- a file system that copies on write, which has to find a new block for each page that a memory map changes


@pytest.fixture
def btrfs(tmp_path):
    """A small btrfs, where there may be one; with room of its own for metadata, as large ones have."""
    mkfs = installed("mkfs.btrfs")
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    image, folder = tmp_path / "image", tmp_path / "btrfs"
    with image.open("wb") as file:
        file.truncate(200 * 1024**2)
    folder.mkdir()
    subprocess.run([mkfs, "-q", image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, folder], capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"this system mounts no btrfs: {mounted.stderr}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all space that is left for data, not that for metadata."""
    ballast = folder / "ballast"
    for size in (1024**2, 4096):
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
            while file.write(bytes(size)):
                pass
    subprocess.run(["sync", "-f", folder], check=True)
    return ballast


def test_a_full_btrfs_does_not_end_a_server_and_nothing_is_lost(btrfs, server):
    web = server("--state", str(btrfs / "state.db"), "--interval", "0.3")
    web.get()
    ballast = fill(btrfs)
    for _ in range(5):
        assert web.get("/?a=1").text == "Sum: 1.0"
        os.sync()  # after which the next request has to be written to the disk anew
    assert counted(web.state) == 6
    wait_until(lambda: "Less than 64 MiB are free for " in web.stderr_text())
    ballast.unlink()
    wait_until(lambda: sum(number for _, number in waiting(web.state)) == 6)
    assert web.stop() == 0
    assert web.stderr_text().count("Less than 64 MiB") == 1
    assert "copied on write" not in web.stderr_text()


def test_a_counter_file_that_is_copied_on_write_is_told_at_the_start(btrfs, server):
    state, count_file = make_state(btrfs)
    copy = count_file.with_name("copy")
    copy.write_bytes(count_file.read_bytes())
    copy.replace(count_file)
    web = server("--state", str(state))
    assert web.stop() == 0
    warning = f" WARNING {count_file} is copied on write; if its btrfs is full, the server dies (README, Limitations)"
    assert sum(line.endswith(warning) for line in web.log()) == 1


@linux
def test_a_counter_file_that_was_copied_without_its_zeros_gets_its_blocks_at_the_start(tmp_path):
    """Or the first request of a later worker would need one of a disk that may be full, which is SIGBUS."""
    state, count_file = make_state(tmp_path)
    content = count_file.read_bytes()
    with count_file.open("wb") as file:
        file.write(content[:4096])
        file.truncate(len(content))
    if count_file.stat().st_blocks * 512 >= len(content):
        pytest.skip("the file system of the temporary folder keeps no holes")
    with opened(state, count_file):
        assert count_file.stat().st_blocks * 512 >= len(content)
        assert count_file.read_bytes() == content


# --- files that somebody touches while the server runs


def moved_away(path: Path) -> None:
    path.rename(path.with_name("moved"))


def replaced(path: Path) -> None:
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    copy.replace(path)


@posix
@pytest.mark.parametrize("change", [Path.unlink, moved_away, replaced])
@pytest.mark.parametrize("touched", ["", "-wal", "-count"])
def test_a_file_that_is_removed_moved_or_replaced_is_told_in_one_line_and_no_count_is_lost(
    server, influxd, change, touched
):
    influx = influxd()
    web = server("--interval", "0.2", "--influx", influx.dsn())
    web.get()
    path = web.state.with_name(web.state.name + touched)
    change(path)
    wait_until(lambda: "was removed, moved or replaced" in web.stderr_text())
    web.get()
    points = len(influx.points())
    wait_until(lambda: influx.total() == 2 and len(influx.points()) > points + 2)
    assert web.stop() == 0
    assert web.log()[-1].endswith("; delivered to InfluxDB")
    (warning,) = (line for line in web.log() if " WARNING " in line)
    assert f"{path.name} was removed, moved or replaced; " in warning


@posix
def test_points_that_wait_in_a_file_that_was_removed_are_told_at_the_end(server):
    web = server()
    web.get()
    web.state.unlink()
    assert web.stop() == 0
    assert re.search(r" WARNING 1 request in .*; points waiting in the file that was math_server.db: 1$", web.log()[-1])


@posix
def test_a_counter_file_that_an_older_one_is_written_over_makes_no_point_of_a_negative_number(server):
    web = server("--interval", "0.2")
    count_file = web.state.with_name(web.state.name + "-count")
    backup = count_file.read_bytes()
    web.get()
    wait_until(lambda: sum(number for _, number in waiting(web.state)) == 1)
    with count_file.open("r+b") as file:
        file.write(backup)
    wait_until(lambda: "it was overwritten, and counts less than its points" in web.stderr_text())
    assert all(number >= 0 for _, number in waiting(web.state))
    web.get()
    web.get()
    assert web.stop() == 0


# --- a start that is refused leaves no new file


def test_a_start_that_is_refused_leaves_no_new_file(tmp_path):
    state = tmp_path / "state"
    (tmp_path / "state-count").write_bytes(b"foreign")
    assert failure("--state", str(state), "--port", "0").startswith(f"{state}-count is no counter file")
    assert [path.name for path in tmp_path.iterdir()] == ["state-count"]


def test_a_start_that_fails_when_the_files_are_made_leaves_none(tmp_path):
    script = """
        import sys, webserver_influx
        def start(self):
            raise webserver_influx.StartError("no thread can be started")
        webserver_influx.SumServer.start = start
        sys.exit(webserver_influx.main(sys.argv[1:]))
    """
    ended = run_python(script, "--port", 0, "--state", tmp_path / "state")
    assert failure_of(ended) == "no thread can be started"
    assert not list(tmp_path.iterdir())
