# SPDX-License-Identifier: Apache-2.0
"""The HTML report: one page without any other file, drawn as inline SVG."""

import datetime
import html
import math
import os
import pathlib
import platform
import re
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent

QUESTIONS = {
    "echo_rtt": "How long does a 64-byte message take to the other process and back, with one in "
    "flight? floor: blocking sockets; floor_spin: sockets that never sleep.",
    "echo_rtt_sleeping": "The same where nobody spins: each message wakes a sleeping core.",
    "echo_rtt_one_core": "The same with both processes on one core, where spinning can only hurt. "
    "hawser: spin off; hawser_default: it has to find out by itself.",
    "echo_throughput": "How many 64-byte messages a second go there and back over one channel, "
    "with 256 in flight? floor_spin: raw sockets that never sleep; hawser_sleeping: spin off.",
    "echo_32": "How many over 32 connections with 256 in flight each?",
    "echo_256": "How many over 256 connections with one in flight each? floor: epoll; "
    "floor_uring: io_uring by hand.",
    "echo_busy": "How many over one channel, with 256 in flight, while four threads of others "
    "spin on the two cores? hawser_sleeping: spin off.",
    "oneway_throughput": "How many 64-byte messages a second arrive, counted until the receiver "
    "has acknowledged the last?",
    "bulk_1mib": "How many bytes a second do messages of 1 MiB carry one way, counted until the "
    "receiver has acknowledged the last?",
    "connect_reply": "How long from the start of connecting to the first reply? hawser: four "
    "sockets; hawser_one: one, and the question leaves with the hello; hawser_one_welcomed: one, "
    "and it waits for the welcome; floor: a plain connect and echo.",
    "ping_beside_bulk": "How long does a small message take there and back on rpc while messages "
    "of 1 MiB stream on bulk? idle: the same without bulk, before. hawser: a socket a channel; "
    "hawser_one: all channels share one.",
    "echo_rtt_beside_sockets": "How long does a small message take there and back through shared "
    "memory while the same two workers echo 1,000 messages a second on each of 100 sockets? "
    "alone: before there were sockets.",
    "load_10": "Each peer is offered 10 % of its own peak, and hawser the same number of messages "
    "a second. Latency counts from the time a message falls due.",
    "load_50": "Each peer is offered 50 % of its own peak, and hawser the same number of messages "
    "a second. Latency counts from the time a message falls due.",
    "load_curve": "Latency against offered load: everybody at shares of the own peak.",
    "post_closure": "How many closures a second does a thread that is no worker post?",
    "post_item": "How many intrusive items, which need no allocation?",
    "yield": "How long until a coroutine that yields runs again?",
    "hop": "How long does a task take to the other worker?",
    "fork_join": "How long does a node of a tree of tasks take?",
    "urgent": "How long does an urgent task wait while 50 us bulk tasks saturate the workers?",
    "urgent_capped": "The same where bulk may have one worker only.",
    "flood": "How long does a bulk task wait under an endless flood of rpc tasks, in dispatches "
    "and against the documented bound?",
    "idle_wake": "How long until a task begins that is posted to a pool that sleeps?",
    "shm_oneway": "How many 64-byte messages pass through shared memory, one at a time or 32?",
    "shm_instructions": "How many instructions is a message written and read, with metrics and "
    "without?",
    "shm_rtt": "How long is 64 bytes there and back through shared memory, one in flight?",
    "death": "How long until a process learns that the one at the other end was killed? "
    "hawser_epoll: Asio's backend in both; floor: a poll() on a socket.",
    "shm_stop": "How long does a pool whose handlers wait take to stop?",
}
TITLES = {
    "p50": "Median",
    "p99": "99th percentile",
    "p99.9": "99.9th percentile",
    "throughput": "Throughput",
    "bandwidth": "Bandwidth",
    "achieved": "Messages answered",
    "time": "Time of one",
    "idle_p50": "Median of the pings without bulk",
    "idle_p99": "99th percentile of the pings without bulk",
    "alone_p50": "Median of the pings without sockets",
    "alone_p99": "99th percentile of the pings without sockets",
    "slice_us": "Time of one slice at the bandwidth",
    "excess_slices": "p99 less idle p99, in slices",
    "dispatches_max": "Longest wait, in tasks of others",
    "dispatches_over_bound": "Longest wait, as a share of the documented bound",
    "cpu_ns_per_message": "CPU time a message: client (dark) and server (light)",
    "cpu_ns_per_operation": "CPU time of one",
    "instructions_per_message": "Instructions a message, written and read",
    "syscalls_per_message": "System calls a message, both processes",
}
LESS_IS_BETTER = {"us", "ns", "calls", "instructions", "slices", "tasks", ""}
PARTS = ("_client", "_server")
# Drawn as a line, or as good as the same for all.
NO_BARS = re.compile(r".*_at_\d+|offered")

WIDTH, LABELS, VALUES, ROW = 460, 96, 84, 26


def escape(text):
    return html.escape(str(text))


def amount(value, unit):
    """A figure with three digits and a unit that suits it."""
    scales = {
        "messages/s": [(1e6, "M/s"), (1e3, "k/s")],
        "us": [(1e3, "ms")],
        "ns": [(1e6, "ms"), (1e3, "us")],
    }
    for size, name in scales.get(unit, []):
        if value >= size:
            return f"{value / size:.3g} {name}"
    return f"{value:.3g} {'' if unit == 'calls' else unit}".strip()


def css_class(impl):
    for family in ("hawser", "floor"):
        if impl.startswith(family):
            return family
    return "peer"


# ---- one plot -----------------------------------------------------------------------------------


def bar(top, row, parts, runs, scale):
    """A bar to the median, a circle a run, and the figures in words for the pointer."""
    x, pieces = LABELS, []
    for kind, value in parts or [("client", row["median"])]:
        pieces.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{top + 5}" '
            f'width="{max(value * scale, 0):.1f}" '
            f'height="{ROW - 10}"/>'
        )
        x += value * scale
    middle = top + ROW / 2
    dots = runs if len(runs) > 1 else []
    for value in dots:
        pieces.append(f'<circle cx="{LABELS + value * scale:.1f}" cy="{middle}" r="2"/>')
    words = (
        f"{row['impl']}: median {amount(row['median'], row['unit'])}, "
        f"{amount(row['min'], row['unit'])} to {amount(row['max'], row['unit'])} "
        f"in {row['runs']} run(s)"
    )
    end = LABELS + max(row["median"], *dots, 0) * scale + 7
    return (
        f'<g class="{css_class(row["impl"])}"><title>{escape(words)}</title>'
        f'<text class="name" x="{LABELS - 8}" y="{middle + 4}">{escape(row["impl"])}</text>'
        f'{"".join(pieces)}'
        f'<text x="{end:.1f}" y="{middle + 4}">{amount(row["median"], row["unit"])}</text></g>'
    )


def plot(rows, values, all_rows, most):
    """The peers of one case; `most` is the right end of the axis, the same for all its cases."""
    scale = (WIDTH - LABELS - VALUES) / most if most > 0 else 0
    bars = []
    for index, row in enumerate(rows):
        key = tuple(row[name] for name in ("bench", "case", "impl", "metric", "unit"))
        parts = parts_of(row, all_rows)
        bars.append(bar(index * ROW, row, parts, [] if parts else values[key], scale))
    height = len(rows) * ROW
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(rows[0]["metric"])} over {escape(rows[0]["case"])}">'
        f'<line class="axis" x1="{LABELS}" y1="0" x2="{LABELS}" y2="{height}"/>'
        f'{"".join(bars)}</svg>'
    )


def parts_of(row, rows):
    """[(client, value), (server, value)] where the figure is a sum of two."""
    same = [r for r in rows if all(r[k] == row[k] for k in ("bench", "case", "impl"))]
    found = {r["metric"]: r["median"] for r in same}
    names = [row["metric"] + part for part in PARTS]
    if not all(name in found for name in names):
        return []
    return [(part[1:], found[name]) for part, name in zip(PARTS, names)]


# ---- lines --------------------------------------------------------------------------------------

CHART_WIDTH, CHART_HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 250, 62, 100, 12, 40


class Axis:
    """Where a value lies between two ends, by its logarithm if they are far apart."""

    def __init__(self, values, begin, end):
        self.least, self.most = min(values), max(values)
        self.logarithmic = self.least > 0 and self.most > 20 * self.least
        self.begin, self.end = begin, end

    def at(self, value):
        least, most = self._scaled(self.least), self._scaled(self.most)
        share = (self._scaled(value) - least) / (most - least) if most > least else 0.5
        return self.begin + share * (self.end - self.begin)

    def marks(self):
        if not self.logarithmic:
            return [self.least, (self.least + self.most) / 2, self.most]
        powers = range(math.floor(math.log10(self.least)), math.ceil(math.log10(self.most)))
        steps = (1,) if len(powers) > 3 else (1, 3)
        marks = [step * 10.0**power for power in powers for step in steps]
        return [mark for mark in marks if self.least <= mark <= self.most]

    def _scaled(self, value):
        return math.log10(value) if self.logarithmic else value


def chart(series, label, x_unit, y_unit):
    """`series`: (name, css class, [(x, y)]) each a line, named at its end."""
    points = [point for _, _, line in series for point in line]
    x_axis = Axis([x for x, _ in points], LEFT, CHART_WIDTH - RIGHT)
    y_axis = Axis([y for _, y in points], CHART_HEIGHT - BOTTOM, TOP)
    out = [
        f'<svg class="chart" viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" role="img" '
        f'aria-label="{escape(label)}">'
    ]
    for mark in y_axis.marks():
        y = y_axis.at(mark)
        out.append(
            f'<line class="axis" x1="{LEFT}" y1="{y:.1f}" x2="{CHART_WIDTH - RIGHT}" y2="{y:.1f}"/>'
            f'<text class="name" x="{LEFT - 6}" y="{y + 4:.1f}">{amount(mark, y_unit)}</text>'
        )
    for mark in x_axis.marks():
        x = x_axis.at(mark)
        out.append(
            f'<line class="axis" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" '
            f'y2="{CHART_HEIGHT - BOTTOM}"/><text class="middle" x="{x:.1f}" '
            f'y="{CHART_HEIGHT - BOTTOM + 18}">{amount(mark, x_unit)}</text>'
        )
    taken = []
    for name, kind, line in series:
        path = " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in line)
        words = "; ".join(f"{amount(x, x_unit)}: {amount(y, y_unit)}" for x, y in line)
        end = free_place(y_axis.at(line[-1][1]), taken)
        out.append(
            f'<g class="{kind}"><title>{escape(name)}: {escape(words)}</title>'
            f'<polyline points="{path}"/>'
            + "".join(
                f'<circle cx="{x_axis.at(x):.1f}" cy="{y_axis.at(y):.1f}" r="2.5"/>'
                for x, y in line
            )
            + f'<text x="{x_axis.at(line[-1][0]) + 7:.1f}" y="{end + 4:.1f}">{escape(name)}</text>'
            "</g>"
        )
    return "".join(out) + "</svg>"


def free_place(wanted, taken):
    """A height for a name that lies on no other name."""
    for distance in range(0, CHART_HEIGHT, 4):
        for place in (wanted - distance, wanted + distance):
            if all(abs(place - other) >= 12 for other in taken):
                taken.append(place)
                return place
    return wanted


def charts(title, found, x_unit, y_unit):
    """`found`: {case: {name: [(x, y)]}}, a chart a case."""
    out = [f'<h3>{escape(title)}</h3><div class="pair">']
    for case, lines in found.items():
        series = [(name, css_class(name), sorted(line)) for name, line in lines.items()]
        drawn = chart(series, f"{title} over {case}", x_unit, y_unit)
        words = f"<figcaption>{escape(case)} (less is better)</figcaption>"
        out.append(f"<figure>{words}{drawn}</figure>")
    return "".join(out) + "</div>"


def medians_of(rows):
    return {tuple(r[k] for k in ("bench", "case", "impl", "metric")): r["median"] for r in rows}


def load_curves(rows):
    """Latency against the load that was offered; the case of a row ends with the share offered."""
    medians = medians_of(rows)
    out = []
    for metric in ("p50", "p99"):
        found = {}
        for (bench, case, impl, name), value in medians.items():
            if bench == "load_curve" and name == metric:
                offered = medians[bench, case, impl, "offered"]
                road = case.rpartition("-")[0]
                found.setdefault(road, {}).setdefault(impl, []).append((offered, value))
        if found:
            out.append(charts(TITLES[metric] + " against offered load", found, "messages/s", "us"))
    return "".join(out)


def trade_off(rows):
    """What bulk costs pings: from none of it to as much as goes."""
    medians = medians_of(rows)
    found = {}
    for (bench, case, impl, name), value in medians.items():
        if bench != "ping_beside_bulk" or not name.startswith("bandwidth"):
            continue
        latency = medians[bench, case, impl, name.replace("bandwidth", "p99")]
        line = found.setdefault(case, {}).setdefault(impl, [])
        line.append((value, latency))
        if name == "bandwidth":
            line.append((0.0, medians[bench, case, impl, "idle_p99"]))
    if not found:
        return ""
    return charts("99th percentile of the pings against the bandwidth of bulk", found, "GB/s", "us")


# ---- the page -----------------------------------------------------------------------------------


def has_bars(metric):
    return not metric.endswith(PARTS) and not NO_BARS.fullmatch(metric)


def section(bench, rows, values):
    out = [f"<h2>{escape(bench)}</h2><p>{escape(QUESTIONS.get(bench, ''))}</p>"]
    if bench == "load_curve":
        return out[0] + load_curves(rows)
    if bench == "ping_beside_bulk":
        out.append(trade_off(rows))
    mine = [row for row in rows if row["bench"] == bench and has_bars(row["metric"])]
    for metric in dict.fromkeys(row["metric"] for row in mine):
        chosen = [row for row in mine if row["metric"] == metric]
        wish = "less is better" if chosen[0]["unit"] in LESS_IS_BETTER else "more is better"
        most = max(row["max"] for row in chosen)
        out.append(f'<h3>{escape(TITLES.get(metric, metric))}</h3><div class="pair">')
        for case in dict.fromkeys(row["case"] for row in chosen):
            of_case = [row for row in chosen if row["case"] == case]
            out.append(f"<figure><figcaption>{escape(case)} ({wish})</figcaption>")
            out.append(plot(of_case, values, rows, most) + "</figure>")
        out.append("</div>")
    return "".join(out)


def goal_table(verdicts):
    lines = "".join(
        f"<tr><td>{escape(v.goal.text)}</td><td class=number>{escape(v.goal.bound)}</td>"
        f"<td class=number>{escape(v.figure)}</td>"
        f'<td class="{escape(v.word)}">{escape(v.word)}</td></tr>'
        for v in verdicts
    )
    return (
        "<h2>Goals</h2><p>Ratios of two medians of this run, or one figure.</p><div class=scroll>"
        f"<table><tr><th>goal<th>bound<th>measured<th></tr>{lines}</table></div>"
    )


def figure_table(rows):
    columns = ("bench", "case", "impl", "metric", "unit", "runs", "min", "median", "max")
    head = "".join(f"<th>{name}" for name in columns)
    lines = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(row[name])}</td>"
            if isinstance(row[name], str)
            else f"<td class=number>{row[name]:,.6g}</td>"
            for name in columns
        )
        + "</tr>"
        for row in rows
    )
    return (
        "<details><summary>All figures</summary>"
        f"<div class=scroll><table><tr>{head}</tr>{lines}</table></div></details>"
    )


def first_match(path, start):
    try:
        for line in pathlib.Path(path).read_text().splitlines():
            if line.startswith(start):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return ""


def commit():
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine():
    facts = [
        first_match("/proc/cpuinfo", "model name") or platform.machine(),
        f"{len(os.sched_getaffinity(0))} cores",
        f"{platform.system()} {platform.release()}",
        f"commit {commit()}" if commit() else "",
        datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %z"),
    ]
    return ", ".join(fact for fact in facts if fact)


def page(rows, values, verdicts, notes, smoke):
    """`rows` are the result lines, `values` the single runs behind them."""
    style = pathlib.Path(__file__).with_name("report.css").read_text()
    warnings = list(notes)
    if smoke:
        warnings.insert(0, "a smoke run: each benchmark once and briefly, figures are rough")
    benches = dict.fromkeys(row["bench"] for row in rows)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>hawser benchmarks</title><style>{style}</style></head><body>"
        f'<h1>hawser benchmarks</h1><div class="machine">{escape(machine())}</div>'
        "<p>Server and client are processes of their own, on a core each unless said, with the "
        "same socket options for all. A bar ends at the median, a circle is one run.</p>"
        + "".join(f"<p><strong>Note:</strong> {escape(text)}.</p>" for text in warnings)
        + goal_table(verdicts)
        + "".join(section(bench, rows, values) for bench in benches)
        + figure_table(rows)
        + "</body></html>\n"
    )
