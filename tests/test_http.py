"""Requests and responses over sockets, and with curl, ab and wrk."""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import socket
import ssl
import subprocess
import time
from typing import Callable

import pytest
from chunks import CHUNKED_BAD, LAST_CHUNK, MIB, chunk
from daemons import PATIENCE_S, reset_at_close, wait_until
from heads import BAD, GOOD, answered
from messages import (
    CHUNKED_POST,
    JSON_TYPE,
    PROMPT_S,
    WRONG_TYPE,
    exchange,
    is_readable,
    message,
    parsed,
    post,
    receive,
    refusal,
    statuses,
    texts,
)
from needs import installed, ipv6

# test_request.py and test_handler.py read every head and every body without a socket. A sample is enough here: one of
# each kind, each status and each size.
GOOD_SAMPLE = (
    "a query in UTF-8",
    "HEAD",
    "POST",
    "an unknown method",
    "HTTP/1.0 without Host",
    "HTTP/1.0 with keep-alive",
    "absolute-form",
    "OPTIONS *",
    "CONNECT",
    "a field value of Latin-1",
    "an empty line before the request",
    "the same Content-Length in two fields",
    "chunked",
    "an unknown expectation",
    "a head of 65536 bytes",
)
BAD_SAMPLE = (
    "only a number",
    "a space in the target",
    "CONNECT *",
    "obs-fold",
    "NUL in a value",
    "bare LFs everywhere",
    "no Host",
    "a malformed Host in HTTP/1.0",
    "Content-Length and Transfer-Encoding",
    "gzip, chunked",
    "two Content-Types",
    "the preface of HTTP/2",
    "a method without an end",
    "a request line without an end",
    "a head without an end",
)
CHUNKED_BAD_SAMPLE = (
    "a size that is not a number",
    "a bare LF after the size",
    "less data than the size says",
    "an extension with an open quote",
    "a trailer without a colon",
    "a line without an end",
    "a byte more than a mebibyte in two",
    "trailers without an end",
)


@pytest.fixture(scope="module")
def web(new_server, tmp_path_factory):
    """One server for all tests that do not change it; if it printed a traceback, the last of them fails."""
    with contextlib.closing(new_server(tmp_path_factory.mktemp("web"))) as web:
        yield web.start()


# --- GET, HEAD, POST


def test_a_response_has_exactly_these_bytes(web):
    data = web.raw(message("GET /?a=3&b=3", "Connection: close"))
    assert re.fullmatch(
        rb"HTTP/1\.1 200 OK\r\n"
        rb"Date: [A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT\r\n"
        rb"Content-Type: text/plain; charset=utf-8\r\n"
        rb"Content-Length: 8\r\n"
        rb"Connection: close\r\n"
        rb"\r\n"
        rb"Sum: 6\.0",
        data,
    )


def test_the_date_is_now(web):
    def seconds_off() -> float:
        return abs(email.utils.parsedate_to_datetime(web.get().headers["Date"]).timestamp() - time.time())

    assert seconds_off() < PROMPT_S
    begin = web.get().headers["Date"]
    wait_until(lambda: web.get().headers["Date"] != begin, what="the date to go on")


@pytest.mark.parametrize(
    ("target", "text"),
    [
        ("/", "Sum: 0"),
        ("/?a=3&b=3", "Sum: 6.0"),
        ("/?a=3&a=3", "Sum: 6.0"),
        ("/any/path?a=3&b=x&c=", "Sum: 3.0"),
        ("/?a=nan&b=inf", "Sum: 0"),
        ("/?" + "&".join(["a=0.1"] * 10), "Sum: 1.0"),
        ("/?a=1e308&b=1e308", "Sum: inf"),
        ("/?a=-1e308&b=-1e308", "Sum: -inf"),
        ("/?a=%33&b=+3", "Sum: 6.0"),
        ("http://x/?a=3", "Sum: 3.0"),
        ("http://x?a=3", "Sum: 3.0"),
    ],
)
def test_get_adds_up_the_numbers_of_the_query(web, target, text):
    response = web.get(target)
    assert (response.status, response.text) == (200, text)
    assert response.headers["Content-Type"] == "text/plain; charset=utf-8"


@pytest.mark.parametrize("target", ["/", "/?a=3&b=3"])
def test_head_is_get_without_the_body(web, target):
    get, head = web.get(target), web.request("HEAD", target)
    assert (head.status, head.text) == (200, "")
    assert head.headers["Content-Length"] == get.headers["Content-Length"] == str(len(get.text))


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ('{"a": 3, "b": 3}', "Sum: 6.0"),
        ("{}", "Sum: 0"),
        ('{"a": "3", "b": "x", "c": true, "d": null, "e": [4], "f": {"g": 5}, "a": 3}', "Sum: 6.0"),
        ('{"a": 1e308, "b": 1e308, "c": -1e308}', "Sum: 1e+308"),
        ('{"a": ' + "9" * 10_000 + ', "b": 1}', "Sum: 1.0"),
        ('\ufeff{"a": 3}'.encode(), "Sum: 3.0"),
        ('\ufeff{"a": 3}'.encode().ljust(10_000), "Sum: 3.0"),
        ('{"a": "' + "x" * (MIB - 20) + '", "b": 3}', "Sum: 3.0"),
    ],
    ids=lambda value: value[:20],
)
def test_post_adds_up_the_numbers_of_the_object(web, body, text):
    response = web.request("POST", "/", body, {"Content-Type": "application/json"})
    assert (response.status, response.text) == (200, text)


@pytest.mark.parametrize("media_type", ["Application/JSON", "application/json; charset=utf-8", "application/json ;a=b"])
def test_post_takes_json_however_it_is_written(web, media_type):
    assert web.request("POST", "/?b=9", '{"a": 3}', {"Content-Type": media_type}).text == "Sum: 3.0"


@pytest.mark.parametrize("media_type", ["text/plain", "application/jsonp", "application/json; a=b, text/plain", ""])
@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_post_of_another_type_is_refused(web, media_type, version):
    fields = (f"Content-Type: {media_type}", "Connection: keep-alive")
    request = message(f"POST / HTTP/{version}", *fields, body=b'{"a": 3}')
    refused, served = parsed(web.raw(request + message("GET /", "Connection: close")))
    assert (refused.status, refused.text, served.status) == (400, WRONG_TYPE, 200)


def test_post_without_a_type_is_refused(web):
    response = web.request("POST", "/", '{"a": 3}')
    assert (response.status, response.text) == (400, WRONG_TYPE)


@pytest.mark.parametrize("charset", ["utf-8", "utf-16", "latin-1; charset=utf-8"])
def test_a_charset_is_ignored_as_json_is_utf_8(web, charset):
    def post_as(encoding: str) -> tuple[int, str]:
        body = '{"ü": 3}'.encode(encoding)
        response = web.request("POST", "/", body, {"Content-Type": f"application/json; charset={charset}"})
        return response.status, response.text

    assert post_as("utf-8") == (200, "Sum: 3.0")
    assert post_as("utf-16") == post_as("latin-1") == (400, "The body is not UTF-8.")


@pytest.mark.parametrize(
    ("coding", "version", "size"),
    [
        ("gzip", "1.1", 20),
        ("gzip", "1.0", 20),
        ("GZIP", "1.1", 10_000),
        ("x-gzip", "1.0", 10_000),
        ("br", "1.1", 20),
        ("gzip, identity", "1.1", 10_000),
        ("identity, identity", "1.1", 20),
    ],
)
def test_an_unknown_content_coding_is_refused_and_the_response_names_identity(web, coding, version, size):
    body = b"\x1f\x8b".ljust(size)
    fields = (JSON_TYPE, f"Content-Encoding: {coding}", "Connection: keep-alive")
    request = message(f"POST / HTTP/{version}", *fields, body=body)
    refused, served = parsed(web.raw(request + message("GET /", "Connection: close")))
    assert (refused.status, refused.fields["accept-encoding"]) == (415, "identity")
    assert "coding" in refused.text
    assert served.text == "Sum: 0"


def test_the_coding_identity_is_no_coding(web):
    assert texts(web.raw(post(b'{"a": 3}', "Content-Encoding: Identity", "Connection: close"))) == ["Sum: 3.0"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_coding_of_an_ignored_body_is_ignored(web, method):
    data = web.raw(message(f"{method} /?a=3", "Content-Encoding: gzip", "Connection: close", body=b"\x1f\x8b"))
    assert statuses(data, method) == [200]


@pytest.mark.parametrize("body", [b"", b"\xff", b"\xef\xbb\xbf", b"[]", b"{", b'{"a": NaN}', b"a=3"])
def test_post_of_no_json_object_is_refused_and_the_connection_stays(web, body):
    data = web.raw(post(body, *([] if body else ["Content-Length: 0"])) + message("GET /", "Connection: close"))
    bad, good = parsed(data)
    assert (bad.status, good.text) == (400, "Sum: 0")
    assert bad.text.isprintable()


def test_a_post_without_a_body_does_not_get_the_one_before(web):
    data = web.raw(post(b'{"a": 3}') + post(b"", "Connection: close"))
    assert statuses(data) == [200, 400]


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "[{" * (MIB // 2), '{"a":[' * 1000 + "]}" * 1000])
def test_deep_json_does_not_kill_the_server(web, text):
    response = web.request("POST", "/", text, {"Content-Type": "application/json"})
    assert response.status == 400
    assert "deep" in response.text
    assert web.running
    assert web.get().text == "Sum: 0"


@pytest.mark.parametrize(
    ("body", "place"), [(b'\n\n {"a": }', "line 3 column 8 (char 9)"), (b' {"a": 1} x ', "(char 9)")]
)
def test_a_json_error_is_reported_with_its_position(web, body, place):
    assert texts(web.raw(post(body, "Connection: close")))[0].endswith(f"{place}.")


def test_json_may_be_nested_a_hundred_deep(web):
    text = '{"b": 3, "a": ' + "[" * 99 + "]" * 99 + "}"
    assert web.request("POST", "/", text, {"Content-Type": "application/json"}).text == "Sum: 3.0"


# --- connections


@pytest.mark.parametrize("line", ["GET /?a={} HTTP/1.1", "GET /?a={} HTTP/1.0"])
def test_a_connection_is_kept_alive(web, line):
    with web.connect() as connection:
        for number in range(20):
            request = message(line.format(number), "Connection: keep-alive")
            (response,) = parsed(exchange(connection, request, until=b"Sum: %d.0" % number))
            assert response.fields.get("connection") == ("keep-alive" if line.endswith("1.0") else None)


@pytest.mark.parametrize(
    "request_bytes",
    [message("GET /", "Connection: close"), message("GET / HTTP/1.0"), b"GET / HTTP/1.0\r\n\r\n"],
)
def test_a_connection_is_closed_when_the_client_wants_it(web, request_bytes):
    (response,) = parsed(web.raw(request_bytes + message("GET /")))
    assert (response.status, response.fields["connection"]) == (200, "close")


def test_pipelined_requests_are_answered_in_order(web):
    requests = [message(f"GET /?a={number}") for number in range(500)]
    data = web.raw(b"".join(requests) + message("GET /?a=x", "Connection: close"))
    assert texts(data) == [*(f"Sum: {number}.0" for number in range(500)), "Sum: 0"]


def test_pipelined_requests_may_be_of_all_kinds(web):
    requests = {
        message("GET /?a=1"): (200, "Sum: 1.0"),
        post(b'{"a": 2}'): (200, "Sum: 2.0"),
        message("HEAD /?a=3"): (200, ""),
        message("PUT /", body=b"GET / HTTP/1.1\r\n\r\n"): (405, "This server supports only GET, HEAD and POST."),
        post(b"{"): (400, None),
        message("POST /", body=b"a=3"): (400, WRONG_TYPE),
        message("GET /?a=4", body=b"ignored"): (200, "Sum: 4.0"),
        CHUNKED_POST + chunk(b'{"a": 5}') + LAST_CHUNK: (200, "Sum: 5.0"),
        message("HEAD /", "Expect: tea"): (417, ""),
        message("GET /?a=6", "Connection: close"): (200, "Sum: 6.0"),
    }
    methods = [request.split(b" ")[0].decode() for request in requests]
    responses = parsed(web.raw(b"".join(requests)), *methods)
    assert len(responses) == len(requests)
    for response, (status, text) in zip(responses, requests.values()):
        assert response.status == status
        assert text is None or response.text == text


def test_earlier_requests_are_answered_before_the_connection_is_closed(web):
    data = web.raw(message("GET /?a=1") + message("GET /?a=2") + b"GARBAGE\r\n\r\n")
    assert statuses(data) == [200, 200, 400]


def test_a_slow_client_is_served_byte_by_byte(web):
    requests = [
        message("GET /?a=3&b=3"),
        post(b'{"a": 4}'),
        CHUNKED_POST + chunk(b'{"a"', b";b=c") + chunk(b":5}") + LAST_CHUNK,
        message("HEAD /", "Connection: close"),
    ]
    with web.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"".join(requests):
            connection.sendall(bytes([byte]))
        data = receive(connection)
    assert texts(data, "GET", "POST", "POST", "HEAD") == ["Sum: 6.0", "Sum: 4.0", "Sum: 5.0", ""]


@pytest.mark.parametrize("name", GOOD_SAMPLE)
def test_a_good_head_is_answered_over_a_socket_too(web, name):
    method, body, status = answered(GOOD[name])
    assert statuses(web.raw(GOOD[name] + body, half_close=True), method) == [status]


# --- bodies and expectations


def test_a_client_that_asks_is_told_to_go_on(web):
    with web.connect() as connection:
        head = message("POST /", JSON_TYPE, "Content-Length: 8", "Expect: 100-continue")
        assert exchange(connection, head, until=b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert texts(exchange(connection, b'{"a": 3}', until=b"Sum: 3.0")) == ["Sum: 3.0"]


def test_a_client_that_asks_about_a_chunked_body_is_told_to_go_on(web):
    with web.connect() as connection:
        head = message("POST /", JSON_TYPE, "Transfer-Encoding: chunked", "Expect: 100-Continue")
        assert exchange(connection, head, until=b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        data = exchange(connection, chunk(b'{"a": 3}') + LAST_CHUNK, until=b"Sum: 3.0")
        assert texts(data) == ["Sum: 3.0"]


def test_a_client_that_asks_and_does_not_wait_is_served(web):
    data = web.raw(post(b'{"a": 3}', "Expect: 100-continue", "Connection: close"))
    assert [response.text for response in parsed(data) if response.status != 100] == ["Sum: 3.0"]


def test_an_http_1_0_client_is_not_told_to_go_on(web):
    request = message("POST / HTTP/1.0", JSON_TYPE, "Expect: 100-continue", body=b'{"a": 3}')
    head, _, body = request.partition(b"\r\n\r\n")
    with web.connect() as connection:
        connection.sendall(head + b"\r\n\r\n")
        connection.sendall(body)
        assert texts(receive(connection)) == ["Sum: 3.0"]


def test_a_client_that_asks_with_a_body_that_is_too_long_is_not_told_to_go_on(web):
    data = web.raw(message("POST /", JSON_TYPE, f"Content-Length: {MIB + 1}", "Expect: 100-continue"))
    assert refusal(data).status == 413


def test_an_unknown_expectation_without_a_body_leaves_the_connection_open(web):
    data = web.raw(message("GET /", "Expect: tea") + message("GET /", "Connection: close"))
    failed, served = parsed(data)
    assert (failed.status, served.status) == (417, 200)
    assert "connection" not in failed.fields


def test_an_unknown_expectation_with_a_body_closes_the_connection(web):
    data = web.raw(post(b'{"a": 3}', "Expect: tea"))
    assert refusal(data).status == 417


REGISTERED = ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "QUERY", "MKCOL", "VERSION-CONTROL", "PRI", "*"]
UNREGISTERED = ["BREW", "PURGE", "MKCOLA", "NOTIFY", "get", "Head", "pOST", "put", "GETT", "HTTP", "-"]


@pytest.mark.parametrize(("status", "methods"), [(405, REGISTERED), (501, UNREGISTERED)])
@pytest.mark.parametrize("body", [b"", b"body"])
def test_a_registered_method_is_not_allowed_another_is_unknown_and_the_connection_stays(web, status, methods, body):
    for method in methods:
        target = "x:1" if method == "CONNECT" else "/"
        data = web.raw(message(f"{method} {target}", body=body) + message("GET /", "Connection: close"))
        refused, served = parsed(data)
        assert (refused.status, served.text) == (status, "Sum: 0")
        assert refused.fields.get("allow") == ("GET, HEAD, POST" if status == 405 else None)  # RFC 9110 §15.5.6
        assert "connection" not in refused.fields


@pytest.mark.parametrize("line", ["OPTIONS *", "CONNECT example.org:443"])
def test_options_and_connect_with_their_own_targets_are_not_allowed(web, line):
    data = web.raw(message(line, "Connection: close"))
    assert statuses(data) == [405]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_the_body_of_a_get_or_head_request_is_read_and_ignored(web, method):
    pieces = chunk(b"x" * 1000) + LAST_CHUNK
    data = web.raw(
        message(f"{method} /?a=3", body=b"GET /?a=4 HTTP/1.1\r\n\r\n")
        + message(f"{method} /?a=3", "Transfer-Encoding: chunked")
        + pieces
        + message("GET /?a=5", "Connection: close")
    )
    text = "Sum: 3.0" if method == "GET" else ""
    assert texts(data, method, method, "GET") == [text, text, "Sum: 5.0"]


def test_a_chunked_body_may_have_extensions_and_trailers(web):
    body = chunk(b'{"a"', b';b="c;\\""') + chunk(b": 3}", b" ; d") + b"0;e=f\r\nName: value\r\nEmpty:\r\n\r\n"
    data = web.raw(message("POST /", JSON_TYPE, "Transfer-Encoding: chunked", "Connection: close") + body)
    assert texts(data) == ["Sum: 3.0"]


def test_a_body_of_a_mebibyte_is_taken_in_chunks_too(web):
    body = json.dumps({"a": 3}).encode().ljust(MIB)
    pieces = b"".join(chunk(body[at : at + 5000]) for at in range(0, MIB, 5000))
    data = web.raw(CHUNKED_POST + pieces + LAST_CHUNK, half_close=True)
    assert texts(data) == ["Sum: 3.0"]


# --- refusals


@pytest.mark.parametrize("name", BAD_SAMPLE)
def test_a_bad_head_is_refused_and_the_connection_closed_over_a_socket_too(web, name):
    status, head = BAD[name]
    assert refusal(web.raw(head, timeout=PROMPT_S)).status == status


@pytest.mark.parametrize("name", CHUNKED_BAD_SAMPLE)
def test_a_malformed_chunked_body_is_refused_and_the_connection_closed_over_a_socket_too(web, name):
    status, chunks = CHUNKED_BAD[name]
    assert refusal(web.raw(CHUNKED_POST + chunks, timeout=PROMPT_S)).status == status


@pytest.mark.parametrize(
    ("status", "start"),
    [
        (400, b"GARBAGE\r\n\r\n"),
        (413, message("POST /", JSON_TYPE, "Content-Length: 10000000")),
        (413, CHUNKED_POST + b"989680\r\n"),
        (400, CHUNKED_POST + b"xyz\r\n"),
        (414, b"GET /" + b"a" * 9000),
        (417, message("POST /", "Expect: tea", "Content-Length: 10000000")),
    ],
)
def test_a_client_that_sends_on_and_on_can_read_the_refusal(web, status, start):
    with web.connect() as connection:
        connection.sendall(start)
        connection.sendall(b"a" * 10_000_000)  # a reset would raise
        assert refusal(receive(connection)).status == status


def test_a_refused_head_request_has_no_body(web):
    for fields, status in [(["Content-Length: 9999999"], 413), (["Expect: tea", "Content-Length: 3"], 417)]:
        assert statuses(web.raw(message("HEAD /", *fields)), "HEAD") == [status]


@pytest.mark.parametrize(
    ("piece", "status"),
    [(b"G", 400), (message("GET /")[:-1], 400), (post(b'{"a": 3}')[:-1], 400), (CHUNKED_POST + b"5\r\nab", 400)],
)
def test_an_unfinished_request_is_refused_when_the_client_ends(web, piece, status):
    assert refusal(web.raw(piece, half_close=True, timeout=PROMPT_S)).status == status


def test_a_client_that_sends_nothing_gets_no_response(web):
    assert web.raw(b"", half_close=True) == b""


def test_a_client_that_has_closed_its_side_gets_all_responses(web):
    assert texts(web.raw(message("GET /?a=1") + message("GET /?a=2"), half_close=True)) == ["Sum: 1.0", "Sum: 2.0"]


def test_a_client_that_speaks_tls_is_refused_at_once(web):
    hello = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        client.do_handshake()
    assert refusal(web.raw(hello.read(), timeout=PROMPT_S)).status == 400


@pytest.mark.parametrize(
    "head", [b"HEAD / HTTP/1.1\r\n\r\n", b"HEAD nowhere HTTP/1.1\r\nHost: x\r\n\r\n", message("HEAD /", "Host: y")]
)
def test_a_head_request_that_is_refused_for_its_head_has_no_body_either(web, head):
    with web.connect() as connection:
        for byte in head:
            connection.sendall(bytes([byte]))
        in_two = receive(connection)
    for data in (web.raw(head), in_two):
        (response,) = parsed(data, "HEAD")
        assert (response.status, response.text) == (400, "")
        assert int(response.fields["content-length"])


def test_a_bad_head_is_refused_with_a_body_though_the_one_before_was_a_head(web):
    head, bad = parsed(web.raw(message("HEAD /") + b"GARBAGE\r\n\r\n"), "HEAD", "")
    assert (head.status, bad.status) == (200, 400)


def after_a_head_request(web, end: Callable[[socket.socket], object]) -> bytes:
    """Send a HEAD and the start of another request, call `end` to end it, and return the response to it."""
    with web.connect() as connection:
        exchange(connection, message("HEAD /"), until=b"\r\n\r\n")
        connection.sendall(b"GET / HT")
        assert not is_readable(connection, 0.1)
        end(connection)
        connection.settimeout(PATIENCE_S)
        return receive(connection)


def test_a_head_that_turns_out_bad_is_refused_with_a_body_though_the_one_before_was_a_head(web):
    assert refusal(after_a_head_request(web, lambda connection: connection.sendall(b"\0"))).status == 400


def test_a_head_that_does_not_end_is_refused_with_a_body_though_the_one_before_was_a_head(web):
    assert refusal(after_a_head_request(web, lambda connection: connection.shutdown(socket.SHUT_WR))).status == 400


def test_a_client_that_resets_the_connection_is_ordinary_life(server):
    web = server("--verbose")
    for start in (
        b"",
        b"GET",
        message("GET /"),
        message("GET /") * 1000,
        post(b'{"a": 3}')[:-1],
        CHUNKED_POST + b"5\r\n",
        b"GARBAGE\r\n\r\n",
        message("POST /", "Content-Length: 9999999"),
    ):
        for _ in range(5):
            with web.connect() as connection:
                connection.sendall(start)
                reset_at_close(connection)
        assert web.get().text == "Sum: 0"
    assert web.stop() == 0
    assert not re.search("WARNING (?!InfluxDB)|ERROR|Traceback", web.stderr_text())


@ipv6
def test_it_serves_on_an_ipv6_address(server):
    web = server("--bind", "::1")
    assert web.get("/?a=3").text == "Sum: 3.0"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", web.port))


# --- curl, ab and wrk


def output_of(*command: str) -> str:
    installed(command[0])
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout


@pytest.mark.parametrize(
    ("options", "output"),
    [
        (["-G", "-d", "a=3", "-d", "b=3"], "Sum: 6.0"),
        (["-H", JSON_TYPE, "-d", '{"a": 3, "b": 3}'], "Sum: 6.0"),
        (["-H", JSON_TYPE, "-H", "Transfer-Encoding: chunked", "-d", '{"a": 3}'], "Sum: 3.0"),
        (["-H", JSON_TYPE, "-H", "Expect: 100-continue", "-d", '{"a": 3}'], "Sum: 3.0"),
        (["-d", "a=3"], WRONG_TYPE),
        (["-0", "-G", "-d", "a=3"], "Sum: 3.0"),
        (["-I", "-o", "/dev/null", "-w", "%{http_code}"], "200"),
        (["-X", "DELETE", "-o", "/dev/null", "-w", "%{http_code}"], "405"),
    ],
    ids=" ".join,
)
def test_curl_gets_the_sum_or_the_error(web, options, output):
    assert output_of("curl", "-sS", *options, web.url) == output


def test_curl_gets_413_for_a_body_that_is_too_long(web, tmp_path):
    (tmp_path / "body").write_bytes(bytes(5 * MIB))
    options = ["-sS", "-H", JSON_TYPE, "--data-binary", f"@{tmp_path / 'body'}", "-w", " %{http_code}"]
    assert output_of("curl", *options, web.url).endswith(" 413")


def test_ab_sees_no_error(web):
    report = output_of("ab", "-q", "-k", "-t", "1", "-n", "1000000", "-c", "8", f"{web.url}/?a=3&b=3")
    figures = dict(re.findall(r"^([A-Z][A-Za-z0-9 -]+):\s+([0-9]+)", report, re.MULTILINE))
    assert int(figures["Complete requests"]) > 0
    assert figures["Failed requests"] == "0"
    assert figures["Keep-Alive requests"] == figures["Complete requests"]
    assert "Non-2xx" not in report


def test_wrk_sees_no_error(web):
    report = output_of("wrk", "-t", "1", "-c", "16", "-d", "1", f"{web.url}/?a=3&b=3")
    assert int(re.search(r"([0-9]+) requests? in", report)[1]) > 0
    assert "Socket errors" not in report
    assert "Non-2xx" not in report
