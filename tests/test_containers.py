"""What README and .compose.yaml run in containers, run without one: the tests have no images.

The file is checked against the Compose schema; each command in it, and that of README's `docker run`, is run.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from books import counted
from daemons import PATIENCE_S, PROGRAM, PROJECT, Daemon, free_port, processes_of, wait_until
from needs import imported, installed, linux, posix

import webserver_influx
from webserver_influx import Destination, parse_dsn

COMPOSE = PROJECT / ".compose.yaml"
README = (PROJECT / "README.md").read_text(encoding="utf-8")


def yaml(text: str) -> Any:
    return imported("ruamel.yaml").YAML(typ="safe").load(text)


@pytest.fixture
def compose() -> dict[str, Any]:
    return yaml(COMPOSE.read_text(encoding="utf-8"))


@pytest.fixture
def web_service(compose) -> dict[str, Any]:
    return compose["services"]["server"]


@pytest.fixture
def dockerfile(web_service) -> list[list[str]]:
    """The words of each line."""
    return [shlex.split(line) for line in web_service["build"]["dockerfile_inline"].splitlines()]


def test_the_file_is_as_the_compose_schema_has_it():
    imported("check_jsonschema")
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(COMPOSE)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert checked.returncode == 0, checked.stdout


def test_the_command_of_the_readme_names_the_file_and_every_volume_of_it_is_declared(compose):
    assert f"\n    docker compose -f {COMPOSE.name} up -d\n" in README
    mounted = {volume.partition(":")[0] for one in compose["services"].values() for volume in one["volumes"]}
    named = {source for source in mounted if not source.startswith(".")}
    assert named == set(compose["volumes"])
    assert all((PROJECT / source).is_dir() for source in mounted - named)


def test_the_image_holds_the_program_and_its_package_and_the_server_is_its_first_process(dockerfile, web_service):
    instructions = {words[0]: words[1:] for words in dockerfile}
    assert instructions["FROM"][0].startswith("python:3.")
    *files, target = instructions["COPY"]
    assert target == "/app/"
    assert [(PROJECT / name).is_file() for name in files] == [True, True]
    assert f"/app/{PROGRAM.name}" in " ".join(instructions["ENTRYPOINT"])
    entrypoint = next(line for line in web_service["build"]["dockerfile_inline"].splitlines() if "ENTRYPOINT" in line)
    assert entrypoint == f'ENTRYPOINT ["python", "/app/{PROGRAM.name}"]'  # no shell, which would keep SIGTERM to itself
    assert instructions["USER"] == ["nobody"]
    state = instructions["WORKDIR"][0]
    assert web_service["volumes"] == [f"state:{state}"]
    assert ["RUN", "install", "-d", "-o", "nobody", "-g", "nogroup", state] in dockerfile


def test_the_server_gets_longer_to_stop_than_it_takes(web_service):
    program = webserver_influx
    assert program.STOP_SECONDS + program.OUTPUT_SECONDS < 10 < float(web_service["stop_grace_period"].rstrip("s"))


def test_all_services_name_one_database_and_one_user_with_one_password(compose, web_service):
    destination = parse_dsn(web_service["environment"]["WEBSERVER_INFLUX_DSN"])
    assert destination == Destination(host="influxdb")
    influxdb = compose["services"]["influxdb"]["environment"]
    assert influxdb["INFLUXDB_HTTP_AUTH_ENABLED"] == "true"
    assert influxdb["INFLUXDB_DB"] == destination.database
    assert influxdb["INFLUXDB_USER"] == destination.username
    assert influxdb["INFLUXDB_USER_PASSWORD"] == destination.password


def test_influxd_knows_every_setting_of_its_service(compose):
    """It ignores what it does not know without a word. What its image reads itself is not influxd's."""
    settings = compose["services"]["influxdb"]["environment"]
    of_the_image = {name for name in settings if re.match("INFLUXDB_(ADMIN_USER|DB|USER)", name)}

    def effective(env: dict[str, str]) -> str:
        command = [installed("influxd"), "config"]
        return subprocess.run(command, env=env, capture_output=True, text=True, check=True, timeout=PATIENCE_S).stdout

    default = effective({})
    for name in settings.keys() - of_the_image:
        if "reporting-enabled = false" not in default or name != "INFLUXDB_REPORTING_DISABLED":  # Debian's: off already
            assert effective({name: settings[name]}) != default, name


def test_grafana_gets_the_datasource_and_the_dashboard_of_this_folder(compose):
    datasource = yaml(compose["configs"]["datasource"]["content"])
    of_the_folder = yaml((PROJECT / ".grafana" / "datasources" / "webserver_influx.yaml").read_text(encoding="utf-8"))
    assert datasource["datasources"][0].pop("url") == "http://influxdb:8086"
    assert of_the_folder["datasources"][0].pop("url") == "http://localhost:8086"
    assert datasource == of_the_folder

    grafana = compose["services"]["grafana"]
    (dashboards,) = (volume for volume in grafana["volumes"] if volume.startswith("./.grafana/dashboards:"))
    folder = dashboards.split(":")[1]
    provider = yaml((PROJECT / ".grafana" / "dashboards" / "webserver_influx.yaml").read_text(encoding="utf-8"))
    assert provider["providers"][0]["options"]["path"] == folder
    assert grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"] == f"{folder}/webserver_influx.json"


def test_the_command_of_the_server_gives_its_points_a_tag_host(web_service, server, influxd):
    influx = influxd()
    web = server("--interval", "0.2", "--influx", influx.dsn(), *web_service["command"])
    web.get("/")
    wait_until(lambda: influx.total() == 1)
    assert {point["host"] for point in influx.points()} == {"server-1"}


@posix
def test_the_health_check_knows_a_server_that_hangs_and_is_not_counted(web_service, server):
    web = server()
    kind, python, option, script = web_service["healthcheck"]["test"]
    assert (kind, python, option) == ("CMD", "python", "-c")
    script = script.replace('("localhost", 8008), 3)', f'("localhost", {web.port}), 0.5)')

    def healthy() -> bool:
        command = [sys.executable, option, script]
        return subprocess.run(command, capture_output=True, check=False, timeout=PATIENCE_S).returncode == 0

    wait_until(healthy)
    web.freeze()
    assert not healthy()
    web.thaw()
    wait_until(healthy)
    assert counted(web.state) == 0
    web.stop()
    assert not healthy()


class Container(Daemon):
    """What `docker run` of the README starts, as a process in a folder: /app is the repository, /state the folder."""

    def __init__(self, guard, folder: Path, script: str, port: int, dsn: str) -> None:
        self.port = port
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name, body in {
            "python": f'exec "{sys.executable}" "$@"',
            "pip": '[ "$1" = install ] && [ "$2" = -qr ] && [ -s "$3" ]',
        }.items():
            (bin_folder / name).write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
            (bin_folder / name).chmod(0o755)
        script = script.replace("/app/", f"{PROJECT}/") + f" --bind 127.0.0.1 --port {port} --influx {dsn}"
        # as Docker sets it: to the name of the container, or with --network host of the machine
        env = {"PATH": f"{bin_folder}:/usr/bin:/bin", "HOSTNAME": "web1"}
        super().__init__(guard, folder, ["sh", "-c", script], env)

    def answers(self) -> bool:
        return "Serving on " in self.stdout_text()


@linux
def test_docker_run_of_the_readme_starts_a_server_that_docker_stop_reaches(guard, tmp_path, influxd, at_end):
    (command,) = re.findall(r"^ {4}(docker run (?:.*\\\n)*.*)$", README, re.MULTILINE)
    words = shlex.split(command.replace("\\\n", " "))
    assert words[words.index("-v") + 1] == "$PWD:/app:ro"
    assert words[words.index("-w") + 1] == "/state"
    assert words[-3:-1] == ["sh", "-c"]
    influx = influxd()
    folder = tmp_path / "state"
    folder.mkdir()
    container = Container(guard, folder, words[-1], free_port(), influx.dsn())
    at_end.callback(container.close)

    container.start()
    ((_, running),) = processes_of(container.process.pid).items()  # the shell has become the server
    assert PROGRAM.name in running
    assert container.stop() == 0
    assert (folder / webserver_influx.STATE_FILE).is_file()
    assert {point["host"] for point in influx.points()} == {"web1"}
