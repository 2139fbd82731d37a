"""The benchmark, without a load: what it makes of figures, and the order in which it takes them."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import needs
import pytest

sys.path.append(str(Path(__file__).resolve().parent / "benchmark"))
import report

PLACE = report.PINNED


class Peer(NamedTuple):
    title: str
    kind: str = report.SERVER


PEERS = {
    "ours": Peer("webserver_influx.py"),
    "bjoern": Peer("bjoern"),
    "go": Peer("Go net/http", report.YARDSTICK),
    "nginx": Peer("nginx, return 200", report.YARDSTICK),
    "flask": Peer("Flask", report.FRAMEWORK),
}


def measured(**columns: dict[str, list[float]]) -> dict[tuple[str, str, str], dict[int, float]]:
    """Results of one placement, from the columns of each server to the values of the rounds."""
    return {
        (PLACE, server, column): dict(enumerate(values))
        for server, of in columns.items()
        for column, values in of.items()
    }


def verdicts(results: dict[tuple[str, str, str], dict[int, float]]) -> list[str]:
    return [line for line in report.verdicts(results, PEERS).splitlines() if line.startswith("- ")]


def test_a_ratio_is_the_median_of_the_ratios_within_a_round_and_not_that_of_the_medians():
    results = measured(ours={"get-64": [100, 50, 300]}, bjoern={"get-64": [50, 100, 200]})
    assert report.ratios(results, PLACE, "ours", "bjoern", "get-64") == [2, 0.5, 1.5]
    assert report.ratio(results, PLACE, "bjoern", "get-64") == "1.50 (1.00–1.75)"


def test_a_round_in_which_a_server_was_not_measured_is_in_no_ratio():
    results = measured(ours={"get-64": [100, 200, 300]}, bjoern={"get-64": [50]})
    assert report.ratios(results, PLACE, "ours", "bjoern", "get-64") == [2]
    assert report.ratio(results, PLACE, "bjoern", "get-64") == "2.00"


def test_every_column_that_a_target_names_has_a_heading():
    assert [target.column for target in report.TARGETS if target.column not in report.HEADINGS] == []


@pytest.mark.parametrize(("theirs", "sign"), [(100, "✓"), (96, "✓"), (95, "✓"), (105, "✗")])
def test_every_python_server_must_be_behind_by_a_twentieth(theirs, sign):
    (verdict,) = verdicts(measured(ours={"get-64": [105]}, bjoern={"get-64": [theirs]}))
    assert verdict == f"- {sign} GET, 64: {105 / theirs:.2f} × bjoern (target: at least 1.05)"


def test_a_framework_is_no_rival_and_neither_is_a_server_that_fails_requests():
    results = measured(
        ours={"get-64": [100]},
        bjoern={"get-64": [500], "get-64 failed": [3]},
        flask={"get-64": [200]},
    )
    assert verdicts(results) == []
    assert "bjoern, pinned, server on one CPU and load on another: 3 requests of get-64 failed" in report.wrong(
        results, PEERS, []
    )


def test_go_which_uses_all_cpus_is_judged_only_where_it_has_one():
    results = measured(ours={"get-64": [100]}, go={"get-64": [100]})
    assert verdicts(results) == ["- ✗ GET, 64: 1.00 × Go net/http (target: at least 1.2)"]
    by_system = {(report.BY_SYSTEM, *key[1:]): values for key, values in results.items()}
    assert verdicts(by_system) == []


def test_the_latency_must_not_be_above_that_of_the_best_rival_by_more_than_a_tenth():
    results = measured(ours={"get-64 p99": [1.2]}, bjoern={"get-64 p99": [1.0]}, flask={"get-64 p99": [0.1]})
    assert verdicts(results) == ["- ✗ p99 of GET, 64, ms: 1.20 × bjoern (target: at most 1.1)"]


def test_more_workers_must_do_nearly_as_much_in_a_cpu_second_as_one():
    results = measured(
        ours={
            "workers 1": [50_000],
            "workers 1 per CPU s": [100_000],
            "workers 2": [90_000],
            "workers 2 per CPU s": [94_000],
        }
    )
    assert verdicts(results)[1].startswith("- ✗ --workers 2: 90,000 requests/s; per CPU second 0.94 × one worker")


@pytest.mark.parametrize(
    ("spare", "told"), [(1, "- ✓ free-threaded"), (0, "no verdict, as the load shares their CPUs")]
)
def test_two_threads_are_judged_only_where_the_load_leaves_them_two_cpus(spare, told):
    results = measured(
        ours={
            **{f"threads {count}": [count * 50_000] for count in (1, 2)},
            **{f"threads {count} per CPU s": [50_000] for count in (1, 2)},
            **{f"threads {count} spare": [spare] for count in (1, 2)},
        }
    )
    assert told in verdicts(results)[1]


def test_the_document_has_frameworks_in_a_table_of_their_own():
    rates = {"get-64": [100_000.0], "get-64 p99": [1.0], "get-64 cpu": [7.0]}
    results = measured(ours=rates, bjoern=rates, nginx={"get-64": [200_000.0], "get-64 busy": [0.95]}, flask=rates)
    document = report.document(results, PEERS, ["bjoern hangs"], ("a machine", "its tools"), 1, 1.0)
    same, documented = document.split("## As their documentation says")
    assert "| nginx, return 200 | 200.0† |" in same
    assert "Flask" not in same
    assert "| Flask | 100.0 |" in documented
    assert "\n- bjoern hangs\n" in documented


def test_the_chart_is_an_svg_with_a_bar_for_each_server_of_the_first_table_the_fastest_on_top():
    results = measured(ours={"get-64": [100]}, bjoern={"get-64": [90]}, nginx={"get-64": [200]}, flask={"get-64": [9]})
    svg = ElementTree.fromstring(report.chart(results, PEERS, "a machine"))
    texts = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert [text for text in texts if text in {peer.title for peer in PEERS.values()}] == [
        *("nginx, return 200", "webserver_influx.py", "bjoern")
    ]


def test_the_chart_has_every_colour_for_light_and_for_dark():
    light, dark = (set(re.findall(r"^ *(\S+) \{.*fill: ", part, re.MULTILINE)) for part in report.STYLE.split("@media"))
    assert light == dark >= {"text", ".paper", ".ours", ".server", ".yardstick", ".constant"}


@needs.linux
def test_each_round_gives_each_work_to_all_servers_one_after_the_other_and_begins_with_another():
    import run

    options = run.parse_arguments(
        ["--rounds", "2", "--only", "get-64,post,crowd", "--peers", "ours,bjoern,flask", "--placement", "os"]
    )
    steps = [(step.number, step.work, step.server) for step in run.plan(options) if step.work != "crowd"]
    first, second = ["ours", "bjoern", "flask"], ["bjoern", "flask", "ours"]
    assert steps == [
        *((0, work, server) for work in ("get-64", "post") for server in first),
        *((1, work, server) for work in ("get-64", "post") for server in second),
    ]
    assert {step.server for step in run.plan(options) if step.work == "crowd"} == {"ours"}


@needs.linux
def test_a_server_that_is_far_behind_in_the_first_rounds_or_failed_is_not_asked_again():
    import run

    options = run.parse_arguments(["--rounds", "9", "--only", "get-64", "--placement", "os"])
    benchmark = run.Benchmark(options)
    where = report.BY_SYSTEM
    for server, rate in (("ours", 100.0), ("bjoern", 60.0), ("uvicorn", 40.0)):
        benchmark.results[where, server, "get-64"] = dict.fromkeys(range(3), rate)
    out = {name for name in ("ours", "bjoern", "uvicorn") if benchmark.is_out(run.Step("os", 3, "get-64", name))}
    assert out == {"uvicorn"}
    step = run.Step("os", 0, "get-64", "bjoern")
    with benchmark.listed("get-64", "bjoern", out=step):
        raise run.Absent("it hangs")
    assert benchmark.is_out(step._replace(number=1))
    assert [(trouble.what, trouble.wrong) for trouble in benchmark.troubles] == [("bjoern, get-64: it hangs", False)]
