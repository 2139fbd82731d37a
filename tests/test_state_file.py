"""The state file and the disk below it, as the real program meets them: missing, odd, in use, locked, full."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from books import counted, waiting
from daemons import run_program, run_python, wait_until
from messages import exchange, message
from needs import installed, linux, posix, small_disk
from refusals import failure, failure_of
from states import ODD_STATES, make_state, opened


@pytest.mark.smoke
def test_a_state_file_in_a_folder_that_is_missing_is_one_line(tmp_path):
    state = tmp_path / "missing" / "state.db"
    reason = f"No such file or directory in {state.parent}"
    assert failure("--state", str(state), "--port", "0") == f"cannot write the state file {state}: {reason}"


def test_a_state_file_that_is_a_folder_is_one_line(tmp_path):
    line = failure("--state", str(tmp_path), "--port", "0")
    if os.name == "posix":
        assert line == f"{tmp_path}: Is a directory"
    assert not list(tmp_path.iterdir())


@linux
def test_a_folder_in_which_nothing_can_be_written_is_one_line():
    """Not even by root."""
    reason = failure("--state", "/proc/state.db", "--port", "0")
    assert re.fullmatch("cannot write the state file /proc/state.db: (?!None).+ in /proc", reason)


def test_a_file_that_is_no_state_file_is_one_line_and_left_as_it_is(state):
    Path(state).write_bytes(b"The novel I have been writing for ten years\n" * 100)
    assert "file is not a database" in failure("--state", state, "--port", "0")
    assert Path(state).read_bytes() == b"The novel I have been writing for ten years\n" * 100


def test_the_database_of_another_program_is_one_line_and_left_as_it_is(state):
    with contextlib.closing(sqlite3.connect(state)) as database:
        database.execute("CREATE TABLE novel (chapter TEXT)")
    before = Path(state).read_bytes()
    line = failure("--state", state, "--port", "0")
    assert line == f"{state} is another program's database; use a different --state"
    assert Path(state).read_bytes() == before


def test_a_state_that_another_server_uses_is_one_line(server, state):
    web = server("--state", state)
    line = failure("--state", state, "--port", "0")
    assert line == f"{state}-count is in use by another server; use a different --state"
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
    assert "The last run ended before it could record 1 request; recorded now" in web.stderr_text()


# --- a disk that is full, a database that is locked


def limit_files(pid: int, size: int) -> None:
    """No file of this process may be written beyond so many bytes: to SQLite it is a full disk."""
    import resource

    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


@linux
@pytest.mark.unmeasured
def test_with_the_disk_full_requests_are_answered_and_counted_and_recording_resumes(server):
    web = server("--interval", "0.2")
    web.get("/?a=1")
    wait_until(lambda: waiting(web.state))
    limit_files(web.process.pid, 4000)
    wait_until(lambda: "No point can be recorded" in web.stderr_text())
    before = len(waiting(web.state))
    for _ in range(50):
        assert web.get("/?a=1").text == "Sum: 1.0"
    assert counted(web.state) == 51
    assert len(waiting(web.state)) == before
    limit_files(web.process.pid, -1)
    wait_until(lambda: sum(number for _, number in waiting(web.state)) == 51)
    wait_until(lambda: "Points are recorded again" in web.stderr_text())
    assert web.stderr_text().count("No point can be recorded") == 1
    assert "(File too large in " in web.stderr_text()


@linux
@pytest.mark.unmeasured
def test_what_could_not_be_recorded_at_an_orderly_end_is_in_a_point_of_the_next_run(server):
    """No word of a kill, and none of a file that may be on a disk that takes nothing more."""
    web = server("--interval", "60")
    limit_files(web.process.pid, 4000)
    for _ in range(3):
        web.get()
    assert web.stop() == 0
    assert "The last point could not be recorded in time\n" in web.stderr_text()
    assert " INFO 3 requests in " in web.stderr_text()
    web.start()
    assert " INFO The last run ended before it could record 3 requests; recorded now\n" in web.stderr_text()
    assert [number for _, number in waiting(web.state)] == [3]


@linux
@pytest.mark.unmeasured
@pytest.mark.parametrize("size", [0, 5000], ids=["nothing fits", "a part fits"])
def test_a_disk_that_is_full_at_the_first_start_is_told_in_one_line_and_the_next_start_is_a_first_one(
    server, tmp_path, size
):
    script = """
        import resource, runpy, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
        sys.argv[0] = "webserver_influx.py"
        runpy.run_path(sys.argv[0], run_name="__main__")
    """
    ended = run_python(script, size, "--port", 0, "--state", tmp_path / "state")
    assert re.fullmatch(f"{tmp_path}/state.*File too large.*", failure_of(ended))
    web = server("--state", str(tmp_path / "state"))
    assert web.get().text == "Sum: 0"
    assert web.stop() == 0
    assert " ended before " not in web.stderr_text()
    assert [number for _, number in waiting(tmp_path / "state")] == [1]


@pytest.mark.parametrize("size", ["16k", "20k"], ids=["the counter fits", "a part of the tables fits"])
def test_a_disk_on_which_the_tables_do_not_fit_is_told_in_one_line_and_the_next_start_is_a_first_one(
    server, tmp_path, size
):
    folder = tmp_path / "disk"
    with small_disk(folder, size):
        line = failure("--port", "0", "--state", str(folder / "state"))
        assert re.fullmatch(rf"{folder}/state: .* \(No space left on device in {folder}\)", line)
        subprocess.run(["mount", "-o", "remount,size=1m", str(folder)], check=True)
        web = server("--state", str(folder / "state"))
        assert web.get().text == "Sum: 0"
        assert web.stop() == 0
        assert [number for _, number in waiting(folder / "state")] == [1]


@linux
@pytest.mark.unmeasured
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


@linux
def test_no_answer_waits_for_a_slow_disk(server):
    """To write the counter takes 1.5 s (SQLite uses fdatasync). The point is late; nobody else is."""
    strace = [installed("strace"), "-D", "-f", "--seccomp-bpf", "-o", "/dev/null", "-e", "trace=fsync,msync"]
    slow = [*strace, "-e", "inject=fsync,msync:delay_enter=1500000"]
    if subprocess.run([*slow, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this strace delays no system call, or may not trace here")
    web = server("--interval", "1")
    assert web.stop() == 0
    web.command = [*slow, *web.command]
    web.start()
    slowest, answered = 0.0, 0
    with web.connect() as client:
        while not any(number for _, number in waiting(web.state)):
            begin = time.monotonic()
            exchange(client, message("GET /"), b"Sum: 0")
            slowest, answered = max(slowest, time.monotonic() - begin), answered + 1
            time.sleep(0.005)
    print(f"{answered} requests, the slowest in {slowest:.3f} s")
    assert slowest < 1.5
    assert web.stop() == 0


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


# --- a file system that is no local disk


LACKS = {
    "locks": (
        "os.lockf",
        "ENOLCK",
        "No locks available (this file system has none; keep the state on a local disk)",
    ),
    "memory maps": (
        "mmap.mmap",
        "ENODEV",
        "No such device (this file system cannot map files into memory; keep the state on a local disk)",
    ),
}


@linux
@pytest.mark.parametrize("lack", LACKS)
def test_a_file_system_that_lacks_what_the_counter_needs_is_told_as_such(tmp_path, lack):
    """And not as a file that another server uses, or as no such device."""
    function, name, told = LACKS[lack]
    script = f"""
        import errno, fcntl, mmap, os, sys, webserver_influx
        def lacking(*_):
            raise OSError(errno.{name}, os.strerror(errno.{name}))
        {function} = lacking
        sys.exit(webserver_influx.main(sys.argv[1:]))
    """
    ended = run_python(script, "--port", 0, "--state", tmp_path / "state")
    assert failure_of(ended) == f"{tmp_path}/state-count: {told}"


@posix
def test_a_file_system_without_locks_is_not_called_a_database_that_is_locked(tmp_path, monkeypatch):
    """By which SQLite means both."""

    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    state, count_file = make_state(tmp_path)
    with opened(state, count_file) as (_, outbox):
        monkeypatch.setattr("os.lockf", no_locks)
        explained = outbox.explain(sqlite3.OperationalError("database is locked"))
    assert explained.startswith(f"{state}: database is locked (No locks available (this file system has none; keep ")
    assert explained.endswith(f" in {tmp_path})")


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
    ballast.unlink()
    wait_until(lambda: sum(number for _, number in waiting(web.state)) == 6)
    assert web.stop() == 0


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
@pytest.mark.parametrize("change", [moved_away, replaced])
def test_a_state_file_that_is_moved_or_replaced_is_told_in_one_line_and_no_count_is_lost(server, influxd, change):
    influx = influxd()
    web = server("--interval", "0.2", "--influx", influx.dsn())
    web.get()
    wait_until(lambda: influx.total() == 1)
    opened_file = web.state.with_name("opened")
    os.link(web.state, opened_file)
    change(web.state)
    wait_until(lambda: "No point can be recorded: " in web.stderr_text())
    web.get()
    web.get()
    points = len(influx.points())
    opened_file.replace(web.state)
    wait_until(lambda: influx.total() == 3 and len(influx.points()) > points + 2)
    assert web.stop() == 0
    assert web.reports()[-1][2] == "delivered to InfluxDB"
    told = [line for line in web.log() if " WARNING " in line and "No point can be delivered" not in line]  # just then
    assert len(told) == 1
    assert f"No point can be recorded: {web.state.name}: it was removed, moved or replaced; " in told[0]
    assert " INFO Points are recorded again\n" in web.stderr_text()


@posix
@pytest.mark.parametrize("change", [Path.unlink, moved_away, replaced])
def test_a_counter_file_that_is_removed_moved_or_replaced_is_told_in_one_line_and_no_count_is_lost(
    server, influxd, change
):
    influx = influxd()
    web = server("--interval", "0.2", "--influx", influx.dsn())
    web.get()
    path = web.state.with_name(web.state.name + "-count")
    change(path)
    wait_until(lambda: "was removed, moved or replaced" in web.stderr_text())
    web.get()
    points = len(influx.points())
    wait_until(lambda: influx.total() == 2 and len(influx.points()) > points + 2)
    assert web.stop() == 0
    assert web.reports()[-1][2] == "delivered to InfluxDB"
    (warning,) = (line for line in web.log() if " WARNING " in line)
    assert f"{path.name} was removed, moved or replaced; " in warning


@posix
def test_a_state_file_that_was_removed_is_missed_at_the_next_start(server):
    web = server()
    web.get()
    web.state.unlink()
    assert web.stop() == 0
    assert "math_server.db: it was removed, moved or replaced; requests are still counted\n" in web.stderr_text()
    assert "The last point could not be recorded in time\n" in web.stderr_text()
    line = failure("--port", "0", "--state", str(web.state))
    assert line == f"{web.state} is missing or empty; restore it, or move {web.state}-count away"
    assert counted(web.state) == 1


@posix
def test_a_counter_file_that_an_older_one_is_written_over_makes_no_point_of_a_negative_number(server):
    web = server("--interval", "0.2")
    count_file = web.state.with_name(web.state.name + "-count")
    backup = count_file.read_bytes()
    web.get()
    wait_until(lambda: sum(number for _, number in waiting(web.state)) == 1)
    with count_file.open("r+b") as file:
        file.write(backup)
    wait_until(lambda: "it was overwritten: its count is below that reported" in web.stderr_text())
    assert all(number >= 0 for _, number in waiting(web.state))
    web.get()
    web.get()
    assert web.stop() == 0


# --- a start that is refused


def test_a_start_that_is_refused_changes_no_file_and_the_next_one_may_be_the_first(server, tmp_path):
    state, count_file = tmp_path / "state", tmp_path / "state-count"
    count_file.write_bytes(b"foreign")
    assert failure("--state", str(state), "--port", "0").startswith(f"{count_file} is not a counter file")
    assert count_file.read_bytes() == b"foreign"
    count_file.unlink()
    assert server("--state", str(state)).get().text == "Sum: 0"


def test_files_that_a_start_made_which_failed_are_those_of_the_next_one(server, tmp_path):
    script = """
        import sys, webserver_influx
        def start(self):
            raise webserver_influx.StartError("no thread can be started")
        webserver_influx.SumServer.start = start
        sys.exit(webserver_influx.main(sys.argv[1:]))
    """
    ended = run_python(script, "--port", 0, "--state", tmp_path / "state")
    assert failure_of(ended) == "no thread can be started"
    assert server("--state", str(tmp_path / "state")).get().text == "Sum: 0"
