#!/usr/bin/env python3
"""The benchmark: webserver_influx.py beside its peers, on one machine, in one run.

    pip install -r tests/benchmark/requirements.txt    # the peers; wrk, ab, nginx, go and valgrind are the system's
    python tests/benchmark/run.py                      # all of it, in both placements, 15 rounds: an hour
    python tests/benchmark/run.py --quick              # under a minute: is every reply right, every request answered?

Each server is one process (servers.py starts it, peers.py says what it does). All of them are up at the same time; in
each round, each work (works.py) is given to each server in turn, for a second, while the others are halted. So a noisy
minute of the machine falls on all alike, and a ratio is the median of the ratios within a round. A server that is less
than half as fast as webserver_influx.py in each of the first rounds is not asked again. Before a load the server's
replies are compared byte for byte; after it, no error may have been seen. Everything stays on 127.0.0.1, ends by itself
and leaves nothing behind, also on Ctrl-C. It needs Linux, Python 3.9 and nothing but its standard library; a peer that
is not there is listed as such.
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
import subprocess
import sys
import tempfile
import time
from collections import defaultdict, deque
from pathlib import Path
from typing import NamedTuple

import report
from servers import PEERS, PROJECT, SETTLE_SECONDS, Absent, Server, Unmeasured, Wrong, placements
from works import CROWDS, RATES, WORKS

NOWHERE = "influxdb://nobody:nothing@127.0.0.1:9/benchmark"  # so that no database gets statistics of this
TRIAL_ROUNDS = 3  # in which every server is asked
HOPELESS = 2  # the ratio to ours from which no more rounds are needed

# ----------------------------------------------------------------------------------------------------------- Rounds


class Step(NamedTuple):
    placement: str  # its key
    number: int  # of the round, from 0
    work: str
    server: str


def plan(options):
    """All steps, in their order; each round begins with another server."""
    for placed in options.placements:
        servers = deque(options.peers)
        for number in range(options.rounds):
            for work in options.works:
                for server in servers:
                    if is_given(options, placed, number, work, server):
                        yield Step(placed, number, work, server)
            servers.rotate(-1)


def is_given(options, placed, number, work, server):
    """Whether a server is given a work in this round."""
    peer, about = PEERS[server], WORKS[work]
    if work in peer.skips or peer.works and work not in peer.works:
        return False
    if about.only_ours and server != report.OURS:
        return False
    return work in RATES or number >= options.rounds - about.rounds and placed == options.placements[0]


class Trouble(NamedTuple):
    server: str
    what: str
    wrong: bool  # an answer was wrong, or it was ours that did not answer


class Benchmark:
    """A run: its steps, what they measured, and what went wrong."""

    def __init__(self, options):
        self.options = options
        self.results = defaultdict(dict)  # see report.py
        self.troubles = []
        self.steps = list(plan(options))
        self.began = time.monotonic()
        self.seconds = defaultdict(list)  # that each step took, by its work
        self.out = set()  # (placement, server, work) that need, or allow, no more

    def run(self):
        for key, placement in placements().items():
            if key in self.options.placements:
                with contextlib.ExitStack() as stack:
                    servers = self.start(placement, stack)
                    for step in [step for step in self.steps if step.placement == key]:
                        self.take(step, servers)
                    for name, server in servers.items():
                        if server.process.poll() is None:
                            self.results[placement.title, name, "MB"][0] = server.resident()

    def start(self, placement, stack):
        """All servers that answer as they must, by name."""
        servers = {}
        for name in self.options.peers:
            with self.listed(f"start, {placement.title}", name):
                server = stack.enter_context(Server(name, placement, self.options.folder))
                self.progress(f"{placement.title}: {PEERS[name].title} answered after {server.wait():.2f} s")
                server.check()
                servers[name] = server
        time.sleep(SETTLE_SECONDS)
        for server in servers.values():
            server.signal(signal.SIGSTOP)
        return servers

    def take(self, step, servers):
        self.steps.pop(0)
        server, work = servers.get(step.server), WORKS[step.work]
        if server is None or self.is_out(step):
            return
        began, title, where = time.monotonic(), server.placement.title, f"{step.work}, {server.placement.title}"
        with self.listed(where, step.server, out=step):
            with server.awake():
                measured = work.measure(server, self.options, step.work)
            for column, value in measured.items():
                self.results[title, step.server, column][step.number] = value
            figure = report.shown(next(iter(measured.values())), 2)
            self.seconds[step.work].append(time.monotonic() - began)
            self.progress(f"round {step.number + 1}, {step.work}: {PEERS[step.server].title} {figure}")

    def is_out(self, step):
        """Whether a server failed at a work, or is so far behind in the first rounds that more would tell nothing."""
        kind = step._replace(number=0)
        if step.number == TRIAL_ROUNDS and step.server != report.OURS:
            title = placements()[step.placement].title
            ratios = report.ratios(self.results, title, report.OURS, step.server, step.work)
            if ratios and min(ratios) > HOPELESS:
                self.out.add(kind)
        too_slow = step.work == "instructions" and kind._replace(work=report.COLUMN) in self.out
        return too_slow or kind in self.out

    @contextlib.contextmanager
    def listed(self, where, name, out=None):
        """Go on with the next server when there is trouble with one, and do not give it this work again."""
        try:
            yield
        except (Absent, Wrong, OSError, subprocess.SubprocessError, http.client.HTTPException) as error:
            what = f"{PEERS[name].title}, {where}: {error or type(error).__name__}"
            ours_failed = name == report.OURS and not isinstance(error, Unmeasured)
            self.troubles.append(Trouble(name, what, isinstance(error, Wrong) or ours_failed))
            if out:
                self.out.add(out._replace(number=0))
            self.progress(what)

    def progress(self, line):
        """A line on standard error: how long the run has taken, how long it will still take, and what was done."""
        elapsed = time.monotonic() - self.began
        left = sum(self.expected(step.work) for step in self.steps if step._replace(number=0) not in self.out)
        print(f"{elapsed / 60:5.1f} min, {left / 60:5.1f} left  {line}", file=sys.stderr, flush=True)

    def expected(self, work):
        """Seconds that a work takes."""
        seconds = self.seconds[work]
        return sum(seconds) / len(seconds) if seconds else self.options.seconds + 0.3 + WORKS[work].seconds


# ------------------------------------------------------------------------------------------------------ The machine


def machine():
    """CPU, kernel and Python in one text; the versions of the tools and the peers in another."""
    model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    python = f"{platform.python_implementation()} {platform.python_version()}"
    cpus = f"{len(os.sched_getaffinity(0))} × {model[1] if model else platform.machine()}"
    cpus += f", {busy():.0%} busy before the run"
    tools = [
        output("wrk", "--version", find=r"wrk \S+"),
        output("nginx", "-v", find=r"nginx/\S+"),
        output("go", "version", find=r"go\d\S+"),
        output("valgrind", "--version", find=r"valgrind\S+"),
    ]
    packages = dict.fromkeys(" ".join(peer.packages for peer in PEERS.values()).split())
    versions = filter(None, map(version, packages))
    return f"{cpus}, {platform.system()} {platform.release()}, {python}", ", ".join([*tools, *versions])


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
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return f"{package} {importlib.metadata.version(package)}"


# ----------------------------------------------------------------------------------------------------- Command line


def parse_arguments(argv):
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog="The tables go to standard output, progress to standard error. The exit status is 1 when a reply was "
        "wrong or a request to webserver_influx.py failed; it never depends on speed.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="a check: one round of short loads, placed by the system, no chart")
    add("--rounds", metavar="N", type=int, help="how often each work is given to each server (default: 15)")
    add("--seconds", metavar="S", type=float, help="how long one load lasts (default: 1)")
    add("--only", metavar="WORK,…", type=some_of(WORKS), help=f"some of the works: {', '.join(WORKS)}")
    add("--without", metavar="WORK,…", type=some_of(WORKS), default=[], help="all but these works")
    add("--peers", metavar="NAME,…", type=some_of(PEERS), help=f"some of the servers: {', '.join(PEERS)}")
    add(
        "--placement", choices=["os", "pinned", "both"], help="where the system likes, on a CPU each, or both (default)"
    )
    add("--free-threaded", metavar="PYTHON", help="a free-threaded Python, for the work “threads”")
    add("--table", metavar="FILE", type=Path, help="write the tables to a file, too")
    add("--chart", metavar="FILE", type=Path, help="where the chart is written (default: .github/benchmark.svg)")
    options = parser.parse_args(argv)
    options.rounds = options.rounds or (1 if options.quick else 15)
    options.seconds = options.seconds or (0.2 if options.quick else 1)
    works = options.only or [name for name, work in WORKS.items() if work.quick or not options.quick]
    missing = {"threads": not options.free_threaded, "instructions": not shutil.which("vgdb")}
    options.works = [work for work in works if work not in options.without and not missing.get(work)]
    options.peers = options.peers or list(PEERS)
    asked = options.placement or ("os" if options.quick else "both")
    options.placements = [key for key in placements() if asked in (key, "both")]
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
    for tool, package in (("wrk", "wrk"), ("ab", "apache2-utils")):
        if not shutil.which(tool):
            print(f"run.py: error: {tool} is missing; it is in Debian's package {package}", file=sys.stderr)
            return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["WEBSERVER_INFLUX_DSN"] = NOWHERE
    files = open_files() - 1000  # for all else
    options.crowds = [count for count in CROWDS if count <= files] or [files]
    there = machine()
    benchmark = Benchmark(options)
    with tempfile.TemporaryDirectory() as folder:
        options.folder = Path(folder)
        benchmark.run()
    peers = {name: PEERS[name] for name in options.peers}
    troubles = list(dict.fromkeys(trouble.what for trouble in benchmark.troubles))
    told = report.document(benchmark.results, peers, troubles, there, options.rounds, options.seconds)
    print(told)
    if options.table:
        options.table.write_text(told + "\n", encoding="utf-8")
    if options.chart and any(column == report.COLUMN for _, _, column in benchmark.results):
        options.chart.parent.mkdir(parents=True, exist_ok=True)
        options.chart.write_text(report.chart(benchmark.results, peers, there[0]), encoding="utf-8")
    failed = any(report.failures(benchmark.results, report.OURS))
    return int(failed or any(trouble.wrong for trouble in benchmark.troubles))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
