#!/usr/bin/env python3
"""The benchmark: webserver_influx.py beside its peers, on one machine, in one run.

    pip install -r tests/benchmark/requirements.txt    # the peers; wrk, nginx and taskset are packages of the system
    python tests/benchmark/run.py                      # every work in both placements, 5 rounds: 40 minutes
    python tests/benchmark/run.py --quick              # under 2 minutes: is every reply right, every request answered?

Each server is one process that does the same work (peers.py says how it is set up). All of them are started; then, in
each round, each work is given to each server in turn, while the others are halted. So a noisy moment of the machine
falls on all alike. Before a load the server's replies are compared byte for byte; after it, wrk must have seen no
error. Figures are medians of the rounds with (min–max). Everything stays on 127.0.0.1, ends by itself and leaves
nothing behind, also on Ctrl-C. It needs Linux, Python 3.9 and nothing but its standard library; a peer that is not
there is listed as such.
"""

from __future__ import annotations

import argparse
import contextlib
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
from collections import defaultdict, deque
from functools import partial
from pathlib import Path
from typing import Callable, NamedTuple

import report

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent.parent
BEGAN = time.monotonic()
TARGET = "/?a=3&b=3"
JSON = '{"a": 3, "b": 3}'
CROWD = 10_000  # keep-alive connections held at once
NOWHERE = "influxdb://nobody:nothing@127.0.0.1:9/benchmark"  # so that no database gets statistics of this
PATIENCE_SECONDS = 20  # for a server to start, to send one reply, to take the crowd, to answer all of it
SETTLE_SECONDS = 1  # for what a server still does after its first answer, such as starting more workers


class Absent(Exception):
    """A server could not be started, or has ended."""


class Wrong(Exception):
    """A server did not answer as it must."""


# -------------------------------------------------------------------------------------------------- Servers

NGINX = """
daemon off; worker_processes 1; pid nginx-{port}.pid;
events {{ worker_connections 16384; }}
http {{
    access_log off; keepalive_requests 1000000000; keepalive_timeout 1h;
    client_body_temp_path t; proxy_temp_path t; fastcgi_temp_path t; uwsgi_temp_path t; scgi_temp_path t;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{ default_type "text/plain; charset=utf-8"; return 200 "Sum: 6.0"; }}
    }}
}}
"""


def ours(_, port, folder):
    command = sys.executable, PROJECT / "webserver_influx.py"
    return *command, "--bind", "127.0.0.1", "--port", port, "--state", folder / f"state-{port}"


def peer(name, port, _):
    return sys.executable, HERE / "peers.py", name, port


def nginx(_, port, folder):
    (folder / f"nginx-{port}.conf").write_text(NGINX.format(port=port))
    return "nginx", "-p", folder, "-e", "stderr", "-c", f"nginx-{port}.conf"


class Peer(NamedTuple):
    title: str
    packages: str = ""  # on PyPI, whose versions are told
    command: Callable = peer
    adds: bool = True  # a constant cannot be asked for another sum
    skips: tuple = ("crowd", "workers")  # which are about ours


PEERS = {
    "ours": Peer("webserver_influx.py", command=ours, skips=()),
    "uvicorn": Peer("uvicorn", "uvicorn uvloop httptools"),
    "granian": Peer("Granian", "granian uvloop"),
    "socketify": Peer("socketify", "socketify"),
    "aiohttp": Peer("aiohttp", "aiohttp uvloop"),
    "blacksheep": Peer("BlackSheep on Granian", "blacksheep granian"),
    "robyn": Peer("Robyn", "robyn"),
    "fastapi": Peer("FastAPI on uvicorn", "fastapi uvicorn"),
    "flask": Peer("Flask on gunicorn", "flask gunicorn gunicorn_h1c"),
    "waitress": Peer("waitress", "waitress"),
    "cheroot": Peer("cheroot", "cheroot"),
    "bottle": Peer("Bottle on cheroot", "bottle cheroot"),
    "http.server": Peer("http.server with care"),
    "nginx": Peer("nginx, return 200", command=nginx, adds=False),
    # It takes whatever arrives for one request, and never closes.
    "floor": Peer("floor of this design", adds=False, skips=("pipelined", "closing", "start", "crowd", "workers")),
}


class Placement(NamedTuple):
    title: str
    server: tuple = ()  # put before the command of a server, to place it
    load: tuple = ()  # put before the command of a load


def placements():
    placed = {"os": Placement("placed by the OS")}
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) > 1 and shutil.which("taskset"):
        server, load = (("taskset", "-c", cpu) for cpu in cpus[:2])
        placed["pinned"] = Placement("pinned, server on one CPU and load on another", server, load)
    return placed


class Server:
    """A server on a port of its own, in a session of its own, so that all it starts is found, weighed and ended."""

    def __init__(self, name, placement, folder, *arguments):
        self.name, self.placement, self.folder = name, placement, folder
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}{TARGET}"
        self.log = folder / f"{name}-{self.port}.log"
        command = [*placement.server, *PEERS[name].command(name, self.port, folder), *arguments]
        self.command = list(map(str, command))
        self.start()

    def start(self):
        self.born = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, cwd=HERE, stdout=log, stderr=log, start_new_session=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def signal(self, number):
        for pid, _ in self.stats():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    @contextlib.contextmanager
    def awake(self):
        """Elsewhere it is halted, as some servers are busy when they are idle. One that has crashed is started anew."""
        self.signal(signal.SIGCONT)
        if self.process.poll() is not None:
            self.signal(signal.SIGKILL)
            self.start()
            self.wait()
        try:
            yield
        finally:
            self.signal(signal.SIGSTOP)

    def again(self, *arguments):
        """Another one like it."""
        return Server(self.name, self.placement, self.folder, *arguments)

    def wait(self):
        """Seconds from exec to the first answer."""
        while time.perf_counter() < self.born + PATIENCE_SECONDS and self.process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.ask("GET", TARGET)
                return time.perf_counter() - self.born
            time.sleep(0.002)
        lines = self.log.read_text(errors="replace").splitlines()
        raise Absent(next(filter(str.strip, reversed(lines)), "no answer"))

    def ask(self, method, target, body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_SECONDS)
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


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# ---------------------------------------------------------------------------------------------------- Works
# Each is given a running server and returns what it measured, by column.

# The fields of a request of Chrome; wrk adds Host, which makes 14.
BROWSER = {
    "Connection": "keep-alive",
    "sec-ch-ua": '"Chromium";v="130", "Google Chrome";v="130", "Not?A_Brand";v="99"',
    "sec-ch-ua-mobile": "?0",
    "sec-ch-ua-platform": '"Linux"',
    "Upgrade-Insecure-Requests": "1",
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8",
    "Sec-Fetch-Site": "none",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Dest": "document",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Accept-Language": "en-GB,en;q=0.9",
    "Cookie": "visit=0",
}
# The requests are made before the load begins, so that making them does not slow it down.
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
POST = f"""
wrk.method, wrk.body, wrk.headers["Content-Type"] = "POST", '{JSON}', "application/json"
"""
PIPELINED = """
local batch
function init() batch = wrk.format():rep(16) end
function request() return batch end
"""


def load(server, options, column, connections=64, threads=1, fields=None, script=""):
    """Requests per second that wrk gets answered, and the 99th percentile of the latency in ms."""
    server.check()
    lua = options.folder / f"{column}.lua"
    lua.write_text(script)
    fields = [f"-H{name}: {value}" for name, value in (fields or {}).items()]
    # wrk counts whole seconds only, hence it is interrupted; its own end comes later, should this script be killed.
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{int(options.seconds) + 5}s", "--latency", f"-s{lua}"]
    told, busy = interrupt_after(options.seconds, [*server.placement.load, *command, *fields, server.url])
    done, rate = re.search(r"(\d+) requests in", told), re.search(r"Requests/sec: +([\d.]+)", told)
    p99 = re.search(r"99% +([\d.]+)(us|ms|s|m)\b", told)
    if not (done and rate and p99):
        raise Absent(f"wrk says: {told.strip()}")
    return {
        column: float(rate[1]),
        f"{column} p99": float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[p99[2]],
        f"{column} done": int(done[1]),
        f"{column} busy": busy / threads,
        f"{column} failed": sum(map(int, re.findall(r"(?:connect|read|write|timeout|responses:) (\d+)", told))),
    }


def interrupt_after(seconds, command):
    """What a command has told when it is interrupted, and the CPU seconds per second that it used."""
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    command = list(map(str, command))
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.send_signal(signal.SIGINT)
            told = process.communicate(timeout=PATIENCE_SECONDS)[0]
        finally:
            process.kill()
    ended, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    return told, (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / (ended - began)


def closing(server, options, column):
    """Requests per second of ab, which opens a connection for each. wrk would take each that is closed for an error."""
    server.check()
    command = ["ab", "-q", "-r", "-c64", f"-t{int(options.seconds) + 5}", "-n100000000", server.url]
    told, busy = interrupt_after(options.seconds, [*server.placement.load, *command])
    rate = re.search(r"Requests per second: +([\d.]+)", told)
    if not rate:
        raise Absent(f"ab says: {told.strip().splitlines()[-1]}")
    failed = re.findall(r"(?:Failed requests|Non-2xx responses): +(\d+)", told)
    return {column: float(rate[1]), f"{column} busy": busy, f"{column} failed": sum(map(int, failed))}


def crowd(server, options, column):
    """The speed of 64 connections among 10,000 idle ones, in % of their speed alone; the 10,000 are asked, twice."""
    with server.again() as fresh, contextlib.ExitStack() as stack:
        fresh.wait()
        time.sleep(SETTLE_SECONDS)
        load(fresh, options, column)  # for all that happens only once
        alone = load(fresh, options, column)
        idle = []
        with contextlib.suppress(OSError):  # those that it does not take count as failed
            for seconds_left in countdown(options.crowd):
                connection = socket.create_connection(("127.0.0.1", fresh.port), seconds_left)
                idle.append(stack.enter_context(connection))
        answered = ask_all(idle)
        among = load(fresh, options, column)
        answered = min(answered, ask_all(idle))
        return {
            column: 100 * among[column] / alone[column],
            f"{column} MB": fresh.resident(),
            f"{column} answered": answered,
            f"{column} failed": options.crowd - answered + alone[f"{column} failed"] + among[f"{column} failed"],
        }


def ask_all(connections):
    """How many connections are answered when all of them ask at once."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(f"GET {TARGET} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    answered = 0
    for connection, seconds_left in zip(connections, countdown(len(connections))):
        connection.settimeout(seconds_left)
        with contextlib.suppress(OSError):
            reply = chunk = connection.recv(4096)
            while chunk and not reply.endswith(b"Sum: 6.0"):
                chunk = connection.recv(4096)
                reply += chunk
            answered += bool(chunk)
    return answered


def countdown(times):
    """So many times, the seconds that are left of the patience for all of them."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for _ in range(times):
        yield max(0.0001, deadline - time.monotonic())


def start(server, _, column):
    """Seconds from exec to the first answer, and resident MB then."""
    with server.again() as fresh:
        return {column: fresh.wait(), f"{column} MB": fresh.resident()}


def workers(server, options, column):
    """With 1, 2, 4 … workers: requests per second, and requests per CPU second of the server."""
    measured = {}
    for count in worker_counts(server.placement):
        with server.again("--workers", count) as fresh:
            fresh.wait()
            time.sleep(SETTLE_SECONDS)
            before = fresh.cpu()
            figures = load(fresh, options, f"{column} {count}", threads=max(1, count // 2))
            measured.update(figures)
            measured[f"{column} {count} per CPU s"] = figures[f"{column} {count} done"] / (fresh.cpu() - before)
    return measured


def worker_counts(placement):
    """Powers of two up to the number of CPUs; a placement on one CPU shows nothing."""
    cpus = 0 if placement.server else len(os.sched_getaffinity(0))
    return [2**n for n in range(cpus.bit_length())]


WORKS = {
    "get-16": partial(load, connections=16),
    "get-64": load,
    "get-256": partial(load, connections=256),
    "browser": partial(load, fields=BROWSER),
    "changing": partial(load, fields=BROWSER, script=CHANGING),
    "post": partial(load, script=POST),
    "pipelined": partial(load, script=PIPELINED),
    "closing": closing,
    "crowd": crowd,
    "start": start,
    "workers": workers,
}


# --------------------------------------------------------------------------------------------------- Rounds


class Trouble(NamedTuple):
    server: str
    what: str
    wrong: bool  # an answer was wrong, or it was ours that did not answer


def measure(placement, options, results, troubles):
    """Start every server, give every work to each in every round, and add what was measured to the results."""
    servers = deque()
    with contextlib.ExitStack() as stack:
        for name in options.peers:
            with listed(f"{placement.title}, start", name, troubles):
                server = stack.enter_context(Server(name, placement, options.folder))
                progress(f"{placement.title}: {PEERS[name].title} answered after {server.wait():.2f} s")
                server.check()
                servers.append(server)
        time.sleep(SETTLE_SECONDS)
        for server in servers:
            server.signal(signal.SIGSTOP)
        for number in range(options.rounds):
            for work in options.works:
                for server in servers:
                    if work not in PEERS[server.name].skips:
                        with listed(f"{placement.title}, {work}", server.name, troubles), server.awake():
                            note(results, WORKS[work](server, options, work), server, f"round {number + 1}, {work}")
            servers.rotate(-1)  # each round begins with another one


@contextlib.contextmanager
def listed(where, name, troubles):
    """Go on with the next server when there is trouble with one."""
    try:
        yield
    except (Absent, Wrong, OSError, http.client.HTTPException) as error:
        what = f"{PEERS[name].title}, {where}: {error or type(error).__name__}"
        troubles.append(Trouble(name, what, isinstance(error, Wrong) or name == "ours"))
        progress(what)


def note(results, measured, server, where):
    """Add what was measured to the results, and show the first figure of it."""
    for column, value in measured.items():
        results[server.placement.title, server.name, column].append(value)
    progress(f"{where}: {PEERS[server.name].title} {next(iter(measured.values()), 0):,.5g}")


def progress(line):
    print(f"{time.monotonic() - BEGAN:5.0f} s  {line}", file=sys.stderr, flush=True)


# --------------------------------------------------------------------------------------------- Command line


def machine():
    """CPU, kernel and Python in one text; the versions of the tools and the peers in another."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    cpus = f"{len(os.sched_getaffinity(0))} × {model[1] if model else platform.machine()}"
    cpus += f", {busy():.0%} busy before the run"
    tools = [output("wrk", "--version", find=r"wrk \S+"), output("nginx", "-v", find=r"nginx/\S+")]
    packages = dict.fromkeys(" ".join(peer.packages for peer in PEERS.values()).split())
    return f"{cpus}, {platform.system()} {platform.release()}, {python}", ", ".join([*tools, *map(version, packages)])


def busy(seconds=1):
    """The share of CPU time that is in use now, or that another machine on the same hardware takes; see proc(5)."""
    samples = []
    for pause in (seconds, 0):
        user, nice, system, idle, iowait, *others = map(int, Path("/proc/stat").read_text().split()[1:9])
        samples.append((user + nice + system + sum(others), idle + iowait))
        time.sleep(pause)
    used, free = (after - before for before, after in zip(*samples))
    return used / max(used + free, 1)


def output(*command, find):
    with contextlib.suppress(OSError):
        told = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
        return re.search(find, told)[0]
    return f"no {command[0]}"


def version(package):
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {package}"


def document(options, results, troubles):
    """All that is told, in Markdown."""
    titles = {name: PEERS[name].title for name in options.peers}
    failed = [
        f"- {titles[name]}, {placement}: {sum(values):,} requests of {column}"
        for (placement, name, column), values in results.items()
        if column.endswith(" failed") and sum(values)
    ]
    trouble = "\n".join([*(f"- {what}" for what in dict.fromkeys(trouble.what for trouble in troubles)), *failed])
    there, versions = options.machine
    return f"""\
{there}. {versions}.

Each server is one process; the load, one thread of wrk, or ab for a connection per request, is on the same machine.
Medians (min–max) of {options.rounds} × {options.seconds:g} s.

{report.table(results, titles)}

† The load was busy all the time and may be the limit. ‡ Requests failed. nginx and the floor add up nothing.

{trouble or "No reply was wrong, no request failed."}

{report.verdicts(results, titles)}"""


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="The table goes to standard output, progress to standard error. The exit status is 1 when a reply was "
        "wrong or a request to webserver_influx.py failed; it never depends on speed.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a check: one round of short loads, placed by the OS, no chart")
    add("--rounds", metavar="N", type=int, help="how often each work is given to each server (default: 5)")
    add("--seconds", metavar="S", type=float, help="how long one load lasts (default: 2)")
    add("--only", metavar="WORK,…", type=some_of(WORKS), help=f"some of the works: {', '.join(WORKS)}")
    add("--peers", metavar="NAME,…", type=some_of(PEERS), help=f"some of the servers: {', '.join(PEERS)}")
    add("--placement", choices=["os", "pinned", "both"], help="where the OS likes, on a CPU each, or both (default)")
    add("--table", metavar="FILE", type=Path, help="write the table to a file, too")
    add("--chart", metavar="FILE", type=Path, help="where the chart is written (default: .github/benchmark.svg)")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (1 if options.quick else 5)
    options.seconds = options.seconds or (0.3 if options.quick else 2)
    options.works, options.peers = options.only or list(WORKS), options.peers or list(PEERS)
    options.placement = options.placement or ("os" if options.quick else "both")
    if not options.quick:
        options.chart = options.chart or PROJECT / ".github" / "benchmark.svg"
    return options


def some_of(known):
    def split(text):
        chosen = text.split(",")
        if unknown := set(chosen) - set(known):
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: not one of {', '.join(known)}")
        return chosen

    return split


def open_files():
    """Let this process and its children open as many files as they may; return how many that are."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def main(argv=None):
    options = parse_arguments(argv)
    if not shutil.which("wrk"):
        print("run.py: error: wrk is missing; most distributions have a package of this name", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["WEBSERVER_INFLUX_DSN"] = NOWHERE
    options.crowd = min(CROWD, open_files() - 1000)
    options.machine = machine()
    results, troubles = defaultdict(list), []
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        for key, placement in placements().items():
            if options.placement in (key, "both"):
                measure(placement, options, results, troubles)
    told = document(options, results, troubles)
    print(told)
    if options.table:
        options.table.write_text(told + "\n", encoding="utf-8")
    if options.chart and any(column == report.COLUMN for _, _, column in results):
        options.chart.parent.mkdir(parents=True, exist_ok=True)
        titles = {name: PEERS[name].title for name in options.peers}
        options.chart.write_text(report.chart(results, titles, options.machine[0]), encoding="utf-8")
    ours_failed = [sum(v) for (_, name, column), v in results.items() if name == "ours" and column.endswith(" failed")]
    return int(any(ours_failed) or any(trouble.wrong for trouble in troubles))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
