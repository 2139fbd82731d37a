"""The works of the benchmark. Each is given a server, which is halted elsewhere, and returns figures by column."""

from __future__ import annotations

import contextlib
import math
import os
import re
import resource
import signal
import socket
import struct
import subprocess
import time
from functools import partial
from typing import Callable, NamedTuple

from servers import (
    JSON,
    JSON_FIELD,
    PATIENCE_SECONDS,
    SETTLE_SECONDS,
    TARGET,
    Absent,
    Placement,
    Server,
    Unmeasured,
    on,
)

RIGHT = b"Sum: 6.0"
CONNECTIONS = 64
CROWDS = (10_000, 50_000)  # keep-alive connections held at once
PORTS = 20_000  # connections from one address of the loopback, which has 28,000 ports to give
BIND_ADDRESS_NO_PORT = 24  # IP_BIND_ADDRESS_NO_PORT, see ip(7): a port is taken for one destination only
RESET = struct.pack("ii", 1, 0)  # what SO_LINGER takes, so that no closed connection holds its port for a minute

# ------------------------------------------------------------------------------------------------------------ Rates

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
DEPTH = 16
PIPELINED = f"""
local batch
function init() batch = wrk.format():rep({DEPTH}) end
function request() return batch end
"""


def load(server, options, column, connections=CONNECTIONS, threads=1, fields=None, script=""):
    """Requests per second that wrk gets answered, and what they cost."""
    server.check()
    lua = options.folder / f"{column}.lua"
    lua.write_text(script)
    fields = [f"-H{name}: {value}" for name, value in (fields or {}).items()]
    # wrk counts whole seconds only, hence it is interrupted; its own end comes later, should this script be killed.
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{int(options.seconds) + 5}s", "--latency", f"-s{lua}"]
    told, busy, cpu = under_load(server, options.seconds, [*command, *fields, server.url])
    done, rate = re.search(r"(\d+) requests in", told), re.search(r"Requests/sec: +([\d.]+)", told)
    p99 = re.search(r"99% +([\d.]+)(us|ms|s|m)\b", told)
    if not (done and rate and p99):
        raise Absent(f"wrk says: {told.strip()}")
    if not int(done[1]):
        raise Absent("no request was answered")
    latency = float(p99[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60_000}[p99[2]]
    return {
        column: float(rate[1]),
        # wrk knows none, and says 0, where no batch of pipelined requests was answered as a whole.
        **({f"{column} p99": latency} if latency else {}),
        f"{column} cpu": cpu / int(done[1]) * 1e6,
        f"{column} busy": busy / threads,
        f"{column} failed": sum(map(int, re.findall(r"(?:connect|read|write|timeout|responses:) (\d+)", told))),
    }


def pipelined(server, options, column):
    """load() with 16 requests at a time, after one look whether all 16 are answered."""
    with socket.create_connection(("127.0.0.1", server.port), 2) as connection:
        connection.sendall(REQUESTS["pipelined"](0).encode())
        replies = b""
        with contextlib.suppress(TimeoutError, socket.timeout):  # two names for one, from Python 3.10 on
            while replies.count(RIGHT) < DEPTH and (chunk := connection.recv(4096)):
                replies += chunk
    if replies.count(RIGHT) < DEPTH:
        raise Absent(f"of {DEPTH} pipelined requests, {replies.count(RIGHT)} were answered")
    return load(server, options, column, script=PIPELINED)


def closing(server, options, column):
    """Requests per second of ab, which opens a connection for each. wrk would take each that is closed for an error."""
    server.check()
    command = ["ab", "-q", "-r", f"-c{CONNECTIONS}", f"-t{int(options.seconds) + 5}", "-n100000000", server.url]
    told, busy, cpu = under_load(server, options.seconds, command)
    done, rate = re.search(r"Complete requests: +(\d+)", told), re.search(r"Requests per second: +([\d.]+)", told)
    if not (done and rate):
        raise Absent(f"ab says: {(told.strip().splitlines() or ['nothing'])[-1]}")
    failed = re.findall(r"(?:Failed requests|Non-2xx responses): +(\d+)", told)
    return {
        column: float(rate[1]),
        f"{column} cpu": cpu / int(done[1]) * 1e6,
        f"{column} busy": busy,
        f"{column} failed": sum(map(int, failed)),
    }


def under_load(server, seconds, command):
    """What a load tells when it is interrupted, the CPU seconds per second that it took, and those of the server."""
    command = list(map(str, [*server.placement.load, *command]))
    began, before, served = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN), server.cpu()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
            process.send_signal(signal.SIGINT)
            told = process.communicate(timeout=PATIENCE_SECONDS)[0]
        except subprocess.TimeoutExpired:
            raise Absent(f"{command[0]} does not end") from None
        finally:
            process.kill()
    ended, after = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = (after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime) / (ended - began)
    return told, busy, server.cpu() - served


# ------------------------------------------------------------------------------------- Memory, and many connections


def start(server, _, column):
    """Seconds from exec to the first answer, and resident MB then."""
    with server.again() as fresh:
        return {column: fresh.wait(), f"{column} MB": fresh.resident()}


def idle(server, options, column):
    """KB of resident memory for each connection that has been answered once, and how many of them were, twice."""
    measured = {}
    for count in options.crowds:
        with server.again() as fresh, contextlib.ExitStack() as stack:
            fresh.wait()
            time.sleep(SETTLE_SECONDS)
            load(fresh, options, column)  # for all that happens only once
            before = fresh.resident()
            connections = crowd_of(count, fresh, stack)
            answered = ask_all(connections)
            measured[f"{column} {count} KB"] = (fresh.resident() - before) * 1000 / max(1, len(connections))
            measured[f"{column} {count} answered"] = min(answered, ask_all(connections))
    return measured


def crowd(server, options, column):
    """The speed of 64 connections among 10,000 idle ones, in % of their speed alone; the 10,000 are asked, twice."""
    with server.again() as fresh, contextlib.ExitStack() as stack:
        fresh.wait()
        time.sleep(SETTLE_SECONDS)
        load(fresh, options, column)  # for all that happens only once
        alone = load(fresh, options, column)
        idle = crowd_of(options.crowds[0], fresh, stack)
        answered = ask_all(idle)
        among = load(fresh, options, column)
        answered = min(answered, ask_all(idle))
        return {
            column: 100 * among[column] / alone[column],
            f"{column} MB": fresh.resident(),
            f"{column} answered": answered,
            f"{column} failed": options.crowds[0] - answered + alone[f"{column} failed"] + among[f"{column} failed"],
        }


def crowd_of(count, server, stack):
    """Open so many connections; those that the server does not take are missing."""
    connections = []
    with contextlib.suppress(OSError):
        for number, seconds_left in enumerate(countdown(count)):
            connection = stack.enter_context(socket.socket())
            connection.setsockopt(socket.IPPROTO_IP, BIND_ADDRESS_NO_PORT, 1)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            connection.bind((f"127.0.0.{1 + number // PORTS}", 0))
            connection.settimeout(seconds_left)
            connection.connect(("127.0.0.1", server.port))
            connections.append(connection)
    return connections


def ask_all(connections):
    """How many connections are answered when all of them ask at once."""
    for connection in connections:
        with contextlib.suppress(OSError):
            connection.sendall(head("GET", TARGET, {}).encode())
    return answered(connections)


def answered(connections, depth=1):
    """On how many connections so many answers come."""
    number = 0
    for connection, seconds_left in zip(connections, countdown(len(connections))):
        connection.settimeout(seconds_left)
        with contextlib.suppress(OSError):
            reply = chunk = connection.recv(4096)
            while chunk and reply.count(RIGHT) < depth:
                chunk = connection.recv(4096)
                reply += chunk
            number += bool(chunk)
    return number


def countdown(times):
    """So many times, the seconds that are left of the patience for all of them."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for _ in range(times):
        yield max(0.0001, deadline - time.monotonic())


# --------------------------------------------------------------------------------------------------- More than one CPU


def workers(server, options, column):
    """With 1, 2, 4 … workers: requests per second, and requests per CPU second of the server."""
    measured = {}
    for count in powers_of_two():
        with server.again("--workers", count) as fresh:
            measured.update(per_cpu(fresh, options, f"{column} {count}", count))
    return measured


def threads(server, options, column):
    """The same with 1, 2, 4 … serving threads of a free-threaded Python, which has one for each CPU that it may use."""
    measured = {}
    cpus = sorted(os.sched_getaffinity(0))
    for count in powers_of_two():
        placement = Placement("", on(*cpus[:count]), on(*(cpus[count:] or cpus)))
        with Server("ours", placement, server.folder, python=options.free_threaded) as fresh:
            measured.update(per_cpu(fresh, options, f"{column} {count}", count))
        measured[f"{column} {count} spare"] = len(cpus) - count  # CPUs for the load
    return measured


def per_cpu(server, options, column, count):
    server.wait()
    time.sleep(SETTLE_SECONDS)
    figures = load(server, options, column, threads=max(1, count // 2))
    return {**figures, f"{column} per CPU s": 1e6 / max(figures[f"{column} cpu"], 1e-9)}


def powers_of_two():
    """Up to the number of CPUs."""
    return [2**n for n in range(len(os.sched_getaffinity(0)).bit_length())]


# -------------------------------------------------------------------------------------------------------- Instructions

STARTING_SECONDS = 90  # for a server to start under valgrind, which slows it down fifty times
QUIET_SECONDS = 30  # to wait for a server to be idle, at most
WARM_UP, MEASURED = 3, 10  # times that all connections ask


def instructions(server, options, column):
    """Instructions per request of each work, the kernel's not among them, by callgrind.

    The server is halted while 64 connections ask, and so finds all requests at once: the figure is repeatable.
    """
    files = server.folder / f"callgrind-{server.port}"
    callgrind = "valgrind", "--tool=callgrind", "--trace-children=yes", f"--callgrind-out-file={files}.%p"
    measured = {}
    with server.again(placement=Placement("", callgrind)) as slow, contextlib.ExitStack() as stack:
        slow.wait(STARTING_SECONDS)
        idle_again(slow)
        connections = crowd_of(CONNECTIONS, slow, stack)
        for work, request in REQUESTS.items():
            depth = DEPTH if work == "pipelined" else 1
            asked = partial(all_ask_at_once, slow, connections, request, depth)
            if not asked(WARM_UP):
                break
            dump(slow, files)
            if not asked(MEASURED):
                break
            measured[f"{work} {column}"] = dump(slow, files) / (CONNECTIONS * depth * MEASURED)
    if not measured:
        raise Absent("no request was answered under valgrind")
    return measured


def idle_again(server):
    """Wait until the server has nothing more to do for its start."""
    deadline, before = time.monotonic() + QUIET_SECONDS, -1.0
    while time.monotonic() < deadline and before < (before := server.cpu()):
        time.sleep(SETTLE_SECONDS)


def all_ask_at_once(server, connections, request, depth, times):
    """Send so many requests on each connection, so many times; whether all are answered."""
    for time_number in range(times):
        server.signal(signal.SIGSTOP)
        for number, connection in enumerate(connections):
            connection.sendall(request(time_number * len(connections) + number).encode())
        server.signal(signal.SIGCONT)
        if answered(connections, depth) < len(connections):
            return False
    return True


def dump(server, files):
    """How many instructions all processes of the server have executed since they were asked last."""
    for pid, _ in server.stats():
        command = ["vgdb", f"--pid={pid}", "dump"]
        try:
            subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS, check=True)
        except subprocess.SubprocessError as error:
            raise Unmeasured(f"valgrind cannot be asked ({error})") from None
    total = 0
    for file in files.parent.glob(f"{files.name}.*.*"):
        total += sum(map(int, re.findall(r"^totals: (\d+)", file.read_text(errors="replace"), re.MULTILINE)))
        file.unlink()
    return total


def head(method, target, fields):
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines) + "\r\n\r\n"


# The same requests as those of the rates, by their number.
REQUESTS = {
    "get-64": lambda _: head("GET", TARGET, {}),
    "browser": lambda _: head("GET", TARGET, BROWSER),
    "changing": lambda number: head("GET", TARGET, {**BROWSER, "Cookie": f"visit={number + 1}"}),
    "post": lambda _: head("POST", TARGET, {**JSON_FIELD, "Content-Length": len(JSON)}) + JSON,
    "pipelined": lambda _: head("GET", TARGET, {}) * DEPTH,  # the last, as some servers hang then
}

# ---------------------------------------------------------------------------------------------------------------- All


class Work(NamedTuple):
    measure: Callable
    rounds: float = math.inf  # if there are not as many as those of the benchmark: the last, in the first placement
    seconds: float = 0  # that it takes beside one load, roughly, until it is known
    only_ours: bool = False
    quick: bool = True  # also part of a run that only checks the answers


WORKS = {
    "get-16": Work(partial(load, connections=16), quick=False),
    "get-64": Work(load),
    "get-256": Work(partial(load, connections=256), quick=False),
    "browser": Work(partial(load, fields=BROWSER)),
    "changing": Work(partial(load, fields=BROWSER, script=CHANGING), quick=False),
    "post": Work(partial(load, script=POST)),
    "pipelined": Work(pipelined),
    "closing": Work(closing),
    "start": Work(start, rounds=3, quick=False),
    "crowd": Work(crowd, rounds=3, seconds=8, only_ours=True),
    "workers": Work(workers, rounds=5, seconds=4, only_ours=True),
    "threads": Work(threads, rounds=5, seconds=4, only_ours=True),
    "idle": Work(idle, rounds=1, seconds=6, quick=False),
    "instructions": Work(instructions, rounds=1, seconds=30, quick=False),
}
RATES = [name for name, work in WORKS.items() if work.rounds == math.inf]
