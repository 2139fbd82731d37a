"""A whole connection as bytes in and bytes out, without a socket, a clock or a thread."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from types import SimpleNamespace

import pytest
from chunks import LAST_CHUNK, chunk
from heads import BAD, GOOD, NEXT, answered
from hypothesis import example, given
from hypothesis import strategies as st
from messages import CHUNKED_POST, message, parsed, post, texts

import webserver_influx
from webserver_influx import (
    BODY,
    HEAD,
    HEAD_BYTES,
    LIGHT_BYTES,
    LIGHT_QUERY_BYTES,
    LINGER,
    REQUEST,
    TURN,
    TURN_VALUES,
    RequestError,
    SumHandler,
    response_starts,
    take_head,
)

pytestmark = pytest.mark.smoke

LARGE = post(json.dumps({"a": 3, "b": "x" * 2 * LIGHT_BYTES, "c": [[]] * 200}).encode())


class Client:
    """A handler's client, and a substitute for its server and its tally."""

    def __init__(self) -> None:
        self.uncounted = 0
        self.logged: list[bytes] = []
        log = {"write_log": self.logged.append, "log_time": b"24/Nov/2026:10:00:00 +0000"}
        self.server = SimpleNamespace(response_starts=response_starts(0), stopping=False, **log)
        self.handler = SumHandler(("192.0.2.1", 1), self.server, self)
        self.connection = self.handler.handle()
        self.received, self.ended = next(self.connection), False

    def send(self, data: bytes) -> bytes:
        """Send bytes, or b"" for the client's end; return the response bytes."""
        return self.resume(self.connection.send, data)

    def refuse(self, refusal: RequestError) -> bytes:
        return self.resume(self.connection.throw, refusal)

    def resume(self, step, argument) -> bytes:
        responses = b""
        try:
            responses += step(argument)
            while self.handler.waits_for == TURN:
                responses += self.connection.send(b"")
        except StopIteration as end:
            self.ended = True
            responses += end.value
        self.received += responses
        return responses


def talk(pieces: Iterable[bytes]) -> Client:
    """Return a client that has sent these pieces and its end; it stops earlier if the handler ends first."""
    client = Client()
    for piece in (*pieces, b""):
        if not client.ended:
            client.send(piece)
    assert client.ended
    return client


def bytewise(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


# Maps names to the client's bytes, the statuses of the responses, and whether the connection stays open.
CONVERSATIONS = {
    "GET": (message("GET /?a=3"), [200], True),
    "HEAD": (message("HEAD /?a=3"), [200], True),
    "POST": (post(b'{"a": 3}'), [200], True),
    "a POST that takes turns": (LARGE, [200], True),
    "a GET that takes a turn": (message(f"GET /?a=3&b={'x' * 2 * LIGHT_QUERY_BYTES}"), [200], True),
    "a HEAD that takes a turn": (message(f"HEAD /?a=3&b={'x' * 2 * LIGHT_QUERY_BYTES}"), [200], True),
    "a POST of chunks": (CHUNKED_POST + chunk(b'{"a"', b";b=c") + chunk(b": 3}") + LAST_CHUNK, [200], True),
    "a POST with trailers": (CHUNKED_POST + chunk(b"{}") + b"0\r\nA: b\r\n\r\n", [200], True),
    "a POST of no JSON": (post(b"{"), [400], True),
    "a large POST of no JSON": (post(b"[" * 2 * LIGHT_BYTES), [400], True),
    "a POST of another type": (message("POST /", body=b"{}"), [400], True),
    "a large POST of another type": (
        message("POST /", "Content-Type: text/plain", body=b" " * 2 * LIGHT_BYTES), [400], True
    ),
    "another method with a body": (message("PUT /", body=NEXT), [405], True),
    "an unknown method": (message("get /", body=NEXT), [501], True),
    "another method with chunks": (
        message("PUT /", "Transfer-Encoding: chunked") + chunk(NEXT, b";b=c") + b"0\r\nA: b\r\n\r\n", [405], True
    ),
    "a GET with a body": (message("GET /?a=3", body=NEXT), [200], True),
    "an expectation that is not met": (message("GET /", "Expect: tea"), [417], True),
    "an expectation that is not met, of a body": (post(b"{}", "Expect: tea"), [417], False),
    "a body that is too long": (message("POST /", "Content-Length: 1048577"), [413], False),
    "the client's wish to close": (message("GET /", "Connection: close"), [200], False),
    "HTTP/1.0": (message("GET / HTTP/1.0"), [200], False),
    "HTTP/1.0 that persists": (message("GET / HTTP/1.0", "Connection: keep-alive"), [200], True),
    "an empty line first": (b"\r\n" + message("GET /"), [200], True),
    "an empty line after a body": (post(b"{}") + b"\r\n", [200], True),
    "a pipeline": (
        message("GET /?a=1") + post(b'{"a": 2}') + message("HEAD /") + message("PUT /"), [200, 200, 200, 405], True
    ),
    "garbage": (b"GARBAGE\r\n\r\n", [400], False),
    "a bad head after a request": (message("GET /") + b"GET nowhere HTTP/1.1\r\n", [200, 400], False),
    "malformed chunks": (CHUNKED_POST + b"xyz\r\n", [400], False),
    "malformed chunks after another request": (message("GET /") + CHUNKED_POST + b"0\r\nA\r\n", [200, 400], False),
}  # fmt: skip
conversations = pytest.mark.parametrize(("data", "statuses", "goes_on"), CONVERSATIONS.values(), ids=CONVERSATIONS)


def methods_in(data: bytes) -> list[str]:
    return [method.decode() for method in re.findall(rb"([A-Za-z]+) [^ ]+ HTTP/1\.[01]\r\nHost: x\r\n", data)]


def statuses_of(received: bytes, data: bytes) -> list[int]:
    return [response.status for response in parsed(received, *methods_in(data)) if response.status != 100]


@conversations
def test_a_conversation_is_answered_and_the_next_request_only_where_the_connection_goes_on(data, statuses, goes_on):
    client = Client()
    assert statuses_of(client.send(data), data) == statuses
    assert client.ended is not goes_on
    assert client.handler.waits_for == REQUEST or not goes_on
    if goes_on:
        assert texts(client.send(NEXT)) == ["Sum: 1.0"]


@conversations
def test_a_conversation_is_answered_the_same_in_any_pieces(data, statuses, goes_on):
    data += NEXT * goes_on
    whole = talk([data]).received
    assert statuses_of(whole, data) == statuses + [200] * goes_on
    assert talk(bytewise(data)).received == whole
    for at in range(1, len(data), 1 + len(data) // 300):
        assert talk([data[:at], data[at:]]).received == whole


@conversations
def test_each_request_with_a_valid_head_is_counted_before_its_response(data, statuses, goes_on):
    counted = len(statuses) - (b"GARBAGE" in data or b"nowhere" in data)
    for pieces in ([data], bytewise(data)):
        client = Client()
        for piece in pieces:
            answered = client.received.count(b"HTTP/1.1 ")
            assert client.uncounted >= answered - (len(statuses) - counted)
            if not client.ended:
                client.send(piece)
        assert client.uncounted == counted


@pytest.mark.parametrize(("status", "head"), BAD.values(), ids=BAD)
def test_a_bad_head_between_two_requests_is_refused_and_the_connection_ends(status, head):
    client = Client()
    method = head.lstrip(b"\r\n").split(b" ")[0].decode("latin-1")
    served, refused = parsed(client.send(NEXT + head + NEXT), "GET", method)
    assert (served.status, refused.status) == (200, status)
    assert refused.fields["connection"] == "close"
    assert client.ended
    assert client.handler.waits_for == LINGER
    assert client.uncounted == 1


@pytest.mark.parametrize("head", GOOD.values(), ids=GOOD)
def test_a_good_head_is_counted_once_and_answered_however_it_comes(head):
    method, body, status = answered(head)
    step = 1 + len(head) // 500
    for pieces in ([head], [head[at : at + step] for at in range(0, len(head), step)]):
        client = Client()
        for piece in pieces:
            client.send(piece)
        assert client.uncounted == 1
        if body:
            client.send(body)
        assert [response.status for response in parsed(client.received, method)] == [status]


def test_the_first_responses_of_a_batch_are_sent_once_though_the_last_request_is_cut_off():
    client = Client()
    assert [response.text for response in parsed(client.send(message("GET /?a=1") + b"GET"))] == ["Sum: 1.0"]
    (cut_off,) = parsed(client.send(b""))
    assert cut_off.status == 400
    client = Client()
    assert [response.text for response in parsed(client.send(message("GET /?a=1") + post(b"{}")[:-1]))] == ["Sum: 1.0"]
    (cut_off,) = parsed(client.send(b""))
    assert cut_off.status == 400


def test_the_access_log_has_the_request_line_without_an_empty_line_before_it():
    client = Client()
    client.send(message("GET /") + b"\r\n" + message("HEAD /?a=3"))
    assert client.logged == [
        b'192.0.2.1 - - [24/Nov/2026:10:00:00 +0000] "GET / HTTP/1.1" 200 6\n',
        b'192.0.2.1 - - [24/Nov/2026:10:00:00 +0000] "HEAD /?a=3 HTTP/1.1" 200 0\n',
    ]


def test_it_says_what_it_waits_for():
    client = Client()
    asked = post(b'{"a": 3}')
    for data, waits_for in [
        (b"\r\n", REQUEST),
        (b"POST", HEAD),
        (asked[4:-5], BODY),
        (asked[-5:-1], BODY),
        (asked[-1:] + b"GET", HEAD),
        (b" / HTTP/1.1\r\nHost: x\r\n\r\n", REQUEST),
    ]:
        client.send(data)
        assert client.handler.waits_for == waits_for


def test_a_large_body_waits_for_its_turns_after_earlier_responses_are_sent():
    connection = Client().connection
    assert connection.send(message("GET /") + LARGE[:-1])
    turns = 0
    responses = connection.send(LARGE[-1:])
    while not responses:
        turns += 1
        responses = connection.send(b"")
    assert turns > 3
    assert [response.text for response in parsed(responses)] == ["Sum: 3.0"]


def test_all_values_of_a_large_object_are_added_up():
    body = json.dumps({str(number): 1 for number in range(2 * TURN_VALUES + 1)}).encode()
    assert texts(Client().send(post(body))) == [f"Sum: {2 * TURN_VALUES + 1}.0"]


def test_a_long_query_waits_for_its_turn_without_a_response():
    client = Client()
    query = f"a=3&b={'x' * LIGHT_QUERY_BYTES}"
    assert client.connection.send(message(f"GET /?{query}")) == b""
    assert client.handler.waits_for == TURN
    (response,) = parsed(client.connection.send(b""))
    assert response.text == "Sum: 3.0"
    assert client.handler.waits_for == REQUEST


def test_a_head_that_arrives_byte_by_byte_is_not_parsed_for_each_byte(monkeypatch):
    def look(buffer):
        looks.append(buffer)
        return take_head(buffer)

    looks: list[bytes] = []
    monkeypatch.setattr(webserver_influx, "take_head", look)
    head = message("GET /", f"Padding: {'x' * (HEAD_BYTES - 100)}")
    (response,) = parsed(talk(bytewise(head)).received)
    assert response.status == 200
    assert len(looks) < 2 * HEAD_BYTES / LIGHT_BYTES


@pytest.mark.parametrize("start", [b"GET", post(b"{}")[:-1], CHUNKED_POST + b"5\r\n"])
def test_a_thrown_request_error_is_the_last_response(start):
    client = Client()
    client.send(start)
    (response,) = parsed(client.refuse(RequestError(408, "Too slow.")))
    assert (response.status, response.text, response.fields["connection"]) == (408, "Too slow.", "close")
    assert client.ended
    assert client.handler.waits_for == LINGER


def test_a_connection_that_its_client_wants_to_close_ends_at_once():
    client = Client()
    client.send(message("GET /", "Connection: close"))
    assert client.ended
    assert client.handler.waits_for != LINGER


@pytest.mark.parametrize("rest", [b"", NEXT], ids=["a request", "two requests"])
def test_a_server_that_stops_closes_each_connection_with_its_response(rest):
    client = Client()
    client.send(message("GET /")[:-1])
    client.server.stopping = True
    (response,) = parsed(client.send(b"\n" + rest))
    assert response.fields["connection"] == "close"
    assert client.ended
    assert client.handler.waits_for == LINGER


def test_100_continue_is_sent_only_to_a_client_that_waits_for_it():
    asking = post(b'{"a": 3}', "Expect: 100-continue")
    head, _, body = asking.partition(b"\r\n\r\n")
    client = Client()
    assert client.send(head + b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert [response.text for response in parsed(client.send(body))] == ["Sum: 3.0"]
    assert [response.status for response in parsed(Client().send(asking))] == [200]
    assert Client().send(asking[:-1]) == b""


requests = st.sampled_from([data for data, _, goes_on in CONVERSATIONS.values() if goes_on and len(data) < 1000])


@given(st.lists(requests, max_size=6), st.lists(st.integers(1, 200), min_size=1))
@example([post(b"{}") + b"\r\n", b"\r\n" + message("GET /")], [1])
def test_any_conversation_in_any_pieces_gets_the_same_responses(parts, sizes):
    data = b"".join(parts)
    pieces, at = [], 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    if pieces:
        whole, split = talk([data]), talk(pieces)
        assert split.received == whole.received
        assert split.uncounted == whole.uncounted
