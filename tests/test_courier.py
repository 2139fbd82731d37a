"""The courier: what it delivers in which order, what it sets aside, and what it logs, with an InfluxDB that is none."""

from __future__ import annotations

import contextlib
import itertools
import logging
import re
import sqlite3
import threading
from time import monotonic, time_ns

import pytest
from books import SECOND, count
from daemons import PATIENCE_S, wait_until
from states import opened

import webserver_influx
from webserver_influx import Courier, Point, RefusedError, UnavailableError, counted, interval_line

WELL = "All is well again: InfluxDB takes points"


def refused(words: str) -> RefusedError:
    """What InfluxDB.write() raises of a 400 in these words."""
    return RefusedError(f"InfluxDB answers 400 Bad Request: {words}", 400, words)


class Fake:
    """An InfluxDB that takes every point; but as it is told to, none now, or none that is at fault.

    As the real one, it stores the others of a batch in which some are at fault.
    """

    name = "InfluxDB"

    def __init__(self) -> None:
        self.stored: dict[int, int] = {}  # by time
        self.trouble = ""
        self.retry_after = 0.0
        self.words = ""  # of a refusal of all
        self.at_fault = lambda point: False
        self.began = float("inf")
        self.is_exact = True  # whether it says how many it dropped
        self.writes: list[list[Point]] = []

    def check_reachable(self) -> None:
        if self.trouble:
            raise UnavailableError(self.trouble, 503, "", self.retry_after)

    def write(self, points: list[Point]) -> None:
        self.writes.append(list(points))
        self.check_reachable()
        if self.words:
            raise refused(self.words)
        bad = [point for point in points if self.at_fault(point)]
        self.stored.update({point.time: point.requests for point in points if point not in bad})
        if bad:
            raise refused(f"bad points{f' dropped={len(bad)}' if self.is_exact else ''}")

    def total(self) -> int:
        return sum(self.stored.values())


@pytest.fixture
def influxdb() -> Fake:
    return Fake()


class Rounds:
    """A courier without its thread: a round is what it does when an interval has ended."""

    def __init__(self, outbox, influxdb, **options) -> None:
        self.outbox = outbox
        self.courier = Courier(outbox, influxdb, 60.0, **options)
        self.pause = 0.0

    def deliver(self) -> None:
        self.courier.wakeup.clear()
        self.pause = self.courier.round(self.pause)

    def a_round(self, seconds: float = 60.0) -> None:
        point = self.outbox.record(time_ns())
        self.courier.hand_over(interval_line(point.requests, seconds, 0.0))
        self.deliver()


@pytest.fixture
def rounds(outbox, influxdb) -> Rounds:
    return Rounds(outbox, influxdb)


def record_many(outbox, number: int) -> None:
    """Many points at once, of a request each."""
    with outbox.database:
        outbox.database.executemany(
            "INSERT INTO requests SELECT since + ?, 1, serial + ? FROM state",
            [(step, step) for step in range(1, number + 1)],
        )
        outbox.database.execute("UPDATE state SET serial = serial + ?", (number,))
    outbox.count_pending()


def rejected_in(outbox) -> list[tuple[int, str]]:
    return outbox.database.execute("SELECT serial, reason FROM rejected ORDER BY serial").fetchall()


def warnings_in(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# --- what is delivered


@pytest.mark.smoke
def test_points_are_delivered_in_order_in_batches(outbox, rounds, influxdb):
    record_many(outbox, 2500)
    points = outbox.oldest(3000)
    rounds.deliver()
    assert [len(batch) for batch in influxdb.writes] == [1000, 1000, 500]
    assert list(itertools.chain(*influxdb.writes)) == points
    assert outbox.pending == 0


@pytest.mark.smoke
def test_a_backlog_lets_each_interval_be_logged_when_it_ends(outbox, rounds, influxdb, caplog):
    caplog.set_level(logging.INFO)
    record_many(outbox, 2500)
    rounds.courier.hand_over(interval_line(1, 60.0, 0.0))
    rounds.courier.round(0.0)
    rounds.deliver()
    assert outbox.pending == 0
    takes, line = caplog.messages
    assert takes == "InfluxDB takes points; 2,500 points had waited"
    assert line.endswith("; delivered to InfluxDB")


@pytest.mark.parametrize("quiet", [False, True])
def test_no_interval_is_logged_before_its_point_was_tried(outbox, influxdb, caplog, quiet):
    """Even if it is handed over while the courier decides whether to log intervals."""
    caplog.set_level(logging.INFO)
    rounds = Rounds(outbox, influxdb, quiet=quiet)
    courier = rounds.courier
    outbox.record(time_ns())
    hands_over = threading.Thread(target=courier.hand_over, args=("the last interval",))
    is_set = courier.wakeup.is_set

    def is_set_meanwhile() -> bool:
        was_set = is_set()
        if not hands_over.ident:
            outbox.record(time_ns())
            hands_over.start()
            hands_over.join(0.2)  # with the lock, it waits for the end of the decision
        return was_set

    courier.wakeup.is_set = is_set_meanwhile
    courier.round(0.0)
    hands_over.join()
    assert outbox.pending == 1
    assert not [line for line in caplog.messages if "interval" in line]
    courier.round(0.0, is_last=True)
    assert caplog.messages[-1] == "the last interval; delivered to InfluxDB"


def test_an_interval_is_handed_over_while_a_frozen_disk_holds_up_the_reason_of_a_failure(
    rounds, influxdb, monkeypatch, at_end
):
    asked, freed = threading.Event(), threading.Event()
    monkeypatch.setattr(webserver_influx, "log_failure", lambda *_: asked.set() or freed.wait(PATIENCE_S))
    influxdb.trouble = "gone"
    courier = threading.Thread(target=rounds.deliver)
    at_end.callback(courier.join)
    at_end.callback(freed.set)
    courier.start()
    assert asked.wait(PATIENCE_S)
    reporter = threading.Thread(target=rounds.courier.hand_over, args=("an interval",))
    reporter.start()
    reporter.join(PATIENCE_S / 2)
    assert not reporter.is_alive()


@pytest.mark.smoke
def test_before_there_is_a_point_influxdb_is_looked_for(rounds, influxdb, caplog):
    """So that a person who starts the server with a wrong address learns it at once."""
    influxdb.trouble = "gone"
    rounds.deliver()
    assert [line.partition(";")[0] for line in warnings_in(caplog)] == ["gone"]
    assert rounds.courier.status == "InfluxDB takes no points"


@pytest.mark.smoke
def test_what_keeps_influxdb_from_being_looked_for_keeps_no_point_from_being_written(
    counter, rounds, influxdb, monkeypatch
):
    """Some answer a write only, and who asks them something else waits in vain."""
    monkeypatch.setattr(influxdb, "check_reachable", lambda: None)
    monkeypatch.setattr(rounds.courier.influxdb, "check_reachable", lambda: pytest.fail("it was looked for"))
    monkeypatch.setattr(influxdb, "write", lambda points: influxdb.stored.update({point.time: 1 for point in points}))
    rounds.a_round()
    assert len(influxdb.stored) == 1


# --- what is set aside


def test_only_the_points_at_fault_are_set_aside(outbox, rounds, influxdb, caplog):
    influxdb.at_fault = lambda point: point.serial % 97 == 0
    record_many(outbox, 1500)
    rounds.deliver()
    assert [serial for serial, _ in rejected_in(outbox)] == list(range(97, 1501, 97))
    assert len(influxdb.stored) == 1500 - 1500 // 97
    assert outbox.pending == 0
    assert len(warnings_in(caplog)) == 1


@pytest.mark.smoke
@pytest.mark.parametrize("is_exact", [True, False], ids=["with the number dropped", "without"])
@pytest.mark.parametrize("number", [1, 3, 1000, 1500])
def test_points_that_are_refused_while_newer_ones_are_taken_are_set_aside(outbox, rounds, influxdb, number, is_exact):
    influxdb.at_fault = lambda point: point.serial <= number
    influxdb.is_exact = is_exact
    record_many(outbox, number + 2)
    rounds.deliver()
    assert [serial for serial, _ in rejected_in(outbox)] == list(range(1, number + 1))
    assert all("bad points" in reason for _, reason in rejected_in(outbox))
    assert outbox.pending == 0
    assert len(influxdb.stored) == 2
    if is_exact:
        assert len(influxdb.writes) < 50


@pytest.mark.smoke
def test_a_thousand_points_that_are_all_at_fault_take_a_handful_of_writes(outbox, rounds, influxdb):
    influxdb.at_fault = lambda point: point.serial <= 1000
    record_many(outbox, 1001)
    rounds.deliver()
    assert [len(batch) for batch in influxdb.writes] == [1000, 1, 1000, 1]
    assert len(rejected_in(outbox)) == 1000


@pytest.mark.smoke
@pytest.mark.parametrize("words", ["partial write: points beyond retention policy dropped=1000", "what nobody knows"])
def test_when_influxdb_refuses_the_point_recorded_last_as_well_all_wait(outbox, rounds, influxdb, caplog, words):
    """A full disk, a limit, a gateway, a type that conflicts everywhere: the fault is not theirs."""
    influxdb.words = words
    record_many(outbox, 1500)
    rounds.deliver()
    assert [len(batch) for batch in influxdb.writes] == [1000, 1], "at the cost of one more write"
    assert influxdb.writes[1][0].serial == 1500
    assert outbox.pending == 1500
    assert rejected_in(outbox) == []
    (line,) = warnings_in(caplog)
    assert line == f"InfluxDB answers 400 Bad Request: {words}; points wait in {outbox.path}"
    influxdb.words = ""
    rounds.deliver()
    assert outbox.pending == 0


@pytest.mark.smoke
def test_a_fault_that_begins_while_points_are_told_apart_sets_nothing_aside(outbox, rounds, influxdb):
    """They are refused alone, while a newer one was taken before that; but not after it."""

    def write(points, write=influxdb.write):
        if len(influxdb.writes) == 3:
            influxdb.words = "no space left on device"
        write(points)

    influxdb.at_fault = lambda point: point.serial == 1
    influxdb.write = write
    record_many(outbox, 8)
    rounds.deliver()
    assert rejected_in(outbox) == []
    assert outbox.pending > 1
    influxdb.words = ""
    rounds.deliver()
    assert [serial for serial, _ in rejected_in(outbox)] == [1]
    assert influxdb.total() == 7


@pytest.mark.smoke
def test_a_fault_of_a_batch_after_one_that_was_taken_sets_nothing_aside(outbox, rounds, influxdb):
    def write(points, write=influxdb.write):
        if len(influxdb.writes) == 1:
            influxdb.words = "no space left on device"
        write(points)

    influxdb.write = write
    record_many(outbox, 1500)
    rounds.deliver()
    assert rejected_in(outbox) == []
    assert outbox.pending == 500


@pytest.mark.smoke
def test_the_point_recorded_last_decides_and_not_the_one_with_the_latest_time(counter, outbox, rounds, influxdb):
    """A clock was ahead, by more than InfluxDB takes."""
    now = time_ns()
    influxdb.at_fault = lambda point: point.time > now + SECOND
    for at in (now + 10**6 * SECOND, now - SECOND):
        count(counter, 1)
        outbox.record(at)
    rounds.deliver()
    assert [serial for serial, _ in rejected_in(outbox)] == [1]
    assert influxdb.total() == 1


@pytest.mark.smoke
def test_a_point_taken_before_is_a_witness_when_only_those_at_fault_wait(outbox, rounds, influxdb):
    rounds.a_round()
    influxdb.at_fault = lambda point: point.serial == 0
    outbox.database.execute("INSERT INTO requests VALUES (1, 5, 0)")
    outbox.database.commit()
    rounds.deliver()
    assert [serial for serial, _ in rejected_in(outbox)] == [0]


@pytest.mark.smoke
def test_a_batch_that_is_too_large_is_sent_in_parts(outbox, rounds, influxdb, monkeypatch):
    def write(points):
        if len(points) > 100:
            raise refused("Request Entity Too Large")
        influxdb.stored.update({point.time: point.requests for point in points})

    monkeypatch.setattr(influxdb, "write", write)
    record_many(outbox, 1000)
    rounds.deliver()
    assert influxdb.total() == 1000
    assert rejected_in(outbox) == []


@pytest.mark.smoke
def test_what_was_rejected_is_offered_again_once_influxdb_takes_a_point(counter, outbox, influxdb, caplog):
    """At each start. Before, nobody could tell whose fault a refusal is."""
    influxdb.at_fault = lambda point: point.requests == 7
    first = Rounds(outbox, influxdb)
    count(counter, 7)
    first.a_round()
    first.a_round()
    second = Rounds(outbox, influxdb)
    second.deliver()
    assert [serial for serial, _ in rejected_in(outbox)] == [1]
    assert len(warnings_in(caplog)) == 2, "not yet: the first point alone was refused, so it was to wait"
    second.a_round()
    assert [serial for serial, _ in rejected_in(outbox)] == [1]
    assert len(warnings_in(caplog)) == 3
    second.a_round()
    assert len(warnings_in(caplog)) == 3
    influxdb.at_fault = lambda point: False
    third = Rounds(outbox, influxdb)
    third.a_round()
    assert rejected_in(outbox) == []
    assert influxdb.total() == 7


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("words", "dropped"),
    [
        ("partial write: points beyond retention policy dropped=2", 2),
        (
            "partial write: dropped 3 points outside retention policy of duration 1h0m0s - oldest point requests,host=a"
            " at 1970-01-01T00:00:01Z dropped because it violates a Retention Policy dropped=3 for database:"
            " math_server for retention policy: autogen",
            3,
        ),
        (
            "failure writing points to database: partial write: dropped 1 points outside retention policy of duration "
            "1h0m0s - oldest point requests,dropped\\=9=a at 1970 dropped=1 for database: 0f for retention policy: a",
            1,
        ),
        ("partial write: field type conflict: input field is type integer, already exists as type float dropped=1", 1),
        ("unable to parse 'requests,host=dropped\\=7 x'", 0),
        ("max-series-per-database limit exceeded: (1) dropped=1", 1),
        ("", 0),
    ],
)
def test_how_many_points_were_dropped_is_read_in_the_words_of_each_version(words, dropped):
    assert refused(words).dropped == dropped


# --- what is logged


@pytest.mark.smoke
def test_trouble_is_logged_once_for_each_change(rounds, influxdb, caplog):
    caplog.set_level(logging.INFO)
    for trouble in ("gone", "gone", "gone", "locked", "locked", "", "", "gone", "gone"):
        influxdb.trouble = trouble
        rounds.a_round()
    said = [message for message in caplog.messages if "requests in" not in message]
    assert [line.partition(";")[0] for line in said] == ["gone", "locked", WELL, "gone"]
    assert all("; points wait in " in line for line in said if not line.startswith(WELL))
    assert said[2] == f"{WELL}; 6 points had waited"


@pytest.mark.smoke
def test_a_fault_whose_message_holds_another_number_each_time_is_logged_once(rounds, influxdb, caplog):
    for number in range(3):
        influxdb.trouble = f"partial write: no space left on device dropped={number}"
        rounds.a_round()
    assert len(warnings_in(caplog)) == 1


@pytest.mark.smoke
def test_each_interval_has_one_line_that_says_how_many_and_where_they_are(counter, rounds, influxdb, caplog):
    caplog.set_level(logging.INFO)
    count(counter, 12)
    influxdb.trouble = "gone"
    rounds.a_round()
    influxdb.trouble = ""
    rounds.a_round()
    first, second = [message for message in caplog.messages if "requests in" in message]
    place = re.escape(rounds.outbox.path)
    assert re.fullmatch(rf"12 requests in 60 s; points waiting in {place}: 1", first)
    assert second == "0 requests in 60 s; delivered to InfluxDB"


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("requests", "seconds", "peak", "line"),
    [
        (636_200, 60.0, 68_140.4, "636,200 requests in 60 s (10,603/s, at most 68,140/s)"),
        (90, 60.0, 3.0, "90 requests in 60 s (1.5/s, at most 3/s)"),
        (1, 60.0, 1.0, "1 request in 60 s"),
        (30, 60.0, 9.0, "30 requests in 60 s"),
        (0, 60.0, 0.0, "0 requests in 60 s"),
        (12, 0.02, 0.0, "12 requests in 0.02 s"),
        (12, 0.0, 0.0, "12 requests in 0 s"),
    ],
)
def test_an_interval_is_told_without_a_rate_that_says_nothing(requests, seconds, peak, line):
    assert interval_line(requests, seconds, peak) == line


@pytest.mark.smoke
def test_the_first_time_that_influxdb_takes_points_is_one_line_with_how_many_had_waited(outbox, rounds, caplog):
    caplog.set_level(logging.INFO)
    outbox.record(time_ns())
    outbox.record(time_ns())
    for _ in range(3):
        rounds.a_round()
    lines = [message for message in caplog.messages if message.startswith("InfluxDB takes points")]
    assert lines == ["InfluxDB takes points; 3 points had waited"]


@pytest.mark.smoke
def test_influxdb_is_not_said_to_take_points_before_it_has_taken_one(rounds, influxdb, caplog):
    caplog.set_level(logging.INFO)
    rounds.deliver()  # it is there
    assert rounds.courier.status == "no point sent yet"
    influxdb.trouble = "database not found"
    rounds.a_round()
    assert rounds.courier.status == "1 point waiting"
    influxdb.trouble = ""
    rounds.a_round()
    assert rounds.courier.status == "InfluxDB takes points"


@pytest.mark.smoke
def test_points_that_influxdb_rejected_are_not_said_to_be_delivered(counter, rounds, influxdb, caplog):
    caplog.set_level(logging.INFO)
    influxdb.at_fault = lambda point: point.serial == 1
    for _ in range(3):
        rounds.a_round()
    fates = [message.rpartition("; ")[2] for message in caplog.messages if "requests in" in message]
    assert [fate.partition(" in ")[0] for fate in fates] == [
        "points waiting",
        "points that InfluxDB rejected: 1",
        "delivered to InfluxDB",
    ]


@pytest.mark.smoke
def test_a_point_that_is_rejected_is_in_the_log_even_if_its_delivery_logs_no_interval(outbox, rounds, influxdb, caplog):
    """As when the next interval ends meanwhile."""
    caplog.set_level(logging.INFO)
    influxdb.at_fault = lambda point: point.serial % 3 == 1
    rounds.a_round()
    for expected in (1, 2):
        for _ in range(2):
            point = outbox.record(time_ns())
            rounds.courier.hand_over(interval_line(point.requests, 60.0, 0.0))
            rounds.courier.round(0.0)  # without a look at the log: another interval waits
        rounds.deliver()
        fates = [message.rpartition("; ")[2] for message in caplog.messages if "requests in" in message]
        assert "points that InfluxDB rejected: 1" in fates
        assert len(rejected_in(outbox)) == expected
        assert rounds.courier.status == counted(expected, "point") + " rejected"
        caplog.clear()


@pytest.mark.smoke
def test_a_locked_database_is_one_log_line_and_the_points_follow(tmp_path, counter, outbox, rounds, influxdb, caplog):
    count(counter, 4)
    outbox.record(time_ns())
    outbox.database.execute("PRAGMA busy_timeout = 10")
    with contextlib.closing(sqlite3.connect(tmp_path / "state", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            rounds.deliver()
        other.execute("COMMIT")
    (line,) = warnings_in(caplog)
    assert line.startswith(f"No point can be delivered: {outbox.path}: database is locked")
    rounds.deliver()
    assert influxdb.total() == 4
    assert outbox.pending == 0


@pytest.mark.smoke
def test_a_bug_in_a_round_is_logged_once_and_the_next_round_goes_on(counter, rounds, influxdb, caplog, monkeypatch):
    with monkeypatch.context() as failing:
        failing.setattr(influxdb, "write", lambda points: 1 / 0)
        for _ in range(3):
            count(counter, 1)
            rounds.a_round()
    assert sum("division by zero" in line for line in warnings_in(caplog)) == 1
    rounds.a_round()
    assert influxdb.total() == 3


# --- when it tries again


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("longest", "retry_after", "pauses"),
    [(60, 0, [1, 2, 4, 8, 16, 32, 60, 60]), (60, 20, [20, 40, 60, 60]), (0.5, 0, [0.5, 0.5]), (60, 3600, [60, 60])],
)
def test_a_fault_is_tried_again_soon_and_then_more_and_more_rarely(outbox, influxdb, longest, retry_after, pauses):
    rounds = Rounds(outbox, influxdb)
    rounds.courier.longest_pause = longest
    influxdb.trouble, influxdb.retry_after = "gone", retry_after
    seen = []
    for _ in pauses:
        rounds.deliver()
        seen.append(rounds.pause)
    assert seen == pauses
    influxdb.trouble = ""
    rounds.deliver()
    assert rounds.pause == 0
    influxdb.trouble, influxdb.retry_after = "gone", 0
    rounds.deliver()
    assert rounds.pause == min(1, longest)


# --- the thread


class Started:
    """A courier that runs, and what a reporter would do with it."""

    def __init__(self, outbox, influxdb, **options) -> None:
        self.outbox = outbox
        self.courier = Courier(outbox, influxdb, 0.05, **options)
        self.courier.start()

    def report(self, is_last: bool = False) -> None:
        point = self.outbox.record(time_ns())
        interval = interval_line(point.requests, 60.0, 0.0)
        if is_last:
            self.last = interval
        else:
            self.courier.hand_over(interval)


@pytest.mark.smoke
def test_the_thread_delivers_each_point_and_the_last_one_ends_it(counter, outbox, influxdb, caplog):
    caplog.set_level(logging.INFO)
    started = Started(outbox, influxdb)
    for number in (1, 2, 3):
        count(counter, number)
        started.report(is_last=number == 3)
    started.courier.stop(started.last, monotonic() + 5)
    assert not started.courier.is_alive()
    assert influxdb.total() == 6
    assert sum("request" in message for message in caplog.messages) == 3


@pytest.mark.smoke
def test_a_quiet_courier_logs_the_last_interval_only(outbox, influxdb, caplog):
    caplog.set_level(logging.INFO)
    started = Started(outbox, influxdb, quiet=True)
    started.report()
    wait_until(lambda: influxdb.stored)
    started.report(is_last=True)
    started.courier.stop(started.last, monotonic() + 5)
    assert sum("requests in" in message for message in caplog.messages) == 1


@pytest.mark.smoke
@pytest.mark.parametrize("is_lost", [True, False])
def test_points_in_memory_only_are_called_lost_at_the_end_and_not_before(influxdb, caplog, is_lost):
    caplog.set_level(logging.INFO)
    with opened(":memory:", ":memory:") as (_, outbox):
        influxdb.trouble = "gone"
        started = Started(outbox, influxdb)
        started.report()
        wait_until(lambda: any(message.endswith("; points waiting in memory: 1") for message in caplog.messages))
        influxdb.trouble = "gone" if is_lost else ""
        started.report(is_last=True)
        started.courier.stop(started.last, monotonic() + 5)
    fate = "points lost, as they were in memory only: 2" if is_lost else "delivered to InfluxDB"
    assert caplog.messages[-1].endswith(f"; {fate}")


class Slow(Fake):
    """Answers when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.answer = threading.Event(), threading.Event()

    def write(self, points) -> None:
        self.began = monotonic()
        self.asked.set()
        assert self.answer.wait(60)
        self.began = float("inf")
        super().write(points)


@pytest.mark.smoke
def test_the_end_waits_for_a_slow_delivery_until_its_deadline_and_logs_each_interval_once(counter, outbox, caplog):
    caplog.set_level(logging.INFO)
    influxdb = Slow()
    started = Started(outbox, influxdb)
    count(counter, 5)
    started.report()
    assert influxdb.asked.wait(60)
    count(counter, 2)
    started.report(is_last=True)
    started.courier.stop(started.last, monotonic() + 0.1)
    assert started.courier.is_alive()
    place = f"points waiting in {outbox.path}: "
    assert caplog.messages == [
        f"5 requests in 60 s; {place}2",
        f"2 requests in 60 s; {place}2",
    ]
    influxdb.answer.set()
    started.courier.join()


@pytest.mark.smoke
def test_an_interval_is_logged_by_the_next_one_at_the_latest(outbox, caplog, monkeypatch):
    """A slow answer delays no line of the log by more than that; and it is told of, if it is very slow."""
    caplog.set_level(logging.INFO)
    influxdb = Slow()
    started = Started(outbox, influxdb)
    started.report()
    assert influxdb.asked.wait(60)
    started.report()
    line = f"0 requests in 60 s; points waiting in {outbox.path}: "
    assert caplog.messages == [f"{line}2"]
    monkeypatch.setattr(Courier, "SLOW_SECONDS", 0.0)
    started.report()
    started.report()
    slow, *others = caplog.messages[1:]
    assert re.fullmatch(r"InfluxDB has not answered fully in \d+ s", slow)
    assert others == [f"{line}3", f"{line}4"]
    influxdb.answer.set()
    wait_until(lambda: len(influxdb.stored) == 4)
    wait_until(lambda: caplog.messages[-1] == "0 requests in 60 s; delivered to InfluxDB")
    assert sum(WELL in message for message in caplog.messages) == 1
    started.report(is_last=True)
    started.courier.stop(started.last, monotonic() + 5)
    assert len(influxdb.stored) == 5


@pytest.mark.smoke
@pytest.mark.parametrize("step", ["oldest", "remove", "write"])
@pytest.mark.parametrize(
    "error",
    [
        ValueError("odd"),
        OSError(24, "Too many open files"),
        sqlite3.OperationalError("disk I/O error"),
        MemoryError(),
        RecursionError(),
        SystemExit(1),
        KeyboardInterrupt(),
    ],
    ids=repr,
)
def test_the_thread_survives_whatever_a_round_raises(counter, outbox, influxdb, monkeypatch, caplog, step, error):
    def fail(*_):
        failures.append(1)
        raise error

    failures: list[int] = []
    started = Started(outbox, influxdb)
    with monkeypatch.context() as failing:
        failing.setattr(influxdb if step == "write" else outbox, step, fail)
        count(counter, 3)
        started.report()
        wait_until(lambda: len(failures) >= 1)
        started.report()
        wait_until(lambda: len(failures) >= 2, what="it to come again")
    wait_until(lambda: influxdb.total() == 3)
    started.report(is_last=True)
    started.courier.stop(started.last, monotonic() + 5)
    assert not started.courier.is_alive()
    assert 1 <= len(warnings_in(caplog)) <= 2


@pytest.mark.smoke
def test_the_thread_survives_an_error_that_cannot_be_logged(outbox, influxdb, monkeypatch):
    class Unspeakable(Exception):
        def __repr__(self):
            raise MemoryError

        __str__ = __repr__

    def fail(points):
        failures.append(1)
        raise Unspeakable

    failures: list[int] = []
    with monkeypatch.context() as failing:
        failing.setattr(influxdb, "write", fail)
        started = Started(outbox, influxdb)
        started.report()
        wait_until(lambda: len(failures) >= 3)
    wait_until(lambda: influxdb.stored)
    started.report(is_last=True)
    started.courier.stop(started.last, monotonic() + 5)
