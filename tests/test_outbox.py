"""The outbox: points with times of their own, what a kill left, and which state files it refuses."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path
from time import time_ns

import pytest
from books import MILLISECOND, SECOND, ask, count
from daemons import run_python
from refusals import start_error
from states import ODD_STATES, make_state, older_state, opened

from webserver_influx import Counter, Outbox, point_time

DAY = 24 * 3600 * SECOND


def recorded(outbox, now: int) -> int:
    """Record a point, and let InfluxDB have it, so that nothing is left of it here; its time."""
    point = outbox.record(now)
    assert outbox.oldest(2) == [point]
    outbox.remove([point])
    return point.time


def rejected_in(outbox) -> list[tuple]:
    return outbox.database.execute("SELECT time, requests_number, reason FROM rejected").fetchall()


@pytest.mark.smoke
def test_a_point_holds_what_was_counted_since_the_one_before(counter, outbox, since):
    count(counter, 3)
    points = [outbox.record(since + 1 * SECOND), outbox.record(since + 2 * SECOND)]
    count(counter, 5)
    points.append(outbox.record(since + 3 * SECOND))
    assert [(point.serial, point.requests) for point in points] == [(1, 3), (2, 0), (3, 5)]
    assert outbox.oldest(10) == points
    assert outbox.newest() == points[-1]
    assert outbox.pending == 3


@pytest.mark.smoke
def test_anybody_sees_the_points_in_the_file_while_the_server_writes(tmp_path, counter, outbox, since):
    count(counter, 3)
    outbox.record(since + SECOND)
    with contextlib.closing(sqlite3.connect(tmp_path / "state")) as reader:
        cursor = reader.execute("SELECT * FROM requests")
        assert [name for name, *_ in cursor.description] == ["time", "requests_number", "serial"]
        (point,) = outbox.oldest(1)
        assert cursor.fetchall() == [(point.time, 3, 1)]


@pytest.mark.smoke
def test_the_points_are_in_one_file(tmp_path, counter, outbox, since):
    count(counter, 3)
    outbox.record(since + SECOND)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["count", "state"]


@pytest.mark.smoke
def test_the_points_of_two_files_do_not_have_the_same_times(tmp_path, since):
    """As those of two runs with --state :memory: in the same second, of which InfluxDB would keep one."""
    times = set()
    for number in range(20):
        with opened(tmp_path / f"state {number}", tmp_path / f"count {number}") as (_, outbox):
            times |= {outbox.record(since).time for _ in range(3)}
    assert len(times) == 60
    assert {time // SECOND for time in times} == {since // SECOND}


class Doubtful:
    """A database whose commit takes effect, and fails all the same: at the sync of the folder."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self.database = database

    def __getattr__(self, name: str):
        return getattr(self.database, name)

    def __enter__(self) -> None:
        self.database.__enter__()

    def __exit__(self, *error) -> None:
        self.database.__exit__(*error)
        raise sqlite3.OperationalError("disk I/O error")


@pytest.mark.smoke
def test_what_waits_is_known_even_after_a_commit_that_fails_and_yet_took_effect(counter, outbox, since):
    count(counter, 3)
    database, outbox.database = outbox.database, Doubtful(outbox.database)
    with pytest.raises(sqlite3.OperationalError):
        outbox.record(since + SECOND)
    assert outbox.pending == 1
    with pytest.raises(sqlite3.OperationalError):
        outbox.remove(outbox.oldest(1))
    assert outbox.pending == 0
    outbox.database = database
    assert outbox.record(since + 2 * SECOND).requests == 0


@pytest.mark.smoke
def test_a_point_waits_even_if_the_points_cannot_be_counted_after_its_commit(tmp_path, counter, outbox, since):
    """Or the log would say that it is delivered."""

    class Overtaken(Doubtful):
        def __exit__(self, *error) -> None:
            self.database.__exit__(*error)
            other.execute("BEGIN EXCLUSIVE")

    count(counter, 3)
    outbox.execute("PRAGMA busy_timeout = 10")
    database, outbox.database = outbox.database, Overtaken(outbox.database)
    with contextlib.closing(sqlite3.connect(tmp_path / "state", isolation_level=None)) as other:
        assert outbox.record(since + SECOND).requests == 3
        assert outbox.pending == 1
    outbox.database = database
    outbox.remove(outbox.oldest(1))
    assert outbox.pending == 0


@pytest.mark.smoke
def test_only_the_points_named_are_removed(outbox, since):
    for step in range(1, 6):
        outbox.record(since + step * SECOND)
    points = outbox.oldest(5)
    assert outbox.remove(points[:2]) == 2
    assert outbox.oldest(5) == points[2:]
    assert outbox.remove(points[:3]) == 1, "those that waited"
    assert outbox.pending == 2


@pytest.mark.smoke
def test_a_point_that_a_clock_set_back_puts_between_two_that_are_delivered_is_not_removed(outbox, since):
    outbox.record(since + 1 * SECOND)
    outbox.record(since + 3 * SECOND)
    points = outbox.oldest(2)
    outbox.record(since + 2 * SECOND)
    outbox.remove(points)
    assert outbox.pending == 1


@pytest.mark.smoke
def test_a_point_set_aside_is_kept_with_the_reason(counter, outbox, since):
    count(counter, 4)
    outbox.record(since + 1 * SECOND)
    outbox.record(since + 2 * SECOND)
    first, second = outbox.oldest(2)
    outbox.move_to_rejected([first], "field type conflict")
    assert outbox.oldest(10) == [second]
    assert rejected_in(outbox) == [(first.time, 4, "field type conflict")]


# --- clocks


@pytest.mark.smoke
@pytest.mark.parametrize("ahead", [2 * SECOND, DAY, 365 * DAY])
def test_the_time_of_a_point_is_the_second_of_the_clock_whatever_it_was_before(outbox, since, ahead):
    for step in range(60):
        now = since + step * SECOND + ahead * (10 <= step < 20)
        assert recorded(outbox, now) // SECOND == now // SECOND


@pytest.mark.smoke
def test_no_two_points_share_a_time_however_the_clock_is_set(outbox, since):
    """Not even if each setting is back to just before, or to exactly the time of, a point that nobody remembers."""
    rng = random.Random(11)
    used, now = set(), since
    for _ in range(3000):
        jump = rng.choice([60 * SECOND, 60 * SECOND, MILLISECOND, 0, -1, -3600 * SECOND, 3600 * SECOND])
        now = rng.choice([now + jump, now + jump, now + jump, next(iter(used), now), max(used, default=0), 0])
        time = recorded(outbox, now)
        assert time not in used
        used.add(time)


@pytest.mark.smoke
def test_two_runs_in_memory_share_no_time_though_both_begin_in_the_same_second():
    times = set()
    for _ in range(2):
        with contextlib.closing(Counter(":memory:", 0, 1)) as counter, contextlib.closing(Outbox(":memory:")) as outbox:
            outbox.attach(counter)
            times.add(outbox.record(SECOND).time)
    assert len(times) == 2


@pytest.mark.smoke
def test_a_thousand_points_in_a_row_share_no_millisecond_though_the_clock_stands_still(outbox, since):
    """Which is all that VictoriaMetrics stores of a time."""
    assert len({recorded(outbox, since) // MILLISECOND for _ in range(1000)}) == 1000


@pytest.mark.smoke
def test_the_times_of_a_billion_points_differ_in_one_second(outbox, since):
    """The fraction of a second is the serial number: as milliseconds what changes first, behind it the rest."""
    fractions = {serial: point_time(since, serial) % SECOND for serial in (1, 999, 1000, 1001, 999_999_999)}
    assert fractions == {1: 1_000_000, 999: 999_000_000, 1000: 1, 1001: 1_000_001, 999_999_999: 999_999_999}


@pytest.mark.smoke
def test_two_points_at_once_are_in_the_order_in_which_they_were_recorded(counter, outbox, since):
    now = since + SECOND
    for number in (1, 2):
        count(counter, number)
        outbox.record(now)
    assert [point.requests for point in outbox.oldest(2)] == [1, 2]


@pytest.mark.smoke
def test_the_point_recorded_last_is_the_newest_though_the_clock_was_set_back(outbox, since):
    outbox.record(since + DAY)
    last = outbox.record(since)
    assert outbox.newest() == last
    assert outbox.oldest(2)[-1] == last


def test_times_are_not_used_again_after_kill_9(tmp_path):
    state, count_file = make_state(tmp_path)
    script = """
        import os, pathlib, signal, sys, states
        with states.opened(*map(pathlib.Path, sys.argv[1:3])) as (counter, outbox):
            print(outbox.record(int(sys.argv[3])).time, flush=True)
            outbox.remove(outbox.oldest(1))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    with opened(state, count_file) as (_, outbox):
        outbox.remove(outbox.oldest(1000))
        now = outbox.state()[2] + SECOND
    used = {run_python(script, state, count_file, now).stdout for _ in range(3)}
    assert len(used) == 3


# --- what a kill left


@pytest.mark.smoke
def test_a_point_set_aside_can_wait_again(counter, outbox, since):
    count(counter, 4)
    outbox.record(since + 1)
    outbox.record(since + 2)
    points = outbox.oldest(10)
    outbox.move_to_rejected(points[:1], "field type conflict")
    outbox.requeue_rejected()
    assert outbox.oldest(10) == points
    assert rejected_in(outbox) == []


@pytest.mark.smoke
def test_what_a_kill_left_becomes_a_point_at_the_end_of_its_interval(counter, outbox, since):
    count(counter, 6)
    assert outbox.recover(60 * SECOND, since + 3600 * SECOND) == 6
    count(counter, 2)
    outbox.record(since + 3660 * SECOND)
    first, second = outbox.oldest(10)
    assert (first.requests, second.requests) == (6, 2)
    assert first.time // SECOND == since // SECOND + 60
    assert second.time // SECOND == since // SECOND + 3660


@pytest.mark.smoke
def test_what_a_kill_left_is_never_stamped_in_the_future(counter, outbox, since):
    count(counter, 6)
    outbox.recover(60 * SECOND, since + 10 * SECOND)
    (point,) = outbox.oldest(10)
    assert point.requests == 6
    assert point.time // SECOND == since // SECOND + 10


@pytest.mark.smoke
def test_a_clean_end_leaves_nothing_to_recover(counter, outbox, since):
    count(counter, 6)
    outbox.record(since + SECOND)
    assert outbox.recover(60 * SECOND, since + 100 * SECOND) == 0
    assert outbox.pending == 1


@pytest.mark.smoke
def test_a_second_kill_counts_its_interval_from_the_second_start(counter, outbox, since):
    outbox.recover(60 * SECOND, since + 3600 * SECOND)
    count(counter, 1)
    outbox.recover(60 * SECOND, since + 7200 * SECOND)
    assert outbox.oldest(10)[0].time // SECOND == since // SECOND + 3660


@pytest.mark.smoke
def test_what_a_kill_left_while_the_clock_was_ahead_is_in_the_present(counter, outbox, since):
    outbox.record(since + DAY)
    count(counter, 1)
    outbox.recover(60 * SECOND, since + SECOND)
    outbox.record(since + 60 * SECOND)
    _, *seconds = (point.time // SECOND for point in outbox.oldest(10))
    assert seconds == [since // SECOND + 1, since // SECOND + 60]


# --- files of the versions before, whose points had no serial numbers


@pytest.mark.smoke
@pytest.mark.parametrize("version", [1, 2])
def test_a_file_of_an_older_version_is_taken_over_with_all_that_waits_in_it(tmp_path, version):
    state, count_file = older_state(tmp_path, version)
    copy, _ = older_state(tmp_path / "copy", version)
    waited = ask(copy, "SELECT time, requests_number FROM requests ORDER BY time")
    refused = ask(copy, "SELECT time, requests_number, reason FROM rejected ORDER BY time")
    assert [number for _, number in waited] == [5, 5, 0]
    assert [number for _, number, _ in refused] == [0, 3, 0, 0]
    for _ in range(2):  # the second time there is nothing to do
        with opened(state, count_file) as (counter, outbox):
            assert counter.total() == 16
            assert ask(state, "PRAGMA user_version") == [(3,)]
            points = outbox.oldest(9)
            assert [(point.time, point.requests) for point in points] == waited
            assert [point.serial for point in points] == [5, 6, 7], (
                "in the order of time, those that were rejected first"
            )
            assert rejected_in(outbox) == refused
        assert sorted(path.name for path in state.parent.iterdir()) == ["state", "state-count"]
    with opened(state, count_file) as (_, outbox):
        assert outbox.recover(60 * SECOND, time_ns()) == 2
        assert outbox.newest().serial == 8
        outbox.requeue_rejected()
        assert [point.serial for point in outbox.oldest(9)] == [*range(1, 9)]


@pytest.mark.smoke
def test_a_file_is_taken_over_whole_or_not_at_all(tmp_path, monkeypatch):
    state, count_file = older_state(tmp_path, 2)
    monkeypatch.setattr(Outbox, "UPGRADE", Outbox.UPGRADE.replace("COMMIT", "SELECT * FROM no_such_table; COMMIT"))
    with pytest.raises(sqlite3.OperationalError, match="no_such_table"):
        opened(state, count_file).__enter__()
    monkeypatch.undo()
    assert len(ask(state, "SELECT * FROM lanes")) == 100
    with opened(state, count_file) as (_, outbox):
        assert outbox.pending == 3


def test_a_file_that_somebody_reads_is_not_taken_over_before_they_have_ended(tmp_path):
    state, count_file = older_state(tmp_path, 2)
    with contextlib.closing(sqlite3.connect(state, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert len(reader.execute("SELECT * FROM requests").fetchall()) == 3
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            opened(state, count_file).__enter__()
    with opened(state, count_file) as (_, outbox):
        assert outbox.pending == 3


# --- files that are odd, or do not belong together


def refuse(state: Path, count_file: Path) -> str:
    return start_error(opened(state, count_file).__enter__)


@pytest.mark.smoke
@pytest.mark.parametrize("odd", ODD_STATES)
def test_an_odd_state_file_is_refused_and_left_as_it_is(tmp_path, odd):
    state, count_file = make_state(tmp_path)
    ODD_STATES[odd](state)
    before = state.read_bytes(), count_file.read_bytes()
    assert str(state) in refuse(state, count_file)
    assert (state.read_bytes(), count_file.read_bytes()) == before


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


@pytest.mark.smoke
def test_what_sqlite_says_is_explained_though_its_file_is_gone(outbox):
    outbox.path += "-gone"
    assert outbox.explain(sqlite3.OperationalError("disk I/O error")) == f"{outbox.path}: disk I/O error"
