"""What is printed and logged; and that requests are answered, counted and recorded whatever becomes of that."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import datetime
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from books import counted
from daemons import (
    ACCESS_LINE,
    PATIENCE_S,
    PROGRAM,
    Server,
    free_port,
    reset_at_close,
    run_python,
    wait_until,
)
from messages import exchange, is_readable, message, post, texts
from needs import installed, ipv6, linux, posix

import webserver_influx
from webserver_influx import REPEAT_SECONDS, Output, SumHandler, log_line

# --- standard output and error as a shell makes them


def redirected(server, redirections: str, *options: str, env: dict[str, str] | None = None) -> Server:
    """The server with other standard streams, once it accepts connections; it may not be able to say so."""
    port = free_port()
    web = server(*options, "--port", str(port), start=False, env=env)
    web.redirect(redirections)
    web.launch()
    web.host, web.port = "127.0.0.1", port
    wait_until(lambda: web.connect().close() is None, what="the port to open")
    return web


UNWRITABLE = ["2>/dev/full", "<&- >&- 2>&-", ">/dev/full", "> >(true)"]


@linux
@pytest.mark.parametrize("redirections", UNWRITABLE)
def test_a_log_that_cannot_be_written_touches_no_reply(server, redirections):
    web = redirected(server, redirections, "--access-log", "--verbose")
    assert [web.get("/?a=1").text for _ in range(3)] == ["Sum: 1.0"] * 3
    assert counted(web.state) == 3
    assert web.stop() == 0


@linux
def test_a_terminal_that_is_gone_touches_no_reply(server):
    master, terminal = os.openpty()
    os.set_blocking(master, False)
    shown = bytearray()
    web = redirected(server, f"2>{os.ttyname(terminal)}", "--access-log")
    web.get()
    wait_until(lambda: shown.extend(os.read(master, 4096)) or b'"GET / HTTP/1.1" 200 6' in shown, what="the line")
    os.close(master)
    os.close(terminal)
    assert [web.get().text for _ in range(3)] == ["Sum: 0"] * 3
    assert web.stop() == 0


@linux
def test_standard_streams_that_were_closed_are_no_file_of_the_servers(server):
    web = redirected(server, "<&- >&- 2>&-", "--workers", "2")
    for pid in (web.process.pid, *web.workers()):
        assert {os.readlink(f"/proc/{pid}/fd/{descriptor}") for descriptor in range(3)} == {"/dev/null"}
    assert web.get().text == "Sum: 0"
    assert web.stop() == 0


@linux
@pytest.mark.parametrize(
    ("option", "redirection"),
    [("--help", ">/dev/full"), ("--help", ">&-"), ("--help", "> >(true)"), ("--version", ">&-")],
)
def test_what_nobody_can_read_is_no_failure(option, redirection):
    command = [installed("bash"), "-c", f'exec "$0" "$@" {redirection}', sys.executable, PROGRAM, option]
    ended = subprocess.run(command, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@posix
def test_to_write_nothing_does_not_prove_that_there_is_room_again(caplog):
    reader, writer = os.pipe()
    os.close(reader)
    output = Output(writer)
    output.write(b"a line\n")
    wait_until(lambda: output.dropped == 1)
    output.finish(time.monotonic() + PATIENCE_S)  # which wakes the writer with nothing
    os.close(writer)
    assert not caplog.messages


@linux
def test_an_error_goes_nowhere_else_where_there_is_no_standard_error(state):
    command = [installed("bash"), "-c", 'exec "$0" "$@" 2>&-', sys.executable, PROGRAM, "--bind", "192.0.2.1"]
    ended = subprocess.run([*command, "--state", state], stdout=subprocess.PIPE, timeout=PATIENCE_S, check=False)
    assert (ended.returncode, ended.stdout) == (1, b"")


@pytest.mark.parametrize("encoding", ["ascii", "cp1252:strict"])
def test_names_that_the_encoding_lacks_are_told_by_escapes(server, encoding):
    env = {"PYTHONIOENCODING": encoding}
    web = server("--state", "Łukasz-ü.db", env=env)
    last_letter = "ü".encode(encoding.partition(":")[0], "backslashreplace")
    assert (
        b"Until InfluxDB has taken them, points wait in \\u0141ukasz-%b.db." % last_letter
        in (web.folder / "stdout").read_bytes()
    )
    assert web.get().text == "Sum: 0"
    assert web.stop() == 0
    assert any("points waiting in \\u0141ukasz-" in line for line in web.log()) or os.name == "nt"


# --- a standard error that nobody reads


class FullPipe:
    """A named pipe that takes no more, until it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self.descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        self.filling = 0
        for size in (4096, 1):  # the last bytes, too
            with contextlib.suppress(BlockingIOError):
                while True:
                    self.filling += os.write(self.descriptor, b"-" * size)
        self.content = b""

    def read(self) -> str:
        """All that has come through it since it was full."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.descriptor, 65536):
                self.content += data
        return self.content[self.filling :].decode()

    def close(self) -> None:
        os.close(self.descriptor)


@pytest.fixture
def full_pipe(tmp_path):
    with contextlib.closing(FullPipe(tmp_path / "pipe")) as pipe:
        yield pipe


@posix
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_standard_error_that_nobody_reads_is_not_waited_for(server, full_pipe, workers):
    options = ("--access-log", "--verbose", "--interval", "0.1", "--workers", workers)
    web = redirected(server, f"2>{full_pipe.path}", *options)
    for _ in range(3):
        assert web.raw(message("GET /?a=1") * 400 + message("GET /", "Connection: close")).count(b"Sum: 1.0") == 400
    points = wait_until(lambda: counted_in_points(web) == 1203, what="all requests in points")
    assert points
    begin = time.monotonic()
    assert web.stop() == 0
    assert time.monotonic() - begin < PATIENCE_S / 2


def counted_in_points(web: Server) -> int:
    with contextlib.closing(sqlite3.connect(web.state)) as database:
        (number,) = database.execute("SELECT sum(requests_number) FROM requests").fetchone()
    return number


@posix
def test_a_standard_output_that_nobody_reads_is_not_waited_for(server, full_pipe):
    web = redirected(server, f">{full_pipe.path}")
    assert web.get().text == "Sum: 0"
    assert web.stop() == 0
    assert len(web.log()) == 3  # InfluxDB, the summary, and the last minute


@posix
def test_a_second_ctrl_c_does_not_wait_for_the_log(server, full_pipe):
    web = redirected(server, f"2>{full_pipe.path}")
    with web.connect() as client:
        client.sendall(post(b'{"a": 3}')[:-1])
        assert not is_readable(client, 0.1)
        web.process.send_signal(signal.SIGINT)
        wait_until(web.refuses, what="it to accept no more")
        time.sleep(1.5 * REPEAT_SECONDS)
        assert web.stop(signal.SIGINT) == 130


@posix
def test_lines_that_are_lost_are_told_at_the_end_too(tmp_path):
    script = """
        import os, signal, sys, webserver_influx

        def summary(*arguments):
            sys.stderr.buffer.dropped = 3
            return ["the last line"]

        webserver_influx.announce = lambda *arguments: os.kill(os.getpid(), signal.SIGTERM)
        webserver_influx.Meter.summary = summary
        sys.exit(webserver_influx.main(sys.argv[1:]))
    """
    options = ["--bind", "127.0.0.1", "--port", 0, "--state", tmp_path / "state", "--influx", "influxdb://127.0.0.1:9"]
    ended = run_python(script, *options)
    assert " the last line\n" in ended.stderr
    assert " WARNING Dropped 3 log lines: " in ended.stderr


@posix
def test_lines_that_are_lost_are_counted_and_told_when_there_is_room(server, full_pipe):
    web = redirected(server, f"2>{full_pipe.path}", "--access-log")
    size = 4000  # of a line
    request = message(f"GET /{'a' * size}")
    rounds = webserver_influx.OUTPUT_BYTES // size // 100 + 2
    for _ in range(rounds):
        web.raw(request * 99 + message("GET /", "Connection: close"))

    def lines() -> int:
        text = full_pipe.read()
        dropped = re.findall(r" WARNING Dropped ([\d,]+) log lines?: ", text)
        return len(ACCESS_LINE.findall(text)) + sum(int(number.replace(",", "")) for number in dropped)

    # Of the other lines, the first, of InfluxDB, may be among the lost.
    wait_until(lambda: rounds * 100 <= lines() <= rounds * 100 + 1, what="each line, written or lost")
    assert web.stop() == 0


class Pieces(list):
    """A file that shows each write."""

    def write(self, data: bytes) -> int:
        self.append(data)
        return len(data)


@linux
def test_a_write_is_of_whole_lines_and_so_short_that_a_pipe_of_several_workers_keeps_them_together():
    output = Output(2)
    output.file = Pieces()
    lines = [b"%d %b\n" % (number, b"a" * (number % 100)) for number in range(2000)]
    lines[1000] = b"a" * 2 * select.PIPE_BUF + b"\n"  # cannot be one piece
    for line in lines:
        output.write(line)
    output.finish(time.monotonic() + PATIENCE_S)
    assert b"".join(output.file) == b"".join(lines)
    assert len(output.file) < 100
    assert all(piece.endswith(b"\n") for piece in output.file)
    assert [piece for piece in output.file if len(piece) > select.PIPE_BUF] == [lines[1000]]


@pytest.mark.smoke
def test_the_thread_that_writes_goes_on_after_a_bug_or_without_memory_and_what_is_lost_is_counted(caplog):
    class Failing(Pieces):
        def write(self, data: bytes) -> int:
            if b"bad" in data:
                raise MemoryError
            return super().write(data)

    output = Output(2)
    output.file = Failing()
    output.write(b"bad\nbad\n")
    wait_until(lambda: output.dropped == 2)
    output.write(b"good\n")
    output.finish(time.monotonic() + PATIENCE_S)
    assert output.file == [b"good\n"]
    assert output.size == 0
    assert caplog.messages == ["Dropped 2 log lines: the output was blocked or broken"]


# --- what is told when it stops


@posix
def test_ctrl_c_is_answered_at_once_by_what_it_waits_for(server):
    web = server()
    with web.connect() as client:
        exchange(client, message("GET /"), until=b"Sum: 0")
        client.sendall(post(b'{"a": 3}')[:-1])
        web.process.send_signal(signal.SIGINT)
        wait_until(lambda: "\nStopping: finishing requests, " in web.stdout_text(), what="the line")
        assert web.running
        client.sendall(b"}")
        assert texts(client.recv(4096)) == ["Sum: 3.0"]
    assert web.wait() == 0


@pytest.mark.smoke
def test_no_log_line_gets_into_the_banner(monkeypatch):
    class Recorder(BytesIO):
        def write(self, data):
            writes.append(bytes(data))
            return len(data)

    writes: list[bytes] = []
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(Recorder(), "utf-8", newline="\n", line_buffering=True))
    with webserver_influx.listen("127.0.0.1", 0) as listener:
        webserver_influx.announce(listener, webserver_influx.Options(), "math_server.db")
    (banner,) = writes
    assert banner.endswith(b".\n")


# --- the access log


def access_log(web: Server) -> list[re.Match[str]]:
    """The lines of the access log, once the server has ended."""
    assert web.stop() == 0 or os.name == "nt"
    return [match for line in web.log() if (match := ACCESS_LINE.fullmatch(line))]


def send_only(web: Server, data: bytes) -> None:
    """Send this and no more, and wait for the end of the connection."""
    web.raw(data, half_close=True)


def test_access_log_has_a_line_for_each_request_in_the_common_log_format(server):
    web = server("--access-log")
    before = int(time.time())
    web.get("/some/where?a=1%0A2&b=2")
    (line,) = access_log(web)
    assert line["host"] == "127.0.0.1"
    assert line["request"] == "GET /some/where?a=1%0A2&b=2 HTTP/1.1"
    assert (line["status"], line["bytes"]) == ("200", "8")
    told = datetime.strptime(line["time"], "%d/%b/%Y:%H:%M:%S %z")
    assert before - 1 <= told.timestamp() <= time.time()  # the round in which it came may have begun before


@ipv6
def test_an_ipv4_client_has_its_own_address_in_the_access_log_and_in_others(server):
    web = server("--access-log", "--verbose", everywhere=True)
    web.get()
    web.get(host="::1")
    hang_up(web)
    wait_until(lambda: any(" DEBUG 127.0.0.1 is lost: " in line for line in web.log()), what="the line")
    assert [line["host"] for line in access_log(web)] == ["127.0.0.1", "::1", "127.0.0.1"]


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::ffff:0:1:2", "::ffff:0:1:2"),
        ("fe80::1%eth0", "fe80::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("?", "?"),
    ],
)
def test_a_client_is_shown_by_the_address_alone(address, shown):
    assert SumHandler((address, 1), None, None).address_string() == shown


def test_access_log_does_not_show_one_request_as_another(server):
    web = server("--access-log")
    send_only(web, b"GET /?a=1 HTTP/1.1\r\nHost: x\r\n\r\nFOO\r\n\r\n")
    first, second = access_log(web)
    assert first["request"] == "GET /?a=1 HTTP/1.1"
    assert (second["request"], second["status"]) == ("FOO", "400")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (b'GET /?"a"=\\x41 HTTP/1.1', r"GET /?\x22a\x22=\x5Cx41 HTTP/1.1"),
        (b"GET /\n\x1b[31m\x9b\xff HTTP/1.1", r"GET /\x0A\x1B[31m\x9B\xFF HTTP/1.1"),
        ("GET /ü HTTP/1.1".encode(), r"GET /\xC3\xBC HTTP/1.1"),
        (b"GET /\r" + b" HTTP/1.1", r"GET /\x0D HTTP/1.1"),
        (b"\r\n\r\n", "-"),
        (b"GET /" + b"a" * 9000, "GET /" + "a" * 3995),
        (b"GET /" + b'"' * 9000, "GET /" + r"\x22" * 998),
        (b"GET /12" + b'"' * 9000, "GET /12" + r"\x22" * 998),
    ],
    ids=["quotes", "controls", "utf-8", "a bare CR", "nothing", "too long", "too long escaped", "cut elsewhere"],
)
def test_access_log_shows_a_request_line_so_that_it_is_read_as_it_was(line, shown):
    text = log_line("127.0.0.1", b"24/Nov/2026:10:00:00 +0000", line + b"\r\nHost: x\r\n\r\n", 400, 3).decode("ascii")
    assert ACCESS_LINE.fullmatch(text.removesuffix("\n"))["request"] == shown


def test_access_log_tells_the_bytes_of_content_that_were_sent(server):
    web = server("--access-log")
    for method in ("GET", "HEAD", "PUT"):
        web.request(method, "/?a=1")
    web.raw(b"HEAD / HTTP/3.0\r\n\r\n")
    lines = [(line["request"].split()[0], line["status"], int(line["bytes"])) for line in access_log(web)]
    assert [line[:2] for line in lines] == [("GET", "200"), ("HEAD", "200"), ("PUT", "405"), ("HEAD", "505")]
    assert [line[2] > 0 for line in lines] == [True, False, True, False]
    assert lines[0][2] == len("Sum: 1.0")


def test_a_log_reader_understands_every_line(server, tmp_path):
    goaccess = installed("goaccess")
    web = server("--access-log", everywhere=True)
    for target in ("/", "/?a=1", '/"', "/\\", "/%22?b=%FF"):
        web.raw(message(f"GET {target}", "Connection: close"))
    web.request("HEAD", "/")
    for data in (b"GET /\xff HTTP/1.1\r\n\r\n", b"GET /" + b"\xff" * 8000 + b" HTTP/1.1\r\n\r\n"):
        send_only(web, data)
    lines = access_log(web)
    log = tmp_path / "access.log"
    log.write_text("".join(f"{line[0]}\n" for line in lines))
    command = [goaccess, str(log), "--log-format=COMMON", "--no-global-config", "-o", str(tmp_path / "report.json")]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=PATIENCE_S)
    general = json.loads((tmp_path / "report.json").read_text(errors="replace"))["general"]
    assert (general["valid_requests"], general["failed_requests"]) == (len(lines), 0)


def hang_up(web: Server) -> None:
    """Reset a connection on which a request has been answered."""
    with web.connect() as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.recv(1024)
        reset_at_close(client)
