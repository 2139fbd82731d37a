"""The real server and a real influxd as processes: started, stopped, killed, frozen, thawed, and none left behind.

The fixtures in conftest.py hand them out, each in a folder of its own and on a free port of 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import re
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

PATIENCE_S = 20  # for what should take milliseconds, on a machine that is busy with something else
POLL_S = 0.02

# --- waiting, and ports


def wait_until(condition: Callable[[], Any], timeout: float = PATIENCE_S, what: str = "") -> Any:
    """Ask until the answer is true, and return it. An OSError is a "not yet": what is asked may not be up.

    Raises AssertionError after `timeout` seconds, with the last answer and `what` was waited for.
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
    """Ports in blocks of 100, of which this process claims each by its first port, bound for as long as it lives.

    So no other process that runs tests takes a port between its being given out and its server's start. They lie below
    the range from which systems take the ports of outgoing connections: none of those can steal a port while the server
    that had it is being started again.
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
    """A TCP port on which nothing listens, and which this test run has not given out before."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("this process has given out all ports from 20,000 to 32,000")


# --- processes


class Guard:
    """Starts processes, and ends those that still run when pytest is gone, however it went (kill -9, too).

    That is the work of a process of its own. It reads a pid when one starts, and -pid when it has ended. At the end of
    its input, which is the end of pytest, it kills what still runs.
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
        self._lock = threading.Lock()  # of the pipe: a test may start processes from several threads
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", self.SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def spawn(self, command: list[str], **options) -> subprocess.Popen:
        """A process in a group of its own, so that Ctrl-C in a terminal reaches pytest alone."""
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True, **options)
        self._tell(process.pid)
        return process

    def ended(self, process: subprocess.Popen) -> None:
        self._tell(-process.pid)

    def close(self) -> None:
        self._process.communicate()

    def _tell(self, pid: int) -> None:
        with self._lock:
            print(pid, file=self._process.stdin, flush=True)


class Daemon:
    """A child process in a folder of its own, its output in two files there, over all its starts."""

    def __init__(
        self, guard: Guard, folder: Path, command: list[str], env: dict | None = None, user: str | None = None
    ) -> None:
        self.folder = folder
        self.process: subprocess.Popen | None = None
        self._groups: list[int] = []  # of each start
        self._guard = guard
        self._command = command
        self._options: dict[str, Any] = {"cwd": folder, "env": env}
        if user is not None:
            self._options.update(user=user, extra_groups=[])

    def answers(self) -> bool:
        """Whether it is ready for work; OSError means no."""
        raise NotImplementedError

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def redirect(self, redirections: str) -> None:
        """From the next start on, let a shell redirect its input and output, such as by `2>&-`."""
        self._command = [installed("bash"), "-c", f'exec "$0" "$@" {redirections}', *self._command]

    def launch(self) -> None:
        """Start it."""
        if self.process is not None:
            assert not self.running
            self._reap()
        with (self.folder / "stdout").open("ab") as out, (self.folder / "stderr").open("ab") as err:
            self.process = self._guard.spawn(self._command, stdout=out, stderr=err, **self._options)
        self._groups.append(self.process.pid)

    def start(self):
        """Start it and wait until it answers. Raises AssertionError when it ends instead."""
        self.launch()
        wait_until(lambda: not self.running or self.answers(), what=f"{self._command} to answer")
        if not self.running:
            code = self._reap()
            raise AssertionError(f"{self._command} ended with {code}: {self.stderr_text()}")
        return self

    def stop(self, signum: int = signal.SIGTERM, timeout: float = PATIENCE_S) -> int:
        """Ask it to end and return its exit code; see `wait`."""
        self.process.send_signal(signum)
        return self.wait(timeout)

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """The exit code, once it has ended. After `timeout` seconds it is killed, and AssertionError raised."""
        try:
            return self._reap(timeout)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.send_signal(signal.SIGABRT)  # Python and Go then print where each of their threads is
                self._reap(1)
            self.kill()
            raise AssertionError(f"{self._command} did not end in {timeout} s: {self.stderr_text()}") from None

    def kill(self) -> None:
        """kill -9: no last words. Also of one that is frozen."""
        self.process.kill()
        self._reap()

    def restart(self):
        self.stop()
        return self.start()

    def freeze(self) -> None:
        """Stop it in its tracks: the system still accepts connections and data for it, and nobody answers."""
        self.process.send_signal(signal.SIGSTOP)
        os.waitpid(self.process.pid, os.WUNTRACED)  # a process is not stopped at once

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def stdout_text(self) -> str:
        return (self.folder / "stdout").read_text(errors="replace")

    def stderr_text(self) -> str:
        return (self.folder / "stderr").read_text(errors="replace")

    def close(self) -> None:
        """The end of the test: kill it. Fails the test when a process that it started outlives it, and kills that."""
        if self.process is None:
            return
        self.kill()
        print(self.stderr_text())  # pytest shows it when the test has failed
        try:
            wait_until(lambda: not any(map(group_lives, self._groups)), what=f"the processes of {self._command} to end")
        finally:
            for group in filter(group_lives, self._groups):
                os.killpg(group, signal.SIGKILL)

    def _reap(self, timeout: float | None = None) -> int:
        code = self.process.wait(timeout)
        self._guard.ended(self.process)
        return code


def group_lives(group: int) -> bool:
    """Whether a process of this process group runs; one that has ended may wait for init, in a container for long."""
    try:
        os.killpg(group, 0)
    except (AttributeError, OSError):  # AttributeError: Windows, which has no groups
        return False
    return any(processes_of(group).values())  # one that has ended has no command line


def processes_of(group: int) -> dict[int, str]:
    """The processes of this process group, by pid, and their command lines."""
    if not Path("/proc/self/stat").exists():
        listed = subprocess.run(
            [installed("ps"), "-A", "-ww", "-o", "pid=,pgid=,args="], capture_output=True, text=True, check=True
        )
        rows = [line.split(None, 2) for line in listed.stdout.splitlines()]
        return {int(row[0]): row[-1] for row in rows if int(row[1]) == group}
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended since
            _, _, its_group, *_ = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(its_group) == group:
                found[int(folder.name)] = (folder / "cmdline").read_text().replace("\0", " ")
    return found


# --- InfluxDB


class InfluxError(Exception):
    """What influxd said instead of an answer."""


class Influxd(Daemon):
    """InfluxDB as the repository's influxdb.conf sets it up, but for its ports.

    With `auth`, the line that asks for passwords is in force, and the admin, the database and the server's user
    are made at the first start.
    """

    DATABASE = "math_server"
    USER = ("math_server", "math_server1")
    ADMIN = ("admin", "admin1")

    def __init__(self, guard: Guard, folder: Path, auth: bool = False, user: str | None = None):
        self.port, self.rpc_port = free_port(), free_port()
        self.auth = auth
        text = configuration_with(self.port, self.rpc_port, auth)
        (folder / "influxdb.conf").write_text(text, encoding="utf-8")
        # INFLUXDB_* variables override the file.
        env = {name: value for name, value in os.environ.items() if not name.startswith("INFLUXDB_")}
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
        """What the server's --influx takes; `port` is a proxy's, when the server is to come through one."""
        return f"influxdb://{':'.join(login)}@127.0.0.1:{port or self.port}/{self.DATABASE}"

    def request(
        self,
        method: str,
        path: str,
        parameters: dict | None = None,
        body: str = "",
        login: tuple[str, str] | None = None,
    ) -> tuple[int, str]:
        """Status and text of InfluxDB's reply; without `login`, the request is anonymous."""
        fields = dict(parameters or {})
        if login is not None:
            fields.update(u=login[0], p=login[1])
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        with contextlib.closing(connection):
            connection.request(method, f"{path}?{urllib.parse.urlencode(fields)}", body.encode())
            reply = connection.getresponse()
            return reply.status, reply.read().decode()

    def write(self, lines: str, login: tuple[str, str] | None = None) -> tuple[int, str]:
        """Write points in line protocol; status (204: written) and text of the reply."""
        return self.request("POST", "/write", {"db": self.DATABASE}, lines, login)

    def query(self, statement: str, login: tuple[str, str] | None = None) -> list[dict[str, Any]]:
        """The rows of all series, times in ns since 1970. By default asked by the admin. Raises InfluxError."""
        login = login or (self.ADMIN if self.auth else None)
        _, text = self.request("POST", "/query", {"q": statement, "db": self.DATABASE, "epoch": "ns"}, login=login)
        answer = json.loads(text)
        for part in (answer, *answer.get("results", [])):
            if "error" in part:
                raise InfluxError(part["error"])
        return [
            {**series.get("tags", {}), **dict(zip(series["columns"], values))}
            for result in answer["results"]
            for series in result.get("series", [])
            for values in series.get("values", [])
        ]

    def points(self) -> list[dict[str, Any]]:
        """The server's points, oldest first; none while there is no database yet."""
        try:
            return self.query("SELECT * FROM requests")
        except InfluxError as error:
            if "database not found" in str(error):
                return []
            raise

    def total(self) -> int:
        """The number of requests in all points."""
        return sum(point["requests_number"] for point in self.points())

    def influx(self, statement: str) -> str:
        """What InfluxDB's command line client prints. Raises CalledProcessError."""
        login = ["-username", self.ADMIN[0], "-password", self.ADMIN[1]] if self.auth else []
        place = ["-host", "127.0.0.1", "-port", str(self.port), "-database", self.DATABASE]
        command = [installed("influx"), *place, *login, "-execute", statement]
        env = {**os.environ, "HOME": str(self.folder)}  # where it keeps a history
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout


def configuration_with(port: int, rpc_port: int, auth: bool) -> str:
    """The repository's influxdb.conf with other ports, and with passwords when asked for."""
    text = CONFIGURATION.read_text(encoding="utf-8")
    text = replaced_once(r'"127\.0\.0\.1:8086"', f'"127.0.0.1:{port}"', text)
    text = replaced_once(r'"127\.0\.0\.1:8088"', f'"127.0.0.1:{rpc_port}"', text)
    return replaced_once(r"# (auth-enabled = true)", r"\1", text) if auth else text


def replaced_once(pattern: str, replacement: str, text: str) -> str:
    text, count = re.subn(pattern, replacement, text)
    assert count == 1, f"{pattern} is {count} times in {CONFIGURATION.name}"
    return text


class VictoriaMetrics(Daemon):
    """VictoriaMetrics as the README starts it, but for its port and the folder of its data."""

    def __init__(self, guard: Guard, folder: Path):
        self.port = free_port()
        readme = (PROJECT / "README.md").read_text(encoding="utf-8")
        (options,) = re.findall("^victoria-metrics (.*)$", readme, re.MULTILINE)
        places = [f"-httpListenAddr=127.0.0.1:{self.port}", f"-storageDataPath={folder / 'data'}"]
        super().__init__(guard, folder, [installed("victoria-metrics"), *options.split(), *places])

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
        """The server's points, with times in ns since 1970."""
        self.get("/internal/force_flush")  # or it takes seconds until a new series is found
        found = self.get("/api/v1/export", **{"match[]": "requests_requests_number", "start": "0", "end": "4e9"})
        series = [json.loads(line) for line in found.splitlines()]
        return [
            {"time": when * 1_000_000, "requests_number": number}
            for one in series
            for when, number in zip(one["timestamps"], one["values"])
        ]


class Nginx(Daemon):
    """nginx in front of a server, to which it passes what is below /influxdb/, as README has it."""

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


class Reply(NamedTuple):
    status: int
    text: str
    headers: http.client.HTTPMessage


PASSWORD = "s3cret-word"  # for tests that need one; no server may ever print it

LOG_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (DEBUG|INFO|WARNING|ERROR) \S.*")
# Common Log Format: %h %l %u %t "%r" %>s %B, escaped as nginx does
ACCESS_LINE = re.compile(
    r"(?P<host>\S+) - - \[(?P<time>\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\] "
    r'"(?P<request>(?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+)" (?P<status>\d{3}) (?P<bytes>\d+)'
)
REPORT_LINE = re.compile(
    r"\S+ \S+ (?:INFO|WARNING) ([\d,]+) requests? in [\d.]+ s(?: \([\d.,]+/s, at most [\d.,]+/s\))?; (.+)"
)


class Server(Daemon):
    """webserver_influx.py as a process, with exactly these arguments.

    Whatever a test is about, `close` fails it when the server ended badly, or has printed a password, what only a bug
    prints, or anything on standard error that is no line of its log.
    """

    UNEXPECTED = ("Traceback", "Exception ignored", "ResourceWarning", "Fatal Python error", PASSWORD, Influxd.USER[1])

    def __init__(self, guard: Guard, folder: Path, arguments: list[str], env: dict | None = None):
        command = [sys.executable, "-X", "faulthandler", str(PROGRAM), *arguments]
        super().__init__(guard, folder, command, {**clean_environment(), **(env or {})})
        self.state = folder / dict(zip(arguments, arguments[1:])).get("--state", "math_server.db")
        self.host, self.port = "", 0  # known once it has started

    def start(self) -> Server:
        super().start()
        *_, (host, port) = re.findall(r"^Serving on http://(\[.+?\]|[^:]+):(\d+)", self.stdout_text(), re.MULTILINE)
        self.host, self.port = "127.0.0.1" if host == "localhost" else host.strip("[]"), int(port)
        return self

    def answers(self) -> bool:
        """As soon as it says so, it serves; it says it in two lines at each start, and in another that it stops."""
        return len(re.findall("^Every .+\n", self.stdout_text(), re.MULTILINE)) == len(self._groups)

    @property
    def url(self) -> str:
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    def log(self) -> list[str]:
        """The lines on standard error."""
        return self.stderr_text().splitlines()

    def reports(self) -> list[re.Match[str]]:
        """The lines of its log that tell of an interval each: how many requests, and what became of the point."""
        return [match for match in map(REPORT_LINE.fullmatch, self.log()) if match]

    def workers(self) -> list[int]:
        """The pids of the processes that answer requests beside the program's own, which is worker 1."""
        return [pid for pid, command in processes_of(self._groups[-1]).items() if "spawn_main" in command]

    def connect(self, timeout: float = PATIENCE_S) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout)

    def refuses(self) -> bool:
        """Whether it accepts no connection."""
        try:
            self.connect().close()
        except ConnectionRefusedError:
            return True
        return False

    def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: dict | None = None, host: str = ""
    ) -> Reply:
        """One request on a connection of its own, to `host` if it is to be another of this machine's addresses."""
        connection = http.client.HTTPConnection(host or self.host, self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return Reply(reply.status, reply.read().decode(), reply.headers)

    def get(self, path: str = "/", host: str = "") -> Reply:
        return self.request("GET", path, host=host)

    def raw(
        self, data: bytes, timeout: float = PATIENCE_S, until: bytes | None = None, half_close: bool = False
    ) -> bytes:
        """Send these bytes and return all that comes back before the server closes or resets the connection.

        It returns earlier when `until` has arrived, or `timeout` seconds are over. With `half_close` the server is told
        that nothing more will be sent.
        """
        deadline = time.monotonic() + timeout
        with self.connect(timeout) as connection:
            with contextlib.suppress(ConnectionError):  # refused before all is sent; the reply may still be there
                connection.sendall(data)
                if half_close:
                    connection.shutdown(socket.SHUT_WR)
            return received(connection, deadline, until)

    def close(self) -> None:
        """Stop it as a person would. Fails the test when anything was wrong with how it ended or what it printed."""
        problems = self._stop_well() if self.running else []
        super().close()
        if self.process is None:
            return
        text = self.stdout_text() + self.stderr_text()
        problems += [f"it printed {mark!r}" for mark in self.UNEXPECTED if mark in text]
        odd = [line for line in self.log() if not (LOG_LINE.fullmatch(line) or ACCESS_LINE.fullmatch(line))]
        problems += [f"{line!r} is no line of a log" for line in odd]
        assert not problems, "; ".join(problems) + "\n" + text

    def _stop_well(self) -> list[str]:
        """What was wrong with how it stopped."""
        if hasattr(signal, "SIGCONT"):
            self.thaw()
        try:
            code = self.stop()
        except AssertionError as error:
            return [str(error)]
        clean = code == 0 or os.name == "nt"  # Windows has no way to ask
        return [] if clean else [f"exit code {code} after SIGTERM"]


def received(connection: socket.socket, deadline: float, until: bytes | None = None) -> bytes:
    """All that arrives before the close, the deadline (of time.monotonic), or `until`."""
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
    """So that its other side sees "connection reset by peer" and not an orderly end."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def clean_environment() -> dict[str, str]:
    """This process's, without what a developer may have set for a server of their own."""
    return {name: value for name, value in os.environ.items() if not name.startswith("WEBSERVER_INFLUX_")}


def run_program(*arguments: str, timeout: float = PATIENCE_S, env: dict | None = None) -> subprocess.CompletedProcess:
    """webserver_influx.py to its end, for what ends by itself: --help, bad usage, a port in use."""
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
    """A script to its end, with the program's folder as the current one, so that it and the tests can be imported."""
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
    folder = parent / f"{name}-{len(list(parent.glob(name + '-*')))}"
    folder.mkdir()
    return folder
