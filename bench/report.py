# SPDX-License-Identifier: Apache-2.0
"""The HTML report: one page without any other file, drawn as inline SVG."""

import datetime
import html
import os
import pathlib
import platform
import subprocess

ROOT = pathlib.Path(__file__).resolve().parent.parent

QUESTIONS = {
    "echo_rtt": "How long does a 64-byte message take to the other process and back, with one in "
    "flight? floor: blocking sockets; floor_spin: sockets that never sleep.",
    "echo_throughput": "How many 64-byte messages a second go there and back over one channel, "
    "with 256 in flight?",
    "oneway_throughput": "How many 64-byte messages a second arrive, counted until the receiver "
    "has acknowledged the last?",
    "bulk_1mib": "How many bytes a second do messages of 1 MiB carry one way, counted until the "
    "receiver has acknowledged the last?",
}
TITLES = {
    "p50": "Median round trip",
    "p99": "99th percentile of the round trips",
    "throughput": "Throughput",
    "bandwidth": "Bandwidth",
    "cpu_ns_per_message": "CPU time a message: client (dark) and server (light)",
    "syscalls_per_message": "System calls a message, both processes",
}
LESS_IS_BETTER = {"us", "ns", "calls"}
PARTS = ("_client", "_server")

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
    return impl if impl == "hawser" else "floor" if impl.startswith("floor") else "peer"


# ---- one plot -----------------------------------------------------------------------------------


def bar(top, row, parts, runs, scale):
    """A bar to the median, a circle a run, and the figures in words for the pointer."""
    x, pieces = LABELS, []
    for kind, value in parts or [("client", row["median"])]:
        pieces.append(
            f'<rect class="{kind}" x="{x:.1f}" y="{top + 5}" width="{value * scale:.1f}" '
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
    scale = (WIDTH - LABELS - VALUES) / most if most else 0
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


# ---- the page -----------------------------------------------------------------------------------


def section(bench, rows, values):
    out = [f"<h2>{escape(bench)}</h2><p>{escape(QUESTIONS.get(bench, ''))}</p>"]
    mine = [row for row in rows if row["bench"] == bench and not row["metric"].endswith(PARTS)]
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
        "<p>Server and client are processes of their own, on a core each, with the same socket "
        "options for all. A bar ends at the median, a circle is one run.</p>"
        + "".join(f"<p><strong>Note:</strong> {escape(text)}.</p>" for text in warnings)
        + goal_table(verdicts)
        + "".join(section(bench, rows, values) for bench in benches)
        + figure_table(rows)
        + "</body></html>\n"
    )
