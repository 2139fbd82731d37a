"""A real influxd, the real server, and nothing of either left behind.

    def test_something(server, influxd):
        influx = influxd()  # new and empty, on a free port; with auth=True it asks for passwords
        web = server("--interval", "1", "--influx", influx.dsn())
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

pytest.register_assert_rewrite("daemons", "refusals")  # so that their assertions say what they compared, too

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


@pytest.fixture(scope="session")
def new_server(guard, closed_port):
    """new_server(folder, *arguments, everywhere=False, env=None) -> Server, not started.

    Where the arguments do not say otherwise, its port is a free one, and InfluxDB is where nothing listens, and never a
    real one of the machine's. It listens on 127.0.0.1 only, or, with `everywhere`, where it does by default.
    """

    def make(folder: Path, *arguments: str, everywhere: bool = False, env: dict[str, str] | None = None) -> Server:
        given = list(arguments)
        if "--bind" not in given and not everywhere:
            given += ["--bind", "127.0.0.1"]
        if "--port" not in given:
            given += ["--port", str(free_port())]
        if "--influx" not in given and "WEBSERVER_INFLUX_DSN" not in (env or {}):
            given += ["--influx", f"influxdb://127.0.0.1:{closed_port}"]
        return Server(guard, folder, given, env)

    return make


@pytest.fixture
def server(new_server, tmp_path):
    """server(*arguments, everywhere=False, env=None, start=True) -> Server; see new_server."""
    with contextlib.ExitStack() as at_end:

        def make(*arguments: str, start: bool = True, **options) -> Server:
            daemon = new_server(new_folder(tmp_path, "server"), *arguments, **options)
            at_end.callback(daemon.close)
            return daemon.start() if start else daemon

        yield make
