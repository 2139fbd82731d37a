"""The order to stop, whenever it comes: everything that was counted is recorded, and the end is quiet."""

from __future__ import annotations

import contextlib
import signal
import socket
import sqlite3

import pytest
from daemons import REPORT_LINE, free_port, run_python, wait_until
from needs import posix


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
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_with_0_once_the_last_minute_is_recorded(server, signum):
    web = server("--state", ":memory:")
    web.get()
    assert web.stop(signum) == 0
    assert REPORT_LINE.fullmatch(web.log()[-1])[1] == "1"


@posix
def test_a_second_ctrl_c_does_not_wait_for_requests_in_flight(server):
    web = server()
    with web.connect() as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
        assert client.recv(1024).startswith(b"HTTP/1.1 100 ")
        web.process.send_signal(signal.SIGINT)
        wait_until(web.refuses, what="it to accept no more")
        assert web.stop(signal.SIGINT) == 130  # it would be 0, had it waited
