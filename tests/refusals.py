"""What is true of every refusal, of a request as of a start: it is one line, and says nothing that it should not."""

from __future__ import annotations

import re
import subprocess

import pytest
from daemons import PASSWORD, run_program

from webserver_influx import STATUS_LINE, RequestError, StartError


def assert_is_one_line(text: str) -> None:
    assert text
    assert text.isprintable()
    assert text.isascii()  # as its Content-Length is its length


def try_to(function, *arguments):
    """The result, or a RequestError: any other error is a bug."""
    try:
        return function(*arguments)
    except RequestError as error:
        refusal = error
    assert refusal.status in STATUS_LINE
    assert_is_one_line(str(refusal))
    return refusal


def start_error(make, *arguments) -> str:
    """Why it cannot be made: one line."""
    with pytest.raises(StartError) as info:
        make(*arguments)
    reason = str(info.value)
    assert reason
    assert "\n" not in reason
    return reason


def error_line(stderr: str, with_usage: bool) -> str:
    """The one line that says what is wrong, below the usage if that is shown."""
    *usage, line = stderr.splitlines()
    assert all(re.match(r"usage: webserver_influx\.py \[-h\]|  ", text) for text in usage), stderr
    assert bool(usage) == with_usage, stderr
    assert PASSWORD not in stderr
    assert line.startswith("webserver_influx.py: error: ")
    return line[len("webserver_influx.py: error: ") :]


def failure_of(ended: subprocess.CompletedProcess, code: int = 1) -> str:
    """The line with which the program ended that could not start; with 2, it shows its usage as well."""
    assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    return error_line(ended.stderr, with_usage=code == 2)


def failure(*arguments: str, env: dict[str, str] | None = None, code: int = 1) -> str:
    """Start the program, which cannot; see failure_of."""
    return failure_of(run_program(*arguments, env={"COLUMNS": "80", **(env or {})}), code)
