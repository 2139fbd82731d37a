"""One exchange with InfluxDB: over a connection of its own, bounded in time and size; and what is told of what answers.

What answers here is a stranger in InfluxDB's place, and what asks is the real client.
"""

from __future__ import annotations

import base64
import contextlib
import gc
import json
import socket
import threading
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Callable

import pytest
from books import SECOND, waiting
from daemons import wait_until
from needs import linux
from proxy import is_whole

import webserver_influx
from webserver_influx import Answer, Destination, InfluxDB, Rejected, Trouble

POINT = (1_795_498_610 * SECOND, 2)
POINTS = [POINT, (POINT[0] + 60 * SECOND, 3)]


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


def trouble_of(function, *arguments) -> Trouble:
    """The trouble that it raises: one line, of which nothing is an order to a terminal, and no password."""
    with pytest.raises(Trouble) as info:
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
        "401 Unauthorized: authorization failed; give user me and the right password in",
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
    text = str(trouble_of(influxdb_at(server.port).write, [POINT]))
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
        assert f" answers {told}" in str(trouble_of(influxdb.connect))
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
def test_influxdb_is_looked_for_once(stranger, answer):
    server = stranger(answers([WRITTEN, BUSY, WRITTEN], answer))
    influxdb = influxdb_at(server.port)
    for is_well in (True, False, True):
        influxdb.connect()
        if is_well:
            influxdb.write([POINT])
        else:
            trouble_of(influxdb.write, [POINT])
    assert asked(server) == ["query", "write", "write", "write"]


def test_a_missing_database_is_made_and_the_points_are_written_again(stranger):
    server = stranger(answers([MISSING, WRITTEN]))
    influxdb_at(server.port).write([POINT])
    assert asked(server) == ["write", "query", "write"]


@pytest.mark.parametrize("answer", REFUSALS)
def test_where_a_missing_database_cannot_be_made_the_answer_to_the_write_is_told(stranger, answer):
    server = stranger(answers([MISSING], REFUSALS[answer]))
    text = str(trouble_of(influxdb_at(server.port).write, [POINT]))
    told = 'answers 404 Not Found: database not found: "numbers"; an administrator can: CREATE DATABASE "numbers"'
    assert text.endswith(told)
    assert asked(server) == ["write", "query", "write"]


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
    assert trouble_of(influxdb_at(server.port).write, [POINT]).retry_after == seconds


@pytest.mark.parametrize(
    "content", ["<title>413 Request Entity Too Large</title>", '{"error":"Request Entity Too Large"}']
)
def test_a_batch_that_is_too_large_can_be_halved_but_a_point_cannot(stranger, content):
    server = stranger(http("413 Request Entity Too Large", content))
    with pytest.raises(Rejected) as info:
        influxdb_at(server.port).write(POINTS)
    assert info.value.dropped is None
    assert "413 Request Entity Too Large" in str(trouble_of(influxdb_at(server.port).write, [POINT]))


@pytest.mark.parametrize(
    ("message", "dropped"),
    [
        ("partial write: points beyond retention policy dropped=2", 2),
        (
            'partial write: field type conflict: input field "n" is type integer, it exists as type float dropped=1',
            1,
        ),
        ("field type conflict: input field", None),
        ("unable to parse 'x': missing fields", None),
        ("partial write: unable to parse 'x': missing fields dropped=0", 0),
    ],
)
def test_the_causes_that_are_final(stranger, message, dropped):
    server = stranger(http("400 Bad Request", json.dumps({"error": message})))
    with pytest.raises(Rejected) as info:
        influxdb_at(server.port).write(POINTS)
    assert (str(info.value), info.value.dropped) == (message, dropped)


PARTLY = "failure writing points to database: partial write: "
CONFLICT = 'field type conflict: input field "requests_number" is type integer, already exists as type float'


@pytest.mark.parametrize(
    ("status", "content", "dropped"),
    [
        ("422 Unprocessable Entity", {"code": "unprocessable entity", "message": f"{PARTLY}{CONFLICT} dropped=2"}, 2),
        (
            "422 Unprocessable Entity",
            {"code": "unprocessable entity", "message": f"{PARTLY}points beyond retention policy dropped=1"},
            1,
        ),
        ("400 Bad Request", {"code": "invalid", "message": "unable to parse 'x': missing fields"}, None),
        (
            "400 Bad Request",
            {
                "error": "partial write of line protocol occurred",
                "data": [{"original_line": "requests", "line_number": 1, "error_message": "invalid column type"}],
            },
            None,
        ),
        ("400 Bad Request", {"error": "parsing failed for write_lp endpoint", "data": {"error_message": "No"}}, None),
    ],
)
def test_the_causes_that_are_final_in_the_words_of_influxdb_2_and_3(stranger, status, content, dropped):
    server = stranger(http(status, json.dumps(content)))
    with pytest.raises(Rejected) as info:
        influxdb_at(server.port).write(POINTS)
    assert (str(info.value), info.value.dropped) == (content.get("message", content.get("error")), dropped)


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
    monkeypatch.setattr(webserver_influx, "INFLUXDB_SECONDS", 0.3)
    monkeypatch.setattr(webserver_influx, "EXCHANGE_SECONDS", 0.5)


@pytest.mark.parametrize("answer", BOTTOMLESS)
def test_no_answer_takes_more_time_or_memory_than_an_exchange_may(stranger, impatient, answer):
    """The stranger sends until the connection is closed; at the end of the test it stops, and so does the exchange."""
    server = stranger(BOTTOMLESS[answer])
    influxdb = influxdb_at(server.port)
    trouble_of(influxdb.connect)
    assert server.sent < 64_000_000, "what is more than the systems' buffers was not taken"
    server.close()
    wait_until(lambda: not influxdb.exchanging.is_alive(), what="the exchange to end")


def test_an_answer_leaves_no_garbage_that_waits_for_a_collection(stranger):
    """Which is rare in this server; and an answer can be large."""

    def answers() -> int:
        return sum(isinstance(one, Answer) for one in gc.get_objects())

    server = stranger(http("503 Service Unavailable"))
    influxdb = influxdb_at(server.port)
    trouble_of(influxdb.write, [POINT])
    gc.collect()
    gc.disable()
    try:
        before = answers()
        for _ in range(3):
            with contextlib.suppress(Trouble):
                influxdb.write([POINT])
        assert answers() <= before
    finally:
        gc.enable()


def test_an_exchange_that_does_not_end_is_the_only_one_until_it_does(stranger, impatient):
    server = stranger(drip(b"", b"H"))
    influxdb = influxdb_at(server.port)
    first = str(trouble_of(influxdb.connect))
    threads = threading.active_count()
    assert "has not finished an answer in " in first
    for _ in range(3):
        assert str(trouble_of(influxdb.connect)) == first
    assert threading.active_count() == threads


@pytest.mark.parametrize("tls", [True, False])
def test_a_server_that_does_not_answer_or_shake_hands_is_told(stranger, monkeypatch, tls):
    monkeypatch.setattr(webserver_influx, "INFLUXDB_SECONDS", 0.3)
    server = stranger(lambda _, server: server.over.wait())
    text = str(trouble_of(influxdb_at(server.port, tls=tls).connect))
    assert text == f"InfluxDB at 127.0.0.1:{server.port} does not answer within 0 s"


def test_a_server_without_tls_is_told(stranger):
    server = stranger(lambda connection, _: connection.sendall(http("400 Bad Request")))
    assert "does not speak TLS" in str(trouble_of(influxdb_at(server.port, tls=True).connect))


def test_a_proxy_of_the_environment_that_is_away_is_not_taken_for_influxdb(monkeypatch, closed_port):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port}")
    text = str(trouble_of(influxdb_at(8086, host="192.0.2.1").connect))
    assert "cannot be reached through the proxy that the environment names: " in text
    assert "influxd," not in text


def test_a_name_that_is_looked_up_for_long_holds_up_nobody(impatient, monkeypatch):
    def look_up(*_, **__):
        over.wait()
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    influxdb = influxdb_at(8086, host="db.example")
    assert "has not finished an answer" in str(trouble_of(influxdb.connect))
    over.set()
    wait_until(lambda: not influxdb.exchanging.is_alive())
    text = str(trouble_of(influxdb.connect))
    assert text == "InfluxDB at db.example:8086 cannot be reached: Temporary failure in name resolution"


@linux
def test_several_addresses_that_do_not_answer_have_the_time_of_one_exchange(impatient, monkeypatch, at_end):
    full = at_end.enter_context(socket.socket())
    full.bind(("0.0.0.0", 0))
    full.listen(0)
    port = full.getsockname()[1]
    for _ in range(2):  # after which the system takes no more
        connection = at_end.enter_context(socket.socket())
        connection.setblocking(False)
        connection.connect_ex(("127.0.0.1", port))
    addresses = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in range(1, 9)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
    influxdb = influxdb_at(port, host="db.example")
    assert "has not finished an answer" in str(trouble_of(influxdb.connect))
    full.close()
    wait_until(lambda: not influxdb.exchanging.is_alive())


@pytest.mark.parametrize("error", [SystemExit(3), MemoryError(), RecursionError("too deep"), KeyboardInterrupt()])
def test_whatever_the_client_raises_is_trouble(error, monkeypatch):
    def write_points(*_, **__):
        raise error

    monkeypatch.setattr("influxdb.InfluxDBClient.write_points", write_points)
    text = str(trouble_of(influxdb_at(8086).write, [POINT]))
    assert text == f"InfluxDB at 127.0.0.1:8086 cannot be used: {error!r}"


def test_without_a_thread_for_it_an_exchange_is_trouble(monkeypatch):
    def start(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    assert "can't start new thread" in str(trouble_of(influxdb_at(8086).connect))
