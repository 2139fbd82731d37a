"""The outbox: points with times of their own, what a kill left, and which state files it refuses."""

from __future__ import annotations

import contextlib
import random
import shutil
import sqlite3
from pathlib import Path
from time import time_ns

import pytest
from books import MILLISECOND, SECOND, count
from daemons import run_python
from refusals import start_error
from states import ODD_STATES, make_state, make_state_of_version_1, opened

DAY = 24 * 3600 * SECOND
TENTH = SECOND // 10


def times(outbox) -> list[int]:
    """Those of the points that wait, in the order in which they were recorded."""
    return [time for (time,) in outbox.database.execute("SELECT time FROM requests ORDER BY rowid")]


def recorded(outbox, now: int) -> int:
    """Record a point, and let InfluxDB have it, so that nothing is left of it here; its time."""
    outbox.record(now)
    ((time, _),) = points = outbox.oldest(2)
    outbox.remove(points)
    return time


@pytest.mark.smoke
def test_a_point_holds_what_was_counted_since_the_one_before(counter, outbox, since):
    count(counter, 3)
    assert outbox.record(since + 1 * SECOND) == 3
    assert outbox.record(since + 2 * SECOND) == 0
    count(counter, 5)
    assert outbox.record(since + 3 * SECOND) == 5
    assert [number for _, number in outbox.oldest(10)] == [3, 0, 5]
    assert outbox.waiting() == 3


@pytest.mark.smoke
def test_anybody_sees_the_points_in_the_file_while_the_server_writes(tmp_path, counter, outbox, since):
    count(counter, 3)
    outbox.record(since + SECOND)
    with contextlib.closing(sqlite3.connect(tmp_path / "state")) as reader:
        cursor = reader.execute("SELECT * FROM requests")
        assert [name for name, *_ in cursor.description] == ["time", "requests_number"]
        assert cursor.fetchall() == outbox.oldest(1)


@pytest.mark.smoke
def test_only_the_points_named_are_removed(outbox, since):
    for step in range(1, 6):
        outbox.record(since + step * SECOND)
    points = outbox.oldest(5)
    outbox.remove(points[:2])
    assert outbox.oldest(5) == points[2:]
    assert outbox.waiting() == 3


@pytest.mark.smoke
def test_a_point_that_a_clock_set_back_puts_between_two_that_are_delivered_is_not_removed(outbox, since):
    outbox.record(since + 1 * SECOND)
    outbox.record(since + 3 * SECOND)
    points = outbox.oldest(2)
    outbox.record(since + 2 * SECOND)
    outbox.remove(points)
    assert outbox.waiting() == 1


@pytest.mark.smoke
def test_a_point_set_aside_is_kept_with_the_reason(counter, outbox, since):
    count(counter, 4)
    outbox.record(since + 1 * SECOND)
    outbox.record(since + 2 * SECOND)
    first, second = outbox.oldest(2)
    outbox.set_aside([first], "field type conflict")
    assert outbox.oldest(10) == [second]
    assert outbox.database.execute("SELECT * FROM rejected").fetchall() == [(*first, "field type conflict")]


# --- clocks


@pytest.mark.smoke
@pytest.mark.parametrize("ahead", [2 * SECOND, DAY, 365 * DAY])
def test_once_the_clock_is_right_again_so_is_the_next_point(outbox, since, ahead):
    true = range(since + SECOND, since + 60 * SECOND, SECOND)
    for step, now in enumerate(true):
        is_ahead = 10 <= step < 20
        assert abs(recorded(outbox, now + ahead * is_ahead) - now - ahead * is_ahead) <= TENTH


@pytest.mark.smoke
def test_no_two_points_share_a_millisecond_however_the_clock_is_set(outbox, since):
    """Not even if each setting is back to just before, or to exactly the time of, a point that nobody remembers."""
    rng = random.Random(11)
    used, now = set(), since
    for _ in range(500):
        jump = rng.choice([60 * SECOND, 60 * SECOND, MILLISECOND, 0, -1, -3600 * SECOND, 3600 * SECOND])
        now = rng.choice([now + jump, now + jump, now + jump, next(iter(used), now), max(used, default=0), 0])
        time = recorded(outbox, now)
        assert time // MILLISECOND not in used
        used.add(time // MILLISECOND)


@pytest.mark.smoke
def test_a_clock_that_is_set_back_99_times_and_never_makes_up_for_it_still_gives_true_times(outbox, since):
    for now in range(since + 99 * DAY, since, -DAY):
        assert abs(recorded(outbox, now) - now) <= TENTH


@pytest.mark.smoke
def test_a_clock_that_is_set_back_at_each_point_still_gives_times_of_their_own(outbox, since):
    used = {recorded(outbox, since - step * 3600 * SECOND) // MILLISECOND for step in range(200)}
    assert len(used) == 200


@pytest.mark.smoke
def test_a_clock_that_goes_to_and_fro_gives_true_times_for_ever(outbox, since):
    for step in range(1, 150):
        for now in (since + step * SECOND, since + step * SECOND + DAY):
            assert abs(recorded(outbox, now) - now) <= TENTH


@pytest.mark.smoke
def test_two_points_at_once_are_in_the_order_in_which_they_were_recorded(counter, outbox, since):
    now = since + SECOND
    for number in (1, 2):
        count(counter, number)
        outbox.record(now)
    assert [number for _, number in outbox.oldest(2)] == [1, 2]


def test_times_are_not_used_again_after_kill_9(tmp_path):
    state, count_file = make_state(tmp_path)
    script = """
        import os, pathlib, signal, sys, states
        with states.opened(*map(pathlib.Path, sys.argv[1:3])) as (counter, outbox):
            outbox.record(int(sys.argv[3]))
            print(outbox.oldest(1)[0][0], flush=True)
            outbox.remove(outbox.oldest(1))
            os.kill(os.getpid(), signal.SIGKILL)
    """
    with opened(state, count_file) as (_, outbox):
        outbox.remove(outbox.oldest(1000))
        now = outbox.state()[2] + SECOND
    used = set()
    for _ in range(3):
        ended = run_python(script, state, count_file, now)
        used.add(int(ended.stdout) // MILLISECOND)
    assert len(used) == 3


# --- what a kill left


@pytest.mark.smoke
def test_a_point_set_aside_can_wait_again(counter, outbox, since):
    count(counter, 4)
    outbox.record(since + 1)
    outbox.record(since + 2)
    points = outbox.oldest(10)
    outbox.set_aside(points[:1], "field type conflict")
    outbox.offer_again()
    assert outbox.oldest(10) == points
    assert outbox.database.execute("SELECT * FROM rejected").fetchall() == []


@pytest.mark.smoke
def test_what_a_kill_left_becomes_a_point_at_the_end_of_its_interval(counter, outbox, since):
    count(counter, 6)
    assert outbox.recover(60 * SECOND, since + 3600 * SECOND) == 6
    count(counter, 2)
    outbox.record(since + 3660 * SECOND)
    (first, six), (second, two) = outbox.oldest(10)
    assert (six, two) == (6, 2)
    assert abs(first - since - 60 * SECOND) <= TENTH
    assert abs(second - since - 3660 * SECOND) <= TENTH


@pytest.mark.smoke
def test_what_a_kill_left_is_never_stamped_in_the_future(counter, outbox, since):
    count(counter, 6)
    outbox.recover(60 * SECOND, since + 10 * SECOND)
    ((time, number),) = outbox.oldest(10)
    assert number == 6
    assert time <= since + 10 * SECOND


@pytest.mark.smoke
def test_a_clean_end_leaves_nothing_to_recover(counter, outbox, since):
    count(counter, 6)
    outbox.record(since + SECOND)
    assert outbox.recover(60 * SECOND, since + 100 * SECOND) == 0
    assert outbox.waiting() == 1


@pytest.mark.smoke
def test_a_second_kill_counts_its_interval_from_the_second_start(counter, outbox, since):
    outbox.recover(60 * SECOND, since + 3600 * SECOND)
    count(counter, 1)
    outbox.recover(60 * SECOND, since + 7200 * SECOND)
    assert abs(outbox.oldest(10)[0][0] - since - 3660 * SECOND) <= TENTH


@pytest.mark.smoke
def test_what_a_kill_left_while_the_clock_was_ahead_is_in_the_present(counter, outbox, since):
    outbox.record(since + DAY)
    count(counter, 1)
    outbox.recover(60 * SECOND, since + SECOND)
    outbox.record(since + 60 * SECOND)
    first, second, _ = (time for time, _ in outbox.oldest(10))
    assert abs(first - since - SECOND) <= TENTH
    assert abs(second - since - 60 * SECOND) <= TENTH


# --- version 1 of the file, whose times were each just after the one before it, where the clock had been set back


@pytest.mark.smoke
@pytest.mark.parametrize("ahead", [-60 * SECOND, 365 * DAY], ids=["clock right", "stamped a year ahead"])
def test_a_file_of_version_1_is_taken_over_with_all_that_is_in_it(tmp_path, ahead):
    last = time_ns() + ahead
    state, count_file = make_state_of_version_1(tmp_path, last)
    with opened(state, count_file) as (counter, outbox):
        assert counter.total() == 7
        assert {(last - 1, 2), (last, 3)} == set(outbox.oldest(9))
        assert outbox.database.execute("SELECT * FROM rejected").fetchall() == [(5, 0, "beyond retention")]
        now = time_ns()
        assert outbox.recover(60 * SECOND, now) == 2
        assert min(abs(time - min(now, last + 60 * SECOND)) for time, _ in outbox.oldest(9)) <= TENTH
        now += 60 * SECOND
        outbox.record(now)
        assert min(abs(time - now) for time, _ in outbox.oldest(9)) <= TENTH
    with opened(state, count_file) as (_, outbox):
        assert sorted(number for _, number in outbox.oldest(9)) == [0, 2, 2, 3]


@pytest.mark.smoke
def test_what_version_1_used_is_not_used_again(tmp_path):
    last = time_ns() - 60 * SECOND
    state, count_file = make_state_of_version_1(tmp_path, last)
    with opened(state, count_file) as (_, outbox):
        for step in range(200):
            outbox.record(last - step * SECOND)
        assert min(time for time, _ in outbox.oldest(1000)[2:]) // MILLISECOND > last // MILLISECOND


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
def test_what_sqlite_says_is_explained_though_its_files_are_gone(outbox, monkeypatch):
    monkeypatch.setattr(outbox, "files", list)
    assert outbox.explain(sqlite3.OperationalError("disk I/O error")) == f"{outbox.path}: disk I/O error"
