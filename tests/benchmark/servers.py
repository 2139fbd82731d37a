"""The servers of the benchmark: how each is started, placed, halted and weighed. Linux, for its /proc."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, NamedTuple

import report

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
TARGET = "/?a=3&b=3"
JSON = '{"a": 3, "b": 3}'
JSON_FIELD = {"Content-Type": "application/json"}
TEXT = "text/plain; charset=utf-8"
PATIENCE_SECONDS = 20  # for a server to start, to send one reply, to take a crowd, to answer all of it
SETTLE_SECONDS = 1  # for what a server still does after its first answer, such as starting more workers


class Absent(Exception):
    """A server could not be started, has ended, or answers nothing."""


class Unmeasured(Absent):
    """The fault is not the server's."""


class Wrong(Exception):
    """A server did not answer as it must."""


# ------------------------------------------------------------------------------------------------ How to start them

NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile {files}; pid nginx-{port}.pid;
events {{ worker_connections {files}; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
    client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ default_type "text/plain; charset=utf-8"; return 200 "Sum: 6.0"; }}
    }}
}}
"""


def ours(_, port, folder, python=sys.executable):
    command = python, PROJECT / "webserver_influx.py"
    return *command, "--bind", "127.0.0.1", "--port", port, "--state", folder / f"state-{port}"


def ours_on_pypy(name, port, folder):
    python = shutil.which("pypy3")
    if not python:
        raise Absent("no pypy3 on this machine")
    return ours(name, port, folder, python)


def peer(name, port, _):
    return sys.executable, HERE / "peers.py", name, port


def nginx(_, port, folder):
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    (folder / f"nginx-{port}.conf").write_text(NGINX.format(port=port, files=files))
    return "nginx", "-p", folder, "-e", "stderr", "-c", f"nginx-{port}.conf"


def go(_, port, folder):
    return build_go(folder), port


@functools.cache
def build_go(folder):
    """The path of Go's peer."""
    if not shutil.which("go"):
        raise Absent("no go on this machine")
    program = folder / "net_http"
    command = ["go", "build", "-o", str(program), str(HERE / "net_http.go")]
    built = subprocess.run(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if built.returncode:
        raise Absent(f"go build: {built.stdout.strip()}")
    return program


class Peer(NamedTuple):
    title: str
    kind: str = report.SERVER
    packages: str = ""  # on PyPI, whose versions are told
    command: Callable = peer
    adds: bool = True  # a constant cannot be asked for another sum
    works: tuple = ()  # those it is given; all that are not about ours alone, if none are named
    skips: tuple = ()  # those it is not given


def framework(title, packages=""):
    return Peer(title, report.FRAMEWORK, packages, works=("get-64", "browser", "post", "closing"))  # enough to place it


PEERS = {
    "ours": Peer("webserver_influx.py", command=ours),
    "pypy": Peer("webserver_influx.py on PyPy", report.YARDSTICK, command=ours_on_pypy, skips=("instructions",)),
    "bjoern": Peer("bjoern", packages="bjoern bjoern-binary"),
    "fastpysgi": Peer("FastPySGI, WSGI", packages="fastpysgi"),
    "fastpysgi_asgi": Peer("FastPySGI, ASGI", packages="fastpysgi"),
    "granian": Peer("Granian, RSGI", packages="granian uvloop"),
    "granian_asgi": Peer("Granian, ASGI", packages="granian uvloop"),
    "granian_wsgi": Peer("Granian, WSGI", packages="granian"),
    "socketify": Peer("socketify", packages="socketify"),
    "uvicorn": Peer("uvicorn", packages="uvicorn uvloop httptools"),
    "aiohttp": Peer("aiohttp", packages="aiohttp uvloop"),
    "blacksheep": Peer("BlackSheep on Granian", packages="blacksheep granian"),
    "robyn": Peer("Robyn", packages="robyn"),
    "waitress": Peer("waitress", packages="waitress"),
    "cheroot": Peer("cheroot", packages="cheroot"),
    # valgrind does not go together with gunicorn's watch or Go's runtime, nor vgdb with the signals of nginx.
    "gunicorn": Peer("gunicorn", packages="gunicorn gunicorn_h1c", skips=("instructions",)),
    "go": Peer("Go net/http", report.YARDSTICK, command=go, skips=("instructions",)),
    "nginx": Peer("nginx, return 200", report.YARDSTICK, command=nginx, adds=False, skips=("instructions",)),
    # It takes whatever arrives for one request, and never closes.
    "floor": Peer(
        "floor of this design", report.YARDSTICK, adds=False, skips=("pipelined", "closing", "start", "idle")
    ),
    "fastapi": framework("FastAPI on uvicorn", "fastapi uvicorn"),
    "litestar": framework("Litestar on uvicorn", "litestar uvicorn"),
    "flask": framework("Flask on gunicorn", "flask gunicorn"),
    "bottle": framework("Bottle on cheroot", "bottle cheroot"),
    "http_server": framework("http.server with care"),
}


class Placement(NamedTuple):
    title: str = ""
    server: tuple = ()  # put before the command of a server, to place it
    load: tuple = ()  # put before the command of a load


def placements():
    placed = {"os": Placement(report.BY_SYSTEM)}
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1 and shutil.which("taskset"):
        server, load = (on(cpu) for cpu in cpus[:2])
        placed["pinned"] = Placement(report.PINNED, server, load)
    return placed


def on(*cpus):
    """What places a command on these CPUs."""
    return "taskset", "-c", ",".join(map(str, cpus))


# ----------------------------------------------------------------------------------------------------------- Server


class Server:
    """A server on a port of its own, in a session of its own, so that all it starts is found, weighed and ended."""

    def __init__(self, name, placement, folder, *arguments, **options):
        self.name, self.placement, self.folder = name, placement, folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{TARGET}"
        self.log = folder / f"{name}-{self.port}.log"
        command = [*placement.server, *PEERS[name].command(name, self.port, folder, **options), *arguments]
        self.command = list(map(str, command))
        self.start()

    def start(self):
        self.ailing = False  # it answered wrongly, or not at all
        self.born = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, cwd=HERE, stdout=log, stderr=log, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, number):
        for pid, _ in self.stats():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @contextlib.contextmanager
    def awake(self):
        """Elsewhere it is halted, as some servers are busy when idle. One that crashed or hangs is started anew."""
        self.signal(signal.SIGCONT)
        if self.ailing or self.process.poll() is not None:
            self.kill()
            self.start()
            self.wait()
        self.ailing = True
        try:
            yield
            self.ailing = False
        finally:
            if self.process.poll() is not None:
                raise Absent(f"it ended with {exit_reason(self.process.returncode)}")
            self.signal(signal.SIGSTOP)

    def again(self, *arguments, placement=None):
        """Another one like it."""
        return Server(self.name, placement or self.placement, self.folder, *arguments)

    def wait(self, patience=PATIENCE_SECONDS):
        """Seconds from exec to the first answer."""
        while time.perf_counter() < self.born + patience and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.ask("GET", TARGET)
                return time.perf_counter() - self.born
            time.sleep(0.002)
        lines = self.log.read_text(errors="replace").splitlines()
        raise Absent(next(filter(str.strip, reversed(lines)), "no answer"))

    def ask(self, method, target, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
        with contextlib.closing(connection):
            connection.request(method, target, body, JSON_FIELD if body else {})
            reply = connection.getresponse()
            return reply.status, reply.getheader("Content-Type"), reply.read()

    def check(self):
        """Raise Wrong unless every answer is right."""
        asked = [("GET", TARGET, None, b"Sum: 6.0"), ("POST", "/", JSON, b"Sum: 6.0")]
        if PEERS[self.name].adds:
            asked += [("GET", "/?a=1&b=2.5", None, b"Sum: 3.5"), ("POST", "/", '{"a": 40, "b": 2}', b"Sum: 42.0")]
        for method, target, body, right in asked:
            reply = self.ask(method, target, body)
            if reply != (200, TEXT, right):
                raise Wrong(f"{method} {target} {body or ''} was answered {reply}")

    def stats(self):
        """(pid, fields of /proc/PID/stat from the 3rd on; see proc(5)) of each process of the session."""
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):  # it has just ended
                fields = entry.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid:
                    yield int(entry.parent.name), fields

    def cpu(self):
        """CPU seconds used by the session."""
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self.stats()) / os.sysconf("SC_CLK_TCK")

    def resident(self):
        """Resident memory of the session in MB; a page that two processes share counts twice."""
        return sum(int(fields[21]) for _, fields in self.stats()) * resource.getpagesize() / 1e6


def exit_reason(status):
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
