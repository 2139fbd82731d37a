"""Requests as bytes, and replies read from bytes so strictly that a client could not be misled by any."""

from __future__ import annotations

import re
import socket
import time
from typing import NamedTuple

from daemons import PATIENCE_S, received

JSON_TYPE = "Content-Type: application/json"
PROMPT_S = 5  # for what needs no waiting, on a machine that is busy; shorter than any time-out that it is told from


# --- to be sent


def message(line: str, *fields: str, body: bytes = b"") -> bytes:
    """A request in HTTP/1.1, unless its line says another version; with its Content-Length where it has a body."""
    if " HTTP/" not in line:
        line += " HTTP/1.1"
    length = (f"Content-Length: {len(body)}",) if body else ()
    return "\r\n".join((line, "Host: x", *fields, *length, "", "")).encode() + body


def post(body: bytes, *fields: str) -> bytes:
    return message("POST /", JSON_TYPE, *fields, body=body)


CHUNKED_POST = message("POST /", JSON_TYPE, "Transfer-Encoding: chunked")


# --- received


class Answer(NamedTuple):
    status: int
    text: str
    fields: dict[str, str]  # names in lower case


def parsed(data: bytes, *methods: str) -> list[Answer]:
    """The replies to requests of these methods, GET where it is not said; what is no whole reply fails the test."""
    found: list[Answer] = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, head
        line, *lines = head.decode("ascii").split("\r\n")
        match = re.fullmatch(r"HTTP/1\.1 ([1-5][0-9][0-9]) [A-Z][ -~]+", line)
        assert match, line
        fields = dict(re.fullmatch(r"([A-Za-z-]+): ([!-~][ -~]*)", line).groups() for line in lines)
        fields = {name.lower(): value for name, value in fields.items()}
        assert len(fields) == len(lines)
        finals = sum(answer.status != 100 for answer in found)
        bodiless = match[1] == "100" or methods[finals : finals + 1] == ("HEAD",)
        length = 0 if bodiless else int(fields["content-length"])
        assert len(data) >= length, f"{data!r} has not {length} bytes"
        found.append(Answer(int(match[1]), data[:length].decode(), fields))
        data = data[length:]
    return found


def texts(data: bytes, *methods: str) -> list[str]:
    return [answer.text for answer in parsed(data, *methods)]


def statuses(data: bytes, *methods: str) -> list[int]:
    return [answer.status for answer in parsed(data, *methods)]


def refusal(data: bytes) -> Answer:
    """The only reply, after which the connection is closed, and which says in one line what is wrong."""
    (answer,) = parsed(data)
    assert answer.fields["connection"] == "close"
    assert answer.fields["content-type"] == "text/plain; charset=utf-8"
    assert answer.text
    assert answer.text.isprintable()
    return answer


def exchange(connection: socket.socket, data: bytes, until: bytes) -> bytes:
    """Send, and return what comes until this has come."""
    connection.sendall(data)
    return receive(connection, until)


def receive(connection: socket.socket, until: bytes | None = None) -> bytes:
    """What comes until this, or else the end, which has to come."""
    data = received(connection, time.monotonic() + PATIENCE_S, until)
    if until is None:
        assert is_closed(connection)
    else:
        assert until in data, data
    return data


def is_closed(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def is_readable(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        return connection.recv(1, socket.MSG_PEEK) is not None
    except socket.timeout:
        return False
