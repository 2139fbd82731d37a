"""The command line: help, every option obeyed once by the real server, and one line for whatever is wrong.

Whatever a test is about, `server` fails it when the server printed a traceback, a password, or anything on standard
error that is no line of the log.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import socket
import sqlite3
import sys
import threading
import time
from pathlib import Path

import pytest
from daemons import (
    PASSWORD,
    PATIENCE_S,
    PROGRAM,
    REPORT_LINE,
    Server,
    free_port,
    reset_at_close,
    run_program,
    run_python,
    wait_until,
)
from needs import ipv6, linux
from refusals import failure

from webserver_influx import DSN_VARIABLE, RESPAWN_SECONDS, Destination, __version__, listen, parse_arguments

# --- help and version

HELP = """\
usage: webserver_influx.py [-h] [--bind ADDRESS] [--port N] [--influx DSN]
                           [--interval SECONDS] [--tag KEY=VALUE]
                           [--state FILE] [--workers N] [--access-log]
                           [--quiet] [--verbose] [--version]

Adds up numbers over HTTP and tells InfluxDB 1.8 how many requests came.

options:
  -h, --help          show this help message and exit
  --bind ADDRESS      the address to listen on; 0.0.0.0 is all of IPv4
                      (default: all, IPv4 and IPv6)
  --port N            the port; 0 takes a free one (default: 8008)
  --influx DSN        where statistics go:
                      [https+]influxdb://user:password@host:port/path/database
                      (default: WEBSERVER_INFLUX_DSN in the environment, where
                      ps does not show a password; else database math_server
                      of user math_server at localhost:8086)
  --interval SECONDS  the seconds between two points (default: 60)
  --tag KEY=VALUE     a further tag of each point, so that servers can share a
                      database; may be repeated (default: none)
  --state FILE        where points wait for InfluxDB; FILE-count beside it
                      holds the counter. :memory: stands for no file: what
                      InfluxDB does not have when the program ends, or is
                      killed, is lost (default: math_server.db)
  --workers N         processes, or auto: one for each CPU (default: 1)
  --access-log        log each request, at four fifths of the speed
                      (default: off)
  --quiet             leave out the live line; log only the last interval
                      (default: off)
  --verbose           log debug messages as well (default:
                      off)
  --version           show program's version number and exit

Each option can also be set in the environment: --port as WEBSERVER_INFLUX_PORT,
--access-log as WEBSERVER_INFLUX_ACCESS_LOG=1, --influx as WEBSERVER_INFLUX_DSN,
tags as WEBSERVER_INFLUX_TAG=host=a,rack=b. The command line wins.

examples:
  python webserver_influx.py
      serve on port 8008, send statistics to the InfluxDB on this machine
  curl 'http://localhost:8008/?a=3&b=3'
      Sum: 6.0
  python webserver_influx.py --influx influxdb://db.example.org
      send statistics to another machine
"""


def words(help_text: str) -> str:
    """A help text without what differs between Python 3.9 and 3.14: a heading, and where lines end."""
    return " ".join(help_text.replace("optional arguments:", "options:").split())


@pytest.mark.smoke
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_says_what_it_always_said(option):
    ended = run_program(option, env={"COLUMNS": "80"})
    assert (ended.returncode, ended.stderr) == (0, "")
    assert words(ended.stdout) == words(HELP)
    assert max(map(len, ended.stdout.partition("\nexamples:")[0].splitlines())) <= 86


@pytest.mark.smoke
def test_an_older_python_is_told_what_it_lacks_in_one_line():
    script = """
        import runpy, sys
        sys.version_info, sys.version = (3, 8, 18, "final", 0), "3.8.18 (default)"
        runpy.run_path(sys.argv[1], run_name="__main__")
    """
    ended = run_python(script, PROGRAM)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "webserver_influx.py needs Python 3.9 or later; this is 3.8.18\n"


def test_what_it_prints_at_the_start_fits_80_columns(server):
    web = server()
    assert len(web.stdout_text().splitlines()) == 4
    assert max(map(len, web.stdout_text().splitlines())) <= 80


@pytest.mark.smoke
def test_version_is_one_line():
    ended = run_program("--version")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"webserver_influx.py {__version__}\n", "")


# --- each option is obeyed


@ipv6
def test_without_bind_it_listens_on_ipv4_and_ipv6(server):
    web = server(everywhere=True)
    assert re.match(r"Serving on http://localhost:\d+ and all other addresses; Ctrl-C stops\.\n", web.stdout_text())
    assert [web.get(host=host).text for host in ("127.0.0.1", "::1")] == ["Sum: 0", "Sum: 0"]


@pytest.mark.smoke
def test_bind_is_the_only_address_it_listens_on(server):
    web = server("--bind", "127.0.0.1")
    assert web.stdout_text().startswith(f"Serving on http://127.0.0.1:{web.port}; Ctrl-C stops.\n")
    assert web.get("/?a=1").text == "Sum: 1.0"
    if sys.platform.startswith("linux"):  # where all of 127/8 is this machine
        with pytest.raises(ConnectionRefusedError):
            web.get(host="127.0.0.2")


@ipv6
@pytest.mark.parametrize("address", ["::1", "[::1]"])
def test_bind_takes_an_ipv6_address(server, address):
    web = server("--bind", address)
    assert web.stdout_text().startswith(f"Serving on http://[::1]:{web.port}; Ctrl-C stops.\n")
    assert web.get().text == "Sum: 0"


@ipv6
@pytest.mark.parametrize("address", ["::", "[::]"])
def test_bind_takes_two_colons_for_all_addresses_of_both_families(server, address):
    web = server("--bind", address)
    assert web.stdout_text().startswith(f"Serving on http://localhost:{web.port} and all other addresses; Ctrl-C")
    assert [web.get(host=host).text for host in ("127.0.0.1", "::1")] == ["Sum: 0", "Sum: 0"]


@ipv6
def test_bind_takes_four_zeros_for_all_addresses_of_ipv4(server):
    web = server("--bind", "0.0.0.0")
    assert web.stdout_text().startswith(f"Serving on http://localhost:{web.port} and all other addresses of IPv4; ")
    assert web.get().text == "Sum: 0"
    with pytest.raises(ConnectionRefusedError):
        web.get(host="::1")


@pytest.mark.parametrize("name", ["localhost", "some.name"])
def test_bind_takes_a_name_for_the_first_of_its_addresses_that_this_machine_has(monkeypatch, name):
    def resolve(host: str, port: int, *_, getaddrinfo=socket.getaddrinfo, **options):
        assert host == name
        addresses = ("192.0.2.1", "127.0.0.1", "127.0.0.2")
        return [known for address in addresses for known in getaddrinfo(address, port, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    with listen(name, 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


def test_bind_takes_a_name_for_an_ipv4_address_on_a_system_without_ipv6(monkeypatch):
    class Socket(socket.socket):
        def __init__(self, family: int = -1, *arguments, **options) -> None:
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, os.strerror(errno.EAFNOSUPPORT))
            super().__init__(family, *arguments, **options)

    families = ((socket.AF_INET6, "::1"), (socket.AF_INET, "127.0.0.1"))
    resolved = [(family, socket.SOCK_STREAM, 0, "", (address, 0)) for family, address in families]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: resolved)
    monkeypatch.setattr(socket, "socket", Socket)
    with listen("localhost", 0) as listener:
        assert listener.getsockname()[0] == "127.0.0.1"


@linux
def test_bind_takes_an_address_with_its_zone(server):
    for line in Path("/proc/net/if_inet6").read_text().splitlines():
        digits, _, _, scope, flags, interface = line.split()
        if scope == "20" and not int(flags, 16) & 0x48:  # of a link; neither tentative nor a duplicate
            break
    else:
        pytest.skip("no address of a link on this machine")
    address = ":".join(re.findall("....", digits))
    web = server("--bind", f"{address}%{interface}", start=False)
    web.launch()
    wait_until(web.answers)
    printed = re.match(rf"Serving on http://\[(fe80:.+)%25{interface}\]:(\d+); Ctrl-C stops\.\n", web.stdout_text())
    web.host, web.port = f"{printed[1]}%{interface}", int(printed[2])
    with web.connect() as client:
        client.sendall(b"GET /?a=1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.recv(1024).endswith(b"Sum: 1.0")


def test_port_is_where_it_listens(server):
    port = free_port()
    assert server("--port", str(port)).port == port


def test_port_0_takes_a_free_port_and_says_which(server):
    first, second = server("--port", "0"), server("--port", "0")
    assert len({0, first.port, second.port}) == 3
    assert first.get().text == second.get().text == "Sum: 0"


def test_influx_is_where_the_points_go(server, influxd):
    influx = influxd()
    web = server("--influx", f"influxdb://me:{PASSWORD}@127.0.0.1:{influx.port}/numbers")
    destination = f"influxdb://me@127.0.0.1:{influx.port}/numbers"
    assert f"Every 60 s a point goes to {destination}.\n" in web.stdout_text()
    assert "\nUntil InfluxDB has taken them, points wait in math_server.db.\n" in web.stdout_text()
    web.get()
    assert web.stop() == 0
    assert [row["requests_number"] for row in influx.query("SELECT * FROM numbers.autogen.requests")] == [1]


def test_the_environment_is_where_the_points_go(server, influxd):
    influx = influxd()
    web = server(env={DSN_VARIABLE: influx.dsn()})
    web.get()
    assert web.stop() == 0
    assert influx.total() == 1


def test_influx_wins_over_the_environment(server, influxd):
    influx = influxd()
    web = server("--influx", influx.dsn(), env={DSN_VARIABLE: f"no DSN at all {PASSWORD}"})
    web.get()
    assert web.stop() == 0
    assert influx.total() == 1


@pytest.mark.smoke
def test_influx_wins_over_the_environment_even_when_it_is_the_default(monkeypatch):
    """Not in the real server: it would write to an InfluxDB of this machine's."""
    monkeypatch.setenv(DSN_VARIABLE, "influxdb://elsewhere:1/other")
    default = "influxdb://math_server:math_server1@localhost:8086/math_server"
    assert parse_arguments(["--influx", default]).destination == Destination()
    assert parse_arguments([]).destination.host == "elsewhere"
    monkeypatch.delenv(DSN_VARIABLE)
    assert parse_arguments([]).destination == Destination()


# For each option a text of its variable, what that means, and a text for the command line that means its default.
VARIABLES = {
    "--bind": ("127.0.0.1", "127.0.0.1", None),
    "--port": (" 8009\n", 8009, "8008"),
    "--interval": ("1.5", 1.5, "60"),
    "--tag": ("host=web 1, rack=a=b\\,c", [("host", "web 1"), ("rack", "a=b,c")], None),
    "--state": ("other.db", "other.db", "math_server.db"),
    "--workers": ("3", 3, "1"),
    "--access-log": ("1", True, None),
    "--quiet": ("true", True, None),
    "--verbose": ("Yes", True, None),
}


def variable_of(option: str) -> str:
    return f"WEBSERVER_INFLUX_{option[2:].replace('-', '_').upper()}"


def meaning(option: str, *arguments: str):
    """What the program understands by its arguments and its environment."""
    name = {"--tag": "tags"}.get(option, option[2:].replace("-", "_"))
    return getattr(parse_arguments(list(arguments)), name)


@pytest.fixture
def environment(monkeypatch):
    """environment(name, text): a variable of the program, beside which there is no other."""
    for name in os.environ:
        if name.startswith("WEBSERVER_INFLUX_"):
            monkeypatch.delenv(name)
    return monkeypatch.setenv


@pytest.mark.smoke
def test_each_option_has_a_variable():
    options = set(re.findall("--[a-z-]+", HELP.partition("\nAdds up")[0]))
    assert options - {"--influx", "--version"} == set(VARIABLES)  # --influx has tests of its own


@pytest.mark.smoke
@pytest.mark.parametrize("option", VARIABLES)
def test_the_environment_gives_what_the_command_line_does_not(environment, option):
    text, meant, default_text = VARIABLES[option]
    default = meaning(option)
    assert default != meant
    environment(variable_of(option), " \n")
    assert meaning(option) == default, "empty is unset"
    environment(variable_of(option), text)
    assert meaning(option) == (dict(meant) if option == "--tag" else meant)
    if default_text:
        assert meaning(option, option, default_text) == default, "the command line wins, even with the default"


@pytest.mark.smoke
def test_tags_of_the_command_line_are_all_tags(environment):
    environment("WEBSERVER_INFLUX_TAG", "host=a,rack=b")
    assert parse_arguments([]).tags == {"host": "a", "rack": "b"}
    assert parse_arguments(["--tag", "host=c"]).tags == {"host": "c"}


@pytest.mark.smoke
@pytest.mark.parametrize("text", ["0", "no", "FALSE", "off"])
def test_a_flag_in_the_environment_can_be_off(environment, text):
    environment("WEBSERVER_INFLUX_VERBOSE", text)
    assert not parse_arguments([]).verbose
    assert parse_arguments(["--verbose"]).verbose


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("option", "text", "reason"),
    [
        ("--port", "http", "'http' is not a number from 0 to 65535"),
        ("--interval", "0", f"'0' is not a number from 0.001 to {threading.TIMEOUT_MAX:.0f}"),
        ("--workers", "many", "'many' is not a number from 1 to 255, or auto"),
        ("--tag", "host", "'host' is not KEY=VALUE"),
        ("--tag", "host=a,b", "'b' is not KEY=VALUE"),
        ("--tag", "host=a,time=b", "'time' is reserved by the server or InfluxDB"),
        ("--tag", "host=a,host=b", "the key 'host' is given twice"),
        ("--verbose", "very", "'very' is neither 1 nor 0 (or yes/no, true/false, on/off)"),
        ("--access-log", "2", "'2' is neither 1 nor 0 (or yes/no, true/false, on/off)"),
    ],
)
def test_a_bad_value_is_told_with_the_name_of_its_variable_unless_the_command_line_wins(
    environment, misuse, option, text, reason
):
    environment(variable_of(option), text)
    assert misuse().startswith(f"{variable_of(option)}: {reason}")
    default_text = VARIABLES[option][2] or "host=a"
    parse_arguments([option] if option in ("--verbose", "--access-log") else [option, default_text])


def test_the_program_obeys_its_environment(server, tmp_path):
    state = tmp_path / "from the environment.db"
    web = server(
        env={
            "WEBSERVER_INFLUX_STATE": str(state),
            "WEBSERVER_INFLUX_ACCESS_LOG": "1",
            "WEBSERVER_INFLUX_PORT": "http",  # whose --port is given
            "WEBSERVER_INFLUX_WORKER": "2",
        }
    )
    web.get()
    assert web.stop() == 0
    assert state.exists()
    assert ' "GET / HTTP/1.1" 200 ' in web.stderr_text()
    assert " WARNING Ignoring unknown environment variable WEBSERVER_INFLUX_WORKER\n" in web.stderr_text()


# What Kubernetes gives each container for services called webserver-influx and webserver-influx-2.
SERVICE_LINKS = {
    "WEBSERVER_INFLUX_SERVICE_HOST": "10.0.0.1",
    "WEBSERVER_INFLUX_SERVICE_PORT": "8008",
    "WEBSERVER_INFLUX_SERVICE_PORT_HTTP": "8008",
    "WEBSERVER_INFLUX_PORT": "tcp://10.0.0.1:8008",
    "WEBSERVER_INFLUX_PORT_8008_TCP": "tcp://10.0.0.1:8008",
    "WEBSERVER_INFLUX_PORT_8008_TCP_PROTO": "tcp",
    "WEBSERVER_INFLUX_PORT_8008_TCP_PORT": "8008",
    "WEBSERVER_INFLUX_PORT_8008_TCP_ADDR": "10.0.0.1",
    "WEBSERVER_INFLUX_2_SERVICE_HOST": "10.0.0.2",
    "WEBSERVER_INFLUX_2_PORT": "tcp://10.0.0.2:8008",
}


@pytest.mark.smoke
def test_what_kubernetes_puts_into_the_environment_is_not_meant_for_the_program(environment):
    for name, text in SERVICE_LINKS.items():
        environment(name, text)
    options = parse_arguments([])
    assert (options.port, options.unknown) == (8008, [])
    environment("WEBSERVER_INFLUX_PORT", "8009")  # as the manifest of a container does it
    assert parse_arguments([]).port == 8009


def test_interval_is_the_time_between_two_points(server, influxd):
    influx = influxd()
    server("--influx", influx.dsn(), "--interval", "0.25")
    points = wait_until(lambda: len(influx.points()) >= 5 and influx.points(), what="5 points")
    seconds = (points[4]["time"] - points[0]["time"]) / 1e9
    assert 0.5 < seconds < PATIENCE_S  # 1 s, but a beat may be late


def test_tags_are_those_of_each_point(server, influxd):
    influx = influxd()
    web = server("--influx", influx.dsn(), "--tag", "host=web 1", "--tag", "größe=a=b,c")
    assert web.stop() == 0
    (point,) = influx.points()
    del point["time"]
    assert point == {"request": "GETs_per_minute", "host": "web 1", "größe": "a=b,c", "requests_number": 0}


def test_state_is_the_file_where_points_wait_with_the_counter_beside_it(server, tmp_path):
    state = tmp_path / "points here.db"
    web = server("--state", str(state))
    web.get()
    assert web.stop() == 0
    assert {path.name for path in tmp_path.glob("points*")} == {"points here.db", "points here.db-count"}
    with contextlib.closing(sqlite3.connect(state)) as database:
        assert database.execute("SELECT requests_number FROM requests").fetchall() == [(1,)]


def test_without_state_the_file_is_math_server_db_in_the_current_folder(server):
    web = server()
    assert web.stop() == 0
    assert {path.name for path in web.folder.iterdir()} == {
        "stdout",
        "stderr",
        "math_server.db",
        "math_server.db-count",
    }


@pytest.mark.parametrize("workers", ["1", "2"])
def test_state_memory_leaves_no_file(server, influxd, workers):
    influx = influxd()
    web = server("--state", ":memory:", "--workers", workers, "--influx", influx.dsn())
    web.get()
    assert web.stop() == 0
    assert {path.name for path in web.folder.iterdir()} == {"stdout", "stderr"}
    assert influx.total() == 1


def hang_up(web: Server) -> None:
    """Reset a connection on which a request has been answered."""
    with web.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(1024)
        reset_at_close(client)


@linux
def test_verbose_logs_what_is_not_worth_a_line_otherwise(server):
    web = server("--verbose")
    hang_up(web)
    wait_until(lambda: any(" DEBUG 127.0.0.1 is lost: " in line for line in web.log()), what="the line")


@pytest.mark.smoke
def test_a_quiet_run_logs_nothing_but_the_last_minute(server):
    """Nor does a client that hangs up make it say a word."""
    web = server("--influx", "influxdb://127.0.0.1:1", "--state", ":memory:")
    hang_up(web)
    web.get()
    assert web.stop() == 0 or os.name == "nt"
    if os.name != "nt":
        (summary,) = (line for line in web.log() if " INFO " in line)
        trouble, report = (line for line in web.log() if " WARNING " in line)
        assert " INFO 2 requests in " in summary
        assert " WARNING 2 requests in " in report
        assert (
            " WARNING InfluxDB at 127.0.0.1:1 cannot be reached: Connection refused; start influxd, or give another"
            in trouble
        )
        assert REPORT_LINE.fullmatch(report).groups() == ("2", "points lost, as they were in memory only: 1")


def test_a_quiet_run_with_influxdb_logs_one_line_a_minute_and_no_other(server, influxd):
    web = server("--influx", influxd().dsn())
    web.get()
    assert web.stop() == 0
    takes, line, *summary = web.log()
    assert takes.endswith(" INFO InfluxDB takes points")
    assert REPORT_LINE.fullmatch(line).groups() == ("1", "delivered to InfluxDB")
    assert " INFO 1 request in " in summary[0]


@linux
def test_it_stays_on_all_the_cpus_that_it_may_use(server):
    ours = os.sched_getaffinity(0)
    assert os.sched_getaffinity(server().process.pid) == ours


@linux
def test_workers_are_processes_that_count_together(server, influxd):
    influx = influxd()
    web = server("--workers", "3", "--influx", influx.dsn())
    assert len(web.workers()) == 2  # and the program itself
    for _ in range(20):
        web.get()
    assert web.stop() == 0
    assert influx.total() == 20


@linux
def test_ctrl_c_as_soon_as_workers_serve_is_told_by_no_traceback(server):
    for _ in range(3):
        web = server("--workers", "2", "--state", ":memory:")
        os.killpg(web.process.pid, signal.SIGINT)  # as a terminal does
        assert web.wait() == 0
        assert len(web.log()) <= 2  # InfluxDB, and the last minute


@linux
def test_workers_that_die_leave_no_file_open(server):
    def open_files() -> int:
        return len(os.listdir(f"/proc/{web.process.pid}/fd"))

    web = server("--workers", "2", "--state", ":memory:")
    wait_until(lambda: any("cannot be reached" in line for line in web.log()))  # so that nothing else opens files
    before = open_files()
    for _ in range(2):
        pids = web.workers()
        os.kill(pids[0], signal.SIGKILL)
        wait_until(lambda pids=pids: set(web.workers()) - set(pids))
    wait_until(lambda: open_files() <= before, what=f"{before} open files")


@linux
def test_a_worker_that_cannot_be_started_is_tried_again(server):
    import resource

    web = server("--workers", "3", "--state", ":memory:")
    first, second = web.workers()
    wait_until(lambda: any("cannot be reached" in line for line in web.log()))  # so that nothing else opens files
    soft, hard = resource.prlimit(web.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(web.process.pid, resource.RLIMIT_NOFILE, (3, hard))
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: any("cannot be started" in line for line in web.log()), what="a line that says so")
    time.sleep(2 * RESPAWN_SECONDS)  # for more of them, if it said so more than once
    resource.prlimit(web.process.pid, resource.RLIMIT_NOFILE, (soft, hard))
    wait_until(lambda: "serves again" in web.stderr_text(), what="a new worker")
    assert second in web.workers()
    web.get()
    assert web.stop() == 0
    lines = [line.split("Worker ")[1] for line in web.log() if "Worker " in line]
    died, failed, again = lines
    assert died.endswith(" died (exit code -9); another takes its place")
    assert failed.endswith(": Too many open files (ulimit -n)); the server keeps trying")
    assert again.endswith(" serves again")


@linux
@pytest.mark.parametrize(
    "without",
    [
        "del os.sched_yield, os.sched_setaffinity, os.sched_setscheduler, socket.MSG_DONTWAIT; sys.platform = 'other'",
        "os.sched_setaffinity = os.sched_setscheduler = lambda *arguments: os.chdir('/nowhere')",
        "sys._is_gil_enabled = lambda: False",
    ],
    ids=["another system", "forbidden", "free-threaded"],
)
def test_without_what_linux_offers_it_serves_and_says_nothing_of_it(server, tmp_path, without):
    (tmp_path / "sitecustomize.py").write_text(f"import os, socket, sys\n{without}\n")
    web = server(env={"PYTHONPATH": str(tmp_path)})
    assert os.sched_getaffinity(web.process.pid) == os.sched_getaffinity(0)
    web.get("/?a=1")
    web.get("/?a=1")
    assert web.stop() == 0
    assert web.reports()[-1][1] == "2"


@linux
def test_workers_auto_is_one_for_each_cpu(server):
    assert len(server("--workers", "auto").workers()) == len(os.sched_getaffinity(0)) - 1


# --- bad usage


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--port", "70000"], "argument --port: '70000' is not a number from 0 to 65535"),
        (["--port", "-1"], "argument --port: "),
        (["--port", "http"], "argument --port: "),
        (["--port", "٣"], "argument --port: "),
        (["--port"], "argument --port: expected one argument"),
        (["--interval", "0"], f"argument --interval: '0' is not a number from 0.001 to {threading.TIMEOUT_MAX:.0f}"),
        (["--interval", "-1"], "argument --interval: "),
        (["--interval", "nan"], "argument --interval: "),
        (["--interval", "1e999"], "argument --interval: "),
        (["--interval", "1e300"], "argument --interval: "),
        (["--interval", "a minute"], "argument --interval: "),
        (["--tag", "host"], "argument --tag: 'host' is not KEY=VALUE"),
        (["--tag", "=web"], "argument --tag: "),
        (["--tag", "host="], "argument --tag: "),
        (["--tag", "host=a\nb"], "argument --tag: "),
        (["--tag", "host=a\\"], "argument --tag: "),
        (["--tag", "request=x"], "argument --tag: 'request' is reserved by the server or InfluxDB"),
        (["--tag", "time=x"], "argument --tag: "),
        (["--tag", "_field=x"], "argument --tag: "),
        (["--tag", "host=a", "--tag", "host=a"], "argument --tag: the key 'host' is given twice"),
        (["--workers", "0"], "argument --workers: '0' is not a number from 1 to 255, or auto"),
        (["--workers", "256"], "argument --workers: "),
        (["--workers", "many"], "argument --workers: "),
        (["--prot", "80"], "unrecognized arguments: --prot 80"),
        (["-port", "80"], "unrecognized arguments: -port 80"),
        (["--access_log"], "unrecognized arguments: --access_log"),
        (["--inflx", "influxdb://h"], "unrecognized arguments: --inflx influxdb://…"),
        (["--inflx", "INFLUXDB://user:secret@h"], "unrecognized arguments: --inflx influxdb://…"),
        (["--bind", ""], "argument --bind: '' is not an address"),
        (["--state", ""], "argument --state: '' is neither a file name nor :memory:"),
        (["--influx", ""], "argument --influx: it is empty"),
        (["--influx", " \n"], "argument --influx: it is empty"),
        (["--inter", "1"], "unrecognized arguments: --inter 1"),
        (["8008"], "unrecognized arguments: 8008"),
    ],
)
def test_bad_usage_is_one_line_below_the_usage(arguments, reason, misuse):
    assert misuse(*arguments).startswith(reason)


@pytest.mark.smoke
def test_bad_usage_ends_the_real_program_with_2():
    assert failure("--port", "http", code=2).startswith("argument --port: ")
    assert failure(env={DSN_VARIABLE: PASSWORD}, code=2).startswith(DSN_VARIABLE)


# --- what keeps it from starting


@pytest.mark.smoke
@pytest.mark.parametrize("bind", [["--bind", "127.0.0.1"], pytest.param([], marks=linux)])  # BSD lets both have it
def test_a_port_in_use_is_one_line(bind, state):
    with socket.create_server(("127.0.0.1", free_port())) as other:
        port = str(other.getsockname()[1])
        line = failure("--port", port, "--state", state, *bind)
    assert line == f"port {port} is already in use; use a different --port"
    assert not Path(state).exists()


@pytest.mark.parametrize("address", ["192.0.2.1", "::g", "host.invalid", "a..b", "a" * 64])
def test_an_address_that_is_not_this_machines_is_one_line(address, state):
    line = failure("--bind", address, "--port", "0", "--state", state)
    assert line.startswith(f"cannot listen on {address}: ")
    assert line.endswith("; --bind must be an address of this machine")
