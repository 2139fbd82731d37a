"""The pure parts of a request: head, chunked body, numbers, sum. Not one socket."""

from __future__ import annotations

import json
import math
import re
import time
import urllib.parse
from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import webserver_influx
from webserver_influx import (
    CHUNKED,
    RequestError,
    decode_chunks,
    exact_sum,
    json_nesting,
    json_values,
    numbers,
    query_values,
    read_fields,
    sum_text,
    take_head,
)

pytestmark = pytest.mark.smoke

KIB = 1024
MIB = 1024 * KIB
LARGEST = 1.7976931348623157e308

NEXT = b"GET /next?a=1 HTTP/1.1\r\nHost: next\r\n\r\n"


# --- heads


def head_of(*lines: str, host: str | None = "x") -> bytes:
    """These lines, a Host unless it is None, and the empty line, in Latin-1."""
    fields = lines if host is None else (lines[0], f"Host: {host}", *lines[1:])
    return "".join(f"{line}\r\n" for line in (*fields, "")).encode("latin-1")


def get(*fields: str, host: str | None = "x") -> bytes:
    return head_of("GET / HTTP/1.1", *fields, host=host)


def get_1_0(*fields: str, host: str | None = None) -> bytes:
    return head_of("GET / HTTP/1.0", *fields, host=host)


def line_of(size: int) -> bytes:
    """A head whose request line has this many bytes."""
    start, end = b"GET /?a=3&b=", b" HTTP/1.1"
    return start + b"1" * (size - len(start) - len(end)) + end + b"\r\nHost: x\r\n\r\n"


def head_of_size(size: int) -> bytes:
    """A head of this many bytes, without the empty line at its end."""
    start = b"GET / HTTP/1.1\r\nHost: x\r\nPadding: "
    return start + b"p" * (size - len(start)) + b"\r\n\r\n"


def fields_of(count: int) -> bytes:
    """A head of this many fields, its Host among them."""
    return get(*(f"F{number}: v" for number in range(count - 1)))


GOOD = {
    "the simplest": get(),
    "a query": head_of("GET /?a=3&b=3 HTTP/1.1"),
    "a query with what RFC 3986 would encode": head_of('GET /?a=[3]|"^`{}<>\\ HTTP/1.1'),
    "HEAD": head_of("HEAD / HTTP/1.1"),
    "POST": head_of("POST / HTTP/1.1", "Content-Length: 3", "Content-Type: application/json"),
    "a method that nobody knows": head_of("BREW /pot HTTP/1.1"),
    "a method in lower case, which is another method": head_of("get / HTTP/1.1"),
    "a method of all token characters": head_of("!#$%&'*+-.^_`|~09azAZ / HTTP/1.1"),
    "HTTP/1.1 to come": head_of("GET / HTTP/1.9"),
    "HTTP/1.0 without Host": get_1_0(),
    "HTTP/1.0 with Host": get_1_0(host="x"),
    "HTTP/1.0 with keep-alive": get_1_0("Connection: Keep-Alive"),
    "absolute-form": head_of("GET http://x:80/path?a=3 HTTP/1.1"),
    "absolute-form of IPv6": head_of("GET http://[::1]:80/?a=3 HTTP/1.1"),
    "absolute-form with a query and no path": head_of("GET http://x?a=3 HTTP/1.1"),
    "absolute-form of another scheme": head_of("GET HTTPS://x HTTP/1.1"),
    "OPTIONS *": head_of("OPTIONS * HTTP/1.1"),
    "OPTIONS of a path": head_of("OPTIONS / HTTP/1.1"),
    "CONNECT": head_of("CONNECT example.org:443 HTTP/1.1"),
    "CONNECT to IPv6": head_of("CONNECT [::1]:443 HTTP/1.1"),
    "Host with a port": get(host="example.org:8008"),
    "Host with an empty port": get(host="example.org:"),
    "Host of IPv4": get(host="127.0.0.1:8008"),
    "Host of IPv6": get(host="[::1]"),
    "Host of IPv6 with a port": get(host="[::1]:80"),
    "Host of mapped IPv4": get(host="[::ffff:127.0.0.1]:80"),
    "Host that is empty": get(host=""),
    "Host with an escape": get(host="a%20b"),
    "Host with sub-delims": get(host="a_b~!$&'()*+,;=.example"),
    "Host in upper case": get("HOST: x", host=None),
    "Host with spaces and tabs around": get("Host: \t x \t ", host=None),
    "Host without a space": get("Host:x", host=None),
    "a field without a value": get("Empty:"),
    "a field value of Latin-1": get("Name: J\xfcrgen\xff\x80"),
    "a field value with a tab": get("Name: a\tb"),
    "a field name of all token characters": get("!#$%&'*+-.^_`|~09azAZ: v"),
    "an empty line first": b"\r\n" + get(),
    "a Content-Length of 0": get("Content-Length: 0"),
    "a Content-Length with leading zeros": get("Content-Length: 000000000000000000000000000000000003"),
    "the same Content-Length twice in a field": get("Content-Length: 3, 3"),
    "the same Content-Length in two fields": get("Content-Length: 3", "Content-Length: 3"),
    "a Content-Length past every integer": get("Content-Length: " + "9" * 5000),
    "chunked": get("Transfer-Encoding: chunked"),
    "chunked in another case": get("Transfer-Encoding: CHUNKED"),
    "chunked among empty members": get("Transfer-Encoding: , chunked,"),
    "an expectation": get("Expect: 100-continue"),
    "an expectation that is unknown": get("Expect: the-unexpected"),
    "a request line of 8192 bytes": line_of(8192),
    "a head of 65536 bytes": head_of_size(65536),
    "100 fields": fields_of(100),
}

BAD = {
    # malformed request lines
    "a number for a line": (400, b"1\r\n\r\n"),
    "HTTP/0.9": (400, head_of("GET /", host=None)),
    "HTTP/0.9 with fields": (400, head_of("GET /")),
    "a method alone": (400, head_of("GET")),
    "no method": (400, head_of(" / HTTP/1.1")),
    "no target": (400, head_of("GET  HTTP/1.1")),
    "two spaces before the target": (400, head_of("GET  / HTTP/1.1")),
    "two spaces behind the target": (400, head_of("GET /  HTTP/1.1")),
    "a tab between": (400, head_of("GET\t/\tHTTP/1.1")),
    "a space at the end": (400, head_of("GET / HTTP/1.1 ")),
    "a space at the start": (400, head_of(" GET / HTTP/1.1")),
    "a space in the target": (400, head_of("GET /a b HTTP/1.1")),
    "a method that is no token": (400, head_of("G(T / HTTP/1.1")),
    "a method in Latin-1": (400, head_of("G\xc9T / HTTP/1.1")),
    "a target that is no path": (400, head_of("GET path HTTP/1.1")),
    "a target that is a query": (400, head_of("GET ?a=3 HTTP/1.1")),
    "a target with a fragment": (400, head_of("GET /#top HTTP/1.1")),
    "a target with a DEL": (400, head_of("GET /\x7f HTTP/1.1")),
    "a target in Latin-1": (400, head_of("GET /\xe9 HTTP/1.1")),
    "a target in UTF-8": (400, "GET /é HTTP/1.1\r\nHost: x\r\n\r\n".encode()),
    "absolute-form without a host": (400, head_of("GET http:///?a=1 HTTP/1.1")),
    "absolute-form with a query for a host": (400, head_of("GET http://?a=1 HTTP/1.1")),
    "absolute-form of nothing": (400, head_of("GET http:// HTTP/1.1")),
    "absolute-form with a port alone": (400, head_of("GET http://:80/ HTTP/1.1")),
    "absolute-form with an open bracket": (400, head_of("GET http://[::1/ HTTP/1.1")),
    "absolute-form with a user": (400, head_of("GET http://user:password@x/ HTTP/1.1")),
    "absolute-form with a host that is none": (400, head_of("GET http://a<>b/ HTTP/1.1")),
    "GET *": (400, head_of("GET * HTTP/1.1")),
    "GET of an authority": (400, head_of("GET example.org:443 HTTP/1.1")),
    "CONNECT to nothing sensible": (400, head_of("CONNECT a@b HTTP/1.1")),
    "CONNECT to brackets around a field": (400, b"CONNECT [ HTTP/1.1\r\nX:] HTTP/1.1\r\nHost: x\r\n\r\n"),
    "CONNECT to brackets around controls": (400, b"CONNECT [a\0\n\xff]:1 HTTP/1.1\r\nHost: x\r\n\r\n"),
    "CONNECT to a name in brackets": (400, head_of("CONNECT [zz]:80 HTTP/1.1")),
    "CONNECT to nothing at all": (400, head_of("CONNECT  HTTP/1.1")),
    "OPTIONS **": (400, head_of("OPTIONS ** HTTP/1.1")),
    "no version": (400, head_of("GET / ")),
    "a version in lower case": (400, head_of("GET / http/1.1")),
    "a version of one digit": (400, head_of("GET / HTTP/1")),
    "a version of three digits": (400, head_of("GET / HTTP/1.10")),
    "a version of digits that are not ASCII": (400, head_of("GET / HTTP/1.\xb2")),
    "another protocol": (400, head_of("GET / RTSP/1.1")),
    "two empty lines first": (400, b"\r\n\r\n" + get()),
    # malformed fields
    "obs-fold": (400, get("Name: a", " b")),
    "obs-fold with a tab": (400, get("Name: a", "\tb")),
    "obs-fold in the first field": (400, b"GET / HTTP/1.1\r\n Host: x\r\n\r\n"),
    "a space before the colon": (400, get("Name : v")),
    "a tab before the colon": (400, get("Name\t: v")),
    "no colon": (400, get("Name")),
    "no name": (400, get(": v")),
    "a name that is no token": (400, get("Na(me: v")),
    "a name in Latin-1": (400, get("N\xe4me: v")),
    "NUL in a value": (400, get("Name: a\0b")),
    "NUL in a name": (400, get("Na\0me: v")),
    "NUL in the target": (400, head_of("GET /\0 HTTP/1.1")),
    "NUL in the method": (400, head_of("GE\0T / HTTP/1.1")),
    "a DEL in a value": (400, get("Name: \x7f")),
    "an escape in a value": (400, get("Name: \x1b[31m")),
    "a bare CR in a value": (400, get("Name: a\rb")),
    "a bare LF in a value": (400, get("Name: a\nb: c")),
    "a bare CR behind the request line": (400, b"GET / HTTP/1.1\rHost: x\r\n\r\n"),
    "a bare LF behind the request line": (400, b"GET / HTTP/1.1\nHost: x\r\n\r\n"),
    "CR CR LF": (400, b"GET / HTTP/1.1\r\r\nHost: x\r\n\r\n"),
    "bare LFs everywhere": (400, b"GET / HTTP/1.1\nHost: x\n\n"),
    "a TLS ClientHello": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(32) + b"\r\n\r\n"),
    # Host
    "no Host": (400, get(host=None)),
    "two Hosts": (400, get("Host: x")),
    "two Hosts in HTTP/1.0": (400, get_1_0("Host: y", host="x")),
    "two Hosts in one": (400, get(host="x, y b")),
    "Host with a space": (400, get(host="a b")),
    "Host with a port of letters": (400, get(host="x:abc")),
    "Host with two ports": (400, get(host="x:1:2")),
    "Host with a signed port": (400, get(host="x:-1")),
    "Host with a user": (400, get(host="user@x")),
    "Host with a path": (400, get(host="x/")),
    "Host that is a URI": (400, get(host="http://x")),
    "Host of IPv6 without brackets": (400, get(host="::1")),
    "Host with a bracket that is not closed": (400, get(host="[::1")),
    "Host with empty brackets": (400, get(host="[]")),
    "Host with a name in brackets": (400, get(host="[x]")),
    "Host with IPv4 in brackets": (400, get(host="[127.0.0.1]")),
    "Host with a zone": (400, get(host="[fe80::1%eth0]")),
    "Host with something behind the bracket": (400, get(host="[::1]x")),
    "Host with half an escape": (400, get(host="a%2")),
    "Host in Latin-1": (400, get(host="\xe9")),
    "Host malformed in HTTP/1.0": (400, get_1_0(host="a b")),
    # body length
    "Content-Length and Transfer-Encoding": (400, get("Content-Length: 3", "Transfer-Encoding: chunked")),
    "Transfer-Encoding and Content-Length": (400, get("Transfer-Encoding: chunked", "Content-Length: 3")),
    "Content-Length and an unknown coding": (400, get("Content-Length: 3", "Transfer-Encoding: gzip")),
    "two differing Content-Lengths": (400, get("Content-Length: 3", "Content-Length: 4")),
    "two differing Content-Lengths in a field": (400, get("Content-Length: 3, 4")),
    "Content-Lengths that differ in zeros": (400, get("Content-Length: 3", "Content-Length: 03")),
    "a Content-Length and an empty one": (400, get("Content-Length: 3", "Content-Length:")),
    "a Content-Length with +": (400, get("Content-Length: +3")),
    "a Content-Length with -": (400, get("Content-Length: -3")),
    "a Content-Length in hex": (400, get("Content-Length: 0x3")),
    "a Content-Length of hex digits": (400, get("Content-Length: a")),
    "a Content-Length with a point": (400, get("Content-Length: 3.0")),
    "a Content-Length with a space": (400, get("Content-Length: 3 4")),
    "a Content-Length with an underscore": (400, get("Content-Length: 1_0")),
    "a Content-Length of digits that are not ASCII": (400, get("Content-Length: \xb2")),
    "a Content-Length that is empty": (400, get("Content-Length:")),
    "a Content-Length in quotes": (400, get('Content-Length: "3"')),
    "Transfer-Encoding in HTTP/1.0": (400, get_1_0("Transfer-Encoding: chunked")),
    "chunked twice": (400, get("Transfer-Encoding: chunked, chunked")),
    "chunked in two fields": (400, get("Transfer-Encoding: chunked", "Transfer-Encoding: chunked")),
    "a Transfer-Encoding that is empty": (400, get("Transfer-Encoding:")),
    "gzip": (501, get("Transfer-Encoding: gzip")),
    "gzip, chunked": (501, get("Transfer-Encoding: gzip, chunked")),
    "identity": (501, get("Transfer-Encoding: identity")),
    "chunked with a parameter": (501, get("Transfer-Encoding: chunked;q=1")),
    "chunked in quotes": (501, get('Transfer-Encoding: "chunked"')),
    "chunked with a vertical tab before it": (400, get("Transfer-Encoding: \x0bchunked")),
    # versions
    "HTTP/2.0": (505, head_of("GET / HTTP/2.0")),
    "the preface of HTTP/2": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP/0.9 said aloud": (505, head_of("GET / HTTP/0.9", host=None)),
    "HTTP/9.9": (505, head_of("GET / HTTP/9.9")),
    # sizes
    "a request line of 8193 bytes": (414, line_of(8193)),
    "a request line without an end": (414, b"GET /" + b"a" * 10_000),
    "a head of 65537 bytes": (431, head_of_size(65537)),
    "a head without an end": (431, get()[:-2] + b"Name: v\r\n" * 8000),
    "101 fields": (431, fields_of(101)),
}

good_heads = pytest.mark.parametrize("head", GOOD.values(), ids=GOOD)
bad_heads = pytest.mark.parametrize(("status", "head"), BAD.values(), ids=BAD)


def taken(pieces: Iterable[bytes]):
    """What `take_head` returns when the bytes arrive in these pieces; those it need not wait for are left behind."""
    buffer, head = b"", None
    for piece in pieces:
        buffer += piece
        if head is None:
            head = take_head(buffer)
            buffer = b"" if head else buffer
    return head and (*head[:-1], head[-1] + buffer)


def bytewise(data: bytes) -> list[bytes]:
    """Single bytes; the middle of long data in pieces, as the time to read it grows with the square of their number."""
    start, middle, end = data[:500], data[500:-100], data[500:][-100:]
    step = 1 + len(middle) // 50
    pieces = [middle[at : at + step] for at in range(0, len(middle), step)]
    return [bytes([byte]) for byte in start] + pieces + [bytes([byte]) for byte in end]


def refusal_of(pieces: Iterable[bytes]) -> int:
    with pytest.raises(RequestError) as caught:
        taken(pieces)
    assert_is_one_line(str(caught.value))
    return caught.value.status


def assert_is_one_line(text: str) -> None:
    assert text
    assert text.isprintable()
    assert text.isascii()  # as its Content-Length is its length


@good_heads
def test_a_good_head_is_taken_whole(head):
    assert taken([head])[-1] == b""


@good_heads
def test_a_good_head_is_taken_byte_by_byte_and_not_before_its_last(head):
    assert taken(bytewise(head[:-1])) is None
    assert taken(bytewise(head)) == take_head(head)


@good_heads
def test_what_follows_a_good_head_is_left(head):
    assert take_head(head + NEXT) == (*take_head(head)[:-1], NEXT)
    assert taken(bytewise(head + NEXT)) == (*take_head(head)[:-1], NEXT)


@bad_heads
def test_a_bad_head_is_refused_whole(status, head):
    assert refusal_of([head]) == status


@bad_heads
def test_a_bad_head_is_refused_byte_by_byte(status, head):
    assert refusal_of(bytewise(head)) == status


@good_heads
def test_a_good_head_that_is_known_is_still_not_taken_before_its_end(head):
    known = take_head(head)
    assert take_head(head) == known
    for end in range(1, 5):
        assert take_head(head[:-end]) is None


@bad_heads
def test_a_bad_head_is_refused_with_a_next_request_behind_it(status, head):
    assert refusal_of([head + NEXT]) == status


@bad_heads
def test_a_bad_head_is_refused_behind_a_good_one(status, head):
    assert refusal_of([take_head(NEXT + head)[-1]]) == status


@pytest.mark.parametrize("data", [b"", b"\r", b"\r\n", b"G", b"GET", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\n"])
def test_more_is_needed(data):
    assert take_head(data) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03",
        b"\0",
        b"\n",
        b"GET /\n",
        b"G(T / ",
        b"G(T / HTTP/1.1\r\nHost: x\r\n",
        b"\r\n\r\nGET / ",
        b"GET / HTTP/1.1\r\r",
        b"\r\nG\0",
        b"GET / HTTP/1.1\r\nHost: x\n",
    ],
)
def test_what_cannot_become_a_head_is_refused_before_its_end(data):
    assert refusal_of([data]) == 400


def test_a_request_line_that_is_too_long_is_refused_before_its_end():
    assert take_head(b"G" * 8192) is None
    assert refusal_of([b"G" * 8193]) == 414


def test_a_head_that_is_too_long_is_refused_before_its_end():
    assert take_head(head_of_size(65536)[:-4]) is None
    assert refusal_of([head_of_size(65537)[:-4]]) == 431


@pytest.mark.parametrize(
    ("line", "method", "query"),
    [
        ("POST http://x/a?b=c HTTP/1.1", "POST", b"b=c"),
        ("GET /a=3?b=4?c=5&d HTTP/1.1", "GET", b"b=4?c=5&d"),
        ("GET /? HTTP/1.1", "GET", b""),
        ("GET / HTTP/1.1", "GET", b""),
        ("OPTIONS * HTTP/1.1", "OPTIONS", b""),
    ],
)
def test_method_and_query_are_what_was_sent(line, method, query):
    assert take_head(head_of(line))[:2] == (method, query)


class Fields(NamedTuple):
    persistence: str
    body_length: int
    expectation: str
    media_type: str


def fields(*lines: str, version: str = "1.1") -> Fields:
    """The fields of a head with a Host and these lines."""
    return Fields(*take_head(head_of(f"GET / HTTP/{version}", *lines))[2])


def test_read_fields_reads_all_behind_the_target():
    assert Fields(*read_fields("HTTP/1.1\r\nHost: x\r\nContent-Length: 3")).body_length == 3


@pytest.mark.parametrize(
    ("lines", "length"),
    [
        ([], 0),
        (["Content-Length: 0"], 0),
        (["Content-Length: 1048576"], MIB),
        (["content-length:1048577"], MIB + 1),
        (["Content-Length: 0000000000000000000000000000003"], 3),
        (["Content-Length: 3 , 3"], 3),
        (["Transfer-Encoding: chunked"], CHUNKED),
        (["transfer-encoding:\tChunked "], CHUNKED),
    ],
)
def test_the_length_of_the_body_is_read(lines, length):
    assert fields(*lines).body_length == length


def test_a_content_length_of_ever_so_many_digits_is_too_long():
    assert fields("Content-Length: " + "9" * 60_000).body_length > MIB


@pytest.mark.parametrize(
    ("version", "lines", "persists"),
    [
        ("1.1", [], True),
        ("1.1", ["Connection: keep-alive"], True),
        ("1.1", ["Connection: close"], False),
        ("1.1", ["Connection: CLOSE"], False),
        ("1.1", ["Connection: upgrade ,\tClose"], False),
        ("1.1", ["Connection: keep-alive", "Connection: close"], False),
        ("1.1", ["Connection: closed, x-close, close-x"], True),
        ("1.1", ["Connection: ,"], True),
        ("1.1", ["Proxy-Connection: close"], True),
        ("1.0", [], False),
        ("1.0", ["Connection: keep-alive"], True),
        ("1.0", ["Connection: foo, Keep-Alive"], True),
        ("1.0", ["Connection: keep-alive, close"], False),
        ("1.0", ["Connection: keep"], False),
    ],
)
def test_it_is_read_whether_the_connection_persists(version, lines, persists):
    assert (fields(*lines, version=version).persistence != "\r\nConnection: close\r\n\r\n") is persists


def test_only_in_http_1_0_the_reply_says_that_the_connection_persists():
    reply_head_ends = fields("Connection: keep-alive", version="1.0").persistence
    assert reply_head_ends == "\r\nConnection: keep-alive\r\n\r\n"
    assert fields("Connection: keep-alive").persistence == "\r\n\r\n"


@pytest.mark.parametrize(
    ("version", "lines", "expectation"),
    [
        ("1.1", [], ""),
        ("1.1", ["Expect: 100-continue"], "100-continue"),
        ("1.1", ["Expect: 100-Continue"], "100-continue"),
        ("1.1", ["Expect: 100-continue, 100-continue"], "100-continue"),
        ("1.1", ["Expect: 100-continue, tea"], "tea"),
        ("1.1", ["Expect: tea", "Expect: 100-continue"], "tea"),
        ("1.0", ["Expect: 100-continue"], ""),
        ("1.0", ["Expect: tea"], ""),
    ],
)
def test_the_expectation_is_read(version, lines, expectation):
    assert fields(*lines, version=version).expectation == expectation


@pytest.mark.parametrize(
    ("lines", "media_type"),
    [
        ([], ""),
        (["Content-Type: application/json"], "application/json"),
        (["content-type:Application/JSON"], "application/json"),
        (["Content-Type: application/json; charset=utf-8"], "application/json"),
        (["Content-Type: application/json\t;charset=utf-8"], "application/json"),
        (["Content-Type: application/jsonp"], "application/jsonp"),
        (["Content-Type: text/plain; a=application/json"], "text/plain"),
        (["Content-Type: text/plain", "Content-Type: application/json"], "text/plain, application/json"),
    ],
)
def test_the_media_type_is_read(lines, media_type):
    assert fields(*lines).media_type == media_type


@given(st.binary())
@example(b"\r\n\r\n")
@example(b"\r\n\r\n\r\n\r\n")
@example(b"\r\n" * 9)
def test_no_byte_string_makes_take_head_raise_anything_but_request_error(data):
    try_to(take_head, data)


def try_to(function, *arguments):
    """The result, or a RequestError: any other error is a bug."""
    try:
        return function(*arguments)
    except RequestError as error:
        refusal = error
    assert refusal.status in webserver_influx.STATUS_LINE
    assert_is_one_line(str(refusal))
    return refusal


FRAGMENTS = (
    b"GET", b"HEAD", b"POST", b"OPTIONS", b"CONNECT", b" ", b"/", b"*", b"?a=1", b"http://", b"x", b":", b"HTTP/",
    b"1.1", b"1.0", b"2.0", b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"Host", b"Host: x", b"[::1]", b"[", b"]", b"%", b",",
    b"Content-Length", b"Transfer-Encoding", b"chunked", b"3", b"0", b"-", b"Expect", b"Connection", b"close",
    b"\0", b"\xff", b"\t", b"#", b"GET / HTTP/1.1\r\nHost: x\r\n",
)  # fmt: skip
almost_heads = st.lists(st.sampled_from(FRAGMENTS), max_size=20).map(b"".join)


@given(almost_heads)
def test_what_is_almost_a_head_is_taken_or_refused(data):
    try_to(take_head, data)


@given(almost_heads)
def test_what_is_almost_a_head_is_read_the_same_byte_by_byte(data):
    whole, pieces = try_to(take_head, data), try_to(taken, bytewise(data))
    if isinstance(whole, RequestError):
        assert isinstance(pieces, RequestError)
    else:
        assert pieces == whole


@given(st.sampled_from(list(GOOD.values())), st.integers(0, 70_000))
def test_a_good_head_is_read_the_same_when_split_at_any_byte(head, at):
    data = head + NEXT
    at %= len(data)
    assert taken([data[:at], data[at:]]) == take_head(data)


tokens = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=8)
values = st.text(st.characters(min_codepoint=0x20, max_codepoint=0xFF, blacklist_characters="\x7f"), max_size=20).map(
    lambda value: re.sub("[\x80-\x9f]", "", value)
)
known = ("host", "connection", "content-length", "transfer-encoding", "expect", "content-type")


@given(tokens, st.text('!"$%&/?=+azAZ09~', max_size=30), st.lists(st.tuples(tokens, values), max_size=9))
def test_whatever_the_grammar_makes_is_a_head(method, path, pairs):
    pairs = [(name, value) for name, value in pairs if name.lower() not in known]
    head = head_of(f"{method} /{path} HTTP/1.1", *(f"{name}: {value}" for name, value in pairs))
    query = path.partition("?")[2]
    assert take_head(head + NEXT) == (method, query.encode(), fields(), NEXT)


@pytest.mark.parametrize(
    "hostile",
    [
        get(host="a" * 30_000 + " b"),
        get(host="a%20" * 10_000 + "%"),
        get(host="[" * 30_000),
        head_of("GET " + "a" * 8000 + " HTTP/1.1"),
        head_of("GET /" + "?a=" * 2500 + "\x7f HTTP/1.1"),
        head_of("CONNECT " + "a%20" * 2000 + "@ HTTP/1.1"),
        get("Connection:" + "," * 60_000, "Transfer-Encoding:" + ", \t" * 1000),
        get("Content-Length: " + "3," * 30_000),
        get("Name" + " " * 60_000 + ": v"),
    ],
    ids=lambda head: repr(head[:40]),
)
def test_a_hostile_head_takes_no_time(hostile):
    begin = time.process_time()
    for number in range(10):
        refusal = try_to(take_head, hostile + bytes(number))
        assert isinstance(refusal, RequestError)
    assert time.process_time() - begin < 2


# --- chunked bodies


def decoded(pieces: Iterable[bytes]) -> tuple[bytes, bytes] | None:
    """Body, and what is left, of a chunked body that arrives in these pieces; None where more is needed."""
    pieces = iter(pieces)
    try:
        body, rest = decode_chunks(b"", lambda: next(pieces))
    except StopIteration:
        return None
    return body, rest + b"".join(pieces)


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


LAST = b"0\r\n\r\n"

CHUNKED_GOOD = {
    "nothing": (LAST, b""),
    "one chunk": (chunk(b"hello") + LAST, b"hello"),
    "two chunks": (chunk(b"hel") + chunk(b"lo") + LAST, b"hello"),
    "CR and LF as data": (chunk(b"\r\n0\r\n\r\n") + LAST, b"\r\n0\r\n\r\n"),
    "upper case": (b"A\r\n0123456789\r\n" + LAST, b"0123456789"),
    "lower case": (b"a\r\n0123456789\r\n" + LAST, b"0123456789"),
    "leading zeros": (b"0005\r\nhello\r\n000\r\n\r\n", b"hello"),
    "an extension": (chunk(b"hello", b";name") + LAST, b"hello"),
    "an extension with a value": (chunk(b"hello", b";name=value") + LAST, b"hello"),
    "an extension in quotes": (chunk(b"hello", b';name="a;b\\" \\\\ \xe9="') + LAST, b"hello"),
    "an extension with an empty string": (chunk(b"hello", b';name=""') + LAST, b"hello"),
    "extensions with spaces": (chunk(b"hello", b' ;\ta = b ; c="d" ;e') + LAST, b"hello"),
    "an extension of the last chunk": (chunk(b"hello") + b"0;end\r\n\r\n", b"hello"),
    "a trailer": (chunk(b"hello") + b"0\r\nName: value\r\n\r\n", b"hello"),
    "trailers": (chunk(b"hello") + b"0\r\nA: b\r\nC:\r\nContent-Length: 7\r\n\r\n", b"hello"),
    "100 trailers": (b"0\r\n" + b"A: b\r\n" * 100 + b"\r\n", b""),
    "a line of 1000 bytes": (chunk(b"hello", b";" + b"a" * 990) + LAST, b"hello"),
    "a mebibyte": (chunk(bytes(MIB)) + LAST, bytes(MIB)),
}

CHUNKED_BAD = {
    "no size": (400, b"\r\nhello\r\n" + LAST),
    "no number": (400, b"xyz\r\n"),
    "0x": (400, b"0x5\r\nhello\r\n" + LAST),
    "a sign": (400, b"+5\r\nhello\r\n" + LAST),
    "a negative size": (400, b"-5\r\nhello\r\n" + LAST),
    "a space before the size": (400, b" 5\r\nhello\r\n" + LAST),
    "a space behind the size": (400, b"5 \r\nhello\r\n" + LAST),
    "an underscore": (400, b"0_5\r\nhello\r\n" + LAST),
    "a NUL": (400, b"5\0\r\nhello\r\n" + LAST),
    "a bare LF behind the size": (400, b"5\nhello\r\n" + LAST),
    "a bare LF behind the data": (400, b"5\r\nhello\n" + LAST),
    "a bare CR in the size line": (400, b"5\r;a\r\nhello\r\n" + LAST),
    "more data than the size says": (400, b"4\r\nhello\r\n" + LAST),
    "less data than the size says": (400, b"6\r\nhello\r\n" + LAST),
    "no CRLF behind the data": (400, b"5\r\nhello" + LAST),
    "an extension without a name": (400, chunk(b"hello", b";") + LAST),
    "an extension that is no token": (400, chunk(b"hello", b";a(b") + LAST),
    "an extension without a value": (400, chunk(b"hello", b";a=") + LAST),
    "an extension with an open quote": (400, chunk(b"hello", b';a="b') + LAST),
    "an extension with a NUL": (400, chunk(b"hello", b';a="\0"') + LAST),
    "a trailer without a colon": (400, b"0\r\nName\r\n\r\n"),
    "a trailer with a space before the colon": (400, b"0\r\nName : v\r\n\r\n"),
    "a trailer that is folded": (400, b"0\r\nA: b\r\n c\r\n\r\n"),
    "a trailer with a bare LF": (400, b"0\r\nA: b\n\r\n"),
    "a trailer with a bare CR": (400, b"0\r\nA: b\rc\r\n\r\n"),
    "a bare LF for the end": (400, b"0\r\n\n"),
    "a line that is too long": (400, chunk(b"hello", b";" + b"a" * 5000) + LAST),
    "a line without an end": (400, b"0" * 5000),
    "a trailer that is too long": (400, b"0\r\nA: " + b"b" * 5000 + b"\r\n\r\n"),
    "a byte more than a mebibyte": (413, b"100001\r\n"),
    "a byte more than a mebibyte in two": (413, chunk(bytes(MIB)) + b"1\r\n"),
    "a size past every integer": (413, b"f" * 1000 + b"\r\n"),
    "101 trailers": (431, b"0\r\n" + b"A: b\r\n" * 101 + b"\r\n"),
    "trailers without an end": (431, b"0\r\n" + b"A: b\r\n" * 10_000),
}

good_chunks = pytest.mark.parametrize(("data", "body"), CHUNKED_GOOD.values(), ids=CHUNKED_GOOD)
bad_chunks = pytest.mark.parametrize(("status", "data"), CHUNKED_BAD.values(), ids=CHUNKED_BAD)


@good_chunks
def test_a_chunked_body_is_decoded_whole_and_what_follows_is_left(data, body):
    assert decoded([data]) == (body, b"")
    assert decoded([data + NEXT]) == (body, NEXT)


@good_chunks
def test_a_chunked_body_is_decoded_byte_by_byte_and_what_follows_is_left(data, body):
    assert decoded(bytewise(data + NEXT)) == (body, NEXT)


@good_chunks
def test_a_chunked_body_is_decoded_when_split_at_any_byte(data, body):
    for at in range(0, len(data), 1 + len(data) // 200):
        assert decoded([data[:at], data[at:]]) == (body, b"")


@good_chunks
def test_a_chunked_body_is_not_complete_before_its_last_byte(data, body):
    assert decoded([data[:-1]]) is None
    assert decoded(bytewise(data[:-1])) is None


@bad_chunks
def test_a_malformed_chunked_body_is_refused_whole(status, data):
    refusal = try_to(decoded, [data])
    assert isinstance(refusal, RequestError)
    assert refusal.status == status


@bad_chunks
def test_a_malformed_chunked_body_is_refused_byte_by_byte(status, data):
    refusal = try_to(decoded, bytewise(data))
    assert isinstance(refusal, RequestError)
    assert refusal.status == status


def test_a_body_of_many_small_chunks_is_bounded_too():
    assert try_to(decoded, [chunk(bytes(1000)) * 1100]).status == 413


CHUNK_FRAGMENTS = (
    b"0", b"5", b"a", b"F", b"\r\n", b"\r", b"\n", b";", b"=", b'"', b"\\", b" ", b"\t", b"hello", b"A: b", b":",
    b"\0", b"\xff", b"0\r\n", b"5\r\nhello\r\n", b"\r\n\r\n", b"fffff", b"-",
)  # fmt: skip
almost_chunks = st.one_of(st.binary(), st.lists(st.sampled_from(CHUNK_FRAGMENTS), max_size=20).map(b"".join))


@given(almost_chunks)
def test_no_byte_string_makes_decode_chunks_raise_anything_but_request_error(data):
    try_to(decoded, [data])


@given(almost_chunks)
def test_any_chunked_body_is_read_the_same_byte_by_byte(data):
    whole, pieces = try_to(decoded, [data]), try_to(decoded, bytewise(data))
    if isinstance(whole, RequestError):
        assert isinstance(pieces, RequestError)
        assert pieces.status == whole.status
    else:
        assert pieces == whole


@given(st.lists(st.binary(min_size=1), max_size=5), st.binary(), st.integers(0, 10_000))
def test_any_data_come_through_the_chunks_split_at_any_byte(parts, rest, at):
    data = b"".join(map(chunk, parts)) + LAST + rest
    at %= len(data)
    assert decoded([data[:at], data[at:]]) == (b"".join(parts), rest)


@pytest.mark.parametrize("hostile", [b";a" * 500, b";" + b" " * 1000, b';a="' + b"\\a" * 500, b";a" + b"\t " * 500])
def test_a_hostile_chunk_line_takes_no_time(hostile):
    begin = time.process_time()
    for _ in range(100):
        try_to(decoded, [b"5" + hostile + b"\0\r\n"])
    assert time.process_time() - begin < 2


# --- the numbers of a query


def query_numbers(query: str) -> list[float]:
    return numbers(query_values(query.encode()))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", []),
        ("a=3&b=3", [3, 3]),
        ("a=3&a=3", [3, 3]),
        ("a=1.5&b=-2&c=1e3&d=.5&e=5.", [1.5, -2, 1000, 0.5, 5]),
        ("a=1_000", [1000]),
        ("a", []),
        ("3", []),
        ("a=", []),
        ("=3", [3]),
        ("a=3=4", []),
        ("&&a=3&&", [3]),
        ("a=x&b=3", [3]),
        ("a=3;b=4", []),
        ("a=nan&b=inf&c=-Infinity&d=1e999", []),
        ("a=%33", [3]),
        ("a=%2B3&b=+3&c=3+&d=%20-3%0A", [3, 3, 3, -3]),
        ("a=%2&b=%zz&c=%ff&d=4", [4]),
        ("a=%D9%A3", [3]),  # an Arabic three: float() reads it
        ("a=0x10&b=1,5&c=1e5", [1e5]),
        ("a=" + "9" * 8000, []),
        ("a=3?b=4", []),
    ],
)
def test_the_numbers_of_a_query_are_found(query, expected):
    assert query_numbers(query) == expected


def numeric(values: Iterable[str]) -> list[float]:
    """The oracle: those that float() reads and that are finite."""
    found = []
    for value in values:
        try:
            number = float(value)
        except ValueError:
            continue
        if math.isfinite(number):
            found.append(number)
    return found


QUERY_FRAGMENTS = ("a", "b", "=", "&", "&a=", "3", ".5", "1e5", "-", "%2", "%20", "%33", "%2B", "+", "%C3%A9", "%", "_")


@given(
    st.one_of(
        st.lists(st.sampled_from(QUERY_FRAGMENTS)).map("".join),
        st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, blacklist_characters="#")),
        st.lists(st.tuples(st.text(), st.one_of(st.text(), st.floats().map(repr)))).map(urllib.parse.urlencode),
    )
)
def test_the_numbers_of_a_query_are_those_that_urllib_finds(query):
    pairs = urllib.parse.parse_qsl(query, keep_blank_values=True)
    assert query_numbers(query) == numeric(value for _, value in pairs)


def test_numbers_are_what_float_reads_and_finite():
    assert numbers(["1", "x", "", "nan", "inf", b"2", 3.0, math.inf, " 4\n"]) == [1, 2, 3, 4]


# --- the numbers of a JSON object


def json_numbers(body: bytes) -> list[float]:
    return numbers(json_values(body))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"a": 3, "b": 3}', [3, 3]),
        ("{}", []),
        (' \t\r\n{"a":\n3}\r\n ', [3]),
        ('{"a": 3, "a": 4}', [3, 4]),
        ('{"a": 3, "b": {"c": 4}, "d": [5], "e": true, "f": false, "g": null}', [3]),
        ('{"a": "3", "b": " 4 ", "c": "x", "d": "", "e": "nan", "f": "-inf", "g": "1e999"}', [3, 4]),
        ('{"a": -1.5, "b": 1e3, "c": 1E-3, "d": -0, "e": 0.0}', [-1.5, 1000, 0.001, 0, 0]),
        ('{"a": 1e999, "b": -1e999, "c": 1}', [1]),
        ('{"a": "\\u0033", "b": "\\ud800", "c": "٣", "\\u0000": 1}', [3, 3, 1]),
        ('{"": 1}', [1]),
        ('{"a": "[[[", "b": 9007199254740993}', [9007199254740992]),
    ],
)
def test_the_numbers_of_a_json_object_are_found(body, expected):
    assert json_numbers(body.encode()) == expected


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    """An object in which something is nested, `depth` levels in all."""
    return ('{"b": 1, "a": ' + opening * (depth - 1) + closing * (depth - 1) + "}").encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" \r\n\t",
        b"\xff",
        b'{"a": "\xe9"}',
        b'{"a": "\xed\xa0\x80"}',
        b"\xef\xbb\xbf{}",
        '{"a": 3}'.encode("utf-16"),
        b"[]",
        b"[3, 3]",
        b'[{"a": 3}]',
        b"3",
        b'"a"',
        b"null",
        b"true",
        b"{",
        b"}",
        b'{"a"}',
        b'{"a": }',
        b'{"a": 3,}',
        b'{"a": 3} x',
        b'{"a": 3}{"a": 3}',
        b"{a: 3}",
        b"{'a': 3}",
        b'{3: "a"}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -Infinity}',
        b'{"b": [NaN]}',
        b'{"a": 03}',
        b'{"a": +3}',
        b'{"a": .5}',
        b'{"a": 5.}',
        b'{"a": 0x3}',
        b'{"a": 1_000}',
        b'{"a": "\n"}',
        b'{"a": "\\x"}',
        b'{"a": "',
        b'{"a": 3} // no comment',
        b"\0",
        b'{"a": 3}\0',
        b"\xc2\xa0{}",
        b"a=3&b=3",
        nested(101),
        nested(101, '{"a":[', "]}"),
        b"[" * 100_000,
        b"{" * 100_000,
        b'{"a":' * 100_000,
        b"[{" * 500_000,
        b"]" * 1000 + b"[" * 900,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":"\\\\",' + b'"b":[' * 101,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_json_object_is_refused_with_one_line(body):
    with pytest.raises(RequestError) as caught:
        json_numbers(body)
    assert caught.value.status == 400
    assert_is_one_line(str(caught.value))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ("[0, ", "]")])
def test_a_json_text_may_be_nested_a_hundred_deep(opening, closing):
    body = '{"b": 1, "a": ' + opening * 99 + "0" + closing * 99 + "}"
    assert json_numbers(body.encode()) == [1]


@pytest.mark.parametrize(
    "text",
    ["[" * 1000, "{[" * 1000, '\\"' + "[" * 1000, "\\\\" * 3 + '\\"' + "{" * 500, "]" * 500, '["' * 500, "\\" * 999],
    ids=lambda text: text[:8],
)
def test_brackets_in_strings_are_not_counted(text):
    assert json_numbers(json.dumps({"a": text, text: 3, "b": [text]}).encode()) == [3]


def test_brackets_side_by_side_are_not_deep():
    assert json_numbers(json.dumps({"a": [[]] * 1000, "b": [{}] * 1000, "c": 1}).encode()) == [1]


def depth_of(value) -> int:
    """The oracle for documents, not texts."""
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


finite = st.floats(allow_nan=False, allow_infinity=False)
json_leaves = st.one_of(st.none(), st.booleans(), finite, st.text('[]{}"\\ a,:'))
any_json = st.recursive(
    json_leaves,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text('[]{}"\\ a'), inner, max_size=4)),
)


@given(any_json, st.booleans())
def test_the_nesting_of_a_json_text_is_that_of_its_document(value, indented):
    filler = ["["] * 101  # in strings, so that the brackets of the text alone are too many
    text = json.dumps([value, filler], indent=1 if indented else None)
    assert json_nesting(text) == max(2, 1 + depth_of(value))


@given(st.one_of(st.binary(), st.text('[]{}",:\\ 01eENa"\n').map(str.encode), st.text().map(str.encode)))
def test_no_byte_string_makes_json_numbers_raise_anything_but_request_error(body):
    try_to(json_numbers, body)


@given(st.dictionaries(st.text(), st.one_of(json_leaves, st.integers(), st.lists(st.integers(), max_size=2))))
def test_the_numbers_of_any_json_object_are_those_of_its_dict(document):
    plain = [
        value for value in document.values() if isinstance(value, (int, float, str)) and not isinstance(value, bool)
    ]
    try:
        expected = numeric(map(str, plain))
    except OverflowError:
        return
    assert json_numbers(json.dumps(document).encode()) == expected


@pytest.mark.parametrize("digits", [10_000, 1_000_000])
def test_an_integer_of_ever_so_many_digits_is_no_number_and_takes_no_time(digits):
    begin = time.process_time()
    assert json_numbers(b'{"a": %b, "b": 1}' % (b"9" * digits)) == [1]
    assert time.process_time() - begin < 2


# --- sums


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "Sum: 0"),
        ([3.0, 3.0], "Sum: 6.0"),
        ([0.1] * 10, "Sum: 1.0"),
        ([0.1, 0.2], "Sum: 0.30000000000000004"),
        ([1e16, 1.0, -1e16], "Sum: 1.0"),
        ([1.0, -1.0], "Sum: 0.0"),
        ([-0.0], "Sum: 0.0"),
        ([1e100], "Sum: 1e+100"),
        ([5e-324], "Sum: 5e-324"),
        ([1e308, 1e308], "Sum: inf"),
        ([-1e308, -1e308], "Sum: -inf"),
        ([1e308, 1e308, -1e308], "Sum: 1e+308"),
        ([1e308, 1e308, -1e308, -1e308], "Sum: 0.0"),
        ([1e308, 1e308, 5e-324, -1e308, -1e308], "Sum: 5e-324"),
        ([LARGEST, math.ulp(LARGEST) / 4], "Sum: 1.7976931348623157e+308"),
        ([LARGEST, math.ulp(LARGEST) / 2], "Sum: inf"),
        ([LARGEST, math.ulp(LARGEST) / 2, -5e-324], "Sum: 1.7976931348623157e+308"),
        (["1", b"2", 3.0, "x", "", "nan", "inf", "1e999", math.inf], "Sum: 6.0"),
        (["inf", "-inf", "nan"], "Sum: 0"),
        ([1e308, "x", 1e308, "-inf"], "Sum: inf"),
    ],
)
def test_a_sum_is_exact(values, text):
    assert sum_text(values) == text


def rounded_once(values: list[float]) -> float:
    """The oracle: a fraction, made a float at the end."""
    exact = sum(map(Fraction, values))
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


extremes = st.sampled_from([LARGEST, -LARGEST, 2.0**970, 5e-324])
huge = st.one_of(st.floats(1e307, LARGEST), st.floats(-LARGEST, -1e307), extremes)


@given(st.one_of(st.lists(finite, min_size=1), st.lists(huge, min_size=1)))
def test_a_sum_is_rounded_once(values):
    assert sum_text(values) == f"Sum: {rounded_once(values)!r}"
    assert exact_sum(values) == rounded_once(values)


@given(st.lists(st.one_of(finite, huge), min_size=1, max_size=6), st.randoms())
def test_a_sum_does_not_depend_on_the_order(values, random):
    mixed = list(values)
    random.shuffle(mixed)
    assert sum_text(mixed) == sum_text(values)
