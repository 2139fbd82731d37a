"""The outbox: points with increasing times, what a kill left, and which state files it refuses."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest
from books import SECOND, count
from refusals import start_error
from states import ODD_STATES, make_state, opened


@pytest.mark.smoke
def test_a_point_holds_what_was_counted_since_the_one_before(counter, outbox, since):
    count(counter, 3)
    assert outbox.record(since + 1000) == 3
    assert outbox.record(since + 2000) == 0
    count(counter, 5)
    assert outbox.record(since + 3000) == 5
    assert outbox.oldest(10) == [(since + 1000, 3), (since + 2000, 0), (since + 3000, 5)]
    assert outbox.waiting() == 3


@pytest.mark.smoke
def test_anybody_sees_the_points_in_the_file_while_the_server_writes(tmp_path, counter, outbox, since):
    count(counter, 3)
    outbox.record(since + 1000)
    with contextlib.closing(sqlite3.connect(tmp_path / "state")) as reader:
        cursor = reader.execute("SELECT * FROM requests")
        assert [name for name, *_ in cursor.description] == ["time", "requests_number"]
        assert cursor.fetchall() == [(since + 1000, 3)]


@pytest.mark.smoke
def test_points_have_increasing_times_when_the_clock_steps_back(counter, outbox, since):
    for now in (since + 1000, since + 1000, since - 3600 * SECOND, 0, since + 1001, since + 5000):
        count(counter, 1)
        outbox.record(now)
    times = [time for time, _ in outbox.oldest(10)]
    assert times == sorted(set(times))
    assert len(times) == 6
    assert times[-1] == since + 5000


@pytest.mark.smoke
def test_times_increase_past_points_that_were_removed(outbox, since):
    outbox.record(since + 1000)
    outbox.remove(outbox.oldest(1))
    outbox.record(since)
    assert outbox.oldest(1) == [(since + 1001, 0)]


@pytest.mark.smoke
def test_only_the_points_named_are_removed(outbox, since):
    for step in range(1, 6):
        outbox.record(since + step)
    outbox.remove(outbox.oldest(2))
    assert outbox.oldest(2) == [(since + 3, 0), (since + 4, 0)]
    assert outbox.waiting() == 3


@pytest.mark.smoke
def test_a_point_set_aside_is_kept_with_the_reason(counter, outbox, since):
    count(counter, 4)
    outbox.record(since + 1)
    outbox.record(since + 2)
    outbox.set_aside(outbox.oldest(1), "field type conflict")
    assert outbox.oldest(10) == [(since + 2, 0)]
    assert outbox.database.execute("SELECT * FROM rejected").fetchall() == [(since + 1, 4, "field type conflict")]


@pytest.mark.smoke
def test_a_point_set_aside_can_wait_again(counter, outbox, since):
    count(counter, 4)
    outbox.record(since + 1)
    outbox.record(since + 2)
    outbox.set_aside(outbox.oldest(1), "field type conflict")
    outbox.offer_again()
    assert outbox.oldest(10) == [(since + 1, 4), (since + 2, 0)]
    assert outbox.database.execute("SELECT * FROM rejected").fetchall() == []


@pytest.mark.smoke
def test_what_a_kill_left_becomes_a_point_at_the_end_of_its_interval(counter, outbox, since):
    count(counter, 6)
    assert outbox.recover(60 * SECOND, since + 3600 * SECOND) == 6
    count(counter, 2)
    outbox.record(since + 3660 * SECOND)
    assert outbox.oldest(10) == [(since + 60 * SECOND, 6), (since + 3660 * SECOND, 2)]


@pytest.mark.smoke
def test_what_a_kill_left_is_never_stamped_in_the_future(counter, outbox, since):
    count(counter, 6)
    outbox.recover(60 * SECOND, since + 10 * SECOND)
    assert outbox.oldest(10) == [(since + 10 * SECOND, 6)]


@pytest.mark.smoke
def test_a_clean_end_leaves_nothing_to_recover(counter, outbox, since):
    count(counter, 6)
    outbox.record(since + 1)
    assert outbox.recover(60 * SECOND, since + 100 * SECOND) == 0
    assert outbox.waiting() == 1


@pytest.mark.smoke
def test_a_second_kill_counts_its_interval_from_the_second_start(counter, outbox, since):
    outbox.recover(60 * SECOND, since + 3600 * SECOND)
    count(counter, 1)
    outbox.recover(60 * SECOND, since + 7200 * SECOND)
    assert outbox.oldest(10) == [(since + 3660 * SECOND, 1)]


@pytest.mark.smoke
def test_a_recovery_with_the_clock_set_back_keeps_times_increasing(counter, outbox, since):
    outbox.record(since + 5000)
    count(counter, 1)
    outbox.recover(60 * SECOND, since - SECOND)
    outbox.record(since - SECOND)
    times = [time for time, _ in outbox.oldest(10)]
    assert times == sorted(set(times))
    assert len(times) == 3


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
