"""The state file and the disk below it, as the real program meets them: missing, odd, in use, locked, full."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

import pytest
from books import counted, waiting
from daemons import run_program, run_python, wait_until
from needs import linux, posix
from refusals import failure, failure_of
from states import ODD_STATES, make_state


@pytest.mark.smoke
def test_a_state_file_in_a_folder_that_is_missing_is_one_line(tmp_path):
    line = failure("--state", str(tmp_path / "missing" / "state.db"), "--port", "0")
    assert "missing" in line
    assert line.endswith("; give another --state")


def test_a_state_file_that_is_a_folder_is_one_line(tmp_path):
    assert failure("--state", str(tmp_path), "--port", "0").startswith(str(tmp_path))


@posix
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write everything")
def test_a_folder_in_which_nothing_may_be_written_is_one_line(tmp_path):
    tmp_path.chmod(0o500)
    assert failure("--state", str(tmp_path / "state.db"), "--port", "0").endswith("; give another --state")


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
    wait_until(lambda: "cannot be used" in web.stderr_text())
    before = len(waiting(web.state))
    for _ in range(50):
        assert web.get("/?a=1").text == "Sum: 1.0"
    assert counted(web.state) == 51
    assert len(waiting(web.state)) == before
    limit_files(web.process.pid, -1)
    wait_until(lambda: sum(number for _, number in waiting(web.state)) == 51)
    assert web.stderr_text().count("cannot be used") == 1


@linux
@pytest.mark.parametrize("size", [0, 5000], ids=["nothing fits", "a part fits"])
def test_a_disk_that_is_full_at_the_first_start_is_told_in_one_line(tmp_path, size):
    script = """
        import resource, runpy, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
        sys.argv[0] = "webserver_influx.py"
        runpy.run_path(sys.argv[0], run_name="__main__")
    """
    ended = run_python(script, size, "--port", 0, "--state", tmp_path / "state")
    assert str(tmp_path) in failure_of(ended)


@linux
def test_a_disk_that_is_full_at_a_later_start_is_told_in_one_line(tmp_path):
    state, _ = make_state(tmp_path)
    script = """
        import resource, runpy, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        sys.argv[0] = "webserver_influx.py"
        runpy.run_path(sys.argv[0], run_name="__main__")
    """
    assert str(state) in failure_of(run_python(script, "--port", 0, "--state", state))


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
