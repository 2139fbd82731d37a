"""Fixtures: a real influxd, the real server, and a server in this process.

    def test_something(server, influxd):
        influx = influxd()  # new and empty, on a free port; with auth=True it requires passwords
        web = server("--interval", "1", "--influx", influx.dsn())
        assert web.get("/?a=3").text == "Sum: 3.0"
        wait_until(influx.points)
        influx.freeze()

A test can stop, kill, freeze, thaw and restart both (see daemons.Daemon). All addresses are loopback addresses.
"""

# ruff: noqa: E402 - pytest rewrites the assertions of modules that are imported after register_assert_rewrite()

from __future__ import annotations

import contextlib
import signal
import socket
from pathlib import Path

import hypothesis
import pytest

pytest.register_assert_rewrite("daemons", "local", "messages", "needs", "refusals")

from daemons import Guard, Influxd, Server, VictoriaMetrics, free_port, new_folder
from local import Local
from refusals import error_line

import webserver_influx
from webserver_influx import DSN_VARIABLE, Counter, Outbox, listen, parse_arguments

# An example takes as long as a busy machine makes it take.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")

# A shell script's background job ignores SIGINT, and a command under `nohup` ignores SIGHUP. A server under test would
# inherit an ignored signal, but it does not inherit a handler.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN:
    signal.signal(signal.SIGHUP, lambda *_: None)


@pytest.fixture(autouse=True)
def measured(request, monkeypatch):
    """A process that may write no file cannot write its coverage, and each lock of it may take libfaketime 20 s.

    Measuring also takes as much CPU time again as the processes themselves, which counts if they are many or do much.
    """
    if request.node.get_closest_marker("unmeasured"):
        monkeypatch.delenv("COVERAGE_PROCESS_START", raising=False)


@pytest.fixture(scope="session")
def closed_port():
    """A port that refuses every connection while the tests run."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", free_port()))  # without listen(), the kernel refuses connections
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
def victoria_metrics(guard, tmp_path):
    """victoria_metrics() -> VictoriaMetrics, new and empty."""
    with contextlib.ExitStack() as at_end:

        def make() -> VictoriaMetrics:
            daemon = VictoriaMetrics(guard, new_folder(tmp_path, "victoria-metrics"))
            at_end.callback(daemon.close)
            return daemon.start()

        yield make


@pytest.fixture(scope="session")
def new_server(guard, closed_port):
    """new_server(folder, *arguments, everywhere=False, env=None) -> Server, not started.

    Unless the arguments set them, the port is a free one, the address is 127.0.0.1 (with `everywhere`, the program's
    default), and InfluxDB is on a port that refuses connections, so that no test reaches a real InfluxDB.
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


@pytest.fixture
def state(tmp_path) -> str:
    """The path of a state file that does not exist yet, as text."""
    return str(tmp_path / "state.db")


@pytest.fixture
def misuse(monkeypatch, capsys):
    """misuse(*arguments, dsn=None) -> the message of the usage error; in this process, which is faster than a start."""
    monkeypatch.setenv("COLUMNS", "80")

    def refused(*arguments: str, dsn: str | None = None) -> str:
        monkeypatch.delenv(DSN_VARIABLE, raising=False)
        if dsn is not None:
            monkeypatch.setenv(DSN_VARIABLE, dsn)
        with pytest.raises(SystemExit) as ended:
            parse_arguments(list(arguments))
        assert ended.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        return error_line(printed.err, with_usage=True)

    return refused


# --- a server, a counter and an outbox in this process


@pytest.fixture
def local(monkeypatch):
    """local(address="127.0.0.1", **constants) -> Local; the constants replace those of the program's module."""
    with contextlib.ExitStack() as at_end:

        def make(address: str | None = "127.0.0.1", **constants) -> Local:
            for name, value in constants.items():
                assert hasattr(webserver_influx, name)
                monkeypatch.setattr(webserver_influx, name, value)
            return at_end.enter_context(contextlib.closing(Local(listen(address, 0))))

        yield make


@pytest.fixture
def at_end():
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture
def open_counter(tmp_path, at_end):
    """open_counter(path=tmp_path/"count") -> Counter; creates the file if it does not exist."""

    def open_one(path: Path = tmp_path / "count") -> Counter:
        return at_end.enter_context(contextlib.closing(Counter(str(path), 0, 1, create=True)))

    return open_one


@pytest.fixture
def counter(open_counter):
    return open_counter()


@pytest.fixture
def outbox(tmp_path, counter, at_end):
    outbox = at_end.enter_context(contextlib.closing(Outbox(str(tmp_path / "state"))))
    outbox.attach(counter)
    with outbox.database:
        outbox.database.execute("UPDATE state SET serial = 0")  # a new file begins with a random serial number
    outbox.execute("PRAGMA synchronous = OFF")  # no power fails here, and each commit waits for the disk otherwise
    return outbox


@pytest.fixture
def since(outbox) -> int:
    """The time at which the outbox began to count, in ns since 1970."""
    return outbox.state()[2]
