"""The reporter: its schedule, and that it records whatever happens. What becomes of the points: test_courier.py."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import sqlite3
import threading
import time
from time import monotonic

import pytest
from books import count
from daemons import wait_until

import webserver_influx
from webserver_influx import Courier, Point, Reporter, UnavailableError


class Notes:
    """A courier that delivers nothing, and only notes the intervals that it is given."""

    def __init__(self) -> None:
        self.intervals: list[str | None] = []
        self.has_last = self.has_ended = False

    def hand_over(self, interval: str | None) -> None:
        self.intervals.append(interval)

    def stop(self, last, end: float) -> None:
        self.intervals.append(last)
        self.has_last = True
        self.has_ended = True


@pytest.fixture
def courier() -> Notes:
    return Notes()


@pytest.fixture
def reporter(outbox, courier) -> Reporter:
    return Reporter(outbox, courier, 60.0, float)


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.smoke
def test_an_interval_is_handed_on_with_its_requests_its_length_and_its_most(counter, outbox, courier):
    reporter = Reporter(outbox, courier, 60.0, iter((9000.0, 20.0)).__next__)
    for requests, line in (
        (500, "500 requests in 200 s (2.5/s, at most 9,000/s)"),
        (600, "600 requests in 200 s (3/s, at most 20/s)"),
    ):
        count(counter, requests)
        reporter.began = time.monotonic() - 200
        assert reporter.record() == line
    assert [point.requests for point in outbox.oldest(9)] == [500, 600]


@pytest.mark.smoke
def test_stopping_records_the_last_part_of_an_interval(counter, outbox, reporter, courier):
    reporter.start()
    count(counter, 9)
    reporter.stop(monotonic() + 5)
    assert not reporter.is_alive()
    (interval,) = courier.intervals
    assert interval.startswith("9 requests in ")
    assert courier.has_last
    assert courier.has_ended
    assert [point.requests for point in outbox.oldest(9)] == [9]


@pytest.mark.smoke
def test_a_locked_database_is_one_log_line(tmp_path, counter, outbox, reporter, caplog):
    caplog.set_level(logging.INFO)
    outbox.database.execute("PRAGMA busy_timeout = 10")
    with contextlib.closing(sqlite3.connect(tmp_path / "state", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for _ in range(3):
            count(counter, 4)
            assert reporter.record() is None
        other.execute("COMMIT")
    (line,) = warnings_in(caplog)
    assert line == f"No point can be recorded: {outbox.path}: database is locked; requests are still counted"
    count(counter, 1)
    assert reporter.record().startswith("13 requests in ")
    assert caplog.messages == [line, "Points are recorded again"]


@pytest.mark.smoke
def test_a_disk_that_fails_is_told_in_the_system_s_words(outbox, reporter, caplog, monkeypatch):
    def fsync(_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    for _ in range(3):
        assert reporter.record() is None
    (line,) = warnings_in(caplog)
    path = outbox.counter.path
    assert line == f"No point can be recorded: {path}: Input/output error; requests are still counted"


@pytest.mark.smoke
def test_an_end_at_which_nothing_can_be_recorded_says_so_and_ends_the_courier(
    outbox, reporter, courier, caplog, monkeypatch
):
    def record(now):
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(outbox, "record", record)
    reporter.start()
    reporter.stop(monotonic() + 1)
    assert not reporter.is_alive()
    assert courier.intervals == [None]
    assert courier.has_ended
    locked, last = warnings_in(caplog)
    assert "database is locked" in locked
    assert last == "The last point could not be recorded in time"


@pytest.mark.smoke
def test_an_end_at_which_the_disk_does_not_answer_is_no_later(outbox, reporter, courier, caplog, monkeypatch):
    def record(now):
        thawed.wait()
        return Point(1, now, 0)

    thawed = threading.Event()
    monkeypatch.setattr(outbox, "record", record)
    reporter.start()
    begin = monotonic()
    reporter.stop(begin + 1)
    assert courier.has_ended
    assert warnings_in(caplog) == ["The last point could not be recorded in time"]
    thawed.set()
    reporter.join()


@pytest.mark.smoke
def test_an_end_waits_for_a_slow_disk_as_long_as_it_may(outbox, reporter, courier, caplog, monkeypatch):
    """Longer than half of its time, in which a recording that fails is tried again."""

    def record(now):
        time.sleep(0.7)
        return Point(1, now, 5)

    monkeypatch.setattr(outbox, "record", record)
    reporter.start()
    reporter.stop(monotonic() + 1)
    (interval,) = courier.intervals
    assert interval.startswith("5 requests in ")
    assert not warnings_in(caplog)


@pytest.mark.smoke
def test_the_reporter_outlives_a_lack_of_memory_while_it_hands_an_interval_on(outbox, courier, monkeypatch):
    def hand_over(interval):
        calls.append(interval)
        if len(calls) == 1:
            raise MemoryError

    calls: list[str] = []
    monkeypatch.setattr(courier, "hand_over", hand_over)
    reporter = Reporter(outbox, courier, 0.01, float)
    reporter.start()
    wait_until(lambda: len(calls) > 2)
    reporter.stop(monotonic() + 1)


@pytest.mark.smoke
@pytest.mark.parametrize("step", ["problem", "record"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd"),
        OSError(5, "Input/output error"),
        OSError(28, ""),
        sqlite3.OperationalError("disk I/O error"),
        MemoryError(),
        RecursionError(),
        SystemExit(1),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_the_reporter_survives_whatever_a_round_raises(counter, outbox, courier, monkeypatch, caplog, step, error):
    def fail(*_):
        failures.append(error)
        raise error

    failures: list[BaseException] = []
    reporter = Reporter(outbox, courier, 0.01, float)
    count(counter, 3)
    with monkeypatch.context() as failing:
        failing.setattr(counter if step == "problem" else outbox, step, fail)
        reporter.start()
        wait_until(lambda: len(failures) >= 3)
    wait_until(lambda: sum(point.requests for point in outbox.oldest(9)) == 3)
    reporter.stop(monotonic() + 5)
    assert warnings_in(caplog)
    if step == "record":
        assert len(warnings_in(caplog)) <= 2


@pytest.mark.smoke
def test_the_reporter_survives_an_error_that_cannot_be_logged(counter, outbox, courier, monkeypatch):
    class Unspeakable(Exception):
        def __repr__(self):
            raise MemoryError

        __str__ = __repr__

    def fail(now):
        failures.append(1)
        raise Unspeakable

    failures: list[int] = []
    count(counter, 3)
    reporter = Reporter(outbox, courier, 0.01, float)
    with monkeypatch.context() as failing:
        failing.setattr(outbox, "record", fail)
        reporter.start()
        wait_until(lambda: len(failures) >= 3)
    wait_until(lambda: sum(point.requests for point in outbox.oldest(9)) == 3)
    reporter.stop(monotonic() + 5)


# --- the schedule


class Clock:
    """Clocks that move only when somebody waits; they stand for the event that ends the reporter, too."""

    def __init__(self, monkeypatch, rounds: int) -> None:
        self.now = 0.0
        self.rounds = rounds
        self.ahead = 0.0  # how far the system's clock has been set
        monkeypatch.setattr(webserver_influx, "monotonic", lambda: self.now)
        monkeypatch.setattr(webserver_influx, "time_ns", lambda: round((1.7e9 + self.now + self.ahead) * 1e9))

    def wait(self, seconds: float) -> bool:
        self.now += max(0.0, seconds)
        self.rounds -= 1
        return self.is_set()

    def is_set(self) -> bool:
        return self.rounds < 0


class SlowOutbox:
    """An outbox in which recording takes the seconds that it is given, one after the other."""

    path = display_name = "state"

    class counter:
        problem = staticmethod(str)

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self.clock, self.seconds, self.recorded = clock, seconds, []

    def record(self, now: int) -> Point:
        self.recorded.append(self.clock.now)
        self.clock.now += self.seconds.pop(0)
        return Point(len(self.recorded), now, 1)


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
    ids=["idle", "a slow disk", "two beats missed", "just on time", "many beats missed"],
)
def test_the_schedule_does_not_drift_and_beats_that_were_missed_are_skipped(
    monkeypatch, caplog, courier, seconds, recorded
):
    clock = Clock(monkeypatch, rounds=4)
    outbox = SlowOutbox(clock, [*(each or 0.001 for each in seconds), 0])
    reporter = Reporter(outbox, courier, 60.0, float)
    reporter.stopping = clock
    reporter.run()
    assert [round(when, 1) for when in outbox.recorded[:4]] == recorded
    assert len(courier.intervals) == 4
    assert not warnings_in(caplog)


@pytest.mark.smoke
def test_a_step_of_the_clock_by_more_than_an_interval_is_one_line(monkeypatch, caplog, courier):
    clock = Clock(monkeypatch, rounds=0)
    reporter = Reporter(SlowOutbox(clock, [0.001] * 12), courier, 60.0, float)
    for ahead in (0, 59, 0, 86400, 86400, 86400, 0, 0, -3600, -3600):
        clock.ahead = ahead
        clock.now += 60
        reporter.record()
    assert warnings_in(caplog) == [
        "The system's clock went forward by 86400 s: it was set, or the machine was asleep",
        "The system's clock was set back by 86400 s",
        "The system's clock was set back by 3600 s",
    ]


@pytest.mark.smoke
def test_a_recording_at_the_end_is_tried_again_for_half_of_the_time(monkeypatch, courier):
    """The other half is the courier's."""
    clock = Clock(monkeypatch, rounds=0)
    monkeypatch.setattr(webserver_influx, "sleep", clock.wait)
    outbox = SlowOutbox(clock, [])
    monkeypatch.setattr(outbox, "record", lambda now: outbox.recorded.append(clock.now) or 1 / 0)
    reporter = Reporter(outbox, courier, 60.0, float)
    reporter.stopping.set()
    reporter.retry_end = 3.0
    reporter.run()
    assert 2.9 < outbox.recorded[-1] <= 3.1
    assert reporter.last is None


@pytest.mark.smoke
@pytest.mark.parametrize("hangs", ["check_reachable", "write"])
def test_points_are_recorded_on_time_whatever_the_courier_waits_for(counter, outbox, monkeypatch, hangs):
    """A name server, an InfluxDB that answers byte by byte, a proxy."""

    class Hanging:
        name = "InfluxDB"
        began = float("inf")

        def check_reachable(self) -> None:
            if hangs == "check_reachable":
                answered.wait()

        def write(self, points) -> None:
            answered.wait()
            raise UnavailableError("gone")

    answered = threading.Event()
    courier = Courier(outbox, Hanging(), 0.05)
    reporter = Reporter(outbox, courier, 0.05, float)
    courier.start()
    reporter.start()
    numbers = itertools.count(1)
    wait_until(lambda: count(counter, 1) or next(numbers) > 3 and outbox.pending >= 5)
    begin = monotonic()
    reporter.stop(begin + 0.5)
    assert not reporter.is_alive()
    assert courier.is_alive(), "nobody waits for it any longer"
    assert sum(point.requests for point in outbox.oldest(1000)) == counter.total()
    answered.set()
    courier.join()
