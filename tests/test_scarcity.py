"""What the system refuses: threads, processes, open files, memory. A start ends with one line; a server goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from daemons import PATIENCE_S, PROGRAM, clean_environment, run_python, wait_until
from messages import message, refusal, texts
from needs import linux, process_limit
from refusals import failure_of

from webserver_influx import SumHandler

START = [sys.executable, str(PROGRAM), "--bind", "127.0.0.1", "--port", "0", "--state", ":memory:"]
PROCESSES = "a limit of processes: ulimit -u, or pids.max of a container"
NO_FILE = "Too many open files (ulimit -n)"
NO_THREAD = f"can't start new thread ({PROCESSES}; or of memory: ulimit -v)"
NO_WORKER = f"worker 2 cannot serve: Resource temporarily unavailable ({PROCESSES})"

pytestmark = linux


def failing(*arguments: str, **options) -> str:
    """Start the program, which cannot; see failure_of."""
    command = [*START, "--influx", "influxdb://127.0.0.1:9", *arguments]
    env = clean_environment()
    return failure_of(
        subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=env, cwd="/", **options
        )
    )


def limit(name: str, number: int):
    """What sets a limit of the process that is to be started."""
    import resource

    return lambda: resource.setrlimit(getattr(resource, name), (number, number))


@pytest.mark.parametrize(("workers", "most"), [("1", 6), ("1", 8), ("2", 12), ("9", 24)])
def test_a_start_with_too_few_open_files_ends_with_one_line(workers, most):
    assert failing("--workers", workers, preexec_fn=limit("RLIMIT_NOFILE", most)).endswith(NO_FILE)


def test_a_user_with_too_many_processes_is_told_of_that_limit():
    nobody = {"user": 61_184, "extra_groups": []} if os.getuid() == 0 else {}  # root has no such limit
    try:
        subprocess.run([sys.executable, PROGRAM, "--version"], capture_output=True, check=True, **nobody)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no other user can start this Python")
    assert failing(preexec_fn=limit("RLIMIT_NPROC", 1), **nobody) == NO_THREAD


def test_a_start_with_too_little_memory_for_a_thread_ends_with_one_line():
    script = """
        import resource, sys, webserver_influx
        with open("/proc/self/statm") as file:
            used = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + 4 * 1024**2,) * 2)  # a thread takes 8 MiB for its stack
        sys.exit(webserver_influx.main(sys.argv[1:]))
    """
    assert failure_of(run_python(script, "--port", 0, "--state", ":memory:")) == NO_THREAD


@pytest.fixture
def group(tmp_path):
    with process_limit(f"webserver_influx-{os.getpid()}") as folder:
        yield Path(folder)


@pytest.mark.parametrize(
    ("workers", "most", "line"),
    [
        ("1", 1, NO_THREAD),
        ("1", 3, NO_THREAD),
        ("1", 5, NO_THREAD),
        ("2", 4, NO_THREAD),
        ("2", 5, NO_WORKER),
        ("2", 8, f"worker 2 cannot serve: {NO_THREAD}"),
    ],
    ids=[
        "no thread that writes",
        "no thread for signals",
        "no thread that reports",
        "no thread for a worker",
        "no worker",
        "no thread of a worker",
    ],
)
def test_a_container_with_too_few_processes_is_told_of_that_limit(group, workers, most, line):
    (group / "pids.max").write_text(str(most))
    enter = lambda: (group / "cgroup.procs").write_text(str(os.getpid()))  # noqa: E731
    assert failing("--workers", workers, preexec_fn=enter) == line
    wait_until(lambda: not (group / "cgroup.procs").read_text(), what="its processes to end")


def test_workers_that_die_while_no_process_can_be_started_are_replaced_when_one_can(server, group):
    web = server("--workers", "2")
    wait_until(lambda: "cannot be reached" in web.stderr_text())  # so that all its threads are there
    for pid in (web.process.pid, *web.workers()):
        (group / "cgroup.procs").write_text(str(pid))
    (group / "pids.max").write_text("1")
    (worker,) = web.workers()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: "Worker 2 cannot be started" in web.stderr_text())
    assert web.get("/?a=1").text == "Sum: 1.0"
    (group / "pids.max").write_text("max")
    wait_until(lambda: "Worker 2 serves again" in web.stderr_text())
    assert web.stop() == 0
    wait_until(lambda: not (group / "cgroup.procs").read_text(), what="its processes to end")


def test_a_request_that_there_is_no_memory_for_is_a_500_and_one_line(local, monkeypatch, caplog):
    def greedy(handler, query):
        raise MemoryError

    web = local()
    with monkeypatch.context() as for_now:
        for_now.setattr(SumHandler, "do_GET", greedy)
        assert refusal(web.raw(message("GET /"))).status == 500
    assert caplog.messages == ["There is not enough memory to answer a request"]
    assert texts(web.raw(message("GET /", "Connection: close"))) == ["Sum: 0"]
