"""Limits and time-outs, most of them shortened, and bugs, in a server in this process."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import selectors
import socket
import threading
import time
from typing import ClassVar

import pytest
from chunks import LAST_CHUNK, MIB, chunk
from daemons import PATIENCE_S, reset_at_close, wait_until
from local import Local
from messages import CHUNKED_POST, JSON_TYPE, exchange, is_readable, message, post, receive, refusal, statuses, texts
from needs import ipv6

import webserver_influx
from webserver_influx import (
    BODY,
    LIGHT_BYTES,
    SEND,
    TURN,
    TURN_BYTES,
    SelectorPoll,
    SumHandler,
    SumServer,
    json_text,
    listen,
)


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
        wait_until(lambda: not web.connections(), what="the server to let go of the connection")


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


@pytest.fixture
def with_sockets(monkeypatch):
    """with_sockets(kind) has the server use sockets of this class for its connections."""
    get_request = SumServer.get_request

    def use(kind: type[socket.socket]) -> None:
        def accepted(server: SumServer) -> tuple[socket.socket, tuple]:
            sock, address = get_request(server)
            return kind(fileno=sock.detach()), address

        monkeypatch.setattr(SumServer, "get_request", accepted)

    return use


def test_a_send_buffer_that_is_exactly_full_is_waited_for(local, with_sockets):
    """The last send was accepted whole; not a byte of the next one is."""

    class Full(socket.socket):
        attempts = 0

        def send(self, *arguments) -> int:
            self.attempts += 1
            if self.attempts == 1:
                raise BlockingIOError
            return super().send(*arguments)

    with_sockets(Full)
    assert texts(local().raw(message("GET /?a=3"), half_close=True)) == ["Sum: 3.0"]


def test_after_a_turn_in_which_nothing_came_no_more_is_received_at_once_than_before(local, with_sockets):
    sizes = []

    class Recorder(socket.socket):
        def recv(self, size: int) -> bytes:
            sizes.append(size)
            return super().recv(size)

    with_sockets(Recorder)
    request = message("GET /?a=1", f"X: {'x' * 28}")
    assert len(request) == 64
    with local().connect() as client:
        client.sendall(request * (LIGHT_BYTES // 64))
        wait_until(lambda: TURN_BYTES in sizes)
        receive(client, until=b"Sum: 1.0")
        client.sendall(request)
        after = sizes.index(TURN_BYTES) + 1
        wait_until(lambda: len(sizes) > after)
        assert sizes[after] == LIGHT_BYTES


@pytest.fixture
def allocated():
    """allocated() -> the bytes of all objects that Python has allocated since the test began and not freed."""
    tracemalloc = pytest.importorskip("tracemalloc", reason="PyPy does not tell what is allocated")
    tracemalloc.start()
    yield lambda: tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()


BODY_OF_100_KB = b'{"a": 3}'.ljust(100_000)
A_HEAD_OF_3_KB = message("GET /", f"Padding: {'p' * 3000}")  # the first bytes of the body are received together with it


@pytest.mark.parametrize(
    "requests",
    [
        message("PUT /", body=BODY_OF_100_KB) + message("GET /?a=4"),
        message("GET /", body=BODY_OF_100_KB) + message("GET /?a=4"),
        message("POST /", "Content-Type: text/plain", body=BODY_OF_100_KB) + message("GET /?a=4"),
        A_HEAD_OF_3_KB + post(BODY_OF_100_KB.replace(b"3", b"4")),
        message("GET /?a=1") * 500 + message("GET /?a=4"),
    ],
    ids=["PUT", "GET", "POST of another type", "POST after another request", "500 requests at once"],
)
def test_idle_connections_keep_no_bytes(local, allocated, requests):
    web = local()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(web.connect()) for _ in range(8)]
        for connection in connections:
            exchange(connection, message("GET /?a=4"), until=b"Sum: 4.0")
        before = allocated()
        for connection in connections:
            exchange(connection, requests, until=b"Sum: 4.0")
        wait_until(lambda: allocated() - before < 8 * 5_000, what="the server to free what it received and sent")


def test_a_connection_that_failed_without_memory_is_not_served_again(local, with_sockets, monkeypatch):
    """Nor is what comes on another connection, which may have its number by then."""

    class Failing(socket.socket):
        failures: ClassVar[list[bool]] = []

        def send(self, *arguments) -> int:
            if not self.failures:
                self.failures.append(True)
                raise MemoryError
            return super().send(*arguments)

    def fail(*_) -> None:
        raise MemoryError

    with_sockets(Failing)
    web = local()
    with monkeypatch.context() as failing:
        failing.setattr(webserver_influx.log, "handle", fail)
        with web.connect() as client:
            client.sendall(message("GET /"))
            assert receive(client) == b""
        with web.connect() as client:
            for number in (1, 2):
                assert texts(exchange(client, message(f"GET /?a={number}"), until=b"%d.0" % number))
    assert web.counter.total() == 3


def test_a_server_goes_on_though_there_is_no_memory_to_log_what_went_wrong(local, monkeypatch):
    def fail(*_, **__):
        failures.append(1)
        raise MemoryError

    failures: list[int] = []
    web = local()
    with monkeypatch.context() as failing:
        failing.setattr(web.server, "renew_date", fail)
        failing.setattr(webserver_influx.log, "exception", fail)
        wait_until(lambda: len(failures) >= 2)
    assert web.raw(message("GET /?a=1", "Connection: close")).endswith(b"Sum: 1.0")


def test_a_client_without_an_address_may_hang_up_as_any_other(local, monkeypatch, caplog):
    """macOS gives no address of a client that is gone by then."""
    web = local()
    get_request = web.server.get_request
    monkeypatch.setattr(web.server, "get_request", lambda: (get_request()[0], None))
    with caplog.at_level("DEBUG"):
        with web.connect() as connection:
            exchange(connection, message("GET /"), until=b"Sum: 0")
            reset_at_close(connection)
        wait_until(lambda: any(line.startswith("? is lost") for line in caplog.messages))
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
    assert texts(web.raw(message("GET /", "Connection: close"))) == ["Sum: 0"]


def test_a_bug_is_a_500_and_the_server_goes_on(local, monkeypatch, caplog):
    def broken(handler, query):
        raise ZeroDivisionError

    web = local()
    with monkeypatch.context() as broken_for_now:
        broken_for_now.setattr(SumHandler, "do_GET", broken)
        assert refusal(web.raw(message("GET /"))).status == 500
    assert "ZeroDivisionError" in caplog.text
    assert texts(web.raw(message("GET /", "Connection: close"))) == ["Sum: 0"]


def test_a_bug_outside_the_requests_closes_one_connection_and_the_server_goes_on(local, monkeypatch, caplog):
    def broken(handler):
        yield b""
        raise ZeroDivisionError

    web = local()
    with monkeypatch.context() as broken_for_now:
        broken_for_now.setattr(SumHandler, "handle", broken)
        assert web.raw(message("GET /")) == b""
    assert "ZeroDivisionError" in caplog.text
    assert texts(web.raw(message("GET /", "Connection: close"))) == ["Sum: 0"]


def poll_that_refuses(refused: range) -> type[SelectorPoll]:
    """Linux limits how many descriptors a user's epolls watch; here, it is these that are refused, by their number.

    The alarm is 0, the listening socket 1; connections follow.
    """

    class FullPoll(SelectorPoll):
        def __init__(self) -> None:
            super().__init__()
            register, numbers = self.register, itertools.count()

            def limited(descriptor: int, event: int) -> None:
                if next(numbers) in refused:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                register(descriptor, event)

            self.register = limited

    return FullPoll


def test_a_connection_that_the_system_does_not_watch_is_closed_and_the_server_goes_on(monkeypatch):
    monkeypatch.setattr(webserver_influx, "Poll", poll_that_refuses(range(2, 3)))
    monkeypatch.setattr(webserver_influx, "WRITE", selectors.EVENT_WRITE)
    listener = listen("127.0.0.1", 0)
    with socket.create_connection(listener.getsockname(), PATIENCE_S) as client:
        client.sendall(message("GET /"))  # so that it has been answered when it is to be watched
        with contextlib.closing(Local(listener)) as web:
            assert texts(receive(client)) == ["Sum: 0"]
            assert texts(web.raw(message("GET /", "Connection: close"))) == ["Sum: 0"]


def test_a_listening_socket_that_the_system_does_not_watch_is_tried_again_while_time_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(webserver_influx, "Poll", poll_that_refuses(range(1, 15)))
    monkeypatch.setattr(webserver_influx, "WRITE", selectors.EVENT_WRITE)
    dates: list[int] = []
    renew_date = SumServer.renew_date
    monkeypatch.setattr(SumServer, "renew_date", lambda server: dates.append(1) or renew_date(server))
    with contextlib.closing(Local(listen("127.0.0.1", 0))) as web:
        wait_until(lambda: len(dates) > 1)
        assert texts(web.raw(message("GET /", "Connection: close"))) == ["Sum: 0"]
    (line,) = caplog.messages
    assert line.startswith("Cannot accept connections (No space left on device)")


def test_a_bug_between_the_connections_is_logged_and_the_server_goes_on(local, monkeypatch, caplog):
    web = local()
    (thread,) = web.server.threads
    with monkeypatch.context() as broken_for_now:
        broken_for_now.setattr(thread, "each_second", lambda: 1 / 0)
        wait_until(lambda: "ZeroDivisionError" in caplog.text)
    assert texts(web.raw(message("GET /", "Connection: close"))) == ["Sum: 0"]


def test_connections_past_the_limit_wait_and_are_then_served(local, caplog):
    web = local(MAX_CONNECTIONS=2)
    with contextlib.ExitStack() as stack:
        first, second = (stack.enter_context(web.connect()) for _ in range(2))
        for connection in (first, second):
            exchange(connection, message("GET /"), until=b"Sum: 0")
        others = [stack.enter_context(web.connect()) for _ in range(8)]
        for other in others:
            other.sendall(message("GET /?a=3", "Connection: close"))
        assert not any(is_readable(other, 0.02) for other in others)
        wait_until(lambda: "this system allows 2 connections per thread" in caplog.text)
        exchange(second, message("GET /?a=4"), until=b"Sum: 4.0")
        first.close()
        for other in others:
            other.settimeout(PATIENCE_S)
            assert texts(receive(other)) == ["Sum: 3.0"]


def deaf_client(web: Local, requests: int) -> tuple[socket.socket, threading.Thread]:
    """A client that has sent so many requests and takes no reply, until the server has to wait for it."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", web.port))
    request = message("GET /?a=3", f"Padding: {'p' * 500}")  # more than all the buffers between the two hold
    sending = threading.Thread(target=send_all, args=(client, request * requests))
    sending.start()
    wait_until(lambda: SEND in web.awaited(), what="replies that are not taken")
    return client, sending


def send_all(client: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):
        client.sendall(data)


def test_a_client_that_does_not_read_holds_up_nobody_and_gets_all_its_replies_when_it_does(local):
    web = local()
    client, sending = deaf_client(web, requests=40_000)
    with client, web.connect() as other:
        for _ in range(10):
            assert texts(exchange(other, message("GET /?a=4"), until=b"Sum: 4.0")) == ["Sum: 4.0"]
        assert sending.is_alive(), "the server goes on to receive from a client that takes no reply"
        replies = 0
        client.settimeout(PATIENCE_S)
        tail = b""
        while replies < 40_000:
            data = client.recv(1 << 20)
            assert data
            replies += (tail + data).count(b"Sum: 3.0")
            tail = data[-7:]
        sending.join()
    assert replies == 40_000


def test_the_last_replies_come_whole_to_a_client_that_reads_late_and_has_sent_its_last(local):
    web = local()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(("127.0.0.1", web.port))
        last = message("GET /?a=3") * 400 + message("GET /?a=4", "Connection: close")
        sending = threading.Thread(target=send_all, args=(client, message("GET /?a=3") * 60_000 + last))
        sending.start()
        wait_until(lambda: SEND in web.awaited())
        data = receive(client)
        sending.join()
    assert data.count(b"Sum: 3.0") == 60_400
    assert data.endswith(b"Connection: close\r\n\r\nSum: 4.0")


def test_a_client_that_takes_no_reply_for_too_long_is_let_go_of(local):
    web = local(SEND_SECONDS=0.3)
    client, sending = deaf_client(web, requests=40_000)
    with client:
        wait_until(lambda: not web.connections(), what="the server to let go of the connection")
        sending.join()


@pytest.fixture
def long_work(monkeypatch) -> threading.Event:
    """A large body takes one turn after the other until this event is set; then its sum is 1."""

    def take_turns(body):
        while not may_end.is_set():
            yield b""
        return "Sum: 1.0"

    may_end = threading.Event()
    monkeypatch.setattr(webserver_influx, "sum_json_in_turns", take_turns)
    return may_end


def test_what_takes_long_goes_on_in_turns_with_the_requests_of_others(local, long_work):
    web = local()
    with web.connect() as client, web.connect() as other:
        client.sendall(post(b'{"a": 1}'.ljust(10_000)) + message("GET /?a=2", "Connection: close"))
        wait_until(lambda: TURN in web.awaited())
        for number in range(20):
            assert texts(exchange(other, message(f"GET /?a={number}"), until=b"%d.0" % number)) == [f"Sum: {number}.0"]
        assert not is_readable(client, 0.05)
        long_work.set()
        client.settimeout(PATIENCE_S)
        assert texts(receive(client)) == ["Sum: 1.0", "Sum: 2.0"]


def test_long_work_that_has_begun_is_finished_before_a_long_query_has_its_turn(local, long_work):
    web = local()
    query = "&".join(f"a={number}" for number in range(300))
    with web.connect() as first, web.connect() as second:
        first.sendall(post(b'{"a": 1}'.ljust(10_000)))
        wait_until(lambda: web.awaited().count(TURN) == 1)
        second.sendall(message(f"GET /?{query}"))
        wait_until(lambda: web.counter.total() == 2)
        assert not is_readable(second, 0.2)
        long_work.set()
        assert texts(exchange(first, b"", until=b"1.0")) == ["Sum: 1.0"]
        assert texts(exchange(second, b"", until=b"50.0")) == ["Sum: 44850.0"]


def test_a_machine_that_sleeps_during_a_turn_holds_up_no_other_turn(local, monkeypatch):
    slept = [0.0]

    def fall_asleep(body: bytes) -> str:
        if b"wait" in body:
            waiting.set()
            sent.wait(PATIENCE_S)
        else:
            slept[0] += 3600.0
        return json_text(body)

    def keep_busy() -> None:  # as many other clients would
        while not answered.is_set():
            web.server.threads[0].wakeup.send(b"!" * 100)

    waiting, sent, answered = threading.Event(), threading.Event(), threading.Event()
    monkeypatch.setattr(webserver_influx, "monotonic", lambda: time.monotonic() + slept[0])
    monkeypatch.setattr(webserver_influx, "json_text", fall_asleep)
    web = local()
    others = threading.Thread(target=keep_busy)
    others.start()
    try:
        with web.connect() as before, web.connect() as first, web.connect() as second:
            before.sendall(post(b'{"wait": 1}'.ljust(10_000)))
            assert waiting.wait(PATIENCE_S)
            for client in (first, second):
                client.sendall(post(b'{"a": 1}'.ljust(10_000)))
            sent.set()  # so both have come when the first falls asleep: no time-out of theirs runs
            for client in (before, first, second):
                assert texts(exchange(client, b"", until=b"1.0")) == ["Sum: 1.0"]
    finally:
        answered.set()
        others.join()


def test_a_body_in_chunks_of_one_byte_is_read_in_turns_with_the_requests_of_others(local):
    web = local()
    body = b'{"a": 3}'.ljust(100_000)
    chunks = b"".join(chunk(body[at : at + 1]) for at in range(len(body)))
    with web.connect() as client, web.connect() as other:
        sending = threading.Thread(target=send_all, args=(client, CHUNKED_POST + chunks + LAST_CHUNK))
        sending.start()
        answered = 0
        while not select.select([client], [], [], 0)[0]:
            exchange(other, message("GET /"), until=b"Sum: 0")
            answered += 1
        assert texts(receive(client, until=b"Sum: 3.0")) == ["Sum: 3.0"]
        sending.join()
    assert answered > len(chunks) // TURN_BYTES


def test_the_time_in_which_a_body_waits_for_its_turn_is_not_the_clients(local, long_work, caplog):
    web = local(BODY_SECONDS=1.5)
    with web.connect() as busy, web.connect() as waiting:
        busy.sendall(post(b'{"a": 1}'.ljust(10_000)))
        wait_until(lambda: TURN in web.awaited())
        waiting.sendall(message("PUT /", "Connection: close", body=b" " * 100_000))
        assert not is_readable(waiting, 3)
        long_work.set()
        waiting.settimeout(PATIENCE_S)
        assert statuses(receive(waiting)) == [405]
        assert texts(receive(busy, until=b"Sum: 1.0")) == ["Sum: 1.0"]
    assert not caplog.messages


def test_a_server_that_stops_has_something_to_watch_until_its_end(local, long_work, monkeypatch, caplog):
    """select() on Windows takes no empty list."""

    class WindowsPoll(SelectorPoll):
        def poll(self, timeout: float) -> list[tuple[int, int]]:
            if not self.get_map():
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return super().poll(timeout)

    monkeypatch.setattr(webserver_influx, "Poll", WindowsPoll)
    monkeypatch.setattr(webserver_influx, "WRITE", selectors.EVENT_WRITE)
    web = local()
    with web.connect() as client:
        client.sendall(post(b'{"a": 1}'.ljust(10_000)))
        wait_until(lambda: TURN in web.awaited())
        stopping = threading.Thread(target=web.server.stop)
        stopping.start()
        wait_until(lambda: web.server.socket.fileno() < 0)
        long_work.set()
        assert texts(receive(client)) == ["Sum: 1.0"]
        stopping.join()
    assert not caplog.messages


def test_a_bug_while_the_server_stops_costs_no_request_its_reply(local, monkeypatch, caplog):
    web = local()
    (thread,) = web.server.threads
    with web.connect() as client:
        client.sendall(post(b'{"a": 1}')[:-1])
        wait_until(lambda: web.awaited() == [BODY])
        monkeypatch.setattr(thread, "each_second", lambda: 1 / 0)
        thread.next_second = 0.0
        stopping = threading.Thread(target=web.server.stop)
        stopping.start()
        wait_until(lambda: "ZeroDivisionError" in caplog.text and web.server.socket.fileno() < 0)
        client.sendall(b"}")
        assert texts(receive(client)) == ["Sum: 1.0"]
        stopping.join()


def test_a_server_that_stops_without_memory_for_new_connections_answers_the_open_ones(local, monkeypatch):
    def fail() -> None:
        raise MemoryError

    web = local(GRACE_SECONDS=0.3)
    with web.connect() as client:
        client.sendall(post(b'{"a": 1}')[:-1])
        wait_until(lambda: web.awaited() == [BODY])
        monkeypatch.setattr(web.server, "get_request", fail)
        web.server.stop()
        assert refusal(receive(client)).status == 503


def test_a_server_that_stops_while_bodies_wait_for_their_turns_logs_no_bug(local, long_work, caplog):
    web = local(GRACE_SECONDS=0.3)
    with web.connect() as busy, web.connect() as waiting:
        busy.sendall(post(b'{"a": 1}'.ljust(10_000)))
        wait_until(lambda: TURN in web.awaited())
        waiting.sendall(message("PUT /", "Content-Length: 1000000") + b" " * 500_000)
        wait_until(lambda: BODY in web.awaited())
        web.server.stop()
        for client in (busy, waiting):
            assert refusal(receive(client)).status == 503
    assert not caplog.messages


def test_large_bodies_are_added_up_one_after_the_other_in_the_order_in_which_they_came(local, monkeypatch):
    def work(body):
        yield b""
        begun.append(int(body))
        while not may_end.is_set():
            yield b""
        yield b""
        ended.append(int(body))
        return "Sum: 1.0"

    begun: list[int] = []
    ended: list[int] = []
    may_end = threading.Event()
    monkeypatch.setattr(webserver_influx, "sum_json_in_turns", work)
    web = local()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(web.connect()) for _ in range(5)]
        for number, client in enumerate(clients):
            client.sendall(post(b"%d" % number + b" " * 10_000))
            wait_until(
                lambda number=number: sum(connection.event == 0 for connection in web.connections()) == number + 1
            )
        assert begun == [0]
        may_end.set()
        for client in clients:
            receive(client, until=b"Sum: 1.0")
    assert begun == ended == [0, 1, 2, 3, 4]


def test_a_client_that_hangs_up_while_its_body_is_added_up_is_ordinary_life(local, long_work, caplog):
    web = local()
    with web.connect() as client:
        client.sendall(post(b'{"a": 1}'.ljust(10_000)))
        wait_until(lambda: TURN in web.awaited())
        reset_at_close(client)
    long_work.set()
    wait_until(lambda: not web.connections())
    assert not caplog.messages


def test_a_connection_that_cannot_be_accepted_waits_and_is_served_when_it_can(local, monkeypatch, caplog):
    def no_file_left():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    web = local()
    with monkeypatch.context() as no_file:
        no_file.setattr(web.server, "get_request", no_file_left)
        with web.connect() as first, web.connect() as second:
            for client in (first, second):
                client.sendall(message("GET /?a=3"))
            wait_until(lambda: caplog.messages)
            assert not is_readable(first, 0.3)
            no_file.undo()
            for client in (first, second):
                client.settimeout(PATIENCE_S)
                assert texts(receive(client, until=b"Sum: 3.0")) == ["Sum: 3.0"]
    (line,) = caplog.messages
    assert "Too many open files" in line


@pytest.mark.parametrize("selector", [selectors.SelectSelector, selectors.DefaultSelector])
def test_without_epoll_it_serves_as_well(local, monkeypatch, selector):
    monkeypatch.setattr(webserver_influx, "Poll", webserver_influx.SelectorPoll)
    monkeypatch.setattr(webserver_influx, "WRITE", selectors.EVENT_WRITE)
    monkeypatch.setattr(selectors, "DefaultSelector", selector)
    web = local(HEAD_SECONDS=0.3)
    with web.connect() as idle, web.connect() as slow:
        exchange(idle, message("GET /"), until=b"Sum: 0")
        slow.sendall(b"GET /")
        body = b'{"a": 3}'.ljust(MIB)
        assert texts(web.raw(post(body) + message("GET /?a=4", "Connection: close"))) == ["Sum: 3.0", "Sum: 4.0"]
        assert statuses(receive(slow)) == [408]
        exchange(idle, message("GET /"), until=b"Sum: 0")
        client, sending = deaf_client(web, requests=40_000)
        client.shutdown(socket.SHUT_WR)
        sending.join()
        client.close()
        wait_until(lambda: len(web.connections()) == 1)


@ipv6
def test_it_listens_on_ipv4_and_ipv6_unless_told_otherwise(local):
    web = local(address=None)
    for host in ("127.0.0.1", "::1"):
        with web.connect(host=host) as connection:
            assert texts(exchange(connection, message("GET /?a=3"), until=b"Sum: 3.0")) == ["Sum: 3.0"]
