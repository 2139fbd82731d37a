"""The books of a server: its counter file and its state file, read by their layouts and not by its own code.

`state` is the path of the state file; the counter file is beside it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from pathlib import Path

SECOND, MILLISECOND = 1_000_000_000, 1_000_000  # in the nanoseconds of points


def count(counter, number: int) -> None:
    """Let a Counter count so many requests."""
    for _ in range(number):
        counter.cells[0].increment()


def cells(state: Path) -> list[int]:
    """What each worker has counted, by the layout in the docstring of Counter."""
    content = Path(f"{state}-count").read_bytes()
    return [struct.unpack_from("=Q", content, offset)[0] for offset in range(64, len(content), 64)]


def counted(state: Path) -> int:
    """All requests that were ever counted."""
    return sum(cells(state))


def ask(state: Path, statement: str) -> list[tuple]:
    """Ask the state file. No rows, while a server that starts has not made it."""
    if not state.exists():
        return []
    with contextlib.closing(sqlite3.connect(state)) as database:
        try:
            return database.execute(statement).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" not in str(error):
                raise
            return []


def waiting(state: Path) -> list[tuple[int, int]]:
    """Time and number of the points that InfluxDB has not taken."""
    return ask(state, "SELECT time, requests_number FROM requests ORDER BY time")


def rejected(state: Path) -> list[tuple[int, int, str]]:
    """Time, number and reason of the points that InfluxDB rejected."""
    return ask(state, "SELECT time, requests_number, reason FROM rejected ORDER BY time")


def add_waiting(state: Path, points: list[tuple[int, int]]) -> None:
    """Add points to the state file of a server that does not run, as if it had recorded them, in this order."""
    with contextlib.closing(sqlite3.connect(state)) as database, database:
        for point in points:
            database.execute("UPDATE state SET serial = serial + 1")
            database.execute("INSERT INTO requests SELECT ?, ?, serial FROM state", point)
