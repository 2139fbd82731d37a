"""What the server takes: the figures, the live line on a real terminal, and the summary with its verdict."""

from __future__ import annotations

import contextlib
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from daemons import ACCESS_LINE, LOG_LINE, PATIENCE_S, PROGRAM, Server, clean_environment, wait_until
from messages import message
from needs import cpu_quota, imported, installed, linux, posix
from test_exactly_once import shifted_clock

import webserver_influx
from webserver_influx import BLOCKS, SHORT_SECONDS, Meter, Usage, cpu_limit, cpu_quotas, per_second, verdict

# --- what a meter adds up


def metered(*loads: Usage) -> Meter:
    """A meter that was told these, a second apart, from 1970 on."""
    meter = Meter()
    for second, load in enumerate(loads):
        meter.add(load, float(second))
    return meter


@pytest.mark.smoke
def test_a_meter_tells_the_last_second_the_most_and_all():
    meter = metered(Usage(1.0, 10), Usage(2.0, 60), Usage(1.0, 20))
    assert list(meter.rates) == [10, 30, 20]
    assert (meter.last.rate, meter.peak, meter.peak_at, meter.total.requests) == (20, 30, 1, 90)


@pytest.mark.smoke
def test_the_most_of_each_interval_is_told_once():
    meter = metered(Usage(1.0, 10), Usage(1.0, 5))
    assert (meter.take_recent_peak(), meter.take_recent_peak()) == (10, 0)
    meter.add(Usage(1.0, 7), 2.0)
    assert (meter.take_recent_peak(), meter.peak) == (7, 10)


@pytest.mark.smoke
def test_a_time_too_short_to_tell_a_rate_of_adds_to_all_only():
    meter = metered(Usage(1.0, 10), Usage(SHORT_SECONDS / 1000, 10), Usage(0.0, 1))
    assert (meter.peak, meter.total.requests, len(meter.rates)) == (10, 21, 1)
    assert meter.live_line(0, "", 80)


@pytest.mark.smoke
def test_a_worker_that_takes_the_place_of_another_takes_back_no_cpu_time():
    meter = metered(Usage(1.0, 10, cpu=1.5), Usage(1.0, 10, cpu=-1.0))
    assert (meter.total.cpu, meter.last.cpus) == (1.5, 0)


@pytest.mark.smoke
def test_a_process_that_was_suspended_had_a_low_rate_meanwhile():
    meter = metered(*[Usage(1.0, 1000)] * 3, Usage(60.0, 900))
    assert (meter.last.rate, meter.peak, meter.best.seconds) == (15, 1000, 3)


@pytest.mark.smoke
def test_seconds_at_the_edge_of_a_load_are_not_under_load():
    meter = metered(Usage(1.0, 3), Usage(1.0, 200), *[Usage(1.0, 1000)] * 4, Usage(1.0, 100), Usage(1.0, 0))
    assert meter.best == Usage(4.0, 4000)


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("requests", "best"),
    [
        ([100] * 30, Usage(10.0, 1000)),
        ([*[100] * 12, *[150] * 12, *[120] * 12], Usage(10.0, 1500)),  # the best ten in a row
        ([*[100] * 12, 0, *[90] * 3, 40, *[110] * 2], Usage(10.0, 1000)),
        ([*[100] * 12, *[1000] * 4, *[100] * 12], Usage(4.0, 4000)),  # half of the peak is another load
        ([1000, *[600] * 4], Usage(5.0, 3400)),
        ([100, 60, 150], Usage(2.0, 160)),  # not all three: the 60 are less than half of the new peak
        ([*[600] * 4, 1000, 400], Usage(5.0, 3400)),
        ([*[400] * 9, 1000, *[400] * 9], Usage(1.0, 1000)),
        ([1000] * 3 + [0] + [1000] * 4 + [0] + [1000] * 2, Usage(4.0, 4000)),
        ([], Usage()),
        ([0, 0], Usage()),
    ],
)
def test_the_best_seconds_in_a_row_are_ten_at_most_and_each_at_least_half_of_the_peak(requests, best):
    assert metered(*(Usage(1.0, number) for number in requests)).best == best


@pytest.mark.smoke
@pytest.mark.parametrize("seconds", [1.0, 1.001, 0.999, 20.0])
def test_a_single_request_is_summed_up_without_a_rate(seconds):
    """A second is never exactly one, so its rate may be below 1."""
    (line,) = metered(Usage(seconds, 0), Usage(seconds, 1, 0.0, math.nan)).summary(1, 1, 1)
    assert re.fullmatch(r"1 request in [\d.]+ s", line)


@pytest.mark.smoke
def test_a_load_of_less_than_three_seconds_has_no_mean_and_no_share_of_a_cpu():
    """CPU time is published each second, so that of a short load cannot be known."""
    (line,) = metered(Usage(1.0, 0), Usage(1.0, 8986, 0.0, 1.0), Usage(1.0, 5000, 0.9, 1.0)).summary(1, 1, 1)
    assert re.fullmatch(r"13,986 requests in 3 s, at most 8,986/s \(at \d\d:\d\d:\d\d\)", line)


@pytest.mark.smoke
def test_what_there_was_none_of_has_no_summary():
    assert metered(Usage(1.0, 0)).summary(1, 1, 1) == []
    assert metered(Usage(0.3, 2)).summary(1, 1, 1) == ["2 requests in 0.3 s"]


@pytest.mark.smoke
def test_a_summary_tells_the_most_the_mean_under_load_and_the_limit():
    first, *others = metered(*[Usage(1.0, 0, 0.0, 4.0)] * 6, *[Usage(1.0, 12_340, 0.98, 3.0)] * 4).summary(4, 4, 1)
    assert re.fullmatch(r"49,360 requests in 10 s, at most 12,340/s \(at \d\d:\d\d:06\)", first)
    assert others == [
        "Under load for 4 s: 12,340/s on average, 98 % of a CPU",
        "The server used its one CPU fully: more needs --workers",
    ]


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("rate", "told"),
    [(0.04, "0/s"), (0.25, "0.2/s"), (5.998, "6/s"), (9.97, "10/s"), (12.4, "12/s"), (1e6, "1,000,000/s")],
)
def test_a_rate_has_no_digit_that_says_nothing(rate, told):
    """A second is never exactly one, so 6 requests in it are 5.998/s."""
    assert per_second(rate) == told


WORKERS, NO_MORE = "more needs --workers", "it may use no more"
SPARE = "The server had CPU to spare: the load or the network was the limit"


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("cpus", "processes", "used", "idle", "words"),
    [
        (4, 1, 0.98, 3.0, f"The server used its one CPU fully: {WORKERS}"),
        (4, 2, 1.9, 2.0, f"The server used its 2 CPUs fully: {WORKERS}"),
        (2, 2, 1.9, 2.0, f"The server used its 2 CPUs fully: {NO_MORE}"),
        (1, 1, 0.95, 3.0, f"The server used its one CPU fully: {NO_MORE}"),
        (0.5, 1, 0.49, 3.0, f"The server used its 0.5 CPUs fully: {NO_MORE}"),  # a container's quota
        (1.5, 2, 1.45, 2.0, f"The server used its 1.5 CPUs fully: {NO_MORE}"),
        (1.5, 1, 0.98, 2.0, f"The server used its one CPU fully: {WORKERS}"),
        (4, 1, 0.3, 3.0, SPARE),
        (4, 4, 1.0, 0.1, "All CPUs of this machine were busy, also with other work: "),
        (4, 1, 0.8, 3.0, ""),
        (4, 1, 0.3, math.nan, ""),  # the system tells of no idle time
        (4, 1, 0.98, math.nan, f"The server used its one CPU fully: {WORKERS}"),
    ],
)
def test_a_verdict_says_what_the_limit_was(cpus, processes, used, idle, words):
    told = verdict(Usage(10.0, 1, 10 * used, 10 * idle), cpus, 4, processes)
    assert told.startswith(words) if words else told == ""


# --- the live line


@pytest.mark.smoke
@pytest.mark.parametrize("blocks", [BLOCKS, ""])
def test_a_live_line_fits_every_width(blocks):
    meter = metered(*[Usage(1.0, 1_000_000 + second, 0.98) for second in range(300)], Usage(1.0, 0))
    for width in range(1, 400):
        line = meter.live_line(64, "InfluxDB takes points", width, blocks)
        assert line
        assert sum(2 if char > "\x7f" else 1 for char in line) <= width  # as terminals of East Asia may show it
        assert blocks or line.isascii()
    assert meter.live_line(64, "", 5) == "0/s"
    assert Meter().live_line(0, "", 20) == "0/s · at most 0/s"  # before the first second is over


@pytest.mark.smoke
def test_a_curve_has_the_newest_second_at_its_right_and_its_lowest_block_for_none_only():
    meter = metered(*(Usage(1.0, requests) for requests in (800, 0, 1, 400, 800)))
    assert meter.live_line(1, "InfluxDB takes points", 200).startswith(
        "█▁▂▅█  800/s · at most 800/s · 2,001 in all · 1 "
    )


# --- CPUs that this process may use


def proc_and_groups(folder: Path, cgroup: str, files: dict[str, str]) -> tuple[str, str]:
    """/proc and /sys/fs/cgroup of a process in these control groups."""
    for name, text in {"proc/self/cgroup": cgroup, **{f"groups/{name}": text for name, text in files.items()}}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return str(folder / "proc"), str(folder / "groups")


V1 = "5:memory:/x\n4:cpu,cpuacct:/docker/1\n1:name=systemd:/\n"


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("cgroup", "files", "quotas"),
    [
        ("0::/\n", {"cpu.max": "150000 100000\n"}, [1.5]),
        ("0::/a/b\n", {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, [2.0]),
        ("0::/a/b\n", {"a/b/cpu.max": "50000 100000\n", "a/cpu.max": "200000 100000\n"}, [0.5, 2.0]),
        ("0::/outside\n", {"cpu.max": "100000 50000\n"}, [2.0]),
        ("0::/a\n", {}, []),
        (V1, {"cpu/docker/1/cpu.cfs_quota_us": "150000\n", "cpu/docker/1/cpu.cfs_period_us": "100000\n"}, [1.5]),
        (V1, {"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "50000\n"}, [0.5]),
        (V1, {"cpu/docker/1/cpu.cfs_quota_us": "-1\n", "cpu/docker/1/cpu.cfs_period_us": "100000\n"}, []),
        (V1, {"cpu/cpu.cfs_quota_us": "25000\n"}, []),
        ("9:cpuset:/a\n0::/\n", {"cpu/a/cpu.cfs_quota_us": "1\n", "cpu/a/cpu.cfs_period_us": "1\n"}, []),
        ("", {}, []),
    ],
)
def test_quotas_are_those_of_all_control_groups_above(tmp_path, cgroup, files, quotas):
    assert list(cpu_quotas(*proc_and_groups(tmp_path, cgroup, files))) == quotas


@posix
def test_a_control_group_may_have_any_name(tmp_path):
    proc, groups = proc_and_groups(tmp_path, "0::/", {"cpu.max": "100000 100000\n"})
    Path(proc, "self/cgroup").write_bytes(b"0::/\xff\xc3\xbc\n")
    assert list(cpu_quotas(proc, groups)) == [1.0]


@linux
def test_workers_auto_follows_the_quota_of_a_control_group():
    script = """
import sys, webserver_influx
open(sys.argv[1] + "/cgroup.procs", "w").write("0")
print(webserver_influx.cpu_limit(), webserver_influx.parse_arguments(["--workers", "auto"]).workers)
"""
    if cpu_limit() < 1:
        pytest.skip("has a quota of less than a CPU itself")
    with cpu_quota(f"webserver_influx-{os.getpid()}", 0.5) as group:
        command = [sys.executable, "-c", script, group]
        ended = subprocess.run(command, cwd=PROGRAM.parent, capture_output=True, text=True, check=False)
    assert ended.stdout.split() == ["0.5", "1"], ended.stderr


# --- on a terminal


class Terminal:
    """A pseudo-terminal, and what a person sees there."""

    def __init__(self, columns: int, lines: int = 24) -> None:
        pyte = imported("pyte")
        self.master, self.slave = os.openpty()
        os.set_blocking(self.master, False)
        self.screen = pyte.Screen(columns, lines)
        self.stream = pyte.ByteStream(self.screen)
        self.written = b""
        self.resize(columns)
        self.path = os.ttyname(self.slave)

    def resize(self, columns: int) -> None:
        import fcntl
        import termios

        self.read()
        fcntl.ioctl(self.slave, termios.TIOCSWINSZ, struct.pack("HHHH", self.screen.lines, columns, 0, 0))
        self.screen.resize(columns=columns)

    def read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.master, 65536):
                self.written += data
                self.stream.feed(data)

    def lines(self) -> list[str]:
        """Those on the screen that are not empty."""
        self.read()
        return [line.rstrip() for line in self.screen.display if line.strip()]

    def live(self) -> str:
        """The live line, which is the last; empty if that is no live line."""
        last = (self.lines() or [""])[-1]
        return last if LIVE.match(last) else ""

    def shows(self, pattern: str) -> str:
        """Wait for a line that this describes, from its begin on, and return it."""
        found = wait_until(lambda: [one for one in self.lines() if re.match(pattern, one)], what=pattern)
        return found[-1]

    def type(self, text: str) -> None:
        os.write(self.master, text.encode())

    def close(self) -> None:
        for descriptor in {self.master, self.slave} - {-1}:
            os.close(descriptor)
        self.master = self.slave = -1


LIVE = re.compile(f"(?:[{BLOCKS}]+  )?[\\d,.]+/s(?: [·|] |$)")
TERMINAL = {"TERM": "xterm", "LC_ALL": "C.UTF-8"}


@pytest.fixture
def terminal(at_end):
    """terminal(columns, lines=24) -> Terminal."""

    def make(columns: int, lines: int = 24) -> Terminal:
        return at_end.enter_context(contextlib.closing(Terminal(columns, lines)))

    return make


@pytest.fixture
def server(terminal, server):
    """As in conftest.py; but it is ended before its terminal, the end of which would be a signal to it, too."""
    return server


def on_terminal(terminal: Terminal, server, *options: str, env: dict[str, str] | None = None) -> Server:
    """A server whose log goes to a terminal, which becomes the one of its session."""
    web = server(*options, env={**TERMINAL, **(env or {})}, start=False)
    web.redirect(f"2<>{terminal.path}")  # a terminal becomes that of a session if it is opened to be read, too
    return web.start()


@posix
def test_the_live_line_stands_below_the_log_and_makes_way_for_the_summary(server, terminal):
    screen = terminal(150)
    web = on_terminal(screen, server, "--interval", "0.2")
    with web.connect():
        web.raw(message("GET /") * 99 + message("GET /", "Connection: close"))
        figures = r"at most [1-9][\d.,]*/s · 100 in all · 1 open · \d+ % of a CPU · \d+ points? waiting$"
        screen.shows(f"[{BLOCKS}]+  [\\d.,]+/s · {figures}")
    of_an_interval = " INFO 0 requests in 0.2 s; "
    wait_until(lambda: sum(of_an_interval in line for line in screen.lines()) > 3, what="lines above the live line")
    live = wait_until(screen.live)
    assert [line for line in screen.lines() if LIVE.match(line)] == [live]
    assert web.stop(signal.SIGINT) == 0
    assert not [line for line in screen.lines() if LIVE.match(line)]
    screen.shows(r".* INFO 100 requests in [\d.]+ s, at most [\d.,]+/s \(at \d\d:\d\d:\d\d\)$")


@posix
def test_the_live_line_fits_a_terminal_that_becomes_narrower_and_wider(server, terminal):
    screen = terminal(120)
    on_terminal(screen, server)
    wait_until(lambda: "InfluxDB" in screen.live(), what="a live line")
    for columns, words in ((40, "at most"), (10, "0/s"), (130, "InfluxDB")):
        screen.resize(columns)
        screen.written = b""
        wait_until(lambda words=words: words in screen.live() and b"/s" in screen.written, what=f"a line of {columns}")
        assert len(screen.live()) < columns
        assert len([line for line in screen.lines() if LIVE.match(line)]) == 1
    assert screen.screen.cursor.x == 0  # where a terminal that wraps the line when it becomes narrower keeps its begin
    assert b"\x1b[J" in screen.written  # and so all that it was wrapped to is cleared


@posix
@pytest.mark.parametrize(("variable", "value"), [("PYTHONIOENCODING", "ascii"), ("LC_ALL", "C")])
def test_a_terminal_without_blocks_has_the_figures_only(server, terminal, variable, value):
    screen = terminal(100)
    on_terminal(screen, server, env={variable: value, "NO_COLOR": "1"})
    line = wait_until(screen.live)
    assert re.fullmatch(r"0/s \| at most 0/s \| 0 in all \| 0 open \| \d+ % of a CPU \| InfluxDB [\w ]+", line)
    assert screen.written.isascii()


@posix
def test_no_live_line_is_where_none_is_wanted_or_can_be(server, terminal):
    dumb, nameless, quiet, usual = (terminal(100) for _ in range(4))
    on_terminal(dumb, server, env={"TERM": "dumb"})
    web = server(env=TERMINAL, start=False)
    web.redirect(f"2>{nameless.path}")
    web.command[2] = f"unset TERM; {web.command[2]}"
    web.start()
    on_terminal(quiet, server, "--quiet", "--interval", "0.2")
    piped = server("--interval", "0.2", env=TERMINAL)
    on_terminal(usual, server)
    wait_until(usual.live)
    wait_until(lambda: len(piped.log()) > 5)
    for screen in (dumb, nameless, quiet):
        assert not screen.live()
        assert "cannot be reached" in screen.written.decode()
        assert b"\x1b" not in screen.written
    assert b" requests in " not in quiet.written
    assert "\r" not in (piped.folder / "stderr").read_bytes().decode()


@posix
@pytest.mark.unmeasured
def test_lines_of_workers_tear_neither_each_other_nor_the_live_line(server, terminal):
    screen = terminal(200, lines=3000)
    web = on_terminal(screen, server, "--workers", "2", "--access-log", "--interval", "0.2")
    wait_until(screen.live)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(web.connect()) for _ in range(20)]
        for _ in range(5):
            for client in clients:
                client.sendall(message("GET /") * 20)
            time.sleep(0.05)  # so that the batches of both processes meet
        wait_until(lambda: sum(map(bool, map(ACCESS_LINE.fullmatch, screen.lines()))) == 2000, what="all lines, whole")
        wait_until(lambda: "· 2,000 in all · 20 open ·" in screen.live(), what="the figures of both")
    assert web.stop() == 0
    odd = [line for line in screen.lines() if not (ACCESS_LINE.fullmatch(line) or LOG_LINE.fullmatch(line))]
    assert odd == []


@posix
def test_a_batch_of_lines_clears_what_another_process_has_written_between_its_pieces(monkeypatch):
    monkeypatch.setattr(webserver_influx, "is_in_foreground", lambda stream: True)
    output = webserver_influx.Output(2)
    output.live_line = ""
    assert output.with_live_line(b"one\ntwo\n") == b"\r\x1b[Jone\n\r\x1b[Jtwo\n\r\x1b[J\r"
    output.finish(time.monotonic() + PATIENCE_S)


@posix
def test_in_the_background_of_a_shell_the_prompt_is_left_alone(guard, terminal, state, closed_port):
    screen = terminal(500)
    bash = [
        installed("bash"),
        "-c",
        f"exec env PS1='prompt> ' bash --norc --noediting -i <{screen.path} >{screen.path} 2>&1",
    ]
    shell = guard.spawn(bash, env={**clean_environment(), **TERMINAL, "HISTFILE": ""})
    try:
        screen.shows("prompt>")
        options = f"--bind 127.0.0.1 --port 0 --state {state} --influx influxdb://127.0.0.1:{closed_port}"
        screen.type(f"{sys.executable} {PROGRAM} {options}\n")
        wait_until(screen.live)
        screen.type("\x1a")
        screen.shows(r"\[1\]\+ +Stopped")
        screen.type("bg\n")
        screen.shows(r"\[1\]\+ .* &$")
        screen.type("echo half")
        screen.shows("prompt> echo half$")
        screen.written = b""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: screen.read() or screen.written, timeout=2.1)  # two seconds' lines, if there were any
        assert screen.written == b""
        screen.type("way\n")
        screen.shows("halfway$")
        screen.type("fg\n")
        wait_until(screen.live)
        screen.type("\x03")
        screen.shows("prompt>$")
        assert not [line for line in screen.lines()[-2:] if LIVE.match(line)]
        screen.type("echo $?; exit\n")
        screen.shows("0$")
    finally:
        screen.close()  # which hangs up
        assert shell.wait(PATIENCE_S) is not None
        guard.ended(shell)


@posix
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_terminal_that_goes_away_ends_the_live_line_and_the_server_well(server, terminal, workers):
    screen = terminal(100)
    web = on_terminal(screen, server, "--workers", workers)
    wait_until(screen.live)
    screen.close()
    assert web.wait() == 0


@linux
def test_no_rate_is_absurd_when_the_clock_is_set(server, terminal, tmp_path):
    environment, shift = shifted_clock(tmp_path)
    screen = terminal(150)
    web = on_terminal(screen, server, env=environment)
    wait_until(screen.live)
    for number, seconds in enumerate((3600, -3600), 1):
        shift(seconds)
        web.raw(message("GET /") * 9 + message("GET /", "Connection: close"))
        wait_until(lambda number=number: f"· {number}0 in all ·" in screen.live(), what=f"a line at {seconds:+d} s")
    text = screen.written.decode()
    assert "-" not in "".join(re.findall(r"[^ ]+/s", text))
    assert max(float(rate.replace(",", "")) for rate in re.findall(r"([\d.,]+)/s", text)) <= 20 / SHORT_SECONDS
