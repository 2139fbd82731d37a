"""The points in a real influxd: exact, once, and late rather than never."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import sqlite3
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from books import MILLISECOND, SECOND, add_waiting, ask, counted, rejected, waiting
from daemons import Influxd, InfluxError, Nginx, Server, new_folder, wait_until
from needs import posix, small_disk
from proxy import Fate, Proxy

from webserver_influx import REPEAT_SECONDS

DAY = 86_400 * SECOND
WELL = "All is well again"


@pytest.fixture
def influx(influxd) -> Influxd:
    return influxd()


def make_requests(web: Server, number: int) -> None:
    for _ in range(number):
        assert web.get("/?a=1").text == "Sum: 1.0"


def warnings_of(web: Server) -> list[str]:
    return re.findall("^.* WARNING (.*)$", web.stderr_text(), re.MULTILINE)


def the_warning(web: Server) -> str:
    """Wait for the first warning, which is to be the only one; return it."""
    wait_until(lambda: warnings_of(web))
    (line,) = warnings_of(web)
    return line


def times_of(points: list[dict]) -> list[int]:
    return [point["time"] for point in points]


# --- the point


def test_a_point_is_exactly_what_the_documentation_says(server, influx):
    before = time.time_ns()
    web = server("--interval", "0.5", "--influx", influx.dsn())
    make_requests(web, 3)
    assert web.stop() == 0
    after = time.time_ns()
    points = influx.points()
    assert sum(point["requests_number"] for point in points) == 3
    for point in points:
        assert set(point) == {"time", "request", "requests_number"}
        assert point["request"] == "GETs_per_minute"
        assert type(point["requests_number"]) is int
        assert before // SECOND <= point["time"] // SECOND <= after // SECOND
    assert len(set(times_of(points))) == len(points)
    assert influx.query("SHOW MEASUREMENTS") == [{"name": "requests"}]
    assert influx.query("SHOW TAG KEYS") == [{"tagKey": "request"}]
    assert influx.query("SHOW FIELD KEYS") == [{"fieldKey": "requests_number", "fieldType": "integer"}]
    serials = [time // MILLISECOND % 1000 + time % MILLISECOND * 1000 for time in times_of(points)]
    assert serials == [*range(serials[0], serials[0] + len(points))]


def test_the_influx_command_shows_the_row(server, influx):
    web = server("--influx", influx.dsn())
    make_requests(web, 4)
    assert web.stop() == 0
    (point,) = influx.points()
    lines = [line.split() for line in influx.influx("SELECT * FROM requests").splitlines()]
    assert lines == [
        ["name:", "requests"],
        ["time", "request", "requests_number"],
        ["----", "-------", "---------------"],
        [str(point["time"]), "GETs_per_minute", "4"],
    ]


def test_an_interval_without_a_request_writes_0(server, influx):
    server("--interval", "0.2", "--influx", influx.dsn())
    wait_until(lambda: len(influx.points()) >= 3)
    assert {point["requests_number"] for point in influx.points()} == {0}


def test_every_kind_of_request_counts_and_what_is_no_request_does_not(server, influx):
    web = server("--influx", influx.dsn())
    assert web.get().status == 200
    assert web.request("HEAD", "/").status == 200
    assert web.request("POST", "/", "{}", {"Content-Type": "application/json"}).status == 200
    assert web.request("POST", "/", "{}").status == 400
    assert web.request("DELETE", "/").status == 405
    assert web.raw(b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    web.connect().close()
    assert web.stop() == 0
    assert influx.total() == 5


def test_tags_keep_two_servers_in_one_database_apart(server, influx):
    odd = "a, b=c d"
    web_1 = server("--tag", "server=1", "--tag", f"place={odd}", "--influx", influx.dsn())
    web_2 = server("--tag", "server=2", "--influx", influx.dsn())
    make_requests(web_1, 1)
    make_requests(web_2, 2)
    assert web_1.stop() == web_2.stop() == 0
    found = {(point["server"], point["place"]): point["requests_number"] for point in influx.points()}
    assert found == {("1", odd): 1, ("2", None): 2}
    assert {point["request"] for point in influx.points()} == {"GETs_per_minute"}


# --- who may write


def test_with_the_right_password_points_arrive(server, influxd):
    influx = influxd(auth=True)
    web = server("--influx", influx.dsn())
    make_requests(web, 2)
    assert web.stop() == 0
    assert influx.total() == 2
    assert not warnings_of(web)


def test_a_password_with_odd_characters_and_one_from_the_environment_work(server, influxd):
    influx = influxd(auth=True)
    influx.query("CREATE USER odd WITH PASSWORD 'p@:/ä%'")
    influx.query("GRANT WRITE ON math_server TO odd")
    dsn = influx.dsn(login=("odd", "p%40%3A%2F%C3%A4%25"))
    web = server(env={"WEBSERVER_INFLUX_DSN": dsn})
    make_requests(web, 2)
    assert web.stop() == 0
    assert influx.total() == 2
    assert not warnings_of(web)


def test_a_wrong_password_is_one_line_that_says_what_to_do_and_never_the_password(server, influxd):
    influx = influxd(auth=True)
    web = server("--interval", "0.2", "--verbose", "--influx", influx.dsn(login=("math_server", "Tr0ub4dor")))
    wait_until(lambda: len(waiting(web.state)) >= 4)
    make_requests(web, 2)
    influx.query("SET PASSWORD FOR math_server = 'Tr0ub4dor'")
    wait_until(lambda: influx.total() == 2)
    wait_until(lambda: WELL in web.stderr_text())
    assert web.stop() == 0
    line = the_warning(web)
    assert "401" in line
    assert "math_server" in line
    assert "--influx" in line
    assert "Tr0ub4dor" not in web.stdout_text() + web.stderr_text()
    assert web.stderr_text().count(WELL) == 1


def test_a_user_without_a_grant_is_one_line_with_the_grant_that_helps(server, influxd):
    influx = influxd(auth=True)
    influx.query("REVOKE ALL ON math_server FROM math_server")
    web = server("--interval", "0.2", "--influx", influx.dsn())
    make_requests(web, 2)
    wait_until(lambda: len(waiting(web.state)) >= 3)
    line = the_warning(web)
    assert "403" in line
    grant = re.search('GRANT ALL ON "math_server" TO "math_server"', line)[0]
    influx.query(grant)
    wait_until(lambda: influx.total() == 2)


def test_a_missing_database_that_the_user_may_not_create_stops_nothing(server, influxd):
    influx = influxd(auth=True)
    influx.query("DROP DATABASE math_server")
    web = server("--interval", "0.2", "--influx", influx.dsn())
    make_requests(web, 2)
    wait_until(lambda: len(waiting(web.state)) >= 3)
    line = the_warning(web)
    influx.query(re.search('CREATE DATABASE "math_server"', line)[0])
    influx.query("GRANT ALL ON math_server TO math_server")
    wait_until(lambda: influx.total() == 2)
    wait_until(lambda: WELL in web.stderr_text())


def test_a_database_that_is_dropped_is_made_again(server, influx):
    web = server("--interval", "0.2", "--influx", influx.dsn())
    wait_until(influx.points)
    influx.query("DROP DATABASE math_server")
    make_requests(web, 2)
    wait_until(lambda: influx.total() == 2)


# --- behind a reverse proxy


@pytest.fixture
def nginx(guard, tmp_path):
    """nginx(port) -> Nginx in front of what is at this port."""
    with contextlib.ExitStack() as at_end:

        def make(port: int) -> Nginx:
            daemon = Nginx(guard, new_folder(tmp_path, "nginx"), port)
            at_end.callback(daemon.close)
            return daemon.start()

        yield make


@pytest.mark.parametrize("auth", [False, True], ids=["without a password", "with one"])
def test_an_influxdb_behind_nginx_is_reached_by_a_path_before_the_database(server, influxd, nginx, auth):
    influx = influxd(auth=auth)
    dsn = f"influxdb://math_server:math_server1@127.0.0.1:{nginx(influx.port).port}/influxdb/math_server"
    web = server("--influx", dsn)
    make_requests(web, 2)
    assert web.stop() == 0
    assert influx.total() == 2
    assert not warnings_of(web)


def test_a_wrong_path_is_told_with_what_the_proxy_answers(server, influx, nginx):
    port = nginx(influx.port).port
    web = server("--interval", "0.2", "--influx", f"influxdb://127.0.0.1:{port}/influx/math_server")
    wait_until(lambda: warnings_of(web))
    line = the_warning(web)
    assert line.startswith(f"InfluxDB at 127.0.0.1:{port}/influx answers 404 Not Found: 404 Not Found; points wait in")


# --- influxd away, frozen, back


def test_an_influxd_that_starts_later_gets_every_point_with_its_own_time(server, influxd):
    influx = influxd(start=False)
    web = server("--interval", "0.2", "--influx", influx.dsn())
    for _ in range(3):
        make_requests(web, 2)
        number = len(waiting(web.state))
        wait_until(lambda number=number: len(waiting(web.state)) > number)
    waited = waiting(web.state)
    line = the_warning(web)
    assert "start influxd" in line
    influx.start()
    wait_until(lambda: influx.total() == 6)
    wait_until(lambda: WELL in web.stderr_text())
    stored = [(point["time"], point["requests_number"]) for point in influx.points()]
    assert stored[: len(waited)] == waited
    assert web.stderr_text().count(WELL) == 1
    the_warning(web)


def test_points_that_waited_arrive_after_a_restart_of_the_server_too(server, influxd):
    influx = influxd(start=False)
    web = server("--influx", influx.dsn())
    make_requests(web, 3)
    assert web.stop() == 0
    assert [number for _, number in waiting(web.state)] == [3]
    (waited,) = waiting(web.state)
    influx.start()
    web.start()
    wait_until(lambda: influx.total() == 3)
    assert waited == (influx.points()[0]["time"], 3)


def test_a_restart_of_influxd_in_mid_run_loses_nothing(server, influx):
    web = server("--interval", "0.2", "--influx", influx.dsn())
    make_requests(web, 2)
    wait_until(lambda: influx.total() == 2)
    influx.stop()
    make_requests(web, 3)
    wait_until(lambda: len(waiting(web.state)) >= 3)
    influx.start()
    wait_until(lambda: influx.total() == 5)
    wait_until(lambda: WELL in web.stderr_text())
    lines = warnings_of(web)
    assert sum("cannot be reached" in line for line in lines) == 1
    assert len(lines) <= 3  # as an influxd that ends or begins may first answer with an error of its own
    assert web.stderr_text().count(WELL) == 1


@posix
def test_a_frozen_influxd_holds_up_neither_requests_nor_points_nor_the_end(server, influx):
    """Two servers, so that two time-outs take the time of one: one goes on, the other is stopped."""
    web = server("--interval", "0.5", "--tag", "server=1", "--influx", influx.dsn())
    ending = server("--tag", "server=2", "--influx", influx.dsn())
    make_requests(ending, 3)
    wait_until(influx.points)
    influx.freeze()
    make_requests(web, 7)
    wait_until(lambda: sum(number for _, number in waiting(web.state)) == 7)
    started = time.monotonic()
    assert ending.stop() == 0
    assert time.monotonic() - started < 9, "it has to stay below the 10 s that Docker waits"
    (point,) = waiting(ending.state)
    assert point[1] == 3
    wait_until(lambda: warnings_of(web))
    assert "does not answer" in warnings_of(web)[0]
    influx.thaw()
    ending.start()
    wait_until(lambda: influx.total() == 10)
    assert point in [(each["time"], each["requests_number"]) for each in influx.points()]
    wait_until(lambda: WELL in web.stderr_text())
    the_warning(web)


def test_sigterm_delivers_the_last_part_of_an_interval_within_5_s(server, influx):
    web = server("--interval", "60", "--influx", influx.dsn())
    make_requests(web, 6)
    started = time.monotonic()
    assert web.stop() == 0
    assert time.monotonic() - started < 5
    assert influx.total() == 6
    assert waiting(web.state) == []
    assert re.search("6 requests in .*delivered to InfluxDB", web.stderr_text())


@posix
def test_ctrl_c_is_as_good_as_sigterm(server, influx):
    web = server("--interval", "60", "--influx", influx.dsn())
    make_requests(web, 6)
    assert web.stop(signal.SIGINT) == 0
    assert influx.total() == 6


@posix
def test_a_second_ctrl_c_ends_the_server_at_once_and_the_count_is_kept(server, influx):
    web = server("--interval", "60", "--influx", influx.dsn())
    make_requests(web, 6)
    time.sleep(0.5)  # the client is made
    influx.freeze()
    web.process.send_signal(signal.SIGINT)
    wait_until(lambda: waiting(web.state))
    time.sleep(1.5 * REPEAT_SECONDS)
    started = time.monotonic()
    assert web.stop(signal.SIGINT) == 130
    assert time.monotonic() - started < 2
    influx.thaw()
    web.start()
    wait_until(lambda: influx.total() == 6)


def test_a_write_whose_reply_was_lost_is_repeated_and_counts_once(server, influx):
    influx.query("CREATE DATABASE math_server")
    with Proxy(influx.port, lambda line: Fate.DROP if "/write" in line else Fate.PASS) as proxy:
        web = server("--interval", "0.2", "--influx", influx.dsn(proxy.port))
        make_requests(web, 5)
        wait_until(lambda: influx.total() == 5 and proxy.counts[Fate.DROP] >= 4)
        assert sum(number for _, number in waiting(web.state)) == 5
        proxy.switch(Fate.PASS)
        wait_until(lambda: not waiting(web.state))
        assert web.stop() == 0
    assert influx.total() == 5
    assert len(set(times_of(influx.points()))) == len(influx.points())


def test_a_proxy_in_the_environment_does_not_divert_loopback(server, influx, closed_port):
    proxy = f"http://127.0.0.1:{closed_port}"
    env = dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"), proxy)
    web = server("--influx", influx.dsn(), env={**env, "NO_PROXY": "", "no_proxy": ""})
    make_requests(web, 2)
    assert web.stop() == 0
    assert influx.total() == 2


def test_the_default_host_name_reaches_influxd(server, influx):
    """localhost may be ::1 first, where influxd does not listen."""
    web = server("--influx", f"influxdb://localhost:{influx.port}")
    make_requests(web, 2)
    assert web.stop() == 0
    assert influx.total() == 2


def test_what_is_no_influxdb_is_one_line_and_points_wait(server):
    other = server()
    web = server("--interval", "0.2", "--influx", f"influxdb://127.0.0.1:{other.port}")
    make_requests(web, 2)
    wait_until(lambda: sum(number for _, number in waiting(web.state)) == 2 and len(waiting(web.state)) >= 3)
    the_warning(web)
    assert rejected(web.state) == []


@pytest.mark.parametrize("content", ['{"error": "a shard is ill"}', "a shard\n is ill"])
def test_an_error_of_influxdb_itself_is_one_line_in_its_own_words(server, content):
    class Ill(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_response(503)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Ill) as ill:
        threading.Thread(target=ill.serve_forever, args=(0.01,), daemon=True).start()
        web = server("--interval", "0.2", "--influx", f"influxdb://127.0.0.1:{ill.server_port}")
        make_requests(web, 2)
        wait_until(lambda: len(waiting(web.state)) >= 3)
        line = the_warning(web)
        assert f"127.0.0.1:{ill.server_port} answers 503 Service Unavailable: a shard is ill; points wait in" in line
        assert web.stop() == 0
        ill.shutdown()


def test_without_the_influxdb_package_the_server_serves_on_and_says_what_to_install(server, tmp_path):
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    (shadow / "influxdb.py").write_text("raise ModuleNotFoundError(\"No module named 'influxdb'\")\n")
    web = server("--interval", "0.2", env={"PYTHONPATH": str(shadow)})
    make_requests(web, 2)
    wait_until(lambda: len(waiting(web.state)) >= 3)
    line = the_warning(web)
    assert line.startswith(
        "the package influxdb is missing; start the server with .venv/bin/python, as README.md does; "
    )
    assert web.stop() == 0
    assert sum(number for _, number in waiting(web.state)) == 2


BROKEN_PACKAGES = {
    "import half-way": ("from json import no_such_name", "ImportError"),
    "exit at import": ("import sys; sys.exit(3)", "SystemExit(3)"),
    "no client": ("", "cannot import name 'InfluxDBClient'"),
    "a client that cannot be made": (
        "class InfluxDBClient:\n  def __init__(self, **_): raise MemoryError",
        "MemoryError()",
    ),
    "a client that exits": (
        "class InfluxDBClient:\n"
        "  def __init__(self, **_): pass\n"
        "  def __enter__(self): raise SystemExit(4)\n"
        "  def __exit__(self, *_): pass",
        "SystemExit(4)",
    ),
}


def test_a_broken_influxdb_package_ends_neither_the_server_nor_its_reports(server, tmp_path):
    webs = []
    for number, (source, _) in enumerate(BROKEN_PACKAGES.values()):
        shadow = tmp_path / f"shadow-{number}"
        shadow.mkdir()
        (shadow / "influxdb.py").write_text(source)
        webs.append(server("--interval", "0.2", env={"PYTHONPATH": str(shadow)}))
    for web, (_, reason) in zip(webs, BROKEN_PACKAGES.values()):
        wait_until(lambda web=web: len(waiting(web.state)) >= 3)
        line = the_warning(web)
        assert reason in line
        assert "is missing" not in line
        assert web.stop() == 0


# --- faults that pass


def make_points_wait(web: Server, *numbers: int) -> None:
    """A point of each number of requests, the last a minute ago."""
    first = time.time_ns() - len(numbers) * 60 * SECOND
    add_waiting(web.state, [(first + at * 60 * SECOND, number) for at, number in enumerate(numbers)])


def test_a_full_disk_of_influxdb_is_waited_for(server, influxd):
    """Which it reports as 400 "partial write", as what can never be stored; and the rest of such a batch is lost."""
    influx = influxd(start=False)
    data = influx.folder / "influxdb-data" / "data"
    with small_disk(data, "2m"):
        influx.start()
        now = time.time_ns()
        influx.query("CREATE DATABASE math_server")
        assert influx.write(f"requests,request=first requests_number=1i {now - 600 * SECOND}")[0] == 204
        with (data / "fill").open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        long = "x" * 5000  # so that the series takes a page of the disk
        web = server("--interval", "0.3", "--tag", f"long={long}", "--influx", influx.dsn())
        make_requests(web, 3)
        wait_until(lambda: len(waiting(web.state)) >= 3)
        line = the_warning(web)
        assert re.search("400 Bad Request: partial write: .*no space left on device dropped=[1-9]", line)
        assert rejected(web.state) == []
        (data / "fill").unlink()
        influx.restart()  # it does not try that disk again before
        wait_until(lambda: sum(point["requests_number"] for point in influx.points() if point.get("long") == long) == 3)
        wait_until(lambda: WELL in web.stderr_text())
        assert web.stop() == 0
        assert influx.stop() == 0
    assert waiting(web.state) == rejected(web.state) == []


def test_a_limit_of_series_is_waited_for(server, influxd):
    influx = influxd(start=False)
    influx.start_configured("data", "max-series-per-database = 1")
    influx.query("CREATE DATABASE math_server")
    assert influx.write("requests,request=other requests_number=1i")[0] == 204
    web = server("--interval", "0.3", "--influx", influx.dsn())
    make_requests(web, 3)
    wait_until(lambda: len(waiting(web.state)) >= 3)
    line = the_warning(web)
    assert "max-series-per-database limit exceeded" in line
    influx.start_configured("data", "max-series-per-database = 1")  # without
    wait_until(lambda: influx.total() == 4)
    assert rejected(web.state) == []


def test_a_fault_that_passes_leaves_a_point_beyond_retention_waiting_with_the_others(stopped, influx):
    """What is wrong with one point is found out when there is nothing else in the way."""
    influx.query("ALTER RETENTION POLICY autogen ON math_server DURATION 2h SHARD DURATION 1h")
    add_waiting(stopped.state, [(time.time_ns() - 20 * DAY, 21)])
    make_points_wait(stopped, 22, 23)
    influx.query("DROP MEASUREMENT requests")
    influx.start_configured("data", "max-series-per-database = 1")
    assert influx.write("requests,request=other requests_number=0i")[0] == 204
    stopped.start()
    wait_until(lambda: any("max-series-per-database" in line for line in warnings_of(stopped)))
    assert [number for _, number in waiting(stopped.state)][:3] == [21, 22, 23]
    influx.start_configured("data", "max-series-per-database = 1")  # without
    wait_until(lambda: influx.total() == 45)
    wait_until(lambda: not waiting(stopped.state))
    assert [number for _, number, _ in rejected(stopped.state)] == [21]


def test_a_retention_policy_that_is_missing_is_told_in_influxdbs_words_and_waited_for(server, influx):
    influx.query("CREATE DATABASE math_server")
    influx.query("DROP RETENTION POLICY autogen ON math_server")
    web = server("--interval", "0.3", "--influx", influx.dsn())
    make_requests(web, 3)
    wait_until(lambda: len(waiting(web.state)) >= 3)
    line = the_warning(web)
    assert "answers 500 Internal Server Error: retention policy not found: autogen; points wait in" in line
    influx.query("CREATE RETENTION POLICY autogen ON math_server DURATION INF REPLICATION 1 DEFAULT")
    wait_until(lambda: influx.total() == 3)


def test_influxdb_is_tried_again_soon_and_not_an_interval_later(server, influxd):
    influx = influxd(start=False)
    web = server("--interval", "3600", "--influx", influx.dsn())
    make_requests(web, 3)
    assert web.stop() == 0
    web.start()
    wait_until(lambda: len(warnings_of(web)) == 2)
    influx.start()
    wait_until(lambda: influx.total() == 3)
    wait_until(lambda: WELL in web.stderr_text())
    assert len(warnings_of(web)) == 2


# --- what InfluxDB rejects


@pytest.fixture
def stopped(server, influx):
    """A server that has run and is stopped, its database made; what waits is put into its state file."""
    web = server("--interval", "0.3", "--influx", influx.dsn())
    wait_until(influx.points)
    assert web.stop() == 0
    return web


def test_a_field_type_conflict_is_set_aside_and_does_not_block_those_behind(stopped, influx):
    old = time.time_ns() - 60 * DAY
    status, text = influx.write(f"requests,request=GETs_per_minute requests_number=1.5 {old}")
    assert status == 204, text
    add_waiting(stopped.state, [(old + 1, 11), (old + 2, 12), (old + 30 * DAY, 13)])
    stopped.start()
    make_requests(stopped, 2)
    wait_until(lambda: not waiting(stopped.state) and 2 in [point["requests_number"] for point in influx.points()])
    assert [(when, number) for when, number, _ in rejected(stopped.state)] == [(old + 1, 11), (old + 2, 12)]
    assert all("field type conflict" in reason for *_, reason in rejected(stopped.state))
    assert (old + 30 * DAY, 13) in [(point["time"], point["requests_number"]) for point in influx.points()]
    assert stopped.stop() == 0
    assert len(warnings_of(stopped)) == 1
    assert "field type conflict" in warnings_of(stopped)[0]


def test_points_beyond_retention_are_set_aside_and_do_not_block_those_behind(stopped, influx):
    influx.query("ALTER RETENTION POLICY autogen ON math_server DURATION 2h SHARD DURATION 1h")
    now = time.time_ns()
    add_waiting(stopped.state, [(now - 20 * DAY, 21), (now - 10 * DAY, 22), (now - 60 * SECOND, 23)])
    stopped.start()
    wait_until(lambda: 23 in [point["requests_number"] for point in influx.points()])
    wait_until(lambda: not waiting(stopped.state))
    assert [number for _, number, _ in rejected(stopped.state)] == [21, 22]
    assert all("retention" in reason for *_, reason in rejected(stopped.state))
    assert stopped.stop() == 0
    assert len(warnings_of(stopped)) == 1


def test_a_point_that_cannot_be_parsed_is_set_aside_and_no_other(stopped, influx):
    """InfluxDB says "dropped=0" of a batch that holds one."""
    last = 2**63 - 1  # which is beyond its times, and so is not parsed
    add_waiting(stopped.state, [(last, 33)])
    make_points_wait(stopped, 31, 32)
    stopped.start()
    wait_until(lambda: influx.total() == 63)
    wait_until(lambda: not waiting(stopped.state))
    assert stopped.stop() == 0
    assert [(when, number) for when, number, _ in rejected(stopped.state)] == [(last, 33)]
    line = the_warning(stopped)
    assert "unable to parse" in line


def test_what_was_rejected_is_offered_again_at_each_start(stopped, influx):
    """It is rejected again; or taken, when the cause has been mended, under the tags of today."""

    def times_rejected() -> int:
        return sum("rejects points" in warning for warning in warnings_of(stopped))

    old = time.time_ns() - 60 * DAY
    assert influx.write(f"requests,request=GETs_per_minute requests_number=1.5 {old}")[0] == 204
    add_waiting(stopped.state, [(old + 1, 11), (old + 2, 12)])
    for _ in range(2):
        stopped.start()
        wait_until(lambda: not waiting(stopped.state) and len(rejected(stopped.state)) == 2)
        assert stopped.stop() == 0
    assert times_rejected() == 2
    influx.query("DROP MEASUREMENT requests")
    stopped.start()
    wait_until(lambda: influx.total() == 23)
    wait_until(lambda: not waiting(stopped.state))
    assert stopped.stop() == 0
    assert rejected(stopped.state) == []
    assert times_rejected() == 2


def test_a_batch_that_is_too_large_is_split(server, influxd):
    influx = influxd(start=False)
    web = server("--influx", influx.dsn())
    assert web.stop() == 0
    old = time.time_ns() - DAY
    add_waiting(web.state, [(old + step, step) for step in range(1, 501)])
    influx.start_configured("http", "max-body-size = 2000")
    web.start()
    wait_until(lambda: not waiting(web.state))
    assert web.stop() == 0
    assert influx.total() == sum(range(1, 501))
    assert rejected(web.state) == []


# --- much that waits

YEAR = 365 * 24 * 60


def make_a_year_wait(web: Server) -> None:
    """A point of 1 request for each minute of the past year."""
    assert not web.running
    first = time.time_ns() - (YEAR + 5) * 60 * SECOND
    statement = """
        WITH RECURSIVE minutes(minute) AS (SELECT 0 UNION ALL SELECT minute + 1 FROM minutes WHERE minute + 1 < ?)
        INSERT INTO requests SELECT ? + minute * 60000000000, 1, serial + 1 + minute FROM minutes, state
    """
    with contextlib.closing(sqlite3.connect(web.state)) as database, database:
        database.execute(statement, (YEAR, first))
        database.execute("UPDATE state SET serial = serial + ?", (YEAR,))


@pytest.mark.unmeasured
def test_a_backlog_of_a_year_drains_and_holds_up_neither_requests_nor_points(server, influx):
    web = server("--interval", "1", "--influx", influx.dsn())
    wait_until(influx.points)
    assert web.stop() == 0
    make_a_year_wait(web)
    before = len(warnings_of(web))
    started = time.monotonic()
    web.start()
    slowest = answered = 0

    def is_drained() -> bool:
        nonlocal slowest, answered
        asked = time.monotonic()
        make_requests(web, 1)
        slowest, answered = max(slowest, time.monotonic() - asked), answered + 1
        return ask(web.state, "SELECT min(time) FROM requests")[0][0] is None

    wait_until(is_drained, timeout=110, what="a year's points to be delivered")
    seconds = time.monotonic() - started
    print(f"{YEAR} points in {seconds:.1f} s; {answered} requests, the slowest in {slowest:.3f} s")
    lines = len(re.findall(" requests? in ", web.stderr_text()))
    assert lines >= seconds * 0.5, "each interval has its point and its line"
    assert web.stop() == 0
    assert len(warnings_of(web)) == before
    assert influx.query("SELECT count(requests_number) FROM requests")[0]["count"] >= YEAR
    assert influx.query("SELECT sum(requests_number) FROM requests")[0]["sum"] == YEAR + answered
    assert counted(web.state) == answered
    assert slowest < 2


def test_the_errors_of_influxd_that_these_tests_rely_on_are_errors(influx):
    with pytest.raises(InfluxError, match="database not found"):
        influx.query("SELECT * FROM requests")
    status, text = influx.write("requests requests_number=1i")
    assert status == 404
    assert "database not found" in json.loads(text)["error"]
