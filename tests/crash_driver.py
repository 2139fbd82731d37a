"""Kills record and deliver at every line, in turn, and balances the books after each kill.

    python crash_driver.py FOLDER

prints one line, "<line number> <function>", for each place where a process was killed, and ends with an error at the
first place after which a request is missing or counted twice. InfluxDB is a file here: of each time, the last number.
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
BAD = 7  # the number that InfluxDB rejects in a point


class Books:
    """The files of one server, and what a process that is killed cannot forget: how often it counted."""

    def __init__(self, folder: Path) -> None:
        self.state, self.count_file, self.influx = folder / "state", folder / "state-count", folder / "influx"
        self.shared = memoryview(mmap.mmap(-1, 8)).cast("Q")

    @contextlib.contextmanager
    def server(self):
        """A server's life: what it counted, and where it reports."""
        with opened(self.state, self.count_file) as (counter, outbox):
            courier = Courier(outbox, FileInfluxDB(self.influx), 1.0)
            yield counter, outbox, Reporter(outbox, courier, 1.0)

    def count(self, counter: Counter, number: int) -> None:
        for _ in range(number):
            self.shared[0] += 1
            counter.cells[0].increment()

    def check(self) -> None:
        """Raise AssertionError unless each request is in one point, and in one only."""
        assert counted(self.state) == self.shared[0]
        assert not waiting(self.state)
        set_aside = sum(number for _, number, _ in rejected(self.state))
        delivered: dict[int, int] = {}
        for line in self.influx.read_text().splitlines():
            time, number = map(int, line.split())
            assert delivered.setdefault(time, number) == number, "one time, two numbers"
        assert sum(delivered.values()) + set_aside == self.shared[0]


class FileInfluxDB:
    """Takes points but for those of BAD requests, with which it does as InfluxDB: it stores the others of the batch."""

    name = "a file"
    began = float("inf")

    def __init__(self, path: Path) -> None:
        self.path = path

    def check_reachable(self) -> None:
        pass

    def write(self, points: list[Point]) -> None:
        good = [f"{point.time} {point.number}\n" for point in points if point.number != BAD]
        with self.path.open("a") as file:
            file.writelines(good)
        if len(good) < len(points):
            raise RefusedError("bad", words=f"bad dropped={len(points) - len(good)}")


def report(reporter: Reporter) -> None:
    """What both threads do when an interval ends."""
    interval = reporter.record()
    assert interval
    reporter.courier.hand_over(interval)
    reporter.courier.wakeup.clear()
    reporter.courier.deliver()


def live(books: Books) -> None:
    """Recover, record and deliver, with points that are rejected and batches that are split."""
    with books.server() as (counter, outbox, reporter):
        books.count(counter, 5)  # before the trace: what a kill left
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
    """Kill this process before the line that is executed as the so-many-th in the functions under test."""
    executed = itertools.count(1)
    last = 0

    def local(frame, event, _):
        nonlocal last
        if event == "line" and frame.f_lineno != last:  # from Python 3.12 on, a comprehension is its line many times
            last = frame.f_lineno
            if next(executed) == number:
                os.write(pipe, f"{frame.f_lineno} {frame.f_code.co_name}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)
        return local

    sys.settrace(lambda frame, _, __: local if frame.f_code in TRACED else None)


def in_a_child(action) -> int:
    """Do it in a process of its own; its status as os.waitpid() gives it."""
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
        if status == 0:  # it came to its end
            return
        assert status == signal.SIGKILL, status


if __name__ == "__main__":
    main()
