"""Tests of the fixtures: they freeze, cut and drop as promised, and leave no process."""

from __future__ import annotations

import http.client
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from daemons import PROJECT, Influxd, clean_environment, wait_until
from needs import INSTALLED_BY_CI, imported, installed
from proxy import Fate, Proxy

TEN_POINTS = "\n".join(f"requests requests_number=1i {time}" for time in range(1, 11))


@pytest.fixture
def influx(influxd) -> Influxd:
    influx = influxd()
    influx.query("CREATE DATABASE math_server")
    return influx


class KeptConnection:
    """Sends requests over one connection, which it opens again only after a reset."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)

    def __enter__(self) -> KeptConnection:
        return self

    def __exit__(self, *_) -> None:
        self.connection.close()

    def ping(self) -> int | None:
        return self.request("GET", "/ping")

    def write(self) -> int | None:
        return self.request("POST", "/write?db=math_server", TEN_POINTS)

    def request(self, method: str, path: str, body: str | None = None) -> int | None:
        """Return the status of the response, or None if the connection ended instead."""
        try:
            self.connection.request(method, path, body)
            with self.connection.getresponse() as response:
                return response.status
        except ConnectionError:
            self.connection.close()
            return None


def test_the_proxy_forwards_requests_over_one_connection(influx):
    with Proxy(influx.port) as proxy, KeptConnection(proxy.port) as client:
        assert client.ping() == 204
        first = client.connection.sock
        assert client.write() == 204
        assert client.connection.sock is first
        assert proxy.counts == {Fate.PASS: 2}
    assert influx.total() == 10


@pytest.mark.parametrize(("fate", "stored"), [(Fate.CUT, 0), (Fate.DROP, 10), (Fate.REFUSE, 0)])
def test_a_fate_also_applies_to_an_open_connection(influx, fate, stored):
    with Proxy(influx.port) as proxy, KeptConnection(proxy.port) as client:
        assert client.ping() == 204
        proxy.switch(fate)
        assert client.write() is None
        assert proxy.counts == {Fate.PASS: 1, fate: 1}
    assert influx.total() == stored


def test_seeded_fates_are_the_same_every_time(influx):
    def fates_of_20_writes() -> list[int | None]:
        rng = random.Random(2)
        with Proxy(influx.port, lambda _: rng.choice(list(Fate))) as proxy, KeptConnection(proxy.port) as client:
            statuses = [client.write() for _ in range(20)]
            assert statuses.count(204) == proxy.counts[Fate.PASS]
            assert set(proxy.counts) == set(Fate)
        return statuses

    assert fates_of_20_writes() == fates_of_20_writes()


def test_the_proxy_closes_connections_while_influxd_does_not_run(influx):
    with Proxy(influx.port) as proxy, KeptConnection(proxy.port) as client:
        influx.kill()
        assert client.write() is None
        assert not proxy.counts
        influx.start()
        assert client.write() == 204


def test_a_frozen_influxd_answers_a_request_after_the_thaw(influx):
    influx.freeze()
    with KeptConnection(influx.port) as client:
        client.connection.request("POST", "/write?db=math_server", TEN_POINTS)
        client.connection.sock.settimeout(0.2)
        with pytest.raises(OSError, match="timed out"):
            client.connection.sock.recv(1)
        influx.thaw()
        client.connection.sock.settimeout(20)
        assert client.connection.sock.recv(65536).startswith(b"HTTP/1.1 204 ")


@pytest.mark.parametrize("auth", [False, True])
def test_influxd_keeps_points_and_users_through_a_kill(influxd, auth):
    influx = influxd(auth=auth)
    if not auth:
        influx.query("CREATE DATABASE math_server")
    assert influx.write(TEN_POINTS, login=influx.USER)[0] == 204
    influx.kill()
    influx.start()
    assert influx.total() == 10
    assert "requests_number" in influx.influx("SELECT * FROM requests")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows has no kill -9")
def test_no_process_outlives_a_pytest_that_is_killed():
    """The child inherits its parent's stdout, so that pipe ends only when both processes have ended."""
    script = """
        import os, signal
        from daemons import Guard
        Guard().spawn(["sleep", "60"])
        os.kill(os.getpid(), signal.SIGKILL)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    ended = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, timeout=20, check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.smoke
def test_the_server_starts_answers_and_stops(server):
    web = server()
    assert web.get("/?a=3&b=3").text == "Sum: 6.0"
    assert web.stop() == 0 or os.name == "nt"  # on Windows, SIGTERM kills


@pytest.mark.smoke
def test_waiting_in_vain_ends_with_a_reason():
    with pytest.raises(AssertionError, match=r"waited 0\.1 s for Godot; the last answer was \[\]"):
        wait_until(list, timeout=0.1, what="Godot")


def test_the_environment_is_clean_for_these_tests():
    assert "WEBSERVER_INFLUX_DSN" not in clean_environment()


@pytest.mark.smoke
@pytest.mark.parametrize("command", ["curl", "hostname"])
@pytest.mark.parametrize("ci", [True, False])
def test_a_command_that_is_missing_skips_a_test_and_fails_it_only_where_ci_installs_it(monkeypatch, command, ci):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CI", str(ci).lower())
    expected = pytest.fail if ci and command == "curl" else pytest.skip
    with pytest.raises(expected.Exception, match=f"^no {command} on this machine: apt-get install {command}$"):
        installed(command)


@pytest.mark.smoke
@pytest.mark.parametrize(("ci", "since"), [(True, (3, 9)), (True, (4, 0)), (False, (3, 9))])
def test_a_module_that_is_missing_skips_a_test_and_fails_it_only_where_ci_has_installed_it(monkeypatch, ci, since):
    monkeypatch.setenv("CI", str(ci).lower())
    expected = pytest.fail if ci and since == (3, 9) else pytest.skip
    with pytest.raises(expected.Exception, match=r"^no nothing\.at_all here: pip install -r tests/requirements\.txt"):
        imported("nothing.at_all", since)


@pytest.mark.smoke
def test_the_packages_that_ci_installs_are_those_of_the_table():
    script = (PROJECT / ".ci" / "run").read_text(encoding="utf-8")
    installs = re.findall(r"^    ([\w-]+) +command -v ([\w.-]+)$", script, re.MULTILINE)
    # no test needs these through installed()
    of_the_script = {"nginx": "nginx-light", "python3": "python3", "pypy3": "pypy3"}
    assert {command: package for package, command in installs} == {**INSTALLED_BY_CI, **of_the_script}
