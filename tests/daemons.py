"""Runs the real server and a real influxd as processes that can be stopped, killed, frozen and started again.

The fixtures in conftest.py create them, each in its own folder and on a free port of 127.0.0.1. No process outlives
the tests.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, NamedTuple

from needs import installed

PROJECT = Path(__file__).resolve().parent.parent
PROGRAM = PROJECT / "webserver_influx.py"
CONFIGURATION = PROJECT / "influxdb.conf"

PATIENCE_S = 20  # longest wait for something that takes milliseconds on an idle machine
POLL_S = 0.02  # pause between two checks of a condition

# --- waiting, and ports


def wait_until(condition: Callable[[], Any], timeout: float = PATIENCE_S, what: str = "") -> Any:
    """Call the condition until its result is true, and return that result. An OSError counts as false.

    Raises AssertionError after `timeout` seconds; the message has `what` (a noun phrase) and the last result.
    """
    deadline = time.monotonic() + timeout
    while True:
        try:
            answer = condition()
        except OSError as error:
            answer = error
        if answer and not isinstance(answer, OSError):
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s for {what or condition}; the last answer was {answer!r}")
        time.sleep(POLL_S)


def claimed_ports() -> Iterator[int]:
    """Yield ports in blocks of 100; this process claims a block by binding its first port until the process ends.

    So no other test process takes a port before the server that is to use it has started. The ports are below the
    range of ephemeral ports, so no outgoing connection takes one while its server restarts.
    """
    blocks = list(range(20_000, 32_000, 100))
    random.Random(os.getpid()).shuffle(blocks)
    for first in blocks:
        claim = socket.socket()
        try:
            claim.bind(("127.0.0.1", first))
        except OSError:
            claim.close()
        else:
            claim.detach()
            yield from range(first + 1, first + 100)


_ports = claimed_ports()


def free_port() -> int:
    """Return a TCP port on which nothing listens; this process never returns it again."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port from 20,000 to 32,000 is left")


# --- processes


class Guard:
    """Starts processes, and kills those that still run after pytest has ended, even if pytest was killed.

    A separate process does that. It reads a pid when a process starts, and -pid when that process has ended. Its input
    ends when pytest does; then it kills the processes that still run.
    """

    SCRIPT = """
import os, signal, sys
running = set()
for line in sys.stdin:
    pid = int(line)
    running.add(pid) if pid > 0 else running.discard(-pid)
for pid in running:
    try:
        os.killpg(pid, signal.SIGKILL) if hasattr(os, "killpg") else os.kill(pid, signal.SIGTERM)
    except OSError:
        pass
"""

    def __init__(self):
        self.lock = threading.Lock()  # guards the pipe: a test may start processes from several threads
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", self.SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def spawn(self, command: list[str], **options) -> subprocess.Popen:
        """Start a process in its own group, so that Ctrl-C in a terminal reaches only pytest."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        self.write(process.pid)
        return process

    def ended(self, process: subprocess.Popen) -> None:
        self.write(-process.pid)

    def close(self) -> None:
        self.process.communicate()

    def write(self, pid: int) -> None:
        with self.lock:
            print(pid, file=self.process.stdin, flush=True)


class Daemon:
    """Runs a command in its own folder; the output of all its starts is in the files stdout and stderr there."""

    def __init__(
        self, guard: Guard, folder: Path, command: list[str], env: dict | None = None, user: str | None = None
    ) -> None:
        self.folder = folder
        self.process: subprocess.Popen | None = None
        self.command = command
        self.groups: list[int] = []  # the process group of each start
        self._guard = guard
        self._options: dict[str, Any] = {"cwd": folder, "env": env}
        if user is not None:
            self._options.update(user=user, extra_groups=[])

    def answers(self) -> bool:
        """Return whether it is ready; an OSError means that it is not."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def redirect(self, redirections: str) -> None:
        """Apply redirections of a shell, such as `2>&-`, from the next start on."""
        self.command = [installed("bash"), "-c", f'exec "$0" "$@" {redirections}', *self.command]

    def launch(self) -> None:
        """Start it, and do not wait."""
        if self.process is not None:
            assert not self.running
            self._reap()
        with (self.folder / "stdout").open("ab") as out, (self.folder / "stderr").open("ab") as err:
            self.process = self._guard.spawn(self.command, stdout=out, stderr=err, **self._options)
        self.groups.append(self.process.pid)

    def start(self):
        """Start it, and wait until it is ready. Raises AssertionError if it ends instead."""
        self.launch()
        wait_until(lambda: not self.running or self.answers(), what=f"{self.command} to answer")
        if not self.running:
            code = self._reap()
            raise AssertionError(f"{self.command} ended with {code}: {self.stderr_text()}")
        return self

    def stop(self, signum: int = signal.SIGTERM, timeout: float = PATIENCE_S) -> int:
        """Send it a signal, wait until it has ended, and return its exit code; see `wait`."""
        self.process.send_signal(signum)
        return self.wait(timeout)

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Wait until it has ended, and return its exit code. After the time-out, kill it and raise AssertionError."""
        try:
            return self._reap(timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.send_signal(signal.SIGABRT)  # makes Python and Go print the stack of each thread
                self._reap(1)
            self.kill()
            raise AssertionError(f"{self.command} did not end in {timeout} s: {self.stderr_text()}") from None

    def kill(self) -> None:
        """Kill it by SIGKILL, which also ends a frozen process."""
        self.process.kill()
        self._reap()

    def restart(self):
        self.stop()
        return self.start()

    def freeze(self) -> None:
        """Suspend it. The kernel still accepts connections and data for it, but there is no response."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # the signal takes effect later

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stdout_text(self) -> str:
        return (self.folder / "stdout").read_text(errors="replace")

    def stderr_text(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    def close(self) -> None:
        """Kill it at the end of a test. If a process that it started outlives it, kill that too and fail the test."""
        if self.process is None:
            return
        self.kill()
        print(self.stderr_text())  # pytest shows this if the test fails
        try:
            wait_until(lambda: not any(map(is_running, self.groups)), what=f"the processes of {self.command} to end")
        finally:
            for group in filter(is_running, self.groups):
                os.killpg(group, signal.SIGKILL)

    def _reap(self, timeout: float | None = None) -> int:
        code = self.process.wait(timeout)
        self._guard.ended(self.process)
        return code


def is_running(group: int) -> bool:
    """Return whether a process of this process group runs. A zombie does not; some containers never reap theirs."""
    try:
        os.killpg(group, 0)
    except (AttributeError, OSError):  # AttributeError: Windows has no process groups
        return False
    return any(processes_of(group).values())  # a zombie has an empty command line


def processes_of(group: int) -> dict[int, str]:
    """Return the command line of each process of this process group, by pid."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(
            [installed("ps"), "-A", "-ww", "-o", "pid=,pgid=,args="], capture_output=True, text=True, check=True
        )
        rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
        return {int(row[0]): row[-1] for row in rows if int(row[1]) == group}
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # the process has ended meanwhile
            _, _, its_group, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(its_group) == group:
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


# --- InfluxDB


class InfluxError(Exception):
    """InfluxDB answered a query with an error; the message is InfluxDB's."""


class Influxd(Daemon):
    """InfluxDB as the repository's influxdb.conf sets it up, but for its ports.

    Whatever a person has changed in that file for their own InfluxDB, this one has the addresses, the folders and the
    authentication that tests expect: environment variables override the file. With `auth`, it asks for passwords, and
    the admin, the database and the server's user are made at the first start.
    """

    DATABASE = "math_server"
    USER = ("math_server", "math_server1")
    ADMIN = ("admin", "admin1")

    def __init__(self, guard: Guard, folder: Path, auth: bool = False, user: str | None = None):
        self.port, self.rpc_port = free_port(), free_port()
        self.auth = auth
        shutil.copyfile(CONFIGURATION, folder / "influxdb.conf")
        env = influxd_environment(self.port, self.rpc_port, auth)
        super().__init__(guard, folder, [installed("influxd"), "-config", "influxdb.conf"], env, user)

    def start(self) -> Influxd:
        first = self.process is None
        super().start()
        if first and self.auth:
            self.create_users()
        return self

    def answers(self) -> bool:
        return self.request("GET", "/ping")[0] == 204

    def start_configured(self, section: str, line: str) -> None:
        """Start it with this line, too, in its configuration; or, if it is there, without it."""
        path = self.folder / "influxdb.conf"
        text = path.read_text(encoding="utf-8")
        old, new = f"[{section}]\n", f"[{section}]\n  {line}\n"
        old, new = (new, old) if new in text else (old, new)
        assert text.count(old) == 1
        path.write_text(text.replace(old, new), encoding="utf-8")
        if self.running:
            self.stop()
        self.start()

    def create_users(self) -> None:
        name, password = self.USER
        self.query(f"CREATE USER {self.ADMIN[0]} WITH PASSWORD '{self.ADMIN[1]}' WITH ALL PRIVILEGES")
        self.query(f"CREATE DATABASE {self.DATABASE}")
        self.query(f"CREATE USER {name} WITH PASSWORD '{password}'")
        self.query(f"GRANT ALL ON {self.DATABASE} TO {name}")

    def dsn(self, port: int | None = None, login: tuple[str, str] = USER) -> str:
        """Return a value for --influx; `port` is that of a proxy, if there is one between the server and InfluxDB."""
        return f"influxdb://{':'.join(login)}@127.0.0.1:{port or self.port}/{self.DATABASE}"

    def request(
        self,
        method: str,
        path: str,
        parameters: dict | None = None,
        body: str = "",
        login: tuple[str, str] | None = None,
    ) -> tuple[int, str]:
        """Send a request, without a password unless there is a `login`; return the response's status and text."""
        fields = dict(parameters or {})
        if login is not None:
            fields.update(u=login[0], p=login[1])
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            connection.request(method, f"{path}?{urllib.parse.urlencode(fields)}", body.encode())
            response = connection.getresponse()
            return response.status, response.read().decode()

    def write(self, lines: str, login: tuple[str, str] | None = None) -> tuple[int, str]:
        """Write points in line protocol; return the response's status (204: written) and text."""
        return self.request("POST", "/write", {"db": self.DATABASE}, lines, login)

    def query(self, statement: str, login: tuple[str, str] | None = None) -> list[dict[str, Any]]:
        """Return the rows of all series, with times in ns since 1970; the default login is the admin's.

        Raises InfluxError.
        """
        login = login or (self.ADMIN if self.auth else None)
        _, text = self.request("POST", "/query", {"q": statement, "db": self.DATABASE, "epoch": "ns"}, login=login)
        content = json.loads(text)
        for part in (content, *content.get("results", [])):
            if "error" in part:
                raise InfluxError(part["error"])
        return [
            {**series.get("tags", {}), **dict(zip(series["columns"], values))}
            for result in content["results"]
            for series in result.get("series", [])
            for values in series.get("values", [])
        ]

    def points(self) -> list[dict[str, Any]]:
        """Return the server's points, oldest first; an empty list if there is no database yet."""
        try:
            return self.query("SELECT * FROM requests")
        except InfluxError as error:
            if "database not found" in str(error):
                return []
            raise

    def total(self) -> int:
        """Return the sum of the points' numbers of requests."""
        return sum(point["requests_number"] for point in self.points())

    def influx(self, statement: str) -> str:
        """Run a statement in InfluxDB's command-line client; return its output. Raises CalledProcessError."""
        login = ["-username", self.ADMIN[0], "-password", self.ADMIN[1]] if self.auth else []
        address = ["-host", "127.0.0.1", "-port", str(self.port), "-database", self.DATABASE]
        command = [installed("influx"), *address, *login, "-execute", statement]
        env = {**os.environ, "HOME": str(self.folder)}  # the client writes its history there
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout


def influxd_environment(port: int, rpc_port: int, auth: bool = False) -> dict[str, str]:
    """This process's environment, with variables that override what a person may change in influxdb.conf."""
    others = {name: value for name, value in os.environ.items() if not name.startswith("INFLUXDB_")}
    return {
        **others,
        "INFLUXDB_BIND_ADDRESS": f"127.0.0.1:{rpc_port}",
        "INFLUXDB_HTTP_BIND_ADDRESS": f"127.0.0.1:{port}",
        "INFLUXDB_HTTP_AUTH_ENABLED": str(auth).lower(),
        "INFLUXDB_HTTP_HTTPS_ENABLED": "false",
        "INFLUXDB_META_DIR": "influxdb-data/meta",
        "INFLUXDB_DATA_DIR": "influxdb-data/data",
        "INFLUXDB_DATA_WAL_DIR": "influxdb-data/wal",
    }


class VictoriaMetrics(Daemon):
    """Runs VictoriaMetrics as README does, but on another port and with its data in the test's folder."""

    def __init__(self, guard: Guard, folder: Path):
        self.port = free_port()
        readme = (PROJECT / "README.md").read_text(encoding="utf-8")
        (options,) = re.findall("^victoria-metrics (.*)$", readme, re.MULTILINE)
        own = [f"-httpListenAddr=127.0.0.1:{self.port}", f"-storageDataPath={folder / 'data'}"]
        super().__init__(guard, folder, [installed("victoria-metrics"), *options.split(), *own])

    def get(self, path: str, **parameters: str) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", f"{path}?{urllib.parse.urlencode(parameters)}")
            return connection.getresponse().read().decode()

    def answers(self) -> bool:
        return self.get("/health") == "OK"

    def dsn(self) -> str:
        return f"influxdb://127.0.0.1:{self.port}"

    def points(self) -> list[dict[str, Any]]:
        """Return the server's points, with times in ns since 1970."""
        self.get("/internal/force_flush")  # otherwise a new series appears only after seconds
        found = self.get("/api/v1/export", **{"match[]": "requests_requests_number", "start": "0", "end": "4e9"})
        series = [json.loads(line) for line in found.splitlines()]
        return [
            {"time": when * 1_000_000, "requests_number": number}
            for one in series
            for when, number in zip(one["timestamps"], one["values"])
        ]


class Nginx(Daemon):
    """Runs nginx as a reverse proxy that forwards /influxdb/ to a server on the port `behind`, as in README."""

    LOCATION = "location /influxdb/ {{ proxy_pass http://localhost:{behind}/; }}"
    CONFIGURATION = """
        daemon off; master_process off; pid {folder}/pid; error_log stderr;
        events {{ }}
        http {{
            access_log off;
            client_body_temp_path {folder}; proxy_temp_path {folder};
            fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
            server {{
                listen 127.0.0.1:{port};
                {location}
            }}
        }}
    """

    def __init__(self, guard: Guard, folder: Path, behind: int):
        self.port = free_port()
        location = self.LOCATION.format(behind=behind)
        text = self.CONFIGURATION.format(folder=folder, port=self.port, location=location)
        (folder / "nginx.conf").write_text(text, encoding="utf-8")
        super().__init__(guard, folder, [installed("nginx"), "-e", "stderr", "-c", str(folder / "nginx.conf")])

    def answers(self) -> bool:
        socket.create_connection(("127.0.0.1", self.port), 5).close()
        return True


# --- the server


class Response(NamedTuple):
    status: int
    text: str
    headers: http.client.HTTPMessage


PASSWORD = "s3cret-word"  # a password for tests; no server may ever print it

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) \S.*")
# Common Log Format, `%h %l %u %t "%r" %>s %B`, with nginx's escapes
ACCESS_LINE = re.compile(
    r"(?P<host>\S+) - - \[(?P<time>\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    r'"(?P<request>(?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+)" (?P<status>\d{3}) (?P<bytes>\d+)'
)
REPORT_LINE = re.compile(
    r"\S+ \S+ (?:INFO|WARNING) ([\d,]+) requests? in [\d.]+ s(?: \([\d.,]+/s, at most [\d.,]+/s\))?; (.+)"
)


class Server(Daemon):
    """Runs webserver_influx.py with exactly these arguments.

    `close` fails any test whose server did not end well, or printed a password, a trace of a bug, or a line on standard
    error that is not a log line.
    """

    UNEXPECTED = ("Traceback", "Exception ignored", "ResourceWarning", "Fatal Python error", PASSWORD, Influxd.USER[1])

    def __init__(self, guard: Guard, folder: Path, arguments: list[str], env: dict | None = None):
        command = [sys.executable, "-X", "faulthandler", str(PROGRAM), *arguments]
        super().__init__(guard, folder, command, {**clean_environment(), **(env or {})})
        self.state = folder / dict(zip(arguments, arguments[1:])).get("--state", "math_server.db")
        self.host, self.port = "", 0  # known after the start

    def start(self) -> Server:
        super().start()
        *_, (host, port) = re.findall(r"^Serving on http://(\[.+?\]|[^:]+):(\d+)", self.stdout_text(), re.MULTILINE)
        self.host, self.port = "127.0.0.1" if host == "localhost" else host.strip("[]"), int(port)
        return self

    def answers(self) -> bool:
        """Return whether it serves; at each start it then prints a line that begins with "Every"."""
        return len(re.findall("^Every .+\n", self.stdout_text(), re.MULTILINE)) == len(self.groups)

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def log(self) -> list[str]:
        """Return the lines on standard error."""
        return self.stderr_text().splitlines()

    def reports(self) -> list[re.Match[str]]:
        """Return the log lines about intervals, as matches: the number of requests, and the result of the delivery."""
        return [match for match in map(REPORT_LINE.fullmatch, self.log()) if match]

    def workers(self) -> list[int]:
        """Return the pids of the workers, except worker 1, which is the main process."""
        return [pid for pid, command in processes_of(self.groups[-1]).items() if "spawn_main" in command]

    def connect(self, timeout: float = PATIENCE_S) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout)

    def refuses(self) -> bool:
        """Return whether it refuses connections."""
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return True
        return False

    def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict | None = None, host: str = ""
    ) -> Response:
        """Send one request on a new connection, to `host` or else the server's own address; return the response."""
        connection = http.client.HTTPConnection(host or self.host, self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return Response(response.status, response.read().decode(), response.headers)

    def get(self, path: str = "/", host: str = "") -> Response:
        return self.request("GET", path, host=host)

    def raw(
        self, data: bytes, timeout: float = PATIENCE_S, until: bytes | None = None, half_close: bool = False
    ) -> bytes:
        """Send these bytes on a new connection; return the bytes received until the server closes or resets it.

        It returns earlier once `until` has arrived, or after `timeout` seconds. With `half_close`, it shuts down its
        sending side after the data.
        """
        deadline = time.monotonic() + timeout
        with self.connect(timeout) as connection:
            with contextlib.suppress(ConnectionError):  # the server closed before all was sent; read its response
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
            return received(connection, deadline, until)

    def close(self) -> None:
        """Stop it by SIGTERM. Fails the test if its exit code or its output is wrong."""
        problems = self.stop_for_good() if self.running else []
        super().close()
        if self.process is None:
            return
        text = self.stdout_text() + self.stderr_text()
        problems += [f"it printed {mark!r}" for mark in self.UNEXPECTED if mark in text]
        odd = [line for line in self.log() if not (LOG_LINE.fullmatch(line) or ACCESS_LINE.fullmatch(line))]
        problems += [f"{line!r} is not a log line" for line in odd]
        assert not problems, "; ".join(problems) + "\n" + text

    def stop_for_good(self) -> list[str]:
        """Stop it, even if it is frozen; return what went wrong."""
        if hasattr(signal, "SIGCONT"):
            self.thaw()
        try:
            code = self.stop()
        except AssertionError as error:
            return [str(error)]
        clean = code == 0 or os.name == "nt"  # on Windows, SIGTERM kills
        return [] if clean else [f"exit code {code} after SIGTERM"]


def received(connection: socket.socket, deadline: float, until: bytes | None = None) -> bytes:
    """Return the bytes that arrive before the connection closes, the deadline (time.monotonic()), or `until`."""
    data = b""
    with contextlib.suppress(ConnectionError, socket.timeout):
        while until is None or until not in data:
            connection.settimeout(max(deadline - time.monotonic(), 0.001))
            piece = connection.recv(65536)
            if not piece:
                break
            data += piece
    return data


def reset_at_close(one: socket.socket) -> None:
    """Make its close send a reset, so that the peer gets "connection reset by peer"."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def clean_environment() -> dict[str, str]:
    """Return this process's environment without the program's variables, which a developer may have set."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WEBSERVER_INFLUX_")}


def run_program(*arguments: str, timeout: float = PATIENCE_S, env: dict | None = None) -> subprocess.CompletedProcess:
    """Run webserver_influx.py until it ends by itself: for --help, bad usage, a port in use."""
    command = [sys.executable, str(PROGRAM), *arguments]
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**clean_environment(), **(env or {})},
    )


def run_python(script: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a script, in the project's folder, so that it can import the program and the modules of the tests."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, arguments)],
        cwd=PROJECT,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "tests")},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def new_folder(parent: Path, name: str) -> Path:
    """Create a folder `name`-0, -1, … that does not exist yet."""
    folder = parent / f"{name}-{len(list(parent.glob(name + '-*')))}"
    folder.mkdir()
    return folder
