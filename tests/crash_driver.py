"""Kills a server before each line of the code that records and delivers points, and checks the count after each kill.

    python crash_driver.py FOLDER

prints "<line number> <function>" for each kill. It exits with an error if a request was lost or counted twice. A file
stands in for InfluxDB; as there, a point replaces an older one with the same time.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import mmap
import os
import signal
import sys
from pathlib import Path
from time import time_ns

from books import counted, rejected, waiting
from states import opened

from webserver_influx import Counter, Courier, Outbox, Point, RefusedError, Reporter

TRACED = {
    function.__code__
    for function in (
        Counter.flush,
        Outbox.record,
        Outbox.recover,
        Outbox.oldest,
        Outbox.remove,
        Outbox.move_to_rejected,
        Outbox.requeue_rejected,
        Reporter.record,
        Courier.deliver,
        Courier.send,
        Courier.find_refused,
        Courier.write,
    )
}
INTERVAL = 1_000_000_000
BAD = 7  # points with this number of requests are rejected


class Books:
    """The files of one server, and the true number of its requests in memory that survives the process."""

    def __init__(self, folder: Path) -> None:
        self.state, self.count_file, self.influx = folder / "state", folder / "state-count", folder / "influx"
        self.shared = memoryview(mmap.mmap(-1, 8)).cast("Q")

    @contextlib.contextmanager
    def server(self):
        """Open the files as a server does; yield its counter, outbox and reporter."""
        with opened(self.state, self.count_file) as (counter, outbox):
            courier = Courier(outbox, FileInfluxDB(self.influx), 1.0)
            yield counter, outbox, Reporter(outbox, courier, 1.0, float)

    def count(self, counter: Counter, number: int) -> None:
        for _ in range(number):
            self.shared[0] += 1
            counter.cells[0].increment()

    def check(self) -> None:
        """Raise AssertionError unless each request is in exactly one point."""
        assert counted(self.state) == self.shared[0]
        assert not waiting(self.state)
        rejected_number = sum(number for _, number, _ in rejected(self.state))
        delivered: dict[int, int] = {}
        for line in self.influx.read_text().splitlines():
            time, number = map(int, line.split())
            assert delivered.setdefault(time, number) == number, "one time, two numbers"
        assert sum(delivered.values()) + rejected_number == self.shared[0]


class FileInfluxDB:
    """Stores points in a file. Like InfluxDB, it refuses a batch with a BAD point but stores its other points."""

    name = "a file"
    began = float("inf")

    def __init__(self, path: Path) -> None:
        self.path = path

    def check_reachable(self) -> None:
        pass

    def write(self, points: list[Point]) -> None:
        good = [f"{point.time} {point.requests}\n" for point in points if point.requests != BAD]
        with self.path.open("a") as file:
            file.writelines(good)
        if len(good) < len(points):
            raise RefusedError("bad", message=f"bad dropped={len(points) - len(good)}")


def report(reporter: Reporter) -> None:
    """Record and deliver, as reporter and courier do at the end of an interval."""
    interval = reporter.record()
    assert interval
    reporter.courier.hand_over(interval)
    reporter.courier.wakeup.clear()
    reporter.courier.deliver()


def live(books: Books) -> None:
    """Recover, record and deliver, with rejected points and split batches."""
    with books.server() as (counter, outbox, reporter):
        books.count(counter, 5)  # not in a point yet, as after a kill
        outbox.recover(INTERVAL, time_ns())
        books.count(counter, BAD)
        assert reporter.record()
        books.count(counter, BAD)
        assert reporter.record()
        books.count(counter, 2)
        report(reporter)
        books.count(counter, 1)
        report(reporter)


def live_cleanly(books: Books) -> None:
    with books.server() as (_, outbox, reporter):
        outbox.recover(INTERVAL, time_ns())
        report(reporter)


def kill_before_line(number: int, pipe: int) -> None:
    """Kill this process before the functions in TRACED execute their line number `number`, counted from 1."""
    executed = itertools.count(1)
    last = 0

    def local(frame, event, _):
        nonlocal last
        if event == "line" and frame.f_lineno != last:  # since Python 3.12, a comprehension repeats its line
            last = frame.f_lineno
            if next(executed) == number:
                os.write(pipe, f"{frame.f_lineno} {frame.f_code.co_name}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    sys.settrace(lambda frame, _, __: local if frame.f_code in TRACED else None)


def in_a_child(action) -> int:
    """Call a function in a child process; return the status of os.waitpid()."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            action()
            status = 0
        finally:
            if status:
                sys.excepthook(*sys.exc_info())
            os._exit(status)
    return os.waitpid(pid, 0)[1]


def main() -> None:
    logging.disable()
    books = Books(Path(sys.argv[1]))
    for number in itertools.count(1):

        def to_the_kill(number: int = number) -> None:
            kill_before_line(number, 1)
            live(books)

        status = in_a_child(to_the_kill)
        assert in_a_child(lambda: live_cleanly(books)) == 0
        books.check()
        if status == 0:  # no line is left
            return
        assert status == signal.SIGKILL, status


if __name__ == "__main__":
    main()
