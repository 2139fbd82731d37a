"""No request that was answered goes uncounted, and none is counted twice: kills, outages, a million requests.

The books: requests counted (counter file) = those in InfluxDB's points + those in points that wait (state file).
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Callable

import pytest
from books import MILLISECOND, cells, counted, rejected, waiting
from daemons import PATIENCE_S, PROJECT, Server, is_running, received, wait_until
from needs import installed
from proxy import Fate, Proxy

pytestmark = pytest.mark.skipif(os.name != "posix", reason="Windows has no kill -9 and no SIGSTOP")

REQUEST = b"GET /?a=1 HTTP/1.1\r\nHost: test\r\n\r\n"
REPLY_END = b"\r\n\r\nSum: 1.0"


def undelivered(web: Server) -> int:
    """Requests in the points that InfluxDB has not taken, of which it rejects none."""
    assert not rejected(web.state)
    return sum(number for _, number in waiting(web.state))


# --- the chaos run


class Client(threading.Thread):
    """Sends one request after the other, whatever happens, and counts what it sent and the replies it got in full."""

    def __init__(self, web: Server, run: threading.Event, end: threading.Event) -> None:
        super().__init__()
        self.web, self.may_run, self.end = web, run, end
        self.sent = self.received = 0
        self.quiet = threading.Event()  # set while it waits for leave to run

    def run(self) -> None:
        while not self.end.is_set():
            if self.may_run.is_set():
                with contextlib.suppress(OSError), self.web.connect(5) as connection:
                    self.use(connection)
                self.end.wait(0.02)
            else:
                self.quiet.set()
                self.may_run.wait(0.05)

    def use(self, connection: socket.socket) -> None:
        while self.may_run.is_set() and not self.end.is_set():
            self.quiet.clear()
            self.sent += 1
            connection.sendall(REQUEST)
            reply = b""
            while not reply.endswith(REPLY_END):
                data = connection.recv(4096)
                if not data:
                    return
                reply += data
            self.received += 1
            time.sleep(0.002)  # leaves the CPU to what is tested


class Clients:
    """Several clients of one server."""

    def __init__(self, web: Server, number: int = 3) -> None:
        self.may_run, self.end = threading.Event(), threading.Event()
        self.may_run.set()
        self.all = [Client(web, self.may_run, self.end) for _ in range(number)]
        for client in self.all:
            client.start()

    def pause(self) -> None:
        """Returns when no request is on its way."""
        self.may_run.clear()
        for client in self.all:
            client.quiet.clear()  # what it was may be of the pause before
        wait_until(lambda: all(client.quiet.is_set() for client in self.all), what="clients to be quiet")

    def go_on(self) -> None:
        self.may_run.set()

    def close(self) -> None:
        self.end.set()
        for client in self.all:
            client.join()

    def sums(self) -> tuple[int, int]:
        """Requests sent, replies received in full."""
        return sum(client.sent for client in self.all), sum(client.received for client in self.all)


def kill_and_start(web: Server, clients: Clients, rng: random.Random, times: int, quietly: bool) -> None:
    for _ in range(times):
        time.sleep(rng.uniform(0.1, 1.2))
        if quietly:
            clients.pause()
        web.kill()
        web.start()
        clients.go_on()


def trouble_influxd(influx, rng: random.Random, end: threading.Event) -> None:
    """Kill, freeze and restart it; one round of these at least, and it is well at the end."""
    troubles = ["kill", "freeze", "restart"]
    while troubles or not end.is_set():
        troubles = troubles or ["kill", "freeze", "restart"]
        end.wait(rng.uniform(0.3, 2))
        trouble = troubles.pop(rng.randrange(len(troubles)))
        if trouble == "freeze":
            influx.freeze()
            end.wait(rng.choice([0.5, 1, 6.5]))  # the server's patience ends after 5 s
            influx.thaw()
        elif trouble == "kill":
            influx.kill()
            end.wait(rng.uniform(0, 1.5))
            influx.start()
        else:
            influx.restart()


class Failing(threading.Thread):
    """A thread that does something; joining it raises what it raised."""

    def __init__(self, function, *arguments) -> None:
        super().__init__()
        self.function, self.arguments, self.error = function, arguments, None
        self.start()

    def run(self) -> None:
        try:
            self.function(*self.arguments)
        except BaseException as error:  # raised again in the test's own thread
            self.error = error

    def result(self) -> None:
        self.join()
        if self.error:
            raise self.error


@pytest.mark.unmeasured
def test_the_books_balance_after_chaos(server, influxd):
    """Two servers write through a bad network to an InfluxDB in trouble. One is killed at any moment, so that replies
    are lost; the other while its clients are quiet, so that the numbers must be equal to the unit."""
    seed = 20
    influx = influxd()
    fates = random.Random(seed)

    def fate(request_line: str) -> Fate:
        if "/write" not in request_line:
            return Fate.PASS
        return fates.choices([Fate.PASS, Fate.CUT, Fate.DROP, Fate.REFUSE], [6, 1, 2, 1])[0]

    with Proxy(influx.port, fate) as proxy, contextlib.ExitStack() as at_end:
        dsn = influx.dsn(proxy.port)
        webs = {name: server("--interval", "0.5", "--tag", f"server={name}", "--influx", dsn) for name in "AB"}
        clients = {name: at_end.enter_context(contextlib.closing(Clients(web))) for name, web in webs.items()}
        over = threading.Event()
        killers = [
            Failing(kill_and_start, webs[name], clients[name], random.Random(seed + ord(name)), 12, name == "B")
            for name in "AB"
        ]
        troubler = Failing(trouble_influxd, influx, random.Random(seed), over)
        for killer in killers:
            killer.join()
        over.set()
        for thread in (*killers, troubler):
            thread.result()
        for one in clients.values():
            one.close()
        assert proxy.counts[Fate.CUT]
        assert proxy.counts[Fate.DROP]
        proxy.switch(Fate.PASS)
        for web in webs.values():
            wait_until(lambda web=web: undelivered(web) == 0, what="the points that wait to be delivered")
            assert web.stop() == 0
    rows = influx.query("SELECT * FROM requests")
    for name, web in webs.items():
        sent, received = clients[name].sums()
        total = counted(web.state)
        stored = sum(row["requests_number"] for row in rows if row["server"] == name)
        print(f"{name}: sent {sent}, counted {total}, stored {stored}, waiting {undelivered(web)}, received {received}")
        assert received <= total <= sent
        assert stored + undelivered(web) == total
        if name == "B":
            assert sent == received == total
    assert clients["A"].sums()[1] > 100
    assert clients["B"].sums()[1] > 100


# --- a million requests

DEPTH = 125  # requests in one send


def pipeline(web: Server, connections: int, requests: int) -> None:
    """Send so many requests in all, DEPTH at a time on each connection, and check that each has its reply."""
    batch = REQUEST * DEPTH
    to_send = requests // connections // DEPTH
    assert to_send * connections * DEPTH == requests
    left = {web.connect(): to_send for _ in range(connections)}
    buffers = {connection: bytearray() for connection in left}
    length = len(web.raw(REQUEST, until=REPLY_END)) * DEPTH
    with selectors.DefaultSelector() as selector:
        for connection in left:
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(batch)
        while left:
            for key, _ in selector.select(PATIENCE_S):
                connection = key.fileobj
                buffers[connection] += connection.recv(65536)
                if len(buffers[connection]) < length:
                    continue
                assert buffers[connection].count(REPLY_END) == DEPTH
                buffers[connection].clear()
                left[connection] -= 1
                if left[connection]:
                    connection.sendall(batch)
                else:
                    del left[connection]
                    selector.unregister(connection)
                    connection.close()


@pytest.mark.unmeasured
def test_a_million_requests_over_64_connections_are_counted_to_the_unit(server, influxd):
    influx = influxd()
    web = server("--interval", "1", "--influx", influx.dsn())
    requests = 1_000_000
    pipeline(web, 64, requests)
    assert counted(web.state) == requests + 1  # one was to see how long a reply is
    assert web.stop() == 0
    assert influx.total() + undelivered(web) == requests + 1
    assert influx.total() == requests + 1
    assert len({point["time"] for point in influx.points()}) == len(influx.points())


def blast(connection: socket.socket) -> None:
    """Send requests and take in replies until the server ends the connection."""
    replies = threading.Thread(target=drain, args=(connection,))
    replies.start()
    with contextlib.suppress(OSError):
        while True:
            connection.sendall(REQUEST * 1000)
    replies.join()


def drain(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(65536):
            pass


def test_a_stop_under_full_load_is_in_good_order_and_the_books_balance(server, influxd):
    influx = influxd()
    web = server("--interval", "1", "--influx", influx.dsn())
    connections = [web.connect() for _ in range(8)]
    threads = [threading.Thread(target=blast, args=(connection,)) for connection in connections]
    for thread in threads:
        thread.start()
    wait_until(lambda: counted(web.state) > 20_000)
    assert web.stop() == 0
    for connection, thread in zip(connections, threads):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)
        thread.join()
        connection.close()
    assert influx.total() + undelivered(web) <= counted(web.state)
    web.start()  # what was counted after the last point, on connections that were cut, comes now
    assert web.stop() == 0
    assert influx.total() + undelivered(web) == counted(web.state)


# --- clocks


def shifted_clock(folder: Path) -> tuple[dict[str, str], Callable[[int], None]]:
    """The environment of a server whose clock is shifted by as many seconds as the function says, anew at each call."""

    def preloaded() -> list[str]:  # it fails if a process of the same number left its semaphore
        command = [installed("faketime"), "-f", "+0", "env"]
        listed = subprocess.run(command, capture_output=True, text=True, check=False).stdout
        return re.findall("^LD_PRELOAD=(.*)$", listed, re.MULTILINE)

    (preload,) = wait_until(preloaded)
    file = folder / "clock"

    def shift(seconds: int) -> None:
        new = file.with_name("new clock")
        new.write_text(f"{seconds:+d}\n")
        new.replace(file)

    shift(0)
    environment = {
        "LD_PRELOAD": preload.replace("libfaketime.so", "libfaketimeMT.so"),
        "FAKETIME_TIMESTAMP_FILE": str(file),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    return environment, shift


@pytest.mark.unmeasured
@pytest.mark.parametrize("database", ["influxd", "victoria_metrics"])
def test_the_books_balance_and_times_are_true_however_the_clock_is_set(server, tmp_path, request, database):
    """It goes ahead and back in a running server, and back again while the server is killed."""
    environment, shift = shifted_clock(tmp_path)
    influx = request.getfixturevalue(database)()
    web = server("--interval", "0.3", "--influx", influx.dsn(), env=environment)

    def times() -> set[int]:
        return {point["time"] for point in influx.points()}

    def is_recorded(seconds: int, before: set[int]) -> bool:
        """Whether another point has come that shows this shift."""
        get_many(web, 1)
        return any(abs(when / 1e9 - time.time() - seconds) < 5 for when in times() - before)

    for seconds in (3600, 0, 24 * 3600, -3600, 24 * 3600 - 1, -1, 0):
        before = times()
        shift(seconds)
        expected = partial(is_recorded, seconds, before)
        wait_until(expected, what=f"a point at {seconds:+d} s")
    web.freeze()
    shift(-24 * 3600)
    web.kill()
    web.start()
    shift(0)
    get_many(web, 1)
    wait_until(lambda: web.stderr_text().count("went forward by 86400 s") == 2)
    assert web.stop() == 0
    points = influx.points()
    assert len({point["time"] // MILLISECOND for point in points}) == len(points)
    assert sum(point["requests_number"] for point in points) == counted(web.state)
    assert abs(max(point["time"] for point in points) / 1e9 - time.time() - 24 * 3600) < 60
    for line in ("forward by 3600 s", "back by 3600 s", r"\d{5} s behind the time at which the server ran last"):
        assert re.search(line, web.stderr_text())


# --- crash points


@pytest.mark.unmeasured
def test_the_books_balance_when_the_process_is_killed_before_any_line_of_record_and_deliver():
    """Where there may be files in memory, in such: a kill leaves the same there, and nothing waits for a disk."""
    memory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        command = [sys.executable, str(Path(__file__).with_name("crash_driver.py")), folder]
        env = {**os.environ, "PYTHONPATH": str(PROJECT)}
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=100, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    places = [line.split()[1] for line in ended.stdout.splitlines()]
    print(f"{len(places)} kills")
    assert set(places) >= {
        "flush",
        "record",
        "recover",
        "remove",
        "move_to_rejected",
        "requeue_rejected",
        "deliver",
        "send",
        "find_refused",
        "write",
    }


# --- several processes


def get_many(web: Server, number: int) -> int:
    """Make so many connections with one request each, and return how many of them were answered."""
    answered = 0
    for _ in range(number):
        with contextlib.suppress(OSError):
            answered += web.raw(REQUEST, until=REPLY_END).endswith(REPLY_END)
    return answered


def test_each_worker_serves_and_counts_into_the_cell_of_its_number(server):
    web = server("--workers", "2")
    wait_until(lambda: get_many(web, 20) and all(cells(web.state)[:2]), what="both workers to count")
    assert not any(cells(web.state)[2:])


@pytest.mark.parametrize("request_bytes", [REQUEST, REQUEST.replace(b"Host", b"Connection: close\r\nHost")])
def test_64_connections_that_are_opened_at_once_spread_over_two_workers(server, request_bytes):
    """Also when each request has a connection of its own. On a busy machine one worker may get no CPU for a while, so
    it may take another try; each in a second of its own, as what was accepted before counts for as long."""
    web = server("--workers", "2")

    def fewest() -> int:
        before = cells(web.state)[:2]
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(web.connect()) for _ in range(64)]
            for connection in connections:
                connection.sendall(request_bytes)
            for connection in connections:
                assert received(connection, time.monotonic() + PATIENCE_S, REPLY_END).endswith(REPLY_END)
        time.sleep(1.1)
        return min(after - earlier for after, earlier in zip(cells(web.state), before))

    wait_until(lambda: fewest() >= 24, what="each worker to get its share")


def test_a_worker_that_is_killed_is_replaced_and_the_count_stays_exact(server, influxd):
    influx = influxd()
    web = server("--interval", "1", "--workers", "3", "--influx", influx.dsn())
    first, second = web.workers()
    assert get_many(web, 50) == 50
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: len(set(web.workers()) - {first}) == 2)
    assert second in web.workers()
    wait_until(lambda: "another takes its place" in web.stderr_text())
    pipeline(web, 64, 64 * DEPTH)
    assert counted(web.state) == 50 + 64 * DEPTH + 1
    assert web.stop() == 0
    assert influx.total() == 50 + 64 * DEPTH + 1
    assert web.stderr_text().count("another takes its place") == 1


def test_workers_end_with_a_program_that_is_killed_and_a_restart_balances(server, influxd):
    influx = influxd()
    web = server("--interval", "1", "--workers", "2", "--influx", influx.dsn())
    group = web.process.pid
    assert get_many(web, 50) == 50
    web.kill()
    wait_until(lambda: not is_running(group), what="the workers to end")
    web.start()
    assert get_many(web, 30) == 30
    assert web.stop() == 0
    assert counted(web.state) == 80
    assert influx.total() == 80
