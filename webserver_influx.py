# /// script
# requires-python = ">=3.9"
# dependencies = ["influxdb==5.3.2"]
# ///
"""An HTTP server that sums numbers, counts its requests, and reports to InfluxDB how many it received each minute.

The file follows two flows of data, in this order:

    bytes   -> Head -> body -> numbers -> sum -> response -> bytes   (Part I, a request)
    request -> Counter -> point -> Outbox -> InfluxDB                (Part II, a count)

They meet only in `cell.increment()`. Part I uses no sockets, clocks, threads or InfluxDB; Part II never sees a
request; Part III combines both into a program.

Every request with a valid head is counted exactly once, before its response is sent. With a state file, no kill or
restart of the server and no outage of InfluxDB loses or duplicates a count. A power failure may lose the requests
counted since the last point. That a request was counted does not prove that the client received the response.
"""

import argparse
import contextlib
import errno
import gc
import ipaddress
import json
import locale
import logging
import mmap
import os
import re
import select
import selectors
import signal
import socket
import sqlite3
import struct
import sys
import tempfile
import threading
import uuid
from collections import defaultdict, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from email.utils import formatdate
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase, BytesIO, FileIO, TextIOWrapper
from itertools import accumulate
from math import ceil, fsum, inf, isfinite, nan
from operator import add, sub
from queue import Empty, SimpleQueue
from time import localtime, monotonic, process_time, sleep, strftime, time, time_ns
from typing import Any, BinaryIO, Callable, NamedTuple, NoReturn, Optional
from urllib.parse import quote, unquote, unquote_plus, urlsplit

if sys.version_info < (3, 9):  # noqa: UP036 - 3.8 cannot evaluate the annotations
    sys.exit(f"webserver_influx.py needs Python 3.9 or later; this is {sys.version.split()[0]}")

__version__ = "1.0.0"

log = logging.getLogger("webserver_influx")

# ------------------------------------------------------------------------------------------ Limits and defaults

PORT = 8008
INTERVAL_SECONDS = 60.0
STATE_FILE = "math_server.db"
ENV_PREFIX = "WEBSERVER_INFLUX_"  # prefix of each variable; the option's name follows (DSN for --influx)
DSN_VARIABLE = f"{ENV_PREFIX}DSN"
DSN_SCHEMES = ("influxdb", "https+influxdb")  # without and with TLS
DATABASE = USER = "math_server"
PASSWORD = "math_server1"

REQUEST_LINE_BYTES = 8 * 1024  # longest request line; RFC 9112 §3 asks for 8,000 at least
HEAD_BYTES = 64 * 1024  # longest request line and header section together; 8 times Apache's limit for one field
FIELD_LINES = 100  # most field lines in a header or trailer section, as in Apache and Python's http.client
BODY_BYTES = 1024 * 1024  # longest body, as nginx's client_max_body_size
CHUNK_LINE_BYTES = 1024  # longest line with a chunk's size (6 hex digits, plus extensions) or with a trailer field
CHUNK_FRAMING_BYTES = 16  # framing allowed for each chunk, besides twice the size of its data, as in Go's net/http
CHUNK_EXCESS_BYTES = 16 * 1024  # most framing beyond that allowance; larger chunks later make up for it
JSON_NESTING = 100  # deepest nesting of arrays and objects; a tenth of Python's recursion limit

IDLE_SECONDS = 75.0  # time-out for the first or next request, as nginx's keepalive_timeout
HEAD_SECONDS = 10.0  # time-out from the first byte of a head to its last
BODY_SECONDS = 30.0  # time-out from the end of the head to the end of the body
SEND_SECONDS = 30.0  # time-out for the client to receive all pending responses
LINGER_SECONDS = 5.0  # after the last response, time in which more input is discarded

LIGHT_BYTES = 4 * 1024  # most bytes received and processed at once (at most 1 ms of work); larger input takes turns
LIGHT_QUERY_BYTES = 1024  # longest query summed at once (at most 1 ms, too); a longer one waits for a turn
TURN_REST = 4  # after a turn, the other connections get this many times min(its duration, PAUSE_SECONDS)
MAX_CONNECTIONS = 500 if sys.platform == "win32" else sys.maxsize  # most per thread; select() takes 512
PAUSE_SECONDS = 0.1  # delay before another try; wait for a lock or thread

STOP_SECONDS = 7.0  # at shutdown, time for everything but the log; Docker kills after 10 s
GRACE_SECONDS = 3.0  # at shutdown, time for requests in flight; workers get 1 s more to end
LOCK_SECONDS = 3.0  # at startup, wait for a killed server's workers to release the locks of their cells

CONNECT_SECONDS = 5.0  # time-out for connecting to each address of InfluxDB
RESPONSE_SECONDS = 12.0  # time-out for each part of its response; InfluxDB itself gives up a write after 10 s
CONTENT_SECONDS = 60.0  # time after which no further piece of a response is read
CONTENT_BYTES = 1024 * 1024  # most content read from a response; one that quotes a batch has 100 kB
CELLS = 255  # in the counter file: one for each serving thread of every worker
SHORT_SECONDS = 0.5  # a shorter sample, as at the end, gives no rate
OUTPUT_BYTES = 8 * 1024 * 1024  # most bytes buffered for standard output or error: a second of a busy access log

# -------------------------------------------------------------------------------------- Errors and text


class StartError(Exception):
    """The program cannot start. The message is one line: the cause, and what the user can do."""


def one_line(text: object) -> str:
    """Return `str(text)` with white space as single blanks and other controls as "?", cut to 300 characters."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", " ".join(str(text).split())[:300])


# What to check after a system error that has only one likely cause.
HINTS = {
    errno.EMFILE: "ulimit -n",
    errno.EAGAIN: "a limit of processes: ulimit -u, or pids.max of a container",
    errno.ENOLCK: "this file system has none; keep the state on a local disk",
    errno.ENODEV: "this file system cannot map files into memory; keep the state on a local disk",
}


def reason_of(error: Exception) -> str:
    """Return an error's message without its number and file name, and with a hint if there is one."""
    fallback = "not enough memory" if isinstance(error, MemoryError) else type(error).__name__
    reason = getattr(error, "strerror", None) or str(error) or fallback
    hint = HINTS.get(getattr(error, "errno", 0))
    return f"{reason} ({hint})" if hint else reason


def counted(number: int, noun: str) -> str:
    """Format a number of things: `1 request`, `74,012 requests`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def duration(seconds: float) -> str:
    """Format a time span: `60 s`, `0.3 s`."""
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"


def per_second(rate: float) -> str:
    """Format a rate, with a decimal only if it is small: `12,340/s`, `0.3/s`."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}".removesuffix(".0") + "/s"


def uri_host(host: str) -> str:
    """Return a host name or address as a URI contains it (RFC 3986 §3.2.2): IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


class Once:
    """Logs each kind of failure once, until well() is called."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()

    def warn(self, message: str) -> bool:
        """Log a warning, unless one with the same first 25 digitless words was logged; return whether it was new."""
        kind = " ".join([word for word in message.split() if not re.search(r"\d", word)][:25])
        is_new = kind not in self.kinds
        if is_new:
            self.kinds.add(kind)
            log.warning("%s", message)
        return is_new

    def well(self) -> bool:
        """Forget all trouble; return whether there was any."""
        had_trouble = bool(self.kinds)
        self.kinds.clear()
        return had_trouble


# ==================================================================================== Part I: a request
# ---------------------------------------------------------------------------------------------- Grammar

# The grammar of the RFCs as regular expressions for bytes, compiled once; each but CHUNK_START matches a whole input.

# RFC 9110 §5.6.2   token = 1*tchar
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

# RFC 9110 §5.6.3   OWS = *( SP / HTAB ), BWS = OWS
OWS = BWS = r"[\t ]*"

# RFC 9110 §5.6.4   quoted-string = DQUOTE *( qdtext / quoted-pair ) DQUOTE
QUOTED_STRING = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'

# RFC 9110 §8.3.1   media-type = type "/" subtype parameters, parameters = *( OWS ";" OWS [ parameter ] )
PARAMETER = rf"{TOKEN}=(?:{TOKEN}|{QUOTED_STRING})"
MEDIA_TYPE = rf"({TOKEN}/{TOKEN})(?:{OWS};(?:{OWS}{PARAMETER})?)*"

# RFC 9112 §2.3     HTTP-version = HTTP-name "/" DIGIT "." DIGIT
VERSION = r"HTTP/[0-9]\.[0-9]"

# RFC 9110 §7.2     Host = uri-host [ ":" port ]; the host may be empty, and has_valid_hosts() checks what [ ] contain
REG_NAME = r"[A-Za-z0-9\-._~!$&'()*+,;=]*(?:%[0-9A-Fa-f]{2}[A-Za-z0-9\-._~!$&'()*+,;=]*)*"
HOST = r"(?:\[([0-9A-Fa-f:.]*)\]|" + REG_NAME + ")"
AUTHORITY = HOST + "(?::[0-9]*)?"

# RFC 9112 §3.2     request-target in every form but origin-form, after its method: absolute-form; asterisk-form, for
#                   OPTIONS only; authority-form with a port, for CONNECT, which allows no other form (RFC 9110
#                   §9.3.6). The host must not be empty (RFC 9110 §4.2.1).
ABSOLUTE_FORM = rf"[A-Za-z][A-Za-z0-9+\-.]*://(?=[^/?:]){AUTHORITY}(?:[/?].*)?"
OTHER_TARGET = rf"(?!CONNECT ).+ {ABSOLUTE_FORM}|OPTIONS \*|CONNECT (?=[^:]){HOST}:[0-9]+"

# RFC 9112 §5       field-line = field-name ":" OWS field-value OWS; the value may contain VCHAR, obs-text, SP and HTAB
FIELD_LINE = TOKEN + r":[\t\x20-\x7e\x80-\xff]*"

# RFC 9112 §7.1     chunk-size [ chunk-ext ] CRLF, chunk-ext = *( BWS ";" BWS token [ BWS "=" BWS value ] ), preceded by
#                   the CRLF that ends the data of the previous chunk
CHUNK_EXT = rf"{BWS};{BWS}{TOKEN}(?:{BWS}={BWS}(?:{TOKEN}|{QUOTED_STRING}))?"
CHUNK_START = rf"\r\n([0-9A-Fa-f]+)(?:{CHUNK_EXT})*\r\n"


def matcher(grammar: str) -> Callable[[bytes], Optional[re.Match[bytes]]]:
    return re.compile(grammar.encode()).fullmatch


match_method, match_version, match_host, match_digits = map(matcher, (TOKEN, VERSION, AUTHORITY, "[0-9]+"))
match_other_target, match_media_type = map(matcher, (OTHER_TARGET, MEDIA_TYPE))
match_field_line, match_trailer_line = map(matcher, (FIELD_LINE, FIELD_LINE + "\r\n"))
match_chunk_start = re.compile(CHUNK_START.encode()).match  # at a position, as copying each chunk would be slow

HEAD_END = b"\r\n\r\n"
CONTROLS = bytes({*range(0x20), 0x7F} - set(b"\t\r\n"))  # controls forbidden in a head (RFC 9110 §5.5)
# Maps what a request-target cannot contain to blanks: controls, DEL and "#". It keeps visible characters that RFC 3986
# would encode, because browsers send them, and UTF-8, because curl sends what its user types; no client sends "#".
TARGET_TABLE = bytes(0x20 if byte <= 0x20 or byte in b"#\x7f" else byte for byte in range(256))
SLASH, PERCENT, PLUS = b"/%+"  # integers, which Python compares and finds faster than bytes

# ------------------------------------------------------------------------------------------------- Head


class RequestError(Exception):
    """A request to be refused: the status code (RFC 9110 §15), and one line of text that names the fault."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


# The end of a response's head, which says whether the connection persists (RFC 9112 §9.3, §9.6)
KEEP_ALIVE = "\r\n\r\n"  # the default in HTTP/1.1
KEEP_ALIVE_1_0 = "\r\nConnection: keep-alive\r\n\r\n"
CLOSE = "\r\nConnection: close\r\n\r\n"

CHUNKED = -1  # stands for the length of a body that is known only after its last chunk
METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST")}
VERSIONS = {b"HTTP/1.%d" % minor for minor in range(10)}  # 1.2 and later are read as 1.1 (RFC 9110 §2.5)
IDENTITY = b"identity"
FIELDS_READ = set(b"host connection expect content-length transfer-encoding content-type content-encoding".split())

# What the fields of a head mean, in plain tuples, which Python unpacks fastest:
#   str    the end of the response's head: KEEP_ALIVE, KEEP_ALIVE_1_0 or CLOSE
#   int    the length of the body in bytes, or CHUNKED
#   bytes  the expectation in lower case, or b""
#   tuple  the media type without parameters, and the content codings, in lower case; each may be b"" (RFC 9110 §8.1)
DataType = tuple[bytes, bytes]
Fields = tuple[str, int, bytes, DataType]

Head = tuple[str, bytes, Fields, bytes]  # method, query, fields, and the bytes after the head

CACHE_ENTRIES = 512  # most in each of three caches; together about 14 MiB at most
CACHE_KEY_BYTES = 4 * 1024  # longest key: the size of a large cookie


class Cache(dict[bytes, Any]):
    """Caches the results of `parse`, which depend only on bytes that clients repeat in every request."""

    __slots__ = ("parse",)

    def __init__(self, parse: Callable[[bytes], Any]) -> None:
        super().__init__()
        self.parse = parse

    def __missing__(self, key: bytes) -> Any:
        value = self.parse(key)
        self.keep(key, value)
        return value

    def keep(self, key: bytes, value: Any) -> None:
        """Store a value, unless its key is long; empty a full cache first."""
        if len(key) <= CACHE_KEY_BYTES:
            if len(self) >= CACHE_ENTRIES:
                self.clear()
            self[key] = value


def take_head(buffer: bytes) -> Optional[Head]:
    """Parse a request's head (RFC 9112 §2.2, §3); return it with the bytes that follow, or None if it is incomplete.

    Raises RequestError, for a malformed line or a control character even before the head is complete.
    """
    if len(buffer) > REQUEST_LINE_BYTES:
        check_size(buffer.partition(HEAD_END)[0].strip(b"\r\n"))
    try:
        method, target, after_target = buffer.split(b" ", 2)
    except ValueError:
        check_partial_line(buffer)
        return None
    try:
        name = METHODS[method]
    except KeyError:
        if method.startswith(b"\r\n") and match_method(method[2:]):  # one empty line is ignored (RFC 9112 §2.2)
            return take_head(buffer[2:])
        if not match_method(method):
            check_partial_line(method)
            raise RequestError(400, "The method is not a token.") from None
        name = method.decode()
        if name == "CONNECT":
            check_other_target(method, target)
    section, end, rest = after_target.partition(HEAD_END)
    if end:
        fields = section_cache.get(section) or parse_section(section)
    else:
        check_controls(buffer)
        section, line_end, _ = section.rpartition(b"\r\n")  # the complete lines
        if not line_end and b"\n" not in target:  # not even the request line is complete
            return None
        select_lines(section)
    if target.translate(TARGET_TABLE) != target:
        raise RequestError(400, 'The request-target contains a control character or "#".')
    if not target or target[0] != SLASH:
        check_other_target(method, target)
    return (name, target.partition(b"?")[2], fields, rest) if end else None


def check_other_target(method: bytes, target: bytes) -> None:
    """Raise RequestError unless a request-target has a form that its method allows (RFC 9112 §3.2)."""
    if not has_valid_hosts(match_other_target(method + b" " + target)):
        form = "host:port" if method == b"CONNECT" else "a path or scheme://host/path"
        raise RequestError(400, f"The request-target is not {form}.")


def check_size(head: bytes) -> None:
    """Raise RequestError if a head, complete or not, is longer than a limit (RFC 9112 §3, RFC 6585 §5)."""
    line = head.partition(b"\r\n")[0]
    if len(line) > REQUEST_LINE_BYTES:
        if match_method(line[: REQUEST_LINE_BYTES + 1]):
            raise RequestError(501, f"The method is longer than {REQUEST_LINE_BYTES} bytes.")
        raise RequestError(414, f"The request line is longer than {REQUEST_LINE_BYTES} bytes.")
    if len(head) > HEAD_BYTES:
        raise RequestError(431, f"The head is longer than {HEAD_BYTES} bytes.")


def check_partial_line(buffer: bytes) -> None:
    """Raise RequestError if a request line ends before its second space, or contains a control character."""
    check_controls(buffer)
    if b"\r\n" in buffer.removeprefix(b"\r\n"):
        raise RequestError(400, 'The request line is not "method request-target HTTP-version".')


def check_controls(buffer: bytes) -> None:
    """Raise RequestError if a head contains a control character or a bare CR or LF."""
    head = buffer.partition(HEAD_END)[0]
    lines = head.count(b"\r\n")
    bare = head.count(b"\n") > lines or head.count(b"\r") - head.endswith(b"\r") > lines
    if bare or len(head.translate(None, CONTROLS)) < len(head):
        raise RequestError(400, "The head contains a control character, a bare CR or a bare LF.")


def parse_section(section: bytes) -> Fields:
    """Check a head from its HTTP version to its last field line; return what its fields mean."""
    known = len(line_cache)
    fields: Fields = fields_cache[select_lines(section)]
    if len(line_cache) == known:  # a field that is new in each request must not evict the sections that recur
        section_cache.keep(section, fields)
    return fields


def select_lines(section: bytes) -> bytes:
    """Check an HTTP version and the field lines after it (RFC 9112 §2.3, §5); return it and the FIELDS_READ lines."""
    lines = section.split(b"\r\n")
    version = lines.pop(0)
    if version not in VERSIONS:
        if match_version(version):
            raise RequestError(505, "This server supports HTTP/1.1 and HTTP/1.0.")
        raise RequestError(400, 'The request line is not "method request-target HTTP/1.1" with single spaces.')
    if len(lines) > FIELD_LINES:
        raise RequestError(431, f"The head has more than {FIELD_LINES} field lines.")
    return version + b"".join(map(line_cache.__getitem__, lines))


def select_line(line: bytes) -> bytes:
    """Check a field line; return it, after a line feed, if its name is in FIELDS_READ, else b""."""
    if not match_field_line(line):
        raise RequestError(400, 'A field line is not "name: value".')
    return b"\n" + line if line.partition(b":")[0].lower() in FIELDS_READ else b""


def parse_fields(selected: bytes) -> Fields:
    """Parse what select_lines() returned (RFC 9110, RFC 9112). Raises RequestError."""
    version, *lines = selected.split(b"\n")
    is_1_0 = version == b"HTTP/1.0"
    values: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.lower().partition(b":")
        value = value.strip(b" \t")
        if name in values and name == b"content-type":  # RFC 9110 §8.3
            raise RequestError(400, "The request has more than one Content-Type field.")
        values[name] = b"%b, %b" % (values[name], value) if name in values else value  # RFC 9110 §5.3
    host = values.get(b"host")
    if host is None and not is_1_0:  # RFC 9112 §3.2
        raise RequestError(400, "The request has no Host field, which HTTP/1.1 requires.")
    if host is not None and not has_valid_hosts(match_host(host)):
        raise RequestError(400, 'The Host field is not exactly one "host" or "host:port".')
    options = list_members(values.get(b"connection", b""))
    if b"close" in options or is_1_0 and b"keep-alive" not in options:
        persistence = CLOSE
    else:
        persistence = KEEP_ALIVE_1_0 if is_1_0 else KEEP_ALIVE
    length = parse_body_length(values.get(b"content-length"), values.get(b"transfer-encoding"), is_1_0)
    expectation = b"" if is_1_0 else b", ".join({*list_members(values.get(b"expect", b""))})  # RFC 9110 §10.1.1
    media_type = match_media_type(values.get(b"content-type", b""))
    codings = b", ".join(list_members(values.get(b"content-encoding", b"")))
    data_type = (media_type[1] if media_type else b"", b"" if codings == IDENTITY else codings)
    return persistence, length, expectation, data_type


line_cache, fields_cache = Cache(select_line), Cache(parse_fields)
section_cache = Cache(parse_section)  # for get() and keep() only


def list_members(value: bytes) -> list[bytes]:
    """Return the members of a comma-separated field value, without the empty ones (RFC 9110 §5.6.1)."""
    members = [member.strip(b" \t") for member in value.split(b",")]
    return [member for member in members if member]


def has_valid_hosts(match: Optional[re.Match[bytes]]) -> bool:
    """Return whether a grammar has matched, and each host in brackets is an IPv6 address (RFC 3986 §3.2.2)."""
    if match is None:
        return False
    try:
        for address in match.groups():
            if address is not None:
                ipaddress.IPv6Address(address.decode())
    except ValueError:
        return False
    return True


def parse_body_length(content_length: Optional[bytes], transfer_encoding: Optional[bytes], is_1_0: bool) -> int:
    """Return the length of the body in bytes, or CHUNKED (RFC 9112 §6.1 to §6.3). Raises RequestError."""
    if transfer_encoding is not None:
        if content_length is not None:
            raise RequestError(400, "The request has both Content-Length and Transfer-Encoding.")
        if is_1_0:
            raise RequestError(400, "HTTP/1.0 has no Transfer-Encoding.")
        *others, last = list_members(transfer_encoding) or [b""]
        if last != b"chunked" or last in others:  # the end of the body could not be found
            raise RequestError(400, "Transfer-Encoding does not name chunked exactly once, and last.")
        if others:
            raise RequestError(501, "The only transfer coding that this server supports is chunked.")
        return CHUNKED
    if content_length is None:
        return 0
    length, *others = {value.strip(b" \t") for value in content_length.split(b",")}
    if others or not match_digits(length):
        raise RequestError(400, "The Content-Length is not one decimal number.")
    return int(length.lstrip(b"0")[:20] or b"0")  # 20 digits exceed any limit


# ------------------------------------------------------------------------------------------------- Body

# Takes received bytes by send(). Yields None while the body is incomplete, then the body and the bytes that follow it.
BodyReader = Generator[Optional[tuple[bytes, bytes]], bytes, None]


def read_by_length(length: int) -> BodyReader:
    """Read a body of this many bytes."""
    received = bytearray()
    while len(received) < length:
        received += yield None
    yield bytes(received[:length]), bytes(received[length:])


def read_chunks() -> BodyReader:
    """Read a chunked body and its trailer section (RFC 9112 §7.1). Raises RequestError, also for excessive framing."""
    buffer, at = b"\r\n" + (yield None), 0  # as if a chunk had just ended
    body, excess, size = bytearray(), 0, -1
    while size:
        match = match_chunk_start(buffer, at, at + 2 + CHUNK_LINE_BYTES)
        if not match:  # incomplete or malformed
            end, buffer = yield from take_line(buffer[at:])
            if end != b"\r\n":
                raise RequestError(400, "The data of a chunk is not followed by CRLF.")
            line, buffer = yield from take_line(buffer)
            buffer, at = end + line + buffer, 0
            match = match_chunk_start(buffer)
            if not match:
                raise RequestError(400, "A chunk does not start with a hexadecimal size and valid extensions, if any.")
        size, begin = int(match[1], 16), match.end()
        if len(body) + size > BODY_BYTES:
            raise RequestError(413, f"The body is longer than {BODY_BYTES} bytes.")
        excess = max(0, excess + begin - at - CHUNK_FRAMING_BYTES - 2 * size)
        if excess > CHUNK_EXCESS_BYTES:
            raise RequestError(400, f"The chunk framing exceeds its allowance by more than {CHUNK_EXCESS_BYTES} bytes.")
        at = begin + size
        body += buffer[begin:at]
        while at > len(buffer):
            at -= len(buffer)
            buffer = yield None
            body += buffer[:at]
    buffer = buffer[at:]
    for _ in range(FIELD_LINES + 1):
        line, buffer = yield from take_line(buffer)
        if line == b"\r\n":
            yield bytes(body), buffer
        if not match_trailer_line(line):
            raise RequestError(400, 'A trailer is not "name: value".')
    raise RequestError(431, f"The body has more than {FIELD_LINES} trailers.")


def take_line(buffer: bytes) -> Generator[None, bytes, tuple[bytes, bytes]]:
    """Read a line of a chunked body; return it with its line feed, and the bytes that follow."""
    while not (end := buffer.find(b"\n", 0, CHUNK_LINE_BYTES) + 1):
        if len(buffer) >= CHUNK_LINE_BYTES:
            raise RequestError(400, f"A line of the chunked body is longer than {CHUNK_LINE_BYTES} bytes.")
        buffer += yield
    return buffer[:end], buffer[end:]


# -------------------------------------------------------------------------------------------------- Sum

find_values = re.compile(b"=([^&]*)").findall


def query_values(query: bytes) -> list[Any]:
    """Return the values of a query (WHATWG URL, application/x-www-form-urlencoded); invalid UTF-8 becomes U+FFFD."""
    values: list[Any] = find_values(query)
    if PERCENT in query or PLUS in query or not query.isascii():
        return [unquote_plus(value.decode(errors="replace")) for value in values]
    return values


def reject_constant(name: str) -> NoReturn:
    """Reject NaN and the infinities, which Python's json accepts but JSON does not have (RFC 8259 §6)."""
    raise ValueError(f"{name} is no JSON value")


# Reads an object as a tuple of its members, an array as a list, and a number as a float: int() takes quadratic time.
JSON_DECODER = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float, parse_constant=reject_constant)
JSON_SPACE = " \t\r\n"
BYTE_ORDER_MARK = "\ufeff".encode()


def json_text(body: bytes) -> str:
    """Return the JSON text in a body, without a byte order mark (RFC 8259 §8.1). Raises RequestError."""
    try:
        text = body.removeprefix(BYTE_ORDER_MARK).decode().rstrip(JSON_SPACE)
    except UnicodeDecodeError:
        raise RequestError(400, "The body is not UTF-8.") from None
    if not text:
        raise RequestError(400, "The body has no JSON text; an object is expected.")
    # Python's own limit of nesting does not suffice: 3.13.0 overflows the C stack first.
    if body.count(b"[") + body.count(b"{") > JSON_NESTING and json_nesting(body) > JSON_NESTING:
        raise RequestError(400, f"The JSON text is nested deeper than {JSON_NESTING} levels.")
    return text


JSON_STRING = re.compile(rb'"[^"]*"?')
DEPTH_CHANGE = dict(zip(b"[{]}", (1, 1, -1, -1)))
NOT_BRACKETS = bytes({*range(256)} - DEPTH_CHANGE.keys())


def json_nesting(body: bytes) -> int:
    """Return how deep the arrays and objects in a body are nested, if it is JSON."""
    outside_strings = JSON_STRING.sub(b"", body.replace(b"\\\\", b"").replace(b'\\"', b""))
    return max(accumulate(map(DEPTH_CHANGE.__getitem__, outside_strings.translate(None, NOT_BRACKETS))), default=0)


def json_object(text: str) -> tuple[tuple[str, Any], ...]:
    """Return the members of a JSON object; a repeated name counts each time (RFC 8259 §4). Raises RequestError."""
    try:
        members, end = JSON_DECODER.raw_decode(text, len(text) - len(text.lstrip(JSON_SPACE)))
    except ValueError as error:
        reason = str(error).encode("ascii", "backslashreplace").decode()  # PyPy's message quotes the body
        raise RequestError(400, f"The body is not JSON: {reason}.") from None
    if end < len(text):
        raise RequestError(400, f"The body is not JSON: unexpected data after the value (char {end}).")
    if type(members) is not tuple:
        raise RequestError(400, "The JSON text is not an object.")
    return members


NUMERIC_TYPES = (float, str)


def numeric_values(members: Iterable[tuple[str, Any]]) -> list[Any]:
    """Return the values that are numbers or strings."""
    return [value for _, value in members if type(value) in NUMERIC_TYPES]


def json_values(body: bytes) -> list[Any]:
    """Return the numbers and strings among the values of the JSON object in a body. Raises RequestError."""
    return numeric_values(json_object(json_text(body)))


def sum_text(values: Sequence[Any]) -> str:
    """Return the response for values: `Sum: 6.0`, or `Sum: 0` if none of them is a number."""
    try:
        total = fsum(map(float, values))  # nearly always, all are finite numbers
    except (ValueError, OverflowError):
        total = inf
    if not isfinite(total):
        values = numbers(values)
        total = exact_sum(values)
    return f"Sum: {total!r}" if values else "Sum: 0"


TURN_VALUES = 16 * 1024


def sum_json_in_turns(body: bytes) -> Generator[bytes, bytes, str]:
    """Return the response to a large JSON object; each yield ends a turn."""
    yield b""
    text = json_text(body)
    yield b""
    members = json_object(text)  # the longest turn: Python's json decodes 1 MiB in one step of tens of milliseconds
    found: list[float] = []
    for start in range(0, len(members), TURN_VALUES):
        yield b""
        found += numbers(numeric_values(members[start : start + TURN_VALUES]))
    yield b""
    return sum_text(found)


def numbers(values: Sequence[Any]) -> list[float]:
    """Return as floats those values that `float()` converts to a finite number."""
    found: list[float] = []
    converted = map(float, values)
    while True:
        try:
            found.extend(converted)
        except ValueError:  # a value is not a number; go on after it
            continue
        return found if isfinite(sum(found)) else list(filter(isfinite, found))


def exact_sum(values: Sequence[float]) -> float:
    """Return the sum of finite floats, rounded once; an infinity if it exceeds the range of a float."""
    try:
        return fsum(values)
    except OverflowError:  # a part of the sum exceeds the range; the whole may not
        pass
    numerators: defaultdict[int, int] = defaultdict(int)  # sums of numerators, by denominator
    for numerator, denominator in map(float.as_integer_ratio, values):
        numerators[denominator] += numerator
    unit = 2**1074  # the largest denominator of a float, which all others divide
    whole = sum(numerator * (unit // denominator) for denominator, numerator in numerators.items())
    try:
        return whole / unit
    except OverflowError:
        return inf if whole > 0 else -inf


# --------------------------------------------------------------------------------------------- Response

STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
STATUS_LINES[405] += f"Allow: {', '.join(METHODS.values())}\r\n"  # RFC 9110 §15.5.6
STATUS_LINES[415] += f"Accept-Encoding: {IDENTITY.decode()}\r\n"  # RFC 9110 §12.5.3
CONTINUE_RESPONSE = "HTTP/1.1 100 Continue\r\n\r\n"


def response_starts(seconds: float) -> dict[int, str]:
    """Return the start of a response for each status, up to the value of Content-Length.

    It is valid only in the second of `seconds` (since 1970), because Date is (RFC 9110 §6.6.1).
    """
    fields = f"Date: {formatdate(seconds, usegmt=True)}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "
    return {status: line + fields for status, line in STATUS_LINES.items()}


LOGGED_BYTES = 4000  # longest request line in the access log, so that the log line fits in the 4 KiB goaccess takes
ESCAPED = re.compile(rb"[^ !#-\[\]-~]")  # bytes that the access log shows as \xHH, as nginx does
PLAIN_BYTES = ESCAPED.sub(b"", bytes(range(256)))
CUT_ESCAPE = re.compile(rb"\\(?:x.?)?\Z")


def log_line(client: str, when: bytes, received: bytes, status: int, length: int) -> bytes:
    """Return the access log's line for the first request in `received`; `length` is that of the content sent.

    Its format is the Common Log Format, with %B for %b (Apache HTTP Server 2.4, mod_log_config).
    """
    line = received.removeprefix(b"\r\n").partition(b"\r\n")[0]
    if len(line) > LOGGED_BYTES or line.translate(None, PLAIN_BYTES) or not line:
        shown = ESCAPED.sub(lambda match: b"\\x%02X" % ord(match[0]), line[:LOGGED_BYTES])
        line = CUT_ESCAPE.sub(b"", shown[:LOGGED_BYTES]) or b"-"
    return b'%b - - [%b] "%b" %d %d\n' % (client.encode(), when, line, status, length)


# ---------------------------------------------------------------------------------------------- Handler

# What a connection waits for: the next request, the rest of a head or body, a turn for long work, the end of input
REQUEST, HEAD, BODY, TURN, LINGER = "request", "head", "body", "turn", "linger"

METHOD_REGISTRY = """* ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK MERGE
MKACTIVITY MKCALENDAR MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST PRI PROPFIND PROPPATCH PUT
QUERY REBIND REPORT SEARCH TRACE UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL
"""  # IANA's (RFC 9110 §18.2), up to RFC 10008
CONTINUE = b"100-continue"
JSON_TYPE = b"application/json", b""  # the DataType that do_POST reads; parameters mean nothing (RFC 8259 §11)


class SumHandler(BaseHTTPRequestHandler):
    """The HTTP side of a connection (RFC 9112 §9): bytes in, bytes out, without a socket, a clock or a thread.

    To refuse the request that is being received, throw a RequestError into handle(). The server provides `stopping`,
    `response_starts` and, for the access log, `write_log` and `log_time`; the base class only lends method names.
    """

    server: Any

    def __init__(self, client_address: tuple[Any, ...], server: Any, tally: Any) -> None:
        """Unlike the base class, use no socket. Each valid head adds 1 to `tally.uncounted`."""
        self.client_address, self.server, self.tally = client_address, server, tally
        self.waits_for = REQUEST

    def address_string(self) -> str:
        """Return the client's address for logs: an IPv4-mapped one as IPv4 (RFC 4291 §2.5.5.2), IPv6 without zone."""
        address: str = self.client_address[0]
        return (address.removeprefix("::ffff:") if "." in address else address).partition("%")[0]

    def handle(self) -> Generator[bytes, bytes, bytes]:  # type: ignore[override]
        """Take the client's bytes by send(), b"" at the end of input and for each TURN; yield the responses to them.

        Return the last ones; then the connection ends: at the end of input if `waits_for` is LINGER, else at once.
        """
        server, tally = self.server, self.tally
        starts, write_log = server.response_starts, server.write_log
        pending: list[str] = []  # responses
        buffer = yield b""
        while buffer:
            method, status, complete = None, 200, False  # complete: the whole request has come
            try:
                while (head := take_head(buffer)) is None:
                    more, query, body, enough = b"", b"", b"", len(buffer) + LIGHT_BYTES  # free them while waiting
                    while b"\n" not in more and len(buffer) < enough:  # a full parse for each byte would be slow
                        check_controls(more)
                        more = yield from self.receive(REQUEST if buffer == b"\r\n" else HEAD, pending)
                        if not more:
                            return b""
                        buffer += more
                method, query, (persistence, length, expectation, data_type), rest = head
                tally.uncounted += 1
                body, complete = b"", not length
                if length or expectation:
                    body, rest = yield from self.receive_body(length, expectation, rest, pending)
                    complete = True
                if method == "GET" and len(query) <= LIGHT_QUERY_BYTES:
                    text = self.do_GET(query)
                elif method == "POST" and (len(body) <= LIGHT_BYTES or data_type != JSON_TYPE):
                    text = self.do_POST(data_type, body)
                else:
                    text = yield from self.answer_others(method, query, body)
            except Exception as error:
                method, status, text = self.error_response(error, method, buffer)
            if not complete or status == 500 or server.stopping:
                persistence, rest = CLOSE, buffer  # so LINGER: the client may still send
            content = "" if method == "HEAD" else text
            pending.append(f"{starts[status]}{len(text)}{persistence}{content}")
            if write_log is not None:
                write_log(log_line(self.address_string(), server.log_time, buffer, status, len(content)))
            if persistence is CLOSE:
                self.waits_for = LINGER if rest else REQUEST
                return "".join(pending).encode()
            buffer = rest
            if not buffer:
                head, more, query, body = None, b"", b"", b""  # so that an idle connection keeps no bytes
                self.waits_for = REQUEST
                pending = ["".join(pending)]
                buffer = yield pending.pop().encode()
        return b""

    def receive(self, waits_for: str, pending: list[str]) -> Generator[bytes, bytes, bytes]:
        """Yield the pending responses; return the bytes that the client sends next."""
        self.waits_for = waits_for
        responses = ["".join(pending).encode()]
        pending.clear()
        data = yield responses.pop()  # not kept while this waits
        if not data and waits_for != REQUEST:
            raise RequestError(400, f"The client closed the connection before the end of the request's {waits_for}.")
        return data

    def receive_body(
        self, length: int, expectation: bytes, rest: bytes, pending: list[str]
    ) -> Generator[bytes, bytes, tuple[bytes, bytes]]:
        """Return the body (RFC 9112 §6) that begins in the rest, and the bytes that follow it. Raises RequestError."""
        if expectation and expectation != CONTINUE:
            raise RequestError(417, "The only expectation that this server supports is 100-continue.")
        if length > BODY_BYTES:
            raise RequestError(413, f"The body is longer than {BODY_BYTES} bytes.")
        if 0 <= length <= len(rest):
            return rest[:length], rest[length:]
        if expectation and not rest:
            pending.append(CONTINUE_RESPONSE)
        reader = read_chunks() if length == CHUNKED else read_by_length(length)
        next(reader)
        while not (taken := reader.send(rest)):
            rest = yield from self.receive(BODY, pending)
        return taken

    def error_response(self, error: Exception, method: Optional[str], buffer: bytes) -> tuple[Optional[str], int, str]:
        """Return the method, if known, the status and the text of the response to a request that failed."""
        method = method or METHODS.get(buffer.lstrip(b"\r\n").partition(b" ")[0])
        if isinstance(error, RequestError):
            return method, error.status, str(error)
        if isinstance(error, MemoryError):
            log.warning("There is not enough memory to answer a request")
            return method, 500, "The server does not have enough memory for this request."
        log.exception("A bug in this server: a request could not be answered")
        return method, 500, "This server has a bug; see its log."

    def answer_others(self, method: str, query: bytes, body: bytes) -> Generator[bytes, bytes, str]:
        """Answer the requests that handle() leaves: HEAD, and large ones, where each `yield b""` waits for a TURN.

        Raises RequestError, always for other methods.
        """
        if method == "POST":
            self.waits_for = TURN
            return (yield from sum_json_in_turns(body))
        if len(query) > LIGHT_QUERY_BYTES:
            self.waits_for = TURN
            yield b""
        if method in ("GET", "HEAD"):  # handle() omits the content of the response to HEAD
            return self.do_GET(query)
        status = 405 if method in METHOD_REGISTRY.split() else 501  # RFC 9110 §9.1
        raise RequestError(status, "This server supports only GET, HEAD and POST.")

    def do_GET(self, query: bytes) -> str:
        """Return the sum of the numbers in a query."""
        return sum_text(query_values(query))

    def do_POST(self, data_type: DataType, body: bytes) -> str:
        """Return the sum of the numbers in a JSON object. Raises RequestError for another content coding or type."""
        if data_type == JSON_TYPE:
            return sum_text(json_values(body))
        if data_type[1]:
            raise RequestError(415, "The only content coding that this server supports is identity.")
        raise RequestError(400, 'Please, ensure the content type of your request is "application/json".')


# ==================================================================================== Part II: a count
# ----------------------------------------------------------------------------------------------- Files


def is_same_file(path: str, opened: os.stat_result) -> bool:
    """Return whether a path still leads to the file that had this status when it was opened."""
    try:
        return os.path.samestat(os.stat(path), opened)
    except OSError:
        return False


def lock_byte(file: int, offset: int) -> bool:
    """Lock a byte (also past the file's end) until the file is closed; return False if another process has it.

    Raises OSError if the file system has no locks.
    """
    os.lseek(file, offset, os.SEEK_SET)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            os.lockf(file, os.F_TLOCK, 1)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):  # "locked"; which of the two depends on the system
            raise
        return False
    return True


def disable_copy_on_write(file: int) -> None:
    """Make btrfs overwrite the blocks of a file in place (chattr +C); the file must be empty.

    With copy-on-write, a store into a memory map needs a free block; on a full disk the process gets SIGBUS.
    """
    if sys.platform == "linux":
        import fcntl

        long = struct.calcsize("l") << 16  # the ioctl's numbers contain the size of a long; the flags are an int
        get_flags, set_flags, no_copy = 0x80006601 | long, 0x40006602 | long, 0x00800000  # FS_IOC_…, FS_NOCOW_FL
        flags = bytearray(4)
        with contextlib.suppress(OSError):  # other file systems do not have this flag
            fcntl.ioctl(file, get_flags, flags)
            wanted = int.from_bytes(flags, sys.byteorder) | no_copy
            fcntl.ioctl(file, set_flags, wanted.to_bytes(4, sys.byteorder))


# ---------------------------------------------------------------------------------------------- Counter


class Counter:
    """Counts requests in a memory-mapped file, so that the kernel keeps the count if the process is killed.

    The file has 16 KiB, in the byte order of the machine:

        0      8 bytes   b"requests"
        8      uint64    version of this layout, 1
        16     16 bytes  UUID, also stored in the matching state file
        64*n   uint64    cell n, from 1 to 255: the requests counted in it since the file was created
        +8     uint64    load of the thread that owns the cell: open connections, plus up to 64 accepted this second
        +16    uint64    open connections of that thread, updated each second
        +24    uint64    in the cell of a process's first thread: CPU time of the process (µs), updated each second

    Counts only increase; each cell has its own cache line. The main process locks part 0 (the header), each serving
    process its cells; the system releases the locks when a process dies. The locked bytes are past the end of the
    file, because on Windows other processes cannot read locked bytes.
    """

    MAGIC, VERSION = b"requests", 1
    SIZE = 16 * 1024
    STEP = 8  # from one cell to the next, in 8-byte words: a cache line
    LOAD, CONNECTIONS, CPU_TIME = 1, 2, 3  # words after the count
    HEADER = struct.Struct("=8sQ16s")

    def __init__(self, path: str, *parts: int, create: bool = False) -> None:
        """Open the file and lock these parts of it; `self.cells` are the locked cells, to count in.

        With create, a missing file is created. With ":memory:", there is none. Raises StartError, OSError.
        """
        self.path, self.file = path, -1
        if path == ":memory:":
            self.map = mmap.mmap(-1, self.SIZE)
        elif not (create or os.path.exists(path)):
            raise StartError(f"{path} is missing; restore it, or move the state file away, too")
        else:
            self.file = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0) | (os.O_CREAT if create else 0), 0o644)
            try:
                self.lock_parts(parts)
                self.check_content(create)
                self.map = mmap.mmap(self.file, self.SIZE)
            except BaseException as error:
                os.close(self.file)
                if isinstance(error, OSError):
                    error.filename = path  # which an error of a descriptor call lacks
                raise
        self.header = self.map[: self.HEADER.size]
        self.identity = self.header[16:]
        self.words = memoryview(self.map).cast("Q")
        self.cells = [Cell(self.words, part * self.STEP) for part in parts if part]

    def lock_parts(self, parts: tuple[int, ...]) -> None:
        """Lock parts of the file; wait for cells, whose locks a killed server's worker may hold a little longer."""
        end = monotonic() + LOCK_SECONDS
        for part in parts:
            while not lock_byte(self.file, 2 * self.SIZE + part):
                if part == 0 or monotonic() > end:
                    raise StartError(f"{self.path} is in use by another server; use a different --state")
                sleep(PAUSE_SECONDS)

    def check_content(self, create: bool) -> None:
        """Raise StartError unless this is a counter file; allocate its blocks. With create, initialize an empty one."""
        with open(self.file, "r+b", closefd=False) as file:
            file.seek(0)
            content = file.read(self.SIZE + 1)
            if create and len(content) <= self.SIZE and not content.strip(b"\0"):
                self.initialize(file)
            elif len(content) < self.HEADER.size or content[:8] != self.MAGIC:
                raise StartError(f"{self.path} is not a counter file; restore it, or move it and the state file away")
            elif self.HEADER.unpack_from(content)[1] != self.VERSION:
                raise StartError(f"{self.path} has another format version or byte order; use a different --state")
            elif len(content) != self.SIZE:
                raise StartError(f"{self.path} is not {self.SIZE} bytes long; restore it, or use a different --state")
        if sys.platform == "linux" and os.fstat(self.file).st_blocks * 512 < self.SIZE:  # a copy may be a sparse file
            try:
                os.posix_fallocate(self.file, 0, self.SIZE)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system does not support it
                    raise

    def initialize(self, file: BinaryIO) -> None:
        """Write a new file: zeros first, to allocate the blocks that a memory map needs; the header last."""
        file.truncate(0)
        disable_copy_on_write(self.file)
        for content in (bytes(self.SIZE), self.HEADER.pack(self.MAGIC, self.VERSION, uuid.uuid4().bytes)):
            file.seek(0)
            file.write(content)
            file.flush()
            os.fsync(self.file)

    def problem(self) -> str:
        """Return a fault of the file that this server cannot repair; "" if there is none."""
        if self.file >= 0 and not is_same_file(self.path, os.fstat(self.file)):
            return f"{self.path} was removed, moved or replaced; this server keeps counting in the file that it opened"
        if self.map[: self.HEADER.size] != self.header:
            return f"{self.path} was overwritten while this server counts in it; its count is wrong"
        return ""

    def total(self) -> int:
        """Return the number of requests counted in all cells since the file was created."""
        return sum(self.words[self.STEP :: self.STEP])

    def column(self, word: int, threads: int) -> memoryview:
        """Return a view of LOAD, CONNECTIONS or CPU_TIME of the first `threads` cells; all processes share it."""
        return self.words[self.STEP + word : (threads + 1) * self.STEP : self.STEP]

    def flush(self) -> None:
        """Write the count to the disk, so that it survives a power failure. Raises OSError.

        On Linux, fsync() also writes mapped pages. Elsewhere it needs mmap.flush() first, which holds the GIL while the
        disk works, so that all clients wait, and on Windows does not reach the disk.
        """
        if self.file >= 0:
            try:
                if sys.platform != "linux":
                    self.map.flush()
                os.fsync(self.file)
            except OSError as error:
                error.filename = self.path
                raise

    def close(self) -> None:
        self.words.release()
        with contextlib.suppress(BufferError):  # a view of the map may be left after a failed start
            self.map.close()
        if self.file >= 0:
            os.close(self.file)


class Cell:
    """Counts one thread's requests."""

    def __init__(self, words: memoryview, index: int) -> None:
        self.words, self.index = words, index
        self.lock = threading.Lock()  # keeps increments exact if threads share the cell; a server's threads do not

    def increment(self, number: int = 1) -> None:
        """Count `number` requests. The store has 8 aligned bytes, so other processes never read half of a number."""
        with self.lock:
            self.words[self.index] += number

    def publish_usage(self, connections: int, cpu_seconds: float) -> None:
        """Publish the open connections of this thread and the CPU time of this process; see Counter."""
        self.words[self.index + Counter.CONNECTIONS] = connections
        self.words[self.index + Counter.CPU_TIME] = int(cpu_seconds * 1e6)


# ----------------------------------------------------------------------------------------------- Outbox


class Point(NamedTuple):
    """The number of requests in one interval, as the outbox stores it."""

    serial: int  # points are numbered as they are recorded, and sent in this order unless refused
    time: int  # nanoseconds since 1970
    requests: int


def point_time(now: int, serial: int) -> int:
    """Return the time (ns) of a point: the second of now (ns), with the point's serial number as its fraction.

    So a server's next billion points differ in time, however its clock is set. They also differ in milliseconds,
    unless the clock shows the same second again a thousand points later.
    """
    return now - now % 10**9 + serial % 1000 * 1_000_000 + serial // 1000 % 1_000_000


class Outbox:
    """Stores the points that InfluxDB has not yet taken, in SQLite.

    requests   the points that wait, each until InfluxDB has acknowledged it
    rejected   the points that InfluxDB rejects while it takes others, and the reason
    state      one row: the counter's UUID, how many of its requests are already in points (reported), the time (ns)
               since which the others were counted, and the serial number of the last point

    One transaction stores a point, the number reported and the serial number, so no kill can separate them.
    `journal_mode=DELETE` needs no second file between transactions. `synchronous=EXTRA` syncs each commit and, once
    the journal is deleted, its folder: a power failure never undoes a point that InfluxDB may already have.
    """

    APPLICATION_ID = 0x6D617468  # "math"
    VERSION = 3  # 1 and 2 had no serial numbers, and were in WAL mode; 2 had a table lanes
    BUSY_SECONDS = 1.0  # SQLite's busy_timeout: how long to wait for another program's lock
    PROBE_BYTES = 64 * 1024  # written to a temporary file, to learn why SQLite could not write
    TABLES = f"""
        CREATE TABLE requests (time INTEGER NOT NULL, requests_number INTEGER NOT NULL, serial INTEGER PRIMARY KEY);
        CREATE TABLE rejected (time INTEGER NOT NULL, requests_number INTEGER NOT NULL, reason TEXT NOT NULL,
            serial INTEGER PRIMARY KEY);
        CREATE TABLE state (counter BLOB NOT NULL, reported INTEGER NOT NULL, since INTEGER NOT NULL,
            serial INTEGER NOT NULL);
        PRAGMA application_id = {APPLICATION_ID};
        PRAGMA user_version = {VERSION};
    """
    UPGRADE = f"""
        BEGIN IMMEDIATE;
        CREATE TEMPORARY TABLE old AS
            SELECT time, requests_number, NULL AS reason FROM requests
            UNION ALL SELECT time, requests_number, reason FROM rejected ORDER BY time;
        CREATE TEMPORARY TABLE old_state AS SELECT counter, reported, since FROM state;
        DROP TABLE requests; DROP TABLE rejected; DROP TABLE state; DROP TABLE IF EXISTS lanes;
        {TABLES}
        INSERT INTO requests SELECT time, requests_number, rowid FROM old WHERE reason IS NULL;
        INSERT INTO rejected SELECT time, requests_number, reason, rowid FROM old WHERE reason IS NOT NULL;
        INSERT INTO state SELECT *, (SELECT count(*) FROM old) FROM old_state;
        COMMIT;
    """

    def __init__(self, path: str) -> None:
        """Open or create the file. Raises StartError, without changing it, if it is corrupt or its version unknown."""
        self.path = path
        self.display_name = "memory" if path == ":memory:" else path
        self.lock = threading.RLock()  # guards `database`, which two threads use
        self.opened: Optional[os.stat_result] = None  # status of the file at startup
        self.pending = 0  # number of waiting points; read without the lock, which may be held during disk access
        try:
            if path != ":memory:":
                os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o644))  # its error says why, unlike SQLite's
                self.opened = os.stat(path)
            self.database = sqlite3.connect(path, check_same_thread=False)
            try:
                ((self.version,),) = self.execute("PRAGMA user_version")  # of the schema, when it was opened
                self.is_new = not self.execute("SELECT 1 FROM sqlite_master LIMIT 1")
                if not self.is_new:
                    self.check()
            except BaseException:
                self.close()
                raise
        except (OSError, sqlite3.Error) as error:
            raise StartError(self.explain(error)) from None

    def execute(self, statement: str, *values: object) -> list[Any]:
        """Execute one SQL statement; return all rows, because a statement with unread rows would keep its lock."""
        with self.lock:
            return self.database.execute(statement, values).fetchall()

    def explain(self, error: Exception) -> str:
        """Return one line about an error of the state file or counter file: its path, the system's reason, a remedy."""
        path = getattr(error, "filename", None) or self.path
        folder = os.path.dirname(os.path.abspath(path))
        line = f"{path}: {reason_of(error)}"
        if isinstance(error, OSError) and error.filename and not os.path.exists(path):
            return f"cannot write {'the state file ' if path == self.path else ''}{line} in {folder}"
        if type(error) is sqlite3.DatabaseError:  # it is corrupt, or not a database
            line += "; repair it, or use a different --state"
        elif isinstance(error, sqlite3.OperationalError) and path != ":memory:":
            try:  # SQLite does not say why: try to lock a temporary file, and to write past the state file's size
                with tempfile.TemporaryFile(dir=folder) as probe:
                    lock_byte(probe.fileno(), 0)
                    probe.seek(os.path.getsize(path) if os.path.exists(path) else 0)
                    probe.write(bytes(self.PROBE_BYTES))
            except OSError as cause:
                line += f" ({reason_of(cause)} in {folder})"
        return line

    def check(self) -> None:
        """Raise StartError unless this is an intact file of this program, in a known version."""
        if self.execute("PRAGMA application_id") != [(self.APPLICATION_ID,)]:
            raise StartError(f"{self.path} is another program's database; use a different --state")
        if not 1 <= self.version <= self.VERSION:
            raise StartError(f"{self.path} is of version {self.version}, not {self.VERSION}; use a different --state")
        ((report,),) = self.execute("PRAGMA quick_check(1)")
        if report != "ok" or len(self.execute("SELECT * FROM state")) != 1:
            flaw = "table state must have one row" if report == "ok" else one_line(report)
            raise StartError(f"{self.path} is corrupt ({flaw}); repair it, or use a different --state")

    def attach(self, counter: Counter) -> None:
        """Record the requests of this counter from now on; create the tables, or convert those of an older version.

        Raises sqlite3.Error, and StartError, without changing the file, if file and counter do not belong together.
        """
        self.counter = counter
        path, count_path = self.path, counter.path
        if self.is_new and counter.total():
            raise StartError(f"{path} is missing or empty; restore it, or move {count_path} away")
        if not self.is_new:
            identity, reported, _ = self.state()
            if identity != counter.identity or reported > counter.total():
                raise StartError(f"{path} and {count_path} do not belong together; restore both, or move both away")
        self.execute("PRAGMA journal_mode = DELETE")
        self.execute("PRAGMA synchronous = EXTRA")
        self.execute(f"PRAGMA busy_timeout = {round(self.BUSY_SECONDS * 1000)}")
        if self.is_new:
            self.database.executescript(f"BEGIN IMMEDIATE; {self.TABLES}")
            serial = uuid.uuid4().int % 10**9  # random, so two files' points differ in time
            self.execute("INSERT INTO state VALUES (?, 0, ?, ?)", counter.identity, time_ns(), serial)
            self.database.commit()
        elif self.version < self.VERSION:
            self.database.executescript(self.UPGRADE)
        self.count_pending()

    def state(self) -> tuple[bytes, int, int]:
        """Return the counter's UUID, the number reported, and the time (ns) since which the others were counted."""
        ((identity, reported, since),) = self.execute("SELECT counter, reported, since FROM state")
        return identity, reported, since

    def count_pending(self) -> None:
        try:
            self.pending = self.execute("SELECT count(*) FROM requests")[0][0]
        except sqlite3.Error:
            self.pending = max(1, self.pending)  # unknown, so the log must not say that all are delivered

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make all changes of the `with` block, or none. Raises OSError, sqlite3.Error."""
        with self.lock:
            if self.opened and not is_same_file(self.path, self.opened):  # SQLite would say: read-only
                raise OSError(errno.ENOENT, "it was removed, moved or replaced")
            try:
                with self.database:
                    yield
            finally:  # also after a commit that failed, because it may have taken effect
                self.count_pending()

    def record(self, now: int) -> Point:
        """Store all requests not yet in a point as one, timed now (ns); return it. Raises OSError, sqlite3.Error."""
        with self.transaction():
            total = self.counter.total()
            self.counter.flush()  # first, so that after a power failure the counter is never behind `reported`
            ((reported, serial),) = self.execute("SELECT reported, serial FROM state")
            if total < reported:
                raise OSError(errno.EIO, "it was overwritten: its count is below that reported", self.counter.path)
            point = Point(serial + 1, point_time(now, serial + 1), total - reported)
            self.execute("INSERT INTO requests (serial, time, requests_number) VALUES (?, ?, ?)", *point)
            self.execute("UPDATE state SET reported = ?, since = ?, serial = ?", total, now, point.serial)
            return point

    def recover(self, interval_ns: int, now: int) -> int:
        """Start a run at the time now (ns); return how many requests the previous run left unrecorded.

        They become a point of their own, timed at the end of their interval, or now if that is earlier.
        """
        _, reported, since = self.state()
        unrecorded = self.counter.total() - reported
        if unrecorded:
            self.record(min(since + interval_ns, now))
        with self.transaction():
            self.execute("UPDATE state SET since = ?", now)
        return unrecorded

    def oldest(self, limit: int) -> list[Point]:
        """Return the waiting points that were recorded first, at most `limit`, in this order."""
        rows = self.execute("SELECT serial, time, requests_number FROM requests ORDER BY serial LIMIT ?", limit)
        return [Point(*row) for row in rows]

    def newest(self) -> Point:
        """Return the waiting point that was recorded last; there is one."""
        return Point(*self.execute("SELECT max(serial), time, requests_number FROM requests")[0])  # all of one row

    def remove(self, points: list[Point]) -> int:
        """Delete points that InfluxDB has acknowledged; return how many of them waited."""
        with self.transaction():
            serials = [(point.serial,) for point in points]
            return self.database.executemany("DELETE FROM requests WHERE serial = ?", serials).rowcount

    def move_to_rejected(self, points: list[Point], reason: str) -> None:
        """Move points from the table `requests` to the table `rejected`."""
        insert = "INSERT INTO rejected SELECT time, requests_number, ?, serial FROM requests WHERE serial = ?"
        with self.transaction():
            self.database.executemany(insert, [(reason, point.serial) for point in points])
            self.database.executemany("DELETE FROM requests WHERE serial = ?", [(point.serial,) for point in points])

    def requeue_rejected(self) -> None:
        """Let rejected points wait again: the cause may be gone; if not, they are rejected again."""
        with self.transaction():
            self.execute("INSERT INTO requests SELECT time, requests_number, serial FROM rejected")
            self.execute("DELETE FROM rejected")

    def close(self) -> None:
        """Close the file, unless another thread waits for the disk: the program ends without waiting for that."""
        if self.lock.acquire(timeout=PAUSE_SECONDS):
            self.database.close()
            self.lock.release()


# --------------------------------------------------------------------------------------------- InfluxDB


class Destination(NamedTuple):
    """Address and credentials of InfluxDB."""

    host: str = "localhost"
    port: int = 8086
    username: str = USER
    password: str = PASSWORD
    database: str = DATABASE
    tls: bool = False
    path: str = ""  # before `/write`, percent-encoded

    @property
    def address(self) -> str:
        """Return the host, the port and the path, as in a URL."""
        return f"{uri_host(self.host)}:{self.port}{self.path}"

    def __str__(self) -> str:
        """Return the data source name, without the password."""
        scheme, user, database = DSN_SCHEMES[self.tls], quote(self.username, ""), quote(self.database, "")
        return f"{scheme}://{user}@{self.address}/{database}"


def parse_dsn(dsn: str) -> Destination:
    """Read a data source name, `[https+]influxdb://[user:password@]host[:port][[/path…]/[database]]`.

    This is the syntax of `InfluxDBClient.from_dsn` without UDP, but a host is needed, IPv6 addresses are accepted,
    user, password and database are percent-decoded, and the database (may be empty) is the part after the last slash.
    Raises ValueError, which quotes nothing before “@”.
    """
    if not dsn:
        raise ValueError("it is empty")
    if dsn.partition("://")[0].lower() not in DSN_SCHEMES:
        raise ValueError(f"write {meant_dsn(dsn)}")
    if "?" in dsn or "#" in dsn or " " in dsn or not dsn.isprintable():
        raise ValueError("it contains “?”, “#”, a space or an unprintable character; write them as %3F, %23, %20 …")
    if re.search("//.*/.*@", dsn):
        raise ValueError("it has “@” after a “/”; write “/” in a password as %2F, and “@” after the host as %40")
    try:
        parts = urlsplit(dsn)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("its host or port cannot be read (in a password, “[” is %5B, “]” %5D)") from None
    if not host:
        raise ValueError("it names no host")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("its port is not a number from 1 to 65535")
    path, _, database = parts.path.rpartition("/")
    if any(segment in ("", ".", "..") for segment in path.split("/")[1:]):
        raise ValueError("its path has an empty segment, “.” or “..”")
    username, password = USER, PASSWORD
    if parts.username is not None:
        username, password = unquote(parts.username), unquote(parts.password or "")
    tls = parts.scheme == DSN_SCHEMES[True]
    return Destination(host, port or 8086, username, password, unquote(database) or DATABASE, tls, path)


def meant_dsn(dsn: str) -> str:
    """Return what a DSN with an unknown scheme, or none, was probably meant to be, without user and password."""
    scheme, _, rest = dsn.rpartition("://")
    _, at, address = rest.rpartition("@")
    meant = DSN_SCHEMES[scheme.lower().startswith("https")]
    try:
        parse_dsn(f"{meant}://{address}")
    except ValueError:
        address = ""
    if ":" not in dsn or not address:  # a single word may be anything, such as a password
        address = "host:8086"
    return f"{meant}://{'user:password@' if at else ''}{address}"


class UnavailableError(Exception):
    """InfluxDB takes no points now; the error's text is one line that says why. The points are kept."""

    def __init__(self, line: str, status: int = 0, message: str = "", retry_after: float = 0.0) -> None:
        """All but the line comes from InfluxDB's response, if there was one; `retry_after` is in seconds."""
        super().__init__(line)
        self.status, self.message, self.retry_after = status, message, retry_after


class RefusedError(UnavailableError):
    """InfluxDB refuses a write: some of its points may be invalid, or there are too many."""

    @property
    def dropped(self) -> int:
        """Return how many of the points were not stored; 0 if InfluxDB does not say so."""
        found = re.search(r"\bdropped[= ]([0-9]+)", self.message)
        return int(found[1]) if found else 0


class InfluxDB:
    """Writes points through an `InfluxDBClient` to InfluxDB 1.8, or to any server with its `/write`.

    A refusal to create the database is ignored, because not every such server supports that.
    Each exchange has its own connection, because a firewall may drop one that is idle for a minute.
    """

    REFUSALS = (400, 413, 422)  # 1.8 responds 400 to a point that is too old or of another type, and on a full disk
    REMEDIES = {  # by a phrase in InfluxDB's message
        "authorization failed": f"give {DSN_VARIABLE} or --influx the password of user {{username}}",
        "not authorized to write": 'an administrator can: GRANT ALL ON "{database}" TO "{username}"',
        "database not found": 'an administrator can: CREATE DATABASE "{database}"',
    }
    UNKNOWN_ISSUER = (2, 18, 19, 20, 21)  # OpenSSL's verification codes (openssl-verification-options(1))

    def __init__(self, destination: Destination, tags: dict[str, str]) -> None:
        """Each point gets these tags and `request=GETs_per_minute`."""
        self.destination = destination
        self.name = f"InfluxDB at {destination.address}"
        self.tags = {"request": "GETs_per_minute", **tags}
        self.began = inf  # when the current exchange began, in monotonic seconds; inf if there is none

    def check_reachable(self) -> None:
        """Check that InfluxDB responds, by creating the database, which changes nothing if it exists.

        Raises UnavailableError, but ignores a refusal: 1.8 allows it to administrators only, even if the database
        exists (403); 2.x responds 200 with the error "not implemented"; others do not support it (400, 404, 405).
        """
        try:
            self.exchange("create_database", self.destination.database)
        except UnavailableError as error:
            if error.status not in (400, 403, 404, 405) and not (error.status == 200 and error.message):
                raise

    def write(self, points: list[Point]) -> None:
        """Write points; if the database is missing, create it. Raises UnavailableError, RefusedError.

        If it is unknown whether a point arrived, it can be written again: InfluxDB overwrites a point that has the same
        series and time (InfluxDB 1.8, "How does InfluxDB handle duplicate points?").
        """
        series = {"measurement": "requests", "tags": self.tags}
        rows = [{**series, "time": point.time, "fields": {"requests_number": point.requests}} for point in points]
        try:
            self.exchange("write_points", rows, time_precision="n")
        except UnavailableError as error:
            if error.status != 404 or not error.message.startswith("database not found"):
                raise
            with contextlib.suppress(UnavailableError):  # the response to the second write says more
                self.exchange("create_database", self.destination.database)
            self.exchange("write_points", rows, time_precision="n")

    def exchange(self, method: str, *arguments: object, **options: object) -> None:
        """Call a method of a new client, which sends one request and reads the response. Raises UnavailableError.

        There are time-outs for each address of InfluxDB and each wait for data, but none for the name look-up.
        """
        try:
            with self.make_client() as client:
                self.began = monotonic()
                getattr(client, method)(*arguments, **options)
        except UnavailableError:
            raise
        except BaseException as error:  # even SystemExit, which no library should raise
            raise UnavailableError(f"{self.name} {self.explain(error)}") from error
        finally:
            self.began = inf

    def make_client(self) -> Any:
        """Create a client, which connects with its first request. Raises UnavailableError if it cannot be imported."""
        try:  # imported in the courier's thread, because it takes 0.2 s and 20 MB: startup need not wait for it
            import requests
            from influxdb import InfluxDBClient
        except ModuleNotFoundError as error:
            python = r".venv\Scripts\python" if os.name == "nt" else ".venv/bin/python"
            missing = f"the package {error.name or 'influxdb'} is missing"
            raise UnavailableError(f"{missing}; start the server with {python}, as README.md does") from None
        except BaseException as error:  # a broken package may raise anything
            raise UnavailableError(f"the InfluxDB client cannot be loaded: {one_line(repr(error))}") from error

        to = self.destination
        session = requests.Session()
        is_local = re.fullmatch(r"localhost|::1|127(\.[0-9]+){3}", to.host)
        session.trust_env = not is_local  # otherwise HTTP_PROXY would apply even to localhost
        session.hooks["response"].append(self.check_response)
        return InfluxDBClient(
            host=uri_host(to.host),
            port=to.port,
            username=to.username.encode(),  # UTF-8; a str would become Latin-1
            password=to.password.encode(),
            database=to.database,
            path=to.path,
            ssl=to.tls,
            verify_ssl=os.environ.get("REQUESTS_CA_BUNDLE") or True,  # requests reads it only with trust_env
            timeout=(CONNECT_SECONDS, RESPONSE_SECONDS),
            retries=1,  # one attempt; the courier makes the next
            session=session,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},  # no MessagePack, no gzip
        )

    def check_response(self, response: Any, **_: Any) -> None:
        """Read InfluxDB's response. Raises UnavailableError, RefusedError unless it reports success.

        Success is 204 for a write, and 200 with JSON without an error for a query (InfluxDB 1.8, "InfluxDB API
        reference"). So redirects, which may turn a POST into a GET (RFC 9110 §15.4.2), are not followed.
        """
        content, end = bytearray(), monotonic() + CONTENT_SECONDS
        with response:  # in small pieces, so that the time is checked between them
            while len(content) < CONTENT_BYTES and monotonic() < end and (piece := response.raw.read(64)):
                content += piece
        response.raw = BytesIO(content)  # the client reads it there
        status, errors = response.status_code, errors_in(bytes(content))
        is_query = urlsplit(response.request.path_url).path.endswith("/query")
        succeeded = status == 200 and errors == [] if is_query else status == 204
        if succeeded:
            return
        message = errors[0] if errors else ""
        text = content[:4096].decode(errors="replace")  # in 1 MiB of "<title>", the search would take an hour
        title = re.search("(?is)<title[^>]*>(.*?)</title", text)
        target = one_line(response.headers.get("Location", ""))
        words = message or one_line(title[1] if title else text)
        parts = filter(None, (one_line(response.reason), words, target and f"see {target}"))
        line = f"{self.name} answers {status} {': '.join(parts)}".strip()
        if status < 400 and not message:
            line += ", which is no answer of InfluxDB"
        for phrase, remedy in self.REMEDIES.items():
            if phrase in message:
                line += "; " + one_line(remedy.format_map(self.destination._asdict()))
        after = response.headers.get("Retry-After", "")  # RFC 9110 §10.2.3; a date is ignored
        retry_after = float(after) if re.fullmatch("[0-9]{1,9}", after) else 0.0
        kind = RefusedError if status in self.REFUSALS else UnavailableError
        raise kind(line, status, message, retry_after)

    def explain(self, error: BaseException) -> str:
        """Return why there is no response, with a remedy if the cause is certain."""
        from requests import exceptions

        cause = error  # at last the root cause, with the message of the system or of the other side
        while inner := cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__):
            if isinstance(inner, UnavailableError):  # of an earlier exchange
                break
            cause = inner
        reason = one_line(getattr(cause, "strerror", None) or cause).rstrip(".")
        if isinstance(cause, (TimeoutError, socket.timeout)):
            seconds = CONNECT_SECONDS if isinstance(error, exceptions.ConnectTimeout) else RESPONSE_SECONDS
            return f"does not answer within {seconds:.0f} s"
        if isinstance(error, (exceptions.ProxyError, exceptions.InvalidSchema)):
            names = ("https_proxy" if self.destination.tls else "http_proxy", "all_proxy")
            variables = [name for each in names for name in (each, each.upper()) if os.environ.get(name)]
            return f"cannot be reached through the proxy that {[*variables, 'the system'][0]} names: {reason}"
        if getattr(cause, "reason", "") == "WRONG_VERSION_NUMBER":
            return "does not use TLS; change https+influxdb:// to influxdb://"
        if getattr(cause, "verify_code", 0) in self.UNKNOWN_ISSUER:
            issuer = f"has a certificate of an unknown issuer ({getattr(cause, 'verify_message', '')})"
            return f"{issuer}; name the file of a private authority's certificate in REQUESTS_CA_BUNDLE"
        if isinstance(cause, OSError):
            remedy = "; start influxd, or give another address with --influx"
            return f"cannot be reached: {reason}{remedy if isinstance(cause, ConnectionRefusedError) else ''}"
        return f"cannot be used: {one_line(repr(cause))}"


def errors_in(content: bytes) -> Optional[list[str]]:
    """Return the error messages in a response of InfluxDB; None if it is not InfluxDB's JSON.

    1.8 has `{"error": "…"}` or `{"results": [{"error": "…"}]}`, 2.x has `{"code": "…", "message": "…"}`.
    """
    try:
        document = json.loads(content)
        parts = (document, *document.get("results", []))
        return [one_line(part[key]) for part in parts for key in ("error", "message") if key in part]
    except (ValueError, AttributeError, TypeError):
        return None


# --------------------------------------------------------------------------------- Reporter and courier


def interval_line(requests: int, seconds: float, peak: float) -> str:
    """Format an interval's requests and, unless it is short or has under 1/s, the rates; peak is the highest."""
    line = f"{counted(requests, 'request')} in {duration(seconds)}"
    rate = requests / seconds if seconds >= SHORT_SECONDS else 0.0
    return f"{line} ({per_second(rate)}, at most {per_second(max(rate, peak))})" if rate >= 1 else line


def log_failure(failures: Once, what: str, error: BaseException, outbox: Outbox) -> None:
    """Log why an action that will be retried failed: each kind of error once, until the action succeeds."""
    if isinstance(error, UnavailableError):
        failures.warn(f"{error}; points wait in {outbox.display_name}")
    elif isinstance(error, (sqlite3.Error, OSError, MemoryError)):
        reason = reason_of(error) if isinstance(error, MemoryError) else outbox.explain(error)
        failures.warn(f"{what}: {reason}; requests are still counted")
    elif failures.warn(f"A bug in this server: {error!r}"):
        log.error("It came from here:", exc_info=error)


class Courier(threading.Thread):
    """The daemon thread that delivers the points in the outbox, and logs each interval and what became of its point.

    InfluxDB, a proxy or a name server may block it: only the end of the program waits for it, until a deadline.
    """

    BATCH_POINTS = 1000  # in one write to InfluxDB, about 75 kB without --tag
    RETRY_SECONDS = 1.0  # pause after a delivery that failed; it doubles each time, up to longest_pause
    SLOW_SECONDS = 15.0  # a longer exchange is logged if an interval's line still waits for it when the next one ends

    def __init__(self, outbox: Outbox, influxdb: InfluxDB, longest_pause: float, quiet: bool = False) -> None:
        """After failures, it pauses for longest_pause (s) at most. If quiet, it logs only the last interval."""
        super().__init__(name="courier", daemon=True)
        self.outbox, self.influxdb, self.longest_pause, self.quiet = outbox, influxdb, longest_pause, quiet
        self.intervals: deque[str] = deque()  # log lines of intervals; the thread that removes one logs it
        self.wakeup, self.ending, self.lock = threading.Event(), threading.Event(), threading.Lock()
        self.delivered = 0  # points, in this run
        self.newest_delivered = Point(0, 0, 0)
        self.rejected = 0  # points, in this run
        self.rejected_logged = 0  # those of them that an interval's log line has mentioned
        self.failures, self.rejections = Once(), Once()

    @property
    def status(self) -> str:
        """Return the state of delivery, for the live line."""
        if self.outbox.pending:
            return f"{counted(self.outbox.pending, 'point')} waiting"
        if self.failures.kinds:
            return "InfluxDB takes no points"
        if not self.delivered:
            return "no point sent yet"
        return f"{counted(self.rejected, 'point')} rejected" if self.rejected else "InfluxDB takes points"

    def hand_over(self, line: Optional[str]) -> None:
        """Wake the courier to deliver the points and then log this interval's line, if any; log earlier ones now."""
        with contextlib.suppress(BaseException):  # there may be no memory for the log
            if self.intervals and (seconds := monotonic() - self.influxdb.began) > self.SLOW_SECONDS:
                self.failures.warn(f"{self.influxdb.name} has not answered fully in {seconds:.0f} s")
            self.log_intervals()
        with self.lock:
            if line:
                self.intervals.append(line)
            self.wakeup.set()

    def stop(self, last: Optional[str], end: float) -> None:
        """Wait for the delivery of the last points until end (monotonic seconds); log the last interval, if any."""
        self.ending.set()
        self.hand_over(last)
        if self.ident:
            self.join(max(0.0, end - monotonic()))
        self.log_intervals(is_last=True)

    def run(self) -> None:
        pause = 0.0
        while not self.ending.is_set():
            with contextlib.suppress(MemoryError):  # even waiting needs some memory
                pause = self.round(pause)
                self.wakeup.wait(pause or None)
                self.wakeup.clear()
        self.round(pause, is_last=True)

    def round(self, pause: float, is_last: bool = False) -> float:
        """Deliver, and log the outcome; return the pause (s) before a retry, 0 for none. pause is the previous one."""
        delivered_before, failure = self.delivered, None
        try:
            self.deliver()
            pause = 0.0
        except BaseException as error:
            failure = error
            pause = min(max(self.RETRY_SECONDS, 2 * pause, getattr(error, "retry_after", 0.0)), self.longest_pause)
        with contextlib.suppress(BaseException):  # there may be no memory for the log
            if failure is not None:
                log_failure(self.failures, "No point can be delivered", failure, self.outbox)
            elif self.delivered:
                recovered, number = self.failures.well(), self.delivered - delivered_before
                if recovered or not delivered_before:
                    news = "All is well again: InfluxDB takes points" if recovered else "InfluxDB takes points"
                    log.info("%s%s", news, f"; {counted(number, 'point')} had waited" if number > 1 else "")
            with self.lock:
                if is_last or not self.wakeup.is_set():  # otherwise a point may be untried; the next round logs all
                    self.log_intervals(is_last)
        return pause

    def deliver(self) -> None:
        """Send all waiting points, oldest first if none is refused. Raises UnavailableError, OSError, sqlite3.Error."""
        if not (self.delivered or self.outbox.pending):  # so that a wrong address is in the log at startup
            self.influxdb.check_reachable()
            self.failures.well()
        while points := self.outbox.oldest(self.BATCH_POINTS):
            self.send(points)

    def send(self, points: list[Point]) -> None:
        """Send points, and move those at fault to the table `rejected`. Raises as write() does.

        A point is at fault if InfluxDB refuses it alone, or drops its whole batch, but takes the witness, a later
        point, before and after. If it refuses the witness, too, none is at fault (its disk may be full); all wait.
        """
        try:
            self.write(points)
        except RefusedError:
            witness = max(self.newest_delivered, self.outbox.newest())
            self.write([witness])
            others = [point for point in points if point != witness]
            refused = self.find_refused(others) if others else []
            if refused:
                self.write([witness])
            for group, reason in refused:
                self.outbox.move_to_rejected(group, reason)
                self.rejected += len(group)
                table = f"table rejected of {self.outbox.display_name}"
                self.rejections.warn(f"InfluxDB rejects points, now kept in {table}: {reason}")

    def find_refused(self, points: list[Point]) -> list[tuple[list[Point], str]]:
        """Send points, in halves if they are refused, down to one. Return those that InfluxDB refuses, and why."""
        try:
            self.write(points)
        except RefusedError as refusal:
            if len(points) == 1 or refusal.dropped == len(points):
                return [(points, refusal.message or str(refusal))]
            middle = len(points) // 2
            return self.find_refused(points[:middle]) + self.find_refused(points[middle:])
        return []

    def write(self, points: list[Point]) -> None:
        """Write points, then remove them. Raises UnavailableError, RefusedError, OSError, sqlite3.Error."""
        self.influxdb.write(points)
        removed = self.outbox.remove(points)
        if not self.delivered:  # now that InfluxDB takes a point, offer it the rejected ones again
            self.outbox.requeue_rejected()
        self.delivered += removed
        self.newest_delivered = max(self.newest_delivered, *points)

    def log_intervals(self, is_last: bool = False) -> None:
        """Log the intervals not yet logged: how many requests came, and where the points are."""
        pending, place = self.outbox.pending, self.outbox.display_name
        level, outcome = logging.INFO, "delivered to InfluxDB"
        if pending:
            outcome = f"points waiting in {place}: {pending}"
            if is_last and self.outbox.path == ":memory:":
                level, outcome = logging.WARNING, f"points lost, as they were in memory only: {pending}"
        elif self.rejected > self.rejected_logged:
            outcome = f"points that InfluxDB rejected: {self.rejected - self.rejected_logged}"
        for _ in range(len(self.intervals)):
            with contextlib.suppress(IndexError):  # another thread has logged it
                line = self.intervals.popleft()
                if is_last or not self.quiet:
                    log.log(level, "%s; %s", line, outcome)
                    if not pending:
                        self.rejected_logged = self.rejected


class Reporter(threading.Thread):
    """The daemon thread that records a point after each interval; only the disk can delay it."""

    CLOCK_STEP_SECONDS = 1.0  # no smaller step is logged: a busy machine reads two clocks at two times

    def __init__(self, outbox: Outbox, courier: Courier, interval: float, take_peak: Callable[[], float]) -> None:
        """interval is in seconds; take_peak() returns the most requests in a second since its last call."""
        super().__init__(name="reporter", daemon=True)
        self.outbox, self.courier, self.interval, self.take_peak = outbox, courier, interval, take_peak
        self.stopping = threading.Event()
        self.began = monotonic()  # when the current interval began
        self.due = self.began + interval  # when it ends
        self.last: Optional[str] = None  # log line of the last, partial interval, once it is recorded
        self.retry_end = inf  # until then (monotonic seconds), recording the last interval is retried
        self.clock_offset = time_ns() / 1e9 - self.began  # the system's clock minus the monotonic one, in seconds
        self.failures, self.file_problems = Once(), Once()

    def run(self) -> None:
        while True:
            with contextlib.suppress(MemoryError):  # even waiting needs some memory
                if self.stopping.wait(self.due - monotonic()):
                    break
                missed = max(0.0, monotonic() - self.due) // self.interval
                self.due += self.interval * (1 + missed)  # keep the schedule, but skip what was missed
                if line := self.record():
                    self.courier.hand_over(line)
        while not (last := self.record()) and monotonic() < self.retry_end:
            sleep(PAUSE_SECONDS)
        self.last = last

    def stop(self, end: float) -> None:
        """Record the last, partial interval, and let the courier deliver it, until end (monotonic seconds)."""
        if not self.ident:  # startup failed
            return
        self.retry_end = (monotonic() + end) / 2
        self.stopping.set()
        self.join(max(0.0, end - monotonic()))
        self.courier.stop(self.last, end)
        if not self.last:
            log.warning("The last point could not be recorded in time")

    def record(self) -> Optional[str]:
        """Record a point; return its interval's log line, or None if that failed."""
        try:
            if problem := self.outbox.counter.problem():
                self.file_problems.warn(problem)
            else:
                self.file_problems.well()
            self.log_clock_step()
            point = self.outbox.record(time_ns())
            if self.failures.well():
                log.info("Points are recorded again")
            began, self.began = self.began, monotonic()
            return interval_line(point.requests, self.began - began, self.take_peak())
        except BaseException as error:
            with contextlib.suppress(BaseException):  # there may be no memory for the log
                log_failure(self.failures, "No point can be recorded", error, self.outbox)
        return None

    def log_clock_step(self) -> None:
        """Log a clock step larger than both an interval and a second."""
        offset = time_ns() / 1e9 - monotonic()
        step, self.clock_offset = offset - self.clock_offset, offset
        if abs(step) > max(self.interval, self.CLOCK_STEP_SECONDS):
            forward = f"went forward by {step:.0f} s: it was set, or the machine was asleep"
            log.warning("The system's clock %s", forward if step > 0 else f"was set back by {-step:.0f} s")


# ================================================================================= Part III: the program
# ---------------------------------------------------------------------------------------------- Sockets

BACKLOG = 4096  # connections that the kernel holds until they are accepted; Linux's default limit since 5.4
GC_THRESHOLD = 100_000  # new objects between collections; with 700, 1 MiB of brackets takes 150 ms to decode, not 30


class SelectorPoll(selectors.DefaultSelector):
    """A selector with the interface of `select.epoll`: kqueue() on macOS, select() on Windows."""

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        return [(key.fd, events) for key, events in self.select(timeout)]


# `selectors` looks up a key object for each event, which costs half a microsecond; epoll does not.
if sys.platform == "linux":
    Poll: Any = select.epoll
    READ, WRITE = select.EPOLLIN, select.EPOLLOUT
else:
    Poll, READ, WRITE = SelectorPoll, selectors.EVENT_READ, selectors.EVENT_WRITE


def listen(address: Optional[str], port: int) -> socket.socket:
    """Return a socket that listens on an address; "::" and None mean all that the system allows. Raises StartError."""
    host = address or ("::" if socket.has_dualstack_ipv6() else "0.0.0.0")
    if host[0] + host[-1] == "[]":  # as in a URL
        host = host[1:-1]
    try:
        listener = listen_on_first(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    except (OSError, UnicodeError) as error:  # UnicodeError: not a valid host name
        reason = reason_of(error)
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            raise StartError(f"port {port} is already in use; use a different --port") from None
        if isinstance(error, PermissionError):
            raise StartError(f"port {port} cannot be opened: {reason}; use a different --port") from None
        where = address or "any address"
        raise StartError(f"cannot listen on {where}: {reason}; --bind must be an address of this machine") from None
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # the connections inherit it
    listener.setblocking(False)
    return listener


def listen_on_first(resolved: list[Any]) -> socket.socket:
    """Listen on the first address from getaddrinfo() that this machine has. Raises OSError."""
    for family, _, _, _, sockaddr in resolved:
        listener = None
        try:
            listener = socket.socket(family)
            # On Windows, SO_REUSEADDR, or no option, would let another server take over connections.
            option = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
            listener.setsockopt(socket.SOL_SOCKET, option, 1)
            if family == socket.AF_INET6:
                only_ipv6 = sockaddr[0] != "::" or not socket.has_dualstack_ipv6()
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
            listener.bind(sockaddr)
            listener.listen(BACKLOG)
            return listener
        except OSError as error:
            if listener:
                listener.close()
            if sockaddr is resolved[-1][4] or error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    raise OSError("there is no such address")  # not reached: `resolved` has a row


def prepare_process() -> None:
    """Raise the limit of open files to the maximum allowed, and make garbage collection rare."""
    with contextlib.suppress(AttributeError):  # PyPy has no threshold
        gc.set_threshold(GC_THRESHOLD)
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(ValueError, OSError):  # macOS allows fewer than its hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def start_thread(thread: threading.Thread) -> None:
    """Start a thread. Raises StartError if the system does not allow it."""
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:  # Python does not say which limit was reached
        raise StartError(f"{reason_of(error)} ({HINTS[errno.EAGAIN]}; or of memory: ulimit -v)") from None


# ----------------------------------------------------------------------------------------------- Server

TURN_BYTES = 16 * 1024  # most bytes received in a turn: a few milliseconds of work
BURST_CONNECTIONS = 64  # most added to the load for connections accepted in this second, even closed ones
BACKLOG_SECONDS = 0.5  # at shutdown, time for accepting the connections in the backlog
STOP_LINGER_SECONDS = 0.2  # at shutdown, in place of LINGER_SECONDS

SEND = "send"  # a connection waits for its client to receive responses; its handler's `waits_for` has the other waits


class Connection:
    """A client's socket, and the handler that answers its requests.

    `live()` runs from the first byte to the last. Each `yield` in it waits for one event, and the serving thread
    continues `life` when that has happened: the socket is ready, this round's requests are counted, or it is this
    connection's turn.
    """

    __slots__ = ("deadline", "descriptor", "event", "handler", "life", "sock", "thread")

    def __init__(self, sock: socket.socket, client_address: tuple[Any, ...], thread: "ServingThread") -> None:
        sock.setblocking(False)
        self.sock, self.descriptor, self.thread = sock, sock.fileno(), thread
        self.handler = thread.server.handler_class(client_address, thread.server, thread)
        self.event = 0  # READ or WRITE, for which poll() watches the socket; 0 if it does not, as before a turn
        self.deadline = thread.deadline(REQUEST)  # of the present wait, in monotonic seconds
        self.life = self.live()

    @property
    def waits_for(self) -> str:
        """Return what the connection waits for: SEND, or what its handler waits for."""
        return SEND if self.event == WRITE else self.handler.waits_for

    def live(self) -> Generator[None, None, None]:
        """Answer requests until the handler ends. throw() a RequestError to reject an unanswered request."""
        thread, handler, receive, send = self.thread, self.handler, self.sock.recv, self.sock.send
        conversation = handler.handle()
        next(conversation)
        answer, mark_responding, timeouts = conversation.send, thread.responding.append, thread.timeouts
        waits_for, size = REQUEST, LIGHT_BYTES
        try:
            while True:
                try:
                    data = b"" if waits_for is TURN else receive(size)
                except BlockingIOError:  # nothing was received
                    size = LIGHT_BYTES
                else:
                    responses = answer(data)
                    is_full, data = len(data) == size, b""
                    if responses:
                        mark_responding(self)
                        yield  # until this round's requests are counted
                        try:
                            sent = send(responses)
                        except BlockingIOError:  # the send buffer is exactly full
                            sent = 0
                        if sent < len(responses):
                            yield from self.send_rest(responses[sent:])
                    if responses or handler.waits_for is not waits_for:
                        waits_for = handler.waits_for
                        self.deadline = thread.now + timeouts[waits_for]
                        responses = b""
                    if waits_for is TURN or is_full:
                        yield from self.wait_for_turn(at_front=waits_for is TURN and size == TURN_BYTES)
                        size = TURN_BYTES
                        continue
                    size = LIGHT_BYTES
                if self.event != READ:
                    self.watch(READ)
                yield  # until the socket is ready
        except StopIteration as last:
            responses = last.value
        except RequestError as refusal:
            try:
                conversation.throw(refusal)  # which ends it
            except StopIteration as last:
                responses = last.value
        if responses:
            mark_responding(self)
            yield
            yield from self.send_rest(responses)
        if handler.waits_for is LINGER:  # if the client still sends, a reset would lose the response (RFC 9112 §9.6)
            yield from self.linger()

    def send_rest(self, responses: bytes) -> Generator[None, None, None]:
        """Send as fast as the client receives; read nothing until all is sent."""
        while True:
            with contextlib.suppress(BlockingIOError):
                responses = responses[self.sock.send(responses) :]
            if not responses:
                return
            if self.event != WRITE:
                self.watch(WRITE)
                self.deadline = self.thread.deadline(SEND)
            yield

    def wait_for_turn(self, at_front: bool) -> Generator[None, None, None]:
        """Wait for a turn. This time does not count towards the client's time-out."""
        thread = self.thread
        begin, deadline, self.deadline = thread.now, self.deadline, inf
        self.watch(0)
        if at_front:  # in front, as its long work has begun, and keeps many objects in memory
            thread.queued.appendleft(self)
        else:
            thread.queued.append(self)
        yield
        self.deadline = deadline + thread.now - begin

    def linger(self) -> Generator[None, None, None]:
        """Close the sending side, and discard what the client still sends, until it closes its side."""
        self.sock.shutdown(socket.SHUT_WR)
        self.watch(READ)
        self.deadline = self.thread.deadline(LINGER)
        data = b"?"
        while data:
            yield
            with contextlib.suppress(BlockingIOError):
                data = self.sock.recv(TURN_BYTES)

    def watch(self, event: int) -> None:
        """Have poll() watch the socket for READ or WRITE, or not at all if event is 0."""
        if self.event:
            self.thread.poll.unregister(self.descriptor)
        self.event = 0  # if register() fails, there is nothing to unregister
        if event:
            self.thread.poll.register(self.descriptor, event)
            self.event = event

    def close(self) -> None:
        if self.thread.connections.get(self.descriptor) is self:  # once closed, its number may be another's
            del self.thread.connections[self.descriptor]
            self.watch(0)
            self.life.close()
            self.sock.close()
            self.thread.publish_load()


class ServingThread(threading.Thread):
    """Serves many connections in an event loop. Long work is queued and split into turns.

    After a turn, the other connections have the thread for TURN_REST times the turn's duration, if they need it. So
    large bodies, long queries and long pipelines take about a fifth of the time from them at most.
    """

    ACCEPT_AT_ONCE = 64  # connections accepted in a row before the open ones are served again
    MAX_LOAD_DIFFERENCE = 4  # above the lowest load; a thread with more stops accepting for a while
    ACCEPT_PAUSE_SECONDS = 0.001  # how long it stops
    QUIET_SECONDS = 0.001  # if no connection is ready for this long (epoll's shortest wait), the next turn begins early
    STOP_CHECK_SECONDS = 0.02  # during shutdown, interval between checks for connections to close

    def __init__(self, server: "SumServer", cell: Cell) -> None:
        self.number = cell.index // Counter.STEP - 1  # index of this thread in server.loads
        super().__init__(name=f"server {self.number}", daemon=True)
        self.server, self.cell, self.poll = server, cell, Poll()
        self.timeouts = {REQUEST: IDLE_SECONDS, HEAD: HEAD_SECONDS, BODY: BODY_SECONDS, TURN: inf}
        self.timeouts.update({SEND: SEND_SECONDS, LINGER: LINGER_SECONDS})
        self.connections: dict[int, Connection] = {}  # by descriptor
        self.uncounted = 0  # requests that handlers have added; they are in the cell before their responses are sent
        self.responding: list[Connection] = []  # with responses to send once these requests are counted
        self.queued: deque[Connection] = deque()  # waiting for a turn, or closed since
        self.ready: Sequence[tuple[int, int]] = ()  # events of this round; epoll reports at most 1,023 in one
        self.now = self.next_second = self.next_turn = monotonic()
        self.listen_descriptor = server.socket.fileno()
        self.listen_again_at = self.now  # inf while it listens, and at shutdown
        self.accepted = 0  # connections accepted in this second
        self.troubles = Once()
        self.drained = threading.Event()  # during shutdown: this thread accepts no more
        self.wakeup, self.wakeup_end = socket.socketpair()  # a byte in it ends poll()
        self.poll.register(self.wakeup_end.fileno(), READ)

    def run(self) -> None:
        self.publish_load()
        while not self.server.stopping:
            self.survive(self.serve)
        self.wind_down()
        self.poll.close()

    def survive(self, action: Callable[[], None]) -> None:
        """Call `action`, and log what it raises, so that the thread goes on."""
        try:
            action()
        except Exception:
            with contextlib.suppress(Exception):  # there may be no memory to log it
                log.exception("A serving thread failed; it goes on")
            sleep(PAUSE_SECONDS)

    def serve(self) -> None:
        """Wait for events until housekeeping or the next turn is due; handle them all."""
        wait = min(self.next_second, self.listen_again_at) - self.now
        if self.queued:  # others' requests may be on their way: wait for them a moment, unless the turn is due by then
            wait = min(wait, self.QUIET_SECONDS) if self.next_turn - monotonic() > self.QUIET_SECONDS else 0.0
        ready = self.ready = self.poll.poll(wait if wait > 0 else 0)  # a negative one would wait forever
        self.now = now = monotonic()
        connections = self.connections
        for descriptor, _ in ready:
            connection = connections.get(descriptor)
            try:
                if connection:
                    connection.life.send(None)
                elif descriptor == self.wakeup_end.fileno():
                    self.wakeup_end.recv(1)
                else:
                    self.accept()
            except Exception as error:
                self.end(connection, error)
        self.send_responses()
        if self.queued and (not ready or now >= self.next_turn):
            self.give_turn(self.queued.popleft())
        if now >= self.next_second or now >= self.listen_again_at:
            self.housekeep()

    def deadline(self, waits_for: str) -> float:
        """Return when a wait that begins now times out, in monotonic seconds."""
        return self.now + self.timeouts[waits_for]

    def send_responses(self) -> None:
        """Count this round's requests, then send the responses.

        Sending them together saves 5 % of a GET's time at 64 connections: the CPU's caches stay warm.
        """
        self.cell.increment(self.uncounted)
        self.uncounted = 0
        for connection in self.responding:
            try:
                connection.life.send(None)
            except Exception as error:
                self.end(connection, error)
        self.responding.clear()

    def give_turn(self, connection: Connection) -> None:
        """Continue long work for one step, and set when the next turn may begin."""
        if self.connections.get(connection.descriptor) is connection:
            begin = monotonic()
            self.attempt(connection, connection.life.__next__)
            self.send_responses()
            end = monotonic()
            self.next_turn = end + TURN_REST * min(end - begin, PAUSE_SECONDS)  # capped: the thread may have slept

    def attempt(self, connection: Connection, action: Callable[[], None]) -> None:
        """Call `action`; close the connection if that ends it or fails."""
        try:
            action()
        except Exception as error:
            self.end(connection, error)

    def end(self, connection: Optional[Connection], error: Exception) -> None:
        """Close a connection that is finished (StopIteration), that is lost (OSError), or that met a bug."""
        with contextlib.suppress(Exception):  # there may be no memory to log it
            if connection and isinstance(error, OSError):
                log.debug("%s is lost: %s", connection.handler.address_string(), error)
            elif not (connection and isinstance(error, StopIteration)):
                log.error("A connection could not be served", exc_info=error)
        if connection:
            connection.close()

    def housekeep(self) -> None:
        """Do the work of each second, and accept again after a pause, when it is time."""
        if self.now >= self.next_second:
            self.each_second()
        if self.now >= self.listen_again_at:
            try:
                self.poll.register(self.listen_descriptor, READ)
                self.listen_again_at = inf
            except OSError as error:
                self.wait_for_room(error)

    def each_second(self) -> None:
        """Renew the date, publish the load and usage, and end connections that timed out."""
        self.next_second = self.now + 1 - time() % 1
        self.server.renew_date()
        self.accepted = 0
        self.publish_load()
        self.cell.publish_usage(len(self.connections), process_time() if self is self.server.threads[0] else 0.0)
        if self.listen_again_at == inf:
            self.troubles.well()
        self.end_overdue()

    def end_overdue(self) -> None:
        """Reject unanswered requests, and close other connections, whose deadline has passed."""
        for connection in [one for one in self.connections.values() if one.deadline <= self.now]:
            waits_for = connection.waits_for
            if waits_for in (HEAD, BODY, TURN):
                late = f"The request's {waits_for} took longer than {self.timeouts[waits_for]:.0f} s."
                fault = (503, "The server is stopping.") if self.server.stopping else (408, late)
                self.attempt(connection, partial(connection.life.throw, RequestError(*fault)))
            else:
                log.debug("%s was closed: idle or too slow", connection.handler.address_string())
                connection.close()
        self.send_responses()

    def accept(self) -> bool:
        """Accept connections, and answer the requests that came with them; return whether more may wait."""
        for _ in range(self.ACCEPT_AT_ONCE):
            try:
                if len(self.connections) >= MAX_CONNECTIONS:
                    raise OSError(f"this system allows {MAX_CONNECTIONS} connections per thread")
                sock, client_address = self.server.get_request()
                connection = Connection(sock, client_address or ("?", 0), self)  # on macOS it may be missing
            except BlockingIOError:
                return False
            except ConnectionError:  # the client closed it already
                continue
            except OSError as error:
                self.wait_for_room(error)
                return False
            self.connections[connection.descriptor] = connection
            self.accepted += 1
            self.publish_load()
            self.attempt(connection, connection.life.__next__)
            if self.server.loads[self.number] > min(self.server.loads) + self.MAX_LOAD_DIFFERENCE:
                self.pause_accepting(self.ACCEPT_PAUSE_SECONDS)
                return True
        return True

    def wait_for_room(self, error: OSError) -> None:
        """Pause accepting after an error of the system; log it once while it lasts."""
        self.troubles.warn(f"Cannot accept connections ({reason_of(error)}); new ones wait in the backlog")
        self.pause_accepting(PAUSE_SECONDS)

    def pause_accepting(self, seconds: float) -> None:
        """Leave new connections to the backlog, or to the other threads, for some time."""
        if self.listen_again_at == inf:
            self.poll.unregister(self.listen_descriptor)
        self.listen_again_at = self.now + seconds

    def publish_load(self) -> None:
        """Publish this thread's load: its open connections, and up to BURST_CONNECTIONS accepted in this second."""
        self.server.loads[self.number] = len(self.connections) + min(self.accepted, BURST_CONNECTIONS)

    def wind_down(self) -> None:
        """Accept what is in the backlog, then no more; close each connection once its current request is answered.

        After GRACE_SECONDS unanswered requests are rejected; STOP_LINGER_SECONDS later all connections are closed.
        """
        begin, grace_end = monotonic(), self.server.grace_end
        with contextlib.suppress(Exception):  # whatever happens, the open connections are served
            while self.accept() and monotonic() < begin + BACKLOG_SECONDS:
                pass
        self.pause_accepting(inf)
        self.drained.set()
        while self.connections and monotonic() < grace_end + STOP_LINGER_SECONDS:
            self.next_second = min(self.next_second, self.now + self.STOP_CHECK_SECONDS)
            self.survive(self.serve)
            left = grace_end - self.now
            self.timeouts.update({HEAD: left, BODY: left, TURN: left, SEND: inf, LINGER: STOP_LINGER_SECONDS})
            for connection in self.connections.values():
                if connection.waits_for != REQUEST:
                    connection.deadline = min(connection.deadline, self.deadline(connection.waits_for))
                elif connection.event and not self.ready:  # idle: no request of it is queued, and none has come
                    connection.deadline = self.now
            self.survive(self.end_overdue)
        self.survive(self.send_responses)
        for connection in list(self.connections.values()):
            connection.close()


class SumServer(ThreadingHTTPServer):
    """Serves connections in one thread for each cell.

    It uses its base class only to accept connections: each thread runs an event loop for many of them.
    """

    handler_class: Any = SumHandler

    def __init__(
        self, listener: socket.socket, cells: list[Cell], has_access_log: bool = False, loads: Any = None
    ) -> None:
        """`listener` comes from listen(); the access log goes to standard error.

        `loads` has an entry for each cell in use, of all processes; without it, `cells` are all of them.
        """
        super().__init__(listener.getsockname(), self.handler_class, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.write_log = sys.stderr.buffer.write if has_access_log else None
        self.stopping, self.grace_end = False, inf
        self.response_starts: dict[int, str] = {}
        self.renew_date()
        self.loads = [0] * len(cells) if loads is None else loads
        self.threads = [ServingThread(self, cell) for cell in cells]

    def start(self) -> None:
        """Start the threads. Raises StartError."""
        for thread in self.threads:
            start_thread(thread)

    def renew_date(self) -> None:
        """Put the date of this second into the responses and the access log."""
        now = time()
        self.response_starts.update(response_starts(now))  # in place, because handlers hold the dict
        self.log_time = strftime("%d/%b/%Y:%H:%M:%S %z", localtime(now)).encode()

    def stop(self) -> None:
        """Accept what is in the backlog, then no more; answer each current request; end within GRACE_SECONDS + 1 s."""
        self.grace_end = monotonic() + GRACE_SECONDS
        self.stopping = True
        started = [thread for thread in self.threads if thread.ident]
        for thread in started:
            thread.wakeup.send(b"!")
        for thread in started:
            thread.drained.wait(max(0.0, self.grace_end - monotonic()))
        self.server_close()
        for thread in started:
            thread.join(max(0.0, self.grace_end + 1 - monotonic()))
        for thread in self.threads:
            thread.wakeup.close()
            thread.wakeup_end.close()


# ------------------------------------------------------------------------------------------------- CPUs


def serving_threads(processes: int) -> int:
    """Return the number of serving threads per process: one, or more in a free-threaded build."""
    if "free-threading build" not in sys.version:  # sys.abiflags is missing on Windows
        return 1
    return max(1, min(ceil(cpu_limit()), CELLS) // processes)


def cpu_limit() -> float:
    """Return how many CPUs this process may use: the smallest of its affinity and its cgroup quotas."""
    cpus = float(os.cpu_count() or 1)
    if hasattr(os, "sched_getaffinity"):  # Linux, but not PyPy
        cpus = len(os.sched_getaffinity(0))
    return min([cpus, *cpu_quotas()])


def cpu_quotas(proc: str = "/proc", groups: str = "/sys/fs/cgroup") -> Iterator[float]:
    """Yield the CPU quota of each cgroup of this process, and of their parents (cgroup-v2.rst, sched-bwc.rst)."""
    for line in read_text(f"{proc}/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = f"{groups}/cpu" if controllers else groups
        parts = [part for part in group.split("/") if part]
        for depth in range(len(parts), -1, -1):  # in a container, the path may be the host's
            folder = "/".join(parts[:depth])
            if controllers:
                figures = [read_text(f"{root}/{folder}/cpu.cfs_{figure}_us").strip() for figure in ("quota", "period")]
            else:
                figures = read_text(f"{root}/{folder}/cpu.max").split()
            if len(figures) == 2 and all(map(str.isdecimal, figures)):  # without a quota it is "max" or -1
                yield int(figures[0]) / int(figures[1])


def idle_seconds() -> float:
    """Return the idle CPU seconds of all CPUs since boot; nan if the system does not report them."""
    if sys.platform != "linux":
        return nan
    ticks = sum(map(int, read_text("/proc/stat").split()[4:6]))  # idle and iowait in the first line (proc(5))
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else nan  # gVisor reports zeros only


def read_text(path: str) -> str:
    """Return the text of a file in /proc or /sys; "" if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read())
    except OSError:
        return ""


# ---------------------------------------------------------------------------------------------- Workers

WORKER_SECONDS = 10.0  # at startup, longest wait for the next worker, plus 1 s for each but worker 1
RESPAWN_SECONDS = 1.0  # delay before a dead worker is replaced; it doubles after each try
RESPAWN_LONGEST_SECONDS = 60.0  # longest such delay; a try that lasted this long resets it


class Worker(threading.Thread):
    """A thread that keeps one worker process running: it starts one, waits for its end, pauses, starts the next."""

    def __init__(self, number: int, workers: "Workers") -> None:
        super().__init__(name=f"worker {number}", daemon=True)
        self.number, self.workers = number, workers
        self.process: Any = None
        self.pipe: Any = None  # receives its status, sends "stop"; it breaks if one side dies

    def run(self) -> None:
        stopping, pause, troubles, is_first = self.workers.stopping, RESPAWN_SECONDS, Once(), True
        while not stopping.is_set():
            began = monotonic()
            why_not = self.start_process()
            if is_first:
                self.workers.statuses.put((self.number, why_not))
            elif not why_not and troubles.well():
                log.info("Worker %d serves again", self.number)
            how_it_ended = why_not or self.wait_for_end()
            self.workers.mark_dead(self.number)
            if stopping.is_set() or is_first and why_not:
                return
            if why_not:
                troubles.warn(f"Worker {self.number} cannot be started ({why_not}); the server keeps trying")
            else:
                log.warning("Worker %d died (%s); another takes its place", self.number, how_it_ended)
            if monotonic() - began >= RESPAWN_LONGEST_SECONDS:
                pause = RESPAWN_SECONDS
            stopping.wait(pause)
            pause, is_first = min(2 * pause, RESPAWN_LONGEST_SECONDS), False

    def start_process(self) -> str:
        """Start a process; return "" once it serves, or the reason why it does not."""
        try:
            with self.workers.lock:
                if self.workers.stopping.is_set():
                    return "the server is stopping"
                self.process, self.pipe = self.workers.spawn(self.number)
        except Exception as error:  # the next try may succeed
            return reason_of(error)
        try:
            return str(self.pipe.recv())
        except (EOFError, OSError):
            return self.wait_for_end()

    def wait_for_end(self) -> str:
        """Wait for the end of the process, and return how it ended."""
        with contextlib.suppress(EOFError, OSError):
            self.pipe.recv()
        self.process.join()
        self.pipe.close()
        return f"exit code {self.process.exitcode}"


class Workers:
    """Several processes that accept from one listening socket and count in one counter file.

    Worker 1 is the main process, so the port is served as long as it is open, even if the others die.
    """

    DEAD = 2**31 - 1  # load of a dead worker's threads, so that the others leave no connections to them

    def __init__(
        self, listener: socket.socket, counter: Counter, options: "Options", stopping: threading.Event
    ) -> None:
        """`counter` has the cells of worker 1; `stopping` is set once the program stops. Raises StartError."""
        self.listener, self.counter, self.options, self.stopping = listener, counter, options, stopping
        self.program = getattr(sys.modules["__main__"], "__file__", None)
        self.source = self.read_program() if options.workers > 1 else b""
        self.loads = counter.column(Counter.LOAD, options.workers * options.threads)
        self.connections = counter.column(Counter.CONNECTIONS, options.workers * options.threads)
        self.server = SumServer(listener, counter.cells, options.access_log, self.loads)
        self.lock = threading.Lock()  # held while a process is started; once stop() has held it, none is started
        self.statuses: SimpleQueue[tuple[int, str]] = SimpleQueue()  # number, and the result of start_process()
        self.others = [Worker(number, self) for number in range(2, options.workers + 1)]
        for worker in self.others:
            self.mark_dead(worker.number)

    def start(self) -> None:
        """Start all; return when they serve, or at the first status after a stop. Raises StartError if one cannot."""
        for worker in self.others:
            start_thread(worker)
        starting = {worker.number for worker in self.others}
        timeout = WORKER_SECONDS + len(starting)  # they start at the same time, and share the CPUs
        while starting and not self.stopping.is_set():
            try:
                number, why_not = self.statuses.get(timeout=timeout)
            except Empty:
                numbers = ", ".join(map(str, sorted(starting)))
                raise StartError(f"worker {numbers} did not start within {timeout:.0f} s") from None
            if why_not and not self.stopping.is_set():
                raise StartError(f"worker {number} cannot serve: {why_not}")
            starting.discard(number)
        self.server.start()

    def read_program(self) -> bytes:
        """Return the content of the program's file, which each new process imports; b"" if none. Raises StartError."""
        if self.program is None:
            return b""
        try:
            with open(self.program, "rb") as file:
                return file.read()
        except OSError as error:
            raise StartError(f"workers need the program's file, {self.program}: {reason_of(error)}") from None

    def spawn(self, number: int) -> tuple[Any, Any]:
        """Start a process; return it and the pipe to it. Raises StartError, OSError, MemoryError."""
        from multiprocessing import get_context  # imported only when needed

        if self.read_program() != self.source:  # another version may count in another way
            raise StartError(f"{self.program} has changed on disk; restart the server")
        context = get_context("spawn")  # works on every system; "fork" is unsafe with threads
        pipe, its_end = context.Pipe()
        opened = os.fstat(self.counter.file)
        arguments = (number, self.listener, self.counter.path, opened, self.options, its_end)
        process = context.Process(target=work, args=arguments, name=f"worker {number}", daemon=True)
        with its_end, stop_signals_blocked():  # the worker inherits the mask, and then ignores these signals
            process.start()
        return process, pipe

    def mark_dead(self, number: int) -> None:
        """Publish that a worker does not serve: it has no connections, and its load is the highest."""
        first = (number - 1) * self.options.threads
        for index in range(first, first + self.options.threads):
            self.loads[index], self.connections[index] = self.DEAD, 0

    def stop(self) -> None:
        """Stop this server and all other workers; kill those that do not end in time."""
        end = monotonic() + GRACE_SECONDS + 1.0
        with self.lock:
            self.stopping.set()
        started = [worker for worker in self.others if worker.ident]
        for worker in started:
            with contextlib.suppress(OSError, AttributeError):  # its process has ended, or was never started
                worker.pipe.send("stop")
        self.server.stop()
        for worker in started:
            worker.join(max(0.0, end - monotonic()))
            if worker.is_alive() and worker.process:
                worker.process.kill()
                worker.join(STOP_LINGER_SECONDS)
        self.loads.release()
        self.connections.release()


def work(
    number: int, listener: socket.socket, path: str, opened: os.stat_result, options: "Options", pipe: Any
) -> None:
    """Run worker process `number` (2 to CELLS), which counts in the file that the main process opened."""
    for signum in STOP_SIGNALS:  # terminals and systemd signal all processes; a worker stops by its pipe only
        signal.signal(signum, signal.SIG_IGN)
    with contextlib.ExitStack() as stack:
        why_not = ""
        try:
            stack.enter_context(outputs_in_background())
            configure_logging(options.verbose)
            if has_live_line(options.quiet):
                show_live_line("")  # the main process shows one; log lines of this process must clear it first
            prepare_process()
            first = (number - 1) * options.threads
            counter = Counter(path, *range(first + 1, first + 1 + options.threads))
            if not os.path.samestat(os.fstat(counter.file), opened):
                raise StartError(f"{path} is not the file in which this server counts")
            loads = counter.column(Counter.LOAD, options.workers * options.threads)
            server = SumServer(listener, counter.cells, options.access_log, loads)
            server.start()
        except (StartError, OSError, MemoryError) as error:
            why_not = reason_of(error)
        try:
            pipe.send(why_not)
            if why_not:
                sys.exit(1)
            pipe.recv()
        except (EOFError, OSError):
            os._exit(1)  # the main process was killed; release the cells for its successor
        server.stop()


# ------------------------------------------------------------------------------------- Terminal and log

OUTPUT_SECONDS = 1.0  # at the end, time for writing what is buffered


class Output(BufferedIOBase):
    """A buffered standard output or error that never blocks its callers: a background thread does the writing.

    If OUTPUT_BYTES are buffered already, or a write fails, lines are dropped, and a log line tells later how many.
    logging.handlers.QueueListener would not do: it writes record by record, which takes longer than answering a
    request, and its stop() has no time-out.
    """

    PIECE_BYTES = 4096  # most in one write, unless a line is longer: Linux's pipes keep this much in one piece
    WRITE_PAUSE_SECONDS = 0.01  # between two batches, so that a busy log wakes the thread at most 100 times a second

    def __init__(self, descriptor: int) -> None:
        """Raises StartError."""
        self.name = descriptor  # of sys.stdout or sys.stderr, as in Python's own streams
        self.file = os.fdopen(descriptor, "wb", 0, closefd=False)
        self.queue: SimpleQueue[bytes] = SimpleQueue()
        self.lock = threading.RLock()  # guards `size` and `dropped`; reentrant, as a destructor may log a warning
        self.size = 0  # bytes buffered or being written
        self.dropped = 0  # lines not yet mentioned in the log
        self.live_line: Optional[str] = None  # shown below the log; None until it has one
        self.ending = threading.Event()
        self.writer = threading.Thread(target=self.write_batches, name=f"output {descriptor}", daemon=True)
        start_thread(self.writer)

    def write(self, data: Any) -> int:
        """Buffer whole lines, which the background thread writes."""
        with self.lock:
            if self.size < OUTPUT_BYTES:
                self.size += len(data)
                self.queue.put(data)
            else:
                self.dropped += data.count(b"\n")
        return len(data)

    def write_batches(self) -> None:
        """Write what is buffered, until finish() is called and nothing is left."""
        while not self.ending.is_set() or self.queue.qsize():
            with contextlib.suppress(Exception):  # such as MemoryError
                self.write_batch()
            self.ending.wait(self.WRITE_PAUSE_SECONDS)

    def write_batch(self) -> None:
        """Write all that is buffered, once there is something; if that succeeds, log how many lines were dropped."""
        batch = [self.queue.get()]
        batch += [self.queue.get() for _ in range(self.queue.qsize())]
        unwritten, text = batch, b""
        try:
            text = self.with_live_line(b"".join(batch))
            unwritten = [self.write_now(text)]
        finally:
            with self.lock:
                self.size -= sum(map(len, batch))
                self.dropped += sum(part.count(b"\n") for part in unwritten)
        if text and not any(unwritten) and self.dropped:
            with self.lock:
                dropped, self.dropped = self.dropped, 0
            log.warning("Dropped %s: the output was blocked or broken", counted(dropped, "log line"))

    def with_live_line(self, text: bytes) -> bytes:
        """Return the text with control sequences that clear the live line before each line, and show it again after.

        The cursor stays at the beginning of the live line. What follows the cursor is cleared (on Windows, only in
        its line), as a narrowed terminal may wrap a live line. A background job leaves the shell's prompt alone.
        """
        if self.live_line is None or not is_in_foreground(self.file):
            return text
        width = terminal_width(self.file) - 1  # some terminals wrap as soon as the last column is filled
        clear = b"\r%b\r" % (b" " * width) if os.name == "nt" else b"\r\x1b[J"  # Windows may lack ECMA-48
        live = self.live_line
        while columns(live) > width:
            live = live[:-1]
        return clear + text.replace(b"\n", b"\n" + clear) + live.encode(sys.stderr.encoding, "replace") + b"\r"

    def write_now(self, data: bytes) -> bytes:
        """Write pieces of whole lines, however long that takes; return what could not be written."""
        start = 0
        while start < len(data):
            end = data.rfind(b"\n", start, start + self.PIECE_BYTES) + 1 or data.find(b"\n", start) + 1 or len(data)
            try:
                written = self.file.write(data[start:end])
            except OSError:
                break
            if not written:  # the pipe is full, and another process made it non-blocking
                sleep(self.WRITE_PAUSE_SECONDS)
            start += written or 0
        return data[start:]

    def finish(self, until: float) -> None:
        """Wait until the buffer is written, or until `until` (monotonic seconds)."""
        self.ending.set()
        self.queue.put(b"")  # wakes the writer
        self.writer.join(max(0.0, until - monotonic()))

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.file.isatty()

    def fileno(self) -> int:
        return self.file.fileno()


def show_live_line(line: str) -> None:
    """Show a line below the log on standard error; with "", only clear the line before each write."""
    output: Any = sys.stderr.buffer
    output.live_line = line
    output.write(b"")  # wakes the writer


def has_live_line(quiet: bool) -> bool:
    """Return whether to show a live line: stderr is a terminal that supports it (Windows sets no TERM)."""
    has_terminal = os.name == "nt" or os.environ.get("TERM", "dumb") != "dumb"
    return not quiet and has_terminal and sys.stderr.isatty()


def is_in_foreground(stream: Any) -> bool:
    """Return whether this process is not a background job of a shell."""
    if sys.platform == "win32":
        return True
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except OSError:  # only the controlling terminal has a foreground process group
        return True


def terminal_width(stream: Any) -> int:
    """Return the present number of columns of a terminal."""
    try:
        return max(2, os.get_terminal_size(stream.fileno()).columns or 80)  # some terminals report 0
    except OSError:
        return 80


def columns(text: str) -> int:
    """Return how many columns a text takes at most: some terminals show non-ASCII twice as wide (UAX #11)."""
    return len(text) + sum(char > "\x7f" for char in text)


def blocks_for(stream: Any) -> str:
    """Return BLOCKS if both the stream's and the locale's encoding have them, else ""; they may differ (PEP 540)."""
    try:
        BLOCKS.encode(stream.encoding)
        if sys.platform != "win32":
            BLOCKS.encode(locale.nl_langinfo(locale.CODESET))
    except UnicodeEncodeError:
        return ""
    return BLOCKS


@contextlib.contextmanager
def outputs_in_background() -> Iterator[None]:
    """In this block, write standard output and error in the background: no thread waits for them. Raises StartError."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # open what is closed: no data file may get its number
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    error = Output(2)
    output = error if leads_to_same_place(error.file) else Output(1)  # one buffer keeps the order
    stdout, stderr = (
        TextIOWrapper(raw, encoding=getattr(stream, "encoding", None), errors="backslashreplace", line_buffering=True)
        for raw, stream in ((output, sys.stdout), (error, sys.stderr))
    )
    with contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
        try:
            yield
        finally:
            end = monotonic() + OUTPUT_SECONDS
            for stream in (stdout, stderr):
                stream.flush()
                stream.buffer.finish(end)


def leads_to_same_place(stderr: Any) -> bool:
    """Return whether standard output certainly leads to the same file as standard error."""
    try:
        if os.fstat(2).st_ino:  # on Windows only files have a number
            return os.path.samestat(os.fstat(1), os.fstat(2))
        with os.fdopen(1, "wb", 0, closefd=False) as stdout:
            return not (isinstance(stdout, FileIO) or isinstance(stderr, FileIO))  # both are the console
    except OSError:
        return False


def configure_logging(verbose: bool) -> None:
    """Log to standard error, in local time."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    log.setLevel(logging.DEBUG if verbose else logging.INFO)


# ------------------------------------------------------------------------------------------------ Meter

SAMPLE_DELAY_SECONDS = 0.1  # from the start of a second, when processes publish their CPU time, to the sample
CHART_SECONDS = 200  # longest chart in the live line
BEST_SECONDS = 10  # longest time under load that the summary describes
BLOCKS = "▁▂▃▄▅▆▇█"
FULL_SHARE = 0.9  # of its CPUs: a server that used as much, or more, was limited by them
SPARE_SHARE = 0.7  # one that used as much, or less, was not
IDLE_SHARE = 0.05  # of the machine's CPUs: if less than this was idle, all of them were busy
VERDICT_SECONDS = 3.0  # shortest time under load for which the summary names the limit


class Usage(NamedTuple):
    """The requests received, and the CPU time used, in a time span."""

    seconds: float = 0.0
    requests: int = 0
    cpu: float = 0.0  # CPU seconds of the server's processes
    idle: float = 0.0  # idle CPU seconds of the whole machine; nan if unknown

    def __add__(self, other: Any) -> "Usage":
        return Usage(*map(add, self, other))

    def __sub__(self, other: "Usage") -> "Usage":
        return Usage(*map(sub, self, other))

    @property
    def rate(self) -> float:
        """Return the requests per second."""
        return self.requests / self.seconds if self.seconds else 0.0

    @property
    def cpus(self) -> float:
        """Return how many CPUs the server's processes kept busy."""
        return self.cpu / self.seconds if self.seconds else 0.0


class Meter:
    """Statistics of the server, second by second. It has no clock; it only accumulates samples."""

    def __init__(self) -> None:
        self.total, self.last = Usage(), Usage(seconds=1.0)
        self.peak = self.recent_peak = 0.0  # most requests in a second: of the run, and since take_recent_peak()
        self.peak_at = 0.0  # in seconds since 1970
        self.rates: deque[float] = deque(maxlen=CHART_SECONDS)
        self.busy: deque[Usage] = deque(maxlen=BEST_SECONDS)  # the last seconds in a row with at least half of the peak
        self.best = Usage()  # of all such seconds in a row, those with the most requests

    def add(self, usage: Usage, now: float) -> None:
        """Add the usage of the last second; `now` is in seconds since 1970."""
        usage = usage._replace(cpu=max(0.0, usage.cpu))  # negative when a process began anew, at 0
        self.total += usage
        if usage.seconds < SHORT_SECONDS:
            return
        self.last, rate = usage, usage.rate
        self.rates.append(rate)
        self.recent_peak = max(self.recent_peak, rate)
        if rate > self.peak:
            self.peak, self.peak_at = rate, now
        self.busy.append(usage)
        while any(one.rate < self.peak / 2 or not one.requests for one in self.busy):
            self.busy.popleft()
        in_a_row = sum(self.busy, Usage())
        if in_a_row.requests > self.best.requests or self.best.rate < self.peak / 2:
            self.best = in_a_row

    def take_recent_peak(self) -> float:
        """Return the peak rate (requests per second) since the last call."""
        peak, self.recent_peak = self.recent_peak, 0.0
        return peak

    def live_line(self, connections: int, status: str, width: int, blocks: str = BLOCKS) -> str:
        """Return the live line for the last second, at most `width` columns; `blocks` draw its chart, "" for none."""
        figures = [
            per_second(self.last.rate),
            f"at most {per_second(self.peak)}",
            f"{self.total.requests:,} in all",
            f"{connections:,} open",
            of_a_cpu(self.last),
            status,
        ]
        separator = " · " if blocks else " | "
        while len(figures) > 1 and columns(separator.join(figures)) > width:
            figures.pop(-2 if len(figures) > 4 else -1)  # drop CPU, then connections, then the status
        line = separator.join(figures)[:width]
        room = (width - columns(line) - 2) // 2 if blocks else 0
        rates = list(self.rates)[-room:] if room > 0 else []
        most = max(rates, default=0.0) or 1.0
        chart = "".join(blocks[ceil(rate / most * (len(blocks) - 1))] for rate in rates)
        return f"{chart}  {line}" if chart else line

    def summary(self, cpus: float, machine_cpus: int, threads: int) -> list[str]:
        """Return the lines of the final summary; the server may use `cpus` CPUs, with this many serving threads."""
        if not self.total.requests:
            return []
        total = f"{counted(self.total.requests, 'request')} in {duration(self.total.seconds)}"
        peak = f", at most {per_second(self.peak)} (at {strftime('%H:%M:%S', localtime(self.peak_at))})"
        lines = [total + peak if self.peak >= 2 else total]
        if self.best.seconds >= VERDICT_SECONDS and self.best.rate >= 1:
            best = f"{per_second(self.best.rate)} on average, {of_a_cpu(self.best)}"
            lines += [f"Under load for {duration(self.best.seconds)}: {best}"]
            lines += filter(None, [verdict(self.best, cpus, machine_cpus, threads)])
        return lines


def of_a_cpu(usage: Usage) -> str:
    """Format the server's CPU use, in percent of one CPU."""
    return f"{100 * usage.cpus:.0f} % of a CPU"


def verdict(usage: Usage, cpus: float, machine_cpus: int, threads: int) -> str:
    """Return a sentence on what limited the requests per second; "" if the figures do not show it."""
    usable = min(cpus, threads)
    used = usage.cpus / usable
    idle = usage.idle / usage.seconds / machine_cpus
    if used >= FULL_SHARE:
        own = "its one CPU" if usable == 1 else f"its {usable:g} CPUs"
        return f"The server used {own} fully: " + ("more needs --workers" if threads < cpus else "it may use no more")
    if idle < IDLE_SHARE:
        return "All CPUs of this machine were busy, also with other work: clients on another machine may get more"
    if used <= SPARE_SHARE and idle >= IDLE_SHARE:  # false if `idle` is nan
        return "The server had CPU to spare: the load or the network was the limit"
    return ""


class Sampler(threading.Thread):
    """The daemon thread that samples the counter each second, for the live line, the peaks and the summary."""

    def __init__(self, counter: Counter, threads: int, courier: Courier, is_live: bool) -> None:
        """`threads` is the number of serving threads in all processes; `courier` has the status of InfluxDB."""
        super().__init__(name="sampler", daemon=True)
        self.counter, self.threads, self.courier, self.is_live = counter, threads, courier, is_live
        self.meter = Meter()
        self.stopping = threading.Event()
        self.totals = self.read_totals()  # of the last sample

    def read_totals(self) -> Usage:
        """Return the totals until now; `seconds` is the monotonic time."""
        cpu = sum(self.counter.column(Counter.CPU_TIME, self.threads)) / 1e6
        return Usage(monotonic(), self.counter.total(), cpu, idle_seconds())

    def run(self) -> None:
        while not self.stopping.wait(1.5 - (time() + 0.5 - SAMPLE_DELAY_SECONDS) % 1):  # until just after a full second
            self.sample()

    def sample(self) -> None:
        """Add the usage since the last sample to the meter, and show it."""
        with contextlib.suppress(Exception):  # statistics are not essential
            before, self.totals = self.totals, self.read_totals()
            self.meter.add(self.totals - before, time())
            if self.is_live and not self.stopping.is_set():
                connections = sum(self.counter.column(Counter.CONNECTIONS, self.threads))
                width = terminal_width(sys.stderr) - 1
                show_live_line(self.meter.live_line(connections, self.courier.status, width, blocks_for(sys.stderr)))

    def stop(self) -> None:
        """End the live line."""
        self.stopping.set()
        if self.ident:
            self.join(PAUSE_SECONDS)
        if self.is_live:
            show_live_line("")


# ----------------------------------------------------------------------------------------- Command line


class Options(NamedTuple):
    """The options, from the command line, the environment or the defaults."""

    bind: Optional[str] = None
    port: int = PORT
    destination: Destination = Destination()
    interval: float = INTERVAL_SECONDS
    tags: dict[str, str] = {}
    state: str = STATE_FILE
    workers: int = 1
    access_log: bool = False
    quiet: bool = False
    verbose: bool = False
    threads: int = 1  # serving threads per process; fixed, because it determines which process owns which cell
    unknown: list[str] = []  # variables in the environment


EXAMPLES = f"""\
Each option can also be set in the environment: --port as {ENV_PREFIX}PORT,
--access-log as {ENV_PREFIX}ACCESS_LOG=1, --influx as {DSN_VARIABLE},
tags as {ENV_PREFIX}TAG=host=a,rack=b. The command line wins.

examples:
  python webserver_influx.py
      serve on port 8008, send statistics to the InfluxDB on this machine
  curl 'http://localhost:8008/?a=3&b=3'
      Sum: 6.0
  python webserver_influx.py --influx influxdb://db.example.org
      send statistics to another machine
"""


def whole_number(text: str, low: int, high: int, more: str = "") -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}{more}")
    return int(text)


def positive_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.001 <= seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0.001 to {threading.TIMEOUT_MAX:.0f}")
    return seconds


def data_source_name(text: str) -> Destination:
    try:
        return parse_dsn(text.strip())  # a variable set from a file may end with a newline
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; its form is in --help") from None


def non_empty(text: str, what: str) -> str:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is {what}")
    return text


def worker_count(text: str) -> int:
    if text == "auto":
        return min(ceil(cpu_limit()), CELLS)
    return whole_number(text, 1, CELLS, ", or auto")


def tag(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key or not value or "\\" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, both printable, not empty, without a backslash")
    if key in ("request", "time") or key.startswith("_"):
        raise argparse.ArgumentTypeError(f"{key!r} is reserved by the server or InfluxDB; use another key")
    return key, value


def flag(text: str) -> bool:
    if text.lower() not in ("1", "yes", "true", "on", "0", "no", "false", "off"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 1 nor 0 (or yes/no, true/false, on/off)")
    return text.lower() in ("1", "yes", "true", "on")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that hides the passwords of DSNs in usage errors."""

    def error(self, message: str) -> NoReturn:
        is_own = message.startswith(("argument --influx: ", f"{DSN_VARIABLE}: "))  # these contain no password
        super().error(message if is_own else re.sub(r"(?is)influxdb://.*", "influxdb://…", message))


def parse_arguments(argv: Optional[list[str]]) -> Options:
    """Parse the command line, then the environment for options not given there; exit with 2 on a usage error."""
    parser = Parser(
        prog="webserver_influx.py",
        description="Adds up numbers over HTTP and tells InfluxDB 1.8 how many requests came.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    actions: list[Any] = []

    def add(*names: str, **settings: Any) -> None:
        actions.append(parser.add_argument(*names, **settings))

    about = "the address to listen on; 0.0.0.0 is all of IPv4 (default: all, IPv4 and IPv6)"
    address = partial(non_empty, what="not an address; omit the option to listen on all addresses")
    add("--bind", metavar="ADDRESS", type=address, help=about)
    about = f"the port; 0 takes a free one (default: {PORT})"
    add("--port", metavar="N", type=partial(whole_number, low=0, high=65535), default=PORT, help=about)
    about = f"""where statistics go: [https+]influxdb://user:password@host:port/path/database (default: {DSN_VARIABLE}
        in the environment, where ps does not show a password; else database {DATABASE} of user {USER} at
        localhost:8086)"""
    add("--influx", metavar="DSN", dest="destination", type=data_source_name, default=Destination(), help=about)
    about = f"the seconds between two points (default: {INTERVAL_SECONDS:.0f})"
    add("--interval", metavar="SECONDS", type=positive_seconds, default=INTERVAL_SECONDS, help=about)
    about = "a further tag of each point, so that servers can share a database; may be repeated (default: none)"
    add("--tag", metavar="KEY=VALUE", dest="tags", type=tag, action="append", default=[], help=about)
    about = f"""where points wait for InfluxDB; FILE-count beside it holds the counter. :memory: stands for no file:
        what InfluxDB does not have when the program ends, or is killed, is lost (default: {STATE_FILE})"""
    file_name = partial(non_empty, what="neither a file name nor :memory:")
    add("--state", metavar="FILE", type=file_name, default=STATE_FILE, help=about)
    about = "processes, or auto: one for each CPU (default: 1)"
    add("--workers", metavar="N", type=worker_count, default=1, help=about)
    add("--access-log", action="store_true", help="log each request, at four fifths of the speed (default: off)")
    add("--quiet", action="store_true", help="leave out the live line; log only the last interval (default: off)")
    add("--verbose", action="store_true", help="log debug messages as well (default: off)")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    unset = dict.fromkeys(action.dest for action in actions)  # None: not on the command line
    given = vars(parser.parse_args(argv, argparse.Namespace(**unset)))
    tag_source = "argument --tag" if given["tags"] else f"{ENV_PREFIX}TAG"
    unknown = read_environment(parser, actions, given)
    tags = dict(given["tags"])
    if len(tags) < len(given["tags"]):
        keys = [key for key, _ in given["tags"]]
        parser.error(f"{tag_source}: the key {max(keys, key=keys.count)!r} is given twice")
    return Options(**{**given, "tags": tags}, threads=serving_threads(given["workers"]), unknown=unknown)


def read_environment(parser: Parser, actions: list[Any], given: dict[str, Any]) -> list[str]:
    """Complete `given` from the environment, then from the defaults; exit with 2 on a bad value.

    Return the unknown variables. Ignore what Kubernetes sets for a service webserver-influx: an address in …_PORT, and
    names with SERVICE or PORT in the middle; and empty variables, because Compose sets unset ones to "".
    """
    found = {name: text.strip() for name, text in os.environ.items() if name.startswith(ENV_PREFIX)}
    address = re.compile(r"\w+_PORT=(?:tcp|udp|sctp)://")
    found = {name: text for name, text in found.items() if text and not address.match(f"{name}={text}")}
    for action in actions:
        (option,) = action.option_strings
        name = DSN_VARIABLE if option == "--influx" else ENV_PREFIX + option[2:].replace("-", "_").upper()
        text = found.pop(name, None)
        if given[action.dest] is None:
            try:
                given[action.dest] = action.default if text is None else read_variable(action, text)
            except argparse.ArgumentTypeError as error:
                parser.error(f"{name}: {error}")
    return [name for name in sorted(found) if not re.search("_(SERVICE|PORT)_", name)]


def read_variable(action: Any, text: str) -> Any:
    """Parse a variable's text as the parser's action would parse an argument. Raises ArgumentTypeError.

    The values of a repeatable option are separated by commas; a literal comma is `\\,`, as in line protocol.
    """
    if action.nargs == 0:
        return flag(text)
    if isinstance(action.default, list):
        return [action.type(part.strip().replace("\\,", ",")) for part in re.split(r"(?<!\\),", text)]
    return action.type(text)


# -------------------------------------------------------------------------------- Signals, run and main

REPEAT_SECONDS = 0.3  # a second signal within this time is a duplicate: `timeout` and wrappers send each twice

# Ctrl-C; kill and systemd; the end of the terminal; Ctrl-Break on Windows
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


def catch_signals() -> threading.Event:
    """Return an event that the first stop signal sets; after REPEAT_SECONDS, any but SIGHUP exits. Raises StartError.

    A thread waits for the byte that Python's C-level handler writes (`set_wakeup_fd`). So a signal between two system
    calls is not missed, and the main thread may wait for a lock, a wait that no signal ends on Windows before 3.14.
    """
    readable, writable = socket.socketpair()
    writable.setblocking(False)
    stop_asked = threading.Event()

    def listen_to_signals() -> None:
        readable.recv(1)
        stop_asked.set()
        repeat_end = monotonic() + REPEAT_SECONDS
        while readable.recv(1)[0] == getattr(signal, "SIGHUP", None) or monotonic() < repeat_end:
            pass
        os._exit(130)

    start_thread(threading.Thread(target=listen_to_signals, name="signals", daemon=True))
    signal.set_wakeup_fd(writable.detach(), warn_on_full_buffer=False)  # stays open until the process ends
    for signum in STOP_SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # nohup ignores SIGHUP; a shell may ignore a job's SIGINT
            signal.signal(signum, lambda *_: None)
    return stop_asked


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """In the `with` block, start processes with their stop signals blocked (Windows: Ctrl-C ignored)."""
    if sys.platform == "win32":
        import ctypes

        ignore_ctrl_c = ctypes.windll.kernel32.SetConsoleCtrlHandler
        ignore_ctrl_c(None, True)
        try:
            yield
        finally:
            ignore_ctrl_c(None, False)
        return
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()  # this helper process must survive the signals; its start unblocks some
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def open_files(options: Options, stack: contextlib.ExitStack) -> tuple[Counter, Outbox]:
    """Open or create the counter and the outbox, which the stack closes. Raises StartError, OSError."""
    count_file = f"{options.state}-count"
    if options.state == ":memory:":
        count_file = ":memory:"
        if options.workers > 1:  # they share the counter through a file
            count_file = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "count")
    outbox = stack.enter_context(contextlib.closing(Outbox(options.state)))
    try:
        cells = range(1, 1 + options.threads)
        counter = stack.enter_context(contextlib.closing(Counter(count_file, 0, *cells, create=outbox.is_new)))
        outbox.attach(counter)
        behind = (outbox.state()[2] - time_ns()) / 1e9
        recovered = outbox.recover(round(options.interval * 1e9), time_ns())
    except (OSError, sqlite3.Error) as error:
        raise StartError(outbox.explain(error)) from None
    if behind > options.interval:
        log.warning("The system's clock is %.0f s behind the time at which the server ran last", behind)
    if recovered:
        log.info("The last run ended before it could record %s; recorded now", counted(recovered, "request"))
    return counter, outbox


def announce(listener: socket.socket, options: Options, state: str) -> None:
    """Print where the server listens, where the points go, and how many CPUs it may use."""
    host, port = socket.getnameinfo(listener.getsockname(), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    where, others = uri_host(host.replace("%", "%25")), ""  # RFC 6874 §2: "%25" precedes a zone
    if host in ("::", "0.0.0.0"):
        where, others = "localhost", " and all other addresses" if host == "::" else " and all other addresses of IPv4"
    cpus = ceil(cpu_limit())
    more = "; --workers auto uses all" if options.workers * options.threads < min(cpus, CELLS) else ""
    sys.stdout.write(  # at once, so that no thread's log line gets in between
        f"Serving on http://{where}:{port}{others}; Ctrl-C stops.\n"
        f"Every {options.interval:g} s a point goes to {options.destination}.\n"
        f"Until InfluxDB has taken them, points wait in {state}.\n"
        f"{counted(options.workers, 'process')} on {counted(cpus, 'CPU')}{more}.\n"
    )


def run(options: Options, stop_asked: threading.Event) -> None:
    """Serve until stop_asked is set. Raises StartError, OSError."""
    prepare_process()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(options.bind, options.port))
        counter, outbox = open_files(options, stack)
        service = Workers(listener, counter, options, stop_asked)
        courier = Courier(outbox, InfluxDB(options.destination, options.tags), options.interval, options.quiet)
        sampler = Sampler(counter, options.workers * options.threads, courier, has_live_line(options.quiet))
        reporter = Reporter(outbox, courier, options.interval, sampler.meter.take_recent_peak)
        try:
            service.start()
            start_thread(reporter)
            start_thread(courier)  # late, as it imports the client
            announce(listener, options, outbox.display_name)
            start_thread(sampler)
            stop_asked.wait()
            print("Stopping: finishing requests, sending the last point. Ctrl-C again quits now.")
        finally:
            end = monotonic() + STOP_SECONDS
            sampler.stop()
            service.stop()
            sampler.sample()
            reporter.stop(end)
            log.addFilter(lambda record: str(record.threadName).startswith(("Main", "output")))  # others log no more
            with contextlib.suppress(Exception):  # statistics are not essential
                for line in sampler.meter.summary(cpu_limit(), os.cpu_count() or 1, sampler.threads):
                    log.info("%s", line)


def main(argv: Optional[list[str]] = None) -> int:
    """Run the program; return its exit status: 0, or 1 if it failed. A second Ctrl-C ends it with 130."""
    try:
        with outputs_in_background():
            return run_to_end(argv)
    except StartError as error:  # there is not even a thread for the output
        os.write(2, f"webserver_influx.py: error: {error}\n".encode())
        return 1


def run_to_end(argv: Optional[list[str]]) -> int:
    """Do what main() does, with standard output and error written in the background."""
    options = parse_arguments(argv)
    configure_logging(options.verbose)
    for name in options.unknown:
        log.warning("Ignoring unknown environment variable %s", name)
    try:
        run(options, catch_signals())
        return 0
    except StartError as error:
        reason = str(error)
    except (OSError, MemoryError, ImportError) as error:  # ImportError: a module's file cannot be opened
        reason = reason_of(error)
    finally:
        for signum in STOP_SIGNALS:  # Python resets its handlers at its end; then a late signal would kill it
            signal.signal(signum, signal.SIG_IGN)
    print(f"webserver_influx.py: error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
