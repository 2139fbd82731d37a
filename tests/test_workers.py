"""Workers: they serve before the program says so, and one that cannot, or dies, costs no client an answer."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from books import waiting
from daemons import PATIENCE_S, PROGRAM, Server, clean_environment, free_port, new_folder, wait_until
from needs import posix
from refusals import failure, failure_of, start_error

import webserver_influx
from webserver_influx import Cell, Counter, Workers, listen, parse_arguments


@pytest.fixture
def copy(tmp_path):
    """A copy of the program, which may be changed."""
    return shutil.copy(PROGRAM, tmp_path)


@pytest.fixture
def copied_server(guard, copy, tmp_path, closed_port, at_end):
    """A server of the copy, with a worker beside it."""
    options = ["--bind", "127.0.0.1", "--port", str(free_port()), "--influx", f"influxdb://127.0.0.1:{closed_port}"]
    web = Server(guard, new_folder(tmp_path, "server"), [*options, "--workers", "2"])
    web.command[web.command.index(str(PROGRAM))] = copy
    at_end.callback(web.close)
    return web.start()


def kill_worker(web: Server) -> None:
    (pid,) = web.workers()
    os.kill(pid, signal.SIGKILL)


def told(web: Server, what: str) -> None:
    wait_until(lambda: what in web.stderr_text(), what=f"a line with {what!r}")


def test_a_program_read_from_standard_input_has_no_workers_and_says_so(state):
    command = [sys.executable, "-", "--workers", "2", "--port", "0", "--state", state]
    with PROGRAM.open() as source:
        ended = subprocess.run(
            command,
            stdin=source,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
            env=clean_environment(),
        )
    line = failure_of(ended)
    assert line.startswith("workers need the program's file, ")
    assert "<stdin>: No such file or directory" in line or os.name == "nt"


@pytest.mark.parametrize("change", ["broken", "gone"])
@posix
def test_a_worker_dies_while_the_programs_file_is_another_and_the_port_is_served(copied_server, copy, change):
    web = copied_server
    good = PROGRAM.read_bytes()
    os.remove(copy)
    if change == "broken":
        with open(copy, "w") as file:
            file.write("1 / 0\n")
    kill_worker(web)
    told(web, "has changed on disk; restart the server" if change == "broken" else "No such file or directory")
    assert all(web.get(f"/?a={number}").text == f"Sum: {number}.0" for number in range(30))
    with open(copy, "wb") as file:
        file.write(good)
    told(web, "Worker 2 serves again")
    assert len([line for line in web.log() if "Worker" in line]) == 3  # died, cannot be started, serves again


@posix
def test_no_worker_counts_in_a_file_that_has_taken_the_place_of_the_counter(server):
    web = server("--workers", "2")
    count_file = Path(f"{web.state}-count")
    first = count_file.rename(f"{count_file}-moved")
    shutil.copy(first, count_file)
    kill_worker(web)
    told(web, f"Worker 2 cannot be started ({count_file.name} is not the file in which this server counts)")
    for _ in range(30):
        web.get()
    first.replace(count_file)
    told(web, "Worker 2 serves again")
    assert web.stop() == 0
    assert sum(number for _, number in waiting(web.state)) == 30


@pytest.fixture
def make_workers(open_counter, at_end):
    """make_workers(number) -> Workers, not started."""

    def make(number: int) -> Workers:
        options = parse_arguments(["--workers", str(number)])
        workers = Workers(listen("127.0.0.1", 0), open_counter(), options, threading.Event())
        at_end.callback(workers.stop)
        return workers

    return make


def test_a_worker_that_died_has_no_connection_open(make_workers, open_counter):
    workers = make_workers(2)
    counter = workers.counter
    connections = counter.column(Counter.CONNECTIONS, 2)
    Cell(counter.words, 2 * Counter.STEP).publish_usage(64, 1.5)
    assert list(connections) == [0, 64]
    workers.mark_dead(2)
    assert list(connections) == [0, 0]
    connections.release()


IN_A_WORKER = "import os, sys, threading, time\nif '--multiprocessing-fork' in sys.argv:\n    "


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ("os._exit(7)", "worker 2 cannot serve: exit code 7"),
        (
            "threading.Thread.start = lambda thread: exec('raise RuntimeError(chr(33))')",
            "worker 2 cannot serve: ! "
            "(a limit of processes: ulimit -u, or pids.max of a container; or of memory: ulimit -v)",
        ),
    ],
)
@posix
def test_a_first_worker_that_cannot_serve_ends_the_program(tmp_path, state, fault, line):
    (tmp_path / "sitecustomize.py").write_text(IN_A_WORKER + fault)
    options = ["--workers", "2", "--port", "0", "--state", state]
    assert failure(*options, env={"PYTHONPATH": str(tmp_path)}) == line


@posix
def test_the_program_serves_once_all_its_workers_do(server, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(f"{IN_A_WORKER}open({str(tmp_path / 'late')!r}, 'w'); time.sleep(0.5)")
    web = server("--workers", "2", env={"PYTHONPATH": str(tmp_path)}, start=False)
    web.launch()
    wait_until((tmp_path / "late").exists)
    assert web.stdout_text() == ""
    wait_until(web.answers)


def test_a_worker_without_a_status_is_not_waited_for_for_ever(monkeypatch, make_workers):
    monkeypatch.setattr(webserver_influx, "WORKER_SECONDS", -2.0)  # for both, another second each
    monkeypatch.setattr(webserver_influx, "GRACE_SECONDS", 0.0)
    workers = make_workers(3)

    class Silent(Pipe):
        def recv(self) -> str:
            workers.stopping.wait()
            raise EOFError

    workers.spawn = lambda number: (Dead(), Silent(""))
    assert start_error(workers.start) == "worker 2, 3 did not start within 0 s"


class Pipe:
    """That of a process which has this status, and then ends."""

    def __init__(self, status: str) -> None:
        self.statuses = [status]

    def recv(self) -> str:
        if not self.statuses:
            raise EOFError
        return self.statuses.pop()

    def close(self) -> None:
        pass


class Dead:
    """A process that has ended."""

    exitcode = -9

    def join(self) -> None:
        pass


class Pauses(threading.Event):
    """An event for which nobody waits: it is set after so many waits, and remembers how long they were to be."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.seconds = number, []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout)
        if len(self.seconds) == self.number:
            self.set()
        return self.is_set()


def lives(workers: Workers, pauses: Pauses, spawn) -> None:
    """Let worker 2 live, without its thread, until it has paused so often."""
    workers.stopping = pauses
    workers.spawn = spawn
    workers.others[0].run()


def test_the_pauses_between_two_tries_grow_up_to_a_minute(make_workers, caplog):
    workers, pauses = make_workers(2), Pauses(9)
    statuses = iter(["", *["cannot"] * 8])
    lives(workers, pauses, lambda number: (Dead(), Pipe(next(statuses))))
    assert pauses.seconds == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    died, fails = caplog.messages
    assert died == "Worker 2 died (exit code -9); another takes its place"
    assert fails == "Worker 2 cannot be started (cannot); the server keeps trying"


def test_a_worker_that_starts_and_dies_at_once_is_replaced_after_pauses_that_double(make_workers):
    workers, pauses = make_workers(2), Pauses(4)
    lives(workers, pauses, lambda number: (Dead(), Pipe("")))
    assert pauses.seconds == [1, 2, 4, 8]


def test_a_worker_that_has_served_for_a_minute_is_replaced_after_a_second(make_workers, monkeypatch):
    workers, pauses, minutes = make_workers(2), Pauses(4), itertools.count()
    monkeypatch.setattr(webserver_influx, "monotonic", lambda: 60.0 * next(minutes))
    lives(workers, pauses, lambda number: (Dead(), Pipe("")))
    assert pauses.seconds == [1, 1, 1, 1]
    monkeypatch.undo()


def test_a_worker_that_cannot_serve_at_the_first_start_is_told_to_who_starts_it_alone(make_workers, caplog):
    workers, pauses = make_workers(2), Pauses(1)
    lives(workers, pauses, lambda number: (Dead(), Pipe("no memory")))
    assert workers.statuses.get() == (2, "no memory")
    assert pauses.seconds == []
    assert not caplog.messages


@pytest.mark.parametrize("error", [ZeroDivisionError("odd"), OSError(12, "Cannot allocate memory"), MemoryError()])
def test_whatever_a_try_raises_the_next_one_replaces_who_died(make_workers, caplog, error):
    caplog.set_level("INFO")
    workers, pauses = make_workers(2), Pauses(5)
    tries = iter([(Dead(), Pipe("")), error, error, (Dead(), Pipe("")), (Dead(), Pipe(""))])

    def spawn(number: int):
        found = next(tries)
        if isinstance(found, Exception):
            raise found
        return found

    lives(workers, pauses, spawn)
    assert sum("cannot be started" in message for message in caplog.messages) == 1
    assert sum("serves again" in message for message in caplog.messages) == 1
    assert sum("died" in message for message in caplog.messages) == 3


def test_the_threads_of_a_process_stay_as_many_as_they_were_when_the_program_began(monkeypatch, make_workers):
    """For they decide whose a cell is; the CPUs of a container may change."""
    monkeypatch.setattr(sys, "version", f"{sys.version} free-threading build")
    monkeypatch.setattr(webserver_influx, "cpu_limit", lambda: 8.0)
    workers = make_workers(2)
    assert workers.options.threads == 4
    monkeypatch.setattr(webserver_influx, "cpu_limit", lambda: 2.0)
    workers.mark_dead(2)
    assert list(workers.loads) == [0] * 4 + [Workers.DEAD] * 4


@posix
def test_no_process_is_started_once_the_program_stops(make_workers):
    """A stop that comes while one is being started waits for that, and then ends it."""
    workers = make_workers(2)
    spawned = []
    workers.spawn = lambda number: spawned.append(number) or (Dead(), Pipe(""))
    workers.stop()
    workers.others[0].run()
    assert not spawned


@posix
@pytest.mark.parametrize("seconds", [0.02, 0.1, 0.2, 0.35, 0.5])
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_at_any_moment_of_the_start_ends_the_program_in_good_order(server, signum, seconds):
    web = server("--workers", "4", start=False)
    web.launch()
    wait_until(lambda: web.command and (web.folder / "math_server.db-count").exists())
    time.sleep(seconds)
    web.process.send_signal(signum)
    assert web.wait() == 0
    assert "Traceback" not in web.stderr_text()


@posix
@pytest.mark.unmeasured
def test_many_workers_serve(server):
    """More than the 62 for which Windows waits in one call."""
    web = server("--workers", "64", start=False)
    web.launch()
    wait_until(web.answers, timeout=100)
    assert len(web.workers()) == 63
    assert web.stop() == 0
