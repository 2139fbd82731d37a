#!/usr/bin/env python3
"""The benchmark: webserver_influx.py beside its peers, on one machine, in one run.

    pip install -r tests/benchmark/requirements.txt    # the peers; wrk, nginx and taskset are packages of the system
    python tests/benchmark/run.py                      # every work in both placements, 5 rounds
    python tests/benchmark/run.py --quick              # under 2 minutes: is every reply right, is every request answered?

Each server is one process that does the same work (peers.py says how it is set up). All of them are started and wait; then, in
each round, each work is given to each server in turn, so that a noisy moment of the machine falls on all alike. Before a load
the server's replies are compared byte for byte; after it, wrk must have seen no error. Figures are medians of the rounds with
(min–max). Everything stays on 127.0.0.1, ends by itself and leaves nothing behind. Needs Linux and Python 3.9.
"""
from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import importlib.metadata
import os
import platform
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Callable, NamedTuple

import report

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
TARGET = "/?a=3&b=3"
JSON = '{"a": 3, "b": 3}'
PATIENCE_S = 20     # for a server's start, for one reply, for the whole crowd's replies
CROWD = 10_000      # keep-alive connections held at once
SETTLE_S = 1        # for what a server still does after its first answer, such as starting more workers


class Absent(Exception):
    """A server did not start."""


class Wrong(Exception):
    """A server did not answer as it must."""


# --- the servers

NGINX = """
daemon off; worker_processes 1; pid nginx-{port}.pid;
events {{ worker_connections 16384; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
    client_body_temp_path .; proxy_temp_path .; fastcgi_temp_path .; uwsgi_temp_path .; scgi_temp_path .;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ default_type "text/plain; charset=utf-8"; return 200 "Sum: 6.0"; }}
    }}
}}
"""


def ours(_, port, folder):
    return sys.executable, os.environ.get('OURS') or PROJECT / "webserver_influx.py", "--port", port, "--state", folder / f"state-{port}"


def peer(name, port, _):
    return sys.executable, HERE / "peers.py", name, port


def nginx(_, port, folder):
    (folder / f"nginx-{port}.conf").write_text(NGINX.format(port=port))
    return "nginx", "-p", folder, "-e", "stderr", "-c", f"nginx-{port}.conf"


class Peer(NamedTuple):
    title: str
    packages: str = ""              # on PyPI, whose versions are told
    command: Callable = peer
    adds: bool = True               # a constant cannot be asked for another sum


PEERS = {
    "ours": Peer("webserver_influx.py", "influxdb", ours),
    "uvicorn": Peer("uvicorn", "uvicorn uvloop httptools"),
    "granian": Peer("Granian", "granian uvloop"),
    "socketify": Peer("socketify", "socketify"),
    "aiohttp": Peer("aiohttp", "aiohttp uvloop"),
    "blacksheep": Peer("BlackSheep on uvicorn", "blacksheep uvicorn"),
    "robyn": Peer("Robyn", "robyn"),
    "fastapi": Peer("FastAPI on uvicorn", "fastapi uvicorn"),
    "flask": Peer("Flask on gunicorn", "flask gunicorn gunicorn_h1c"),
    "waitress": Peer("waitress", "waitress"),
    "cheroot": Peer("cheroot", "cheroot"),
    "bottle": Peer("Bottle on cheroot", "bottle cheroot"),
    "http.server": Peer("http.server with care"),
    "nginx": Peer("nginx, return 200", command=nginx, adds=False),
    "floor": Peer("floor of this design", adds=False),
}


class Placement(NamedTuple):
    title: str
    server: tuple = ()      # put before the command of a server, to place it
    load: tuple = ()        # put before the command of a load


def placements():
    cpus = sorted(os.sched_getaffinity(0))
    placed = {"os": Placement("placed by the OS")}
    if len(cpus) > 1 and shutil.which("taskset"):
        placed["pinned"] = Placement("pinned, server on one CPU and load on another",
                                     ("taskset", "-c", cpus[0]), ("taskset", "-c", cpus[1]))
    return placed


class Server:
    """A server on a port of its own, in a session of its own, so that whatever it starts is found, weighed and ended."""

    def __init__(self, name, placement, folder, *arguments):
        self.name, self.placement, self.folder = name, placement, folder
        self.port = free_port()
        self.log = folder / f"{name}-{self.port}.log"
        command = [*placement.server, *PEERS[name].command(name, self.port, folder), *arguments]
        self.born = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(list(map(str, command)), cwd=HERE, stdout=log, stderr=log, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for pid, _ in self.stats():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def again(self, *arguments):
        """Another one like it."""
        return Server(self.name, self.placement, self.folder, *arguments)

    def wait(self):
        """Seconds from exec to the first answer."""
        while time.perf_counter() < self.born + PATIENCE_S and self.process.poll() is None:
            try:
                self.ask("GET", TARGET)
                return time.perf_counter() - self.born
            except (OSError, http.client.HTTPException):
                time.sleep(0.002)
        lines = self.log.read_text(errors="replace").split("\n")
        raise Absent("did not start: " + next(filter(str.strip, reversed(lines)), "no answer"))

    def ask(self, method, target, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        with contextlib.closing(connection):
            connection.request(method, target, body, {"Content-Type": "application/json"} if body else {})
            reply = connection.getresponse()
            return reply.status, reply.getheader("Content-Type"), reply.read()

    def check(self):
        asked = [("GET", TARGET, None, b"Sum: 6.0"), ("POST", "/", JSON, b"Sum: 6.0")]
        if PEERS[self.name].adds:
            asked += [("GET", "/?a=1&b=2.5", None, b"Sum: 3.5"), ("POST", "/", '{"a": 40, "b": 2}', b"Sum: 42.0")]
        for method, target, body, right in asked:
            reply = self.ask(method, target, body)
            if reply != (200, "text/plain; charset=utf-8", right):
                raise Wrong(f"{method} {target} {body or ''} was answered {reply}")

    def stats(self):
        """(pid, fields of /proc/PID/stat from the 3rd on; see proc(5)) of each process of the session."""
        for entry in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                fields = entry.read_text().rpartition(")")[2].split()
                if int(fields[3]) == self.process.pid:
                    yield int(entry.parent.name), fields

    def cpu(self):
        """CPU seconds used by the session."""
        return sum(int(fields[11]) + int(fields[12]) for _, fields in self.stats()) / os.sysconf("SC_CLK_TCK")

    def resident(self):
        """Resident memory of the session in MB; a page that two processes share counts twice."""
        return sum(int(fields[21]) for _, fields in self.stats()) * resource.getpagesize() / 1e6


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- the works: each is given a running server, and returns what it measured by column

# The fields of a request of Chrome; wrk adds Host, which makes 14.
BROWSER = {
    "Connection": "keep-alive",
    "sec-ch-ua": '"Chromium";v="130", "Google Chrome";v="130", "Not?A_Brand";v="99"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "Upgrade-Insecure-Requests": "1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0.0.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en;q=0.9",
    "Cookie": "visit=0",
}
POST = f"""
wrk.method, wrk.body, wrk.headers["Content-Type"] = "POST", '{JSON}', "application/json"
"""
PIPELINED = """
local batch
function init() batch = wrk.format():rep(16) end
function request() return batch end
"""
# No two requests in a row are alike. They are made before the load begins, so that making them does not slow it down.
CHANGING = """
local requests, n = {}, 0
function init()
    for i = 1, 20000 do
        wrk.headers["Cookie"] = "visit=" .. i
        requests[i] = wrk.format()
    end
end
function request() n = n % #requests + 1; return requests[n] end
"""


def load(server, options, column, connections=64, threads=1, fields=None, script=""):
    """Requests per second that wrk gets answered, and the 99th percentile of the latency in ms."""
    server.check()
    lua = options.folder / f"{column}.lua"
    lua.write_text(script)
    command = [*server.placement.load, "wrk", f"-t{threads}", f"-c{connections}", f"-d{int(options.seconds) + 5}s",
               "--latency", f"-s{lua}", *(f"-H{name}: {value}" for name, value in (fields or {}).items()),
               f"http://127.0.0.1:{server.port}{TARGET}"]
    told, busy = interrupted(options.seconds, command)
    try:
        rate = float(re.search(r"Requests/sec: +([\d.]+)", told)[1])
        number, unit = re.search(r"99% +([\d.]+)(us|ms|s|m)\b", told).groups()
    except (TypeError, AttributeError):
        raise Wrong(f"wrk: {told.strip()}") from None
    return {column: rate, f"{column} p99": float(number) * {"us": 1e-3, "ms": 1, "s": 1e3, "m": 6e4}[unit],
            f"{column} count": int(re.search(r"(\d+) requests in", told)[1]), f"{column} busy": busy / threads,
            f"{column} failed": sum(map(int, re.findall(r"(?:connect|read|write|timeout|responses:) (\d+)", told)))}


def interrupted(seconds, command):
    """What a command has printed when it is interrupted after so many seconds, and the CPU seconds per second it has used.

    wrk itself counts in whole seconds; its own time-out, a little later, ends it should this script be killed.
    """
    began, used = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.send_signal(signal.SIGINT)
            told = process.communicate(timeout=PATIENCE_S)[0]
        finally:
            process.kill()
    ended, total = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return told, (total.ru_utime - used.ru_utime + total.ru_stime - used.ru_stime) / (ended - began)


def crowd(server, options, column):
    """The speed of 64 connections among 10,000 idle ones in % of their speed alone; are all of the 10,000 answered, twice?"""
    with server.again() as fresh, contextlib.ExitStack() as stack:
        fresh.wait()
        alone = load(fresh, options, column)
        idle = []
        with contextlib.suppress(OSError):      # the server takes no more; those that are missing count as failed
            for _ in range(options.crowd):
                idle.append(stack.enter_context(socket.create_connection(("127.0.0.1", fresh.port), PATIENCE_S)))
        answered = ask_all(idle)
        among = load(fresh, options, column)
        answered = min(answered, ask_all(idle))
        return {column: 100 * among[column] / alone[column], f"{column} MB": fresh.resident(), f"{column} answered": answered,
                f"{column} failed": options.crowd - answered + alone[f"{column} failed"] + among[f"{column} failed"]}


def ask_all(connections):
    """How many connections are answered when all of them ask at once."""
    deadline, answered = time.monotonic() + PATIENCE_S, 0
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(f"GET {TARGET} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    for connection in connections:
        with contextlib.suppress(OSError):
            reply = chunk = b""
            while not reply.endswith(b"Sum: 6.0") and (chunk or not reply):
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                chunk = connection.recv(4096)
                reply += chunk
            answered += reply.endswith(b"Sum: 6.0")
    return answered


def start(server, _, column):
    """Seconds from exec to the first answer, and resident MB then."""
    with server.again() as fresh:
        return {column: fresh.wait(), f"{column} MB": fresh.resident()}


def workers(server, options, column):
    """Ours with 1, 2, 4 … workers: requests per second, and requests per CPU second of the server."""
    measured = {}
    for count in worker_counts() if server.name == "ours" and not server.placement.server else ():
        with server.again("--workers", count) as fresh:
            fresh.wait()
            time.sleep(SETTLE_S)
            before = fresh.cpu()
            figures = load(fresh, options, f"{column} {count}", threads=max(1, count // 2))
            requests = figures[f"{column} {count} count"]
            measured.update(figures, **{f"{column} {count} per CPU s": requests / (fresh.cpu() - before)})
    return measured


def worker_counts():
    return [2 ** n for n in range(10) if 2 ** n <= len(os.sched_getaffinity(0))]


WORKS = {
    "get-16": functools.partial(load, connections=16),
    "get-64": load,
    "get-256": functools.partial(load, connections=256),
    "browser": functools.partial(load, fields=BROWSER),
    "changing": functools.partial(load, fields=BROWSER, script=CHANGING),
    "post": functools.partial(load, script=POST),
    "pipelined": functools.partial(load, script=PIPELINED),
    "closing": functools.partial(load, fields={"Connection": "close"}),
    "crowd": crowd,
    "start": start,
    "workers": workers,
}


# --- the rounds

def measure(placement, options, results, troubles):
    """Start every server, give it every work in every round, and add what was measured to the results."""
    with contextlib.ExitStack() as stack:
        servers = []
        for name in options.peers:
            server = stack.enter_context(Server(name, placement, options.folder))
            with trouble(name, placement, troubles):
                progress(f"{placement.title}: {PEERS[name].title} started in {server.wait():.2f} s")
                server.check()
                servers.append(server)
        for number in range(options.rounds):
            for work in options.works:
                for server in servers[number % len(servers):] + servers[:number % len(servers)]:
                    with trouble(server.name, placement, troubles):
                        measured = WORKS[work](server, options, work)
                        for column, value in measured.items():
                            results[placement.title, server.name, column].append(value)
                        told = ", ".join(f"{column} {value:,.4g}" for column, value in measured.items())
                        progress(f"round {number + 1} of {options.rounds}: {PEERS[server.name].title}: {told}")


@contextlib.contextmanager
def trouble(name, placement, troubles):
    try:
        yield
    except (Absent, Wrong, OSError, http.client.HTTPException) as error:
        troubles.append((name, error, f"{PEERS[name].title}, {placement.title}: {error or type(error).__name__}"))
        progress(troubles[-1][-1])


def progress(line):
    print(line, file=sys.stderr, flush=True)


# --- the machine, and the command line

def machine():
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    tools = [re.search(r"wrk \S+", output("wrk", "--version")), re.search(r"nginx/\S+", output("nginx", "-v"))]
    return [f"{model[1] if model else platform.machine()}, {len(os.sched_getaffinity(0))} CPUs, {platform.system()} "
            f"{platform.release()}, {platform.python_implementation()} {platform.python_version()}",
            *(tool[0] for tool in tools if tool),
            *(f"{package} {version(package)}" for package in dict.fromkeys(" ".join(p.packages for p in PEERS.values()).split()))]


def output(*command):
    with contextlib.suppress(OSError):
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
    return ""


def version(package):
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "(missing)"


def arguments(argv):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], epilog="The table goes to stdout, progress to stderr. "
                                     "Exit status: 0, or 1 when a reply was wrong or a request of ours failed; speed is never judged.")
    parser.add_argument("--quick", action="store_true", help="1 round of short loads, placed by the OS, no chart: a check in under 2 minutes")
    parser.add_argument("--rounds", type=int, help="how often each work is given to each server (default: 5)")
    parser.add_argument("--seconds", type=float, help="length of one load (default: 2)")
    parser.add_argument("--only", metavar="WORK,…", type=names(WORKS), help=f"works to do, of {', '.join(WORKS)} (default: all)")
    parser.add_argument("--peers", metavar="NAME,…", type=names(PEERS), help=f"servers to start, of {', '.join(PEERS)} (default: all)")
    parser.add_argument("--placement", choices=["os", "pinned", "both"], help="leave servers and load to the OS, give each a CPU of its "
                        "own, or do first the one, then the other (default: both)")
    parser.add_argument("--table", metavar="FILE", type=Path, help="write the table here, too")
    parser.add_argument("--chart", metavar="FILE", type=Path, help="write the chart here (default: .github/benchmark.svg)")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (0.3 if options.quick else 2)
    options.works, options.peers = options.only or list(WORKS), options.peers or list(PEERS)
    options.placement = options.placement or ("os" if options.quick else "both")
    options.chart = options.chart or (None if options.quick else PROJECT / ".github" / "benchmark.svg")
    return options


def names(known):
    def split(text):
        chosen = text.split(",")
        if not set(chosen) <= set(known):
            raise argparse.ArgumentTypeError(f"choose from {', '.join(known)}")
        return chosen
    return split


def document(options, results, titles, troubles, failures, minutes):
    """All that is told, in Markdown."""
    versions = machine()
    lines = [f"{versions[0]}; {', '.join(versions[1:])}. One server process each, load by wrk with one thread on the same machine; "
             f"medians of {options.rounds} rounds of {options.seconds:g} s (min–max), {minutes:.0f} minutes in all.", "",
             report.table(results, titles), "",
             "† wrk used a whole CPU and may be the limit. ‡ Requests failed. nginx and the floor answer a constant.", "",
             *(f"- {text}" for *_, text in troubles),
             *(f"- {titles[server]}, {placement}: {count:,g} requests of {column} failed" for (placement, server, column), count in failures),
             "", report.verdicts(results, titles)]
    return "\n".join(lines)


def main(argv=None):
    options = arguments(argv)
    if not shutil.which("wrk"):
        progress("wrk is needed; most distributions have a package of this name")
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))      # so that the servers are ended then, too
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    options.crowd = min(CROWD, hard - 1000)
    results, troubles, began = defaultdict(list), [], time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        for key, placement in placements().items():
            if options.placement in (key, "both"):
                measure(placement, options, results, troubles)
    results = dict(results)
    titles = {name: PEERS[name].title for name in options.peers}
    failures = [(key, sum(values)) for key, values in results.items() if key[2].endswith(" failed") and sum(values)]
    told = document(options, results, titles, troubles, failures, (time.monotonic() - began) / 60)
    print(told)
    if options.table:
        options.table.write_text(told, encoding="utf-8")
    if options.chart and any(column == report.COLUMN for _, _, column in results):
        options.chart.parent.mkdir(parents=True, exist_ok=True)
        options.chart.write_text(report.chart(results, titles, machine()[:1]), encoding="utf-8")
    return int(any(name == "ours" or isinstance(error, Wrong) for name, error, _ in troubles)
               or any(server == "ours" for (_, server, _), _ in failures))


if __name__ == "__main__":
    sys.exit(main())
