"""Workers: they serve before the program says so, and one that cannot, or dies, costs no client an answer."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from books import waiting
from daemons import PATIENCE_S, PROGRAM, Server, clean_environment, free_port, new_folder, run_python, wait_until
from needs import posix
from refusals import failure, failure_of, start_error

import webserver_influx
from webserver_influx import Cell, Counter, Worker, Workers, listen, parse_arguments


@pytest.fixture
def copy(tmp_path):
    """A copy of the program, which may be changed."""
    return shutil.copy(PROGRAM, tmp_path)


@pytest.fixture
def copied_server(guard, copy, tmp_path, closed_port, at_end):
    """A server of the copy, with a worker beside it."""
    options = ["--bind", "127.0.0.1", "--port", str(free_port()), "--influx", f"influxdb://127.0.0.1:{closed_port}"]
    web = Server(guard, new_folder(tmp_path, "server"), [*options, "--workers", "2"])
    web._command[web._command.index(str(PROGRAM))] = copy
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
    told(web, "is not the program that runs; restart that" if change == "broken" else "No such file or directory")
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


def test_a_worker_that_died_has_no_connection_open(open_counter, at_end):
    counter = open_counter()
    workers = Workers(listen("127.0.0.1", 0), counter, parse_arguments(["--workers", "2"]))
    at_end.callback(workers.stop)
    Cell(counter.words, 2 * Counter.STEP).tell_usage(64, 1.5)
    assert counter.usage(2) == (64, 1.5)
    workers.mark_dead(workers.others[0])
    assert counter.usage(2) == (0, 1.5)


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


def test_a_worker_without_a_word_is_not_waited_for_for_ever(monkeypatch, open_counter):
    monkeypatch.setattr(webserver_influx, "WORKER_SECONDS", 0.0)
    monkeypatch.setattr(webserver_influx, "GRACE_SECONDS", 0.0)
    options = parse_arguments(["--workers", "3"])
    workers = Workers(listen("127.0.0.1", 0), open_counter(), options)
    try:
        assert start_error(workers.start) == "no word from worker 2, 3 for 0 s"
    finally:
        workers.stop()


def test_the_pauses_between_two_tries_grow_up_to_a_minute(monkeypatch):
    now = 0.0
    monkeypatch.setattr(webserver_influx, "monotonic", lambda: now)
    worker = Worker(2)

    def pause() -> float:
        worker.schedule()
        return worker.start_at - now

    assert [pause() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    worker.serves_since, now = 0.0, 59.0
    assert pause() == 60
    now = 60.0
    assert pause() == 1


def test_a_worker_that_starts_and_dies_at_once_is_replaced_after_pauses_that_double(monkeypatch, open_counter):
    def spawn(worker: Worker) -> None:
        worker.start_at = math.inf

    workers = Workers(listen("127.0.0.1", 0), open_counter(), parse_arguments(["--workers", "2"]))
    monkeypatch.setattr(workers, "spawn", spawn)
    monkeypatch.setattr(webserver_influx, "monotonic", lambda: 0.0)
    (worker,) = workers.others
    pauses = []
    for _ in range(4):
        worker.schedule()  # it has died
        pauses.append(worker.start_at)
        workers.replace(worker)
    assert pauses == [1, 2, 4, 8]
    monkeypatch.undo()
    workers.stop()


def test_the_threads_of_a_process_stay_as_many_as_they_were_when_the_program_began(monkeypatch, open_counter):
    """For they decide whose a cell is; the CPUs of a container may change."""
    monkeypatch.setattr(sys, "abiflags", "t", raising=False)
    monkeypatch.setattr(webserver_influx, "cpu_count", lambda: 8)
    options = parse_arguments(["--workers", "2"])
    assert options.threads == 4
    monkeypatch.setattr(webserver_influx, "cpu_count", lambda: 2)
    workers = Workers(listen("127.0.0.1", 0), open_counter(), options)
    workers.mark_dead(workers.others[0])
    assert list(workers.loads) == [0] * 4 + [Workers.DEAD] * 4
    workers.stop()


def test_the_next_round_comes_though_there_is_no_memory_to_log_what_one_raised(monkeypatch, open_counter):
    def fail(*arguments):
        rounds.append(1)
        if len(rounds) == 3:
            workers.stopping.close()
        raise MemoryError

    rounds: list[int] = []
    workers = Workers(listen("127.0.0.1", 0), open_counter(), parse_arguments(["--workers", "2"]))
    monkeypatch.setattr(webserver_influx, "RESPAWN_SECONDS", 0.0)
    monkeypatch.setattr(workers, "look_after_others", fail)
    monkeypatch.setattr(webserver_influx.log, "exception", fail)
    workers.replace_dead()
    workers.stop()
    assert len(rounds) > 2


@posix
def test_whatever_a_round_raises_the_next_one_replaces_who_died(tmp_path):
    script = """
        import os, signal, sys, time, webserver_influx
        from webserver_influx import Workers

        def meet_bugs(workers, look=Workers.look_after_others, rounds=[]):
            rounds.append(workers)
            if len(rounds) < 4:
                raise ZeroDivisionError
            look(workers)

        def replaced(workers, start=Workers.start):
            start(workers)
            (worker,) = workers.others
            first = worker.process
            os.kill(first.pid, signal.SIGKILL)
            while worker.process is first or worker.serves_since == webserver_influx.inf:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)

        Workers.look_after_others, Workers.start = meet_bugs, replaced
        webserver_influx.RESPAWN_SECONDS = 0.05
        sys.exit(webserver_influx.main(sys.argv[1:]))
    """
    options = ["--port", 0, "--workers", 2, "--state", tmp_path / "state", "--influx", "influxdb://127.0.0.1:9"]
    ended = run_python(script, *options)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("Traceback") == 1  # though the bug was met three times
