"""What the benchmark measured, as a Markdown table, as a list of targets and as an SVG chart. Pure functions, no I/O.

`results` is a dict from (placement, server, column) to one value per round; `titles` is one from server to title. Beside a
column "x" there may be "x busy", the CPU seconds per second that wrk used, and "x failed", the requests that failed.
"""
from html import escape
from statistics import median
from typing import NamedTuple

OURS, NGINX, FLOOR = "ours", "nginx", "floor"
BUSY = 0.95     # CPU seconds per second from which wrk, a single thread, may be what limits a figure


class Column(NamedTuple):
    heading: str
    unit: float = 1000      # a figure is shown in this unit
    digits: int = 1


COLUMNS = {
    "get-16": Column("GET, 16"),
    "get-64": Column("GET, 64"),
    "get-256": Column("GET, 256"),
    "browser": Column("a browser's GET, 64"),
    "changing": Column("… one field changing"),
    "post": Column("POST of JSON, 64"),
    "pipelined": Column("GETs pipelined 16 deep, 64"),
    "closing": Column("a connection per GET, 64"),
    "get-64 p99": Column("p99 of GET, 64 (ms)", 1),
    "get-256 p99": Column("p99 of GET, 256 (ms)", 1),
    "crowd": Column("GET, 64 among 10,000 idle (% of alone)", 1, 0),
    "crowd MB": Column("MB then", 1, 0),
    "start MB": Column("MB idle", 1, 0),
    "start": Column("exec to first answer (s)", 1, 2),
}
LOADS = list(COLUMNS)[:8]


class Target(NamedTuple):
    column: str
    bound: float
    against: str = ""       # a ratio to this peer; without one, the figure itself
    at_most: bool = False
    unit: str = "×"


TARGETS = [
    Target("get-16", 1.8, "uvicorn"),
    Target("get-64", 1.7, "uvicorn"),
    Target("get-256", 1.4, "uvicorn"),
    *(Target(column, 1, "rivals") for column in LOADS),
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
    Target("crowd answered", 10_000, unit="connections"),
    Target("crowd", 60, unit="%"),
    Target("crowd MB", 300, at_most=True, unit="MB"),
    Target("start MB", 45, at_most=True, unit="MB"),
    Target("start", 0.4, at_most=True, unit="s"),
]


# --- the table

def table(results, titles):
    lines = [f"| requests/s in thousands | {' | '.join(column.heading for column in COLUMNS.values())} |",
             f"| --- |{' ---: |' * len(COLUMNS)}"]
    for placement in placements(results):
        lines.append(f"| **{placement}** |{' |' * len(COLUMNS)}")
        for server in titles:
            if any((placement, server, column) in results for column in COLUMNS):
                lines.append(f"| {titles[server]} | {' | '.join(cell(results, placement, server, column) for column in COLUMNS)} |")
    return "\n".join(lines)


def placements(results):
    return list(dict.fromkeys(placement for placement, _, _ in results))


def cell(results, placement, server, column):
    """`median (min–max)`, with a dagger where wrk may be the limit and a double one where requests failed."""
    values = results.get((placement, server, column))
    if not values:
        return "—"
    middle, least, most = (shown(column, value) for value in (median(values), min(values), max(values)))
    limited = median(results.get((placement, server, f"{column} busy"), [0])) >= BUSY
    failed = sum(results.get((placement, server, f"{column} failed"), []))
    return middle + f" ({least}–{most})" * (len(values) > 1) + "†" * limited + "‡" * bool(failed)


def shown(column, value):
    return f"{value / COLUMNS[column].unit:.{COLUMNS[column].digits}f}"


# --- the targets

def verdicts(results, titles):
    """A Markdown list: each target, what was measured, and whether it holds (✓ or ✗)."""
    lines = []
    for placement in placements(results):
        middle = {(server, column): median(values) for (place, server, column), values in results.items() if place == placement}
        found = [line for target in TARGETS for line in verdict(target, middle, titles)] + scaling(middle)
        lines += [f"**{placement}**", "", *found, ""] if found else []
    return "\n".join(lines)


def verdict(target, middle, titles):
    ours = middle.get((OURS, target.column))
    if target.against == "rivals":
        peers = [server for server in titles if server not in (OURS, NGINX, FLOOR)]
    else:
        peers = [target.against]
    compared = {server: ours / middle[server, target.column] for server in peers if ours and middle.get((server, target.column))}
    if target.against and compared:
        nearest = min(compared, key=compared.get)
        what = f"{compared[nearest]:.2f} × {titles[nearest]}" + ", the nearest Python server" * (target.against == "rivals")
        yield judged(target, compared[nearest], what)
    elif ours is not None and not target.against:
        yield judged(target, ours, f"{ours:,.4g} {target.unit}")


def judged(target, figure, what):
    holds = figure <= target.bound if target.at_most else figure >= target.bound
    heading = COLUMNS[target.column].heading if target.column in COLUMNS else target.column
    return f"- {'✓' if holds else '✗'} {heading}: {what} (target: at {'most' if target.at_most else 'least'} {target.bound:,g})"


def scaling(middle):
    """Ours with more workers: requests per second, and per CPU second of the server beside those of one worker."""
    per_cpu_s = {int(column.split()[1]): value for (_, column), value in middle.items() if column.endswith("per CPU s")}
    return [f"- {'✓' if value >= 0.9 * per_cpu_s[1] else '✗'} --workers {count}: {middle[OURS, f'workers {count}']:,.0f} requests/s, "
            f"{value:,.0f} per CPU second of the server, {value / per_cpu_s[1]:.2f} × those of one worker (target: at least 0.9)"
            for count, value in sorted(per_cpu_s.items())]


# --- the chart

STYLE = """
svg { --paper: #ffffff; --ink: #1f2328; --faint: #59636e; --ours: #0969da; --peer: #8c959f; --other: #c8cfd6; }
@media (prefers-color-scheme: dark) {
  svg { --paper: #0d1117; --ink: #f0f6fc; --faint: #9198a1; --ours: #4493f8; --peer: #768390; --other: #444c56; }
}
.paper { fill: var(--paper, #ffffff); } text { font: 13px system-ui, sans-serif; fill: var(--ink, #1f2328); }
.title { font-size: 16px; font-weight: 600; } .faint { fill: var(--faint, #59636e); font-size: 12px; } .strong { font-weight: 600; }
.ours { fill: var(--ours, #0969da); } .peer { fill: var(--peer, #8c959f); } .other { fill: var(--other, #c8cfd6); }
.second { opacity: 0.6; } .range { stroke: var(--ink, #1f2328); stroke-width: 1; }
"""
COLUMN = "get-64"
WIDTH, LEFT, LENGTH, BAR = 800, 190, 400, 14


def chart(results, titles, captions):
    """An SVG of requests per second at 64 connections: a bar for each server and placement, the fastest on top."""
    shown_in = placements(results)
    servers = [server for server in titles if (shown_in[0], server, COLUMN) in results]
    servers.sort(key=lambda server: median(results[shown_in[0], server, COLUMN]), reverse=True)
    scale = LENGTH / max(max(values) for (_, _, column), values in results.items() if column == COLUMN)
    marks = [text(16, 28, "Requests per second of one server process", "title"),
             text(16, 48, f"keep-alive GET /?a=3&b=3, 64 connections; {'upper bar: ' if len(shown_in) > 1 else ''}"
                  + "; lower bar: ".join(shown_in), "faint")]
    y = 66
    for server in servers:
        marks.append(text(LEFT - 10, y + BAR * len(shown_in) / 2 + 5, titles[server], "strong" if server == OURS else "", "end"))
        for number, placement in enumerate(shown_in):
            marks += bar(results, placement, server, y + number * (BAR + 1), scale, "second" if number else "")
        y += (BAR + 1) * len(shown_in) + 9
    marks += [text(16, y + 12 + 17 * number, caption, "faint") for number, caption in enumerate(captions)]
    height = y + 17 * len(captions) + 12
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" role="img">\n'
            f'<title>Requests per second of webserver_influx.py and its peers</title>\n<style>{STYLE}</style>\n'
            f'<rect class="paper" width="100%" height="100%" rx="8"/>\n' + "\n".join(marks) + "\n</svg>\n")


def bar(results, placement, server, y, scale, style):
    values = results.get((placement, server, COLUMN))
    if not values:
        return []
    kind = {OURS: "ours", NGINX: "other", FLOOR: "other"}.get(server, "peer")
    middle, end = LEFT + median(values) * scale, LEFT + max(values) * scale
    p99 = shown(f"{COLUMN} p99", median(results[placement, server, f"{COLUMN} p99"]))
    return [f'<rect class="{kind} {style}" x="{LEFT}" y="{y}" width="{middle - LEFT:.1f}" height="{BAR}" rx="2"/>',
            f'<path class="range" d="M{LEFT + min(values) * scale:.1f} {y + BAR / 2:g}H{end:.1f}"/>',
            text(end + 8, y + BAR - 3, f"{median(values):,.0f}/s, p99 {p99} ms", "faint")]


def text(x, y, content, style="", anchor="start"):
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(content)}</text>'
