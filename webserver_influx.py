# /// script
# requires-python = ">=3.9"
# dependencies = ["influxdb==5.3.2"]
# ///
"""An HTTP server that adds up numbers, counts its requests and tells InfluxDB how many came each minute.

Two things travel through this file, and it is laid out in the order in which they travel:

    bytes   -> Head -> body -> numbers -> sum -> reply -> bytes   (Part I, a request)
    request -> Counter -> point -> Outbox -> InfluxDB             (Part II, a count)

The one bridge between them is `counter.increment()`. Nothing in Part I knows that InfluxDB, sockets, clocks or threads
exist; nothing in Part II knows what a request is; Part III makes a program of both.

It promises that every request with a valid head is counted once, before its reply is sent, and that no kill, restart
or outage of InfluxDB loses or doubles a count. A power cut may lose what was counted since the last point, and nobody
knows whether the client read the reply.
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
from collections.abc import Generator, Iterable, Iterator
from email.utils import formatdate
from functools import lru_cache, partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase, BytesIO, TextIOWrapper
from itertools import accumulate
from math import ceil, frexp, fsum, inf, isfinite, nan
from operator import add, methodcaller, sub
from queue import SimpleQueue
from time import localtime, monotonic, process_time, sleep, strftime, time, time_ns
from typing import Any, Callable, NamedTuple, NoReturn, Optional
from urllib.parse import quote, unquote, unquote_plus, urlsplit

__version__ = "1.0.0"

log = logging.getLogger("webserver_influx")

# ------------------------------------------------------------------------------------------ Limits and defaults

PORT = 8008
INTERVAL_SECONDS = 60.0
STATE_FILE = "math_server.db"
VARIABLE = "WEBSERVER_INFLUX_"  # begins each environment variable, the name of its option follows; but for --influx
DSN_VARIABLE = f"{VARIABLE}DSN"
DATABASE = USER = "math_server"
PASSWORD = "math_server1"

REQUEST_LINE_BYTES = 8 * 1024  # RFC 9112 §3 asks for 8,000 at least
HEAD_BYTES = 64 * 1024  # request line and field section; eight times what Apache takes for one field
FIELD_LINES = 100  # as Apache, and Python's http.client
BODY_BYTES = 1024 * 1024  # nginx's client_max_body_size
CHUNK_LINE_BYTES = 1024  # of a chunk's line (6 digits are enough, the rest is for extensions) or a trailer
CHUNK_GRANT_BYTES = 16  # what surrounds a chunk's data may be as long as this and twice the data, as in Go's net/http;
CHUNK_EXCESS_BYTES = 16 * 1024  # what is longer may add up to this in a body
JSON_NESTING = 100  # arrays and objects; a tenth of the depth to which Python's json goes
REMEMBERED = 512  # sections, lines and meanings of fields, of REMEMBERED_BYTES each: with their values 12 MiB at worst
REMEMBERED_BYTES = 4 * 1024  # as long as a cookie may be

IDLE_SECONDS = 75.0  # between two requests; nginx's keepalive_timeout
HEAD_SECONDS = 10.0  # from a head's first byte to its last
BODY_SECONDS = 30.0  # from the end of the head to the end of the body
SEND_SECONDS = 30.0  # for a client to take all replies that are due
LINGER_SECONDS = 5.0  # time to drain a refused client's input; nginx's lingering_timeout

LIGHT_BYTES = 4 * 1024  # received at once, a millisecond's work at most; what is more takes turns
LIGHT_QUERY_BYTES = 1024  # of a query that is added up at once, as long a work; a longer one takes a turn
TURN_BYTES = 16 * 1024  # received in a turn: a few milliseconds' work
TURN_VALUES = 16 * 1024  # of a JSON object, looked at in a turn
QUIET_SECONDS = 0.001  # without a request from anybody else, after which a turn may come earlier
TURN_REST = 4  # a turn is followed by this many times its length for everybody else
GARBAGE_OBJECTS = 100_000  # between two collections; with 700, the default, a MiB of brackets takes 150 ms, not 30
CONNECTIONS = 500 if sys.platform == "win32" else sys.maxsize  # in a thread; select() takes 512, some of them its own
BACKLOG = 4096  # connections the kernel may hold for us; Linux's own upper limit since 5.4
ACCEPT_AT_ONCE = 64  # connections, before those that are open are served again
PAUSE_SECONDS = 0.1  # until what has just failed is tried again; or for a thread or process that is about to end
YIELD_SECONDS = 0.001  # a thread that is ahead leaves accepting to others for this long
UNEVEN_CONNECTIONS = 4  # it is ahead with so many more connections than the one with the fewest;
CHANCES = 10  # it leaves accepting that often to one that takes none: a frozen process would slow down all
BURST_CONNECTIONS = 64  # up to this many of the running second count though they are closed; more would cost a fifth

REPEAT_SECONDS = 0.3  # a signal within this time is the first one again: `timeout` and wrappers send it twice
STOP_SECONDS = 7.0  # at shutdown, for all but the log; it stays below the 10 s after which Docker kills
BACKLOG_SECONDS = 0.5  # at shutdown, for connections that wait to be accepted
GRACE_SECONDS = 3.0  # at shutdown, for requests in flight; one more for workers to end
LOCK_SECONDS = 3.0  # at a start, for the workers of a killed program to let go of their cells
HURRY_SECONDS = 0.02  # at shutdown, between two looks at what may end
LAST_WORDS_SECONDS = 0.2  # at shutdown, for a client to take its last reply
CONNECT_SECONDS = 5.0  # time-out for a connection to each address of InfluxDB
RESPONSE_SECONDS = 12.0  # time-out for each part of its response; InfluxDB gives up a write after 10 s, and says so
CONTENT_SECONDS = 60.0  # time-out for the content of a response
CONTENT_BYTES = 1024 * 1024  # most content that is read; a response that quotes a batch has 100 kB
RETRY_SECONDS = 1.0  # pause after a delivery that failed; twice as long each time, up to the interval
SLOW_SECONDS = 15.0  # a request to InfluxDB that takes longer is logged
BATCH_POINTS = 1000  # in one write to InfluxDB, some 60 kB
CLOCK_STEP_SECONDS = 1.0  # a busy machine may let as long pass between two looks at two clocks
LOCKED_SECONDS = 1.0  # for another program to let go of the state file
SECOND, MILLISECOND = 1_000_000_000, 1_000_000  # in nanoseconds, the unit of a point's time
PROBE_BYTES = 64 * 1024  # to be written to a file that nobody sees, to learn why SQLite could not write
CELLS = 255  # of the counter file, one for each serving thread of every worker
WORKER_SECONDS = 10.0  # at a start, for one more of the workers to serve
RESPAWN_SECONDS = 1.0  # until a worker is replaced; twice as long after each try, until one has served for
RESPAWN_LONGEST_SECONDS = 60.0  # so long, which is also the longest pause

LOOK_SECONDS = 0.1  # from the start of a second, when all threads publish their CPU time, to the look at it
SPARKS = 200  # seconds in the live line's curve, at most
BLOCKS = "▁▂▃▄▅▆▇█"
SHORT_SECONDS = 0.5  # less, as at the end, is no second to tell a rate of
LOAD_BITS = 1  # a second with less than a half (to a quarter) of the most requests is at the edge of a load, or in none
FULL_SHARE, SPARE_SHARE = 0.9, 0.7  # of the CPUs that the server may use: from which it used them up, or had some left
IDLE_SHARE = 0.05  # of the machine's CPUs: below that, all of them were busy
VERDICT_SECONDS = 3.0  # of load, without which nothing is said of its limit

LOGGED_BYTES = 4000  # of a request line in the access log; goaccess, and a piece of output, take a line of 4 KiB
OUTPUT_BYTES = 8 * 1024 * 1024  # that wait for standard output or error: what a busy access log brings in a second
OUTPUT_PIECE_BYTES = 4096  # in one write: what a pipe keeps together when several processes write to it (PIPE_BUF)
OUTPUT_REST_SECONDS = 0.01  # between two looks at what waits; a busy log wakes its thread a hundred times a second
OUTPUT_SECONDS = 1.0  # at the end, for it to take what waits

# ------------------------------------------------------------------------------------------------- Errors and words


class StartError(Exception):
    """The program cannot start; one line that says why and what a person can do."""


def one_line(text: object) -> str:
    """The beginning of what `str()` makes of it, in one line, without what a terminal would take for an order."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]", "?", " ".join(str(text).split())[:300])


# What to look at, where an error of the system can mean one thing only.
HINTS = {
    errno.EMFILE: "ulimit -n",
    errno.EAGAIN: "a limit of processes: ulimit -u, or pids.max of a container",
    errno.ENOLCK: "this file system has none; keep the state on a local disk",
    errno.ENODEV: "this file system cannot map files into memory; keep the state on a local disk",
}


def reason_of(error: Exception) -> str:
    """Return what an error says, without its number and the file, and what to look at."""
    reason = getattr(error, "strerror", None) or str(error) or "not enough memory"
    hint = HINTS.get(getattr(error, "errno", 0))
    return f"{reason} ({hint})" if hint else reason


def counted(number: int, noun: str) -> str:
    """A number of things: `1 request`, `74,012 requests`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def duration(seconds: float) -> str:
    """A time span: `60 s`, `0.3 s`."""
    return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1g} s"


def per_second(rate: float) -> str:
    """A rate, to a digit that can be known: `12,340/s`, `0.3/s`."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}".removesuffix(".0") + "/s"


def uri_host(host: str) -> str:
    """A host, by name or address, as it stands in a URL (RFC 3986 §3.2.2)."""
    return f"[{host}]" if ":" in host else host


class Once:
    """Logs each kind of trouble once, until all is well again."""

    def __init__(self) -> None:
        self.kinds: set[str] = set()

    def warn(self, message: str) -> bool:
        """Log a warning, if no other of its kind was logged since all was well; return whether it was."""
        kind = kind_of(message)
        is_new = kind not in self.kinds
        if is_new:
            self.kinds.add(kind)
            log.warning("%s", message)
        return is_new

    def well(self) -> bool:
        """Forget the trouble; return whether there was any."""
        had_trouble = bool(self.kinds)
        self.kinds.clear()
        return had_trouble


def kind_of(message: str) -> str:
    """Return what repeats of the same trouble have in common: the first words of a message that contain no digits."""
    return " ".join([word for word in message.split() if not re.search(r"\d", word)][:25])


# ==================================================================================== Part I: a request
# ---------------------------------------------------------------------------------------------- Grammar

# In the order of the RFCs; all of it is compiled once, for bytes, and used with fullmatch(), but for one pattern.

# RFC 9110 §5.6.2   token = 1*tchar
TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"

# RFC 9110 §5.6.3   OWS = *( SP / HTAB ), BWS = OWS
OWS = BWS = r"[\t ]*"

# RFC 9110 §5.5     field-value = *field-content; VCHAR, obs-text, SP and HTAB, but no CR, LF or NUL
FIELD_VALUE = r"[\t\x20-\x7e\x80-\xff]*"

# RFC 9112 §5       field-line = field-name ":" OWS field-value OWS
FIELD_LINE = TOKEN + ":" + FIELD_VALUE

# RFC 9110 §5.6.4   quoted-string = DQUOTE *( qdtext / quoted-pair ) DQUOTE
QUOTED_STRING = r'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t\x20-\x7e\x80-\xff])*"'

# RFC 9110 §8.3.1   media-type = type "/" subtype parameters, parameters = *( OWS ";" OWS [ parameter ] )
PARAMETER = rf"{TOKEN}=(?:{TOKEN}|{QUOTED_STRING})"
MEDIA_TYPE = rf"({TOKEN}/{TOKEN})(?:{OWS};(?:{OWS}{PARAMETER})?)*"

# RFC 3986 §3.2     uri-host [ ":" port ]; the host may be empty. check_host() reads what is in brackets.
REG_NAME = r"[A-Za-z0-9\-._~!$&'()*+,;=]*(?:%[0-9A-Fa-f]{2}[A-Za-z0-9\-._~!$&'()*+,;=]*)*"
HOST = r"(?:\[[0-9A-Fa-f:.]*\]|" + REG_NAME + ")"
AUTHORITY = HOST + "(?::[0-9]*)?"

# RFC 9112 §3.2     method SP request-target in the other three forms: absolute-form, asterisk-form, authority-form;
#                   the last two go with one method each, and none allows an empty host (RFC 9110 §4.2.1); CONNECT
#                   takes no other form, and a port always (RFC 9110 §9.3.6)
ABSOLUTE_FORM = rf"[A-Za-z][A-Za-z0-9+\-.]*://(?=[^/?:]){AUTHORITY}(?:[/?].*)?"
OTHER_TARGET = rf"(?!CONNECT ).+ {ABSOLUTE_FORM}|OPTIONS \*|CONNECT (?=[^:]){HOST}:[0-9]+"

# RFC 9112 §2.3     HTTP-version = HTTP-name "/" DIGIT "." DIGIT
VERSION = r"HTTP/[0-9]\.[0-9]"

# RFC 9112 §7.1     chunk-size [ chunk-ext ] CRLF, chunk-ext = *( BWS ";" BWS token [ BWS "=" BWS value ] )
#                   and before it the CRLF behind the data of the chunk before
CHUNK_EXT = rf"{BWS};{BWS}{TOKEN}(?:{BWS}={BWS}(?:{TOKEN}|{QUOTED_STRING}))?"
CHUNK_START = rf"\r\n([0-9A-Fa-f]+)(?:{CHUNK_EXT})*\r\n"


def matcher(grammar: str) -> Callable[[bytes], Optional[re.Match[bytes]]]:
    return re.compile(grammar.encode()).fullmatch


is_method, is_field_line, is_host, is_decimal = map(matcher, (TOKEN, FIELD_LINE, AUTHORITY, "[0-9]+"))
is_other_target, is_version, match_media_type = map(matcher, (OTHER_TARGET, VERSION, MEDIA_TYPE))
is_trailer_line = matcher(FIELD_LINE + "\r\n")
match_chunk_start = re.compile(CHUNK_START.encode()).match  # where it stands: to copy each chunk out would be slow

HEAD_END = b"\r\n\r\n"
CONTROLS = bytes({*range(0x20), 0x7F} - set(b"\t\r\n"))  # which no head holds (RFC 9110 §5.5)
# Browsers send visible characters that RFC 3986 would encode, but never a fragment. All others become blanks.
VISIBLE = bytes(byte if 0x21 <= byte <= 0x7E and byte != ord("#") else 0x20 for byte in range(256))
PERCENT, PLUS = b"%+"  # as integers, which `in` finds ten times as fast as bytes: this saves 0.3 of a GET's 7 µs


# ------------------------------------------------------------------------------------------------- Head


class RequestError(Exception):
    """A request that is refused: the status code (RFC 9110 §15) and one line of text that says why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


# The end of a reply's head; which one says whether the connection persists (RFC 9112 §9.3, §9.6).
KEEP_ALIVE = "\r\n\r\n"  # persistence needs no word in HTTP/1.1
KEEP_ALIVE_1_0 = "\r\nConnection: keep-alive\r\n\r\n"
CLOSE = "\r\nConnection: close\r\n\r\n"

CHUNKED = -1  # as a body's length: unknown before its last chunk
METHODS = {name.encode(): name for name in ("GET", "HEAD", "POST")}
VERSIONS = frozenset(b"HTTP/1.%d" % minor for minor in range(10))  # 1.2 and later are read as 1.1 (RFC 9110 §2.5)
IDENTITY = b"identity"
FIELDS_READ = {
    *(b"host", b"connection", b"expect"),
    *(b"content-length", b"transfer-encoding", b"content-type", b"content-encoding"),
}

# What the fields of a head mean. Plain tuples, here and below, because nothing is faster to unpack.
#   str    the end of the reply's head: KEEP_ALIVE, KEEP_ALIVE_1_0 or CLOSE
#   int    the body's length in octets, or CHUNKED
#   bytes  the expectation in lower case, or empty
#   tuple  the data type of the content, in lower case (RFC 9110 §8.1): the media type without parameters, and the
#          content codings; each may be empty
DataType = tuple[bytes, bytes]
Fields = tuple[str, int, bytes, DataType]

Head = tuple[str, bytes, Fields, bytes]  # method, query, fields; and the bytes behind the head


class Cache(dict[bytes, Any]):
    """What bytes mean that clients repeat in every request; it depends on these bytes alone."""

    __slots__ = ()

    def keep(self, key: bytes, value: Any) -> None:
        """Keep a value, unless its key is long; with REMEMBERED of them, begin anew."""
        if len(key) <= REMEMBERED_BYTES:
            if len(self) >= REMEMBERED:
                self.clear()
            self[key] = value


class ReadThroughCache(Cache):
    """Finds out by itself what it is asked for and does not hold."""

    __slots__ = ("read",)

    def __init__(self, read: Callable[[bytes], Any]) -> None:
        super().__init__()
        self.read = read

    def __missing__(self, key: bytes) -> Any:
        value = self.read(key)
        self.keep(key, value)
        return value


known_sections = Cache()  # all between the request-target and the end of the head -> Fields


def take_head(buffer: bytes) -> Optional[Head]:
    """Take a request's head out of the bytes received: return it and what is left, or None for "need more".

    Raises RequestError as soon as a complete line, or a control character, shows that this is no head that this server
    reads (RFC 9112 §2.2, §3).
    """
    if len(buffer) > REQUEST_LINE_BYTES:
        refuse_long(buffer.partition(HEAD_END)[0].strip(b"\r\n"))
    try:
        method, target, behind = buffer.split(b" ", 2)
    except ValueError:
        refuse_fragment(buffer)
        return None
    try:
        name = METHODS[method]
    except KeyError:
        if method.startswith(b"\r\n") and is_method(method[2:]):  # one empty line is ignored (RFC 9112 §2.2)
            return take_head(buffer[2:])
        if not is_method(method):
            refuse_fragment(method)
            raise RequestError(400, "The method is not a token.") from None
        name = method.decode()
        if name == "CONNECT":
            check_other_target(method, target)
    section, end, rest = behind.partition(HEAD_END)
    fields = known_sections.get(section) if end else None
    if fields is None:
        if not end:
            refuse_controls(buffer)
            section = section.rpartition(b"\r\n")[0]  # the lines that are complete
            if not section and b"\n" not in target:
                return None
        fields = read_section(section, whole=bool(end))
    if target.translate(VISIBLE) != target:
        raise RequestError(400, "The request-target holds a character that is not visible ASCII, or #.")
    if target[:1] != b"/":
        check_other_target(method, target)
    return None if fields is None else (name, target.partition(b"?")[2], fields, rest)


def check_other_target(method: bytes, target: bytes) -> None:
    """Raise RequestError unless a request-target has one of the forms that its method allows (RFC 9112 §3.2)."""
    if not is_other_target(method + b" " + target):
        form = "host:port" if method == b"CONNECT" else "a path or an absolute URI"
        raise RequestError(400, f"The request-target is not {form}.")


def refuse_long(head: bytes) -> None:
    """Raise RequestError if a head, whole or in part, is longer than this server reads (RFC 9112 §3, RFC 6585 §5)."""
    if len(head.partition(b"\r\n")[0]) > REQUEST_LINE_BYTES:
        raise RequestError(414, f"The request line is longer than {REQUEST_LINE_BYTES} bytes.")
    if len(head) > HEAD_BYTES:
        raise RequestError(431, f"The head is longer than {HEAD_BYTES} bytes.")


def refuse_fragment(buffer: bytes) -> None:
    """Raise RequestError if a request line ends without its two spaces, or holds a control character."""
    refuse_controls(buffer)
    if b"\r\n" in buffer.removeprefix(b"\r\n"):
        raise RequestError(400, 'The request line is not "method request-target HTTP-version".')


def refuse_controls(buffer: bytes) -> None:
    """Raise RequestError if this incomplete head already holds an illegal byte or line end."""
    head = buffer.partition(HEAD_END)[0]
    lines = head.count(b"\r\n")
    bare = head.count(b"\n") > lines or head.count(b"\r") - head.endswith(b"\r") > lines
    if bare or len(head.translate(None, CONTROLS)) < len(head):
        raise RequestError(400, "The head holds a control character, a bare CR or a bare LF.")


def read_section(section: bytes, *, whole: bool) -> Optional[Fields]:
    """Check the lines behind the request-target (RFC 9112 §2.3, §5); what they mean, or None if these are not all."""
    lines = section.split(b"\r\n")
    version = lines.pop(0)
    if version not in VERSIONS:
        refuse_version(version)
    if len(lines) > FIELD_LINES:
        raise RequestError(431, f"The head has more than {FIELD_LINES} field lines.")
    known = len(known_lines)
    relevant_section = version + b"".join(map(known_lines.__getitem__, lines))
    if not whole:
        return None
    fields: Fields = known_meanings[relevant_section]
    if len(known_lines) == known:  # a line that changes each time would push out sections that come again
        known_sections.keep(section, fields)
    return fields


def refuse_version(version: bytes) -> NoReturn:
    """Refuse what is not of VERSIONS."""
    if is_version(version):
        raise RequestError(505, "This server speaks HTTP/1.1 and HTTP/1.0.")
    raise RequestError(400, 'The request line is not "method request-target HTTP/1.1", single spaces between.')


def read_line(line: bytes) -> bytes:
    """Check a field line; return it, behind a line feed, if its name is of FIELDS_READ, else b""."""
    if not is_field_line(line):
        raise RequestError(400, 'A field line is not "name: value".')
    return b"\n" + line if line.partition(b":")[0].lower() in FIELDS_READ else b""


known_lines = ReadThroughCache(read_line)


def interpret_fields(relevant_section: bytes) -> Fields:
    """Find out what the relevant fields mean for the connection, the body and the reply (RFC 9110, RFC 9112)."""
    version, *lines = relevant_section.split(b"\n")
    http_1_0 = version == b"HTTP/1.0"
    values: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.lower().partition(b":")
        value = value.strip(b" \t")
        if name in values and name == b"content-type":  # RFC 9110 §8.3
            raise RequestError(400, "The request has more than one Content-Type field.")
        values[name] = b"%b, %b" % (values[name], value) if name in values else value  # RFC 9110 §5.3
    check_host(values.get(b"host"), http_1_0)
    options = list_members(values.get(b"connection", b""))
    if b"close" in options or http_1_0 and b"keep-alive" not in options:
        persistence = CLOSE
    else:
        persistence = KEEP_ALIVE_1_0 if http_1_0 else KEEP_ALIVE
    length = read_body_length(values.get(b"content-length"), values.get(b"transfer-encoding"), http_1_0)
    expectation = b"" if http_1_0 else b", ".join({*list_members(values.get(b"expect", b""))})  # RFC 9110 §10.1.1
    media_type = match_media_type(values.get(b"content-type", b""))
    codings = b", ".join(list_members(values.get(b"content-encoding", b"")))
    data_type = (media_type[1] if media_type else b"", b"" if codings == IDENTITY else codings)
    return persistence, length, expectation, data_type


known_meanings = ReadThroughCache(interpret_fields)  # the version and the lines that matter -> Fields


def list_members(value: bytes) -> list[bytes]:
    """The members of a comma-separated field, without the empty ones (RFC 9110 §5.6.1)."""
    members = [member.strip(b" \t") for member in value.split(b",")]
    return [member for member in members if member]


def check_host(host: Optional[bytes], http_1_0: bool) -> None:
    """Raise RequestError unless there is one valid Host, or none in HTTP/1.0 (RFC 9112 §3.2)."""
    if host is None:
        if not http_1_0:
            raise RequestError(400, "The request has no Host field, which HTTP/1.1 requires.")
    elif not is_host(host) or host.startswith(b"[") and not is_ip_literal(host[1 : host.index(b"]")].decode()):
        raise RequestError(400, 'The Host field is not exactly one "host" or "host:port".')


def is_ip_literal(address: str) -> bool:
    """Whether a host in brackets is valid: an IPv6 address (RFC 3986 §3.2.2); no IPvFuture exists."""
    try:
        ipaddress.IPv6Address(address)
    except ValueError:
        return False
    return True


def read_body_length(lengths: Optional[bytes], codings: Optional[bytes], http_1_0: bool) -> int:
    """The body's length in octets, or CHUNKED (RFC 9112 §6.1 to §6.3). Refuses what is ambiguous."""
    if codings is not None:
        if lengths is not None:
            raise RequestError(400, "Content-Length and Transfer-Encoding exclude each other.")
        if http_1_0:
            raise RequestError(400, "Transfer-Encoding does not exist in HTTP/1.0.")
        *others, last = list_members(codings) or [b""]
        if last != b"chunked" or last in others:  # nobody could tell where the body ends
            raise RequestError(400, "Transfer-Encoding does not name chunked once, and last.")
        if others:
            raise RequestError(501, "The only transfer coding that this server knows is chunked.")
        return CHUNKED
    if lengths is None:
        return 0
    length, *others = {value.strip(b" \t") for value in lengths.split(b",")}
    if others or not is_decimal(length):
        raise RequestError(400, "The Content-Length is not one decimal number.")
    return int(length.lstrip(b"0")[:20] or b"0")  # 20 digits exceed any limit


# ------------------------------------------------------------------------------------------------- Body


# How a body is taken out of the bytes that come: the generator is sent them, piece by piece, and yields None for "need
# more"; at last it yields the body and the bytes behind it.
BodyReader = Generator[Optional[tuple[bytes, bytes]], bytes, None]


def read_by_length(length: int) -> BodyReader:
    """Take a body of so many octets."""
    received = bytearray()
    while len(received) < length:
        received += yield None
    yield bytes(received[:length]), bytes(received[length:])


def read_chunks() -> BodyReader:
    """Decode a chunked body (RFC 9112 §7.1).

    Raises RequestError for malformed bytes, too much data, or too much beside it (§7.1.1).
    """
    buffer, at = b"\r\n" + (yield None), 0  # as if behind the data of another chunk
    body, excess, size = bytearray(), 0, -1
    while size:
        match = match_chunk_start(buffer, at, at + 2 + CHUNK_LINE_BYTES)
        if not match:  # it has not come whole, or is none
            end, buffer = yield from take_line(buffer[at:])
            if end != b"\r\n":
                raise RequestError(400, "A chunk does not end where its size says.")
            line, buffer = yield from take_line(buffer)
            buffer, at = end + line + buffer, 0
            match = match_chunk_start(buffer)
            if not match:
                raise RequestError(400, "A chunk does not begin with its hexadecimal size, and extensions if any.")
        size, begin = int(match[1], 16), match.end()
        if len(body) + size > BODY_BYTES:
            raise RequestError(413, f"The body is longer than {BODY_BYTES} bytes.")
        excess = max(0, excess + begin - at - CHUNK_GRANT_BYTES - 2 * size)
        if excess > CHUNK_EXCESS_BYTES:
            raise RequestError(400, f"The lines of the chunks have {CHUNK_EXCESS_BYTES} bytes more than they need.")
        at = begin + size
        body += buffer[begin:at]
        while at > len(buffer):
            at -= len(buffer)
            buffer = yield None
            body += buffer[:at]
    buffer = buffer[at:]
    for _ in range(FIELD_LINES + 1):  # the trailer section (RFC 9112 §7.1.2), bounded as a head's fields are
        line, buffer = yield from take_line(buffer)
        if line == b"\r\n":
            yield bytes(body), buffer
        if not is_trailer_line(line):
            raise RequestError(400, 'A trailer is not "name: value".')
    raise RequestError(431, f"The body has more than {FIELD_LINES} trailers.")


def take_line(buffer: bytes) -> Generator[None, bytes, tuple[bytes, bytes]]:
    """Take one line with its end; return it and what follows."""
    while not (end := buffer.find(b"\n", 0, CHUNK_LINE_BYTES) + 1):
        if len(buffer) >= CHUNK_LINE_BYTES:
            raise RequestError(400, f"A line of the chunked body is longer than {CHUNK_LINE_BYTES} bytes.")
        buffer += yield
    return buffer[:end], buffer[end:]


# -------------------------------------------------------------------------------------------------- Sum

find_values = re.compile(b"=([^&]*)").findall


def query_values(query: bytes) -> list[Any]:
    """The values of a query (WHATWG URL, application/x-www-form-urlencoded)."""
    values: list[Any] = find_values(query)
    return [unquote_plus(value.decode()) for value in values] if PERCENT in query or PLUS in query else values


def refuse_constant(name: str) -> NoReturn:
    """What Python's json would read as NaN or an infinity is no JSON (RFC 8259 §6)."""
    raise ValueError(f"{name} is no JSON value")


# An object becomes a tuple: no array does, and a name given twice counts twice. A number becomes a float directly;
# through an int it would take time that grows with the square of its digits.
JSON = json.JSONDecoder(object_pairs_hook=tuple, parse_int=float, parse_constant=refuse_constant)
JSON_NUMERIC = (float, str)  # what may be a number
JSON_SPACE = " \t\r\n"
BYTE_ORDER_MARK = "\ufeff".encode()
JSON_STRING = re.compile(r'"[^"]*"?')
NO_BRACKET = bytes(set(range(256)) - set(b"[]{}"))
NESTING_STEP = [(byte in b"[{") - (byte in b"]}") for byte in range(256)]


def json_values(body: bytes) -> list[Any]:
    """The numbers and strings among the values of a JSON object (RFC 8259). Raises RequestError if the body is none."""
    return numeric_values(json_object(check_nesting(json_text(body))))


def json_text(body: bytes) -> str:
    """The text of a body, without a byte order mark (RFC 8259 §8.1). Raises RequestError if there is none."""
    try:
        text = body.removeprefix(BYTE_ORDER_MARK).decode().rstrip(JSON_SPACE)
    except UnicodeDecodeError:
        raise RequestError(400, "The body is not UTF-8.") from None
    if not text:
        raise RequestError(400, "The body is empty; a JSON object is expected.")
    return text


def json_object(text: str) -> tuple[tuple[str, Any], ...]:
    """The members of a JSON object (RFC 8259). Raises RequestError if the text is none."""
    try:
        document, end = JSON.raw_decode(text, len(text) - len(text.lstrip(JSON_SPACE)))
    except ValueError as error:
        raise RequestError(400, f"The body is not JSON: {error}.") from None
    if end < len(text):
        raise RequestError(400, f"The body is not JSON: something follows the value (char {end}).")
    if type(document) is not tuple:
        raise RequestError(400, "The JSON text is not an object.")
    return document


def check_nesting(text: str) -> str:
    """Return a JSON text. Raises RequestError if it is nested too deep.

    Python's own limit will not do: 3.13.0 overflows the C stack before it.
    """
    if text.count("[") + text.count("{") > JSON_NESTING and json_nesting(text) > JSON_NESTING:
        raise RequestError(400, f"The JSON text is nested deeper than {JSON_NESTING} levels.")
    return text


def json_nesting(text: str) -> int:
    """How many arrays and objects at most are open at once, if this is JSON."""
    outside_strings = JSON_STRING.sub("", text.replace("\\\\", "").replace('\\"', ""))
    brackets = outside_strings.encode("ascii", "replace").translate(None, NO_BRACKET)
    return max(accumulate(map(NESTING_STEP.__getitem__, brackets)), default=0)


def numeric_values(document: tuple[tuple[str, Any], ...]) -> list[Any]:
    """The numbers and strings among the values of a JSON object."""
    return [value for _, value in document if type(value) in JSON_NUMERIC]


def sum_text(values: list[Any]) -> str:
    """The answer for numbers and texts: `Sum: 6.0`, or `Sum: 0` if none of them is a number."""
    try:
        total = fsum(map(float, values))  # as if all were numbers, which they nearly always are
    except (ValueError, OverflowError):
        total = inf
    if not isfinite(total):
        values = numbers(values)
        total = exact_sum(values)
    return f"Sum: {total!r}" if values else "Sum: 0"


def sum_json_in_turns(body: bytes) -> Generator[bytes, bytes, str]:
    """The answer for a large JSON object; yields between steps of some milliseconds.

    The longest, some 30 ms for a mebibyte, decode it, which Python's json does in one go, and free the result.
    """
    value: Any = body
    for step in (json_text, check_nesting, json_object, numeric_values):
        yield b""
        value = step(value)
    found: list[float] = []
    for start in range(0, len(value), TURN_VALUES):
        yield b""
        found += numbers(value[start : start + TURN_VALUES])
    yield b""
    return sum_text(found)


def numbers(values: list[Any]) -> list[float]:
    """The finite numbers among the values, as `float()` reads them."""
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
        pass
    mantissas: defaultdict[int, int] = defaultdict(int)  # those of 53 bits, added up for each exponent
    for mantissa, exponent in map(frexp, values):
        mantissas[exponent] += int(mantissa * 2**53)
    unit = 1126  # every float is a multiple of 2**-1126 in this form: the least exponent is -1073
    whole = sum(mantissa << exponent - 53 + unit for exponent, mantissa in mantissas.items())
    try:
        return float(whole / 2**unit)
    except OverflowError:
        return inf if whole > 0 else -inf


# ------------------------------------------------------------------------------------------------ Reply

STATUS_LINE = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
STATUS_LINE[405] += f"Allow: {', '.join(METHODS.values())}\r\n"  # RFC 9110 §15.5.6
STATUS_LINE[415] += f"Accept-Encoding: {IDENTITY.decode()}\r\n"  # RFC 9110 §12.5.3
INTERIM = "HTTP/1.1 100 Continue\r\n\r\n"


def reply_starts(seconds: float) -> dict[int, str]:
    """The start of a reply for each status, up to the value of its Content-Length.

    It holds for one second, that of the time (seconds since 1970), because Date does (RFC 9110 §6.6.1).
    """
    fields = f"Date: {formatdate(seconds, usegmt=True)}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "
    return {status: line + fields for status, line in STATUS_LINE.items()}


# ---------------------------------------------------------------------------------------------- Handler

# What a connection waits for: a request, the rest of its head or body, its turn at what takes long, the client's end.
REQUEST, HEAD, BODY, TURN, LINGER = "request", "head", "body", "turn", "linger"

METHOD_REGISTRY = """
* ACL BASELINE-CONTROL BIND CHECKIN CHECKOUT CONNECT COPY DELETE GET HEAD LABEL LINK LOCK MERGE MKACTIVITY MKCALENDAR
MKCOL MKREDIRECTREF MKWORKSPACE MOVE OPTIONS ORDERPATCH PATCH POST PRI PROPFIND PROPPATCH PUT QUERY REBIND REPORT SEARCH
TRACE UNBIND UNCHECKOUT UNLINK UNLOCK UPDATE UPDATEREDIRECTREF VERSION-CONTROL
"""  # IANA's (RFC 9110 §18.2), up to RFC 10008
REGISTERED_METHODS = frozenset(METHOD_REGISTRY.split())
CONTINUE = b"100-continue"

JSON_TYPE = b"application/json", b""  # what do_POST reads; its parameters mean nothing (RFC 8259 §11)
EXPECTED_JSON = 'Please, ensure the content type of your request is "application/json".'


class SumHandler(BaseHTTPRequestHandler):
    """A connection (RFC 9112 §9): bytes in, bytes out; it has no socket, no clock and no thread.

    Its server provides `reply_starts` and `stopping`; its base class, the names that people look for.
    """

    server: Any
    log_reply: Any = None  # called with bytes that begin with the request, the status, and how much content was sent

    def __init__(self, client_address: tuple[Any, ...], server: Any, counter: Any) -> None:
        """Unlike the base class, touches no socket; counter has increment()."""
        self.client_address, self.server, self.counter = client_address, server, counter
        self.awaits = REQUEST

    def address_string(self) -> str:
        """The client's address, as logs show it: IPv4 as such (RFC 4291 §2.5.5.2), IPv6 without a zone."""
        address: str = self.client_address[0]
        return address.removeprefix("::ffff:").partition("%")[0]

    def handle(self) -> Generator[bytes, bytes, bytes]:  # type: ignore[override]
        """Is sent what the client sends, b"" at its end, and b"" for each TURN; yields the replies that are due.

        It returns the last ones, after which the connection ends: at once or, if it `awaits` LINGER, when the client
        has ended it, too. Throw in a RequestError to refuse the request that is being received.
        """
        server, starts, log_reply = self.server, self.server.reply_starts, self.log_reply
        increment = self.counter.increment
        due: list[str] = []  # the replies that are to be sent
        buffer = yield b""
        while buffer:
            while buffer:
                method, rest, persistence, complete = None, b"", CLOSE, False
                try:
                    while (head := take_head(buffer)) is None:
                        more, enough = b"", len(buffer) + LIGHT_BYTES
                        while b"\n" not in more and len(buffer) < enough:  # or each byte would cost a look at all
                            refuse_controls(more)
                            more = yield from self.receive(REQUEST if buffer == b"\r\n" else HEAD, due)
                            if not more:
                                return b""
                            buffer += more
                    method, query, (persistence, length, expectation, data_type), rest = head
                    increment()
                    body, complete = b"", not length  # complete: the next request begins behind it
                    if length or expectation:
                        body, rest = yield from self.receive_body(length, expectation, rest, due)
                        complete = True
                    if len(query) > LIGHT_QUERY_BYTES:
                        with self.in_turns():
                            yield b""
                    if method == "GET":
                        text = self.do_GET(query)
                    elif method == "POST" and len(body) <= LIGHT_BYTES:
                        text = self.do_POST(data_type, body)
                    elif method == "POST":
                        text = yield from self.do_large_POST(data_type, body)
                    else:
                        text = self.do_HEAD(query) if method == "HEAD" else self.do_other(method)
                    status = 200
                except Exception as error:
                    method, status, text = self.reply_to_error(error, method, buffer)
                    complete = complete and status != 500
                if not complete or server.stopping:
                    persistence = CLOSE
                due.append(f"{starts[status]}{len(text)}{persistence}{'' if method == 'HEAD' else text}")
                if log_reply is not None:
                    log_reply(buffer, status, 0 if method == "HEAD" else len(text))
                if persistence is CLOSE:
                    if rest or not complete or server.stopping:  # the client may send on
                        self.awaits = LINGER
                    return "".join(due).encode()
                buffer = rest
            head, body = None, b""  # so that no idle connection keeps a body
            replies = "".join(due).encode()
            due.clear()
            buffer = yield replies
        return b""

    def receive(self, awaits: str, due: list[str]) -> Generator[bytes, bytes, bytes]:
        """Yield the replies that are due; return what the client sends next."""
        self.awaits = awaits
        replies = "".join(due).encode()
        due.clear()
        data = yield replies
        if not data and awaits != REQUEST:
            raise RequestError(400, f"The connection ended before the request's {awaits} did.")
        self.awaits = REQUEST
        return data

    def receive_body(
        self, length: int, expectation: bytes, rest: bytes, due: list[str]
    ) -> Generator[bytes, bytes, tuple[bytes, bytes]]:
        """Take the body (RFC 9112 §6) that begins in the rest; return it and what is behind it."""
        if expectation and expectation != CONTINUE:
            raise RequestError(417, "The only expectation that this server meets is 100-continue.")
        if length > BODY_BYTES:
            raise RequestError(413, f"The body is longer than {BODY_BYTES} bytes.")
        if 0 <= length <= len(rest):
            return rest[:length], rest[length:]
        if expectation and not rest:
            due.append(INTERIM)
        reader = read_chunks() if length == CHUNKED else read_by_length(length)
        next(reader)
        while not (taken := reader.send(rest)):
            rest = yield from self.receive(BODY, due)
        return taken

    def reply_to_error(self, error: Exception, method: Optional[str], request: bytes) -> tuple[Optional[str], int, str]:
        """The method, status and text of the reply to a request that failed, maybe in its head."""
        method = method or METHODS.get(request.lstrip(b"\r\n").partition(b" ")[0])
        if isinstance(error, RequestError):
            return method, error.status, str(error)
        if isinstance(error, MemoryError):
            log.warning("There is not enough memory to answer a request")
            return method, 500, "The server has not enough memory for this request."
        log.exception("A bug in this server: a request could not be answered")
        return method, 500, "This server has a bug; its log says more."

    def do_GET(self, query: bytes) -> str:
        """Answer with the sum of the numbers in a query."""
        return sum_text(query_values(query))

    do_HEAD = do_GET  # handle() omits the content

    def do_POST(self, data_type: DataType, body: bytes) -> str:
        """Answer with the sum of the numbers in a JSON object."""
        if data_type != JSON_TYPE:
            self.refuse_data_type(data_type[1])
        return sum_text(json_values(body))

    def do_large_POST(self, data_type: DataType, body: bytes) -> Generator[bytes, bytes, str]:
        """do_POST() in turns."""
        if data_type != JSON_TYPE:
            self.refuse_data_type(data_type[1])
        with self.in_turns():
            return (yield from sum_json_in_turns(body))

    @contextlib.contextmanager
    def in_turns(self) -> Iterator[None]:
        """What takes long; each `yield b""` in it waits for a TURN."""
        self.awaits = TURN
        try:
            yield
        finally:
            self.awaits = REQUEST

    def refuse_data_type(self, codings: bytes) -> NoReturn:
        """Refuse a content for its coding or, if it has none, for its media type."""
        if codings:
            raise RequestError(415, "The only content coding that this server reads is identity.")
        raise RequestError(400, EXPECTED_JSON)

    def do_other(self, method: str) -> NoReturn:
        """Refuse a method: as not allowed if it is registered, as unknown if not (RFC 9110 §9.1)."""
        status = 405 if method in REGISTERED_METHODS else 501
        raise RequestError(status, "The methods of this server are GET, HEAD and POST.")


# ==================================================================================== Part II: a count
# ----------------------------------------------------------------------------------------------- Files

# What the counter and the outbox share.


def folder_of(path: str) -> str:
    return os.path.dirname(os.path.abspath(path))


def is_same_file(path: str, opened: os.stat_result) -> bool:
    """Return whether a path still leads to the file that was opened."""
    try:
        return os.path.samestat(os.stat(path), opened)
    except OSError:
        return False


def lock_byte(file: int, offset: int) -> bool:
    """Lock one byte, which may be past the end, until the file is closed; return False if another process has it.

    Raises OSError if the file system has no locks.
    """
    os.lseek(file, offset, os.SEEK_SET)
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 0, os.SEEK_CUR)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):  # which of the two says "locked" depends on the system
            raise
        return False
    return True


def disable_copy_on_write(file: int) -> None:
    """Have an empty file on btrfs overwritten in place (chattr +C).

    With copy-on-write, a store into a memory map needs a free block, and raises SIGBUS if there is none.
    """
    if sys.platform == "linux":
        import fcntl

        get_flags, set_flags, no_copy = 0x80086601, 0x40086602, 0x00800000  # FS_IOC_…, FS_NOCOW_FL of linux/fs.h
        flags = bytearray(8)
        with contextlib.suppress(OSError):  # other file systems refuse this flag
            fcntl.ioctl(file, get_flags, flags)
            wanted = int.from_bytes(flags, sys.byteorder) | no_copy
            fcntl.ioctl(file, set_flags, wanted.to_bytes(8, sys.byteorder))


# ---------------------------------------------------------------------------------------------- Counter


class Counter:
    """Counts requests in a memory-mapped file, so that the kernel keeps the count if the process is killed.

    The file has 16 KiB, in the byte order of the machine:

        0      8 bytes   b"requests"
        8      uint64    version of this layout, 1
        16     16 bytes  UUID, also stored in the matching state file
        64*n   uint64    cell n, from 1 to 255: the requests counted in it since the file was created
        +8     uint64    load of the thread that owns the cell: its open connections, and some that it just accepted
        +16    uint64    how many connections that thread has open, as of this second
        +24    uint64    for the first thread of each process, the process's CPU time in microseconds, as of this second

    Counts only increase; each cell has its own cache line. The main process locks part 0 (the header), each serving
    process its cells; the system releases the locks when a process dies. The locked bytes are past the end of the
    file, because on Windows other processes cannot read locked bytes.
    """

    MAGIC, VERSION = b"requests", 1
    SIZE, LINE = 16 * 1024, 64
    STEP = LINE // 8  # from one cell to the next, in numbers
    HEADER = struct.Struct("=8sQ16s")

    def __init__(self, path: str, *parts: int, create: bool = False) -> None:
        """Open the file and lock these parts; `self.cells` are those to count in. Create the file if it is missing.

        ":memory:" stands for a count that ends with the process. Raises StartError, OSError.
        """
        self.path = path
        self.file = -1
        if path == ":memory:":
            self.map = mmap.mmap(-1, self.SIZE)
        else:
            self.file = self.open_file(create)
            with contextlib.ExitStack() as on_error:
                on_error.callback(os.close, self.file)
                try:
                    self.lock_parts(parts)
                    self.check_content(create)
                    self.map = mmap.mmap(self.file, self.SIZE)
                except OSError as error:
                    raise OSError(error.errno, error.strerror, path) from error
                on_error.pop_all()
        self.header = self.map[: self.HEADER.size]
        self.identity = self.header[16:]
        self.words = memoryview(self.map).cast("Q")
        self.cells = [Cell(self.words, part * self.STEP) for part in parts if part]

    def open_file(self, create: bool) -> int:
        """Open or create the file; return its descriptor."""
        flags = os.O_RDWR | getattr(os, "O_BINARY", 0)
        try:
            return os.open(self.path, flags | (os.O_CREAT if create else 0), 0o644)
        except FileNotFoundError:
            if create:
                raise
            raise StartError(f"{self.path} is missing; restore it, or move the state file away, too") from None

    def lock_parts(self, parts: tuple[int, ...]) -> None:
        """Lock parts of the file. Retry cells, because a killed server's worker may hold its lock a little longer."""
        end = monotonic() + LOCK_SECONDS
        for part in parts:
            while not lock_byte(self.file, 2 * self.SIZE + part):
                if part == 0 or monotonic() > end:
                    raise StartError(f"{self.path} is in use by another server; use a different --state")
                sleep(PAUSE_SECONDS)

    def check_content(self, create: bool) -> None:
        """Check the file, or initialize it: also if its creation was interrupted, when it has no header yet."""
        os.lseek(self.file, 0, os.SEEK_SET)
        content = os.read(self.file, self.SIZE + 1)
        if create and len(content) <= self.SIZE and not content.strip(b"\0"):
            os.ftruncate(self.file, 0)
            disable_copy_on_write(self.file)
            self.initialize()
        elif len(content) < self.HEADER.size or content[:8] != self.MAGIC:
            raise StartError(f"{self.path} is not a counter file; restore it, or move it and the state file away")
        elif self.HEADER.unpack_from(content)[1] != self.VERSION:
            raise StartError(f"{self.path} has another format version or byte order; use a different --state")
        elif len(content) != self.SIZE:
            raise StartError(f"{self.path} is not {self.SIZE} bytes long; restore it, or move both files away")
        else:
            self.fill_holes()

    def initialize(self) -> None:
        """Write a new file: zeros first, to allocate its blocks, because a memory map needs them; the header last."""
        for content in (bytes(self.SIZE), self.HEADER.pack(self.MAGIC, self.VERSION, uuid.uuid4().bytes)):
            os.lseek(self.file, 0, os.SEEK_SET)
            written = 0
            while written < len(content):  # a disk that accepted only a part says next why
                written += os.write(self.file, content[written:])
            os.fsync(self.file)

    def fill_holes(self) -> None:
        """Allocate the missing blocks of a file that was copied or restored as a sparse file. Raises OSError."""
        if sys.platform != "linux" or os.fstat(self.file).st_blocks * 512 >= self.SIZE:
            return
        try:
            os.posix_fallocate(self.file, 0, self.SIZE)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # the file system does not support it
                raise

    def problems(self) -> Iterator[str]:
        """Yield a log message for each problem with the file that the server cannot solve."""
        if self.file < 0:
            return
        if not is_same_file(self.path, os.fstat(self.file)):
            yield f"{self.path} was removed, moved or replaced; this server keeps counting in the file that it opened"
        if self.map[: self.HEADER.size] != self.header:
            yield f"{self.path} was overwritten while this server counts in it; its count is wrong"

    def total(self) -> int:
        """Return the number of all requests counted, in all cells, since the file was created."""
        return sum(self.words[self.STEP :: self.STEP])

    def loads(self, threads: int) -> memoryview:
        """Return the loads of the first `threads` threads, which all processes share."""
        return self.cell_words(1, threads)

    def cell_words(self, index: int, threads: int) -> memoryview:
        """Return word `index` of the cache line of each of the first `threads` cells."""
        return self.words[self.STEP + index : (threads + 1) * self.STEP : self.STEP]

    def usage(self, threads: int) -> tuple[int, float]:
        """Return the open connections of the first `threads` threads, and their processes' CPU time in seconds."""
        return sum(self.cell_words(2, threads)), sum(self.cell_words(3, threads)) / 1e6

    def flush(self) -> None:
        """Write the count to the disk, so that it survives a power failure.

        On Linux fsync() writes mapped pages, too; elsewhere that is not sure. mmap.flush() keeps the GIL while the disk
        works, and so all clients waiting; on Windows it does not reach the disk.
        """
        if self.file >= 0:
            if sys.platform != "linux":
                self.map.flush()
            os.fsync(self.file)

    def close(self) -> None:
        self.words.release()
        with contextlib.suppress(BufferError):  # a start that failed left a view of it
            self.map.close()
        if self.file >= 0:
            os.close(self.file)


class Cell:
    """Where requests are counted."""

    def __init__(self, words: memoryview, index: int) -> None:
        self.words, self.index = words, index
        self.lock = threading.Lock()  # keeps increments exact if threads share the cell; a server's threads do not

    def increment(self, number: int = 1) -> None:
        """Count `number` requests. The store has 8 aligned bytes, so other processes never read half of it."""
        with self.lock:
            self.words[self.index] += number

    def tell_usage(self, connections: int, cpu_seconds: float) -> None:
        """Publish how many connections are open, and the CPU time of this process; see Counter."""
        self.words[self.index + 2], self.words[self.index + 3] = connections, int(cpu_seconds * 1e6)


# ----------------------------------------------------------------------------------------------- Outbox


class Point(NamedTuple):
    """The number of requests in an interval, as the outbox stores it."""

    serial: int  # of the points that this server has recorded, from 1; the order in which they are sent
    time: int  # nanoseconds since 1970
    number: int  # of requests


class Outbox:
    """Stores the points that InfluxDB has not yet taken, in SQLite.

    requests   the points that wait, each until InfluxDB has acknowledged it
    rejected   the points that InfluxDB rejects while it takes others, and the reason
    state      one row: the counter's UUID, how many of its requests are already in points, the time (ns) since which
               the others were counted, and the number of points recorded so far

    One transaction stores a point, the total reported and the point's serial number, so no kill can separate them.
    `journal_mode=DELETE` needs no second file while nobody writes. `synchronous=EXTRA` syncs each commit, and the
    folder after the journal's deletion: a power failure undoes nothing of which InfluxDB may have been told.
    """

    APPLICATION_ID = 0x6D617468  # "math"
    VERSION = 3  # 1 and 2 had no serial numbers, and were in WAL mode
    TABLES = f"""
        CREATE TABLE requests (time INTEGER NOT NULL, requests_number INTEGER NOT NULL, serial INTEGER PRIMARY KEY);
        CREATE TABLE rejected (time INTEGER NOT NULL, requests_number INTEGER NOT NULL, reason TEXT NOT NULL,
            serial INTEGER PRIMARY KEY);
        CREATE TABLE state (counter BLOB NOT NULL, reported INTEGER NOT NULL, since INTEGER NOT NULL,
            points INTEGER NOT NULL);
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
        """Open the file. Raises StartError, without changing the file, if it is corrupt or of an unknown version."""
        self.path = path
        self.display_name = "memory" if path == ":memory:" else path
        self.lock = threading.RLock()  # guards `database`, which two threads use
        self.database: Any = None
        self.opened: Optional[os.stat_result] = None  # what the file was at the start of the run
        self.pending = 0  # points that wait; to be read without the lock, which waits for the disk
        self.is_new = path == ":memory:" or not os.path.exists(path)
        if self.is_new:
            return  # attach() creates it
        try:
            os.close(os.open(path, os.O_RDWR))  # gives the system's error message, which SQLite does not
            with contextlib.ExitStack() as on_error:
                on_error.callback(self.close)
                self.database = sqlite3.connect(path, check_same_thread=False)
                self.is_new = self.ask("SELECT count(*) FROM sqlite_master") == [(0,)]
                if not self.is_new:
                    self.check()
                on_error.pop_all()
        except (OSError, sqlite3.OperationalError) as error:  # an error of the system
            raise StartError(self.explain(error)) from None
        except sqlite3.DatabaseError as error:  # a faulty file
            raise StartError(f"{path}: {error}; repair it, or use a different --state") from None

    def ask(self, statement: str, *values: Any) -> list[Any]:
        """Execute one statement, and return all of its rows: a statement with rows left would keep its lock."""
        return list(self.database.execute(statement, values).fetchall())

    def explain(self, error: Exception) -> str:
        """Return an error of the state files with the file's name and what the system says."""
        folder = folder_of(self.path)
        if isinstance(error, OSError):
            if error.filename and not os.path.exists(error.filename):  # it could not be created
                return f"cannot write the state file {self.path}: {reason_of(error)} in {folder}"
            return f"{error.filename or self.path}: {reason_of(error)}"
        reason = ""
        if isinstance(error, sqlite3.OperationalError) and self.path != ":memory:":
            try:  # lock and write as SQLite did, which does not say why it could not
                with tempfile.TemporaryFile(dir=folder) as file:
                    lock_byte(file.fileno(), 0)
                    file.seek(os.path.getsize(self.path) if os.path.exists(self.path) else 0)
                    file.write(bytes(PROBE_BYTES))
            except OSError as refusal:
                reason = f" ({reason_of(refusal)} in {folder})"
        return f"{self.path}: {reason_of(error)}{reason}"

    def check(self) -> None:
        """Raise StartError unless this is an intact file of this program, in a known version."""
        if self.ask("PRAGMA application_id") != [(self.APPLICATION_ID,)]:
            raise StartError(f"{self.path} is another program's database; use a different --state")
        if not 1 <= self.version() <= self.VERSION:
            raise StartError(f"{self.path} is of version {self.version()}, not {self.VERSION}; use a different --state")
        ((report,),) = self.ask("PRAGMA quick_check(1)")
        if report != "ok" or len(self.ask("SELECT * FROM state")) != 1:
            flaw = "table state has not one row" if report == "ok" else one_line(report)
            raise StartError(f"{self.path} is corrupt ({flaw}); repair it, or use a different --state")

    def attach(self, counter: Counter) -> None:
        """Attach the counter whose requests are recorded; create the tables, or convert those of an older version.

        Raises StartError, without changing the file, if file and counter do not belong together; sqlite3.Error.
        """
        self.counter = counter
        if not self.is_new:
            identity, reported, _ = self.state()
            if identity != counter.identity or reported > counter.total():
                raise StartError(
                    f"{self.path} and {counter.path} do not belong together; restore both, or move both away"
                )
        elif counter.total():
            raise StartError(
                f"{self.path} is missing or empty, but {counter.path} exists; restore that, or move this away"
            )
        if not self.database:
            self.database = sqlite3.connect(self.path, check_same_thread=False)
        self.ask("PRAGMA journal_mode = DELETE")
        self.ask("PRAGMA synchronous = EXTRA")
        self.ask(f"PRAGMA busy_timeout = {round(LOCKED_SECONDS * 1000)}")
        if self.is_new:
            self.database.executescript(f"BEGIN IMMEDIATE; {self.TABLES}")
            self.ask("INSERT INTO state VALUES (?, 0, ?, 0)", counter.identity, time_ns())
            self.database.commit()
        elif self.version() < self.VERSION:
            self.database.executescript(self.UPGRADE)
        self.pending = self.ask("SELECT count(*) FROM requests")[0][0]

    def version(self) -> int:
        """Return the version of the schema."""
        return int(self.ask("PRAGMA user_version")[0][0])

    def state(self) -> Any:
        """Return the counter's UUID, the total reported, and the time (ns) since which the rest was counted."""
        return self.ask("SELECT counter, reported, since FROM state")[0]

    def record(self, now: int) -> Point:
        """Store a point, at the time now (ns), for all requests that are not yet in a point; return it."""
        with self.lock:
            if self.opened and not is_same_file(self.path, self.opened):  # which SQLite calls read-only
                raise OSError(errno.ENOENT, "it was removed, moved or replaced")
            total = self.counter.total()
            self.counter.flush()  # first, so that after a power failure the counter is never behind `reported`
            ((reported, points),) = self.ask("SELECT reported, points FROM state")
            if total < reported:
                raise OSError(errno.EIO, "it was overwritten: it counts less than its points", self.counter.path)
            point = Point(points + 1, point_time(now, points + 1), total - reported)
            with self.database:
                self.ask("INSERT INTO requests (serial, time, requests_number) VALUES (?, ?, ?)", *point)
                self.ask("UPDATE state SET reported = ?, since = ?, points = ?", total, now, point.serial)
            self.pending += 1
            return point

    def recover(self, interval: int, now: int) -> int:
        """Start a run at the time now (ns); return how many requests the run before left unrecorded.

        They become a point of their own, at the end of the interval (ns) in which they were counted.
        """
        with self.lock:
            _, reported, since = self.state()
            left = self.counter.total() - int(reported)
            if left:
                self.record(min(since + interval, now))
            with self.database:
                self.ask("UPDATE state SET since = ?", now)
            if self.path != ":memory:":
                self.opened = os.stat(self.path)
            return left

    def oldest(self, limit: int, order: str = "") -> list[Point]:
        """Return the points that were recorded first, in this order."""
        with self.lock:
            query = f"SELECT serial, time, requests_number FROM requests ORDER BY serial {order} LIMIT ?"
            return [Point(*row) for row in self.ask(query, limit)]

    def newest(self) -> list[Point]:
        """Return the point that was recorded last, if any waits."""
        return self.oldest(1, "DESC")

    def remove(self, points: list[Point]) -> int:
        """Delete points that InfluxDB has acknowledged; return how many of them waited."""
        serials = [(point.serial,) for point in points]
        with self.lock:
            with self.database:
                removed = int(self.database.executemany("DELETE FROM requests WHERE serial = ?", serials).rowcount)
            self.pending -= removed
            return removed

    def move_to_rejected(self, points: list[Point], reason: str) -> None:
        """Move points to the table `rejected`."""
        with self.lock, self.database:
            rows = [(point.time, point.number, reason, point.serial) for point in points]
            self.database.executemany("INSERT INTO rejected VALUES (?, ?, ?, ?)", rows)
            self.remove(points)  # commits both

    def requeue_rejected(self) -> None:
        """Let rejected points wait again: the cause may be mended; if not, they are rejected again."""
        with self.lock:
            with self.database:
                self.ask("INSERT INTO requests SELECT time, requests_number, serial FROM rejected")
                requeued = self.database.execute("DELETE FROM rejected").rowcount
            self.pending += requeued

    def close(self) -> None:
        """Close the file; but not while the disk keeps another thread waiting, for which the end does not wait."""
        if self.lock.acquire(timeout=PAUSE_SECONDS):
            if self.database:
                self.database.close()
            self.lock.release()


def point_time(now: int, serial: int) -> int:
    """Return the time (ns) of a point: the second of now and, as its fraction, the point's serial number.

    So no two points of a server have the same time, however the clock is set, for a billion points; and none the same
    millisecond, as long as the clock is not set back by a multiple of a thousand intervals.
    """
    return now // SECOND * SECOND + serial % 1000 * MILLISECOND + serial // 1000 % MILLISECOND


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
        """The host, the port and the path, as in a URL."""
        return f"{uri_host(self.host)}:{self.port}{self.path}"

    def __str__(self) -> str:
        """Return the data source name, without the password."""
        scheme, user, database = DSN_SCHEMES[self.tls], quote(self.username, ""), quote(self.database, "")
        return f"{scheme}://{user}@{self.address}/{database}"


DSN_SCHEMES = ("influxdb", "https+influxdb")  # without and with TLS


def parse_dsn(dsn: str) -> Destination:
    """Read a data source name, `[https+]influxdb://[user:password@]host[:port][/path…]/[database]`.

    The syntax is that of `InfluxDBClient.from_dsn`, but percent-encoding is decoded, IPv6 addresses are accepted, and
    the database (may be empty) is the part after the last slash. Raises ValueError; the message never quotes user or
    password.
    """
    try:
        parts = urlsplit(dsn)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise ValueError("its host or port cannot be read") from None
    if not dsn:
        raise ValueError("it is empty")
    if parts.scheme not in DSN_SCHEMES:
        raise ValueError(f"write {meant_dsn(dsn)}")
    if not host:
        raise ValueError("it names no host")
    if "?" in dsn or "#" in dsn or dsn != "".join(dsn.split()):
        raise ValueError("it contains “?”, “#” or a space; in a password, write them as %3F, %23 and %20")
    if port == 0 or parts.netloc.endswith(":"):
        raise ValueError("its port is not a number from 1 to 65535")
    if "@" in parts.path:
        raise ValueError("it has “@” after the host; write it there as %40, and “/” in a password as %2F")
    path, _, database = parts.path.rpartition("/")
    if any(segment in ("", ".", "..") for segment in path.split("/")[1:]):
        raise ValueError("its path has an empty segment, “.” or “..”")
    if parts.username is None:
        username, password = USER, PASSWORD
    else:
        username, password = unquote(parts.username), unquote(parts.password or "")
    tls = parts.scheme == DSN_SCHEMES[True]
    return Destination(host, port or 8086, username, password, unquote(database) or DATABASE, tls, path)


def meant_dsn(dsn: str) -> str:
    """Return what somebody may have meant who gave another scheme, such as http, or none; without user and password."""
    scheme, _, rest = dsn.rpartition("://")
    _, at, address = rest.rpartition("@")
    meant = DSN_SCHEMES[scheme == "https"]
    try:
        parse_dsn(f"{meant}://{address}")
    except ValueError:
        address = ""
    if ":" not in dsn or not address:  # a single word may be anything, such as a password
        address = "host:8086"
    return f"{meant}://{'user:password@' if at else ''}{address}"


class UnavailableError(Exception):
    """InfluxDB takes no points now; one line that says why. The points are kept."""

    def __init__(self, line: str, status: int = 0, words: str = "", retry_after: float = 0.0) -> None:
        """Of a response: status is that of HTTP, words InfluxDB's own message, retry_after in seconds."""
        super().__init__(line)
        self.status, self.words, self.retry_after = status, words, retry_after


class RefusedError(UnavailableError):
    """InfluxDB refuses points, which may be the fault of some of them, or they are too many for one request."""

    @property
    def dropped(self) -> int:
        """How many of the points were not stored; 0 if InfluxDB does not say so."""
        found = re.search(r"\bdropped[= ]([0-9]+)", self.words)
        return int(found[1]) if found else 0


class InfluxDB:
    """Writes points through an `InfluxDBClient` to InfluxDB 1.8, or to any server with its `/write`.

    Only the response to a write matters. Creating the database is optional: not every such server supports it.

    Each exchange has a connection of its own: at one a minute, a firewall may forget an idle connection.
    """

    REFUSALS = (400, 413, 422)  # 1.8 answers 400 to a point that is too old or of another type, and to a full disk
    REMEDIES = {  # by a status and words of InfluxDB's message
        (401, "authorization failed"): f"give {DSN_VARIABLE} or --influx the password of user {{username}}",
        (403, "not authorized to write"): 'an administrator can: GRANT ALL ON "{database}" TO "{username}"',
        (404, "database not found"): 'an administrator can: CREATE DATABASE "{database}"',
    }

    def __init__(self, destination: Destination, tags: dict[str, str]) -> None:
        """tags are those of each point, beside `request=GETs_per_minute`."""
        self.destination = destination
        self.name = f"InfluxDB at {destination.address}"
        self.tags = {"request": "GETs_per_minute", **tags}
        self.began = inf  # the exchange that is under way, in monotonic seconds

    def check_reachable(self) -> None:
        """Check that InfluxDB is there by creating the database, which changes nothing if it exists.

        Raises UnavailableError, but ignores a refusal: 1.8 allows it only for administrators, even if the database
        exists (403); 2.x responds 200 with the error "not implemented"; others do not support it (400, 404, 405).
        """
        try:
            self.create_database()
        except UnavailableError as error:
            if error.status not in (400, 403, 404, 405) and not (error.status == 200 and error.words):
                raise

    def write(self, points: list[Point]) -> None:
        """Write points; if the database is missing, create it. Raises UnavailableError, RefusedError.

        A point can be written again if it is unknown whether it arrived: it overwrites itself, because series and
        time are the same (InfluxDB 1.8, "How does InfluxDB handle duplicate points?").
        """
        rows = [
            {"measurement": "requests", "tags": self.tags, "time": time, "fields": {"requests_number": number}}
            for _, time, number in points
        ]
        write = methodcaller("write_points", rows, time_precision="n")
        try:
            self.exchange(write)
        except UnavailableError as error:
            if error.status != 404 or not error.words.startswith("database not found"):
                raise
            with contextlib.suppress(UnavailableError):  # the response to the second write says more
                self.create_database()
            self.exchange(write)

    def create_database(self) -> None:
        """Create the database. Raises UnavailableError."""
        self.exchange(methodcaller("create_database", self.destination.database))

    def exchange(self, request: Callable[[Any], object]) -> None:
        """Send InfluxDB a request through a client, and read the response. Raises UnavailableError.

        The time-outs bound each address that is tried and each wait for data, but not the look-up of the name.
        """
        try:
            client = self.make_client()
        except ModuleNotFoundError as error:
            python = r".venv\Scripts\python" if os.name == "nt" else ".venv/bin/python"
            missing = f"the package {error.name or 'influxdb'} is missing"
            raise UnavailableError(f"{missing}; start the server with {python}, as README.md does") from None
        except BaseException as error:  # a broken package may raise anything when it is imported
            raise UnavailableError(f"the InfluxDB client cannot be loaded: {one_line(repr(error))}") from error
        self.began = monotonic()
        try:
            with client:
                request(client)
        except UnavailableError:
            raise
        except BaseException as error:  # SystemExit, too, which is no library's to raise
            raise UnavailableError(f"{self.name} {self.explain(error)}") from error
        finally:
            self.began = inf

    def make_client(self) -> Any:
        """Create a client, which connects with its first request."""
        # Imported here because it takes 0.2 s and 20 MB, for which no request has to wait.
        import requests
        from influxdb import InfluxDBClient

        to = self.destination
        session = requests.Session()
        session.trust_env = not is_loopback(to.host)  # or HTTP_PROXY would apply even to localhost
        session.hooks["response"].append(self.check_response)
        return InfluxDBClient(
            host=uri_host(to.host),
            port=to.port,
            username=to.username.encode(),
            password=to.password.encode(),
            database=to.database,
            path=to.path,
            ssl=to.tls,
            verify_ssl=os.environ.get("REQUESTS_CA_BUNDLE") or True,  # which requests reads only if it trusts all of it
            timeout=(CONNECT_SECONDS, RESPONSE_SECONDS),
            retries=1,  # one attempt; the courier makes the next
            session=session,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},  # not MessagePack, uncompressed
        )

    def check_response(self, response: Any, **_: Any) -> None:
        """Read a response to the client; raise UnavailableError unless it reports success.

        That is 204 for a write, and for a query 200 with JSON in which no error is (InfluxDB 1.8, "InfluxDB API
        reference"). So no redirection is followed, which may turn a POST into a GET (RFC 9110 §15.4.2).
        """
        with response:
            content = read_content(response.raw)
        response.raw = BytesIO(content)  # where the client reads it
        status, errors = response.status_code, errors_in(content)
        is_query = urlsplit(response.request.path_url).path.endswith("/query")
        if status != (200 if is_query else 204) or is_query and errors != []:
            target = one_line(response.headers.get("Location", ""))
            words = errors[0] if errors else ""
            says = filter(None, (one_line(response.reason), words or words_in(content), target and f"see {target}"))
            line = f"{self.name} answers {f'{status} ' + ': '.join(says)}".strip() + self.remedy(status, words)
            after = response.headers.get("Retry-After", "")  # RFC 9110 §10.2.3; a date is ignored
            retry_after = float(after) if re.fullmatch("[0-9]{1,9}", after) else 0.0
            kind = RefusedError if status in self.REFUSALS else UnavailableError
            raise kind(line, status, words, retry_after)

    def remedy(self, status: int, words: str) -> str:
        """Return, as the end of a line, what a person can do, if the status and InfluxDB's words leave no doubt."""
        if status < 400 and not words:
            return ", which is no answer of InfluxDB"
        named = self.destination._asdict()
        found = [remedy for (code, part), remedy in self.REMEDIES.items() if code == status and part in words]
        return f"; {found[0].format_map(named)}" if found else ""

    def explain(self, error: BaseException) -> str:
        """Return why there is no response; with what a person can do, if the system's words leave no doubt."""
        from requests import exceptions

        cause = innermost(error)
        reason = one_line(getattr(cause, "strerror", None) or cause).rstrip(".")
        if isinstance(cause, (TimeoutError, socket.timeout)):
            seconds = CONNECT_SECONDS if isinstance(error, exceptions.ConnectTimeout) else RESPONSE_SECONDS
            return f"does not answer within {seconds:.0f} s"
        if isinstance(error, (exceptions.ProxyError, exceptions.InvalidSchema)):
            proxy = proxy_variable(self.destination.tls)
            return f"cannot be reached through the proxy that {proxy} names: {reason}"
        if isinstance(cause, ConnectionRefusedError):
            return f"cannot be reached: {reason}; start influxd, or give another address with --influx"
        if getattr(cause, "reason", "") == "WRONG_VERSION_NUMBER":
            return "does not use TLS; write influxdb:// for https+influxdb://"
        if getattr(cause, "verify_code", 0) in UNKNOWN_ISSUER:
            issuer = f"has a certificate of an unknown issuer ({getattr(cause, 'verify_message', '')})"
            return f"{issuer}; name the file of a private authority's certificate in REQUESTS_CA_BUNDLE"
        return (
            f"cannot be reached: {reason}" if isinstance(cause, OSError) else f"cannot be used: {one_line(repr(cause))}"
        )


# OpenSSL's codes for a certificate whose issuer is not among the known ones (openssl-verification-options(1)).
UNKNOWN_ISSUER = (2, 18, 19, 20, 21)


def proxy_variable(tls: bool) -> str:
    """Return the name of the environment variable that names the proxy to InfluxDB."""
    names = ("https_proxy" if tls else "http_proxy", "all_proxy")
    found = [name for wanted in names for name in (wanted, wanted.upper()) if os.environ.get(name)]
    return found[0] if found else "the system"


def read_content(raw: Any) -> bytes:
    """Read the content of a response, in pieces: as much as CONTENT_BYTES and CONTENT_SECONDS allow."""
    content, end = bytearray(), monotonic() + CONTENT_SECONDS
    while len(content) < CONTENT_BYTES and monotonic() < end and (piece := raw.read(64)):
        content += piece
    return bytes(content)


def errors_in(content: bytes) -> Optional[list[str]]:
    """Return the error messages in InfluxDB's JSON; None if this is not such JSON.

    1.8 has `{"error": "…"}` or `{"results": [{"error": "…"}]}`, 2.x has `{"code": "…", "message": "…"}`.
    """
    try:
        document = json.loads(content)
        parts = (document, *document.get("results", []))
        return [one_line(part[key]) for part in parts for key in ("error", "message") if key in part]
    except (ValueError, AttributeError, TypeError):
        return None


def words_in(content: bytes) -> str:
    """Return a text on one line; of HTML, only the title."""
    text = content.decode(errors="replace")
    title = re.search("(?is)<title[^>]*>(.*?)</title", text)
    return one_line(title[1] if title else text)


def innermost(error: BaseException) -> BaseException:
    """Return the error that this one began with, which has the message of the system or of the other side."""
    while inner := error.__cause__ or (None if error.__suppress_context__ else error.__context__):
        error = inner
    return error


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, by name or address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


# --------------------------------------------------------------------------------- Reporter and courier


class Interval(NamedTuple):
    """What the server did while it counted the requests of a point."""

    requests: int
    seconds: float
    peak: float  # requests per second


def log_failure(troubles: Once, what: str, error: BaseException, outbox: Outbox) -> None:
    """Log an error after which the next round may succeed, once until all is well."""
    if isinstance(error, UnavailableError):
        troubles.warn(f"{error}; points wait in {outbox.display_name}")
    elif isinstance(error, (sqlite3.Error, OSError, MemoryError)):
        troubles.warn(f"{what}: {outbox.explain(error)}; requests are still counted")
    elif troubles.warn(f"A bug in this server: {error!r}"):
        log.error("It came from here:", exc_info=error)


class Courier(threading.Thread):
    """The daemon thread that delivers the points in the outbox, and logs what became of those of each interval.

    InfluxDB, a proxy or a name server may hold it up for as long as they like: nothing waits for it but the end of
    the program, which has a deadline.
    """

    def __init__(self, outbox: Outbox, influxdb: InfluxDB, longest_pause: float, quiet: bool = False) -> None:
        """longest_pause (s) is that between two attempts. If quiet, it logs no interval but the last."""
        super().__init__(name="courier", daemon=True)
        self.outbox, self.influxdb, self.longest_pause, self.quiet = outbox, influxdb, longest_pause, quiet
        self.status = "no point sent yet"  # for the live line
        self.intervals: deque[Interval] = deque()  # those not logged yet; the thread that takes one out logs it
        self.wakeup, self.ending = threading.Event(), threading.Event()  # another interval; the last one
        self.taken = self.taken_before = 0  # points that InfluxDB has taken; how many when none waited last
        self.newest_taken = Point(0, 0, 0)
        self.rejected = 0  # points, in this delivery
        self.troubles, self.rejections = Once(), Once()

    def hand_over(self, interval: Optional[Interval], is_last: bool = False) -> None:
        """Have the points delivered, and this interval logged, if there is one. Earlier ones are logged now."""
        if self.intervals:
            seconds = monotonic() - self.influxdb.began
            if seconds > SLOW_SECONDS:
                self.troubles.warn(f"{self.influxdb.name} has not finished an answer in {seconds:.0f} s")
            self.log_intervals()
        if interval:
            self.intervals.append(interval)
        if is_last:
            self.ending.set()
        self.wakeup.set()

    def run(self) -> None:
        pause, is_last = 0.0, False
        while not is_last:
            is_last = self.ending.is_set()
            pause = self.round(pause, is_last)
            if not is_last:
                self.wakeup.wait(pause or None)
                self.wakeup.clear()

    def round(self, pause: float, is_last: bool = False) -> float:
        """Deliver, after a pause of so many seconds, and log what became of it; return the next pause, 0 for none."""
        failure, is_done = None, False
        try:
            is_done = self.deliver()
            pause = 0.0
        except BaseException as error:
            failure = error
            longer = min(max(RETRY_SECONDS, 2 * pause), self.longest_pause)
            pause = max(longer, getattr(error, "retry_after", 0.0))
        with contextlib.suppress(BaseException):  # there may be no memory to log it
            if failure:
                self.status = "InfluxDB takes no points"
                log_failure(self.troubles, "No point can be delivered", failure, self.outbox)
            elif is_done and self.taken:
                self.log_success()
            if is_last or not self.wakeup.is_set():  # or the next round follows at once
                self.log_intervals(is_last)
        return pause

    def stop(self, end: float) -> None:
        """Let the thread deliver until end (monotonic seconds); then log the intervals that it has not logged."""
        self.ending.set()
        self.wakeup.set()
        self.join(max(0.0, end - monotonic()))
        self.log_intervals(is_last=True)

    def deliver(self) -> bool:
        """Send the points that wait, in order; return whether that was all, or another interval ended meanwhile.

        Raises UnavailableError, sqlite3.Error.
        """
        self.rejected = 0
        if not (self.taken or self.outbox.oldest(1)):  # so that a person learns at once whether InfluxDB is there
            self.influxdb.check_reachable()
        while points := self.outbox.oldest(BATCH_POINTS):
            self.send(points)
            if self.wakeup.is_set():
                return len(points) < BATCH_POINTS
        return True

    def send(self, points: list[Point]) -> None:
        """Send points. Raises UnavailableError if InfluxDB takes none now.

        A point is at fault if InfluxDB refuses it alone, and takes one that was recorded later, both before and after
        that. If it refuses that, too, the cause is another (a full disk, a limit, a proxy), and all points wait.
        """
        try:
            self.write(points)
        except RefusedError:
            witness = max([self.newest_taken, *self.outbox.newest()])
            self.write([witness])
            refused = list(self.find_refused([point for point in points if point != witness]))
            if refused:
                self.write([witness])
            for group, reason in refused:
                self.outbox.move_to_rejected(group, reason)
                self.rejected += len(group)
                place = f"table rejected of {self.outbox.display_name}"
                self.rejections.warn(f"InfluxDB rejects points, now kept in {place}: {reason}")

    def find_refused(self, points: list[Point]) -> Iterator[tuple[list[Point], str]]:
        """Send points, and halve what is refused; yield the points that are refused alone, or all at once, and why."""
        if not points:
            return
        try:
            self.write(points)
        except RefusedError as refusal:
            if len(points) == 1 or refusal.dropped == len(points):
                yield points, refusal.words or str(refusal)
            else:
                middle = len(points) // 2
                yield from self.find_refused(points[:middle])
                yield from self.find_refused(points[middle:])

    def write(self, points: list[Point]) -> None:
        """Write points, and forget them: they are acknowledged. Raises UnavailableError, RefusedError."""
        self.influxdb.write(points)
        removed = self.outbox.remove(points)
        if not self.taken:  # now that there is one that InfluxDB takes, see whether it still rejects the others
            self.outbox.requeue_rejected()
        self.taken += removed
        self.newest_taken = max(self.newest_taken, *points)

    def log_success(self) -> None:
        """Log that InfluxDB takes points, if that is new, and how many had waited."""
        self.status = "InfluxDB rejects points" if self.rejected else "InfluxDB takes points"
        late, is_first = self.taken - self.taken_before, not self.taken_before
        self.taken_before = self.taken
        had_waited = f"; {counted(late, 'point')} had waited" if late > 1 else ""
        if self.troubles.well():
            log.info("All is well again: InfluxDB takes points%s", had_waited)
        elif is_first:
            log.info("InfluxDB takes points%s", had_waited)

    def log_intervals(self, is_last: bool = False) -> None:
        """Log the intervals that are not logged yet: how many requests came, and where the points are."""
        number = len(self.intervals)
        pending, place = self.outbox.pending, self.outbox.display_name
        level, fate = logging.INFO, "delivered to InfluxDB"
        if pending:
            self.status = f"{counted(pending, 'point')} waiting"
            fate = f"points waiting in {place}: {pending}"
            if is_last and self.outbox.path == ":memory:":
                level, fate = logging.WARNING, f"points lost, as they were in memory only: {pending}"
        elif self.rejected:
            fate = f"points that InfluxDB rejected: {self.rejected}"
        for _ in range(number):
            try:
                interval = self.intervals.popleft()
            except IndexError:
                return  # another thread has logged it
            if is_last or not self.quiet:
                rate = interval.requests / max(interval.seconds, 0.001)
                rates = f"{per_second(rate)}, at most {per_second(max(rate, interval.peak))}"
                requests = f"{counted(interval.requests, 'request')} in {duration(interval.seconds)} ({rates})"
                log.log(level, "%s; %s", requests, fate)


class Reporter(threading.Thread):
    """The daemon thread that wakes at each interval, and records a point in the outbox for the courier to deliver.

    It waits for nothing but the disk.
    """

    def __init__(
        self, outbox: Outbox, courier: Courier, interval: float, take_recent_peak: Callable[[], float] = float
    ) -> None:
        """interval is in seconds; take_recent_peak() returns the most requests in a second since its last call."""
        super().__init__(name="reporter", daemon=True)
        self.outbox, self.courier, self.interval, self.take_recent_peak = outbox, courier, interval, take_recent_peak
        self.stopping = threading.Event()
        self.retry_end = inf  # at the end, until when a recording that fails is tried again, in monotonic seconds
        self.is_done = False  # the last point is recorded
        self.began = monotonic()  # the interval
        self.clock_offset = time_ns() / 1e9 - self.began  # of the system's clock to the monotonic one, in seconds
        self.troubles, self.problems = Once(), Once()

    def run(self) -> None:
        due = monotonic() + self.interval
        while not self.stopping.wait(due - monotonic()):
            missed = max(0.0, monotonic() - due) // self.interval
            due += self.interval * (1 + missed)  # on the old schedule, without the intervals that were missed
            if interval := self.record():
                self.courier.hand_over(interval)
        while not (last := self.record()) and monotonic() < self.retry_end:
            sleep(PAUSE_SECONDS)
        self.is_done = last is not None
        self.courier.hand_over(last, is_last=True)

    def stop(self, end: float) -> None:
        """Record the last, partial interval, for which half of the time is left, and let the courier deliver until end.

        end is in monotonic seconds.
        """
        self.retry_end = (monotonic() + end) / 2
        self.stopping.set()
        self.join(max(0.0, self.retry_end - monotonic()) + PAUSE_SECONDS)
        if not self.is_done:
            log.warning("The last point could not be recorded")
        self.courier.stop(end)

    def record(self) -> Optional[Interval]:
        """Record a point; return its interval, or None if that failed."""
        try:
            self.log_problems()
            now = time_ns()
            self.log_clock_step(now / 1e9 - monotonic())
            point = self.outbox.record(now)
            if self.troubles.well():
                log.info("Points are recorded again")
            began, self.began = self.began, monotonic()
            return Interval(point.number, self.began - began, self.take_recent_peak())
        except BaseException as error:
            with contextlib.suppress(BaseException):  # there may be no memory to log it
                log_failure(self.troubles, "No point can be recorded", error, self.outbox)
        return None

    def log_problems(self) -> None:
        """Log what is wrong with the counter file, once until it changes."""
        problems = list(self.outbox.counter.problems())
        for problem in problems:
            self.problems.warn(problem)
        if not problems:
            self.problems.well()

    def log_clock_step(self, offset: float) -> None:
        """Log a step of the system's clock, whose offset (s) to the monotonic one is now this."""
        step = offset - self.clock_offset
        self.clock_offset = offset
        least = max(self.interval, CLOCK_STEP_SECONDS)
        if step > least:
            log.warning("The system's clock went forward by %.0f s: it was set, or the machine was asleep", step)
        elif step < -least:
            log.warning("The system's clock was set back by %.0f s", -step)


# ================================================================================= Part III: the program
# ---------------------------------------------------------------------------------------------- Sockets


class SelectorPoll:
    """What `select.epoll` does, for systems that have none: kqueue() on macOS, select() on Windows."""

    def __init__(self) -> None:
        selector = self.selector = selectors.DefaultSelector()
        self.register, self.modify, self.unregister = selector.register, selector.modify, selector.unregister
        self.close = selector.close

    def poll(self, timeout: float) -> list[tuple[int, int]]:
        return [(key.fd, events) for key, events in self.selector.select(timeout)]


# `selectors` makes a key object of each event, which costs half a microsecond; epoll does not.
if sys.platform == "linux":
    Poll: Any = select.epoll
    READ, WRITE = select.EPOLLIN, select.EPOLLOUT
else:
    Poll, READ, WRITE = SelectorPoll, selectors.EVENT_READ, selectors.EVENT_WRITE


def listen(address: Optional[str], port: int) -> socket.socket:
    """Make the listening socket, on one address; "::", and None, stand for all of IPv6 and IPv4. Raises StartError."""
    host = address or ("::" if socket.has_dualstack_ipv6() else "0.0.0.0")
    if host[0] + host[-1] == "[]":  # as in a URL
        host = host[1:-1]
    try:
        listener = listen_on_first(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    except (OSError, UnicodeError) as error:  # UnicodeError: no valid host name
        reason = reason_of(error).partition(" (while")[0]
        where = f"{address or 'any address'}, port {port}"
        taken = getattr(error, "errno", None) in (errno.EADDRINUSE, errno.EACCES)
        remedy = "--port or --bind" if taken else "--bind, an address of this machine"
        raise StartError(f"cannot listen on {where}: {reason}; give another {remedy}") from None
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # which the connections inherit
    listener.setblocking(False)
    return listener


def listen_on_first(resolved: list[Any]) -> socket.socket:
    """Listen on the first of these, from getaddrinfo(), that this machine has. Raises OSError."""
    for family, _, _, _, sockaddr in resolved:
        both = sockaddr[0] == "::" and socket.has_dualstack_ipv6()
        try:
            return socket.create_server(sockaddr, family=family, backlog=BACKLOG, dualstack_ipv6=both)
        except OSError as error:
            if sockaddr is resolved[-1][4] or error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    raise OSError("there is no such address")  # getaddrinfo() would have raised it


def prepare_process() -> None:
    """Let this process open as many files, and so connections, as it may, and make garbage collection rare."""
    gc.set_threshold(GARBAGE_OBJECTS)
    if sys.platform != "win32":
        import resource

        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        with contextlib.suppress(ValueError, OSError):  # macOS allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def start_thread(thread: threading.Thread) -> None:
    """Start a thread. Raises StartError if the system does not let it."""
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:  # Python does not say which limit that is
        raise StartError(f"{reason_of(error)} ({HINTS[errno.EAGAIN]}; or of memory: ulimit -v)") from None


# ----------------------------------------------------------------------------------------------- Server


def patience_seconds() -> dict[str, float]:
    """How long a connection may wait for what it awaits."""
    return {REQUEST: IDLE_SECONDS, HEAD: HEAD_SECONDS, BODY: BODY_SECONDS, TURN: inf, LINGER: LINGER_SECONDS}


class Connection:
    """A client's socket, and the handler that answers it.

    When the socket is ready, the serving thread calls the action given to wait_for(): converse, send_replies or linger.
    A connection that sends much at once, or needs much work, takes turns instead.
    """

    __slots__ = (
        "awaited",  # what the handler awaited when it was seen last
        "closed",
        "done",  # the handler has returned
        "event",  # READ, WRITE, or 0 while it waits for a turn
        "generator",
        "handler",
        "receive",
        "resume",
        "send",
        "since",  # when this wait began, in monotonic seconds
        "sock",
        "thread",
        "unsent",  # replies that are to be sent
    )

    def __init__(self, sock: socket.socket, client_address: tuple[Any, ...], thread: "ServingThread") -> None:
        sock.setblocking(False)
        self.sock, self.thread = sock, thread
        self.handler = thread.server.handler_class(client_address, thread.server, thread)
        self.generator = self.handler.handle()
        next(self.generator)
        self.receive, self.resume, self.send = sock.recv, self.generator.send, sock.send
        self.awaited, self.since = REQUEST, thread.now
        self.event, self.unsent = 0, b""
        self.done = self.closed = False

    def converse(self, size: int = LIGHT_BYTES) -> None:
        """Receive, let the handler answer, and wait for what it awaits; the thread sends the answer. Raises OSError."""
        data = b""
        try:
            data = self.receive(size)
            self.unsent = self.resume(data)
        except BlockingIOError:  # nothing has come
            pass
        except StopIteration as last:
            self.finish(last.value)
            return
        thread, awaits = self.thread, self.handler.awaits
        if self.unsent:
            thread.answered.append(self)
            self.awaited, self.since = awaits, thread.now
        elif awaits is not self.awaited:
            self.awaited, self.since = awaits, thread.now
        if awaits is TURN or len(data) == size > 0:
            self.take_turns(size)
        elif self.event != READ:
            self.wait_for(READ, self.converse)

    def take_turns(self, size: int) -> None:
        """Wait for a turn, after so many bytes have been received, or after a turn at long work: 0."""
        if size:
            self.wait_for(0, self.converse)
            self.thread.turns.append(self)
        else:
            self.thread.turns.appendleft(self)  # finish one before the next, because each holds many objects

    def waits_for_turn(self) -> bool:
        """False if it has been closed since it began to, or waits for its socket: its client takes no replies."""
        return not (self.event or self.closed)

    def finish(self, replies: bytes) -> None:
        """Have the last replies of the handler sent, and then end."""
        self.done = True
        self.unsent, self.since = replies, self.thread.now
        if replies:
            self.thread.answered.append(self)
        else:
            self.end()

    def send_replies(self) -> None:
        """Send what the client takes; until that is all, nothing more is received. Raises OSError."""
        unsent = self.unsent
        try:
            sent = self.send(unsent)
        except BlockingIOError:
            sent = 0
        if sent < len(unsent):
            self.unsent = unsent[sent:]
            self.wait_for(WRITE, self.send_replies)
            return
        self.unsent = b""
        if self.done:
            self.since = self.thread.now
            self.end()
        elif self.event == WRITE:
            self.awaited, self.since = self.handler.awaits, self.thread.now
            self.wait_for(READ, self.converse)

    def end(self) -> None:
        """Close; or, where the client may send on, say that nothing follows, and wait for it to end.

        Closing with bytes unread would reset the connection and lose the last reply (RFC 9112 §9.6).
        """
        if self.handler.awaits is LINGER:
            self.sock.shutdown(socket.SHUT_WR)
            self.wait_for(READ, self.linger)
        else:
            self.close()

    def linger(self) -> None:
        """Throw away what the client still sends."""
        with contextlib.suppress(BlockingIOError):
            if not self.receive(TURN_BYTES):
                self.close()

    def refuse(self, refusal: RequestError) -> None:
        """Answer with a refusal in place of what the client has not yet sent, and end."""
        try:
            self.generator.throw(refusal)
        except StopIteration as last:
            self.finish(last.value)

    def wait_for(self, event: int, action: Callable[[], None]) -> None:
        """Have an action called when the socket is ready to READ or WRITE; or, where event is 0, not."""
        poll, descriptor = self.thread.poll, self.sock.fileno()
        if event != self.event:
            if not event:
                poll.unregister(descriptor)
            elif self.event:
                poll.modify(descriptor, event)
            else:
                poll.register(descriptor, event)
        self.event = event
        self.thread.actions[descriptor] = action

    def expire(self, seconds: float) -> None:
        """Refuse an unfinished request, or close: its time, so many seconds, is over."""
        awaits = self.handler.awaits
        if awaits in (HEAD, BODY) and not self.unsent:
            self.refuse(RequestError(408, f"The request's {awaits} took longer than {seconds:.0f} s."))
        else:
            log.debug("%s sent nothing, or read nothing, for too long", self.handler.address_string())
            self.close()

    def hurry(self) -> None:
        """While stopping: close if idle or done; after the grace, refuse what is unfinished. Raises OSError."""
        if self.is_idle():
            self.converse()  # a request may have come
            if self.is_idle():
                self.close()
        elif self.done and not self.unsent:
            if self.thread.now > self.since + LAST_WORDS_SECONDS:
                self.close()
        elif self.thread.now > self.thread.server.grace_end and not self.unsent:
            self.refuse(RequestError(503, "The server is stopping."))

    def is_idle(self) -> bool:
        """Whether nothing is to be done before the client sends a request."""
        return self.handler.awaits is REQUEST and not (self.unsent or self.done or self.closed)

    def close(self) -> None:
        if self.closed:  # it could not be watched, and its reply was still to be sent
            return
        if self.event:
            self.thread.poll.unregister(self.sock.fileno())
        self.thread.forget(self)
        self.sock.close()
        self.closed = True


class ServingThread(threading.Thread):
    """Serves many connections. Each runs until it would have to wait; long work takes turns.

    After a turn, TURN_REST times its length belongs to the others, if they need it. So large bodies, long
    queries and long pipelines cost them no more than a fifth of the time.
    """

    def __init__(self, server: "SumServer", number: int, cell: Cell) -> None:
        """number is the index of this thread in server.loads."""
        super().__init__(name=f"server {number}", daemon=True)
        self.server, self.number, self.cell = server, number, cell
        self.poll = Poll()
        self.connections: dict[int, Connection] = {}  # by descriptor
        self.actions: dict[int, Callable[[], Any]] = {}  # what is to be done when a descriptor is ready
        self.arrived = 0  # requests that are not yet in the cell
        self.answered: list[Connection] = []  # those whose replies are due
        self.turns: deque[Connection] = deque()  # those that wait for theirs, or have been closed since
        self.now = self.next_second = self.turn_due = monotonic()
        self.listening = server.socket.fileno()
        self.actions[self.listening] = self.accept
        self.listen_again_at = self.now  # infinity while it listens
        self.due = self.now  # the earlier of next_second and listen_again_at; while stopping, the next look at all
        self.accepted = 0  # connections, in this second
        self.other, self.chances = (-1, 0), CHANCES  # to whom it gave way, the load of that; how often it still will
        self.overloaded_at = -inf  # when the system last refused to let it accept
        self.drained = threading.Event()  # the backlog at the end is accepted
        self.alarm, self.alarmed = socket.socketpair()  # wakes poll()
        self.actions[self.alarmed.fileno()] = partial(self.alarmed.recv, 1)  # run() then finds out why
        self.poll.register(self.alarmed.fileno(), READ)

    def run(self) -> None:
        self.tell_load()
        while not self.server.stopping:
            self.go_on()
        self.wind_down()
        self.poll.close()

    def go_on(self) -> None:
        """serve(); whatever it raises does not end the thread."""
        try:
            self.serve()
        except Exception:
            with contextlib.suppress(Exception):  # there may be no memory to log it
                log.exception("A bug in this server, which goes on")
            sleep(PAUSE_SECONDS)

    def serve(self) -> None:
        """Wait until a connection is ready, or something else is due, and do all that is."""
        wait = self.due - self.now
        if self.turns:  # that nothing is ready yet proves no pause: the next requests of the others may be under way
            wait = min(wait, QUIET_SECONDS) if self.turn_due - monotonic() > QUIET_SECONDS else 0.0
        ready = self.poll.poll(wait if wait > 0 else 0)  # negative: for ever
        self.now = now = monotonic()
        actions = self.actions
        for descriptor, _ in ready:
            try:
                actions[descriptor]()
            except Exception as error:
                self.drop(self.connections.get(descriptor), error)
        self.send_answers()
        if self.turns and (not ready or now >= self.turn_due):
            self.give_turn(self.turns.popleft())
        if now >= self.due:
            self.do_what_is_due()

    def increment(self) -> None:
        """Count one request, on behalf of a handler; it is in the cell before its reply is sent."""
        self.arrived += 1

    def send_answers(self) -> None:
        """Count the requests that have arrived, and then send the replies to them.

        All in one go, not each when it is made: that keeps the cache warm (5 % of a GET, at 64 connections).
        """
        self.cell.increment(self.arrived)
        self.arrived = 0
        for connection in self.answered:
            try:
                connection.send_replies()
            except Exception as error:
                self.drop(connection, error)
        self.answered.clear()

    def give_turn(self, connection: Connection) -> None:
        """Let what takes long go on, and measure for how long others then have the time to themselves."""
        if connection.waits_for_turn():
            begin = monotonic()
            size = 0 if connection.handler.awaits is TURN else TURN_BYTES
            self.attempt(connection, partial(connection.converse, size))
            self.send_answers()
            end = monotonic()
            self.turn_due = end + TURN_REST * (end - begin)

    def attempt(self, connection: Connection, action: Callable[[], None]) -> None:
        """Do something with a connection, and close it if that fails."""
        try:
            action()
        except Exception as error:
            self.drop(connection, error)

    def drop(self, connection: Optional[Connection], error: Exception) -> None:
        """Close a connection whose client hung up, which is ordinary life, or whose handler failed, which is a bug."""
        try:
            if connection and isinstance(error, OSError):
                log.debug("%s hung up: %s", connection.handler.address_string(), error)
            else:
                log.exception("A bug in this server: a connection could not be served")
        finally:
            if connection:
                connection.close()

    def do_what_is_due(self) -> None:
        """Do the work of each second, and listen again, if it is time for that; set the next deadline."""
        if self.now >= self.next_second:
            self.each_second()
        if self.now >= self.listen_again_at:
            self.listen()
        self.due = min(self.next_second, self.listen_again_at)

    def each_second(self) -> None:
        """Renew the date, restart the count of accepted connections, end the overdue ones."""
        self.next_second = self.now + 1 - time() % 1
        self.server.renew_date()
        self.accepted = 0
        self.tell_load()
        self.cell.tell_usage(len(self.connections), process_time() if self is self.server.threads[0] else 0.0)
        patience = patience_seconds()
        for connection in list(self.connections.values()):
            if connection.waits_for_turn():  # for which the client is not to blame
                connection.since += 1
                continue
            seconds = SEND_SECONDS if connection.unsent else patience[connection.handler.awaits]
            if self.now - connection.since >= seconds:
                self.attempt(connection, partial(connection.expire, seconds))
        self.send_answers()

    def accept(self) -> bool:
        """Accept connections, and answer at once the requests that came with them; whether more may wait."""
        for _ in range(ACCEPT_AT_ONCE):
            try:
                if len(self.connections) >= CONNECTIONS:
                    raise OSError(errno.EMFILE, f"select() takes no more than {CONNECTIONS} connections")
                sock, client_address = self.server.get_request()
                connection = Connection(sock, client_address or ("?", 0), self)  # macOS knows no address of some
            except BlockingIOError:
                return False
            except ConnectionError:  # the client has gone
                continue
            except OSError as error:
                self.wait_for_room(error)
                return False
            self.connections[sock.fileno()] = connection
            self.accepted += 1
            self.tell_load()
            self.attempt(connection, connection.converse)
            if self.is_ahead():
                self.pause_accepting(YIELD_SECONDS)
                return True
        return True

    def is_ahead(self) -> bool:
        """Whether another thread should accept the next connections; not one that has let many chances pass."""
        loads = list(self.server.loads)
        least = min(loads)
        if loads[self.number] <= least + UNEVEN_CONNECTIONS:
            return False
        other = loads.index(least), least
        self.chances = self.chances - 1 if other == self.other else CHANCES
        self.other = other
        return self.chances > 0

    def listen(self) -> None:
        """Have accept() called when connections come; if the system cannot tell when that is, try again soon."""
        try:
            self.poll.register(self.listening, READ)
        except OSError as error:
            self.wait_for_room(error)
        else:
            self.listen_again_at = inf

    def wait_for_room(self, error: OSError) -> None:
        """Accept nothing for a moment, because the system does not let it; log that once while it lasts."""
        self.pause_accepting(PAUSE_SECONDS)
        if self.now - self.overloaded_at > 1:
            log.warning("No connection can be accepted now (%s); new ones wait in the listen backlog", error)
        self.overloaded_at = self.now

    def pause_accepting(self, seconds: float) -> None:
        """Let connections wait in the backlog, or be accepted by others, for some time."""
        if self.listen_again_at == inf:
            self.poll.unregister(self.listening)
        self.listen_again_at = self.now + seconds
        self.due = min(self.due, self.listen_again_at)

    def forget(self, connection: Connection) -> None:
        descriptor = connection.sock.fileno()
        del self.connections[descriptor]
        self.actions.pop(descriptor, None)
        self.tell_load()

    def tell_load(self) -> None:
        """Publish this thread's load: its connections, and some that were short."""
        self.server.loads[self.number] = len(self.connections) + min(self.accepted, BURST_CONNECTIONS)

    def wind_down(self) -> None:
        """Serve the connections that have come, accept no more, and end each when it is answered.

        At the end of the grace, what is still being received is refused; soon after, all that is left is closed.
        """
        begin, grace_end = monotonic(), self.server.grace_end
        while self.accept() and monotonic() < begin + BACKLOG_SECONDS:
            pass
        self.pause_accepting(inf)
        self.drained.set()
        while self.connections and monotonic() < grace_end + LAST_WORDS_SECONDS:
            for connection in list(self.connections.values()):
                self.attempt(connection, connection.hurry)
            self.send_answers()
            self.due = min(self.due, self.now + HURRY_SECONDS)
            self.go_on()
        for connection in list(self.connections.values()):
            connection.close()


class SumServer(ThreadingHTTPServer):
    """Serves connections, in a thread for each cell that it is given.

    Of its base class it keeps the socket and how to accept from it; it serves by readiness, not by a thread for each.
    """

    def __init__(
        self,
        listener: socket.socket,
        cells: list[Cell],
        handler_class: type[SumHandler] = SumHandler,
        loads: Optional[memoryview] = None,
        first: int = 0,
    ) -> None:
        """listener comes from listen(); loads has an entry for each thread, this server's from the first on.

        Other processes may share both.
        """
        super().__init__(listener.getsockname(), handler_class, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.handler_class = handler_class
        self.stopping, self.grace_end = False, inf
        self.reply_starts = reply_starts(time())
        self.loads: Any = [0] * len(cells) if loads is None else loads
        self.threads = [ServingThread(self, first + number, cell) for number, cell in enumerate(cells)]

    def start(self) -> None:
        """Start to serve. Raises StartError."""
        for thread in self.threads:
            start_thread(thread)

    def renew_date(self) -> None:
        """Let replies begin with the date of this second; in place, because handlers hold the dict."""
        self.reply_starts.update(reply_starts(time()))

    def stop(self) -> None:
        """Stop accepting, answer what has come, and end within GRACE_SECONDS and a second."""
        self.grace_end = monotonic() + GRACE_SECONDS
        self.stopping = True
        started = [thread for thread in self.threads if thread.ident]
        for thread in started:
            thread.alarm.send(b"!")
        for thread in started:
            thread.drained.wait(max(0.0, self.grace_end - monotonic()))
        self.server_close()
        for thread in started:
            thread.join(max(0.0, self.grace_end + 1 - monotonic()))
        for thread in self.threads:
            thread.alarm.close()
            thread.alarmed.close()


# ------------------------------------------------------------------------------------- Terminal and log

# Ctrl-C; kill and systemd; the end of the terminal; Ctrl-Break on Windows
STOP_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)]


class Output(BufferedIOBase):
    """Standard output or error, for which nobody waits: a thread of its own writes what others have written here.

    What comes when OUTPUT_BYTES wait, or cannot be written, is lost; a line of the log counts it when there is room.
    logging.handlers.QueueListener is not used: it takes log records only, and writes them one by one, which costs more
    than to answer a request; and nothing bounds the time that its end takes.
    """

    def __init__(self, descriptor: int) -> None:
        self.name = descriptor
        self.file = os.fdopen(descriptor, "wb", 0, closefd=False)
        self.waiting: SimpleQueue[bytes] = SimpleQueue()
        self.lock = threading.RLock()  # guards `size` and `lost`; a destructor that warns may come back to it
        self.size = 0  # bytes that wait or are being written
        self.lost = self.lost_logged = 0  # lines, and how many of them the log has told of
        self.live_line: Optional[str] = None  # kept below all that is written; None where there never is one
        self.ending = threading.Event()
        self.writer = threading.Thread(target=self.write_what_waits, name=f"output {descriptor}", daemon=True)
        with contextlib.suppress(RuntimeError):  # the system lets no thread start: finish() does its work
            self.writer.start()

    def write(self, data: Any) -> int:
        """Let whole lines be written soon."""
        with self.lock:
            if self.size < OUTPUT_BYTES:
                self.size += len(data)
                self.waiting.put(data)
            else:
                self.lost += data.count(b"\n")
        return len(data)

    def write_what_waits(self) -> None:
        """Write all that waits, again and again until the end."""
        while not self.ending.is_set() or self.waiting.qsize():
            with contextlib.suppress(Exception):  # there may be no memory for it
                self.write_batch()
            self.ending.wait(OUTPUT_REST_SECONDS)

    def write_batch(self) -> None:
        """Write all that waits now, or wait for something; tell what was lost, if there is room again."""
        batch = [self.waiting.get()]
        batch += [self.waiting.get() for _ in range(self.waiting.qsize())]
        unwritten, text = batch, b""
        try:
            text = self.with_live_line(b"".join(batch))
            unwritten = [self.write_now(text)]
        finally:
            with self.lock:
                self.size -= sum(map(len, batch))
                self.lost += sum(part.count(b"\n") for part in unwritten)
        if text and not any(unwritten) and self.lost > self.lost_logged:
            self.lost_logged = self.lost
            log.warning("Lost of this log by now, not read or not to be written: %s", counted(self.lost, "line"))

    def show(self, line: str) -> None:
        """Keep this line below the log; "" leaves room for that of another process."""
        self.live_line = line
        self.waiting.put(b"")

    def with_live_line(self, text: bytes) -> bytes:
        """This text as a terminal is to get it: each line of the log clears the live line, of whichever process.

        The cursor rests where the live line begins, and all behind it is cleared: a terminal that became narrower may
        have wrapped it. In the background, the line that stands there is the shell's.
        """
        if self.live_line is None or not is_in_foreground(self.file):
            return text
        width = terminal_width(self.file) - 1  # in the last column, the cursor of some is on the next line
        clear = b"\r%b\r" % (b" " * width) if os.name == "nt" else b"\r\x1b[J"  # Windows may not know ECMA-48
        live = self.live_line[:width].encode(sys.stderr.encoding, "replace")
        return clear + text.replace(b"\n", b"\n" + clear) + live + b"\r"

    def write_now(self, data: bytes) -> bytes:
        """Write, some whole lines at a time, however long that takes; return what could not be written."""
        start = 0
        while start < len(data):
            end = data.rfind(b"\n", start, start + OUTPUT_PIECE_BYTES) + 1 or len(data)
            try:
                written = self.file.write(data[start:end])
            except OSError:
                break
            if not written:  # a pipe that is full, and was made not to block by another process
                sleep(OUTPUT_REST_SECONDS)
            start += written or 0
        return data[start:]

    def finish(self, until: float) -> None:
        """Wait for what waits to be written, until (monotonic seconds) at most; what comes later never is."""
        self.ending.set()
        self.waiting.put(b"")  # which wakes the writer
        if self.writer.ident is None:
            self.write_what_waits()
        else:
            self.writer.join(max(0.0, until - monotonic()))

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.file.isatty()

    def fileno(self) -> int:
        return self.file.fileno()


def show_live_line(line: str) -> None:
    """See Output.show()."""
    output: Any = sys.stderr.buffer
    output.show(line)


def has_live_line(options: argparse.Namespace) -> bool:
    """Whether there is one: on a terminal that can show it. Only Windows has terminals without a name."""
    has_terminal = os.name == "nt" or os.environ.get("TERM", "dumb") != "dumb"
    return not options.quiet and has_terminal and sys.stderr.isatty()


def is_in_foreground(stream: Any) -> bool:
    """Whether this process may write to its terminal: it is not in the background of a shell."""
    if sys.platform == "win32":
        return True
    try:
        return os.tcgetpgrp(stream.fileno()) == os.getpgrp()
    except OSError:  # not the controlling terminal, which alone has a foreground
        return True


def terminal_width(stream: Any) -> int:
    """Its columns, as of now."""
    try:
        return max(2, os.get_terminal_size(stream.fileno()).columns or 80)  # some terminals do not say
    except OSError:
        return 80


def blocks_for(stream: Any) -> str:
    """The blocks of a curve, if a stream's encoding has them, and the locale's, which Python overrides (PEP 540)."""
    encodings = [stream.encoding]
    if sys.platform != "win32":
        encodings.append(locale.nl_langinfo(locale.CODESET))
    try:
        for encoding in encodings:
            BLOCKS.encode(encoding)
    except UnicodeEncodeError:
        return ""
    return BLOCKS


@contextlib.contextmanager
def outputs_in_background() -> Iterator[None]:
    """Let nobody wait for standard output and error, or fail for their sake, whatever they are; not even if closed."""
    open_standard_descriptors()
    error = Output(2)
    output = error if os.path.samestat(os.fstat(1), os.fstat(2)) else Output(1)  # one, so that all stays in order
    stdout, stderr = (
        TextIOWrapper(
            raw,
            encoding=encoding_of(stream, raw.fileno()),
            errors="backslashreplace",
            line_buffering=True,
        )
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


def encoding_of(stream: Any, descriptor: int) -> Optional[str]:
    """The encoding of a standard stream; None if it was closed at the start. Windows' console has a code page."""
    of_console = os.device_encoding(descriptor) if os.name == "nt" else None
    return of_console or getattr(stream, "encoding", None)


def open_standard_descriptors() -> None:
    """Let those of standard input, output and error that are closed lead nowhere; not to the next file, a counter's."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


# What stands in the access log as \xHH, as nginx writes it, and what as it is
UNLOGGED = re.compile(rb"[^ !#-\[\]-~]")
CUT_ESCAPE = re.compile(rb"\\(?:x.?)?\Z")
LOGGED = bytes(byte for byte in range(256) if not UNLOGGED.match(bytes([byte])))


class LoggingHandler(SumHandler):
    """The handler of `--access-log`: a line on standard error for each reply, in the Common Log Format.

    (Apache HTTP Server 2.4, mod_log_config: `%h %l %u %t "%r" %>s %B`.)
    """

    def log_reply(self, request: bytes, status: int, length: int) -> None:
        line = request.removeprefix(b"\r\n").partition(b"\r\n")[0]
        if len(line) > LOGGED_BYTES or line.translate(None, LOGGED) or not line:
            line = escaped(line)
        form = b'%b - - [%b] "%b" %d %d\n'
        client = self.address_string().encode()
        sys.stderr.buffer.write(form % (client, log_time(int(time())), line, status, length))


def escaped(line: bytes) -> bytes:
    """A request line, or its beginning, as the access log shows it."""
    shown = UNLOGGED.sub(lambda match: b"\\x%02X" % ord(match[0]), line[:LOGGED_BYTES])
    return CUT_ESCAPE.sub(b"", shown[:LOGGED_BYTES]) or b"-"


@lru_cache(maxsize=1)
def log_time(second: int) -> bytes:
    """A time (seconds since 1970) as the access log shows it."""
    return strftime("%d/%b/%Y:%H:%M:%S %z", localtime(second)).encode()


def handler_for(options: argparse.Namespace) -> type[SumHandler]:
    return LoggingHandler if options.access_log else SumHandler


def configure_logging(options: argparse.Namespace) -> None:
    """Log to standard error, in local time."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", datefmt="%Y-%m-%d %H:%M:%S")
    log.setLevel(logging.DEBUG if options.verbose else logging.INFO)


def catch_signals() -> socket.socket:
    """Return a socket that becomes readable when a signal asks to stop; a second Ctrl-C ends the process at once.

    The byte comes from C (`set_wakeup_fd`), so that a signal between two system calls is not overlooked.
    """
    readable, writable = socket.socketpair()
    writable.setblocking(False)
    asked_at = inf

    def ask(signum: int, frame: Any) -> None:
        nonlocal asked_at
        if monotonic() > asked_at + REPEAT_SECONDS and signum != getattr(signal, "SIGHUP", None):
            os._exit(130)
        asked_at = min(asked_at, monotonic())

    signal.set_wakeup_fd(writable.detach(), warn_on_full_buffer=False)  # open for as long as the process is
    for signum in STOP_SIGNALS:
        if signal.getsignal(signum) is not signal.SIG_IGN:  # as SIGINT in background jobs of a shell, SIGHUP by nohup
            signal.signal(signum, ask)
    return readable


@contextlib.contextmanager
def stop_signals_blocked() -> Iterator[None]:
    """Block the stop signals meanwhile, where the system can."""
    if sys.platform == "win32":
        yield
        return
    from multiprocessing import resource_tracker

    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()  # a process, which is to outlive these signals; its start unblocks some
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# ---------------------------------------------------------------------------------------------- Workers


def serving_threads(processes: int) -> int:
    """How many threads can serve at once in each of so many processes: one, unless Python has no global lock."""
    if "t" not in getattr(sys, "abiflags", ""):  # a free-threaded build has it (PEP 703)
        return 1
    return max(1, min(cpu_count(), CELLS) // processes)


def cpu_count() -> int:
    """How many CPUs this process may use, the last of them perhaps in part."""
    return ceil(cpu_limit())


def cpu_limit() -> float:
    """The CPUs that this process may use: by its affinity, and by the quota of its container."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return min([len(os.sched_getaffinity(0)), *cpu_quotas()])


def cpu_quotas(proc: str = "/proc", groups: str = "/sys/fs/cgroup") -> Iterator[float]:
    """The CPUs that each control group of this process may use (Linux, cgroup-v2.rst and sched-bwc.rst)."""
    for line in read_text(f"{proc}/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = f"{groups}/cpu" if controllers else groups
        parts = [part for part in group.split("/") if part]
        for depth in range(len(parts), -1, -1):  # in a container, the path may be that of the machine outside
            folder = "/".join(parts[:depth])
            if controllers:
                figures = [read_text(f"{root}/{folder}/cpu.cfs_{figure}_us").strip() for figure in ("quota", "period")]
            else:
                figures = read_text(f"{root}/{folder}/cpu.max").split()
            if len(figures) == 2 and all(map(str.isdecimal, figures)):  # without a quota it is "max" or -1
                yield int(figures[0]) / int(figures[1])


def read_text(path: str) -> str:
    """The text of a file of the system; empty if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return os.fsdecode(file.read())
    except OSError:
        return ""


class Worker:
    """A process that serves beside this one, and those that take its place when it dies."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: Any = None
        self.pipe: Any = None  # brings its word, takes the order to stop; its end tells each side that the other died
        self.serves_since = inf  # in monotonic seconds, as the next one
        self.start_at, self.pause = inf, RESPAWN_SECONDS  # when the next is started; the pause after that
        self.fails = False  # it has been logged that nobody takes its place

    def take_word(self) -> str:
        """Receive why it does not serve; "" if it does, from now on."""
        try:
            word: str = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join(PAUSE_SECONDS)  # it is ending
            return f"exit code {self.process.exitcode}"
        self.serves_since = inf if word else monotonic()
        return word

    def schedule(self) -> None:
        """Have another started after a pause; the pauses grow until one has served for as long as the longest."""
        now = monotonic()
        if now - self.serves_since >= RESPAWN_LONGEST_SECONDS:
            self.pause = RESPAWN_SECONDS
        self.start_at = now + self.pause
        self.pause = min(2 * self.pause, RESPAWN_LONGEST_SECONDS)

    def let_go(self) -> None:
        """Close what belonged to the process that died."""
        self.pipe.close()
        with contextlib.suppress(ValueError):  # it is still ending
            self.process.close()
        self.pipe, self.serves_since = None, inf


class Workers:
    """Several processes that accept from one listening socket and count in one counter file.

    Worker 1 is this process. So the port is served for as long as it is open, whatever becomes of the others.
    """

    DEAD = 2**31 - 1  # the load of a dead worker's threads: nobody waits for them

    def __init__(self, listener: socket.socket, counter: Counter, options: argparse.Namespace) -> None:
        """counter counts in the cells of worker 1. Raises StartError, OSError."""
        from multiprocessing import connection, get_context  # one process has no need of it

        self.wait: Any = connection.wait
        self.context = get_context("spawn")  # on every system, and without a copy of this process's threads
        self.listener, self.counter, self.options = listener, counter, options
        self.program = getattr(sys.modules["__main__"], "__file__", None)
        self.source = self.read_program()
        self.loads = counter.loads(options.workers * options.threads)
        self.connections = counter.cell_words(2, options.workers * options.threads)
        self.server = SumServer(listener, counter.cells, handler_for(options), self.loads)
        self.others = [Worker(number) for number in range(2, options.workers + 1)]
        self.stop_asked, self.stopping = self.context.Pipe(duplex=False)  # the end of this pipe is the order
        self.replacing = threading.Thread(target=self.replace_dead, name="workers", daemon=True)
        self.logged = ""  # the last bug

    def start(self) -> None:
        """Start all processes, and return when they serve. Raises StartError if one cannot."""
        for worker in self.others:
            try:
                self.spawn(worker)
            except (OSError, MemoryError) as error:
                raise StartError(f"worker {worker.number} cannot be started: {reason_of(error)}") from None
        starting = {worker.pipe: worker for worker in self.others}
        while starting:
            ready = self.wait(list(starting), WORKER_SECONDS)
            if not ready:
                numbers = ", ".join(str(worker.number) for worker in starting.values())
                raise StartError(f"no word from worker {numbers} for {WORKER_SECONDS:.0f} s")
            for worker in map(starting.pop, ready):
                if why_not := worker.take_word():
                    raise StartError(f"worker {worker.number} cannot serve: {why_not}")
        self.server.start()
        start_thread(self.replacing)

    def read_program(self) -> bytes:
        """The file that each new process runs first; empty if there is none. Raises StartError."""
        if self.program is None:
            return b""
        try:
            with open(self.program, "rb") as file:
                return file.read()
        except OSError as error:
            raise StartError(f"workers need the program's file, {self.program}: {reason_of(error)}") from None

    def spawn(self, worker: Worker) -> None:
        """Start a process. Raises StartError, OSError, MemoryError."""
        self.mark_dead(worker)
        if self.read_program() != self.source:  # which may be broken, or count in another way
            raise StartError(f"{self.program} is not the program that runs; restart that")
        pipe, its_end = self.context.Pipe()
        opened = os.fstat(self.counter.file)
        arguments = (worker.number, self.listener, self.counter.path, opened, self.options, its_end)
        process = self.context.Process(target=work, args=arguments, name=f"worker {worker.number}", daemon=True)
        with contextlib.ExitStack() as on_error:
            on_error.callback(pipe.close)
            with its_end, stop_signals_blocked():  # the worker inherits that until it ignores them
                process.start()
            on_error.pop_all()
        worker.process, worker.pipe, worker.start_at = process, pipe, inf

    def mark_dead(self, worker: Worker) -> None:
        """Let nobody leave connections to a worker that does not serve, or not yet; it has none open."""
        first = (worker.number - 1) * self.options.threads
        for cell in range(first, first + self.options.threads):
            self.loads[cell], self.connections[cell] = self.DEAD, 0

    def replace_dead(self) -> None:
        """Start a new worker for each that dies, until the program stops."""
        while not self.stopping.closed:
            try:
                self.look_after_others()
            except Exception as error:
                with contextlib.suppress(Exception):  # there may be no memory to log it
                    if repr(error) != self.logged:
                        log.exception("A bug in this server: no worker is replaced until the next try")
                    self.logged = repr(error)
                with contextlib.suppress(Exception):
                    self.stop_asked.poll(RESPAWN_SECONDS)

    def look_after_others(self) -> None:
        """Wait until a worker serves or dies, or one is due or the program stops; start those that are due."""
        pipes = [worker.pipe for worker in self.others if worker.pipe]
        due = min(worker.start_at for worker in self.others)
        ready = self.wait([self.stop_asked, *pipes], min(max(0.0, due - monotonic()), RESPAWN_LONGEST_SECONDS))
        for worker in self.others:
            if worker.pipe in ready:
                self.listen_to(worker)
            elif worker.start_at <= monotonic() and self.stop_asked not in ready:
                self.replace(worker)

    def listen_to(self, worker: Worker) -> None:
        """Take the word of a worker, or note that it died."""
        served = worker.serves_since < inf
        why_not = worker.take_word()
        if not why_not:
            if worker.fails:
                log.info("Worker %d serves again", worker.number)
            worker.fails = False
            return
        self.mark_dead(worker)
        worker.schedule()
        worker.let_go()
        if served:
            log.warning("Worker %d died (%s); another takes its place", worker.number, why_not)
        else:
            self.log_failure(worker, why_not)

    def replace(self, worker: Worker) -> None:
        """Start a process in place of one that died."""
        try:
            self.spawn(worker)
        except (StartError, OSError, MemoryError) as error:
            self.log_failure(worker, reason_of(error))
        finally:
            if worker.start_at < inf:  # none was started, whatever the reason
                worker.schedule()

    def log_failure(self, worker: Worker, reason: str) -> None:
        """Log that no other takes a worker's place; once, until one does."""
        if not worker.fails:
            log.warning("Worker %d cannot be started (%s); it is tried again and again", worker.number, reason)
        worker.fails = True

    def stop(self) -> None:
        """Let every worker stop as a single server does; kill what has not ended by then."""
        end = monotonic() + GRACE_SECONDS + 1.0
        self.stopping.close()
        if self.replacing.ident:
            self.replacing.join(GRACE_SECONDS)  # which may be about to start a worker
        others = [worker for worker in self.others if worker.pipe]
        for worker in others:
            with contextlib.suppress(OSError):
                worker.pipe.send("stop")
        self.server.stop()
        for worker in others:
            worker.process.join(max(0.0, end - monotonic()))
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join(LAST_WORDS_SECONDS)
        self.loads.release()
        self.connections.release()


@outputs_in_background()
def work(
    number: int,
    listener: socket.socket,
    path: str,
    opened: os.stat_result,
    options: argparse.Namespace,
    pipe: Any,
) -> None:
    """The life of worker number (2 to CELLS), a process, which counts in the file that the program had opened."""
    for signum in STOP_SIGNALS:  # terminals and systemd signal all processes; workers obey the pipe
        signal.signal(signum, signal.SIG_IGN)
    configure_logging(options)
    if has_live_line(options):
        show_live_line("")  # the program shows one, and lines of this process shall not tear it
    prepare_process()
    first = (number - 1) * options.threads
    why_not = ""
    try:
        counter = Counter(path, *range(first + 1, first + 1 + options.threads))
        if not os.path.samestat(os.fstat(counter.file), opened):
            raise StartError(f"{path} is not the file in which this server counts")
        loads = counter.loads(options.workers * options.threads)
        server = SumServer(listener, counter.cells, handler_for(options), loads, first)
        server.start()
    except (StartError, OSError, MemoryError) as error:
        why_not = reason_of(error)
    try:
        pipe.send(why_not)
        if why_not:
            sys.exit(1)
        pipe.recv()
    except (EOFError, OSError):
        os._exit(1)  # the program was killed, and the next one needs this worker's cells
    server.stop()


# ------------------------------------------------------------------------------------------------ Meter


class Load(NamedTuple):
    """What came in some seconds, and what that took."""

    seconds: float = 0.0
    requests: int = 0
    cpu: float = 0.0  # CPU seconds that the server's processes used
    idle: float = 0.0  # CPU seconds that nobody used, of all the machine's; nan where the system does not tell

    def __add__(self, other: Any) -> "Load":
        return Load(*map(add, self, other))

    def __sub__(self, other: "Load") -> "Load":
        return Load(*map(sub, self, other))

    @property
    def rate(self) -> float:
        """Requests per second."""
        return self.requests / self.seconds

    @property
    def cpus(self) -> float:
        """How many CPUs the server's processes kept busy."""
        return self.cpu / self.seconds


class Meter:
    """What the server takes, second by second; it has no clock, and only adds up what it is told."""

    def __init__(self) -> None:
        self.all, self.last = Load(), Load(seconds=1.0)
        self.most = self.most_lately = 0.0  # requests per second, since the start and since take_most()
        self.most_at = 0.0  # when that was, in seconds since 1970
        self.rates: deque[float] = deque(maxlen=SPARKS)
        # The seconds with requests, by the binary exponent of their rate: the end decides which were under load.
        self.by_magnitude: defaultdict[int, Load] = defaultdict(Load)

    def add(self, load: Load, now: float) -> None:
        """Add the load of the last second; now is in seconds since 1970."""
        load = load._replace(cpu=max(0.0, load.cpu))  # a worker that took the place of another begins at 0
        self.all += load
        if load.seconds < SHORT_SECONDS:
            return
        self.last, rate = load, load.rate
        self.rates.append(rate)
        if load.requests:
            self.by_magnitude[frexp(rate)[1]] += load
        self.most_lately = max(self.most_lately, rate)
        if rate > self.most:
            self.most, self.most_at = rate, now

    def take_most(self) -> float:
        """The most requests in a second since this was asked last."""
        most, self.most_lately = self.most_lately, 0.0
        return most

    def under_load(self) -> Load:
        """The seconds in which requests came, but not those with few in comparison."""
        least = frexp(self.most)[1] - LOAD_BITS
        return sum((load for magnitude, load in self.by_magnitude.items() if magnitude >= least), Load())

    def live_line(self, connections: int, status: str, width: int, blocks: str = BLOCKS) -> str:
        """What the last second was like, in so many columns; blocks stand for rates in a curve, if there are any."""
        figures = [
            per_second(self.last.rate),
            f"at most {per_second(self.most)}",
            f"{self.all.requests:,} in all",
            f"{connections:,} open",
            of_a_cpu(self.last),
            status,
        ]
        parting = " · " if blocks else " | "
        while len(figures) > 1 and len(parting.join(figures)) > width:
            figures.pop()
        line = parting.join(figures)[:width]
        room = width - len(line) - 2 if blocks else 0
        curve = list(self.rates)[-room:] if room > 0 else []
        most = max(curve, default=0.0) or 1.0
        sparks = "".join(blocks[ceil(rate / most * (len(blocks) - 1))] for rate in curve)
        return f"{sparks}  {line}" if sparks else line

    def summary(self, cpus: float, machine_cpus: int, processes: int) -> list[str]:
        """What the server took since the start, in lines; cpus is how many it may use, in so many processes."""
        total = f"{counted(self.all.requests, 'request')} in {duration(self.all.seconds)}"
        if not self.most:
            return [total] if self.all.requests else []
        load = self.under_load()
        lines = [
            f"{total}, at most {per_second(self.most)} (at {strftime('%H:%M:%S', localtime(self.most_at))})",
            f"Under load for {duration(load.seconds)}: {per_second(load.rate)} on average, {of_a_cpu(load)}",
            verdict(load, cpus, machine_cpus, processes),
        ]
        return [line for line in lines if line]


def of_a_cpu(load: Load) -> str:
    """The share that the server used."""
    return f"{100 * load.cpus:.0f} % of a CPU"


def verdict(load: Load, cpus: float, machine_cpus: int, processes: int) -> str:
    """What the limit was, in a sentence; empty where the figures allow none."""
    if load.seconds < VERDICT_SECONDS:
        return ""
    usable = min(cpus, processes)
    used = load.cpus / usable
    idle = load.idle / load.seconds / machine_cpus
    if used >= FULL_SHARE:
        own = "its one CPU" if usable == 1 else f"its {usable:g} CPUs"
        return f"The server used {own} fully: " + ("more needs --workers" if processes < cpus else "it may use no more")
    if idle < IDLE_SHARE:
        return "All CPUs of this machine were busy, also with other work: a load from another machine may show more"
    if used <= SPARE_SHARE and idle >= IDLE_SHARE:  # not with nan
        return "The server had CPU to spare: the load or the network was the limit"
    return ""


class Watch(threading.Thread):
    """The daemon thread that looks at the counter each second, for the live line and for what is told at the end."""

    def __init__(self, counter: Counter, options: argparse.Namespace, status: Callable[[], str]) -> None:
        """status tells how InfluxDB is."""
        super().__init__(name="watch", daemon=True)
        self.counter, self.status = counter, status
        self.meter = Meter()
        self.processes = options.workers * options.threads
        self.is_live = has_live_line(options)
        self.stopping = threading.Event()
        self.seen = self.figures()

    def figures(self) -> Load:
        """All that there has been until now, by the monotonic time."""
        _, cpu = self.counter.usage(self.processes)
        return Load(monotonic(), self.counter.total(), cpu, idle_seconds())

    def run(self) -> None:
        while not self.stopping.wait(1.5 - (time() + 0.5 - LOOK_SECONDS) % 1):
            with contextlib.suppress(Exception):  # it only shows what there is
                self.look()

    def look(self) -> None:
        """Add what came since the last look, and show it."""
        before, self.seen = self.seen, self.figures()
        self.meter.add(self.seen - before, time())
        if self.is_live:
            connections, _ = self.counter.usage(self.processes)
            width = terminal_width(sys.stderr) - 1
            show_live_line(self.meter.live_line(connections, self.status(), width, blocks_for(sys.stderr)))

    def stop(self) -> None:
        """End the live line."""
        self.stopping.set()
        self.join(PAUSE_SECONDS)
        if self.is_live:
            self.is_live = False
            show_live_line("")

    def tell(self) -> None:
        """Log what was taken since the start."""
        with contextlib.suppress(Exception):
            for line in self.meter.summary(cpu_limit(), os.cpu_count() or 1, self.processes):
                log.info("%s", line)


def idle_seconds() -> float:
    """The CPU seconds that nobody has used, of all CPUs of the machine, where the system tells (proc(5), stat)."""
    if sys.platform != "linux":
        return nan
    ticks = sum(map(int, read_text("/proc/stat").split()[4:6]))  # idle and iowait, of the first line
    return ticks / os.sysconf("SC_CLK_TCK") if ticks else nan  # gVisor has but zeros there


# ----------------------------------------------------------------------------------------- Command line

EXAMPLES = f"""\
Each option can be given in the environment as well: --port as {VARIABLE}PORT,
--access-log as {VARIABLE}ACCESS_LOG=1, --influx as {DSN_VARIABLE},
tags as {VARIABLE}TAG=host=a,rack=b. The command line wins.

examples:
  python webserver_influx.py
      serve on port 8008, send statistics to the InfluxDB on this machine
  curl -G -d a=3 -d b=3 http://localhost:8008
      Sum: 6.0
  curl -H 'Content-Type: application/json' -d '{{"a": 3, "b": 3}}' http://localhost:8008
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
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.001 <= seconds <= threading.TIMEOUT_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.001 up")
    return seconds


def address(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address; without the option it listens on all")
    return text


def data_source_name(text: str) -> Destination:
    try:
        return parse_dsn(text.strip())  # a file that a secret comes from ends with a line end
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}; the form of a data source name is in --help") from None


def file_name(text: str) -> str:
    if not text or "\0" in text:
        raise argparse.ArgumentTypeError(f"{text!r} is not the name of a file, or :memory:")
    return text


def worker_count(text: str) -> int:
    if text == "auto":
        return min(cpu_count(), CELLS)
    return whole_number(text, 1, CELLS, ", or auto")


def tag(text: str) -> tuple[str, str]:
    key, _, value = text.partition("=")
    if not key or not value or "\\" in text or not text.isprintable():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE, neither empty, in one line without a backslash")
    if key in ("request", "time") or key.startswith("_"):
        raise argparse.ArgumentTypeError(f"{key!r} is a key of the server or of InfluxDB itself; give another")
    return key, value


def flag(text: str) -> bool:
    if text.lower() not in ("1", "yes", "true", "on", "0", "no", "false", "off"):
        raise argparse.ArgumentTypeError(f"{text!r} is neither 1 nor 0")
    return text.lower() in ("1", "yes", "true", "on")


def variables() -> dict[str, str]:
    """What the environment holds for this program, without what is empty: compose makes that of an unset variable."""
    stripped = {name: text.strip() for name, text in os.environ.items() if name.startswith(VARIABLE)}
    return {name: text for name, text in stripped.items() if text and not is_service_link(name, text)}


def is_service_link(name: str, text: str) -> bool:
    """Whether Kubernetes made a variable, for a service whose name is, or begins with, webserver-influx.

    It makes seven or more of each service for every container (Kubernetes, "Service", "Discovering services"), and
    among them is WEBSERVER_INFLUX_PORT=tcp://10.0.0.1:8008.
    """
    if name.endswith("_PORT") and re.match("(?:tcp|udp|sctp)://", text):
        return f"{name[:-5]}_SERVICE_HOST" in os.environ
    return bool(
        re.search(r"_SERVICE_(?:HOST|PORT(?:_\w+)?)$|_PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?$", name)
    )


def read_variable(action: Any, text: str) -> Any:
    """What a variable says, as the command line would say it to this action of the parser. Raises ArgumentTypeError.

    What may be repeated there is separated by commas here; one that is no separator is `\\,`, as in line protocol.
    """
    if action.nargs == 0:
        return flag(text)
    if isinstance(action.default, list):
        return [action.type(part.strip().replace("\\,", ",")) for part in re.split(r"(?<!\\),", text)]
    return action.type(text)


def near(word: str, known: Iterable[str]) -> str:
    """What a mistyped word may mean, as the end of a message."""
    import difflib  # in time only for those who need it

    return "".join(f"; did you mean {match}?" for match in difflib.get_close_matches(word, known, n=1))


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that hides passwords in messages about bad usage, and knows what a mistyped option may mean."""

    def error(self, message: str) -> NoReturn:
        is_own = message.startswith(("argument --influx: ", f"{DSN_VARIABLE}: "))  # which quotes no password
        hidden = message if is_own else re.sub(r"(?s)influxdb://.*", "influxdb://…", message)
        if mistyped := re.match(r"unrecognized arguments: (-[\w-]+)", message):
            hidden += near(mistyped[1], re.findall(r"--[a-z-]+", self.format_usage()))
        super().error(hidden)


def parse_arguments(argv: Optional[list[str]]) -> argparse.Namespace:
    """Read the command line, and what it does not give in the environment; bad usage ends the program with status 2."""
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

    about = "one address to listen on, 0.0.0.0 for all of IPv4, or :: (default: all, IPv4 and IPv6)"
    add("--bind", metavar="ADDRESS", type=address, help=about)
    about = f"the port; 0 takes a free one (default: {PORT})"
    add("--port", metavar="N", type=port_number, default=PORT, help=about)
    about = f"""where statistics go: [https+]influxdb://user:password@host:port/path/database (default: {DSN_VARIABLE}
        in the environment, where ps does not show a password; else database {DATABASE} of user {USER} at
        localhost:8086)"""
    add("--influx", metavar="DSN", dest="destination", type=data_source_name, default=Destination(), help=about)
    about = f"the seconds between two points (default: {INTERVAL_SECONDS:.0f})"
    add("--interval", metavar="SECONDS", type=positive_seconds, default=INTERVAL_SECONDS, help=about)
    about = "a further tag of each point, so that servers can share a database; may be repeated (default: none)"
    add("--tag", metavar="KEY=VALUE", type=tag, action="append", default=[], help=about)
    about = f"""where points wait for InfluxDB; FILE-count beside it holds the counter. :memory: stands for no file:
        what is not delivered when the program ends, or is killed, is lost (default: {STATE_FILE})"""
    add("--state", metavar="FILE", type=file_name, default=STATE_FILE, help=about)
    about = "processes, or auto: one for each CPU (default: 1)"
    add("--workers", metavar="N", type=worker_count, default=1, help=about)
    add("--access-log", action="store_true", help="log each request, at three quarters of the speed (default: off)")
    add("--quiet", action="store_true", help="leave out the live line and the line for each interval (default: off)")
    add("--verbose", action="store_true", help="log what only a developer wants to know, too (default: off)")
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    not_given = dict.fromkeys(action.dest for action in actions)  # None, which no option means
    options = parser.parse_args(argv, argparse.Namespace(**not_given))
    tag_source = "argument --tag" if options.tag else f"{VARIABLE}TAG"
    read_environment(parser, actions, options)
    options.threads = serving_threads(options.workers)  # of each process; it decides whose a cell is, and stays
    options.tags = {}
    for key, value in options.tag:
        if key in options.tags:
            parser.error(f"{tag_source}: the key {key!r} is given twice")
        options.tags[key] = value
    return options


def read_environment(parser: Parser, actions: list[Any], options: argparse.Namespace) -> None:
    """Take from the environment what the command line does not give, and from the defaults what neither does."""
    environment, names = variables(), []
    for action in actions:
        (option,) = action.option_strings
        name = DSN_VARIABLE if option == "--influx" else VARIABLE + option[2:].replace("-", "_").upper()
        names.append(name)
        if getattr(options, action.dest) is None:  # the command line wins, even with a default
            text = environment.get(name)
            try:
                setattr(options, action.dest, read_variable(action, text) if text else action.default)
            except argparse.ArgumentTypeError as error:
                parser.error(f"{name}: {error}")
    options.unknown_variables = {name: near(name, names) for name in sorted(environment.keys() - set(names))}


def run(options: argparse.Namespace, stop_asked: socket.socket) -> None:
    """Serve until there is something to read from stop_asked. Raises StartError, OSError."""
    prepare_process()
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(listen(options.bind, options.port))
        counter, outbox = open_files(options, stack)
        influxdb = InfluxDB(options.destination, options.tags)
        courier = Courier(outbox, influxdb, options.interval, options.quiet)
        watch = Watch(counter, options, lambda: courier.status)
        reporter = Reporter(outbox, courier, options.interval, watch.meter.take_most)
        if options.workers > 1:
            service: Any = Workers(listener, counter, options)
        else:
            service = SumServer(listener, counter.cells, handler_for(options))
        try:
            service.start()
            start_thread(reporter)
            start_thread(courier)  # which imports what InfluxDB takes, while no other thread imports anything
            announce(listener, options, outbox.display_name)
            start_thread(watch)
            stop_asked.recv(1)
            watch.stop()
            print("Stops when what has come is answered and the last point delivered; a second Ctrl-C does not wait.")
        finally:
            end = monotonic() + STOP_SECONDS
            try:
                service.stop()
                watch.look()
            finally:
                if courier.ident:
                    reporter.stop(end)
                this = threading.get_ident()
                log.addFilter(lambda record: record.thread == this)  # no other thread logs anything after the summary
                if watch.ident:
                    watch.tell()


def open_files(options: argparse.Namespace, stack: contextlib.ExitStack) -> tuple[Counter, Outbox]:
    """Open, or make, the counter and the outbox; leave their closing to the stack. Raises StartError."""
    count_file = f"{options.state}-count"
    if options.state == ":memory:":
        count_file = ":memory:"
        if options.workers > 1:  # which share the count through a file
            count_file = os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "count")
    try:
        outbox = stack.enter_context(contextlib.closing(Outbox(options.state)))
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
        are_now = "it is" if recovered == 1 else "they are"
        left = counted(recovered, "request")
        log.info("The last run ended before it could record %s; %s in a point now", left, are_now)
    return counter, outbox


def announce(listener: socket.socket, options: argparse.Namespace, state: str) -> None:
    """Print the addresses of the server and of InfluxDB."""
    host, port = socket.getnameinfo(listener.getsockname(), socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)
    where, others = uri_host(host.replace("%", "%25")), ""  # RFC 6874 §2: a zone is behind %25
    if host in ("::", "0.0.0.0"):
        where, others = "localhost", " and all other addresses" if host == "::" else " and all other addresses of IPv4"
    cpus = cpu_count()
    more = "; --workers auto uses all" if options.workers * options.threads < cpus else ""
    print(
        f"Serving on http://{where}:{port}{others}; Ctrl-C stops.\n"
        f"Every {options.interval:g} s statistics go to {options.destination}; until then they are in {state}.\n"
        f"{counted(options.workers, 'process')} on {counted(cpus, 'CPU')}{more}.",
    )


@outputs_in_background()
def main(argv: Optional[list[str]] = None) -> int:
    """Run the program; return its exit status: 0, or 1 if it failed. A second Ctrl-C ends it with 130."""
    options = parse_arguments(argv)
    configure_logging(options)
    for name, meant in options.unknown_variables.items():
        log.warning("%s in the environment is no variable of this server, and is ignored%s", name, meant)
    try:
        run(options, catch_signals())
    except StartError as error:
        reason = str(error)
    except (OSError, MemoryError, ImportError) as error:  # ImportError: a part of Python that cannot be opened
        reason = reason_of(error)
    else:
        return 0
    print(f"webserver_influx.py: error: {reason}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
