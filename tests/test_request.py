"""Parsing a head and a chunked body from bytes: whole, byte by byte, and with another request after it."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Iterable
from typing import NamedTuple

import pytest
from chunks import CHUNKED_BAD, CHUNKED_GOOD, LAST_CHUNK, MIB, chunk
from heads import BAD, GOOD, NEXT, get, head_of, head_of_size
from hypothesis import example, given
from hypothesis import strategies as st
from refusals import assert_is_one_line, try_to

import webserver_influx
from webserver_influx import (
    CHUNKED,
    BodyReader,
    RequestError,
    read_by_length,
    read_chunks,
    take_head,
)

pytestmark = pytest.mark.smoke


# --- heads


def bytewise(data: bytes) -> list[bytes]:
    """Split data into bytes, but the middle of long data into 50 pieces: parsing n pieces takes O(n²)."""
    start, middle, end = data[:500], data[500:-100], data[500:][-100:]
    step = 1 + len(middle) // 50
    pieces = [middle[at : at + step] for at in range(0, len(middle), step)]
    return [bytes([byte]) for byte in start] + pieces + [bytes([byte]) for byte in end]


good_heads = pytest.mark.parametrize("head", GOOD.values(), ids=GOOD)
bad_heads = pytest.mark.parametrize(("status", "head"), BAD.values(), ids=BAD)


def taken(pieces: Iterable[bytes]):
    """Return the result of `take_head` for bytes that arrive in these pieces; the rest includes the later pieces."""
    buffer, head = b"", None
    for piece in pieces:
        buffer += piece
        if head is None:
            head = take_head(buffer)
            buffer = b"" if head else buffer
    return head and (*head[:-1], head[-1] + buffer)


def refusal_of(pieces: Iterable[bytes]) -> int:
    with pytest.raises(RequestError) as caught:
        taken(pieces)
    assert_is_one_line(str(caught.value))
    return caught.value.status


@good_heads
def test_a_good_head_is_taken_whole_and_what_follows_is_left(head):
    *meaning, rest = take_head(head)
    assert rest == b""
    assert take_head(head + NEXT) == (*meaning, NEXT)


@good_heads
def test_a_good_head_is_taken_byte_by_byte_and_not_before_its_last_byte(head):
    assert taken(bytewise(head[:-1])) is None
    assert taken(bytewise(head + NEXT)) == take_head(head + NEXT)
    for end in range(1, 5):  # its fields are in the cache now
        assert take_head(head[:-end]) is None


@bad_heads
def test_a_bad_head_is_refused_whole(status, head):
    assert refusal_of([head]) == status


@bad_heads
def test_a_bad_head_is_refused_byte_by_byte(status, head):
    assert refusal_of(bytewise(head)) == status


@pytest.mark.parametrize("data", [b"", b"\r", b"\r\n", b"G", b"GET", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\n"])
def test_an_incomplete_head_needs_more_bytes(data):
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
        b"GET /\x1f",
        b"GET /\rX",
        b"GET / HTTP/1.1\r\nHost: x\n",
    ],
)
def test_bytes_that_begin_no_head_are_refused_at_once(data):
    assert refusal_of([data]) == 400


@pytest.mark.parametrize(
    ("status", "data"),
    [
        (505, b"GET / HTTP/2.0\r\n"),
        (505, b"PRI * HTTP/2.0\r\n"),
        (400, b"GET / HTTP/1.1 \r\n"),
        (400, b"GET / HTTQ/1.1\r\n"),
        (400, b"GET /\r\n"),
        (400, b"GET / \r\n"),
        (400, b"GET\r\n"),
        (400, b"\r\nGET\r\n"),
        (400, b"GET * HTTP/1.1\r\n"),
        (400, b"GET /# HTTP/1.1\r\n"),
        (400, b"GET / HTTP/1.1\r\nName\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\n folded\r\n"),
        (400, b"GET / HTTP/1.1\r\nHost: x\r\nName : v\r\n"),
        (431, b"GET / HTTP/1.1\r\n" + b"F: v\r\n" * 101),
    ],
)
def test_a_malformed_line_is_refused_with_its_own_status_when_it_is_complete(status, data):
    assert take_head(data[:-2]) is None
    assert refusal_of([data]) == status
    assert refusal_of(bytewise(data)) == status


def test_a_request_line_that_is_too_long_is_refused_before_its_end():
    assert take_head(b"G" * 8192) is None
    assert refusal_of([b"G" * 8193]) == 501
    assert take_head(b"GET /" + b"a" * 8187) is None
    assert refusal_of([b"GET /" + b"a" * 8188]) == 414


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
    expectation: bytes
    data_type: tuple[bytes, bytes]


def fields(*lines: str, version: str = "1.1") -> Fields:
    """Return the parsed fields of a head with a Host field and these lines."""
    return Fields(*take_head(head_of(f"GET / HTTP/{version}", *lines))[2])


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


def test_a_content_length_of_60_000_digits_is_too_long():
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
def test_version_and_connection_say_whether_the_connection_persists(version, lines, persists):
    assert (fields(*lines, version=version).persistence != "\r\nConnection: close\r\n\r\n") is persists


def test_only_in_http_1_0_the_response_says_that_the_connection_persists():
    response_head_ends = fields("Connection: keep-alive", version="1.0").persistence
    assert response_head_ends == "\r\nConnection: keep-alive\r\n\r\n"
    assert fields("Connection: keep-alive").persistence == "\r\n\r\n"


@pytest.mark.parametrize(
    ("version", "lines", "expectation"),
    [
        ("1.1", [], ""),
        ("1.1", ["Expect: 100-continue"], "100-continue"),
        ("1.1", ["Expect: 100-Continue"], "100-continue"),
        ("1.1", ["Expect: 100-continue, 100-continue"], "100-continue"),
        ("1.1", ["Expect: 100-continue, "], "100-continue"),
        ("1.0", ["Expect: 100-continue"], ""),
        ("1.0", ["Expect: tea"], ""),
    ],
)
def test_the_expectation_is_read(version, lines, expectation):
    assert fields(*lines, version=version).expectation == expectation.encode()


@pytest.mark.parametrize("lines", [["Expect: 100-continue, tea"], ["Expect: tea", "Expect: 100-continue"]])
def test_an_unknown_expectation_beside_the_known_one_is_an_unknown_one(lines):
    assert fields(*lines).expectation not in (b"", webserver_influx.CONTINUE)


@pytest.mark.parametrize(
    ("lines", "media_type"),
    [
        ([], ""),
        (["Content-Type: application/json"], "application/json"),
        (["content-type:Application/JSON"], "application/json"),
        (["Content-Type: application/json; charset=utf-8"], "application/json"),
        (["Content-Type: application/json\t;charset=utf-8"], "application/json"),
        (["Content-Type: application/jsonp"], "application/jsonp"),
        (['Content-Type: text/plain; a="application/json"'], "text/plain"),
        (["Content-Type: application/json;"], "application/json"),
        (["Content-Type: application/json ; ;\ta=b ;;"], "application/json"),
        (['Content-Type: application/json; a="b, text/plain; c=\\"d\\""; e=f'], "application/json"),
    ],
)
def test_the_media_type_is_read(lines, media_type):
    assert fields(*lines).data_type == (media_type.encode(), b"")


@pytest.mark.parametrize(
    "value",
    [
        "json",
        "application/json, text/plain",
        "application/json, application/json",
        "application/json; a=b, text/plain",
        'application/json; a="b", text/plain; c="d"',
        "application/json; a=b c=d",
        "application/json; a",
        "application/json; a=b/c",
        "application/json; a=",
        'application/json; a="b',
        "application /json",
        "application/json text/plain",
        "application/",
        "; charset=utf-8",
    ],
)
def test_a_malformed_media_type_is_ignored(value):
    assert fields(f"Content-Type: {value}").data_type == (b"", b"")


@pytest.mark.parametrize(
    ("lines", "codings"),
    [
        (["Content-Encoding: gzip"], "gzip"),
        (["content-encoding:\tX-GZIP "], "x-gzip"),
        (["Content-Encoding: gzip, br"], "gzip, br"),
        (["Content-Encoding: gzip", "Content-Encoding: br"], "gzip, br"),
        (["Content-Encoding: Identity"], ""),
        (["Content-Encoding: identity", "Content-Encoding: identity"], "identity, identity"),
        (["Content-Encoding: identity", "Content-Encoding: gzip"], "identity, gzip"),
        (["Content-Encoding: ,"], ""),
        (["Content-Encoding:"], ""),
    ],
)
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_the_content_codings_are_read(lines, codings, version):
    assert fields(*lines, version=version).data_type == (b"", codings.encode())


@given(st.binary())
@example(b"\r\n\r\n")
@example(b"\r\n\r\n\r\n\r\n")
@example(b"\r\n" * 9)
def test_no_byte_string_makes_take_head_raise_anything_but_request_error(data):
    try_to(take_head, data)


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
known = ("host", "connection", "content-length", "transfer-encoding", "expect", "content-type", "content-encoding")


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
        get("Content-Type: a/b" + "; " * 30_000 + ",", "Content-Length: x"),
        get("Content-Type: a/b" + ";\t \t" * 15_000 + ",", "Content-Length: x"),
        get("Content-Type: a/b; c=" + '"\\a' * 20_000 + ",", "Content-Length: x"),
    ],
    ids=lambda head: repr(head[:40]),
)
def test_a_hostile_head_takes_no_time(hostile):
    begin = time.process_time()
    for number in range(10):
        refusal = try_to(take_head, hostile + bytes(number))
        assert isinstance(refusal, RequestError)
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    "make_head",
    [
        lambda number: get(f"Cookie: visit={number}"),
        lambda number: get(f"Content-Type: a/{number}"),
        lambda number: get(host=f"host-{number}"),
        lambda number: get(f"Padding: {number}{'p' * 60_000}"),
        lambda number: get(*(f"F{number}-{field}: {'v' * 600}" for field in range(90))),
    ],
    ids=["a cookie", "a type", "a host", "a long line", "a long section"],
)
def test_the_caches_are_bounded_in_number_and_size(make_head):
    for number in range(3 * webserver_influx.CACHE_ENTRIES):
        assert take_head(make_head(number))
    for memory in (webserver_influx.section_cache, webserver_influx.line_cache, webserver_influx.fields_cache):
        assert len(memory) <= webserver_influx.CACHE_ENTRIES
        assert sum(map(len, memory)) <= webserver_influx.CACHE_ENTRIES * webserver_influx.CACHE_KEY_BYTES


def test_one_changing_field_does_not_evict_the_sections_that_repeat():
    for _ in range(2):  # the first time, the lines are new
        take_head(get("Known: 1"))
    for number in range(webserver_influx.CACHE_ENTRIES // 4):
        take_head(get("Known: 1", f"Cookie: visit={number}"))
    assert b"HTTP/1.1\r\nHost: x\r\nKnown: 1" in webserver_influx.section_cache


# --- bodies


@given(st.binary(), st.binary(), st.integers(0, 10_000))
def test_a_body_of_a_length_is_taken_split_at_any_byte(body, rest, at):
    data = body + rest
    at %= len(data) + 1
    if body:
        assert read_from(read_by_length(len(body)), [data[:at], data[at:]]) == (body, rest)
        assert read_from(read_by_length(len(body)), bytewise(body[:-1])) is None


def decoded(pieces: Iterable[bytes]) -> tuple[bytes, bytes] | None:
    """Return the decoded body of these pieces and the bytes after it, or None if it is incomplete."""
    return read_from(read_chunks(), pieces)


def read_from(reader: BodyReader, pieces: Iterable[bytes]) -> tuple[bytes, bytes] | None:
    next(reader)
    pieces = iter(pieces)
    for piece in pieces:
        found = reader.send(piece)
        if found:
            body, rest = found
            return body, rest + b"".join(pieces)
    return None


good_chunks = pytest.mark.parametrize(("data", "body"), CHUNKED_GOOD.values(), ids=CHUNKED_GOOD)
bad_chunks = pytest.mark.parametrize(("status", "data"), CHUNKED_BAD.values(), ids=CHUNKED_BAD)


@good_chunks
def test_a_chunked_body_is_decoded_whole_and_what_follows_is_left(data, body):
    assert decoded([data]) == (body, b"")
    assert decoded([data + NEXT]) == (body, NEXT)


@good_chunks
def test_a_chunked_body_is_decoded_in_any_pieces_and_not_before_its_last_byte(data, body):
    for at in range(0, len(data), 1 + len(data) // 200):
        assert decoded([data[:at], data[at:]]) == (body, b"")
    assert decoded(bytewise(data + NEXT)) == (body, NEXT)
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


def test_a_body_in_chunks_of_one_byte_is_taken():
    data = b"0123456789" * 2000
    assert decoded([b"".join(chunk(data[at : at + 1]) for at in range(len(data))) + LAST_CHUNK]) == (data, b"")


@pytest.mark.parametrize("size", [1, 100])
def test_the_framing_of_chunks_is_bounded(size):
    """RFC 9112 §7.1.1: the total length of chunk extensions."""
    assert try_to(decoded, [chunk(b"x" * size, b";" + b"a" * 900) * 100]).status == 400
    assert decoded([chunk(b"x" * size, b";" + b"a" * 900) * 10 + LAST_CHUNK]) == (b"x" * size * 10, b"")


def test_extensions_of_twice_the_data_are_always_taken():
    data, pieces = b"x" * 500, 200
    assert decoded([chunk(data, b";" + b"a" * 990) * pieces + LAST_CHUNK]) == (data * pieces, b"")


@pytest.mark.parametrize("unit", [chunk(b"x", b";" + b"a" * 900), chunk(b"x"), chunk(b"x" * 100, b";" + b"a" * 900)])
def test_the_framing_of_any_data_is_within_the_limits(unit):
    reader, count = read_chunks(), 0
    next(reader)
    with contextlib.suppress(RequestError):
        while not reader.send(unit * 10):
            count += 10
    around, data = len(unit) - unit.count(b"x"), unit.count(b"x")
    granted = count * (webserver_influx.CHUNK_FRAMING_BYTES + 2 * data) + webserver_influx.CHUNK_EXCESS_BYTES
    assert 0 < count * around <= granted
    assert count * data <= MIB


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (b"5;a=\r\n", "extensions"),
        (b"x\r\n", "hexadecimal size"),
        (b"5\r\nhello\n", "not followed by CRLF"),
        (b"5\r\nhello, world\r\n", "not followed by CRLF"),
        (b"5;" + b"a" * 2000, "longer than 1024"),
        (chunk(b"x", b";" + b"a" * 900) * 20, "more than 16384 bytes"),
        (b"0\r\nA\r\n", "trailer"),
    ],
)
def test_the_error_of_a_chunked_body_is_reported(data, fault):
    assert fault in str(try_to(decoded, [data]))
    assert fault in str(try_to(decoded, bytewise(data)))


def test_a_body_of_many_small_chunks_is_bounded():
    assert try_to(decoded, [chunk(bytes(1000)) * 1100]).status == 413


CHUNK_FRAGMENTS = (
    b"0", b"5", b"a", b"F", b"\r\n", b"\r", b"\n", b";", b"=", b'"', b"\\", b" ", b"\t", b"hello", b"A: b", b":",
    b"\0", b"\xff", b"0\r\n", b"5\r\nhello\r\n", b"\r\n\r\n", b"fffff", b"-",
)  # fmt: skip
almost_chunks = st.one_of(st.binary(), st.lists(st.sampled_from(CHUNK_FRAGMENTS), max_size=20).map(b"".join))


@given(almost_chunks)
def test_no_byte_string_makes_read_chunks_raise_anything_but_request_error(data):
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
    data = b"".join(map(chunk, parts)) + LAST_CHUNK + rest
    at %= len(data)
    assert decoded([data[:at], data[at:]]) == (b"".join(parts), rest)


@pytest.mark.parametrize("hostile", [b";a" * 500, b";" + b" " * 1000, b';a="' + b"\\a" * 500, b";a" + b"\t " * 500])
def test_a_hostile_chunk_line_takes_no_time(hostile):
    begin = time.process_time()
    for _ in range(100):
        try_to(decoded, [b"5" + hostile + b"\0\r\n"])
    assert time.process_time() - begin < 2
