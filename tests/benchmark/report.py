"""What the benchmark measured: as Markdown tables, as a list of targets, as an SVG chart. Pure functions, no I/O.

`results` is a dict from (placement, server, column) to a dict from the number of a round to a value. `peers` is one
from the name of a server to something that has its `title` and its `kind`.
Beside a rate "x" there are "x p99", ms; "x cpu", CPU seconds of the server per million requests; "x busy", CPU seconds
per second of the load; and "x failed", requests.
"""

from html import escape
from statistics import median, quantiles
from typing import NamedTuple

OURS, GO, NGINX, FLOOR = "ours", "go", "nginx", "floor"
SERVER, YARDSTICK, FRAMEWORK = (
    "server",
    "yardstick",
    "framework",
)  # kinds: Python with the same sum; no Python; as documented
RIVALS = "rivals"  # all servers but ours
BY_SYSTEM, PINNED = "placed by the system", "pinned, server on one CPU and load on another"
BUSY = 0.9  # CPU seconds per second from which a load of one thread may be what limits a figure

RATES = {
    "get-16": "GET, 16 connections",
    "get-64": "GET, 64",
    "get-256": "GET, 256",
    "browser": "a browser's GET, 64",
    "changing": "its cookie changing, 64",
    "post": "POST of JSON, 64",
    "pipelined": "16 GETs pipelined, 64",
    "closing": "a connection per GET, 64",
}
P99, CPU, INSTRUCTIONS = (
    {f"{rate} {of}": about for rate, about in RATES.items()} for of in ("p99", "cpu", "instructions")
)
OTHERS = {
    "start": "exec to first answer (s)",
    "start MB": "MB then",
    "MB": "MB after all loads",
    "idle 10000 KB": "KB per idle connection, of 10,000",
    "idle 10000 answered": "of these answered",
    "idle 50000 KB": "of 50,000",
    "idle 50000 answered": "of these answered",
    "crowd": "GET, 64 among 10,000 idle, % of alone",
    "crowd answered": "10,000 idle: answered",
    "crowd MB": "10,000 idle: MB",
}
HEADINGS = {
    **RATES,
    **{column: f"p99 of {about}, ms" for column, about in P99.items()},
    **OTHERS,
}


def ratios(results, placement, one, other, column):
    """What one server reached in each round, as a multiple of what the other did."""
    mine, theirs = (results.get((placement, server, column), {}) for server in (one, other))
    return [value / theirs[number] for number, value in mine.items() if theirs.get(number)]


def failures(results, server):
    """How many requests failed, by placement and column, where any did."""
    sums = {
        (placement, column.rpartition(" ")[0]): sum(values.values())
        for (placement, name, column), values in results.items()
        if name == server and column.endswith(" failed")
    }
    return {key: number for key, number in sums.items() if number}


# -------------------------------------------------------------------------------------------------------- Document


def document(results, peers, troubles, machine, rounds, seconds):
    """All that is told, in Markdown. troubles are lines; machine tells what it is and what is installed on it."""
    there, versions = machine
    parts = [
        f"{there}. {versions}.",
        f"Each server is one process; the load, one thread of wrk, or ab for a connection per request, is on the same "
        f"machine. Medians of up to {rounds} rounds of {seconds:g} s; all servers are up, and take turns.",
    ]
    same = [name for name, peer in peers.items() if peer.kind != FRAMEWORK]
    documented = [name for name, peer in peers.items() if peer.kind == FRAMEWORK]
    parts += [
        "## The same sum in each",
        "Every server reads HTTP in its own way. In those for Python the same functions find the numbers and add them "
        "up, and a lock guards the count of requests; Go does the same, on all CPUs that it may use (GOMAXPROCS): one "
        "where it is pinned. nginx and the floor answer a constant.",
        *tables(results, peers, same, RATES, P99, CPU),
    ]
    if documented:
        columns = [column for column in RATES if any(key[1:] == (documented[0], column) for key in results)]
        parts += [
            "## As their documentation says",
            "The sum as a user of the framework would write it, without a count.",
            *tables(results, peers, [OURS, *documented], columns),
        ]
    first = placements(results)[:1]
    for title, columns, digits in (("Start and memory", OTHERS, 2), ("Instructions per request", INSTRUCTIONS, 0)):
        for placement in first:
            if told := table(results, peers, same, placement, columns, figure(digits)):
                parts += [f"## {title}", told]
    parts += ["## What went wrong", wrong(results, peers, troubles), "## Targets", verdicts(results, peers)]
    return "\n\n".join(parts)


def wrong(results, peers, troubles):
    """A list of what was noticed."""
    failed = [
        f"{peers[name].title}, {placement}: {number:,} requests of {column} failed"
        for name in peers
        for (placement, column), number in failures(results, name).items()
    ]
    return "\n".join(f"- {line}" for line in [*troubles, *failed]) or "No reply was wrong, no request failed."


# ---------------------------------------------------------------------------------------------------------- Tables


def tables(results, peers, servers, rates, p99=(), cpu=()):
    """For each placement: these columns of rates and of their ratios, of 99th percentiles and of CPU times."""
    for placement in placements(results):
        for about, columns, cell in (
            ("Thousands of requests per second", rates, rate),
            ("webserver_influx.py as a multiple of each, median of the rounds and quartiles", rates, ratio),
            ("99th percentile of the latency, ms", p99, figure(1)),
            ("CPU seconds of the server per million requests", cpu, figure(1)),
        ):
            if told := table(results, peers, servers, placement, columns, cell):
                yield f"**{about}** ({placement})"
                yield told
                if cell is rate:
                    yield "†: the load was busy all the time, and may be the limit. ‡: requests failed."


def table(results, peers, servers, placement, columns, cell):
    """Servers by columns, without the rows and columns of which nothing is known; empty if nothing is."""
    cells = {(s, column): cell(results, placement, s, column) for s in servers for column in columns}
    columns = [column for column in columns if any(cells[server, column] for server in servers)]
    servers = [server for server in servers if any(cells[server, column] for column in columns)]
    if not servers:
        return ""
    headings = {**RATES, **P99, **CPU, **INSTRUCTIONS, **OTHERS}
    rows = [["", *(headings[column] for column in columns)], ["---"] + ["---:"] * len(columns)]
    rows += [[peers[server].title, *(cells[server, column] or "–" for column in columns)] for server in servers]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def placements(results):
    return list(dict.fromkeys(placement for placement, _, _ in results))


def rate(results, placement, server, column):
    """In thousands; with a dagger where the load may be the limit and a double one where requests failed."""
    values = results.get((placement, server, column))
    if not values:
        return ""
    busy, failed = (results.get((placement, server, f"{column} {of}"), {0: 0}).values() for of in ("busy", "failed"))
    return f"{median(values.values()) / 1000:,.1f}{'†' * (median(busy) >= BUSY)}{'‡' * any(failed)}"


def ratio(results, placement, server, column):
    """Ours as a multiple of this one, `median (first–third quartile)`."""
    values = ratios(results, placement, OURS, server, column)
    return spread(values) if values and server != OURS else ""


def spread(values):
    if len(values) == 1:
        return f"{values[0]:.2f}"
    first, middle, third = quantiles(values, n=4, method="inclusive")
    return f"{middle:.2f} ({first:.2f}–{third:.2f})"


def figure(digits):
    """A cell with the median; with so many digits, if it is less than 100."""

    def cell(results, placement, server, column):
        values = results.get((placement, server, column))
        return shown(median(values.values()), digits) if values else ""

    return cell


def shown(value, digits):
    return f"{value:,.{0 if abs(value) >= 100 else digits}f}"


# --------------------------------------------------------------------------------------------------------- Targets


class Target(NamedTuple):
    column: str
    bound: float
    against: str = ""  # what is judged is the ratio to this server; without one, the figure itself
    at_most: bool = False
    placement: str = ""  # where it is judged, if not everywhere


KEPT_ALIVE = list(RATES)[:-1]
TARGETS = [
    # Go uses every CPU that it may, so that only a pinned one is compared.
    *(Target(column, 1.2, GO, placement=PINNED) for column in KEPT_ALIVE),
    Target("closing", 1, GO, placement=PINNED),
    *(Target(column, 1.05, RIVALS) for column in RATES),
    *(Target(f"{column} p99", 1.1, RIVALS, at_most=True) for column in KEPT_ALIVE),
    Target("get-16", 0.7, NGINX),
    Target("get-64", 0.7, NGINX),
    Target("pipelined", 1.5, NGINX),
    Target("closing", 1, NGINX),
    *(Target(column, 0.75, FLOOR) for column in ("get-16", "get-64", "get-256")),
    Target("browser", 0.7, FLOOR),
    Target("changing", 0.55, FLOOR),
    Target("post", 0.55, FLOOR),
    Target("idle 10000 KB", 3, at_most=True),
    Target("idle 50000 KB", 3, at_most=True),
    Target("crowd", 95),
    Target("crowd answered", 10_000),
    Target("start MB", 45, at_most=True),
    Target("start", 0.4, at_most=True),
]
SCALING = 0.95  # requests per CPU second with more workers, at least, beside those of one
THREADS, SPEED_UP = 2, 1.5  # with so many threads of a free-threaded Python, at least so many times the rate of one


def verdicts(results, peers):
    """A Markdown list for each placement: the targets, what was measured, and whether it holds (✓ or ✗)."""
    parts = []
    for placement in placements(results):
        lines = [line for target in TARGETS for line in verdict(target, results, peers, placement)]
        lines += [*workers(results, placement), *threads(results, placement)]
        if lines:
            parts.append("\n".join([f"{placement}:", "", *lines]))
    return "\n\n".join(parts)


def verdict(target, results, peers, placement):
    """One line, or none where ours or the other one was not measured."""
    if target.placement not in ("", placement):
        return
    if target.against:
        servers = rivals(results, peers, placement, target.column) if target.against == RIVALS else [target.against]
        measured = {server: ratios(results, placement, OURS, server, target.column) for server in servers}
        middle = {server: median(values) for server, values in measured.items() if values}
        if not middle:
            return
        nearest = (max if target.at_most else min)(middle, key=middle.get)
        value = middle[nearest]
        told = f"{spread(measured[nearest])} × {peers[nearest].title}"
    else:
        values = results.get((placement, OURS, target.column))
        if not values:
            return
        value = median(values.values())
        told = shown(value, 2)
    holds = value <= target.bound if target.at_most else value >= target.bound
    limit = f"at {'most' if target.at_most else 'least'} {target.bound:,g}"
    yield line(holds, HEADINGS[target.column], told, limit)


def rivals(results, peers, placement, column):
    """All servers for Python but ours, and but those that failed to answer some requests."""
    work = column.split()[0]
    servers = [name for name, peer in peers.items() if peer.kind == SERVER and name != OURS]
    return [server for server in servers if (placement, work) not in failures(results, server)]


def line(holds, what, told, limit):
    return f"- {'✓' if holds else '✗'} {what}: {told} (target: {limit})"


def counts(results, placement, work):
    """With how many workers, or threads, a work was measured."""
    columns = [column.split() for where, _, column in results if where == placement and column.endswith("per CPU s")]
    return sorted({int(column[1]) for column in columns if column[0] == work})


def scaled(results, placement, work, count, of=""):
    """The ratios to one worker, or one thread."""
    one, many = (results[placement, OURS, f"{work} {number}{of}"] for number in (1, count))
    return [value / one[number] for number, value in many.items() if number in one]


def workers(results, placement):
    """One line for each number of workers."""
    for count in counts(results, placement, "workers"):
        rate = median(results[placement, OURS, f"workers {count}"].values())
        each = scaled(results, placement, "workers", count, " per CPU s")
        told = f"{rate:,.0f} requests/s; per CPU second {spread(each)} × one worker"
        yield line(median(each) >= SCALING, f"--workers {count}", told, f"at least {SCALING}")


def threads(results, placement):
    """One line for each number of serving threads; no verdict where the load has no CPU of its own."""
    for count in counts(results, placement, "threads"):
        rate = median(results[placement, OURS, f"threads {count}"].values())
        told = f"{rate:,.0f} requests/s, {spread(scaled(results, placement, 'threads', count))} × one thread"
        each = scaled(results, placement, "threads", count, " per CPU s")
        told += f"; per CPU second {spread(each)}"
        spare = median(results[placement, OURS, f"threads {count} spare"].values())
        what = f"free-threaded, threads: {count}"
        if count != THREADS:
            yield f"- {what}: {told}"
        elif not spare:
            yield f"- {what}: {told}; no verdict, as the load shares their CPUs"
        else:
            middle = median(scaled(results, placement, "threads", count))
            yield line(middle >= SPEED_UP, what, told, f"at least {SPEED_UP}")


# ----------------------------------------------------------------------------------------------------------- Chart

# Dark where the reader's system is. The paper is drawn, too, so that a page of the other mode does no harm.
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; }
.strong { font-weight: 600; }
.faint { font-size: 12px; fill: #59636e; }
.paper { fill: #ffffff; }
.ours { fill: #0969da; }
.server { fill: #8c959f; }
.yardstick { fill: #bf8700; }
.constant { fill: #d1d9e0; }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc; }
  .faint { fill: #9198a1; }
  .paper { fill: #0d1117; }
  .ours { fill: #4493f8; }
  .server { fill: #7d8590; }
  .yardstick { fill: #d29922; }
  .constant { fill: #3d444d; }
}
"""
COLUMN = "get-64"
WIDTH, LEFT, LENGTH, BAR, PITCH, TOP = 640, 168, 320, 15, 22, 84


def chart(results, peers, caption):
    """An SVG of requests per second at 64 connections: a bar for each server with the same sum, the fastest on top.

    Of the placements it shows the last, which is the pinned one if that was measured.
    """
    placement = [where for where, _, column in results if column == COLUMN][-1]
    middle = {
        server: median(results[placement, server, COLUMN].values())
        for server, peer in peers.items()
        if peer.kind != FRAMEWORK and results.get((placement, server, COLUMN))
    }
    marks = [
        text(16, 28, "Requests per second of one server process", "title"),
        text(16, 48, "keep-alive GET /?a=3&b=3, 64 connections; the same sum in each; faint: a constant", "faint"),
        text(16, 66, placement, "faint"),
    ]
    for number, server in enumerate(sorted(middle, key=middle.get, reverse=True)):
        top, length = TOP + PITCH * number, LENGTH * middle[server] / max(middle.values())
        kind = OURS if server == OURS else "constant" if server in (NGINX, FLOOR) else peers[server].kind
        told = f"{middle[server]:,.0f}"
        if p99 := results.get((placement, server, f"{COLUMN} p99")):
            told += f", p99 {shown(median(p99.values()), 1)} ms"
        marks += [
            text(LEFT - 8, top + BAR - 3, peers[server].title, "strong" if server == OURS else "", "end"),
            f'<rect class="{kind}" x="{LEFT}" y="{top}" width="{length:.1f}" height="{BAR}" rx="2"/>',
            text(LEFT + length + 6, top + BAR - 3, told, "faint"),
        ]
    bottom = TOP + PITCH * len(middle) + 12
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {bottom + 16}" role="img">',
            "<title>Requests per second of webserver_influx.py and its peers</title>",
            f"<style>{STYLE}</style>",
            '<rect class="paper" width="100%" height="100%" rx="8"/>',
            *marks,
            text(16, bottom, caption, "faint"),
            "</svg>\n",
        ]
    )


def text(x, y, content, style="", anchor="start"):
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(content)}</text>'
