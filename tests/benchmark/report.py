"""What the benchmark measured: as a Markdown table, as a list of targets, as an SVG chart. Pure functions, no I/O.

`results` is a dict from (placement, server, column) to one value per round; `titles` is one from server to title.
Beside a column "x" there may be "x busy", the CPU seconds per second of the load, and "x failed", failed requests.
"""

from html import escape
from statistics import median
from typing import NamedTuple

OURS, NGINX, FLOOR = "ours", "nginx", "floor"
RIVALS = "rivals"  # all others
BUSY = 0.9  # CPU seconds per second from which a load of one thread may be what limits a figure


class Column(NamedTuple):
    heading: str
    unit: float = 1000  # figures are shown in this unit
    digits: int = 1


COLUMNS = {
    "get-16": Column("GET, 16 connections"),
    "get-64": Column("GET, 64"),
    "get-256": Column("GET, 256"),
    "browser": Column("a browser's GET, 64"),
    "changing": Column("the same, one field changing"),
    "post": Column("POST of JSON, 64"),
    "pipelined": Column("GETs pipelined 16 deep, 64"),
    "closing": Column("a connection per GET, 64"),
    "get-64 p99": Column("p99 of GET, 64 (ms)", 1),
    "get-256 p99": Column("p99 of GET, 256 (ms)", 1),
    "crowd": Column("GET, 64 among 10,000 idle (% of alone)", 1, 0),
    "crowd answered": Column("10,000 idle: answered", 1, 0),
    "crowd MB": Column("10,000 idle: MB", 1, 0),
    "start MB": Column("at start: MB", 1, 0),
    "start": Column("exec to first answer (s)", 1, 2),
}


class Target(NamedTuple):
    column: str
    bound: float
    against: str = ""  # what is judged is the ratio to this server; without one, the figure itself
    at_most: bool = False


TARGETS = [
    Target("get-16", 1.8, "uvicorn"),
    Target("get-64", 1.7, "uvicorn"),
    Target("get-256", 1.4, "uvicorn"),
    *(Target(column, 1, RIVALS) for column in list(COLUMNS)[:8]),
    Target("get-16", 0.5, NGINX),
    Target("get-64", 0.5, NGINX),
    Target("get-16", 0.65, FLOOR),
    Target("get-64", 0.65, FLOOR),
    Target("get-64 p99", 1, "uvicorn", at_most=True),
    Target("get-256 p99", 1, "uvicorn", at_most=True),
    Target("browser", 1.6, "uvicorn"),
    Target("post", 1.6, "uvicorn"),
    Target("pipelined", 1, NGINX),
    Target("closing", 1.5, "uvicorn"),
    Target("closing", 0.8, NGINX),
    Target("crowd", 95),
    Target("crowd answered", 10_000),
    Target("crowd MB", 60, at_most=True),
    Target("start MB", 45, at_most=True),
    Target("start", 0.4, at_most=True),
]
SCALING = 0.9  # requests per CPU second with more workers, at least, beside those of one


# --------------------------------------------------------------------------------------------------- Table


def table(results, titles):
    """Servers by columns, without the columns of which nothing was measured."""
    columns = [column for column in COLUMNS if any(key[2] == column for key in results)]
    rows = [
        ["thousand requests/s", *(COLUMNS[column].heading for column in columns)],
        ["---"] + ["---:"] * len(columns),
    ]
    for placement in placements(results):
        rows.append([f"**{placement}**"] + [""] * len(columns))
        servers = [server for server in titles if any(key[:2] == (placement, server) for key in results)]
        rows += [[titles[server], *(cell(results, placement, server, c) for c in columns)] for server in servers]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def placements(results):
    return list(dict.fromkeys(placement for placement, _, _ in results))


def cell(results, placement, server, column):
    """`median (min–max)`, with a dagger where the load may be the limit and a double one where requests failed."""
    values = results.get((placement, server, column))
    if not values:
        return "—"
    middle, least, most = (shown(column, value) for value in (median(values), min(values), max(values)))
    limited = median(results.get((placement, server, f"{column} busy"), [0])) >= BUSY
    failed = any(results.get((placement, server, f"{column} failed"), []))
    return middle + f" ({least}–{most})" * (len(values) > 1) + "†" * limited + "‡" * failed


def shown(column, value):
    return f"{value / COLUMNS[column].unit:,.{COLUMNS[column].digits}f}"


# -------------------------------------------------------------------------------------------------- Targets


def verdicts(results, titles):
    """A Markdown list for each placement: the targets, what was measured, and whether it holds (✓ or ✗)."""
    lines = []
    for placement in placements(results):
        middle = {key[1:]: median(values) for key, values in results.items() if key[0] == placement}
        found = [line for target in TARGETS for line in verdict(target, middle, titles)] + scaling(middle)
        lines += [f"Targets, {placement}:", "", *found, ""] if found else []
    return "\n".join(lines)


def verdict(target, middle, titles):
    """One line, or none where ours or the other one was not measured."""
    figure = middle.get((OURS, target.column))
    if figure is None:
        return
    told = shown(target.column, figure)
    if target.against:
        rivals = [server for server in titles if server not in (OURS, NGINX, FLOOR)]
        servers = rivals if target.against == RIVALS else [target.against]
        ratios = {s: figure / middle[s, target.column] for s in servers if (s, target.column) in middle}
        if not ratios:
            return
        nearest = min(ratios, key=ratios.get)
        figure = ratios[nearest]
        told = f"{figure:.2f} × {titles[nearest]}{', the nearest rival' if target.against == RIVALS else ''}"
    holds = figure <= target.bound if target.at_most else figure >= target.bound
    limit = f"at {'most' if target.at_most else 'least'} {target.bound:,g}"
    yield f"- {'✓' if holds else '✗'} {COLUMNS[target.column].heading}: {told} (target: {limit})"


def scaling(middle):
    """One line for each number of workers."""
    lines = []
    for count in sorted(int(column.split()[1]) for _, column in middle if column.endswith("per CPU s")):
        rate, each = middle[OURS, f"workers {count}"], middle[OURS, f"workers {count} per CPU s"]
        ratio = each / middle[OURS, "workers 1 per CPU s"]
        told = f"{rate:,.0f} requests/s; {each:,.0f} per CPU second, {ratio:.2f} × those of one worker"
        lines.append(f"- {'✓' if ratio >= SCALING else '✗'} --workers {count}: {told} (target: at least {SCALING})")
    return lines


# ---------------------------------------------------------------------------------------------------- Chart

# Dark where the reader's system is. The paper is drawn, too, so that a page of the other mode does no harm.
STYLE = """
text { font: 13px system-ui, sans-serif; }
.title { font-size: 16px; font-weight: 600; }
.strong { font-weight: 600; }
.faint { font-size: 12px; }
.second { opacity: 0.55; }
.paper { fill: #ffffff; }
text { fill: #1f2328; }
.range { stroke: #1f2328; }
.faint { fill: #59636e; }
.ours { fill: #0969da; }
.peer { fill: #8c959f; }
.other { fill: #c8cfd6; }
@media (prefers-color-scheme: dark) {
  .paper { fill: #0d1117; }
  text { fill: #f0f6fc; }
  .range { stroke: #f0f6fc; }
  .faint { fill: #9198a1; }
  .ours { fill: #4493f8; }
  .peer { fill: #7d8590; }
  .other { fill: #444c56; }
}
"""
COLUMN = "get-64"
WIDTH, LEFT, LENGTH, BAR, GAP = 800, 190, 400, 14, 9


def chart(results, titles, caption):
    """An SVG of requests per second at 64 connections: a bar for each server and placement, the fastest on top."""
    places = [place for place in placements(results) if any(key[0] == place and key[2] == COLUMN for key in results)]
    medians = {key[1]: median(values) for key, values in results.items() if key[0] == places[0] and key[2] == COLUMN}
    scale = LENGTH / max(max(values) for key, values in results.items() if key[2] == COLUMN)
    where = f"upper bar {places[0]}; lower {places[1]}" if len(places) > 1 else places[0]
    marks = [
        text(16, 28, "Requests per second of one server process", "title"),
        text(16, 48, "keep-alive GET /?a=3&b=3, 64 connections; pale grey: adds up nothing", "faint"),
        text(16, 64, where, "faint"),
    ]
    top = 82
    for server in sorted(medians, key=medians.get, reverse=True):
        height = (BAR + 1) * len(places)
        marks.append(text(LEFT - 10, top + height / 2 + 4, titles[server], "strong" if server == OURS else "", "end"))
        for number, place in enumerate(places):
            marks += bar(results, place, server, top + (BAR + 1) * number, scale, "second" if number else "")
        top += height + GAP
    marks.append(text(16, top + 12, caption, "faint"))
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 28}" role="img">',
            "<title>Requests per second of webserver_influx.py and its peers</title>",
            f"<style>{STYLE}</style>",
            '<rect class="paper" width="100%" height="100%" rx="8"/>',
            *marks,
            "</svg>\n",
        ]
    )


def bar(results, placement, server, top, scale, style):
    """A bar to the median, a line from least to most, and both figures that matter."""
    values = results.get((placement, server, COLUMN))
    if not values:
        return []
    kind = {OURS: "ours", NGINX: "other", FLOOR: "other"}.get(server, "peer")
    least, middle, most = (value * scale for value in (min(values), median(values), max(values)))
    p99 = shown(f"{COLUMN} p99", median(results[placement, server, f"{COLUMN} p99"]))
    return [
        f'<rect class="{kind} {style}" x="{LEFT}" y="{top}" width="{middle:.1f}" height="{BAR}" rx="2"/>',
        f'<path class="range" d="M{LEFT + least:.1f} {top + BAR / 2:g}H{LEFT + most:.1f}"/>',
        text(LEFT + most + 8, top + BAR - 3, f"{median(values):,.0f}/s, p99 {p99} ms", "faint"),
    ]


def text(x, y, content, style="", anchor="start"):
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
