"""State files with the counters beside them, and what may have happened to them since, in ODD_STATES."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import zipfile
from pathlib import Path

import pytest
from books import count

from webserver_influx import Counter, Outbox


@contextlib.contextmanager
def opened(state: Path, count_file: Path):
    """A counter and its outbox, as a server opens them."""
    with contextlib.ExitStack() as stack:
        outbox = stack.enter_context(contextlib.closing(Outbox(str(state))))
        counter = stack.enter_context(contextlib.closing(Counter(str(count_file), 0, 1, create=outbox.is_new)))
        outbox.attach(counter)
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


def older_state(folder: Path, version: int) -> tuple[Path, Path]:
    """The state file and the counter that the program of an older commit left when it was killed.

    It had counted 16 requests: 3 in points that InfluxDB rejected (0, 3, 0, 0), 1 in a point that it has, 10 in points
    that wait (5, 5, 0), and 2 in no point.
    """
    if sys.byteorder != "little":
        pytest.skip("the counter is of a machine with the other byte order")
    with zipfile.ZipFile(Path(__file__).with_name("older_states.zip")) as archive:
        (name,) = {name.partition("/")[0] for name in archive.namelist() if name.startswith(f"version-{version}-")}
        archive.extractall(folder, [member for member in archive.namelist() if member.startswith(name)])
    return folder / name / "state", folder / name / "state-count"


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
    "of another version": execute("PRAGMA user_version = 4"),
    "of another program": execute("PRAGMA application_id = 1"),
    "without its one row": execute("DELETE FROM state"),
}
