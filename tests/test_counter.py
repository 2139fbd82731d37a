"""The counter: exact in threads, in processes, past 32 bits and after kill -9; odd files are left as they are."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
from functools import partial

import pytest
from books import SECOND, count
from daemons import PROJECT, run_python
from needs import posix
from refusals import start_error
from states import opened

from webserver_influx import Counter


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
def test_a_counter_that_is_still_looked_into_closes_its_file(tmp_path):
    """A start that fails half-way leaves such a view."""
    counter = Counter(str(tmp_path / "count"), 0, 1, create=True)
    loads = counter.column(Counter.LOAD, 1)
    counter.close()
    with pytest.raises(OSError, match=r"Bad file descriptor|handle"):
        os.fstat(counter.file)
    loads.release()


@pytest.mark.smoke
@pytest.mark.skipif(sys.platform == "win32", reason="Windows removes no open file")
def test_it_is_told_that_the_folder_of_a_counter_was_removed(tmp_path):
    (tmp_path / "folder").mkdir()
    with contextlib.closing(Counter(str(tmp_path / "folder" / "count"), 0, 1, create=True)) as counter:
        assert counter.problem() == ""
        shutil.rmtree(tmp_path / "folder")
        problem = counter.problem()
    assert "count was removed, moved or replaced" in problem


@pytest.mark.smoke
def test_the_counter_goes_on_where_it_ended(tmp_path):
    for total in (2, 4, 6):
        with contextlib.closing(Counter(str(tmp_path / "count"), 0, 1, create=True)) as counter:
            count(counter, 2)
            counter.flush()
            assert counter.total() == total


@posix
def test_the_total_is_that_of_all_workers(tmp_path, counter):
    count(counter, 1)
    script = """
        import sys, webserver_influx
        for worker in (2, 255):
            counter = webserver_influx.Counter(sys.argv[1], worker)
            for _ in range(10 * worker):
                counter.cells[0].increment()
    """
    assert run_python(script, tmp_path / "count").returncode == 0
    assert counter.total() == 1 + 20 + 2550


@pytest.mark.smoke
def test_a_cell_holds_more_than_32_bits(tmp_path, counter):
    counter.words[8] = 2**40
    count(counter, 1)
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
        counter = webserver_influx.Counter(sys.argv[1], 0, 1, create=True)
        for _ in range(1234):
            counter.cells[0].increment()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    for total in (1234, 2468):
        assert run_python(script, tmp_path / "count").returncode == -signal.SIGKILL
        with contextlib.closing(Counter(str(tmp_path / "count"), 0, 1, create=True)) as counter:
            assert counter.total() == total


@posix
@pytest.mark.parametrize("worker", [None, 3])
def test_a_part_of_the_counter_that_another_process_has_is_refused(tmp_path, at_end, worker):
    path = str(tmp_path / "count")
    at_end.enter_context(contextlib.closing(Counter(path, 0, 1, create=True)))
    if worker:
        at_end.enter_context(contextlib.closing(Counter(path, worker)))
    script = """
        import sys, webserver_influx
        webserver_influx.LOCK_SECONDS = 0.1
        webserver_influx.Counter(sys.argv[1], int(sys.argv[2]))
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
    Counter(str(tmp_path / "count"), create=True).close()
    script = """if True:
        import sys, webserver_influx
        counter = webserver_influx.Counter(sys.argv[1], 1)
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
    Counter(str(path), create=True).close()
    content = ODD_COUNTERS[odd](path.read_bytes())
    path.write_bytes(content)
    for create in (False, True):
        assert str(path) in start_error(partial(Counter, str(path), create=create))
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
    counter, outbox = at_end.enter_context(opened(":memory:", ":memory:"))
    count(counter, 3)
    counter.flush()
    assert outbox.record(5 * SECOND).requests == 3
    assert not list(tmp_path.iterdir())
