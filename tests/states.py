"""State files with the counters beside them, and what may have happened to them since, in ODD_STATES."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from books import count

from webserver_influx import Counter, Outbox


@contextlib.contextmanager
def opened(state: Path, count_file: Path):
    """A counter and its outbox, as a server opens them."""
    with contextlib.ExitStack() as stack:
        outbox = stack.enter_context(contextlib.closing(Outbox(str(state))))
        counter = stack.enter_context(contextlib.closing(Counter(str(count_file), 0, 1, make=outbox.is_new)))
        outbox.open_for(counter)
        yield counter, outbox


def make_state(folder: Path, requests: int = 3) -> tuple[Path, Path]:
    """A state file and its counter, of a server that ended well."""
    folder.mkdir(exist_ok=True)
    state, count_file = folder / "state", folder / "state-count"
    with opened(state, count_file) as (counter, outbox):
        for _ in range(100):
            count(counter, requests)
            outbox.record(0)
    return state, count_file


VERSION_1 = """
    CREATE TABLE requests (time INTEGER PRIMARY KEY, requests_number INTEGER NOT NULL);
    CREATE TABLE rejected (time INTEGER PRIMARY KEY, requests_number INTEGER NOT NULL, reason TEXT NOT NULL);
    CREATE TABLE state (counter BLOB NOT NULL, reported INTEGER NOT NULL, since INTEGER NOT NULL);
    PRAGMA application_id = 0x6D617468;
    PRAGMA user_version = 1;
    PRAGMA journal_mode = WAL;
"""


def make_state_of_version_1(folder: Path, last: int) -> tuple[Path, Path]:
    """What version 1 of the schema left when it was killed: 7 requests, 2 of them unrecorded; the last point's time."""
    state, count_file = folder / "state", folder / "state-count"
    with contextlib.closing(Counter(str(count_file), 0, 1, make=True)) as counter:
        count(counter, 7)
        identity = counter.identity
    with contextlib.closing(sqlite3.connect(state)) as database, database:
        database.executescript(VERSION_1)
        database.executemany("INSERT INTO requests VALUES (?, ?)", [(last - 1, 2), (last, 3)])
        database.execute("INSERT INTO rejected VALUES (5, 0, 'beyond retention')")
        database.execute("INSERT INTO state VALUES (?, 5, ?)", (identity, last))
    return state, count_file


def execute(statement: str):
    """Changes a state file by SQL."""

    def change(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
            database.execute(statement)

    return change


def overwrite_pages(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:4096] + os.urandom(len(content) - 4096))


ODD_STATES = {
    "foreign": lambda path: path.write_bytes(b"Dear diary, " * 2000),
    "short and foreign": lambda path: path.write_bytes(b"x"),
    "corrupt": overwrite_pages,
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:4096]),
    "cut in its header": lambda path: path.write_bytes(path.read_bytes()[:50]),
    "of another version": execute("PRAGMA user_version = 3"),
    "of another program": execute("PRAGMA application_id = 1"),
    "without its one row": execute("DELETE FROM state"),
    "without a lane": execute("DELETE FROM lanes WHERE last % 100 = 7"),
}
