# /// script
# requires-python = ">=3.9"
# dependencies = ["influxdb==5.3.2"]
# ///
"""An HTTP server that adds up numbers, counts its requests and tells InfluxDB how many came each minute.

Two things travel through this file, and it is laid out in the order in which they travel:

    bytes   -> request -> numbers -> sum -> reply -> bytes      Part I, a request
    request -> Counter -> point -> Outbox -> InfluxDB           Part II, a count

The one bridge between them is `counter.increment()`. Nothing in Part I knows that InfluxDB exists, nothing in
Part II knows that HTTP does; Part III puts both into one program.

It promises that every request with a valid head is counted once, before its reply is sent, and that no kill,
outage or restart loses or doubles a count that has been made. It does not promise that the client read the reply.
"""

import argparse
import contextlib
import errno
import ipaddress
import json
import logging
import mmap
import os
import re
import signal
import socket
import sqlite3
import struct
import sys
import tempfile
import threading
import uuid
from _thread import get_ident, start_new_thread
from collections.abc import Callable, Iterator
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from itertools import accumulate
from math import fsum, inf, isfinite
from select import select
from time import monotonic, sleep, time, time_ns
from typing import Any, NamedTuple, Optional
from urllib.parse import unquote, unquote_plus, urlsplit

__version__ = "1.0.0"

log = logging.getLogger("webserver_influx")

# ------------------------------------------------------------------------------------------ Limits and defaults

PORT = 8008
INTERVAL_SECONDS = 60.0
STATE_FILE = "math_server.db"
DSN_VARIABLE = "WEBSERVER_INFLUX_DSN"
DATABASE = USER = "math_server"
PASSWORD = "math_server1"

REQUEST_LINE_BYTES = 8 * 1024  # RFC 9112 §3 asks for 8,000 at least
HEAD_BYTES = 64 * 1024  # request line and field section; eight times what Apache takes for one field
FIELD_LINES = 100  # as Apache, and Python's http.client
BODY_BYTES = 1024 * 1024  # nginx's client_max_body_size
CHUNK_LINE_BYTES = 1024  # a chunk size takes 6 digits here; the rest is for extensions that nobody sends
JSON_NESTING = 100  # arrays and objects; a thread's stack holds ten times as many

HEAD_SECONDS = 10.0  # from a head's first byte to its last
BODY_SECONDS = 30.0  # from the end of the head to the end of the body
IDLE_SECONDS = 75.0  # between two requests; nginx's keepalive_timeout
SEND_SECONDS = 30.0  # for a client that does not read its reply
LINGER_SECONDS = 5.0  # to read on after a refusal; nginx's lingering_timeout

RETRY_SECONDS = 0.1  # between two tries to accept a connection, where that fails
UNREAD_BYTES = 256  # which a connection takes even if its client does not read: a reply with a sum, not many
REQUEST_BYTES = 2 * 1024  # room that a connection holds while it waits for a request: for that of a browser
RECEIVE_BYTES = 64 * 1024  # for the rest of a longer one
BACKLOG = 4096  # connections the kernel may hold for us; Linux's own upper limit since 5.4
CONNECTIONS = 16_384  # threads, one for each; more connections wait in the backlog
SWITCH_SECONDS = 1.0  # until a thread asks for the GIL; after Python's 0.005, thousands that wait do nothing but ask
STACK_BYTES = 256 * 1024  # address space for a connection's thread, so that a 32-bit system holds thousands
REMEMBERED = 256  # field sections, and field lines; 16 MiB of each at worst, and as much again of what they mean

BACKLOG_SECONDS = 0.5  # at shutdown, for connections that wait to be accepted
GRACE_SECONDS = 3.0  # at shutdown, for requests in flight; with the delivery it stays below Docker's 10 s
#                     at a start, for the workers of a killed program to let go of their cells
DELIVERY_SECONDS = 5.0  # at shutdown, for the last points
INFLUXDB_SECONDS = 5.0  # for InfluxDB to accept a connection, and to send each part of an answer
BATCH_POINTS = 1000  # in one write to InfluxDB, some 60 kB
WORKERS = 255  # as many as the counter file has cells for
RESPAWN_SECONDS = 1.0  # between two starts of one worker

# ==================================================================================== Part I: a request
# ---------------------------------------------------------------------------------------------- Grammar

# Text of a head is ISO-8859-1, in which each byte is a character.

# RFC 9110 §5.6.2   token = 1*tchar
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

# RFC 9110 §5.5     field-value = *field-content; VCHAR, obs-text, SP and HTAB, so neither CR, LF nor NUL
FIELD_VALUE = r"[\t\x20-\x7e\x80-\xff]*"

# RFC 9112 §5       field-line = field-name ":" OWS field-value OWS
FIELD_LINE = TOKEN + ":" + FIELD_VALUE

# RFC 9110 §5.6.4   quoted-string = DQUOTE *( qdtext / quoted-pair ) DQUOTE
QUOTED_STRING = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'

# RFC 3986 §3.2     uri-host [ ":" port ]; the empty host is one, too. What a Host has in brackets, check_host() reads.
REG_NAME = r"[A-Za-z0-9\-._~!$&'()*+,;=]*(?:%[0-9A-Fa-f]{2}[A-Za-z0-9\-._~!$&'()*+,;=]*)*"
AUTHORITY = r"(?:\[[0-9A-Fa-f:.]*\]|" + REG_NAME + r")(?::[0-9]*)?"

# RFC 9112 §3.2     method SP request-target where that is no origin-form: absolute-form, asterisk-form, authority-form;
#                   the last two go with one method each, and of no form may the host be empty (RFC 9110 §4.2.1)
HOST_AND_PORT = "(?=[^/?:])" + AUTHORITY
ABSOLUTE_FORM = rf"[A-Za-z][A-Za-z0-9+\-.]*://{HOST_AND_PORT}(?:[/?].*)?"
is_other_target = re.compile(rf".+ {ABSOLUTE_FORM}|OPTIONS \*|CONNECT {HOST_AND_PORT}".encode()).fullmatch

# RFC 9112 §2.3     HTTP-version = HTTP-name "/" DIGIT "." DIGIT
match_version = re.compile(r"HTTP/([0-9])\.([0-9])").fullmatch

# RFC 9112 §7.1     chunk-size [ chunk-ext ] CRLF, chunk-ext = *( BWS ";" BWS token [ BWS "=" BWS value ] )
BWS = r"[\t ]*"
CHUNK_EXT = rf"{BWS};{BWS}{TOKEN}(?:{BWS}={BWS}(?:{TOKEN}|{QUOTED_STRING}))?"
match_chunk_line = re.compile(rf"([0-9A-Fa-f]+)(?:{CHUNK_EXT})*\r\n").fullmatch

is_method = re.compile(TOKEN.encode()).fullmatch
is_field_line = re.compile(FIELD_LINE).fullmatch
is_trailer_line = re.compile(FIELD_LINE + "\r\n").fullmatch
is_host = re.compile(AUTHORITY).fullmatch
is_decimal = re.compile("[0-9]+").fullmatch

HEAD_END = b"\r\n\r\n"
CONTROLS = bytes({*range(0x20), 0x7F} - set(b"\t\r\n"))  # which no head holds (RFC 9110 §5.5)
# Browsers send visible characters that RFC 3986 would encode, but never a fragment. All others become blanks.
VISIBLE = bytes(byte if 0x21 <= byte <= 0x7E and byte != ord("#") else 0x20 for byte in range(256))
SLASH, PERCENT, PLUS = b"/%+"

# ---------------------------------------------------------------------------------------------- Request


class RequestError(Exception):
    """A request that is refused: the status code (RFC 9110 §15) and one line of text that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


# How the head of a reply ends, behind its Content-Length, by what becomes of the connection (RFC 9112 §9.3, §9.6).
KEEP_ALIVE = "\r\n\r\n"  # persistence needs no word in HTTP/1.1
KEEP_ALIVE_1_0 = "\r\nConnection: keep-alive\r\n\r\n"
CLOSE = "\r\nConnection: close\r\n\r\n"

CHUNKED = -1  # as a body's length: unknown before its last chunk
METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST")}
CONTINUE = "100-continue"
FIELDS_READ = ("host", "connection", "content-length", "transfer-encoding", "expect", "content-type")


# What the fields of a head mean. Plain tuples, here and below, because nothing is faster to unpack.
#   str  what becomes of the connection: KEEP_ALIVE, KEEP_ALIVE_1_0 or CLOSE
#   int  the body's length in octets, or CHUNKED
#   str  the expectation in lower case, or empty
#   str  the media type in lower case, without parameters, or empty
Fields = tuple[str, int, str, str]

Head = tuple[str, bytes, Fields, bytes]  # method, query, fields; and the bytes behind the head

# A client sends the same fields with every request of a connection, and a thousand like it send them too. So what they
# mean is remembered: for all that follows the request-target, HEAD_END included, and for each field line. It is a fact
# about these bytes alone.
known_fields: dict[bytes, Fields] = {}


def take_head(buffer: bytes) -> Optional[Head]:
    """Take a request's head out of the bytes received: return it and what is left, or None for "need more".

    Raises RequestError as soon as the bytes can no longer become a head that this server reads (RFC 9112 §2.2, §3).
    """
    if len(buffer) > REQUEST_LINE_BYTES:
        refuse_long(buffer.partition(HEAD_END)[0].strip(b"\r\n"))
    try:
        method, target, behind = buffer.split(b" ", 2)
    except ValueError:
        return refuse_early(buffer)
    try:
        name = METHODS[method]
    except KeyError:
        if method.startswith(b"\r\n") and is_method(method[2:]):  # one empty line is ignored (RFC 9112 §2.2)
            return take_head(buffer[2:])
        if not is_method(method):
            raise RequestError(400, "The method is not a token.") from None
        name = method.decode()
    fields, rest = known_fields.get(behind), b""
    if not fields:
        section, end, rest = behind.partition(HEAD_END)
        if not end:
            return refuse_early(buffer)
        fields = known_fields.get(section + end) or learn_fields(section)
    if target.translate(VISIBLE) != target:
        raise RequestError(400, "The request-target holds a character that is not visible ASCII, or #.")
    if (not target or target[0] != SLASH) and not is_other_target(method + b" " + target):
        raise RequestError(400, "The request-target is not a path or an absolute URI.")
    return name, target.partition(b"?")[2], fields, rest


def refuse_early(buffer: bytes) -> None:
    """Raise RequestError if no bytes that may follow can make a valid head of these, which are not yet one."""
    head, end, _ = buffer.partition(HEAD_END)
    lines = head.count(b"\r\n")
    bare = head.count(b"\n") > lines or head.count(b"\r") - head.endswith(b"\r") > lines
    if bare or len(head.translate(None, CONTROLS)) < len(head):
        raise RequestError(400, "The head holds a control character, a bare CR or a bare LF.")
    if end:
        raise RequestError(400, 'The request line is not "method request-target HTTP-version".')


def refuse_long(head: bytes) -> None:
    """Raise RequestError if a head, whole or in part, is longer than this server reads (RFC 9112 §3, RFC 6585 §5)."""
    if len(head.partition(b"\r\n")[0]) > REQUEST_LINE_BYTES:
        raise RequestError(414, f"The request line is longer than {REQUEST_LINE_BYTES} bytes.")
    if len(head) > HEAD_BYTES:
        raise RequestError(431, f"The head is longer than {HEAD_BYTES} bytes.")


def learn_fields(section: bytes) -> Fields:
    """Read the fields, and remember them."""
    if len(known_fields) >= REMEMBERED:
        known_fields.clear()
    fields = known_fields[section + HEAD_END] = read_fields(section.decode("latin-1"))
    return fields


def read_fields(version_and_fields: str) -> Fields:
    """Read all of a head that follows the request-target, without the CRLFs that end it (RFC 9112 §2.3, §5)."""
    version, *lines = version_and_fields.split("\r\n")
    match = match_version(version)
    if not match:
        raise RequestError(400, 'The request line is not "method request-target HTTP/1.1", single spaces between.')
    if match[1] != "1":
        raise RequestError(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
    if len(lines) > FIELD_LINES:
        raise RequestError(431, f"The head has more than {FIELD_LINES} field lines.")
    values: dict[str, str] = {}
    for name, value in filter(None, map(read_field, lines)):
        values[name] = f"{values[name]}, {value}" if name in values else value  # RFC 9110 §5.3
    return interpret_fields(values, http_1_0=match[2] == "0")


@lru_cache(REMEMBERED)
def read_field(line: str) -> Optional[tuple[str, str]]:
    """Read a field line: its name and its value in lower case, or None if the name is not of FIELDS_READ."""
    if not is_field_line(line):
        raise RequestError(400, 'A field line is not "name: value".')
    name, _, value = line.lower().partition(":")
    return (name, value.strip(" \t")) if name in FIELDS_READ else None


def interpret_fields(values: dict[str, str], *, http_1_0: bool) -> Fields:
    """Find out what the fields mean for the connection, the body and the reply (RFC 9110, RFC 9112)."""
    check_host(values.get("host"), http_1_0)
    options = list_members(values.get("connection", ""))
    if "close" in options or http_1_0 and "keep-alive" not in options:
        persistence = CLOSE
    else:
        persistence = KEEP_ALIVE_1_0 if http_1_0 else KEEP_ALIVE
    body_length = read_body_length(values.get("content-length"), values.get("transfer-encoding"), http_1_0)
    expectations = [] if http_1_0 else list_members(values.get("expect", ""))  # RFC 9110 §10.1.1
    expectation = next(iter(set(expectations) - {CONTINUE} or expectations), "")
    media_type = values.get("content-type", "").partition(";")[0].strip(" \t")
    return persistence, body_length, expectation, media_type


def list_members(value: str) -> list[str]:
    """The members of a comma-separated field, without the empty ones (RFC 9110 §5.6.1)."""
    members = [member.strip(" \t") for member in value.split(",")]
    return [member for member in members if member]


def check_host(host: Optional[str], http_1_0: bool) -> None:
    """Raise RequestError unless there is one valid Host, or none in HTTP/1.0 (RFC 9112 §3.2)."""
    if host is None:
        if not http_1_0:
            raise RequestError(400, "An HTTP/1.1 request has a Host field.")
    elif not is_host(host) or host.startswith("[") and not is_ip_literal(host[1 : host.index("]")]):
        raise RequestError(400, 'The Host field is not one "host" or "host:port".')


def is_ip_literal(address: str) -> bool:
    """Whether this may stand in brackets as a host: an IPv6 address (RFC 3986 §3.2.2); no IPvFuture exists."""
    try:
        socket.inet_pton(socket.AF_INET6, address)
    except (OSError, ValueError):
        return False
    return True


def read_body_length(lengths: Optional[str], codings: Optional[str], http_1_0: bool) -> int:
    """The body's length in octets, or CHUNKED (RFC 9112 §6.1 to §6.3). All that is ambiguous is refused."""
    if codings is not None:
        members = list_members(codings)
        if lengths is not None:
            raise RequestError(400, "Content-Length and Transfer-Encoding exclude each other.")
        if http_1_0:
            raise RequestError(400, "HTTP/1.0 has no Transfer-Encoding.")
        if any(member != "chunked" for member in members):
            raise RequestError(501, "The only transfer coding that this server knows is chunked.")
        if len(members) != 1:
            raise RequestError(400, "Transfer-Encoding names chunked once, no more and no less.")
        return CHUNKED
    if lengths is None:
        return 0
    length, *others = {value.strip(" \t") for value in lengths.split(",")}
    if others or not is_decimal(length):
        raise RequestError(400, "The Content-Length is not one decimal number.")
    return int(length.lstrip("0")[:20] or "0")  # 20 digits are far too many already, so the rest does not matter


def decode_chunks(buffer: bytes, receive: Callable[[], bytes]) -> tuple[bytes, bytes]:
    """Decode a chunked body (RFC 9112 §7.1) that begins in the buffer; receive() returns what follows.

    Returns the body and what is left behind it. Raises RequestError when the bytes are malformed or too many.
    """
    received, body = BytesIO(buffer), bytearray()

    def refill() -> bytes:
        nonlocal received
        received = BytesIO(receive())
        return b""

    def take_line() -> str:
        line = b""
        while not line.endswith(b"\n"):
            if len(line) == CHUNK_LINE_BYTES:
                raise RequestError(400, f"A line of the chunked body is longer than {CHUNK_LINE_BYTES} bytes.")
            line += received.readline(CHUNK_LINE_BYTES - len(line)) or refill()
        return line.decode("latin-1")

    while size := read_chunk_size(take_line()):
        end = len(body) + size
        if end > BODY_BYTES:
            raise RequestError(413, f"The body is longer than {BODY_BYTES} bytes.")
        while len(body) < end:
            body += received.read(end - len(body)) or refill()
        if take_line() != "\r\n":
            raise RequestError(400, "A chunk is longer than its size says.")
    for _ in range(FIELD_LINES + 1):  # the trailer section (RFC 9112 §7.1.2), bounded as a head's fields are
        line = take_line()
        if line == "\r\n":
            return bytes(body), received.read()
        if not is_trailer_line(line):
            raise RequestError(400, 'A trailer is not "name: value".')
    raise RequestError(431, f"The body has more than {FIELD_LINES} trailers.")


def read_chunk_size(line: str) -> int:
    match = match_chunk_line(line)
    if not match:
        raise RequestError(400, "A chunk does not begin with its size in hexadecimal digits.")
    return int(match[1], 16)


# -------------------------------------------------------------------------------------------------- Sum


find_values = re.compile(b"=([^&]*)").findall


def query_values(query: bytes) -> list[Any]:
    """The values of a query (WHATWG URL, application/x-www-form-urlencoded)."""
    values = find_values(query)
    return [unquote_plus(value.decode()) for value in values] if PERCENT in query or PLUS in query else values


def refuse_constant(name: str) -> None:
    """What Python's json would read as NaN or an infinity is no JSON (RFC 8259 §6)."""
    raise ValueError(f"{name} is no JSON value")


# An object becomes a tuple, so that it can be told from an array and a name given twice counts twice. A number becomes
# a float without being an int first, which would take a time that grows with the square of its digits.
JSON = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float, parse_constant=refuse_constant)
JSON_NUMERIC = (float, str)  # what may be a number
JSON_SPACE = " \t\r\n"
JSON_STRING = re.compile(r'"[^"]*"?')
JSON_BRACKET = re.compile(r"[\[\]{}]")


def json_values(body: bytes) -> list[Any]:
    """The numbers and strings among the values of a JSON object (RFC 8259). Raises RequestError if the body is none."""
    try:
        text = body.decode().rstrip(JSON_SPACE)
    except UnicodeDecodeError:
        raise RequestError(400, "The body is not UTF-8.") from None
    if not text:
        raise RequestError(400, "The body is empty; a JSON object is expected.")
    if (
        len(text) > JSON_NESTING  # then it may be
        and text.count("[") + text.count("{") > JSON_NESTING
        and json_nesting(text) > JSON_NESTING
    ):
        raise RequestError(400, f"The JSON text is nested deeper than {JSON_NESTING} levels.")
    try:
        document, end = JSON.raw_decode(text, len(text) - len(text.lstrip(JSON_SPACE)))
    except ValueError as error:
        raise RequestError(400, f"The body is not JSON: {error}.") from None
    if end < len(text):
        raise RequestError(400, f"The body is not JSON: something follows the value (char {end}).")
    if type(document) is not tuple:
        raise RequestError(400, "The JSON text is not an object.")
    return [value for _, value in document if type(value) in JSON_NUMERIC]


def json_nesting(text: str) -> int:
    """How many arrays and objects at most are open at once, if this is JSON.

    Python's own limit will not do: 3.13.0 overflows the stack of a thread, and dies, before it gets there.
    """
    outside_strings = JSON_STRING.sub("", text.replace("\\\\", "").replace('\\"', ""))
    steps = (1 if bracket in "[{" else -1 for bracket in JSON_BRACKET.findall(outside_strings))
    return max(accumulate(steps), default=0)


def sum_text(values: list[Any]) -> str:
    """The answer, `Sum: 6.0`, where values are numbers or text; or `Sum: 0` where none of them is a number."""
    try:
        total = fsum(map(float, values))  # as if all were numbers, which they nearly always are
    except (ValueError, OverflowError):
        total = inf
    if not isfinite(total):
        values = numbers(values)
        total = exact_sum(values)
    return f"Sum: {total!r}" if values else "Sum: 0"


def numbers(values: list[Any]) -> list[float]:
    """Those of the values that `float()` reads and that are finite."""
    found = []
    for value in values:
        try:
            number = float(value)
        except ValueError:
            continue
        if isfinite(number):
            found.append(number)
    return found


def exact_sum(values: list[float]) -> float:
    """The sum of floats, rounded once; an infinity if it is past the range of a float."""
    try:
        return fsum(values)
    except OverflowError:  # of a part of the sum; the whole may be in range
        unit = 2**1074  # of which every float is a multiple
    whole = sum(numerator * (unit // denominator) for numerator, denominator in map(float.as_integer_ratio, values))
    try:
        return whole / unit
    except OverflowError:
        return inf if whole > 0 else -inf


# ---------------------------------------------------------------------------------------------- Handler

STATUS_LINE = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
STATUS_LINE[405] += f"Allow: {', '.join(METHODS.values())}\r\n"  # RFC 9110 §15.5.6
REPLY_START = "%sDate: %s\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "
INTERIM = "HTTP/1.1 100 Continue\r\n\r\n"
EXPECTED_JSON = 'Please, ensure the content type of your request is "application/json".'

GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
# With the GIL one thread runs at a time. A thread that offers the CPU before it waits lets the other connections that
# are ready have their turn first, and finds its own next request there when it comes back.
yield_turn = os.sched_yield if GIL and hasattr(os, "sched_yield") else lambda: None

HANDS_OPTIONS_ON = sys.platform == "linux"  # a listening socket, to the connections it accepts
AT_ONCE = GIL and getattr(socket, "MSG_DONTWAIT", 0)  # to receive only what has come; Windows has no such flag
TIMED_OUT = (BlockingIOError, socket.timeout)  # what a receive or a send raises when its time is over


def timeval_layout() -> str:
    """The struct format of the kernel's timeval: 16 bytes, or 8 where `time_t` has 32 bits."""
    with socket.socket() as probe:
        return "=qq" if len(probe.getsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, 16)) == 16 else "=ii"


TIMEVAL = timeval_layout() if os.name == "posix" else ""


def set_timeout(sock: socket.socket, option: int, seconds: float) -> None:
    """Bound the time that a receive (SO_RCVTIMEO) or a send (SO_SNDTIMEO) may take.

    The kernel keeps these time-outs itself; `settimeout()` costs a poll() before every receive.
    """
    if TIMEVAL:
        whole, fraction = divmod(max(seconds, 1e-6), 1)
        sock.setsockopt(socket.SOL_SOCKET, option, struct.pack(TIMEVAL, int(whole), int(fraction * 1e6)))
    else:
        sock.settimeout(seconds)


def configure(sock: socket.socket) -> None:
    """Set the options of a connection; or of a listening socket, for those that it accepts."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    set_timeout(sock, socket.SO_SNDTIMEO, SEND_SECONDS)
    set_timeout(sock, socket.SO_RCVTIMEO, IDLE_SECONDS)


class SumHandler(BaseHTTPRequestHandler):
    """A connection: receives, answers each complete request, sends (RFC 9112 §9).

    Replies are put into `due` and sent, all at once, before the handler waits for more bytes. A request that is refused
    while it is still being received closes the connection, because nobody knows where the next one begins.
    """

    received = b""  # all that has come of the current request, and maybe of others, or the beginning of that
    body = b""  # of the current request, if that is a POST
    deadline: Optional[float] = None  # monotonic seconds, while the rest of a request is awaited
    log_reply: Optional[Callable[[int, int], None]] = None  # with the status and the length of the content

    def setup(self) -> None:
        if not HANDS_OPTIONS_ON:
            configure(self.request)
        self.server.handlers.add(self)
        self.due = ""  # replies to send

    def finish(self) -> None:
        self.server.handlers.discard(self)

    def handle(self) -> None:
        """Answer requests until one of the two sides ends the connection."""
        server, increment, log_reply = self.server, self.server.counter.increment, self.log_reply
        receive, send = self.request.recv, self.request.sendall
        answer_for, do_other = self.methods.get, SumHandler.do_other
        buffer, first = self.receive_first(), True
        while buffer:
            while buffer:
                self.received, persistence = buffer, CLOSE
                try:
                    method, self.query, fields, buffer = take_head(buffer) or self.receive_head(buffer)
                    persistence, body_length, expectation, self.media_type = fields
                    increment()
                    if body_length or expectation:
                        self.body, buffer = self.receive_body(body_length, expectation, buffer)
                        if method != "POST":
                            self.body = b""  # so that no idle connection keeps it
                    if server.stopping:
                        persistence = CLOSE
                    status, text = 200, answer_for(method, do_other)(self)
                except OSError:
                    raise
                except Exception as error:
                    method, status, text = self.refuse(error)
                    if status == 500 or self.deadline:
                        persistence = CLOSE
                content = "" if method == "HEAD" else text
                self.due += f"{server.reply_starts[status]}{len(text)}{persistence}{content}"  # RFC 9112 §4
                if log_reply:
                    log_reply(status, len(text))
                if persistence is CLOSE:
                    self.end(unread=buffer)
                    return
            if first:
                server.hand_on()
                first = False
            send(self.due.encode())  # as send_due(), without the call
            self.due = ""
            yield_turn()
            buffer = receive(REQUEST_BYTES)

    def refuse(self, error: Exception) -> tuple[Optional[str], int, str]:
        """The method of a request that ended in an error, maybe in its head, and the status and text of the reply."""
        method = METHODS.get(self.received.lstrip(b"\r\n").partition(b" ")[0])
        if isinstance(error, RequestError):
            return method, error.status, str(error)
        log.exception("A bug in this server: a request could not be answered")
        return method, 500, "This server has a bug; its log says more."

    def end(self, unread: bytes) -> None:
        """Send the last replies, and read on where a client that knows nothing of the end may send more."""
        if len(self.due) > UNREAD_BYTES:
            self.server.hand_on()
        self.send_due()
        if unread or self.deadline or self.server.stopping:
            self.linger()

    def do_GET(self) -> str:
        return sum_text(query_values(self.query))

    do_HEAD = do_GET

    def do_POST(self) -> str:
        body, self.body = self.body, b""  # so that no idle connection keeps it
        if self.media_type != "application/json":
            raise RequestError(400, EXPECTED_JSON)
        return sum_text(json_values(body))

    def do_other(self) -> str:
        raise RequestError(405, "The methods of this server are GET, HEAD and POST.")

    # Bound here: a look-up by name for each request would cost more.
    methods = {"GET": do_GET, "HEAD": do_HEAD, "POST": do_POST}

    def send_due(self) -> None:
        """Send the replies that are due, in one piece."""
        self.request.sendall(self.due.encode())
        self.due = ""

    def receive_first(self) -> bytes:
        """Receive what a client sends first; which has often come with the connection."""
        if AT_ONCE:
            try:
                return self.request.recv(REQUEST_BYTES, AT_ONCE)
            except BlockingIOError:
                pass
        self.server.hand_on()
        return self.request.recv(REQUEST_BYTES)

    def receive_head(self, buffer: bytes) -> Head:
        """Receive the rest of a head."""
        if buffer == b"\r\n":  # some clients end a request so; no request has begun with that alone
            self.server.hand_on()
            self.send_due()
            buffer = self.received = self.request.recv(REQUEST_BYTES)
            if not buffer:
                raise ConnectionError("it sent no other request")
        self.deadline = monotonic() + HEAD_SECONDS
        while not (head := take_head(buffer)):
            buffer += self.receive_more("head")
            self.received = buffer[:REQUEST_LINE_BYTES]  # as an idle connection need not keep all of it
        self.deadline = None
        return head

    def receive_body(self, length: int, expectation: str, buffer: bytes) -> tuple[bytes, bytes]:
        """Receive the current request's body; return it and what came behind it (RFC 9112 §6)."""
        self.received = self.received[:REQUEST_LINE_BYTES]  # as an idle connection need not keep a body
        if length and (expectation or length == CHUNKED or length > len(buffer)):
            self.deadline = monotonic() + BODY_SECONDS
        if expectation and expectation != CONTINUE:
            raise RequestError(417, "The only expectation that this server meets is 100-continue.")
        if length > BODY_BYTES:
            raise RequestError(413, f"The body is longer than {BODY_BYTES} bytes.")
        if expectation and not buffer:
            self.due += INTERIM
        if length == CHUNKED:
            body, rest = decode_chunks(buffer, partial(self.receive_more, "body"))
        else:
            if length > len(buffer):
                received = bytearray(buffer)
                while len(received) < length:
                    received += self.receive_more("body")
                buffer = bytes(received)
            body, rest = (buffer, b"") if length == len(buffer) else (buffer[:length], buffer[length:])
        self.deadline = None
        return body, rest

    def receive_more(self, part: str) -> bytes:
        """Send what is due, then wait for more of a part of a request, until the deadline."""
        self.server.hand_on()
        if self.due:
            self.send_due()
        try:
            seconds = self.deadline - monotonic()
            if seconds <= 0:
                raise socket.timeout
            set_timeout(self.request, socket.SO_RCVTIMEO, seconds)
            data = self.request.recv(RECEIVE_BYTES)
        except TIMED_OUT:
            seconds = HEAD_SECONDS if part == "head" else BODY_SECONDS
            raise RequestError(408, f"The request's {part} took longer than {seconds:.0f} s.") from None
        finally:
            set_timeout(self.request, socket.SO_RCVTIMEO, IDLE_SECONDS)
        if not data:
            if self.server.stopping:
                raise RequestError(503, "The server is stopping.")
            raise RequestError(400, f"The connection ended before the request's {part} did.")
        return data

    def linger(self) -> None:
        """Read on for a while: a close with bytes unread would reset the connection under the reply (RFC 9112 §9.6)."""
        self.request.shutdown(socket.SHUT_WR)
        self.deadline = monotonic() + LINGER_SECONDS
        with contextlib.suppress(RequestError):
            while True:
                self.receive_more("rest")


class LoggingHandler(SumHandler):
    """The handler of `--access-log`: a line on standard error for each reply, as `http.server` writes it."""

    def log_reply(self, status: int, length: int) -> None:
        line = self.received.lstrip(b"\r\n").partition(b"\r\n")[0].translate(None, CONTROLS + b"\r\n")
        self.requestline = line.decode("ascii", "backslashreplace")  # as early 3.9 to 3.11 log all bytes as they are
        self.log_request(status, length)

    def address_string(self) -> str:
        return self.client_address[0].removeprefix("::ffff:")  # IPv4, on a socket for both (RFC 4291 §2.5.5.2)


# ==================================================================================== Part II: a count
# ---------------------------------------------------------------------------------------------- Counter


class StartError(Exception):
    """The program cannot start; one line that says why and what a person can do."""


class Counter:
    """Counts requests in a memory-mapped file, where the kernel keeps the count when the process is killed.

    The file has 16 KiB, in the byte order of the machine:

        0      8 bytes   b"requests"
        8      uint64    version of this layout, 1
        16     16 bytes  identity, which the state file that goes with it has, too
        64*n   uint64    cell n, from 1 to 255: the requests counted by worker n since the file was made

    The cells only ever grow, and each lies in a cache line of its own. A process holds a lock of the operating system
    on each part that it owns: the program on the header, whoever counts on its cell. A kill releases it. The bytes that
    are locked lie behind the file's end, since Windows lets nobody else read a byte that is locked.
    """

    MAGIC, VERSION = b"requests", 1
    SIZE, LINE = 16 * 1024, 64
    STEP = LINE // 8  # from one cell to the next, in numbers
    HEADER = struct.Struct("=8sQ16s")

    def __init__(self, path: str, cell: Optional[int] = 1, *, header: bool = True) -> None:
        """Open the file, or make it, as the owner of its header, of a cell to count in (1 to 255), or of both.

        ":memory:" stands for a count that ends with the process. Raises StartError, OSError.
        """
        self.path = path
        lock = threading.Lock()  # guards the read and the write of one increment of `cell`
        self.acquire, self.release = lock.acquire, lock.release  # `with` takes twice as long
        self.file = -1
        self.new = False
        if path == ":memory:":
            self.map = mmap.mmap(-1, self.SIZE)
        else:
            self.file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o644)
            with contextlib.ExitStack() as on_error:
                on_error.callback(os.close, self.file)
                self.own(0 if header else None, cell)
                self.map = self.open_map()
                on_error.pop_all()
        self.identity = self.map[16:32]
        self.cells = memoryview(self.map).cast("Q")
        offset = (cell or 0) * self.LINE
        number = memoryview(self.map)[offset : offset + 8].cast("Q", ())  # of no dimension, which is the fastest
        self.cell = number if cell else number.toreadonly()

    def own(self, *parts: Optional[int]) -> None:
        """Lock parts of the file. The worker of a program that was killed may still be about to let go of its cell."""
        end = monotonic() + GRACE_SECONDS
        for part in parts:
            while part is not None and not lock_byte(self.file, 2 * self.SIZE + part):
                if part == 0 or monotonic() > end:
                    raise StartError(f"{self.path} is in use by another server; give this one a --state of its own.")
                sleep(0.05)

    def open_map(self) -> mmap.mmap:
        """Check the file, and map it into memory."""
        os.lseek(self.file, 0, os.SEEK_SET)
        content = os.read(self.file, self.SIZE + 1)
        if len(content) <= self.SIZE and not content.strip(b"\0"):
            self.initialize()
        elif len(content) < self.HEADER.size or content[:8] != self.MAGIC:
            raise StartError(f"{self.path} is no counter file; move it away, or give another --state.")
        elif self.HEADER.unpack_from(content)[1] != self.VERSION:
            raise StartError(f"{self.path} is of another version or another kind of machine; give another --state.")
        elif len(content) != self.SIZE:
            raise StartError(f"{self.path} is not {self.SIZE} bytes long; restore it, or move both files away.")
        return mmap.mmap(self.file, self.SIZE)

    def initialize(self) -> None:
        """Make a new file: its blocks first, as a full disk would be fatal under a memory map, its header last."""
        for content in (bytes(self.SIZE), self.HEADER.pack(self.MAGIC, self.VERSION, uuid.uuid4().bytes)):
            os.lseek(self.file, 0, os.SEEK_SET)
            if os.write(self.file, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self.file)
        self.new = True

    def discard(self) -> None:
        """Remove the file if it was made just now, for a state file with which it cannot go."""
        if self.new:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def increment(self) -> None:
        """Count one request. An aligned 8-byte store, so that another process never reads half of it."""
        self.acquire()
        self.cell[()] += 1
        self.release()

    def total(self) -> int:
        """All requests counted, by all workers, since the file was made."""
        return sum(self.cells[self.STEP :: self.STEP])

    def flush(self) -> None:
        """Make the count outlive a power loss: msync()."""
        self.map.flush()

    def close(self) -> None:
        self.cell.release()
        self.cells.release()
        self.map.close()
        if self.file >= 0:
            os.close(self.file)


def lock_byte(file: int, offset: int) -> bool:
    """Lock a byte of a file, which need not exist, until this process closes it; False if another process has it."""
    os.lseek(file, offset, os.SEEK_SET)
    try:
        if os.name == "posix":
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0, os.SEEK_CUR)
        else:
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except OSError:
        return False
    return True


# ----------------------------------------------------------------------------------------------- Outbox

Point = tuple[int, int]  # time in nanoseconds since 1970, requests_number


class Outbox:
    """Keeps the points that InfluxDB has not yet taken, in SQLite.

    requests   the points that wait, each until InfluxDB has acknowledged it
    rejected   the points that InfluxDB rejected for good, and why
    state      one row: the counter's identity, the total of it that is reported in points, and since when the requests
               after that have been counted

    A point and the total that it brings `reported` to are stored in one transaction, so a kill between the two is not
    possible. `journal_mode=WAL` lets a person read the file while the server writes; `synchronous=FULL` syncs each
    commit, so that it survives a power loss.
    """

    APPLICATION_ID = 0x6D617468  # "math"
    VERSION = 1
    SCHEMA = """
        BEGIN;
        CREATE TABLE requests (time INTEGER PRIMARY KEY, requests_number INTEGER NOT NULL);
        CREATE TABLE rejected (time INTEGER PRIMARY KEY, requests_number INTEGER NOT NULL, reason TEXT NOT NULL);
        CREATE TABLE state (counter BLOB NOT NULL, reported INTEGER NOT NULL, since INTEGER NOT NULL);
        PRAGMA application_id = %d;
        PRAGMA user_version = %d;
    """

    def __init__(self, path: str, counter: Counter) -> None:
        """Open the file, or make it. Raises StartError, leaving the file as it is, if it is not for this counter."""
        self.path, self.counter = path, counter
        self.place = "memory" if path == ":memory:" else path  # as a person calls it
        self.lock = threading.RLock()  # guards `database`, and the order of the points
        try:
            self.database = sqlite3.connect(path, check_same_thread=False)
            with contextlib.ExitStack() as on_error:
                on_error.callback(self.database.close)
                if self.is_new():
                    self.initialize()
                self.check()
                self.database.execute("PRAGMA journal_mode = WAL")
                self.database.execute("PRAGMA synchronous = FULL")
                on_error.pop_all()
        except sqlite3.Error as error:
            raise StartError(f"{path}: {error}; repair it, or give another --state.") from None

    def is_new(self) -> bool:
        """Whether there is no database yet. Raises StartError if there is one of somebody else."""
        (tables,) = self.database.execute("SELECT count(*) FROM sqlite_master").fetchone()
        (application_id,) = self.database.execute("PRAGMA application_id").fetchone()
        if tables and application_id != self.APPLICATION_ID:
            raise StartError(f"{self.path} is the database of another program; give another --state.")
        return not tables

    def initialize(self) -> None:
        """Make the tables, in one transaction."""
        if self.counter.total():
            raise StartError(f"{self.path} is missing, {self.counter.path} is not; restore it, or move the other away.")
        self.database.executescript(self.SCHEMA % (self.APPLICATION_ID, self.VERSION))
        self.database.execute("INSERT INTO state VALUES (?, 0, ?)", (self.counter.identity, time_ns()))
        self.database.commit()

    def check(self) -> None:
        """Raise StartError unless this is a sound file of this version that goes with the counter."""
        (version,) = self.database.execute("PRAGMA user_version").fetchone()
        if version != self.VERSION:
            raise StartError(f"{self.path} is of version {version}, not {self.VERSION}; give another --state.")
        (report,) = self.database.execute("PRAGMA quick_check(1)").fetchone()
        state = self.state() if report == "ok" else None
        if not state:
            flaw = "the table state is empty" if report == "ok" else one_line(report)
            raise StartError(f"{self.path} is corrupt ({flaw}); repair it, or give another --state.")
        identity, reported, _ = state
        if self.counter.new and identity != self.counter.identity:
            raise StartError(f"{self.counter.path} is missing, {self.path} is not; restore it, or move the other away.")
        if identity != self.counter.identity or reported > self.counter.total():
            raise StartError(
                f"{self.path} and {self.counter.path} do not belong together; restore both, or move both away."
            )

    def state(self) -> tuple[bytes, int, int]:
        """The counter's identity, the total reported, and the time (ns) since when nothing is reported."""
        return self.database.execute("SELECT counter, reported, since FROM state").fetchone()

    def record(self, now: int) -> int:
        """Make a point of all requests not yet in one, and return their number.

        Its time is now (ns), or just after the point before it if the clock was set back.
        """
        with self.lock:
            total = self.counter.total()
            self.counter.flush()  # first, so that after a power loss the counter is never behind `reported`
            _, reported, since = self.state()
            time = max(now, since + 1)
            with self.database:
                self.database.execute("INSERT INTO requests VALUES (?, ?)", (time, total - reported))
                self.database.execute("UPDATE state SET reported = ?, since = ?", (total, time))
            return total - reported

    def recover(self, interval: int, now: int) -> int:
        """Begin a new run, at the time now (ns): return the number of requests that a killed one left unrecorded.

        They become a point of their own, at the end of the interval (ns) in which they were counted.
        """
        with self.lock:
            _, reported, since = self.state()
            left = self.counter.total() - reported
            if left:
                self.record(min(since + interval, now))
            with self.database:
                self.database.execute("UPDATE state SET since = max(since, ?)", (now,))
            return left

    def oldest(self, limit: int) -> list[Point]:
        """The points that have waited longest, in the order of time."""
        with self.lock:
            query = "SELECT time, requests_number FROM requests ORDER BY time LIMIT ?"
            return self.database.execute(query, (limit,)).fetchall()

    def waiting(self) -> int:
        """How many points wait."""
        with self.lock:
            return self.database.execute("SELECT count(*) FROM requests").fetchone()[0]

    def remove(self, points: list[Point]) -> None:
        """Let go of neighbouring points that InfluxDB has acknowledged."""
        with self.lock, self.database:
            self.database.execute("DELETE FROM requests WHERE time BETWEEN ? AND ?", (points[0][0], points[-1][0]))

    def set_aside(self, points: list[Point], reason: str) -> None:
        """Move neighbouring points that InfluxDB rejected to the table of such."""
        with self.lock, self.database:
            rows = [(*point, reason) for point in points]
            self.database.executemany("INSERT INTO rejected VALUES (?, ?, ?)", rows)
            self.remove(points)  # which commits the two together

    def close(self) -> None:
        with self.lock:
            self.database.close()


# --------------------------------------------------------------------------------------------- InfluxDB


class Destination(NamedTuple):
    """Where the points go."""

    host: str = "localhost"
    port: int = 8086
    username: str = USER
    password: str = PASSWORD
    database: str = DATABASE
    tls: bool = False

    def __str__(self) -> str:
        """All but the password."""
        scheme = "https" if self.tls else "http"
        return f"{scheme}://{uri_host(self.host)}:{self.port}, database {self.database}, user {self.username}"


def parse_dsn(dsn: str) -> Destination:
    """Read a data source name, `[https+]influxdb://[user:password@]host[:port][/database]`.

    The syntax is that of `InfluxDBClient.from_dsn`, but percent-escapes are decoded and IPv6 addresses read. Raises
    ValueError, with a reason in which no part of the DSN stands, as it may hold a password.
    """
    try:
        parts = urlsplit(dsn)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("its host or port cannot be read") from None
    if parts.scheme not in ("influxdb", "https+influxdb"):
        raise ValueError("its scheme is neither influxdb nor https+influxdb")
    if not host:
        raise ValueError("it names no host")
    if "?" in dsn or "#" in dsn or dsn != "".join(dsn.split()):
        raise ValueError("it holds “?”, “#” or a space, which in a password are written as %3F, %23 and %20")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("its port is not a number from 1 to 65535")
    database = unquote(parts.path[1:])
    if "/" in parts.path[1:] or "@" in parts.path:
        raise ValueError("it has more than a database behind the host; in a password, “/” is written as %2F")
    if parts.username is None:
        username, password = USER, PASSWORD
    else:
        username, password = unquote(parts.username), unquote(parts.password or "")
    return Destination(host, port or 8086, username, password, database or DATABASE, parts.scheme.startswith("https"))


class Trouble(Exception):
    """InfluxDB does not take points now; one line that says why and what a person can do. The points are kept."""


class Rejected(Exception):
    """InfluxDB rejects points for good, or takes no batch so large; why, and how many of them it dropped."""

    def __init__(self, reason: str, dropped: Optional[int] = None) -> None:
        super().__init__(reason)
        self.dropped = dropped


class InfluxDB:
    """The database that the points go to, through an `InfluxDBClient` whose every wait is bounded."""

    def __init__(self, destination: Destination, tags: dict[str, str]) -> None:
        """tags are those of each point, beside `request=GETs_per_minute`."""
        self.destination = destination
        self.tags = {"request": "GETs_per_minute", **tags}
        self.client: Any = None

    def connect(self) -> None:
        """Make a client, if there is none that works, and the database, if it is missing. Raises Trouble."""
        try:
            self.client = self.client or self.make_client()
        except Exception as error:  # those of influxdb, requests and urllib3 have no base in common
            raise Trouble(str(self.explain(error))) from error

    def write(self, points: list[Point]) -> None:
        """Write points. Raises Trouble, Rejected.

        A point that is written again, because nobody knows whether it arrived, overwrites itself: same series, same
        time (InfluxDB 1.8, "How does InfluxDB handle duplicate points?").
        """
        rows = [
            {"measurement": "requests", "tags": self.tags, "time": time, "fields": {"requests_number": number}}
            for time, number in points
        ]
        try:
            self.client.write_points(rows, time_precision="n")
        except Exception as error:
            problem = self.explain(error)
            if isinstance(problem, Trouble):
                self.client = None
            raise problem from error

    def make_client(self) -> Any:
        """Make a client and try it by creating the database, which does nothing where there is one."""
        # Imported here because it takes 0.2 s and 20 MB, for which no request has to wait.
        import requests
        from influxdb import InfluxDBClient
        from influxdb.exceptions import InfluxDBClientError

        to = self.destination
        session = requests.Session()
        session.trust_env = not is_loopback(to.host)  # HTTP_PROXY would divert even localhost
        client = InfluxDBClient(
            host=uri_host(to.host),
            port=to.port,
            username=to.username.encode(),
            password=to.password.encode(),
            database=to.database,
            ssl=to.tls,
            verify_ssl=True,
            timeout=INFLUXDB_SECONDS,
            retries=1,  # one try; the next round makes the second
            session=session,
        )
        try:
            client.create_database(to.database)
        except InfluxDBClientError as error:
            if error.code != 403:  # only an administrator may, even if the database is there
                raise
        return client

    def explain(self, error: Exception) -> Exception:
        """Turn what a client raised into Trouble or Rejected (InfluxDB 1.8, "InfluxDB API reference")."""
        if isinstance(error, ImportError):
            install = f"{sys.executable} -m pip install -r requirements.txt"
            return Trouble(f"InfluxDB gets nothing: {error}; “{install}” installs what is missing")
        import requests
        from influxdb.exceptions import InfluxDBClientError, InfluxDBServerError

        to = self.destination
        where = f"InfluxDB at {uri_host(to.host)}:{to.port}"
        if isinstance(error, requests.exceptions.Timeout):
            return Trouble(f"{where} does not answer within {INFLUXDB_SECONDS:.0f} s; see whether influxd is well")
        if isinstance(error, requests.exceptions.SSLError):
            reason = "has no certificate that this machine trusts for that name, or speaks no TLS"
            return Trouble(f"{where} {reason}; where it speaks none, the address begins with influxdb://")
        if isinstance(error, requests.exceptions.ConnectionError):
            return Trouble(f"{where} cannot be reached; start influxd, or give another address with --influx")
        if isinstance(error, InfluxDBServerError):
            error = InfluxDBClientError(*error.args, 500)  # which makes text of the bytes that it is given
        if not isinstance(error, InfluxDBClientError):
            return Trouble(f"{where} cannot be used: {type(error).__name__}: {one_line(error)}")
        message = error_message(error.content)
        if error.code == 500:
            return Trouble(f"{where} has an error of its own: {message or one_line(error.content)}")
        if message and error.code in (400, 413):
            dropped = re.search(r"\bdropped=([0-9]+)", message)
            return Rejected(message, int(dropped[1]) if dropped else None)
        reason = f"{error.code or ''} {message or one_line(error.content)}".strip()
        if error.code == 401:
            mend = f"give the right one in {DSN_VARIABLE} or with --influx"
            return Trouble(f"{where} does not know user {to.username} by this password ({reason}); {mend}")
        if error.code == 403:
            mend = f'CREATE DATABASE "{to.database}", GRANT ALL ON "{to.database}" TO "{to.username}"'
            return Trouble(f"{where} does not let user {to.username} write ({reason}); an administrator can: {mend}")
        if error.code == 404:
            return Trouble(f'{where} has no database ({reason}); an administrator can: CREATE DATABASE "{to.database}"')
        return Trouble(f"{where} refuses ({reason}); see whether another program has that port")


def uri_host(host: str) -> str:
    """A host, by name or address, as it stands in a URL (RFC 3986 §3.2.2)."""
    return f"[{host}]" if ":" in host else host


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, by name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def one_line(text: Any) -> str:
    """The beginning of what `str()` makes of it, in one line."""
    return " ".join(str(text).split())[:300]


def error_message(content: str) -> str:
    """The message in an answer of InfluxDB, `{"error": "…"}`; empty if it is none."""
    try:
        return one_line(json.loads(content)["error"])
    except (ValueError, TypeError, KeyError):
        return ""


# --------------------------------------------------------------------------------------------- Reporter


class Reporter(threading.Thread):
    """The daemon thread that wakes at each interval, records a point in the outbox and delivers what waits there.

    It never dies: what goes wrong in a round is logged, once until it changes, and the next round tries again.
    """

    def __init__(self, outbox: Outbox, influxdb: InfluxDB, interval: float) -> None:
        """interval is in seconds."""
        super().__init__(name="reporter", daemon=True)
        self.outbox, self.influxdb, self.interval = outbox, influxdb, interval
        self.stopping = threading.Event()
        self.recorded = monotonic()  # when the running interval began
        self.trouble = self.rejection = ""  # what was logged last
        self.rejected = 0  # points, since the last was recorded

    def run(self) -> None:
        beat = monotonic() + self.interval
        self.attempt(self.deliver, beat)
        while not self.stopping.wait(beat - monotonic()):
            missed = max(0.0, monotonic() - beat) // self.interval
            beat += self.interval * (1 + missed)  # on the old schedule, without the beats that were missed
            self.attempt(self.report, self.deliver, beat)
        self.attempt(self.deliver, monotonic() + DELIVERY_SECONDS)

    def stop(self) -> None:
        """Record the last, partial interval, and let the thread deliver what waits for DELIVERY_SECONDS at most."""
        self.attempt(self.report, self.finish)
        if not self.stopping.is_set():  # as nothing could be recorded
            self.finish()

    def finish(self) -> None:
        """Make the thread deliver a last time, and wait for it."""
        self.stopping.set()
        self.join(DELIVERY_SECONDS)

    def attempt(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do something, and log what goes wrong."""
        try:
            action(*arguments)
        except sqlite3.ProgrammingError:
            log.debug("The program did not wait any longer: its outbox is closed")
        except sqlite3.Error as error:
            self.log_trouble(f"{self.outbox.place} cannot be used ({error}); requests are still answered and counted")
        except OSError as error:
            self.log_trouble(f"The system lets no points be delivered ({error}). They wait in {self.outbox.place}.")
        except Exception as error:
            if self.log_trouble(f"A bug in this server: {error!r}"):
                log.exception("It came from here:")

    def report(self, deliver: Callable[..., None], *arguments: Any) -> None:
        """Record a point, deliver it, and log how many requests there were and what became of the point."""
        number = self.outbox.record(time_ns())
        now = monotonic()
        seconds, self.recorded = now - self.recorded, now
        self.rejected = 0
        deliver(*arguments)
        waiting = self.outbox.waiting()
        if waiting and self.stopping.is_set() and self.outbox.path == ":memory:":
            fate = f"points lost, as they were in memory only: {waiting}"
        elif waiting:
            fate = f"points waiting in {self.outbox.place}: {waiting}"
        elif self.rejected:
            fate = f"points that InfluxDB rejected: {self.rejected}"
        else:
            fate = "delivered to InfluxDB"
        log.info("%d requests in %.0f s, %.1f per second; %s", number, seconds, number / max(seconds, 0.001), fate)

    def deliver(self, until: float) -> None:
        """Send what waits, oldest first, until nothing does, InfluxDB is in trouble, or until (monotonic seconds)."""
        try:
            self.influxdb.connect()
            while points := self.outbox.oldest(BATCH_POINTS):
                if monotonic() >= until:
                    return
                self.send(points)
        except Trouble as trouble:
            self.log_trouble(f"{trouble}. Points wait in {self.outbox.place}.")
        else:
            if self.trouble:
                log.info("All is well again: InfluxDB takes points.")
            self.trouble = ""

    def send(self, points: list[Point]) -> None:
        """Send neighbouring points; halve what is rejected, until the points that are at fault stand alone."""
        try:
            self.influxdb.write(points)
        except Rejected as rejection:
            reason = str(rejection)
            if len(points) == 1 or rejection.dropped == len(points):
                self.outbox.set_aside(points, reason)
                self.rejected += len(points)
                if reason != self.rejection:
                    place = f"table rejected of {self.outbox.place}"
                    log.warning("InfluxDB rejects points, now kept in %s: %s", place, reason)
                self.rejection = reason
            else:
                middle = len(points) // 2
                self.send(points[:middle])
                self.send(points[middle:])
        else:
            self.outbox.remove(points)

    def log_trouble(self, trouble: str) -> bool:
        """Log what is wrong, unless it was the last thing logged."""
        changed = trouble != self.trouble
        if changed:
            log.warning("%s", trouble)
        self.trouble = trouble
        return changed


# ================================================================================= Part III: the program
# ----------------------------------------------------------------------------------------------- Server


class SumServer(ThreadingHTTPServer):
    """Accepts connections in threads, each of which serves the connection that it accepts, and then accepts the next.

    One of them at a time accepts. It hands that on to another before it waits for its client, so it answers a request
    that came with its connection first. Where each request has a connection of its own, one thread then serves them
    all, and no other has to be woken.
    """

    def __init__(
        self, listener: socket.socket, counter: Counter, handler: type[BaseHTTPRequestHandler] = SumHandler
    ) -> None:
        """listener comes from listen(); other processes may accept from it, too."""
        super().__init__(listener.getsockname(), handler, bind_and_activate=False)
        self.socket.close()
        self.socket, self.address_family = listener, listener.family
        listener.setblocking(True)
        self.counter = counter
        self.renew_date()
        self.stopping = False
        # Single operations of a set and of a list need no lock.
        self.handlers: set[SumHandler] = set()  # of the open connections
        self.idle: list[None] = []  # an item for each thread that waits for a connection
        self.accepting = threading.Lock()  # guards the listening socket; held by the thread that may accept from it
        self.acceptor = 0  # the identity of that thread
        self.threads, self.limit = 0, connection_limit()
        self.lock = threading.Lock()  # guards `threads`
        self.crowded = False  # whether it has been logged

    def start(self) -> None:
        """Accept connections, in threads of their own."""
        self.start_thread()
        threading.Thread(target=self.keep_date, name="date", daemon=True).start()

    def start_thread(self) -> None:
        """Start a thread, so that the next connection finds one, unless one waits already."""
        if self.idle or self.stopping:
            return
        with self.lock:
            try:
                if self.threads == self.limit:
                    raise RuntimeError(f"All {self.limit} threads are busy")
                start_new_thread(self.serve_connections, ())  # a threading.Thread takes 9 KB more for each
                self.threads += 1
            except RuntimeError as error:
                self.log_crowd(str(error))

    def serve_connections(self) -> None:
        """The life of a thread."""
        try:
            while not self.stopping:
                self.idle.append(None)
                if self.acceptor != get_ident():
                    self.accepting.acquire()
                    self.acceptor = get_ident()
                try:
                    request, client_address = self.get_request()
                except OSError as error:
                    self.pause(error)
                    continue
                finally:
                    self.idle.pop()
                self.process_request_thread(request, client_address or ("?", 0))  # macOS knows no address of some
        finally:
            self.hand_on()
            with self.lock:
                self.threads -= 1

    def hand_on(self) -> None:
        """Let another thread accept, if that is up to this one now."""
        if self.acceptor == get_ident():
            self.acceptor = 0
            self.accepting.release()
            self.start_thread()

    def get_request(self) -> tuple[socket.socket, Any]:
        # As socket.accept(), which looks up family and type of each connection in enums, and takes twice as long.
        descriptor, client_address = self.socket._accept()
        return socket.socket(self.address_family, self.socket_type, fileno=descriptor), client_address

    def shutdown_request(self, request: socket.socket) -> None:
        request.close()  # which also tells the client, without another system call

    def pause(self, error: OSError) -> None:
        """Wait a little after an error that does not go away by asking again, such as too many open files."""
        if not (self.stopping or isinstance(error, (BlockingIOError, ConnectionError))):
            sleep(RETRY_SECONDS)
            if not self.stopping and error.errno != errno.EINVAL:  # as then another worker has shut the socket down
                self.log_crowd(f"No connection can be accepted now ({error})")

    def keep_date(self) -> None:
        """At the beginning of each second renew the date, and start the thread that could not be started before."""
        while not self.stopping:
            sleep(1 - time() % 1)
            self.renew_date()
            self.start_thread()

    def renew_date(self) -> None:
        """Make the beginning of a reply, with its Date (RFC 9110 §6.6.1), for each status; it is good for a second."""
        date = formatdate(time(), usegmt=True)
        self.reply_starts = {status: REPLY_START % (line, date) for status, line in STATUS_LINE.items()}

    def log_crowd(self, reason: str) -> None:
        """Log why connections have to wait, once."""
        if not self.crowded:
            log.warning("%s; new connections wait in the listen backlog", reason)
        self.crowded = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up, or keeps the server waiting, is ordinary life; anything else is a bug."""
        error = sys.exc_info()[1]
        if isinstance(error, TIMED_OUT):
            log.debug("%s sent nothing, or read nothing, for too long", client_address[0])
        elif isinstance(error, OSError):
            log.debug("%s hung up: %s", client_address[0], error)
        else:
            log.exception("A bug in this server: a connection could not be served")

    def stop(self) -> None:
        """Serve the connections that have come, accept no more, and end each when it is answered.

        A handler that waits for a new request is woken by shutting its socket down for reading; after GRACE_SECONDS,
        one that waits for the rest of a request, too.
        """
        end = monotonic() + BACKLOG_SECONDS
        while select([self.socket], [], [], 0)[0] and monotonic() < end:
            sleep(0.001)  # for the thread that accepts
        self.stopping = True
        shut_down(self.socket, socket.SHUT_RDWR)  # which wakes that thread
        self.server_close()
        late = monotonic() + GRACE_SECONDS
        while self.threads > len(self.idle) and monotonic() < late + 0.2:  # for the replies to what came too late
            for handler in list(self.handlers):
                if not handler.deadline or monotonic() > late:
                    shut_down(handler.request, socket.SHUT_RD)
            sleep(0.02)
        for handler in list(self.handlers):
            shut_down(handler.request, socket.SHUT_RDWR)


def shut_down(sock: socket.socket, how: int) -> None:
    """Shut a socket down, if the client or its handler has not done so first."""
    with contextlib.suppress(OSError):
        sock.shutdown(how)


def connection_limit() -> int:
    """How many connections may be open: CONNECTIONS, or fewer where the system does not allow so many files."""
    if os.name != "posix":
        return CONNECTIONS
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS + 64  # the rest are for the program itself
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return max(1, min(CONNECTIONS, soft - 64))
    return CONNECTIONS


def reason_of(error: Exception) -> str:
    """What an error says, without its number and the file."""
    return getattr(error, "strerror", None) or str(error)


def listen(address: Optional[str], port: int) -> socket.socket:
    """Make the listening socket, on one address or, where that is None, on all of IPv4 and IPv6. Raises StartError."""
    try:
        if address is None and socket.has_dualstack_ipv6():
            listener = socket.create_server(("", port), family=socket.AF_INET6, backlog=BACKLOG, dualstack_ipv6=True)
        else:
            resolved = socket.getaddrinfo(address or "0.0.0.0", port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, _, _, _, sockaddr = resolved[0]
            listener = socket.create_server(sockaddr, family=family, backlog=BACKLOG)
    except (OSError, UnicodeError) as error:  # the latter of a name that is none
        reason = reason_of(error).partition(" (while")[0]
        where = f"{address or 'any address'}, port {port}"
        taken = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        mend = "--port or --bind" if taken else "--bind, an address of this machine"
        raise StartError(f"cannot listen on {where}: {reason}; give another {mend}") from None
    if HANDS_OPTIONS_ON:
        configure(listener)
    return listener


def pin(slot: int) -> None:
    """Keep this thread and those it starts on one CPU, so that handing the GIL to the next costs next to nothing.

    `SCHED_BATCH` keeps a thread that wakes from pushing aside the one that has the GIL. Both are Linux's; where they
    are missing or forbidden, the scheduler does as it likes. Slots share the CPUs evenly.
    """
    if GIL and hasattr(os, "sched_setaffinity"):
        with contextlib.suppress(OSError):
            allowed = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {allowed[slot % len(allowed)]})
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


# ---------------------------------------------------------------------------------------------- Workers


# Ctrl-C, kill and systemd, Windows' Ctrl-Break
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name)]


class Workers:
    """Several processes that accept from one listening socket, each with a CPU and a cell of the counter to itself."""

    def __init__(self, listener: socket.socket, counter: Counter, options: argparse.Namespace) -> None:
        from multiprocessing import get_context  # only here, as one process has no need of it

        self.context = get_context("spawn")  # on every system, and without a copy of this process's threads
        self.listener, self.counter, self.options = listener, counter, options
        self.processes: dict[int, Any] = {}
        self.pipes: dict[int, Any] = {}  # what is said into one is the order to stop; its end, that this process died
        self.stopping = threading.Event()

    def start(self) -> None:
        for number in range(1, self.options.workers + 1):
            self.spawn(number)
        threading.Thread(target=self.replace_dead, name="workers", daemon=True).start()

    def spawn(self, number: int) -> None:
        """Start worker number (1 to WORKERS). Raises OSError."""
        far, self.pipes[number] = self.context.Pipe(duplex=False)
        arguments = (number, self.listener, self.counter.path, self.options, far)
        process = self.context.Process(target=work, args=arguments, name=f"worker {number}", daemon=True)
        with far, stop_signals_blocked():  # which the worker inherits, and so is not killed before it ignores them
            process.start()
        self.processes[number] = process

    def replace_dead(self) -> None:
        """Start a new worker for each that dies, until the program stops."""
        from multiprocessing.connection import wait

        told: set[int] = set()  # the pids of the dead that have been logged
        while not self.stopping.is_set():
            wait([process.sentinel for process in self.processes.values()], timeout=0.5)
            for number, process in list(self.processes.items()):
                if process.exitcode is None or self.stopping.wait(RESPAWN_SECONDS):
                    continue
                if process.pid not in told:
                    log.warning("Worker %d died (exit code %d); another takes its place", number, process.exitcode)
                self.pipes[number].close()
                try:
                    self.spawn(number)
                except (OSError, ValueError) as error:  # the latter if the program stops just now
                    if process.pid not in told and not self.stopping.is_set():
                        log.warning("Worker %d cannot be started (%s); it is tried again and again", number, error)
                told.add(process.pid)

    def stop(self) -> None:
        """Let every worker stop as a single server does; kill what has not ended by then."""
        self.stopping.set()
        self.listener.close()
        for pipe in self.pipes.values():
            with contextlib.suppress(OSError):
                pipe.send_bytes(b"stop")
        end = monotonic() + GRACE_SECONDS + 1.0
        for process in list(self.processes.values()):
            process.join(max(0.0, end - monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Let signals wait for as long as this lasts, where the system can."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    from multiprocessing import resource_tracker

    resource_tracker.ensure_running()  # as it unblocks the signals when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def work(number: int, listener: socket.socket, path: str, options: argparse.Namespace, pipe: Any) -> None:
    """The life of a worker process."""
    for signum in STOP_SIGNALS:  # Ctrl-C and systemd tell all processes; a worker's order to stop comes by the pipe
        signal.signal(signum, signal.SIG_IGN)
    configure_logging(options)
    server = make_server(listener, Counter(path, number, header=False), options, number)
    server.start()
    try:
        pipe.recv_bytes()
    except EOFError:
        os._exit(1)  # the program was killed; it cannot count on anybody who goes on
    server.stop()


# ----------------------------------------------------------------------------------------- Command line

EXAMPLES = """\
examples:
  python webserver_influx.py
      serve on port 8008, send statistics to the InfluxDB on this machine
  curl -G -d a=3 -d b=3 http://localhost:8008
      Sum: 6.0
  curl -H 'Content-Type: application/json' -d '{"a": 3, "b": 3}' http://localhost:8008
      Sum: 6.0
  python webserver_influx.py --influx influxdb://math_server:math_server1@db.example.org:8086/math_server
      send them to the InfluxDB of another machine
"""


def whole_number(text: str, low: int, high: int, more: str = "") -> int:
    if not re.fullmatch("[0-9]{1,5}", text) or not low <= int(text) <= high:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from {low} to {high}{more}")
    return int(text)


def port_number(text: str) -> int:
    return whole_number(text, 0, 65535)


def positive_seconds(text: str) -> float:
    seconds = numbers([text])
    if not seconds or not 0.001 <= seconds[0] <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.001 up")
    return seconds[0]


def file_name(text: str) -> str:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError("a file has a name")
    return text


def worker_count(text: str) -> int:
    if text == "auto":
        cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        return min(cpus or 1, WORKERS)
    return whole_number(text, 1, WORKERS, ", or auto")


def tag(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key or not value or "\\" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, without a backslash and in one line")
    if key in ("request", "time") or key.startswith("_"):
        raise argparse.ArgumentTypeError(f"{key!r} is a key of the server or of InfluxDB itself")
    return key, value


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that does not repeat a password in what it says of bad usage."""

    def error(self, message: str) -> Any:
        super().error(re.sub(r"(?s)influxdb://.*", "influxdb://…", message))


def parse_arguments(argv: Optional[list[str]]) -> argparse.Namespace:
    """Read the command line; bad usage ends the program with status 2."""
    parser = Parser(
        prog="webserver_influx.py",
        description="Adds up numbers over HTTP, counts the requests, and reports how many to InfluxDB 1.8.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--bind", metavar="ADDRESS", help="the address to listen on (default: all, IPv4 and IPv6)")
    about = f"the port; 0 takes a free one (default: {PORT})"
    add("--port", metavar="N", type=port_number, default=PORT, help=about)
    about = f"""where statistics go: [https+]influxdb://user:password@host:port/database (default: {DSN_VARIABLE} in the
        environment, where ps does not show a password; else database {DATABASE} of user {USER} at localhost:8086)"""
    add("--influx", metavar="DSN", help=about)
    about = f"the time between two points (default: {INTERVAL_SECONDS:.0f})"
    add("--interval", metavar="SECONDS", type=positive_seconds, default=INTERVAL_SECONDS, help=about)
    about = "a further tag of each point, so that servers can share a database; may be repeated (default: none)"
    add("--tag", metavar="KEY=VALUE", type=tag, action="append", default=[], help=about)
    about = f"""where points wait for InfluxDB; FILE-count beside it holds the counter. :memory: stands for no file:
        what is not delivered when the program ends, or is killed, is lost (default: {STATE_FILE})"""
    add("--state", metavar="FILE", type=file_name, default=STATE_FILE, help=about)
    about = "processes, or auto: one for each CPU (default: 1)"
    add("--workers", metavar="N", type=worker_count, default=1, help=about)
    add("--no-pin", action="store_true", help="let the system place the program (default: a CPU a process)")
    add("--access-log", action="store_true", help="log each request, at the cost of speed (default: off)")
    add("--verbose", action="store_true", help="log what only a developer wants to know, too (default: off)")
    add("--version", action="version", version=f"%(prog)s {__version__}")
    options = parser.parse_args(argv)
    options.tags = dict(options.tag)
    if len(options.tags) != len(options.tag):
        parser.error("argument --tag: a key is given twice")
    source, dsn = "argument --influx", options.influx
    if dsn is None:
        source, dsn = DSN_VARIABLE, os.environ.get(DSN_VARIABLE)
    try:
        options.destination = Destination() if dsn is None else parse_dsn(dsn)
    except ValueError as error:
        parser.error(f"{source}: {error}; the form of a data source name is in --help")
    return options


def configure_logging(options: argparse.Namespace) -> None:
    """Log to standard error, in local time."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    log.setLevel(logging.DEBUG if options.verbose else logging.INFO)


def make_server(listener: socket.socket, counter: Counter, options: argparse.Namespace, worker: int) -> SumServer:
    """Make the server of this process, and the process ready for it."""
    if not options.no_pin:
        pin(listener.getsockname()[1] + worker)
    sys.setswitchinterval(SWITCH_SECONDS)
    threading.stack_size(STACK_BYTES)  # of the threads that come from now on
    return SumServer(listener, counter, LoggingHandler if options.access_log else SumHandler)


def catch_signals() -> socket.socket:
    """Return a socket that has something to read once Ctrl-C or SIGTERM has asked to stop; a second one is obeyed here.

    The byte comes from C (`set_wakeup_fd`), so that a signal between two system calls is not overlooked.
    """
    readable, writable = socket.socketpair()
    writable.setblocking(False)
    asked = False

    def ask(*signal_and_frame: Any) -> None:
        nonlocal asked
        if asked:
            os._exit(130)
        asked = True

    for signum in STOP_SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as it is in the background of a script
            signal.signal(signum, ask)
    signal.set_wakeup_fd(writable.detach(), warn_on_full_buffer=False)  # open for as long as the process is
    return readable


def run(options: argparse.Namespace, stop_asked: socket.socket) -> None:
    """Serve until there is something to read from stop_asked. Raises StartError, OSError."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(options.bind, options.port))
        count_file = f"{options.state}-count"
        if options.state == ":memory:":
            count_file = ":memory:"
            if options.workers > 1:  # which share the count through a file
                count_file = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "count")
        try:
            counter = stack.enter_context(contextlib.closing(Counter(count_file, 1 if options.workers == 1 else None)))
            try:
                outbox = stack.enter_context(contextlib.closing(Outbox(options.state, counter)))
            except StartError:
                counter.discard()
                raise
            recovered = outbox.recover(round(options.interval * 1e9), time_ns())
        except (OSError, sqlite3.Error) as error:
            raise StartError(f"{options.state}: {reason_of(error)}; give another --state") from None
        if recovered:
            log.info("The server was killed when it ran last; %d requests it had counted are now in a point", recovered)
        reporter = Reporter(outbox, InfluxDB(options.destination, options.tags), options.interval)
        reporter.start()
        if options.workers > 1:
            service: Any = Workers(listener, counter, options)
        else:
            service = make_server(listener, counter, options, 0)
        service.start()
        announce(listener, options, outbox.place)
        stop_asked.recv(1)
        service.stop()
        reporter.stop()


def announce(listener: socket.socket, options: argparse.Namespace, place: str) -> None:
    """Print where the server is and where statistics go."""
    host, port = listener.getsockname()[:2]
    where = "localhost" if options.bind is None else uri_host(host)
    print(
        f"Serving on http://{where}:{port}{' and all other addresses' if options.bind is None else ''}; Ctrl-C stops.\n"
        f"Every {options.interval:g} s statistics go to {options.destination}; until then they are in {place}.",
        flush=True,
    )


def main(argv: Optional[list[str]] = None) -> int:
    """Run the program; return its exit status: 0, or 1 if it could not start. A second Ctrl-C ends it with 130."""
    options = parse_arguments(argv)
    configure_logging(options)
    try:
        run(options, catch_signals())
    except StartError as error:
        reason = str(error)
    except OSError as error:
        reason = reason_of(error)
    else:
        return 0
    print(f"webserver_influx.py: error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
