"""Part II without InfluxDB: the counter, the outbox, the reporter's schedule, the DSN; full disks and odd files."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from time import time_ns

import pytest
from daemons import PATIENCE_S, PROJECT, clean_environment, run_program, wait_until

import webserver_influx
from webserver_influx import Counter, Destination, Outbox, Rejected, Reporter, StartError, Trouble, parse_dsn

SECOND = 1_000_000_000
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prlimit() is Linux's")
posix = pytest.mark.skipif(os.name != "posix", reason="Windows has no kill -9")


@pytest.fixture
def at_end():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def open_counter(tmp_path, at_end):
    """open_counter(path=tmp_path/"count") -> Counter, closed at the end."""
    return lambda path=tmp_path / "count": at_end.enter_context(contextlib.closing(Counter(str(path))))


@pytest.fixture
def counter(open_counter):
    return open_counter()


@pytest.fixture
def outbox(tmp_path, counter, at_end):
    return at_end.enter_context(contextlib.closing(Outbox(str(tmp_path / "state"), counter)))


def count(counter: Counter, number: int) -> None:
    for _ in range(number):
        counter.increment()


def refusal_of(make, *arguments) -> str:
    """Why it cannot be made: one line."""
    with pytest.raises(StartError) as info:
        make(*arguments)
    reason = str(info.value)
    assert reason
    assert "\n" not in reason
    return reason


def run_python(script: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


# --- the counter


@pytest.mark.smoke
def test_the_counter_file_is_laid_out_as_its_docstring_says(tmp_path, counter):
    count(counter, 7)
    content = (tmp_path / "count").read_bytes()
    assert len(content) == 16 * 1024
    assert content[:8] == b"requests"
    assert struct.unpack_from("=Q", content, 8) == (1,)
    assert content[16:32] == counter.identity
    assert struct.unpack_from("=Q", content, 64) == (7,)
    assert not content[32:64].strip(b"\0")
    assert not content[72:].strip(b"\0")


@pytest.mark.smoke
def test_each_counter_file_has_an_identity_of_its_own(tmp_path, open_counter):
    assert open_counter(tmp_path / "a").identity != open_counter(tmp_path / "b").identity


@pytest.mark.smoke
def test_the_counter_goes_on_where_it_ended(tmp_path):
    for total in (2, 4, 6):
        with contextlib.closing(Counter(str(tmp_path / "count"))) as counter:
            count(counter, 2)
            counter.flush()
            assert counter.total() == total


@posix
def test_the_total_is_that_of_all_workers(tmp_path, counter):
    count(counter, 1)
    script = """
        import sys, webserver_influx
        for worker in (2, 255):
            counter = webserver_influx.Counter(sys.argv[1], worker, header=False)
            for _ in range(10 * worker):
                counter.increment()
    """
    assert run_python(script, tmp_path / "count").returncode == 0
    assert counter.total() == 1 + 20 + 2550


@pytest.mark.smoke
def test_a_cell_holds_more_than_32_bits(tmp_path, counter):
    counter.cell[()] = 2**40
    counter.increment()
    assert counter.total() == 2**40 + 1
    assert struct.unpack_from("=Q", (tmp_path / "count").read_bytes(), 64) == (2**40 + 1,)


@pytest.mark.smoke
def test_eight_threads_count_exactly(counter, monkeypatch):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=count, args=(counter, 5000)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert counter.total() == 40_000


@posix
def test_a_count_outlives_kill_9(tmp_path, open_counter):
    script = """
        import os, signal, sys, webserver_influx
        counter = webserver_influx.Counter(sys.argv[1])
        for _ in range(1234):
            counter.increment()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    for total in (1234, 2468):
        assert run_python(script, tmp_path / "count").returncode == -signal.SIGKILL
        with contextlib.closing(Counter(str(tmp_path / "count"))) as counter:
            assert counter.total() == total


@posix
@pytest.mark.parametrize("worker", [None, 3])
def test_a_part_of_the_counter_that_another_process_has_is_refused(tmp_path, at_end, worker):
    path = str(tmp_path / "count")
    at_end.enter_context(contextlib.closing(Counter(path)))
    if worker:
        at_end.enter_context(contextlib.closing(Counter(path, worker, header=False)))
    script = """
        import sys, webserver_influx
        webserver_influx.Counter(sys.argv[1], int(sys.argv[2]) or 1, header=not int(sys.argv[2]))
    """
    refused = run_python(script, path, worker or 0)
    assert refused.returncode == 1
    assert "in use by another server" in refused.stderr.splitlines()[-1]


@posix
def test_what_is_locked_is_no_byte_that_anybody_reads(tmp_path, counter):
    """On Windows, a byte that one process has locked cannot be read by another."""
    script = """if True:
        import fcntl, sys
        with open(sys.argv[1], "r+b") as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, len(file.read()))
    """
    assert run_python(script, counter.path).returncode == 0


@posix
def test_a_cell_is_not_counted_in_before_the_worker_of_a_killed_program_let_go_of_it(tmp_path, open_counter):
    Counter(str(tmp_path / "count")).close()
    script = """if True:
        import sys, webserver_influx
        counter = webserver_influx.Counter(sys.argv[1], header=False)
        print("ready", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", script, tmp_path / "count"]
    with subprocess.Popen(command, cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as orphan:
        assert orphan.stdout.readline() == b"ready\n"
        opened = []
        opening = threading.Thread(target=lambda: opened.append(open_counter()))
        opening.start()
        opening.join(0.2)
        assert not opened
        orphan.stdin.close()
        opening.join()
    assert opened


def changed(content: bytes, offset: int, new: bytes) -> bytes:
    return content[:offset] + new + content[offset + len(new) :]


ODD_COUNTERS = {
    "foreign": lambda _: b"Dear diary, " * 2000,
    "short and foreign": lambda _: b"x",
    "truncated": lambda content: content[:4096],
    "cut in its header": lambda content: content[:20],
    "too long": lambda content: content + b"x",
    "of another version": lambda content: changed(content, 8, struct.pack("=Q", 2)),
    "of the other byte order": lambda content: changed(content, 8, struct.pack("=Q", 1)[::-1]),
}


@pytest.mark.smoke
@pytest.mark.parametrize("odd", ODD_COUNTERS)
def test_an_odd_counter_file_is_refused_and_left_as_it_is(tmp_path, odd):
    path = tmp_path / "count"
    Counter(str(path)).close()
    content = ODD_COUNTERS[odd](path.read_bytes())
    path.write_bytes(content)
    assert str(path) in refusal_of(Counter, str(path))
    assert path.read_bytes() == content


@pytest.mark.smoke
@pytest.mark.parametrize("content", [b"", bytes(100), bytes(16 * 1024)], ids=["empty", "short", "whole"])
def test_a_counter_whose_making_was_killed_is_made_again(tmp_path, open_counter, content):
    """It is all zeros until its header, the last thing written, is there; no request can have been counted."""
    (tmp_path / "count").write_bytes(content)
    count(open_counter(), 3)
    assert (tmp_path / "count").read_bytes()[:8] == b"requests"


@pytest.mark.smoke
def test_a_counter_in_memory_leaves_no_file(tmp_path, monkeypatch, at_end):
    monkeypatch.chdir(tmp_path)
    counter = at_end.enter_context(contextlib.closing(Counter(":memory:")))
    outbox = at_end.enter_context(contextlib.closing(Outbox(":memory:", counter)))
    count(counter, 3)
    counter.flush()
    assert outbox.record(5 * SECOND) == 3
    assert not list(tmp_path.iterdir())


# --- the outbox


@pytest.fixture
def since(outbox) -> int:
    """When the outbox began to count, ns."""
    return outbox.state()[2]


@pytest.mark.smoke
def test_a_point_holds_what_was_counted_since_the_one_before(counter, outbox, since):
    count(counter, 3)
    assert outbox.record(since + 1000) == 3
    assert outbox.record(since + 2000) == 0
    count(counter, 5)
    assert outbox.record(since + 3000) == 5
    assert outbox.oldest(10) == [(since + 1000, 3), (since + 2000, 0), (since + 3000, 5)]
    assert outbox.waiting() == 3


@pytest.mark.smoke
def test_anybody_sees_the_points_in_the_file_while_the_server_writes(tmp_path, counter, outbox, since):
    count(counter, 3)
    outbox.record(since + 1000)
    with contextlib.closing(sqlite3.connect(tmp_path / "state")) as reader:
        cursor = reader.execute("SELECT * FROM requests")
        assert [name for name, *_ in cursor.description] == ["time", "requests_number"]
        assert cursor.fetchall() == [(since + 1000, 3)]


@pytest.mark.smoke
def test_points_have_increasing_times_when_the_clock_steps_back(counter, outbox, since):
    for now in (since + 1000, since + 1000, since - 3600 * SECOND, 0, since + 1001, since + 5000):
        counter.increment()
        outbox.record(now)
    times = [time for time, _ in outbox.oldest(10)]
    assert times == sorted(set(times))
    assert len(times) == 6
    assert times[-1] == since + 5000


@pytest.mark.smoke
def test_times_increase_past_points_that_were_removed(outbox, since):
    outbox.record(since + 1000)
    outbox.remove(outbox.oldest(1))
    outbox.record(since)
    assert outbox.oldest(1) == [(since + 1001, 0)]


@pytest.mark.smoke
def test_only_the_points_named_are_removed(outbox, since):
    for step in range(1, 6):
        outbox.record(since + step)
    outbox.remove(outbox.oldest(2))
    assert outbox.oldest(2) == [(since + 3, 0), (since + 4, 0)]
    assert outbox.waiting() == 3


@pytest.mark.smoke
def test_a_point_set_aside_is_kept_with_the_reason(counter, outbox, since):
    count(counter, 4)
    outbox.record(since + 1)
    outbox.record(since + 2)
    outbox.set_aside(outbox.oldest(1), "field type conflict")
    assert outbox.oldest(10) == [(since + 2, 0)]
    assert outbox.database.execute("SELECT * FROM rejected").fetchall() == [(since + 1, 4, "field type conflict")]


@pytest.mark.smoke
def test_what_a_kill_left_becomes_a_point_at_the_end_of_its_interval(counter, outbox, since):
    count(counter, 6)
    assert outbox.recover(60 * SECOND, since + 3600 * SECOND) == 6
    count(counter, 2)
    outbox.record(since + 3660 * SECOND)
    assert outbox.oldest(10) == [(since + 60 * SECOND, 6), (since + 3660 * SECOND, 2)]


@pytest.mark.smoke
def test_what_a_kill_left_is_never_stamped_in_the_future(counter, outbox, since):
    count(counter, 6)
    outbox.recover(60 * SECOND, since + 10 * SECOND)
    assert outbox.oldest(10) == [(since + 10 * SECOND, 6)]


@pytest.mark.smoke
def test_a_clean_end_leaves_nothing_to_recover(counter, outbox, since):
    count(counter, 6)
    outbox.record(since + 1)
    assert outbox.recover(60 * SECOND, since + 100 * SECOND) == 0
    assert outbox.waiting() == 1


@pytest.mark.smoke
def test_a_second_kill_counts_its_interval_from_the_second_start(counter, outbox, since):
    outbox.recover(60 * SECOND, since + 3600 * SECOND)
    count(counter, 1)
    outbox.recover(60 * SECOND, since + 7200 * SECOND)
    assert outbox.oldest(10) == [(since + 3660 * SECOND, 1)]


@pytest.mark.smoke
def test_a_recovery_with_the_clock_set_back_keeps_times_increasing(counter, outbox, since):
    outbox.record(since + 5000)
    count(counter, 1)
    outbox.recover(60 * SECOND, since - SECOND)
    outbox.record(since - SECOND)
    times = [time for time, _ in outbox.oldest(10)]
    assert times == sorted(set(times))
    assert len(times) == 3


@contextlib.contextmanager
def opened(state: Path, count_file: Path):
    with contextlib.ExitStack() as stack:
        counter = stack.enter_context(contextlib.closing(Counter(str(count_file))))
        yield counter, stack.enter_context(contextlib.closing(Outbox(str(state), counter)))


def make_state(folder: Path, requests: int = 3) -> tuple[Path, Path]:
    """A state file and its counter, of a server that ended well."""
    folder.mkdir(exist_ok=True)
    state, count_file = folder / "state", folder / "state-count"
    with opened(state, count_file) as (counter, outbox):
        for _ in range(100):
            count(counter, requests)
            outbox.record(0)
    return state, count_file


def refuse(state: Path, count_file: Path) -> str:
    with contextlib.closing(Counter(str(count_file))) as counter:
        return refusal_of(Outbox, str(state), counter)


def execute(statement: str):
    """Changes a state file by SQL."""

    def change(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute(statement)

    return change


def overwrite_pages(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + os.urandom(len(content) - 4096))


ODD_STATES = {
    "foreign": lambda path: path.write_bytes(b"Dear diary, " * 2000),
    "short and foreign": lambda path: path.write_bytes(b"x"),
    "corrupt": overwrite_pages,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:4096]),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "of another version": execute("PRAGMA user_version = 2"),
    "of another program": execute("PRAGMA application_id = 1"),
    "without its one row": execute("DELETE FROM state"),
}


@pytest.mark.smoke
@pytest.mark.parametrize("odd", ODD_STATES)
def test_an_odd_state_file_is_refused_and_left_as_it_is(tmp_path, odd):
    state, count_file = make_state(tmp_path)
    ODD_STATES[odd](state)
    content, counted = state.read_bytes(), count_file.read_bytes()
    assert str(state) in refuse(state, count_file)
    assert state.read_bytes() == content
    assert count_file.read_bytes() == counted


@pytest.mark.smoke
@pytest.mark.parametrize("missing", ["state", "state-count"])
def test_one_file_without_the_other_is_refused(tmp_path, missing):
    state, count_file = make_state(tmp_path)
    (tmp_path / missing).unlink()
    other = state if missing == "state-count" else count_file
    content = other.read_bytes()
    assert f"{tmp_path / missing} is missing" in refuse(state, count_file)
    assert other.read_bytes() == content
    assert "restore" in refuse(state, count_file), "the second attempt must not pass either"


@pytest.mark.smoke
def test_two_files_that_do_not_belong_together_are_refused(tmp_path):
    state, _ = make_state(tmp_path / "a")
    _, count_file = make_state(tmp_path / "b")
    assert "do not belong together" in refuse(state, count_file)


@pytest.mark.smoke
def test_a_counter_that_is_older_than_the_state_is_refused(tmp_path):
    """A copy from a back-up: to go on with it would make points of negative numbers."""
    state, count_file = make_state(tmp_path)
    shutil.copy(count_file, tmp_path / "copy")
    with opened(state, count_file) as (counter, outbox):
        count(counter, 1)
        outbox.record(0)
    assert "do not belong together" in refuse(state, tmp_path / "copy")


@pytest.mark.parametrize("odd", [*ODD_STATES, "counter"])
def test_the_program_refuses_an_odd_file_in_one_line(tmp_path, odd):
    state, count_file = make_state(tmp_path)
    if odd == "counter":
        count_file.write_bytes(b"foreign")
    else:
        ODD_STATES[odd](state)
    content, counted = state.read_bytes(), count_file.read_bytes()
    ended = run_program("--port", "0", "--state", str(state), env={"WEBSERVER_INFLUX_DSN": "influxdb://127.0.0.1:9"})
    assert_one_line(ended, str(tmp_path))
    assert state.read_bytes() == content
    assert count_file.read_bytes() == counted


def assert_one_line(ended: subprocess.CompletedProcess, *words: str) -> None:
    assert ended.returncode == 1, ended.stderr
    assert ended.stdout == ""
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert ended.stderr.startswith("webserver_influx.py: error: ")
    for word in words:
        assert word in ended.stderr


def test_a_second_server_with_the_same_state_is_refused_in_one_line(server):
    web = server()
    assert_one_line(run_program("--port", "0", "--state", str(web.state)), "in use by another server")
    assert web.get("/?a=1").text == "Sum: 1.0"


def test_after_kill_9_the_next_server_may_have_the_state_at_once(server):
    web = server("--interval", "30")
    web.get()
    web.kill()
    web.start()
    web.get()
    assert "1 requests it had counted are now in a point" in web.stderr_text()


# --- a disk that is full, a database that is locked


def points_in(path: Path) -> list[tuple[int, int]]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return database.execute("SELECT * FROM requests ORDER BY time").fetchall()


def counted_in(path: Path) -> int:
    return sum(struct.unpack_from("=Q", path.read_bytes(), 64 * cell)[0] for cell in range(1, 256))


def limit_files(pid: int, size: int) -> None:
    """No file of this process may be written beyond so many bytes: to SQLite it is a full disk."""
    import resource

    hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, hard))


@linux
def test_with_the_disk_full_requests_are_answered_and_counted_and_recording_resumes(server):
    web = server("--interval", "0.2")
    web.get("/?a=1")
    wait_until(lambda: points_in(web.state))
    limit_files(web.process.pid, 4000)
    wait_until(lambda: "cannot be used" in web.stderr_text())
    before = len(points_in(web.state))
    for _ in range(50):
        assert web.get("/?a=1").text == "Sum: 1.0"
    assert counted_in(Path(f"{web.state}-count")) == 51
    assert len(points_in(web.state)) == before
    limit_files(web.process.pid, -1)
    wait_until(lambda: sum(number for _, number in points_in(web.state)) == 51)
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
    assert_one_line(ended, str(tmp_path))


@linux
def test_a_disk_that_is_full_at_a_later_start_is_told_in_one_line(tmp_path):
    state, _ = make_state(tmp_path)
    script = """
        import resource, runpy, sys
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        sys.argv[0] = "webserver_influx.py"
        runpy.run_path(sys.argv[0], run_name="__main__")
    """
    assert_one_line(run_python(script, "--port", 0, "--state", state), str(state))


def test_a_state_file_that_is_locked_at_the_start_is_told_in_one_line(tmp_path):
    state, _ = make_state(tmp_path)
    script = """
        import functools, sqlite3, sys, webserver_influx
        sqlite3.connect = functools.partial(sqlite3.connect, timeout=0.1)
        sys.exit(webserver_influx.main(sys.argv[1:]))
    """
    with contextlib.closing(sqlite3.connect(state, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert_one_line(run_python(script, "--port", 0, "--state", state), str(state))


# --- the order to stop


@posix
@pytest.mark.parametrize("moment", ["before it serves", "in a callback of the interpreter"])
def test_sigterm_at_an_odd_moment_ends_the_program_in_good_order(tmp_path, moment):
    """An exception that a signal handler raises in a callback, such as that of a weak reference, is lost."""
    script = """
        import os, signal, sys, weakref, webserver_influx

        class Thing:
            pass

        def announce(*arguments, announce=webserver_influx.announce):
            announce(*arguments)
            thing = Thing()
            if sys.argv[1] == "before it serves":
                os.kill(os.getpid(), signal.SIGTERM)
                return
            reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
            del thing

        webserver_influx.announce = announce
        sys.exit(webserver_influx.main(sys.argv[2:]))
    """
    options = ["--bind", "127.0.0.1", "--port", 0, "--state", tmp_path / "state", "--influx", "influxdb://127.0.0.1:9"]
    ended = run_python(script, moment, *options)
    assert "Exception ignored" not in ended.stderr
    assert ended.returncode == 0, ended.stderr


# --- the reporter


class TakesAll:
    """An InfluxDB that takes every point, until it is given trouble."""

    def __init__(self) -> None:
        self.points: list[tuple[int, int]] = []
        self.trouble = ""

    def connect(self) -> None:
        if self.trouble:
            raise Trouble(self.trouble)

    def write(self, points) -> None:
        self.points += points


@pytest.fixture
def influxdb() -> TakesAll:
    return TakesAll()


@pytest.fixture
def reporter(outbox, influxdb) -> Reporter:
    return Reporter(outbox, influxdb, 60)


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def a_round(reporter: Reporter) -> None:
    reporter.attempt(lambda: reporter.report(lambda: reporter.deliver(float("inf"))))


@pytest.mark.smoke
def test_trouble_is_logged_once_for_each_change(reporter, influxdb, caplog):
    caplog.set_level(logging.INFO)
    for trouble in ("gone", "gone", "gone", "locked", "locked", "", "", "gone", "gone"):
        influxdb.trouble = trouble
        a_round(reporter)
    said = [record.getMessage() for record in caplog.records if "requests in" not in record.getMessage()]
    well = "All is well again: InfluxDB takes points"
    assert [line.partition(".")[0] for line in said] == ["gone", "locked", well, "gone"]


@pytest.mark.smoke
def test_each_interval_has_one_line_that_says_how_many_and_where_they_are(counter, reporter, influxdb, caplog):
    caplog.set_level(logging.INFO)
    count(counter, 12)
    influxdb.trouble = "gone"
    a_round(reporter)
    influxdb.trouble = ""
    a_round(reporter)
    lines = [record.getMessage() for record in caplog.records if "requests in" in record.getMessage()]
    assert lines[0].startswith("12 requests in ")
    assert "per second" in lines[0]
    assert "points waiting" in lines[0]
    assert lines[1].startswith("0 requests in ")
    assert lines[1].endswith("delivered to InfluxDB")


@pytest.mark.smoke
def test_points_that_influxdb_rejected_are_not_said_to_be_delivered(counter, reporter, influxdb, caplog, monkeypatch):
    def write(points):
        raise Rejected("points beyond retention policy")

    caplog.set_level(logging.INFO)
    with monkeypatch.context() as rejecting:
        rejecting.setattr(influxdb, "write", write)
        a_round(reporter)
    a_round(reporter)
    fates = [record.getMessage().rpartition("; ")[2] for record in caplog.records if record.levelno == logging.INFO]
    assert fates == ["points that InfluxDB rejected: 1", "delivered to InfluxDB"]


@pytest.mark.smoke
def test_a_locked_database_is_one_log_line(tmp_path, counter, outbox, reporter, influxdb, caplog):
    outbox.database.execute("PRAGMA busy_timeout = 10")
    with contextlib.closing(sqlite3.connect(tmp_path / "state", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(3):
            count(counter, 4)
            a_round(reporter)
        other.execute("COMMIT")
    assert len(warnings_in(caplog)) == 1
    assert "database is locked" in warnings_in(caplog)[0]
    count(counter, 1)
    a_round(reporter)
    assert [number for _, number in influxdb.points] == [13]
    assert len(warnings_in(caplog)) == 1


@pytest.mark.smoke
def test_a_system_that_has_no_file_left_is_one_log_line_and_no_bug(reporter, influxdb, caplog, monkeypatch):
    def connect():
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(influxdb, "connect", connect)
    for _ in range(3):
        a_round(reporter)
    (line,) = warnings_in(caplog)
    assert "Too many open files" in line
    assert "bug" not in line


@pytest.mark.smoke
def test_a_bug_in_a_round_is_logged_once_and_the_next_round_goes_on(counter, reporter, influxdb, caplog, monkeypatch):
    monkeypatch.setattr(influxdb, "connect", lambda: 1 / 0)
    for _ in range(3):
        count(counter, 1)
        a_round(reporter)
    assert sum("division by zero" in line for line in warnings_in(caplog)) == 1
    monkeypatch.undo()
    a_round(reporter)
    assert sum(number for _, number in influxdb.points) == 3


@pytest.mark.smoke
def test_points_are_delivered_oldest_first_in_batches(outbox, since, reporter, influxdb, monkeypatch):
    batches = []
    monkeypatch.setattr(influxdb, "write", lambda points: batches.append(list(points)))
    for step in range(1, 2501):
        outbox.database.execute("INSERT INTO requests VALUES (?, 1)", (since + step,))
    reporter.deliver(float("inf"))
    assert [len(batch) for batch in batches] == [1000, 1000, 500]
    assert list(itertools.chain(*batches)) == [(since + step, 1) for step in range(1, 2501)]
    assert outbox.waiting() == 0


@pytest.mark.smoke
def test_only_the_points_at_fault_are_set_aside(outbox, since, reporter, influxdb, monkeypatch, caplog):
    taken = set()

    def write(points):
        bad = [point for point in points if (point[0] - since) % 97 == 0]
        taken.update(point for point in points if point not in bad)
        if bad:
            raise Rejected(f"partial write: bad points dropped={len(bad)}", len(bad))

    monkeypatch.setattr(influxdb, "write", write)
    for step in range(1, 1501):
        outbox.database.execute("INSERT INTO requests VALUES (?, 1)", (since + step,))
    reporter.deliver(float("inf"))
    rejected = outbox.database.execute("SELECT time FROM rejected").fetchall()
    assert sorted(time - since for (time,) in rejected) == list(range(97, 1501, 97))
    assert len(taken) == 1500 - len(rejected)
    assert outbox.waiting() == 0
    assert len(warnings_in(caplog)) == 1


class Clock:
    """A clock that moves only when somebody waits, and stands for the event that ends the reporter."""

    def __init__(self, rounds: int) -> None:
        self.now = 0.0
        self.rounds = rounds

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> bool:
        self.now += max(0.0, seconds)
        self.rounds -= 1
        return self.rounds < 0

    def set(self) -> None:
        pass


class SlowOutbox:
    """An outbox in which recording takes the seconds that it is given, one after the other."""

    path = "state"

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self.clock, self.seconds, self.recorded = clock, seconds, []

    def record(self, now: int) -> int:
        self.recorded.append(self.clock.now)
        self.clock.now += self.seconds.pop(0)
        return 1

    def oldest(self, limit: int) -> list:
        return []

    def waiting(self) -> int:
        return 0


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("seconds", "recorded"),
    [
        ([0, 0, 0, 0], [60, 120, 180, 240]),
        ([7, 7, 59, 7], [60, 120, 180, 240]),
        ([1, 130, 1, 1], [60, 120, 250, 300]),
        ([1, 60, 1, 1], [60, 120, 180, 240]),
        ([1000, 1, 1, 1], [60, 1060, 1080, 1140]),
    ],
    ids=["idle", "slow rounds", "two beats missed", "just on time", "many beats missed"],
)
def test_the_schedule_does_not_drift_and_beats_that_were_missed_are_skipped(monkeypatch, caplog, seconds, recorded):
    clock = Clock(rounds=4)
    monkeypatch.setattr(webserver_influx, "monotonic", clock.monotonic)
    outbox = SlowOutbox(clock, [each or 0.001 for each in seconds])
    reporter = Reporter(outbox, TakesAll(), 60.0)
    reporter.stopping = clock
    reporter.run()
    assert [round(when, 1) for when in outbox.recorded] == recorded
    assert not warnings_in(caplog)


@pytest.mark.smoke
def test_two_reports_in_one_tick_of_a_coarse_clock_are_no_bug(monkeypatch, caplog):
    """Windows' monotonic clock has ticks of 16 ms."""
    clock = Clock(rounds=1)
    monkeypatch.setattr(webserver_influx, "monotonic", clock.monotonic)
    a_round(Reporter(SlowOutbox(clock, [0.0]), TakesAll(), 60.0))
    assert not warnings_in(caplog)


@pytest.mark.smoke
def test_delivery_ends_when_the_next_point_is_due(outbox, since, reporter, influxdb, monkeypatch):
    clock = Clock(rounds=1)
    monkeypatch.setattr(webserver_influx, "monotonic", clock.monotonic)

    def write(points):
        clock.now += 1

    monkeypatch.setattr(influxdb, "write", write)
    for step in range(1, 5001):
        outbox.database.execute("INSERT INTO requests VALUES (?, 1)", (since + step,))
    reporter.deliver(3.0)
    assert outbox.waiting() == 2000


@pytest.mark.smoke
def test_stopping_records_and_delivers_the_last_part_of_an_interval(counter, reporter, influxdb):
    reporter.start()
    count(counter, 9)
    reporter.stop()
    assert not reporter.is_alive()
    assert [number for _, number in influxdb.points] == [9]


@pytest.mark.smoke
def test_a_delivery_that_the_program_does_not_wait_for_says_nothing(outbox, reporter, influxdb, caplog, monkeypatch):
    def write_late(points):
        writing.set()
        closed.wait()

    writing, closed = threading.Event(), threading.Event()
    monkeypatch.setattr(webserver_influx, "DELIVERY_SECONDS", 0.1)
    monkeypatch.setattr(influxdb, "write", write_late)
    outbox.record(time_ns())
    reporter.start()
    assert writing.wait(60)
    reporter.stop()
    outbox.close()
    closed.set()
    reporter.join()
    assert not warnings_in(caplog)


@pytest.mark.smoke
def test_an_end_at_which_nothing_can_be_recorded_delivers_what_waits(outbox, reporter, influxdb, caplog, monkeypatch):
    def record(now):
        raise sqlite3.OperationalError("database is locked")

    reporter.start()
    wait_until(reporter.is_alive)
    outbox.record(time_ns())
    monkeypatch.setattr(outbox, "record", record)
    reporter.stop()
    assert not reporter.is_alive()
    assert len(influxdb.points) == 1


# --- the data source name

SECRET = "hunter2"


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("dsn", "destination"),
    [
        ("influxdb://h", Destination("h")),
        ("influxdb://h/", Destination("h")),
        ("influxdb://h:1/d", Destination("h", 1, database="d")),
        ("influxdb://u:p@h:65535/d", Destination("h", 65535, "u", "p", "d")),
        ("https+influxdb://u:p@h/d", Destination("h", 8086, "u", "p", "d", tls=True)),
        ("influxdb://u:p@[::1]:8087/d", Destination("::1", 8087, "u", "p", "d")),
        ("influxdb://[::1]", Destination("::1")),
        ("influxdb://u@h", Destination("h", 8086, "u", "")),
        ("influxdb://u%40x:p%2F%3A%40%25%3F%23%20@h/d%2Fe", Destination("h", 8086, "u@x", "p/:@%?# ", "d/e")),
        ("influxdb://j%C3%BCrgen:p%C3%A4ss@h", Destination("h", 8086, "jürgen", "päss")),
        ("influxdb://jürgen:päss@h", Destination("h", 8086, "jürgen", "päss")),
        ("influxdb://u:p+q@h", Destination("h", 8086, "u", "p+q")),
        ("influxdb://u:p:q@h", Destination("h", 8086, "u", "p:q")),
        ("influxdb://u:p@db.Example.ORG", Destination("db.example.org", 8086, "u", "p")),
    ],
)
def test_a_dsn_is_read(dsn, destination):
    assert parse_dsn(dsn) == destination


MALFORMED = [
    "",
    f"{SECRET}",
    f"http://u:{SECRET}@h/d",
    f"udp+influxdb://u:{SECRET}@h/d",
    f"influxdb:u:{SECRET}@h",
    f"influxdb://u:{SECRET}@/d",
    f"influxdb://u:{SECRET}@h:port/d",
    f"influxdb://u:{SECRET}@h:0/d",
    f"influxdb://u:{SECRET}@h:65536/d",
    f"influxdb://u:{SECRET}@h:-1/d",
    f"influxdb://u:{SECRET}@h:/d",
    f"influxdb://u:{SECRET}/x@h/d",
    f"influxdb://u:{SECRET}?x@h/d",
    f"influxdb://u:{SECRET}#x@h/d",
    f"influxdb://u:{SECRET}@h/d?ssl=true",
    f"influxdb://u:{SECRET}@h/d/e",
    f"influxdb://u:{SECRET}@[::1/d",
    f"influxdb://u:{SECRET}@::1/d",
    f"influxdb://u:{SECRET} x@h/d",
    f"influxdb://u:{SECRET}@h/d\n",
    f"influxdb://u:[{SECRET}@h/d",
]


@pytest.mark.smoke
@pytest.mark.parametrize("dsn", MALFORMED)
def test_a_malformed_dsn_is_refused_without_a_word_of_the_password(dsn):
    with pytest.raises(ValueError, match=r"\w") as info:
        parse_dsn(dsn)
    assert SECRET not in str(info.value)


@pytest.mark.parametrize("option", [True, False], ids=["--influx", "WEBSERVER_INFLUX_DSN"])
def test_a_malformed_dsn_is_a_usage_error_without_the_password(option):
    dsn = f"influxdb://u:{SECRET}@h:port/d"
    ended = run_program("--influx", dsn) if option else run_program(env={"WEBSERVER_INFLUX_DSN": dsn})
    assert ended.returncode == 2
    assert ("--influx" if option else "WEBSERVER_INFLUX_DSN") in ended.stderr.splitlines()[-1]
    assert SECRET not in ended.stdout + ended.stderr


@pytest.mark.smoke
@pytest.mark.parametrize("tls", [True, False])
def test_a_destination_prints_all_but_the_password(tls):
    text = str(Destination("::1", 8087, "u", SECRET, "d", tls))
    assert text == f"http{'s' if tls else ''}://[::1]:8087, database d, user u"


def test_the_environment_is_clean_for_these_tests():
    assert "WEBSERVER_INFLUX_DSN" not in clean_environment()
