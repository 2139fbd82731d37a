"""Limits and time-outs, most of which are too long to wait for, in a server in this process; and a bug in it."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest
from daemons import PATIENCE_S, reset_at_close, wait_until
from local import Local
from messages import CHUNKED_POST, JSON_TYPE, exchange, is_readable, message, post, receive, refusal, statuses, texts
from needs import ipv6

import webserver_influx
from webserver_influx import SumHandler, SumServer, listen


def trickle(connection: socket.socket, byte: bytes) -> None:
    """Send byte after byte until the server has had enough."""
    with contextlib.suppress(ConnectionError):
        while not is_readable(connection, 0.02):
            connection.sendall(byte)


@pytest.mark.parametrize("rest", [b"", b"a"], ids=["silent", "byte by byte"])
def test_a_head_that_takes_too_long_is_refused(local, rest):
    web = local(HEAD_SECONDS=0.3)
    with web.connect() as connection:
        connection.sendall(b"GET /")
        if rest:
            trickle(connection, rest)
        assert refusal(receive(connection)).status == 408
    assert web.counter.total() == 0


@pytest.mark.parametrize("rest", [b"", b" "], ids=["silent", "byte by byte"])
def test_a_body_that_takes_too_long_is_refused(local, rest):
    web = local(BODY_SECONDS=0.3)
    with web.connect() as connection:
        connection.sendall(message("POST /", JSON_TYPE, "Content-Length: 100000"))
        if rest:
            trickle(connection, rest)
        assert refusal(receive(connection)).status == 408
    assert web.counter.total() == 1


def test_a_chunked_body_that_takes_too_long_is_refused(local):
    web = local(BODY_SECONDS=0.3)
    with web.connect() as connection:
        connection.sendall(CHUNKED_POST + b"1000\r\n")
        trickle(connection, b" ")
        assert refusal(receive(connection)).status == 408


def test_a_head_behind_another_request_has_its_time_from_its_first_byte(local):
    web = local(HEAD_SECONDS=0.3)
    with web.connect() as connection:
        data = exchange(connection, message("GET /?a=1") + b"GET", until=b"Sum: 1.0") + receive(connection)
    assert statuses(data) == [200, 408]


def test_a_request_that_came_in_time_is_followed_by_an_idle_time_not_by_a_time_out(local):
    web = local(HEAD_SECONDS=0.2, BODY_SECONDS=0.2)
    with web.connect() as connection:
        for number in range(2):
            connection.sendall(b"POST /")
            data = exchange(connection, post(b'{"a": %d}' % number)[6:], until=b"Sum: %d.0" % number)
            assert statuses(data) == [200]
            assert not is_readable(connection, 0.3)


@pytest.mark.parametrize("request_bytes", [b"", message("GET /"), message("GET /") * 3])
def test_an_idle_connection_is_closed_in_silence(local, request_bytes):
    web = local(IDLE_SECONDS=0.15)
    assert texts(web.raw(request_bytes)) == ["Sum: 0"] * request_bytes.count(b"GET")


def test_a_connection_that_is_older_than_the_server_is_closed_when_idle_too(monkeypatch):
    monkeypatch.setattr(webserver_influx, "IDLE_SECONDS", 0.15)
    listener = listen("127.0.0.1", 0)
    connect = socket.create_connection(listener.getsockname(), PATIENCE_S)
    with connect as connection, contextlib.closing(Local(listener)):
        assert receive(connection) == b""


def test_an_empty_line_behind_a_body_is_the_end_of_that_request_not_the_beginning_of_one(local):
    web = local(HEAD_SECONDS=0.1, IDLE_SECONDS=0.3)
    for request in (post(b'{"a": 3}'), message("GET /?a=3")):
        assert texts(web.raw(request + b"\r\n")) == ["Sum: 3.0"]
        data = request + b"\r\n" + message("GET /?a=4", "Connection: close")
        assert texts(web.raw(data)) == ["Sum: 3.0", "Sum: 4.0"]
        with web.connect() as connection:
            exchange(connection, request, until=b"Sum: 3.0")
            connection.sendall(b"\r\n")
            assert not is_readable(connection, 0.15)
            exchange(connection, message("GET /?a=4"), until=b"Sum: 4.0")


def test_a_refusal_ends_though_the_client_stays(local):
    web = local(LINGER_SECONDS=0.2)
    with web.connect() as connection:
        connection.sendall(b"GARBAGE\r\n\r\n")
        assert refusal(receive(connection)).status == 400
        wait_until(lambda: not web.server.handlers, what="the server to let go of the connection")


def test_every_valid_head_is_counted_and_nothing_else(local):
    web = local()
    counted = [
        message("GET /"),
        message("HEAD /"),
        post(b"{"),
        message("PUT /"),
        message("GET /", "Expect: tea"),
        message("POST /", "Content-Length: 9999999"),
    ]
    web.raw(b"".join(counted))
    for start in (b"", b"G", b"GARBAGE\r\n\r\n", message("GET / HTTP/2.0"), message("GET /", "Host: y")):
        web.raw(start, half_close=True)
    assert web.counter.total() == len(counted)


@pytest.mark.parametrize("method", ["PUT", "GET", "POST"])
def test_an_idle_connection_does_not_keep_a_body(local, method):
    web = local()
    body = b'{"a": 3}' + b" " * 100_000
    request = message(f"{method} /", "Content-Type: text/plain", f"Content-Length: {len(body)}", body=body)
    with web.connect() as connection:
        exchange(connection, request + message("GET /?a=4"), until=b"Sum: 4.0")
        (handler,) = web.server.handlers
        assert handler.body == b""


def test_an_idle_connection_does_not_keep_a_body_that_came_behind_another_request(local):
    web = local()
    first = message("GET /", f"Padding: {'p' * 3000}")  # so that more is received at once than an idle connection holds
    body = b'{"a": 4}' + b" " * 50_000
    with web.connect() as connection:
        exchange(connection, first + post(body), until=b"Sum: 4.0")
        (handler,) = web.server.handlers
        assert len(handler.received) <= webserver_influx.REQUEST_LINE_BYTES


def test_a_thread_that_cannot_be_started_is_started_later(local, monkeypatch, caplog):
    def start_one(*arguments):
        if not next(one, False):
            raise RuntimeError("can't start new thread")
        start_new_thread(*arguments)

    one, start_new_thread = iter([True]), webserver_influx.start_new_thread
    with contextlib.ExitStack() as stack:
        with monkeypatch.context() as few_threads:
            few_threads.setattr(webserver_influx, "start_new_thread", start_one)
            web = local()
            first, second = (stack.enter_context(web.connect()) for _ in range(2))
            exchange(first, message("GET /"), until=b"Sum: 0")
            second.sendall(message("GET /?a=3"))
            assert not is_readable(second, 0.1)
        assert receive(second, until=b"Sum: 3.0")
    assert caplog.messages == ["can't start new thread; new connections wait in the listen backlog"]


def test_a_server_that_has_stopped_starts_no_thread(local, monkeypatch, caplog):
    web = local()
    web.server.stop()
    monkeypatch.setattr(webserver_influx, "start_new_thread", None)
    web.server.start_thread()
    assert not caplog.messages


def test_a_client_without_an_address_may_hang_up_as_any_other(local, monkeypatch, caplog):
    """macOS gives no address of a client that is gone by then."""
    web = local()
    get_request = web.server.get_request
    monkeypatch.setattr(web.server, "get_request", lambda: (get_request()[0], None))
    with caplog.at_level("DEBUG"):
        for _ in range(3):  # the first may be accepted by a thread that waited before
            with web.connect() as connection:
                connection.sendall(message("GET /"))
                reset_at_close(connection)
        wait_until(lambda: any(line.startswith("? hung up") for line in caplog.messages))
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert texts(web.raw(message("GET /", "Connection: close"))) == ["Sum: 0"]


def test_a_bug_is_a_500_and_the_server_goes_on(local, monkeypatch, caplog):
    def broken(handler):
        raise ZeroDivisionError

    web = local()
    with monkeypatch.context() as broken_for_now:
        broken_for_now.setitem(SumHandler.methods, "GET", broken)
        assert refusal(web.raw(message("GET /"))).status == 500
    assert "ZeroDivisionError" in caplog.text
    assert texts(web.raw(message("GET /", "Connection: close"))) == ["Sum: 0"]


def test_connections_past_the_limit_wait_and_are_then_served(local, caplog):
    web = local(CONNECTIONS=2)
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(web.connect()) for _ in range(2))
        for connection in (first, second):
            exchange(connection, message("GET /"), until=b"Sum: 0")
        others = [stack.enter_context(web.connect()) for _ in range(8)]
        for other in others:
            other.sendall(message("GET /?a=3", "Connection: close"))
        assert not any(is_readable(other, 0.02) for other in others)
        wait_until(lambda: "All 2 threads are busy" in caplog.text)
        exchange(second, message("GET /?a=4"), until=b"Sum: 4.0")
        first.close()
        for other in others:
            other.settimeout(PATIENCE_S)
            assert texts(receive(other)) == ["Sum: 3.0"]


@pytest.mark.parametrize("last", [message("GET /", "Connection: close"), b"GARBAGE\r\n\r\n", message("GET /")])
def test_a_client_that_does_not_read_holds_up_nobody(monkeypatch, last):
    class Late:
        """A socket that sends several replies only when it is told to."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock

        def __getattr__(self, name: str):
            return getattr(self.sock, name)

        def sendall(self, data: bytes) -> None:
            if data.count(b"HTTP/1.1 ") > 1:
                sending.set()
                go_on.wait()
            self.sock.sendall(data)

    sending, go_on = threading.Event(), threading.Event()
    finish_request = SumServer.finish_request
    monkeypatch.setattr(SumServer, "finish_request", lambda self, sock, *more: finish_request(self, Late(sock), *more))
    listener = listen("127.0.0.1", 0)
    with socket.create_connection(listener.getsockname()) as deaf:
        deaf.sendall(message("GET /") * 2 + last)  # so that it has come when the connection is accepted
        with contextlib.closing(Local(listener)) as web, web.connect() as other, contextlib.ExitStack() as at_end:
            at_end.callback(go_on.set)
            assert sending.wait(PATIENCE_S)
            assert texts(exchange(other, message("GET /?a=3"), until=b"Sum: 3.0")) == ["Sum: 3.0"]


@ipv6
def test_it_listens_on_ipv4_and_ipv6_unless_told_otherwise(local):
    web = local(address=None)
    for host in ("127.0.0.1", "::1"):
        with web.connect(host=host) as connection:
            assert texts(exchange(connection, message("GET /?a=3"), until=b"Sum: 3.0")) == ["Sum: 3.0"]
