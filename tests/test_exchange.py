"""One exchange with InfluxDB: over a connection of its own, bounded in size and in the time of each wait; its words.

What answers here is a stranger in InfluxDB's place, and what asks is the real client.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import os
import re
import socket
import ssl
import subprocess
import threading
import time
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Callable

import pytest
from books import SECOND, add_waiting, counted, rejected, waiting
from daemons import wait_until
from needs import installed, linux
from proxy import is_whole

import webserver_influx
from webserver_influx import Destination, InfluxDB, Point, RefusedError, UnavailableError

POINT = Point(1, 1_795_498_610 * SECOND, 2)
POINTS = [POINT, Point(2, POINT.time + 60 * SECOND, 3)]


class Stranger(ThreadingTCPServer):
    """Listens on 127.0.0.1:`port`, and does to each connection what it is given, with it and itself as arguments."""

    allow_reuse_address = True

    def __init__(self, serve: Callable[[socket.socket, Stranger], object]) -> None:
        class Handler(BaseRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    serve(self.request, self.server)

        super().__init__(("127.0.0.1", 0), Handler)
        self.port = self.server_address[1]
        self.over = threading.Event()  # the end of the test
        self.requests: list[str] = []  # the method and path of each
        self.last = ""  # the last one, whole
        self.kept = 0  # connections on which nothing happened before the end of the test
        self.sent = 0
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.over.set()
        self.shutdown()
        self.thread.join()
        self.server_close()  # waits for the handlers

    def receive(self, connection: socket.socket) -> None:
        """Take a request. Raises OSError if none comes."""
        request = b""
        while not is_whole(request):
            data = connection.recv(65536)
            if not data:
                raise OSError("closed")
            request += data
        self.requests.append(request.partition(b"?")[0].decode())
        self.last = request.decode()

    def repeat(self, connection: socket.socket, data: bytes, pause: float = 0.0) -> None:
        """Send the same again and again."""
        while not self.over.wait(pause):
            self.sent += connection.send(data)


@pytest.fixture
def stranger(at_end):
    """stranger(serve) -> Stranger; stranger(bytes) answers each request with these."""

    def make(serve) -> Stranger:
        def answer(connection: socket.socket, server: Stranger) -> None:
            while True:
                server.receive(connection)
                connection.sendall(serve)

        return at_end.enter_context(contextlib.closing(Stranger(serve if callable(serve) else answer)))

    return make


def influxdb_at(port: int, host: str = "127.0.0.1", tls: bool = False) -> InfluxDB:
    return InfluxDB(Destination(host, port, "me", "s3cret-word", "numbers", tls), {})


def unavailable(function, *arguments) -> UnavailableError:
    """What it raises: one line, of which nothing is an order to a terminal, and no password."""
    with pytest.raises(UnavailableError) as info:
        function(*arguments)
    text = str(info.value)
    assert text.isprintable()
    assert "s3cret-word" not in text
    assert not text.endswith((".", ":", " "))
    return info.value


def http(status: str, content: str = "", *fields: str) -> bytes:
    head = (f"HTTP/1.1 {status}", f"Content-Length: {len(content.encode())}", *fields)
    return ("\r\n".join(head) + "\r\n\r\n" + content).encode()


PORTAL = "<!DOCTYPE html>\n<html>\n<head><title>\n Log in to \x1b[31mFree WiFi</title>\n</head><body>…</body></html>"
SQUID = "<html><head><style>p {}</style><title>ERROR: Access Denied</title></head><body><p>Sorry</p></body></html>"
CREATED = http("200 OK", '{"results":[{"statement_id":0}]}')

# What answers a write, and what is told of it, behind "InfluxDB at 127.0.0.1:8086 answers".
ANSWERS = {
    "a portal that redirects": (
        http("302 Found", "", "Location: http://portal.example/login"),
        "302 Found: see http://portal.example/login, which is no answer of InfluxDB",
    ),
    "a portal's page": (http("200 OK", PORTAL), "200 OK: Log in to ?[31mFree WiFi, which is no answer of InfluxDB"),
    "a write that is answered like a query": (CREATED, '200 OK: {"results":[{"statement_id":0}]}, which is no answer'),
    "nothing": (http("200 OK"), "200 OK, which is no answer of InfluxDB"),
    "Accepted": (http("202 Accepted"), "202 Accepted, which is no answer of InfluxDB"),
    "moved": (
        http("301 Moved Permanently", "<title>301 Moved</title>", "Location: https://db.example/write"),
        "301 Moved Permanently: 301 Moved: see https://db.example/write, which is no answer of InfluxDB",
    ),
    "Squid": (http("403 Forbidden", SQUID), "403 Forbidden: ERROR: Access Denied"),
    "a proxy that wants a password": (http("401 Unauthorized", "Who are you?"), "401 Unauthorized: Who are you?"),
    "a proxy that has a user of its own": (
        http("407 Proxy Authentication Required"),
        "407 Proxy Authentication Required",
    ),
    "a page of titles that do not end": (  # to look for the end of each would take an hour, in which no thread runs
        http("502 Bad Gateway", "<title>" * 140_000),
        "502 Bad Gateway: <title><title>",
    ),
    "404 in HTML": (http("404 Not Found", "<h1>404</h1>\n\nnginx"), "404 Not Found: <h1>404</h1> nginx"),
    "404 of another program": (http("404 Not Found", "404 page not found\n"), "404 Not Found: 404 page not found"),
    "too many": (http("429 Too Many Requests"), "429 Too Many Requests"),
    "an empty 503": (http("503 Service Unavailable"), "503 Service Unavailable"),
    "without a phrase": (b"HTTP/1.1 502 \r\nContent-Length: 0\r\n\r\n", "502"),
    "an error of InfluxDB": (
        http("500 Internal Server Error", '{"error":"retention policy not found: week"}'),
        "500 Internal Server Error: retention policy not found: week",
    ),
    "no disk": (
        http("400 Bad Request", '{"error":"partial write: write /x: no space left on device dropped=0"}'),
        "400 Bad Request: partial write: write /x: no space left on device dropped=0",
    ),
    "400 of a proxy": (
        http("400 Bad Request", "field type conflict? unable to parse"),
        "400 Bad Request: field type conflict? unable to parse",
    ),
    "a wrong password": (
        http("401 Unauthorized", '{"error":"authorization failed"}'),
        "401 Unauthorized: authorization failed; give WEBSERVER_INFLUX_DSN or --influx the password of user me",
    ),
    "no grant": (
        http("403 Forbidden", '{"error":"\\"me\\" user is not authorized to write to database \\"numbers\\""}'),
        '403 Forbidden: "me" user is not authorized to write to database "numbers"; an administrator can: GRANT ALL ON',
    ),
    "no mapping for the database of InfluxDB 2": (
        http("404 Not Found", '{"code":"not found","message":"no dbrp mapping found"}'),
        "404 Not Found: no dbrp mapping found",
    ),
    "a wrong token for InfluxDB 2": (
        http("401 Unauthorized", '{"code":"unauthorized","message":"unauthorized access"}'),
        "401 Unauthorized: unauthorized access",
    ),
}


@pytest.mark.parametrize("answer", ANSWERS)
def test_no_answer_but_204_acknowledges_a_write_and_each_is_told_as_it_was(stranger, answer):
    content, told = ANSWERS[answer]
    server = stranger(content)
    text = str(unavailable(influxdb_at(server.port).write, [POINT]))
    assert text.startswith(f"InfluxDB at 127.0.0.1:{server.port} answers {told}")
    assert ("administrator" in text) == ("administrator" in told)
    assert server.requests == ["POST /write"], "it was asked once, and no redirection was followed"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (http("200 OK", PORTAL), "200 OK: Log in to"),
        (http("200 OK"), "200 OK"),
        (http("204 No Content"), "204 No Content"),
        (http("401 Unauthorized", '{"error":"authorization failed"}'), "401 Unauthorized: authorization failed"),
        (http("200 OK", "[1]"), "200 OK: [1]"),
        (http("302 Found", "", "Location: /login"), "302 Found: see /login"),
        (http("503 Service Unavailable"), "503 Service Unavailable"),
    ],
)
def test_influxdb_is_there_only_by_an_answer_of_its_own(stranger, content, told):
    server = stranger(content)
    influxdb = influxdb_at(server.port)
    for _ in range(2):
        assert f" answers {told}" in str(unavailable(influxdb.check_reachable))
    assert server.requests == ["POST /query"] * 2


# What others than InfluxDB 1.8 answer to CREATE DATABASE, and InfluxDB 1.8 to who is no administrator.
REFUSALS = {
    "no administrator": http("403 Forbidden", '{"error":"create admin user first or disable authentication"}'),
    "InfluxDB 2.3": http(
        "200 OK",
        '{"results":[{"statement_id":0,"error":"not implemented: CREATE DATABASE"}]}',
        "X-Influxdb-Version: 2.3.0",
    ),
    "InfluxDB 2": http("400 Bad Request", '{"code":"invalid","message":"not implemented"}'),
    "InfluxDB 3": http("405 Method Not Allowed"),
    "InfluxDB 3, by an error": http("400 Bad Request", '{"error":"error in InfluxQL statement: CREATE DATABASE"}'),
    "a proxy that knows /write only": http("404 Not Found", "<title>404 Not Found</title>"),
}
WRITTEN, BUSY = http("204 No Content"), http("503 Service Unavailable")
MISSING = http("404 Not Found", '{"error":"database not found: \\"numbers\\""}')


def answers(writes: list[bytes], query: bytes = CREATED) -> Callable[[socket.socket, Stranger], None]:
    """Answers each write with the next of these, the last time and again, and each query alike."""

    def serve(connection: socket.socket, server: Stranger) -> None:
        server.receive(connection)
        is_write = server.requests[-1].endswith("/write")
        connection.sendall(query if not is_write else writes.pop(0) if len(writes) > 1 else writes[0])

    return serve


def asked(server: Stranger) -> list[str]:
    """What was asked for, in order."""
    return [request.rpartition("/")[2] for request in server.requests]


@pytest.mark.parametrize("answer", [CREATED, *REFUSALS.values()], ids=["InfluxDB 1.8", *REFUSALS])
def test_influxdb_is_there_whatever_it_says_of_a_database(stranger, answer):
    server = stranger(answers([WRITTEN], answer))
    influxdb = influxdb_at(server.port)
    influxdb.check_reachable()
    influxdb.write([POINT])
    assert asked(server) == ["query", "write"]


def test_a_missing_database_is_made_and_the_points_are_written_again(stranger):
    server = stranger(answers([MISSING, WRITTEN]))
    influxdb_at(server.port).write([POINT])
    assert asked(server) == ["write", "query", "write"]


@pytest.mark.parametrize("answer", REFUSALS)
def test_where_a_missing_database_cannot_be_made_the_answer_to_the_write_is_told(stranger, answer):
    server = stranger(answers([MISSING], REFUSALS[answer]))
    text = str(unavailable(influxdb_at(server.port).write, [POINT]))
    told = 'answers 404 Not Found: database not found: "numbers"; an administrator can: CREATE DATABASE "numbers"'
    assert text.endswith(told)
    assert asked(server) == ["write", "query", "write"]


def test_the_cause_is_what_happened_to_the_second_write_and_not_the_answer_to_the_first(stranger):
    server = stranger(answers([MISSING, b""]))  # and hangs up
    text = str(unavailable(influxdb_at(server.port).write, [POINT]))
    assert asked(server) == ["write", "query", "write"]
    assert text.endswith(" cannot be reached: Remote end closed connection without response")


@pytest.mark.parametrize("refusal", REFUSALS)
def test_whatever_creates_no_database_gets_the_points_and_no_warning_is_logged(server, stranger, refusal):
    """A bucket of InfluxDB 2 is the database, a token the password of any user."""
    other = stranger(answers([WRITTEN], REFUSALS[refusal]))
    dsn = f"influxdb://any:t0ken%3D%3D@127.0.0.1:{other.port}/bucket"
    web = server("--influx", dsn, "--tag", "host=web1")
    web.get()
    assert web.stop() == 0
    assert waiting(web.state) == []
    assert "WARNING" not in web.stderr_text()
    assert asked(other) == ["query", "write"]
    request, _, body = other.last.partition("\r\n\r\n")
    assert "db=bucket" in request.partition(" HTTP/")[0]
    assert f"Authorization: Basic {base64.b64encode(b'any:t0ken==').decode()}" in request.split("\r\n")
    assert body.startswith("requests,host=web1,request=GETs_per_minute requests_number=1i ")


@pytest.mark.parametrize(
    ("field", "seconds"),
    [("Retry-After: 7", 7), ("Retry-After: Wed, 21 Oct 2026 07:28:00 GMT", 0), ("Retry-After: -1", 0), ("X: 1", 0)],
)
def test_a_server_can_ask_for_a_pause(stranger, field, seconds):
    server = stranger(http("429 Too Many Requests", "", field))
    assert unavailable(influxdb_at(server.port).write, [POINT]).retry_after == seconds


PARTLY = "failure writing points to database: partial write: "
CONFLICT = 'field type conflict: input field "requests_number" is type integer, already exists as type float'
LINES_3 = [{"original_line": "requests", "line_number": 1, "error_message": "invalid column type"}]

# What may be the fault of some of the points: status, content, what is kept as the reason, and how many were dropped.
REFUSED = {
    "1.8, too old": ("400 Bad Request", {"error": "partial write: points beyond retention policy dropped=2"}, 2),
    "1.8, another type": ("400 Bad Request", {"error": f"partial write: {CONFLICT} dropped=1"}, 1),
    "1.8, not to be parsed": ("400 Bad Request", {"error": "partial write: unable to parse 'x': No dropped=0"}, 0),
    "1.8, a full disk": ("400 Bad Request", {"error": "partial write: no space left on device dropped=1"}, 1),
    "1.12, too old": (
        "400 Bad Request",
        {
            "error": "partial write: dropped 2 points outside retention policy of duration 1h0m0s - oldest point "
            "requests,request=GETs_per_minute at 1970-01-01T00:00:01Z dropped because it violates a Retention Policy "
            "Lower Bound at 2026-11-29T12:39:44.289014569Z, newest point requests,request=GETs_per_minute at … "
            "dropped=2 for database: math_server for retention policy: autogen"
        },
        2,
    ),
    "2, too old": (
        "422 Unprocessable Entity",
        {
            "code": "unprocessable entity",
            "message": f"{PARTLY}dropped 1 points outside retention policy of duration 2h0m0s - oldest point … "
            "dropped=1 for database: 0f3a for retention policy: autogen",
        },
        1,
    ),
    "2, another type": (
        "422 Unprocessable Entity",
        {"code": "unprocessable entity", "message": f"{PARTLY}{CONFLICT} dropped=2"},
        2,
    ),
    "2, not to be parsed": ("400 Bad Request", {"code": "invalid", "message": "unable to parse 'x': missing"}, 0),
    "3": ("400 Bad Request", {"error": "partial write of line protocol occurred", "data": LINES_3}, 0),
    "what nobody knows": ("422 Unprocessable Entity", {"error": "these points look odd"}, 0),
    "too large": ("413 Request Entity Too Large", {"error": "Request Entity Too Large"}, 0),
}


@pytest.mark.parametrize("answer", REFUSED)
def test_what_may_be_the_fault_of_some_of_the_points_is_a_refusal(stranger, answer):
    """Whether it is, the courier finds out: no words decide that."""
    status, content, dropped = REFUSED[answer]
    server = stranger(http(status, json.dumps(content)))
    with pytest.raises(RefusedError) as info:
        influxdb_at(server.port).write(POINTS)
    words = content.get("message", content.get("error"))
    assert (info.value.message, info.value.dropped) == (" ".join(words.split())[:300], dropped)
    assert str(info.value).startswith(f"InfluxDB at 127.0.0.1:{server.port} answers {status}: {words[:200]}")


def test_a_refusal_by_a_proxy_is_kept_in_its_words(stranger):
    server = stranger(http("413 Request Entity Too Large", "<title>413 Request Entity Too Large</title>"))
    with pytest.raises(RefusedError) as info:
        influxdb_at(server.port).write(POINTS)
    assert str(info.value).endswith(" answers 413 Request Entity Too Large: 413 Request Entity Too Large")


@pytest.mark.parametrize(
    "status",
    [
        "200 OK",
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "503 Service Unavailable",
    ],
)
def test_no_other_answer_is_a_refusal(stranger, status):
    server = stranger(http(status, '{"error":"partial write: field type conflict dropped=2"}'))
    with pytest.raises(UnavailableError) as info:
        influxdb_at(server.port).write(POINTS)
    assert not isinstance(info.value, RefusedError)


# --- InfluxDB since 1.12.3 and 2.7.12, in whose words a point is older than the retention policy


class Newer:
    """Stores points but those of an hour ago and older, and says so as 1.12.4 and 2.7.12 do; seen with these."""

    WORDS = (
        "partial write: dropped {n} points outside retention policy of duration 1h0m0s - oldest point "
        "requests,request=GETs_per_minute at 2026-10-30T14:53:30.007Z dropped because it violates a Retention Policy "
        "Lower Bound at 2026-11-29T12:39:44.289014569Z, newest point requests,request=GETs_per_minute at "
        "2026-10-30T14:53:38.01Z dropped because it violates a Retention Policy Lower Bound at "
        "2026-11-29T12:39:44.289014569Z dropped={n} for database: {database} for retention policy: autogen"
    )

    def __init__(self, version: int) -> None:
        self.version = version
        self.stored: dict[int, int] = {}  # by time
        self.writes = 0

    def serve(self, connection: socket.socket, server: Stranger) -> None:
        server.receive(connection)
        if server.requests[-1].endswith("/query"):
            connection.sendall(CREATED)
            return
        self.writes += 1
        lines = server.last.partition("\r\n\r\n")[2].splitlines()
        parsed = [
            re.fullmatch(r"requests,request=GETs_per_minute requests_number=(\d+)i (\d+)", line) for line in lines
        ]
        points = {int(line[2]): int(line[1]) for line in parsed}
        taken = {when: number for when, number in points.items() if when > time.time_ns() - 3600 * SECOND}
        self.stored.update(taken)
        connection.sendall(WRITTEN if taken == points else self.refusal(len(points) - len(taken)))

    def refusal(self, dropped: int) -> bytes:
        if self.version == 1:
            error = self.WORDS.format(n=dropped, database="math_server")
            return http("400 Bad Request", json.dumps({"error": error}), "X-Influxdb-Version: 1.12.4")
        words = self.WORDS.format(n=dropped, database="0f3a1c2b4d5e6f70")
        message = f"failure writing points to database: {words}"
        return http("422 Unprocessable Entity", json.dumps({"code": "unprocessable entity", "message": message}))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("old", [3, 1000, 1500])
def test_points_older_than_the_retention_policy_of_a_newer_influxdb_hold_up_no_others(server, stranger, version, old):
    newer = Newer(version)
    other = stranger(newer.serve)
    web = server("--influx", f"influxdb://127.0.0.1:{other.port}", "--interval", "0.5")
    web.get()
    assert web.stop() == 0
    month = time.time_ns() - 30 * 24 * 3600 * SECOND
    add_waiting(web.state, [(month + step * SECOND, 5) for step in range(old)])
    before, points = newer.writes, len(newer.stored)
    web.start()
    web.get()
    wait_until(lambda: len(rejected(web.state)) == old and len(newer.stored) > points + 2)
    print(f"{newer.writes - before} writes for {old} old points")
    assert web.stop() == 0
    assert waiting(web.state) == []
    assert sum(newer.stored.values()) == counted(web.state) == 2
    assert all("outside retention policy" in reason for *_, reason in rejected(web.state))


def test_an_influxdb_that_answers_byte_by_byte_delays_no_point(server, stranger):
    """One a minute is recorded, or here three a second, while one answer has not ended; and each has its line."""
    influxdb = stranger(drip(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 100000\r\n\r\n", b"x"))
    web = server("--influx", f"influxdb://127.0.0.1:{influxdb.port}", "--interval", "0.3")
    wait_until(lambda: len(waiting(web.state)) >= 8)
    assert len(influxdb.requests) <= 1
    wait_until(lambda: len(web.reports()) >= 6)
    assert all(report[2].startswith("points waiting in ") for report in web.reports())
    assert web.stop() == 0
    assert len(web.reports()) == len(waiting(web.state))


def test_at_the_end_each_interval_has_one_line_and_the_summary_is_the_last_word(server, stranger):
    """Though a delivery is under way that does not end."""
    influxdb = stranger(lambda _, server: server.over.wait())
    web = server("--influx", f"influxdb://127.0.0.1:{influxdb.port}", "--interval", "0.5")
    web.get()
    wait_until(lambda: len(waiting(web.state)) >= 2)
    assert web.stop() == 0
    reports = web.reports()
    assert len(reports) == len(waiting(web.state))
    assert all(report[2].startswith("points waiting in ") for report in reports)
    summary = web.log()[web.log().index(reports[-1][0]) + 1 :]
    assert re.search(r" INFO 1 request in [\d.]+ s$", summary[0])
    assert "points" not in "".join(summary)


# What vminsert of a cluster of VictoriaMetrics answers (1.150), by method and path.
CLUSTER = {
    "POST /insert/0/influx/query": http(
        "200 OK", '{"results":[{"statement_id":0,"series":[{"name":"databases","columns":["name"],"values":[["_"]]}]}]}'
    ),
    "POST /insert/0/influx/write": WRITTEN,
    "POST /insert/0/write": http("400 Bad Request", 'unsupported path requested: "/insert/0/write"\n'),
}


@pytest.mark.parametrize("path", ["/insert/0/influx/", "/insert/0/influx"], ids=["as README has it", "without a slash"])
def test_a_cluster_of_victoriametrics_is_reached_by_a_path(server, stranger, path):
    """Without the last slash `influx` is the database."""

    def serve(connection: socket.socket, cluster: Stranger) -> None:
        cluster.receive(connection)
        request = cluster.requests[-1]
        connection.sendall(CLUSTER.get(request, http("400 Bad Request", "unsupported path requested\n")))

    cluster = stranger(serve)
    web = server("--influx", f"influxdb://127.0.0.1:{cluster.port}{path}", "--tag", "host=web1")
    web.get()
    assert web.stop() == 0
    if path.endswith("/"):
        assert waiting(web.state) == []
        assert cluster.requests == ["POST /insert/0/influx/query", "POST /insert/0/influx/write"]
        assert "WARNING" not in web.stderr_text()
    else:
        assert [number for _, number in waiting(web.state)] == [1]
        told = 'answers 400 Bad Request: unsupported path requested: "/insert/0/write"; points wait in'
        assert f" WARNING InfluxDB at 127.0.0.1:{cluster.port}/insert/0 {told}" in web.stderr_text()


# --- the connection


def test_each_exchange_has_a_connection_of_its_own(server, stranger):
    """So that nothing in between (a NAT, a load balancer) can have forgotten, or reset, one that was kept."""

    def serve(connection: socket.socket, nat: Stranger) -> None:
        nat.receive(connection)
        connection.sendall(CREATED if "/query" in nat.requests[-1] else http("204 No Content"))
        while connection.recv(65536):  # and no answer
            nat.kept += 1

    nat = stranger(serve)
    web = server("--interval", "0.1", "--influx", f"influxdb://127.0.0.1:{nat.port}")
    wait_until(lambda: nat.requests.count("POST /write") > 5 or nat.kept)
    assert web.stop() == 0
    assert not nat.kept
    assert waiting(web.state) == []
    assert "WARNING" not in web.stderr_text()


# --- bounds

STARTED = b"HTTP/1.1 200 OK\r\n"
CHUNKED = STARTED + b"Transfer-Encoding: chunked\r\n\r\n"
MANY = bytes(1_000_000).replace(b"\0", b"x")


def drip(before: bytes, piece: bytes):
    return lambda connection, server: (connection.sendall(before), server.repeat(connection, piece, 0.01))


def flood(before: bytes, piece: bytes):
    return lambda connection, server: (connection.sendall(before), server.repeat(connection, piece))


BOTTOMLESS = {
    "silence": lambda _, server: server.over.wait(),
    "a dripping status line": drip(b"", b"H"),
    "a dripping field": drip(STARTED + b"X: ", b"x"),
    "a dripping body": drip(STARTED + b"Content-Length: 1000000\r\n\r\n", b"x"),
    "dripping chunks": drip(CHUNKED, b"1\r\nx\r\n"),
    "interim answers": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "an endless field": flood(STARTED + b"X: ", MANY),
    "endless fields": flood(STARTED, b"X: x\r\n" * 10_000),
    "an endless body": flood(STARTED + b"\r\n", MANY),
    "a body of gigabytes": flood(STARTED + b"Content-Length: 99999999999\r\n\r\n", MANY),
    "an endless chunk": flood(CHUNKED + b"fffffffff\r\n", MANY),
    "an endless line of a chunk": flood(CHUNKED, b"1" * 1_000_000),
    "endless chunks": flood(CHUNKED, b"1\r\nx\r\n" * 10_000),
}


@pytest.fixture
def impatient(monkeypatch):
    for name in ("CONNECT_SECONDS", "RESPONSE_SECONDS", "CONTENT_SECONDS"):
        monkeypatch.setattr(webserver_influx, name, 0.3)


@pytest.mark.parametrize("answer", BOTTOMLESS)
def test_no_answer_takes_more_memory_than_an_exchange_may_or_time_but_byte_by_byte(stranger, impatient, answer):
    """A head that comes byte by byte has no limit but that of its bytes; the courier alone waits for it."""
    server = stranger(BOTTOMLESS[answer])
    failures: list[UnavailableError] = []
    exchange = threading.Thread(target=lambda: failures.append(unavailable(influxdb_at(server.port).check_reachable)))
    exchange.start()
    if answer in ("a dripping status line", "a dripping field", "interim answers"):
        exchange.join(1)
        server.close()
    exchange.join(60)
    assert failures
    assert server.sent < 64_000_000, "what is more than the systems' buffers was not taken"


def test_an_answer_leaves_no_garbage_that_waits_for_a_collection(stranger):
    """Which is rare in this server; and an answer can be large."""

    def answers() -> int:
        return sum(isinstance(one, UnavailableError) for one in gc.get_objects())

    server = stranger(http("503 Service Unavailable"))
    influxdb = influxdb_at(server.port)
    unavailable(influxdb.write, [POINT])
    gc.collect()
    gc.disable()
    try:
        before = answers()
        for _ in range(3):
            with contextlib.suppress(UnavailableError):
                influxdb.write([POINT])
        assert answers() <= before
    finally:
        gc.enable()


def test_an_answer_that_comes_late_is_an_answer(stranger, monkeypatch):
    """However long all of it takes, as long as something comes."""

    def serve(connection: socket.socket, server: Stranger) -> None:
        server.receive(connection)
        for byte in WRITTEN:
            connection.sendall(bytes([byte]))
            server.over.wait(0.02)

    monkeypatch.setattr(webserver_influx, "RESPONSE_SECONDS", 0.5)
    influxdb_at(stranger(serve).port).write([POINT])


@pytest.mark.parametrize("tls", [True, False])
def test_a_server_that_does_not_answer_or_shake_hands_is_told(stranger, monkeypatch, tls):
    monkeypatch.setattr(webserver_influx, "CONNECT_SECONDS", 0.3)
    monkeypatch.setattr(webserver_influx, "RESPONSE_SECONDS", 0.3)
    server = stranger(lambda _, server: server.over.wait())
    text = str(unavailable(influxdb_at(server.port, tls=tls).check_reachable))
    assert text == f"InfluxDB at 127.0.0.1:{server.port} does not answer within 0 s"


def test_a_server_without_tls_is_told(stranger):
    server = stranger(lambda connection, _: connection.sendall(http("400 Bad Request")))
    assert "does not use TLS; change https+influxdb:// to influxdb://" in str(
        unavailable(influxdb_at(server.port, tls=True).check_reachable)
    )


@pytest.fixture
def no_proxies(monkeypatch):
    for name in os.environ:
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("variable", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_that_is_away_is_named_and_not_taken_for_influxdb(
    monkeypatch, closed_port, variable
):
    monkeypatch.setenv(variable, f"http://user:s3cret-word@127.0.0.1:{closed_port}")
    text = str(unavailable(influxdb_at(8086, host="192.0.2.1").check_reachable))
    assert f"cannot be reached through the proxy that {variable} names: " in text
    assert "influxd," not in text


@pytest.mark.usefixtures("no_proxies")
def test_a_proxy_that_requests_cannot_use_is_named(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://user:s3cret-word@127.0.0.1:9")
    text = str(unavailable(influxdb_at(8086, host="192.0.2.1").check_reachable))
    assert "through the proxy that ALL_PROXY names: Missing dependencies for SOCKS support" in text


def test_a_name_that_cannot_be_looked_up_is_told_in_the_system_s_words(monkeypatch):
    def look_up(*_, **__):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    text = str(unavailable(influxdb_at(8086, host="db.example").check_reachable))
    assert text == "InfluxDB at db.example:8086 cannot be reached: Temporary failure in name resolution"


@linux
def test_addresses_that_do_not_answer_delay_a_write_to_one_that_does(stranger, monkeypatch, at_end):
    """Each has its own time-out: a name with dead addresses, such as those of IPv6, still leads to InfluxDB."""
    monkeypatch.setattr(webserver_influx, "CONNECT_SECONDS", 0.2)
    full = at_end.enter_context(socket.socket())
    full.bind(("0.0.0.0", 0))
    full.listen(0)
    for _ in range(2):  # after which the system takes no more
        connection = at_end.enter_context(socket.socket())
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", full.getsockname()[1]))
    server = stranger(answers([WRITTEN]))
    dead = [("127.0.0.2", full.getsockname()[1]), ("127.0.0.3", full.getsockname()[1])]
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", at) for at in (*dead, ("127.0.0.1", server.port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    influxdb_at(8086, host="db.example").write([POINT])
    assert asked(server) == ["write"]


# --- certificates


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A certificate for 127.0.0.1 and its key, in one file, of no authority that anybody knows."""
    file = tmp_path_factory.mktemp("tls") / "certificate.pem"
    openssl = [installed("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:db.example"]
    made = [*openssl, "-days", "2", *names, "-keyout", file, "-out", file.with_suffix(".crt")]
    subprocess.run(made, check=True, capture_output=True)
    file.write_text(file.read_text() + file.with_suffix(".crt").read_text())
    return file


@pytest.mark.parametrize("host", ["127.0.0.1", "db.example"])
def test_a_certificate_of_a_private_authority_is_accepted_if_its_file_is_named(
    stranger, certificate, monkeypatch, host
):
    """Also for a loopback address, where requests is not to look at the environment."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def serve(connection: socket.socket, server: Stranger) -> None:
        with context.wrap_socket(connection, server_side=True) as secure:
            answers([WRITTEN])(secure, server)

    server = stranger(serve)
    look_up = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", lambda _, *others, **named: look_up("127.0.0.1", *others, **named))
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    influxdb = influxdb_at(server.port, host, tls=True)
    text = str(unavailable(influxdb.write, [POINT]))
    assert text == (
        f"InfluxDB at {host}:{server.port} has a certificate of an unknown issuer (self-signed certificate); "
        "name the file of a private authority's certificate in REQUESTS_CA_BUNDLE"
    )
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    influxdb.write([POINT])


@pytest.mark.parametrize("error", [SystemExit(3), MemoryError(), RecursionError("too deep"), KeyboardInterrupt()])
def test_whatever_the_client_raises_is_one_line(error, monkeypatch):
    def write_points(*_, **__):
        raise error

    monkeypatch.setattr("influxdb.InfluxDBClient.write_points", write_points)
    text = str(unavailable(influxdb_at(8086).write, [POINT]))
    assert text == f"InfluxDB at 127.0.0.1:8086 cannot be used: {error!r}"
