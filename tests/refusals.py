"""What is true of every refusal of a request."""

from __future__ import annotations

from webserver_influx import STATUS_LINE, RequestError


def try_to(function, *arguments):
    """The result, or a RequestError: any other error is a bug."""
    try:
        return function(*arguments)
    except RequestError as error:
        refusal = error
    assert refusal.status in STATUS_LINE
    assert_is_one_line(str(refusal))
    return refusal


def assert_is_one_line(text: str) -> None:
    assert text
    assert text.isprintable()
    assert text.isascii()  # as its Content-Length is its length
