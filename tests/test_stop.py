"""The order to stop, whenever it comes: everything that was counted is recorded, and the end is quiet."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sqlite3
import threading
import time

import pytest
from books import counted
from daemons import PATIENCE_S, PROGRAM, free_port, run_python, wait_until
from local import Local
from messages import PROMPT_S, exchange, is_closed, is_readable, message, parsed, post, receive, refusal, texts
from needs import posix

import webserver_influx
from webserver_influx import BODY, HEAD, REPEAT_SECONDS, SEND, SelectorPoll


@posix
def test_a_signal_that_comes_as_soon_as_it_is_caught_is_not_lost():
    told = run_python("""
        import os, signal, webserver_influx

        def install(signum, handler, install=signal.signal):
            install(signum, handler)
            if signum == signal.SIGTERM:
                os.kill(os.getpid(), signum)

        signal.signal = install
        assert webserver_influx.catch_signals().wait(20)
    """)
    assert (told.returncode, told.stderr) == (0, "")


@posix
@pytest.mark.parametrize("moment", ["before it serves", "in a callback of the interpreter"])
def test_sigterm_at_an_odd_moment_ends_the_program_in_good_order(tmp_path, moment):
    """An exception that a signal handler raises in a callback, such as that of a weak reference, is lost."""
    script = """
        import os, signal, sys, weakref, webserver_influx

        class Thing:
            pass

        def announce(*arguments, announce=webserver_influx.announce):
            announce(*arguments)
            thing = Thing()
            if sys.argv[1] == "before it serves":
                os.kill(os.getpid(), signal.SIGTERM)
                return
            reference = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
            del thing

        webserver_influx.announce = announce
        sys.exit(webserver_influx.main(sys.argv[2:]))
    """
    options = ["--bind", "127.0.0.1", "--port", 0, "--state", tmp_path / "state", "--influx", "influxdb://127.0.0.1:9"]
    ended = run_python(script, moment, *options)
    assert "Exception ignored" not in ended.stderr
    assert ended.returncode == 0, ended.stderr


@posix
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_during_the_start_ends_it_as_well(server, state, signum):
    """The start comes to a halt at a lock on the state file, the port being open; there the signal meets it."""
    assert server("--state", state).stop() == 0
    port = free_port()
    web = server("--state", state, "--port", str(port), start=False)
    with contextlib.closing(sqlite3.connect(state, isolation_level=None)) as database:
        database.execute("BEGIN EXCLUSIVE")
        web.launch()
        wait_until(lambda: not socket.create_connection(("127.0.0.1", port), 5).close(), what="the port to open")
        web.process.send_signal(signum)
        database.execute("ROLLBACK")
        assert web.wait() == 0


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_ctrl_c_ends_it_with_0_once_the_last_minute_is_recorded(server, name):
    web = server("--state", ":memory:")
    web.get()
    assert web.stop(getattr(signal, name)) == 0
    assert web.reports()[-1][1] == "1"


@posix
def test_a_second_ctrl_c_does_not_wait_for_requests_in_flight(server):
    web = server()
    with web.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(1024).startswith(b"HTTP/1.1 100 ")
        web.process.send_signal(signal.SIGINT)
        wait_until(web.refuses, what="it to accept no more")
        time.sleep(1.5 * REPEAT_SECONDS)
        assert web.stop(signal.SIGINT) == 130  # it would be 0, had it waited


@posix
def test_signals_that_come_at_once_are_one(server):
    """`timeout` signals its child and the group; wrappers pass on what the terminal has sent already; so do shells."""
    web = server("--state", ":memory:")
    web.get()
    web.process.send_signal(signal.SIGINT)
    assert web.stop(signal.SIGTERM) == 0
    assert web.reports()[-1][1] == "1"


@posix
def test_a_terminal_that_closes_while_it_stops_hastens_nothing(server):
    web = server("--state", ":memory:")
    with web.connect() as client:
        client.sendall(b"GET")
        assert not is_readable(client, 0.1)
        web.process.send_signal(signal.SIGINT)
        wait_until(web.refuses, what="it to accept no more")
        time.sleep(1.5 * REPEAT_SECONDS)
        web.process.send_signal(signal.SIGHUP)
        client.sendall(b" / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert texts(receive(client)) == ["Sum: 0"]
        assert web.wait() == 0
    assert web.reports()[-1][1] == "1"


IN_A_TERMINAL = """
    import os, pty, signal, sys, time

    pause = float(sys.argv[1])  # between two SIGTERMs after the terminal is closed; 0 for none
    pid, terminal = pty.fork()
    if not pid:
        os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
    told = b""
    while told.count(b"\\n") < 4:
        told += os.read(terminal, 4096)
    os.close(terminal)
    ended = 0
    for _ in range(40 if pause else 0):
        time.sleep(pause)
        os.kill(pid, signal.SIGTERM)
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
    if not ended:
        _, status = os.waitpid(pid, 0)
    sys.exit(os.waitstatus_to_exitcode(status) % 256)
"""


@posix
@pytest.mark.parametrize("workers", [1, 2])
def test_a_terminal_that_is_closed_ends_it_in_good_order(state, influxd, tmp_path, monkeypatch, workers):
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    influx = influxd()
    options = ["--state", ":memory:", "--port", 0, "--influx", influx.dsn(), "--workers", workers]
    assert run_python(IN_A_TERMINAL, 0, PROGRAM, *options).returncode == 0
    assert len(influx.points()) == 1
    assert not list(folder.iterdir())


@posix
@pytest.mark.parametrize("pause", [0.005, 0.05])
def test_a_terminal_that_closes_and_then_sigterm_end_it_in_good_order(state, pause):
    """The interpreter's end is as long as that: a signal that came then ended the process itself."""
    options = ["--state", state, "--port", 0, "--influx", "influxdb://127.0.0.1:9"]
    assert run_python(IN_A_TERMINAL, pause, PROGRAM, *options).returncode in (0, 130)  # 130: long after the first


@posix
def test_nohup_lets_it_outlive_the_terminal(server, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import signal\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)")
    web = server("--workers", "2", env={"PYTHONPATH": str(tmp_path)})
    os.killpg(web.process.pid, signal.SIGHUP)
    assert web.get("/?a=1").text == "Sum: 1.0"
    assert len(web.workers()) == 1
    assert web.stop() == 0


# --- requests that are under way


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_quietly(server, signum):
    web = server()
    with web.connect() as idle, web.connect() as silent:
        exchange(idle, message("GET /"), until=b"Sum: 0")
        assert web.stop(signum) == 0
        assert is_closed(idle)
        assert is_closed(silent)


def test_a_signal_that_comes_as_soon_as_it_serves_ends_the_server_quietly(server):
    web = server()
    for _ in range(3):
        assert web.stop() == 0
        web.start()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_requests_in_flight_are_answered_before_the_end(server, signum):
    web = server()
    body = post(b'{"a": 3}')
    with web.connect() as half_a_head, web.connect() as half_a_body, web.connect() as idle:
        exchange(idle, message("GET /"), until=b"Sum: 0")
        for connection, start in ((half_a_head, body[:20]), (half_a_body, body[:-3])):
            connection.sendall(start)
            assert not is_readable(connection, 0.1)
        web.process.send_signal(signum)
        wait_until(web.refuses, PROMPT_S)
        half_a_head.sendall(body[20:])
        half_a_body.sendall(body[-3:])
        for connection in (half_a_head, half_a_body):
            connection.settimeout(PATIENCE_S)
            assert texts(receive(connection)) == ["Sum: 3.0"]
        assert is_closed(idle)
        assert web.wait() == 0


def test_a_client_that_never_ends_does_not_hold_up_the_end(local):
    web = local(GRACE_SECONDS=0.3)
    with web.connect() as connection:
        connection.sendall(post(b'{"a": 3}')[:-1])
        wait_until(lambda: web.counter.total() == 1)
        begin = time.monotonic()
        web.server.stop()
        assert time.monotonic() - begin < PROMPT_S
        assert refusal(receive(connection)).status == 503


def test_pipelined_requests_that_wait_for_their_turn_are_answered_or_told_of_the_end(local):
    """The bytes read so far may end where a request does; the next ones have come, and a reset would lose responses."""
    web = local()
    request = message("GET /?a=1", f"X: {'x' * 28}")
    assert len(request) == 64
    ends = []

    def send(client: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the server reads no more
            client.sendall(request * 8192)

    def read(client: socket.socket) -> None:
        try:
            ends.append(parsed(receive(client))[-1].fields.get("connection"))
        except OSError as error:
            ends.append(repr(error))

    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(web.connect()) for _ in range(8)]
        threads = [threading.Thread(target=work, args=(client,)) for client in clients for work in (send, read)]
        for thread in threads:
            thread.start()
        wait_until(lambda: web.counter.total() > 10_000)
        web.server.stop()
        for thread in threads:
            thread.join()
    assert ends == ["close"] * 8


def test_the_last_reply_of_a_server_that_stops_says_so(local):
    web = local()
    with web.connect() as connection:
        connection.sendall(post(b'{"a": 3}')[:-1])
        wait_until(lambda: web.counter.total() == 1)
        stop = threading.Thread(target=web.server.stop)
        stop.start()
        wait_until(lambda: web.server.stopping)
        connection.sendall(b"}")
        (answer,) = parsed(receive(connection))
        stop.join()
        assert (answer.text, answer.fields.get("connection")) == ("Sum: 3.0", "close")


def test_a_thread_may_see_the_order_to_stop_before_its_alarm(local):
    web = local()
    web.server.grace_end = time.monotonic()
    web.server.stopping = True
    for thread in web.server.threads:
        thread.join(PATIENCE_S)
    web.server.stop()


@pytest.mark.parametrize("workers", ["1", "2"])
def test_connections_that_wait_to_be_accepted_are_served_before_the_end(server, workers):
    web = server("--workers", workers)
    for _ in range(3):
        with contextlib.ExitStack() as stack:
            connections = [stack.enter_context(web.connect()) for _ in range(100)]
            for connection in connections:
                connection.sendall(message("GET /?a=3"))
            assert web.stop() == 0
            assert [texts(receive(connection)) for connection in connections] == [["Sum: 3.0"]] * 100
        web.start()


def test_requests_that_came_are_answered_before_the_end_though_few_are_reported_at_a_time(local, monkeypatch):
    """As epoll reports no more than 1,023."""

    class FewEvents(SelectorPoll):
        def poll(self, timeout: float) -> list[tuple[int, int]]:
            ready = super().poll(timeout)
            if is_held.is_set() and not web.server.stopping:
                time.sleep(0.001)
                return []
            return ready[:2]

    is_held = threading.Event()
    monkeypatch.setattr(webserver_influx, "Poll", FewEvents)
    monkeypatch.setattr(webserver_influx, "WRITE", selectors.EVENT_WRITE)
    web = local()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(web.connect()) for _ in range(10)]
        for client in clients:
            exchange(client, message("GET /"), until=b"Sum: 0")
        is_held.set()
        for client in clients:
            client.sendall(message("GET /?a=3"))
        web.server.stop()
        assert [texts(receive(client)) for client in clients] == [["Sum: 3.0"]] * 10
    assert web.counter.total() == 20


def test_a_request_that_comes_while_responses_wait_for_the_client_is_answered_before_the_end(local):
    web = local()
    with web.connect() as idle, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(PATIENCE_S)
        client.connect(("127.0.0.1", web.port))
        sent = 0
        while SEND not in web.awaited():
            if web.counter.total() == sent:  # so that few requests come after those whose responses wait
                client.sendall(message("GET /?a=1") * 64)
                sent += 64
            time.sleep(0.001)
        client.sendall(message("GET /?a=2"))
        stop = threading.Thread(target=web.server.stop)
        stop.start()
        assert receive(idle) == b""  # so there was a round in which nothing came
        received = receive(client)
        stop.join()
    assert received.count(b"HTTP/1.1 200 OK\r\n") == web.counter.total()
    assert b"\r\nConnection: close\r\n\r\nSum: " in received[-40:]


def half_posted(web: Local, connection: socket.socket) -> None:
    connection.sendall(post(b'{"a": 3}')[:-1])
    wait_until(lambda: web.awaited() == [BODY])


def test_a_client_that_sends_on_though_the_server_stops_can_read_its_reply(local):
    web = local()
    with web.connect() as connection:
        half_posted(web, connection)
        stop = threading.Thread(target=web.server.stop)
        stop.start()
        wait_until(lambda: web.server.stopping)
        connection.sendall(b"}")
        assert is_readable(connection, PATIENCE_S)
        for _ in range(3):
            connection.sendall(message("GET /"))
            time.sleep(0.03)  # for a reset to arrive, if there is one
        assert texts(receive(connection)) == ["Sum: 3.0"]
        stop.join()


@pytest.mark.parametrize("start", [b"POST /", post(b'{"a": 3}')[:-1]])
def test_a_request_that_the_end_of_the_server_cuts_off_is_not_the_clients_fault(local, start):
    web = local(GRACE_SECONDS=0.2)
    with web.connect() as connection:
        connection.sendall(start)
        wait_until(lambda: web.awaited() in ([HEAD], [BODY]))
        web.server.stop()
        assert refusal(receive(connection)).status == 503


def test_a_second_ctrl_c_ends_the_server_at_once(server):
    web = server()
    with web.connect() as connection:
        connection.sendall(post(b'{"a": 3}')[:-1])
        assert not is_readable(connection, 0.1)
        web.process.send_signal(signal.SIGINT)
        wait_until(web.refuses)
        begin = time.monotonic()
        time.sleep(1.5 * REPEAT_SECONDS)
        assert web.stop(signal.SIGINT) == 130
        assert time.monotonic() - begin < webserver_influx.GRACE_SECONDS - 0.5


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_state_file_that_another_program_has_locked_holds_up_the_end_less_than_docker_waits(server, influxd, workers):
    """Docker kills after 10 s. With workers, a client whose request never ends takes its part of that, too."""
    web = server("--workers", workers, "--influx", influxd().dsn())
    with contextlib.closing(sqlite3.connect(web.state, isolation_level=None)) as other, web.connect() as client:
        client.sendall(message("GET /") + post(b'{"a": 3}')[: -1 if workers == "2" else None])
        wait_until(lambda: counted(web.state) == 2)
        other.execute("BEGIN IMMEDIATE")
        begin = time.monotonic()
        assert web.stop() == 0
        assert time.monotonic() - begin < 10
    assert "All is well again" not in web.stderr_text()
    assert web.stderr_text().count("The last point could not be recorded in time\n") == 1
    assert not web.reports()
    web.start()
    assert web.stop() == 0
    assert "The last run ended before it could record 2 requests; recorded now\n" in web.stderr_text()
    assert web.reports()[-1][2] == "delivered to InfluxDB"


def test_the_last_point_is_recorded_when_the_other_program_lets_go_of_the_state_file(server, influxd):
    influx = influxd()
    web = server("--influx", influx.dsn())
    web.get()
    with contextlib.closing(sqlite3.connect(web.state, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        web.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "database is locked" in web.stderr_text())
        other.execute("ROLLBACK")
        assert web.wait() == 0
    assert influx.total() == 1
    assert web.reports()[-1][2] == "delivered to InfluxDB"


def test_the_steps_of_the_end_fit_into_its_time():
    """Whatever each of them meets: the server's threads or workers, the recording, and a second for the log."""
    program = webserver_influx
    assert program.GRACE_SECONDS + 1 < program.STOP_SECONDS
    assert program.STOP_SECONDS + 2 * program.Outbox.BUSY_SECONDS + 1 <= 10
