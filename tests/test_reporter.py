"""The reporter: its schedule, what it delivers in which order, and what it logs, with an InfluxDB that is none."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import sqlite3
import threading
from time import monotonic, time_ns

import pytest
from books import count
from daemons import wait_until
from states import opened

import webserver_influx
from webserver_influx import Rejected, Reporter, Trouble


class TakesAll:
    """An InfluxDB that takes every point, until it is given trouble."""

    def __init__(self) -> None:
        self.points: list[tuple[int, int]] = []
        self.trouble = ""

    def connect(self) -> None:
        if self.trouble:
            raise Trouble(self.trouble)

    def write(self, points) -> None:
        if self.trouble:
            raise Trouble(self.trouble)
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
    reporter.attempt(lambda: reporter.report(float("inf")))


@pytest.mark.smoke
def test_trouble_is_logged_once_for_each_change(reporter, influxdb, caplog):
    caplog.set_level(logging.INFO)
    for trouble in ("gone", "gone", "gone", "locked", "locked", "", "", "gone", "gone"):
        influxdb.trouble = trouble
        a_round(reporter)
    said = [record.getMessage() for record in caplog.records if "requests in" not in record.getMessage()]
    well = "All is well again: InfluxDB takes points"
    assert [line.partition(";")[0] for line in said] == ["gone", "locked", well, "gone"]
    assert all("; points wait in " in line for line in said if not line.startswith(well))


@pytest.mark.smoke
def test_what_keeps_influxdb_from_being_looked_for_keeps_no_point_from_being_written(
    counter, reporter, influxdb, monkeypatch
):
    """Some answer a write only, and who asks them something else waits in vain."""
    monkeypatch.setattr(influxdb, "connect", lambda: pytest.fail("it was looked for"))
    count(counter, 3)
    a_round(reporter)
    assert [number for _, number in influxdb.points] == [3]


@pytest.mark.smoke
def test_before_there_is_a_point_influxdb_is_looked_for(reporter, influxdb, caplog):
    """So that a person who starts the server with a wrong address learns it at once."""
    influxdb.trouble = "gone"
    reporter.attempt(reporter.deliver, float("inf"))
    assert [line.partition(";")[0] for line in warnings_in(caplog)] == ["gone"]


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
    assert re.search(r" \([\d,]+/s, at most [\d,]+/s\); ", lines[0])
    assert "points waiting" in lines[0]
    assert lines[1].startswith("0 requests in ")
    assert lines[1].endswith("delivered to InfluxDB")


@pytest.mark.smoke
def test_the_first_time_that_influxdb_takes_points_is_one_line_with_how_many_had_waited(outbox, reporter, caplog):
    caplog.set_level(logging.INFO)
    outbox.record(time_ns())
    outbox.record(time_ns())
    for _ in range(3):
        a_round(reporter)
    lines = [message for message in caplog.messages if message.startswith("InfluxDB takes points")]
    assert lines == ["InfluxDB takes points; 3 points had waited"]


@pytest.mark.smoke
def test_a_quiet_reporter_tells_at_the_end_the_most_of_the_last_interval(outbox, influxdb, caplog):
    caplog.set_level(logging.INFO)
    reporter = Reporter(outbox, influxdb, 60.0, iter((9000.0, 20.0)).__next__, quiet=True)
    a_round(reporter)
    reporter.start()
    reporter.stop(monotonic() + 5)
    (line,) = (message for message in caplog.messages if "requests in" in message)
    assert "at most 20/s" in line


@pytest.mark.smoke
def test_a_round_that_the_end_overtakes_does_not_call_lost_what_may_still_be_delivered(influxdb, caplog):
    """The program records its last point while the thread may still be telling of the point before."""
    caplog.set_level(logging.INFO)
    with opened(":memory:", ":memory:") as (_, outbox):
        reporter = Reporter(outbox, influxdb, 60.0)
        reporter.stopping.set()
        reporter.report(float("-inf"))
        assert caplog.messages[-1].endswith("; points waiting in memory: 1")
        influxdb.trouble = "gone"
        reporter.stopping.clear()
        reporter.start()
        reporter.stop(monotonic() + 5)
    assert caplog.messages[-1].endswith("; points lost, as they were in memory only: 2")


@pytest.mark.smoke
def test_points_that_influxdb_rejected_are_not_said_to_be_delivered(counter, reporter, influxdb, caplog, monkeypatch):
    def write(points):
        raise Rejected("points beyond retention policy")

    caplog.set_level(logging.INFO)
    with monkeypatch.context() as rejecting:
        rejecting.setattr(influxdb, "write", write)
        a_round(reporter)
        assert reporter.status == "InfluxDB rejects points"
    a_round(reporter)
    assert reporter.status == "InfluxDB takes points"
    fates = [message.rpartition("; ")[2] for message in caplog.messages if "requests in" in message]
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
def test_two_troubles_at_once_are_two_log_lines(tmp_path, outbox, reporter, influxdb, caplog):
    outbox.database.execute("PRAGMA busy_timeout = 10")
    influxdb.trouble = "gone"
    with contextlib.closing(sqlite3.connect(tmp_path / "state", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            a_round(reporter)
            reporter.attempt(reporter.deliver, float("inf"))
        other.execute("ROLLBACK")
    a_round(reporter)
    locked, gone = warnings_in(caplog)
    assert "database is locked" in locked
    assert gone.startswith("gone; ")


@pytest.mark.smoke
def test_what_waits_is_delivered_though_no_point_can_be_recorded(counter, outbox, reporter, influxdb, monkeypatch):
    def record(now):
        raise sqlite3.OperationalError("database or disk is full")

    count(counter, 4)
    outbox.record(time_ns())
    monkeypatch.setattr(outbox, "record", record)
    a_round(reporter)
    assert [number for _, number in influxdb.points] == [4]


@pytest.mark.smoke
def test_a_system_that_has_no_file_left_is_one_log_line_and_no_bug(reporter, influxdb, caplog, monkeypatch):
    def write(points):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(influxdb, "write", write)
    for _ in range(3):
        a_round(reporter)
    (line,) = warnings_in(caplog)
    assert "Too many open files" in line
    assert "bug" not in line


@pytest.mark.smoke
def test_a_bug_in_a_round_is_logged_once_and_the_next_round_goes_on(counter, reporter, influxdb, caplog, monkeypatch):
    monkeypatch.setattr(influxdb, "write", lambda points: 1 / 0)
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


@pytest.mark.smoke
def test_dropped_0_is_believed_of_a_point_that_stands_alone(outbox, since, reporter, influxdb, monkeypatch):
    """It is stored then. Of a batch it says nothing about those that could not be parsed."""

    def write(points):
        sent.append(len(points))
        raise Rejected("partial write: unable to parse dropped=0", 0)

    sent: list[int] = []
    monkeypatch.setattr(influxdb, "write", write)
    for step in range(1, 4):
        outbox.record(since + step)
    reporter.deliver(float("inf"))
    assert sent == [3, 1, 2, 1, 1]
    assert outbox.waiting() == 0
    assert outbox.database.execute("SELECT * FROM rejected").fetchall() == []


@pytest.mark.smoke
def test_a_fault_whose_message_holds_another_number_each_time_is_logged_once(reporter, influxdb, caplog):
    for number in range(3):
        influxdb.trouble = f"partial write: no space left on device dropped={number}"
        a_round(reporter)
    assert len(warnings_in(caplog)) == 1


@pytest.mark.smoke
@pytest.mark.parametrize("where", ["write", "record", "oldest"])
@pytest.mark.parametrize(
    "error", [MemoryError(), RecursionError(), SystemExit(1), KeyboardInterrupt(), OSError(28, "")]
)
def test_the_reporter_survives_whatever_a_round_raises(counter, outbox, influxdb, monkeypatch, where, error, caplog):
    def fail(*_):
        failures.append(error)
        raise error

    failures: list[BaseException] = []
    count(counter, 3)
    reporter = Reporter(outbox, influxdb, 0.01)
    with monkeypatch.context() as failing:
        failing.setattr(outbox if where in ("record", "oldest") else influxdb, where, fail)
        reporter.start()
        wait_until(lambda: len(failures) >= 3)
    wait_until(lambda: influxdb.points)
    reporter.stop(monotonic() + 5)
    assert sum(number for _, number in influxdb.points) == 3
    assert len(warnings_in(caplog)) <= 2


@pytest.mark.smoke
def test_the_reporter_survives_an_error_that_cannot_be_logged(outbox, influxdb, monkeypatch):
    class Unspeakable(Exception):
        def __repr__(self):
            raise MemoryError

        __str__ = __repr__

    def fail(points):
        failures.append(1)
        raise Unspeakable

    failures: list[int] = []
    reporter = Reporter(outbox, influxdb, 0.01)
    with monkeypatch.context() as failing:
        failing.setattr(influxdb, "write", fail)
        reporter.start()
        wait_until(lambda: len(failures) >= 3)
    wait_until(lambda: influxdb.points)
    reporter.stop(monotonic() + 5)


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
        return self.rounds < 0

    def set(self) -> None:
        pass


class SlowOutbox:
    """An outbox in which recording takes the seconds that it is given, one after the other."""

    path = display_name = "state"

    def __init__(self, clock: Clock, seconds: list[float]) -> None:
        self.clock, self.seconds, self.recorded = clock, seconds, []

    def record(self, now: int) -> int:
        self.recorded.append(self.clock.now)
        self.clock.now += self.seconds.pop(0)
        return 1

    def concerns(self) -> list[str]:
        return []

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
    clock = Clock(monkeypatch, rounds=4)
    outbox = SlowOutbox(clock, [each or 0.001 for each in seconds])
    reporter = Reporter(outbox, TakesAll(), 60.0)
    reporter.stopping = clock
    reporter.run()
    assert [round(when, 1) for when in outbox.recorded] == recorded
    assert not warnings_in(caplog)


class Away:
    """An InfluxDB that cannot be reached, which takes some seconds to find out, until it is back."""

    def __init__(self, clock: Clock, seconds: float, back: float, retry_after: float) -> None:
        self.clock, self.seconds, self.back, self.retry_after = clock, seconds, back, retry_after
        self.tries: list[float] = []

    def connect(self) -> None:
        self.tries.append(self.clock.now)
        if self.clock.now < self.back:
            self.clock.now += self.seconds
            raise Trouble("away", self.retry_after)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("interval", "seconds", "back", "retry_after", "tries"),
    [
        (60, 0, 1000, 0, [0, 1, 3, 7, 15, 31, 60, 120, 180]),
        (60, 0, 50, 0, [0, 1, 3, 7, 15, 31, 60, 120]),
        (60, 0, 61, 0, [0, 1, 3, 7, 15, 31, 60, 120, 180]),
        (60, 10, 1000, 0, [0, 11, 23, 37, 60, 86, 120, 180]),
        (60, 0, 5, 20, [0, 20, 60, 120]),
        (60, 0, 1000, 3600, [0, 60, 120]),
        (0.5, 0, 1000, 0, [0, 0.5, 1, 1.5]),
        (3600, 0, 1000, 0, [0, 1, 3, 7, 15, 31, 63, 127, 255, 511, 1023, 3600]),
    ],
)
def test_a_fault_is_tried_again_soon_and_points_are_recorded_on_the_beat(
    monkeypatch, interval, seconds, back, retry_after, tries
):
    clock = Clock(monkeypatch, rounds=len(tries) - 2)
    influxdb = Away(clock, seconds, back, retry_after)
    outbox = SlowOutbox(clock, [0.0] * len(tries))
    reporter = Reporter(outbox, influxdb, interval)
    reporter.stopping = clock
    reporter.run()
    assert influxdb.tries[: len(tries) - 1] == tries[:-1]
    assert outbox.recorded == [when for when in tries[1:-1] if when % interval == 0]


@pytest.mark.smoke
def test_a_fault_that_was_away_in_between_is_tried_again_soon(reporter, influxdb):
    for trouble, pause in (("gone", 1), ("gone", 2), ("gone", 4), ("", 0), ("gone", 1)):
        influxdb.trouble = trouble
        a_round(reporter)
        assert reporter.pause == pause


@pytest.mark.smoke
def test_a_step_of_the_clock_by_more_than_an_interval_is_one_line(monkeypatch, caplog):
    clock = Clock(monkeypatch, rounds=0)
    reporter = Reporter(SlowOutbox(clock, [0.001] * 12), TakesAll(), 60.0)
    for ahead in (0, 59, 0, 86400, 86400, 86400, 0, 0, -3600, -3600):
        clock.ahead = ahead
        clock.now += 60
        a_round(reporter)
    assert warnings_in(caplog) == [
        "The system's clock went forward by 86400 s: it was set, or the machine was asleep",
        "The system's clock was set back by 86400 s",
        "The system's clock was set back by 3600 s",
    ]


@pytest.mark.smoke
def test_two_reports_in_one_tick_of_a_coarse_clock_are_no_bug(monkeypatch, caplog):
    """Windows' monotonic clock has ticks of 16 ms."""
    clock = Clock(monkeypatch, rounds=1)
    a_round(Reporter(SlowOutbox(clock, [0.0]), TakesAll(), 60.0))
    assert not warnings_in(caplog)


@pytest.mark.smoke
def test_delivery_ends_when_the_next_point_is_due(outbox, since, reporter, influxdb, monkeypatch):
    clock = Clock(monkeypatch, rounds=1)

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
    reporter.stop(monotonic() + 5)
    assert not reporter.is_alive()
    assert [number for _, number in influxdb.points] == [9]


@pytest.mark.smoke
def test_a_delivery_that_the_program_does_not_wait_for_says_nothing(outbox, reporter, influxdb, caplog, monkeypatch):
    def write_late(points):
        writing.set()
        closed.wait()

    writing, closed = threading.Event(), threading.Event()
    monkeypatch.setattr(influxdb, "write", write_late)
    outbox.record(time_ns())
    reporter.start()
    assert writing.wait(60)
    reporter.stop(monotonic() + 0.1)
    outbox.close()
    closed.set()
    reporter.join()
    assert not warnings_in(caplog)


@pytest.mark.smoke
def test_an_end_at_which_nothing_can_be_recorded_delivers_what_waits(outbox, reporter, influxdb, caplog, monkeypatch):
    def record(now):
        raise sqlite3.OperationalError("database is locked")

    caplog.set_level(logging.INFO)
    reporter.start()
    wait_until(reporter.is_alive)
    outbox.record(time_ns())
    monkeypatch.setattr(outbox, "record", record)
    reporter.stop(monotonic() + 1)
    assert not reporter.is_alive()
    assert len(influxdb.points) == 1
    *others, last = caplog.messages
    assert sorted("database is locked" in message for message in others) == [False, True]  # and InfluxDB takes points
    assert last.startswith("The last point was not recorded: its requests are counted in ")


@pytest.mark.smoke
@pytest.mark.parametrize("step", ["concerns", "record", "oldest", "remove", "waiting"])
@pytest.mark.parametrize(
    "error",
    [ValueError("odd"), OSError(5, "Input/output error"), sqlite3.OperationalError("disk I/O error"), MemoryError()],
    ids=["bug", "system", "SQLite", "memory"],
)
def test_the_thread_survives_whatever_a_round_raises(counter, outbox, influxdb, monkeypatch, caplog, step, error):
    reporter = Reporter(outbox, influxdb, 0.01)
    failed = threading.Event()

    def fail(*arguments):
        failed.set()
        raise error

    with monkeypatch.context() as failing:
        failing.setattr(outbox, step, fail)
        reporter.start()
        count(counter, 3)
        assert failed.wait(60)
        failed.clear()
        assert failed.wait(60), "it did not come again"
    wait_until(lambda: sum(number for _, number in {*influxdb.points}) == 3)
    assert reporter.is_alive()
    reporter.stop(monotonic() + 5)
    assert not reporter.is_alive()
    assert warnings_in(caplog)
