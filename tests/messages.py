"""Makes requests as bytes, and parses responses as strictly as any client could."""

from __future__ import annotations

import re
import socket
import time
from typing import NamedTuple

from daemons import PATIENCE_S, received

JSON_TYPE = "Content-Type: application/json"
WRONG_TYPE = 'Please, ensure the content type of your request is "application/json".'
PROMPT_S = 5  # longest wait, on a busy machine, for a response that comes at once; shorter than the program's time-outs


# --- requests


def message(line: str, *fields: str, body: bytes = b"") -> bytes:
    """Return a request, of HTTP/1.1 unless its line has a version, and with a Content-Length if it has a body."""
    if " HTTP/" not in line:
        line += " HTTP/1.1"
    length = (f"Content-Length: {len(body)}",) if body else ()
    return "\r\n".join((line, "Host: x", *fields, *length, "", "")).encode() + body


def post(body: bytes, *fields: str) -> bytes:
    return message("POST /", JSON_TYPE, *fields, body=body)


CHUNKED_POST = message("POST /", JSON_TYPE, "Transfer-Encoding: chunked")


# --- responses


class Response(NamedTuple):
    status: int
    text: str
    fields: dict[str, str]  # names in lower case


def parsed(data: bytes, *methods: str) -> list[Response]:
    """Return the responses to requests with these methods and, after them, GET. Other bytes fail the test."""
    found: list[Response] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        line, *lines = head.decode("ascii").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 ([1-5][0-9][0-9]) [A-Z][ -~]+", line)
        assert match, line
        fields = dict(re.fullmatch(r"([A-Za-z-]+): ([!-~][ -~]*)", line).groups() for line in lines)
        fields = {name.lower(): value for name, value in fields.items()}
        assert len(fields) == len(lines)
        finals = sum(response.status != 100 for response in found)
        bodiless = match[1] == "100" or methods[finals : finals + 1] == ("HEAD",)
        length = 0 if bodiless else int(fields["content-length"])
        assert len(data) >= length, f"{data!r} is shorter than {length} bytes"
        found.append(Response(int(match[1]), data[:length].decode(), fields))
        data = data[length:]
    return found


def texts(data: bytes, *methods: str) -> list[str]:
    return [response.text for response in parsed(data, *methods)]


def statuses(data: bytes, *methods: str) -> list[int]:
    return [response.status for response in parsed(data, *methods)]


def refusal(data: bytes) -> Response:
    """Return the only response, which must announce the close and have one line of text."""
    (response,) = parsed(data)
    assert response.fields["connection"] == "close"
    assert response.fields["content-type"] == "text/plain; charset=utf-8"
    assert response.text
    assert response.text.isprintable()
    return response


def exchange(connection: socket.socket, data: bytes, until: bytes) -> bytes:
    """Send data; return the bytes received up to `until`."""
    connection.sendall(data)
    return receive(connection, until)


def receive(connection: socket.socket, until: bytes | None = None) -> bytes:
    """Return the bytes received up to `until`; without it, up to the close. Its absence fails the test."""
    data = received(connection, time.monotonic() + PATIENCE_S, until)
    if until is None:
        assert is_closed(connection)
    else:
        assert until in data, data
    return data


def is_closed(connection: socket.socket) -> bool:
    """Wait for a byte or the close; return whether the connection was closed or reset."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def is_readable(connection: socket.socket, seconds: float) -> bool:
    """Return whether a byte or the close arrives within this time."""
    connection.settimeout(seconds)
    try:
        return connection.recv(1, socket.MSG_PEEK) is not None
    except socket.timeout:
        return False
