"""Checks the messages of refused requests and failed starts: each is one line, and contains no password."""

from __future__ import annotations

import re
import subprocess

import pytest
from daemons import PASSWORD, run_program

from webserver_influx import STATUS_LINES, RequestError, StartError


def assert_is_one_line(text: str) -> None:
    assert text
    assert text.isprintable()
    assert text.isascii()  # so its number of characters is its Content-Length


def try_to(function, *arguments):
    """Return the function's result, or the RequestError that it raised. Any other exception fails the test."""
    try:
        return function(*arguments)
    except RequestError as error:
        refusal = error
    assert refusal.status in STATUS_LINES
    assert_is_one_line(str(refusal))
    return refusal


def start_error(make, *arguments) -> str:
    """Return the message of the StartError that the call raises."""
    with pytest.raises(StartError) as info:
        make(*arguments)
    reason = str(info.value)
    assert reason
    assert "\n" not in reason
    return reason


def error_line(stderr: str, with_usage: bool) -> str:
    """Return the error message on standard error, which has one line, after the usage if that is expected."""
    *usage, line = stderr.splitlines()
    assert all(re.match(r"usage: webserver_influx\.py \[-h\]|  ", text) for text in usage), stderr
    assert bool(usage) == with_usage, stderr
    assert PASSWORD not in stderr
    assert line.startswith("webserver_influx.py: error: ")
    return line[len("webserver_influx.py: error: ") :]


def failure_of(ended: subprocess.CompletedProcess, code: int = 1) -> str:
    """Return the error message of a program that could not start; status 2 means that its usage is shown, too."""
    assert (ended.returncode, ended.stdout) == (code, ""), ended.stderr
    return error_line(ended.stderr, with_usage=code == 2)


def failure(*arguments: str, env: dict[str, str] | None = None, code: int = 1) -> str:
    """Start the program, which must fail, and return its error message; see failure_of."""
    return failure_of(run_program(*arguments, env={"COLUMNS": "80", **(env or {})}), code)
