"""Reads a server's counter file and state file by their documented layouts, without the program's code.

`state` is the path of the state file; the counter file is FILE-count beside it.
"""

from __future__ import annotations

import contextlib
import sqlite3
import struct
from pathlib import Path

SECOND, MILLISECOND = 1_000_000_000, 1_000_000  # in nanoseconds, the unit of a point's time


def count(counter, number: int) -> None:
    """Count this many requests in a Counter."""
    for _ in range(number):
        counter.cells[0].increment()


def cells(state: Path) -> list[int]:
    """Return the number in each cell; the docstring of Counter has the layout."""
    content = Path(f"{state}-count").read_bytes()
    return [struct.unpack_from("=Q", content, offset)[0] for offset in range(64, len(content), 64)]


def counted(state: Path) -> int:
    """Return the number of all requests that were ever counted."""
    return sum(cells(state))


def ask(state: Path, statement: str) -> list[tuple]:
    """Return the rows of a query; no rows if a server has not created the file or its tables yet."""
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
    """Return time and number of each point that waits for InfluxDB."""
    return ask(state, "SELECT time, requests_number FROM requests ORDER BY time")


def rejected(state: Path) -> list[tuple[int, int, str]]:
    """Return time, number and reason of each point that InfluxDB rejected."""
    return ask(state, "SELECT time, requests_number, reason FROM rejected ORDER BY time")


def add_waiting(state: Path, points: list[tuple[int, int]]) -> None:
    """Add points to the state file of a stopped server, as if it had recorded them in this order."""
    with contextlib.closing(sqlite3.connect(state)) as database, database:
        for point in points:
            database.execute("UPDATE state SET serial = serial + 1")
            database.execute("INSERT INTO requests SELECT ?, ?, serial FROM state", point)
