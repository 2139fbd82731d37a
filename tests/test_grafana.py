"""The dashboard and the datasource in .grafana: Grafana's own types know all of it, and its queries, in a real influxd,
give the right numbers at every zoom.

Grafana itself is not here. What it does with a query before InfluxDB gets it is `asked`, below.
"""

from __future__ import annotations

import itertools
import json
import re
from typing import Any, NamedTuple

import pytest
from daemons import PROJECT, wait_until
from needs import imported

import webserver_influx

FOLDER = PROJECT / ".grafana"
DASHBOARD = json.loads((FOLDER / "dashboards" / "webserver_influx.json").read_text(encoding="utf-8"))
PROVISIONING = "/etc/grafana/provisioning"  # of Grafana's packages and of its image


def provisioned(name: str) -> dict[str, Any]:
    """The one entry of a provisioning file, whose other key is its version."""
    text = (FOLDER / name / "webserver_influx.yaml").read_text(encoding="utf-8")
    content = imported("ruamel.yaml").YAML(typ="safe").load(text)
    assert content.pop("apiVersion") == 1
    ((entry,),) = content.values()
    return entry


def panel(title: str) -> dict[str, Any]:
    (found,) = (one for one in DASHBOARD["panels"] if one["title"] == title)
    return found


# --- what Grafana reads


def missing(original: Any, copy: Any, path: str = "") -> list[str]:
    """Where the copy lacks what the original has, or has something else. What it has besides are defaults."""
    if isinstance(original, dict) and isinstance(copy, dict):
        return [lack for key in original for lack in missing(original[key], copy.get(key), f"{path}/{key}")]
    if isinstance(original, list) and isinstance(copy, list) and len(original) == len(copy):
        return [lack for i, pair in enumerate(zip(original, copy)) for lack in missing(*pair, f"{path}/{i}")]
    return [] if original == copy else [f"{path}: {original!r} became {copy!r}"]


def test_the_types_of_grafana_know_every_key_of_the_dashboard():
    dashboard = imported("grafana_foundation_sdk.models.dashboard", since=(3, 11)).Dashboard
    imported("grafana_foundation_sdk.cog.plugins", since=(3, 11)).register_default_plugins()
    encoder = imported("grafana_foundation_sdk.cog.encoder", since=(3, 11)).JSONEncoder
    assert missing(DASHBOARD, json.loads(encoder().encode(dashboard.from_json(DASHBOARD)))) == []


def test_a_key_that_the_types_of_grafana_do_not_know_would_be_found():
    original = {"panels": [{"id": 1, "titel": "typo"}]}
    assert missing(original, {"panels": [{"id": 1, "title": ""}]}) == ["/panels/0/titel: 'typo' became None"]


def test_panels_stand_beside_each_other_and_each_has_a_number_and_a_description():
    cells: set[tuple[int, int]] = set()
    for one in DASHBOARD["panels"]:
        x, y, width, height = (one["gridPos"][side] for side in "xywh")
        covered = set(itertools.product(range(x, x + width), range(y, y + height)))
        assert x + width <= 24
        assert not cells & covered
        cells |= covered
        assert one["description"].endswith(".")
    assert len({one["id"] for one in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_datasource_is_where_the_server_writes_by_default():
    datasource, default = provisioned("datasources"), webserver_influx.Destination()
    assert datasource["type"] == "influxdb"
    assert datasource["access"] == "proxy"
    assert datasource["jsonData"]["version"] == "InfluxQL"
    assert datasource["url"] == f"http://{default.host}:{default.port}"
    assert datasource["database"] == datasource["jsonData"]["dbName"] == default.database
    assert (datasource["user"], datasource["secureJsonData"]["password"]) == (default.username, default.password)


def test_every_panel_and_query_asks_that_datasource():
    own = {"type": "influxdb", "uid": provisioned("datasources")["uid"]}
    for one in DASHBOARD["panels"]:
        assert one["datasource"] == own
        assert all(target["datasource"] == own for target in one["targets"])


def test_the_dashboard_is_looked_for_where_the_provisioning_files_are_put():
    provider = provisioned("dashboards")
    assert provider["type"] == "file"
    assert provider["options"]["path"] == f"{PROVISIONING}/dashboards"


def test_the_readme_puts_the_files_where_grafana_looks_for_them():
    readme = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert f"cp -r .grafana/* {PROVISIONING}/ " in readme
    assert sorted(path.name for path in FOLDER.iterdir()) == ["dashboards", "datasources"]


def test_no_step_of_a_curve_is_shorter_than_the_interval_of_the_server():
    """Or a point would be taken for the requests of that shorter time, and between two points there would be none."""
    assert webserver_influx.INTERVAL_SECONDS == 60
    assert provisioned("datasources")["jsonData"]["timeInterval"] == "1m"
    assert {one["interval"] for one in DASHBOARD["panels"]} == {"1m"}


# --- what its queries answer

MINUTE, HOUR = 60, 3600
BEGIN = 1_795_478_400  # a midnight (UTC), s

# Twelve hours. Host a had a burst in one minute, and did not run in ten; the one without a tag wrote every 10 s.
RATES = {"a": 600, "": 60}  # requests per minute
BURST, BURST_MINUTE = 60_000, 200
OUTAGE = range(60, 70)  # minutes
MINUTES = 720


def points() -> str:
    """In line protocol; host a records 17 s after the minute."""
    lines = []
    for minute in range(MINUTES):
        time = BEGIN + minute * MINUTE
        if minute not in OUTAGE:
            number = BURST if minute == BURST_MINUTE else RATES["a"]
            lines.append(f"requests,request=GETs_per_minute,host=a requests_number={number}i {time + 17}000000000")
        lines += [
            f"requests,request=GETs_per_minute requests_number=10i {time + second}000000000"
            for second in range(3, MINUTE, 10)
        ]
    return "\n".join(lines)


class Zoom(NamedTuple):
    """The time that a person looks at: Grafana picks the step, from its list of round ones, by the panel's width."""

    step: str
    seconds: int

    @property
    def steps(self) -> int:
        return MINUTES * MINUTE // self.seconds


ZOOMS = [Zoom("1m", MINUTE), Zoom("2m", 2 * MINUTE), Zoom("10m", 10 * MINUTE), Zoom("1h", HOUR), Zoom("6h", 6 * HOUR)]


def asked(
    query: str, zoom: Zoom, seconds: int = MINUTE, begin: int = BEGIN, end: int = BEGIN + MINUTES * MINUTE
) -> str:
    """The query as Grafana sends it (its pkg/tsdb/influxdb/models/query.go).

    begin and end are in s since 1970; seconds is what stands in the field at the top of the dashboard.
    """
    for macro, value in (
        ("$seconds", str(seconds)),
        ("$timeFilter", f"time >= {begin}000ms and time <= {end * 1000 - 1}ms"),
        ("$__interval_ms", str(zoom.seconds * 1000)),
        ("$__interval", zoom.step),
    ):
        query = query.replace(macro, value)
    assert "$" not in query
    return query


@pytest.fixture
def answers(influxd):
    """answers(title, zoom, seconds) -> the rows of each query of a panel, as the datasource's user gets them."""
    influx = influxd(auth=True)
    assert influx.write(points(), influx.USER) == (204, "")
    datasource = provisioned("datasources")
    login = (datasource["user"], datasource["secureJsonData"]["password"])

    def ask(title: str, zoom: Zoom = ZOOMS[0], seconds: int = MINUTE) -> list[list[dict[str, Any]]]:
        return [influx.query(asked(target["query"], zoom, seconds), login) for target in panel(title)["targets"]]

    return ask


def curves(answer: list[list[dict[str, Any]]]) -> dict[str, list[float | None]]:
    """The values of a panel's curves, by host, and of the one of all hosts."""
    by_host, in_all = answer
    found: dict[str, list[float | None]] = {}
    for row in by_host:
        (value,) = (row[name] for name in row if name not in ("time", "host"))
        found.setdefault(row["host"], []).append(value)
    found["in all"] = [value for row in in_all for name, value in row.items() if name != "time"]
    return found


def minutes_of(zoom: Zoom) -> list[range]:
    length = zoom.seconds // MINUTE
    return [range(first, first + length) for first in range(0, MINUTES, length)]


def requests_of_a(minute: int) -> int:
    return 0 if minute in OUTAGE else BURST if minute == BURST_MINUTE else RATES["a"]


def test_a_rate_is_in_the_same_unit_at_every_zoom_and_nothing_is_drawn_where_no_point_came(answers):
    curve = panel("Requests per minute")["fieldConfig"]["defaults"]
    assert (curve["unit"], curve["custom"]["spanNulls"]) == ("reqpm", False)
    curve = panel("Requests per second")["fieldConfig"]["defaults"]
    assert (curve["unit"], curve["custom"]["spanNulls"]) == ("reqps", False)
    panels = (("Requests per minute", 1), ("Requests per second", 60))
    for zoom, (title, per_minute) in itertools.product(ZOOMS, panels):
        means = [
            None if set(step) <= set(OUTAGE) else sum(map(requests_of_a, step)) / len(step) for step in minutes_of(zoom)
        ]
        drawn = curves(answers(title, zoom))
        assert drawn[""] == pytest.approx([RATES[""] / per_minute] * zoom.steps)
        assert [value is None for value in drawn["a"]] == [mean is None for mean in means]
        assert [value or 0 for value in drawn["a"]] == pytest.approx([(mean or 0) / per_minute for mean in means])
        both = [((mean or 0) + RATES[""]) / per_minute for mean in means]
        assert drawn["in all"] == pytest.approx(both)


def test_a_peak_is_the_busiest_minute_at_every_zoom(answers):
    for zoom in ZOOMS:
        drawn = curves(answers("Peaks: the busiest minute of each step", zoom))
        peaks = [max(map(requests_of_a, step)) for step in minutes_of(zoom)]
        assert drawn[""] == [RATES[""]] * zoom.steps
        assert [value or 0 for value in drawn["a"]] == peaks
        assert drawn["in all"] == [peak + RATES[""] for peak in peaks]


def test_a_gap_is_blank_or_shows_how_much_is_missing_at_every_zoom(answers):
    title = "Gaps: points that came, of those that were due"
    orange, green = panel(title)["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert (orange["color"], green["color"]) == ("orange", "green")
    for zoom in ZOOMS:
        (rows,) = answers(title, zoom)
        came = [row["sum"] for row in rows if row["host"] == "a"]
        share = [sum(minute not in OUTAGE for minute in step) / len(step) for step in minutes_of(zoom)]
        assert [value or 0 for value in came] == pytest.approx(share)
        assert 0 not in came
        assert all((value >= green["value"]) == (value == 1) for value in share)


@pytest.mark.parametrize("zoom", ZOOMS, ids=[zoom.step for zoom in ZOOMS])
def test_what_was_due_follows_the_interval_of_the_servers(answers, zoom):
    """The host without a tag wrote every 10 s: six points a minute are all, and five are not."""
    (field,) = DASHBOARD["templating"]["list"]
    assert field["name"] == "seconds"
    assert field["query"] == field["current"]["value"] == f"{webserver_influx.INTERVAL_SECONDS:.0f}"
    (rows,) = answers("Gaps: points that came, of those that were due", zoom, 10)
    assert [row["sum"] for row in rows if row["host"] == ""] == pytest.approx([1.0] * zoom.steps)
    missing_one = 5 / 6
    assert (
        missing_one
        < panel("Gaps: points that came, of those that were due")["fieldConfig"]["defaults"]["thresholds"]["steps"][1][
            "value"
        ]
    )


def test_the_numbers_at_the_top_are_those_of_all_hosts(answers):
    total = sum(map(requests_of_a, range(MINUTES))) + MINUTES * RATES[""]
    peak = BURST + RATES[""]
    for title, name, value in (
        ("Requests in this time", "sum", total),
        ("In the busiest minute", "max", peak),
        ("In the busiest minute, per second", "max", peak / 60),
        ("Hosts", "count", 2),
    ):
        ((row,),) = answers(title)
        assert row[name] == pytest.approx(value)


def test_the_tables_have_a_row_for_each_host(answers):
    ((untagged, tagged),) = answers("Totals of each host")
    assert untagged == {"host": "", "time": BEGIN * 10**9, "requests": 43_200, "most in a point": 10, "points": 4320}
    assert tagged["requests"] == sum(map(requests_of_a, range(MINUTES)))
    assert (tagged["host"], tagged["most in a point"], tagged["points"]) == ("a", BURST, MINUTES - len(OUTAGE))

    ((untagged, tagged),) = answers("The last point of each host")
    last_minute = BEGIN + (MINUTES - 1) * MINUTE
    assert untagged == {"host": "", "time": (last_minute + 53) * 10**9, "requests": 10}
    assert tagged == {"host": "a", "time": (last_minute + 17) * 10**9, "requests": 600}


def test_every_panel_is_tested():
    names = re.findall(r'"([^"\n]+)"', (PROJECT / "tests" / "test_grafana.py").read_text(encoding="utf-8"))
    assert [one["title"] for one in DASHBOARD["panels"] if one["title"] not in names] == []


def test_what_the_server_writes_with_the_tag_of_the_readme_is_found(server, influxd):
    influx = influxd(auth=True)
    web = server("--interval", "0.2", "--influx", influx.dsn(), "--tag", "host=web1")
    for _ in range(3):
        web.get("/")
    wait_until(lambda: influx.total() == 3)
    last = influx.points()[-1]["time"] // 10**9
    (target,) = panel("Totals of each host")["targets"]
    (row,) = influx.query(asked(target["query"], ZOOMS[0], begin=last - HOUR, end=last + HOUR), influx.USER)
    assert (row["host"], row["requests"]) == ("web1", 3)
