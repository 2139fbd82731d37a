"""A real influxd, the real server, and nothing of either left behind.

    def test_something(server, influxd):
        influx = influxd()  # new and empty, on a free port; with auth=True it asks for passwords
        web = server("--interval", "1", influx=influx.dsn())
        assert web.get("/?a=3").text == "Sum: 3.0"
        wait_until(influx.points)
        influx.freeze()

Both are Daemons: they can be stopped, killed, frozen, thawed and started again in mid-test. Everything is on loopback.
"""

from __future__ import annotations

import contextlib
import signal
import socket
from pathlib import Path

import hypothesis
import pytest

pytest.register_assert_rewrite("daemons")  # so that its assertions say what they compared, too

from daemons import Guard, Influxd, Server, free_port, new_folder  # noqa: E402

# An example's time says more about the machine than about the code.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# A background job of a shell script ignores Ctrl-C, and its children inherit that, the server under test with them.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def closed_port():
    """A port that refuses every connection for as long as the tests run."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", free_port()))  # and no listen()
        yield holder.getsockname()[1]


@pytest.fixture(scope="session")
def guard():
    guard = Guard()
    yield guard
    guard.close()


@pytest.fixture
def influxd(guard, tmp_path):
    """influxd(auth=False, start=True) -> Influxd, new and empty."""
    with contextlib.ExitStack() as at_end:

        def make(auth: bool = False, start: bool = True) -> Influxd:
            daemon = Influxd(guard, new_folder(tmp_path, "influxd"), auth)
            at_end.callback(daemon.close)
            return daemon.start() if start else daemon

        yield make


@pytest.fixture
def server(guard, tmp_path, closed_port):
    """server(*options, influx=None, state=None, port=None, bind="127.0.0.1", env=None, start=True) -> Server.

    Without `influx`, a DSN, InfluxDB is where nothing listens, and never a real one of the machine's.
    """
    with contextlib.ExitStack() as at_end:

        def make(
            *options: str,
            influx: str | None = None,
            state: str | Path | None = None,
            port: int | None = None,
            bind: str = "127.0.0.1",
            env: dict | None = None,
            start: bool = True,
        ) -> Server:
            folder = new_folder(tmp_path, "server")
            if influx is None and "WEBSERVER_INFLUX_DSN" not in (env or {}):
                influx = f"influxdb://127.0.0.1:{closed_port}"
            destination = ["--influx", influx] if influx else []
            daemon = Server(
                guard,
                folder,
                [*destination, *options],
                port or free_port(),
                state or folder / "math_server.db",
                bind,
                env,
            )
            at_end.callback(daemon.close)
            return daemon.start() if start else daemon

        yield make
