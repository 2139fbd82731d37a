"""Creates state files with their counter files. ODD_STATES maps names to functions that damage a state file."""

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
    """Open a counter and its outbox, as a server does; yield both, and close them at the end."""
    with contextlib.ExitStack() as stack:
        outbox = stack.enter_context(contextlib.closing(Outbox(str(state))))
        counter = stack.enter_context(contextlib.closing(Counter(str(count_file), 0, 1, create=outbox.is_new)))
        outbox.attach(counter)
        yield counter, outbox


def make_state(folder: Path, requests: int = 3) -> tuple[Path, Path]:
    """Create the state file and the counter file of a server that stopped cleanly; return their paths."""
    folder.mkdir(exist_ok=True)
    state, count_file = folder / "state", folder / "state-count"
    with opened(state, count_file) as (counter, outbox):
        for _ in range(100):
            count(counter, requests)
            outbox.record(0)
    return state, count_file


def older_state(folder: Path, version: int) -> tuple[Path, Path]:
    """Return the paths of the state file and the counter file that an older version left when it was killed.

    It had counted 16 requests: 3 in rejected points (0, 3, 0, 0), 1 in a delivered point, 10 in points that wait
    (5, 5, 0), and 2 that are in no point yet.
    """
    if sys.byteorder != "little":
        pytest.skip("these counter files are of a little-endian machine")
    with zipfile.ZipFile(Path(__file__).with_name("older_states.zip")) as archive:
        (name,) = {name.partition("/")[0] for name in archive.namelist() if name.startswith(f"version-{version}-")}
        archive.extractall(folder, [member for member in archive.namelist() if member.startswith(name)])
    return folder / name / "state", folder / name / "state-count"


def execute(statement: str):
    """Return a function that executes this SQL statement in a state file."""

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
    "without its row": execute("DELETE FROM state"),
}
