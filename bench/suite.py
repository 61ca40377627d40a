# SPDX-License-Identifier: Apache-2.0
"""Runs the benchmark programs in turn, sums up, compares with the goals and writes the report."""

import argparse
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import goals
import report

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ROOT / "build" / "release" / "bench"
# More of the machine than this spent on others, and a run counts as disturbed.
DISTURBED = 0.12


# Of its own peak: where a peer and hawser are compared under the same offered load.
LOADS = (10, 50)


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long a suite takes."""

    runs: int
    seconds: float
    traced_runs: int  # of hawser; its peers are traced once
    traced_counts: tuple = (2_000, 10_000)  # messages of the two runs that are subtracted
    curve: tuple = (5, 10, 25, 50, 75, 90)  # percent of its own peak that everybody is offered
    curve_runs: int = 3
    curve_seconds: float = 0.5


FULL = Pace(runs=5, seconds=1.0, traced_runs=3)
SMOKE = Pace(
    runs=1,
    seconds=0.05,
    traced_runs=1,
    traced_counts=(500, 2_500),
    curve=(50,),
    curve_runs=1,
    curve_seconds=0.05,
)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One peer's answer to one question on one road."""

    program: pathlib.Path
    bench: str
    case: str
    impl: str

    def command(self, *options):
        return [str(self.program), self.bench, self.case, self.impl, *options]

    def __str__(self):
        return f"{self.bench} {self.case} {self.impl}"


class Suite:
    """What was measured, and what went wrong."""

    def __init__(self):
        self.values = {}  # (bench, case, impl, metric, unit) -> one value a run
        self.failures = []
        self.notes = []
        self.runs = 0
        self.disturbed = 0
        self.spent = {}  # bench -> seconds of all its cases

    def median(self, *key):
        """None if it was not measured."""
        values = self.values.get(key)
        return statistics.median(values) if values else None

    def add(self, sample):
        key = tuple(sample[name] for name in ("bench", "case", "impl", "metric", "unit"))
        self.values.setdefault(key, []).append(sample["value"])

    def rows(self):
        return [row_of(key, values) for key, values in self.values.items()]


def row_of(key, values):
    row = dict(zip(("bench", "case", "impl", "metric", "unit"), key))
    row["runs"] = len(values)
    for name, value in (
        ("min", min(values)),
        ("median", statistics.median(values)),
        ("max", max(values)),
    ):
        row[name] = float(f"{value:.6g}")
    return row


def say(text):
    print(text, file=sys.stderr, flush=True)


# ---- one run ------------------------------------------------------------------------------------


def execute(command, patience):
    """Standard output of a command; RuntimeError with its last words if it fails or hangs."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=patience)
    except BaseException as reason:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if isinstance(reason, subprocess.TimeoutExpired):
            raise RuntimeError(f"no end after {patience:.0f} s") from None
        raise
    if process.returncode != 0:
        last = errors.strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(f"exit code {process.returncode}: {last[0]}")
    return output


def busy_seconds():
    """Of all cores together, since boot."""
    try:
        fields = pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return 0.0
    idle = int(fields[3]) + int(fields[4])
    return (sum(map(int, fields[:8])) - idle) / os.sysconf("SC_CLK_TCK")


def own_seconds():
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def measure(suite, entry, seconds, rate=None, row=None):
    """`rate` is offered where the benchmark takes one; `row` names the result differently."""
    began, busy, own = time.monotonic(), busy_seconds(), own_seconds()
    options = ["--seconds", str(seconds)] + (["--rate", f"{rate:.6g}"] if rate else [])
    try:
        output = execute(entry.command(*options), patience=30 + 20 * seconds)
    except RuntimeError as problem:
        text = f"{entry} --rate {rate:.6g}" if rate else str(entry)
        suite.failures.append(f"{text}: {problem}")
        say(f"  {text} FAILED: {problem}")
        return False
    for line in output.splitlines():
        suite.add({**json.loads(line), **(row or {})})
    others = busy_seconds() - busy - (own_seconds() - own)
    suite.runs += 1
    suite.disturbed += others > DISTURBED * (time.monotonic() - began) * (os.cpu_count() or 1)
    return True


def measure_case(suite, entries, pace):
    """All peers in turn, A B C A B C ..., so that a drift of the machine meets all of them."""
    entries = list(entries)
    for run in range(pace.runs):
        say(f"{entries[0].bench} {entries[0].case}: run {run + 1} of {pace.runs}")
        entries = [entry for entry in entries if measure(suite, entry, pace.seconds)]
        if not entries:
            break


# ---- offered load -------------------------------------------------------------------------------


def peak_of(suite, entry):
    """Messages a second that this peer reached in the same execution, on the same road."""
    return suite.median("echo_throughput", entry.case, entry.impl, "throughput", "messages/s")


def compare_loads(suite, entries, pace):
    """Each peer at shares of its own peak, and hawser at the same rate, in turn."""
    ours = [entry for entry in entries if entry.impl == "hawser"]
    peers = [e for e in entries if e.impl != "hawser" and not e.impl.startswith("floor")]
    for peer in peers:
        peak = peak_of(suite, peer)
        if not ours or not peak:
            continue
        for percent in LOADS:
            say(f"load {peer.case}: {percent} % of the peak of {peer.impl}")
            row = {"bench": f"load_{percent}", "case": f"{peer.case}-{peer.impl}"}
            pair = [peer, ours[0]]
            for _ in range(pace.runs):
                rate = peak * percent / 100
                pair = [e for e in pair if measure(suite, e, pace.seconds, rate, row)]


def draw_curves(suite, entries, pace):
    """Everybody at shares of the own peak, for the plot of latency against load."""
    case = entries[0].case
    entries = [entry for entry in entries if peak_of(suite, entry)]
    for run in range(pace.curve_runs):
        for percent in pace.curve:
            say(f"load curve {case}: {percent} %, run {run + 1} of {pace.curve_runs}")
            for entry in list(entries):
                row = {"bench": "load_curve", "case": f"{entry.case}-{percent}"}
                rate = peak_of(suite, entry) * percent / 100
                if not measure(suite, entry, pace.curve_seconds, rate, row):
                    entries.remove(entry)


# ---- system calls -------------------------------------------------------------------------------


def can_trace():
    """None, or why not."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    try:
        execute(["strace", "-f", "-c", "-o", os.devnull, "true"], patience=30)
    except RuntimeError as problem:
        return f"strace may not trace here ({problem})"
    return None


def traced_calls(entry, count):
    """System calls of both processes in a run of exactly `count` messages."""
    with tempfile.NamedTemporaryFile(mode="r", suffix=".strace") as log:
        prefix = ["strace", "-f", "-c", "-o", log.name]
        execute(prefix + entry.command("--count", str(count)), patience=120)
        for line in log:
            found = re.fullmatch(r"100\.00\s+[\d.]+\s+\d+\s+(\d+)(\s+\d+)?\s+total", line.strip())
            if found:
                return int(found.group(1))
    raise RuntimeError("strace printed no total")


def is_traceable(entry):
    """Who spins asks the system as often as there is time: that says nothing about messages."""
    return entry.impl not in ("hawser", "floor_spin")


def count_calls(suite, entries, pace):
    """Of two runs of different length only the difference counts: it has no start and no end."""
    few, many = pace.traced_counts
    for run in range(pace.traced_runs):
        say(f"{entries[0].bench} {entries[0].case}: system calls, {run + 1} of {pace.traced_runs}")
        for entry in filter(is_traceable, entries):
            if run > 0 and not entry.impl.startswith("hawser"):
                continue
            try:
                calls = traced_calls(entry, many) - traced_calls(entry, few)
            except RuntimeError as problem:
                suite.failures.append(f"{entry}, traced: {problem}")
                say(f"  {entry} FAILED under strace: {problem}")
                continue
            suite.add(
                {
                    "bench": entry.bench,
                    "case": entry.case,
                    "impl": entry.impl,
                    "metric": "syscalls_per_message",
                    "unit": "calls",
                    "value": max(calls, 0) / (many - few),
                }
            )


# ---- the suite ----------------------------------------------------------------------------------


def discover(programs):
    entries = []
    for program in sorted(programs.glob("bench_*")):
        if program.is_file() and os.access(program, os.X_OK):
            lines = execute([str(program), "--list"], patience=30).splitlines()
            entries += [Entry(program, *line.split()) for line in lines]
    return entries


def by_case(entries):
    """Lists of entries that are compared with each other; hawser and the floor first. Offered loads
    come last: they are shares of what the others have found."""
    first = {"hawser": 0, "hawser_sleeping": 1, "floor": 2, "floor_spin": 3}
    cases = {}
    for entry in entries:
        cases.setdefault((entry.bench, entry.case), []).append(entry)
    ordered = sorted(cases.items(), key=lambda case: (case[0][0] == "load", case[0]))
    return [sorted(peers, key=lambda e: (first.get(e.impl, 9), e.impl)) for _, peers in ordered]


def run_suite(cases, pace, traced, emit):
    """`emit` gets each row as soon as its case is done."""
    suite = Suite()
    why_not = can_trace()
    for entries in cases:
        printed = set(suite.values)
        began = time.monotonic()
        if entries[0].bench == "load":
            compare_loads(suite, entries, pace)
            draw_curves(suite, entries, pace)
        else:
            measure_case(suite, entries, pace)
        if entries[0].bench in traced and not why_not:
            count_calls(suite, entries, pace)
        bench = entries[0].bench
        suite.spent[bench] = suite.spent.get(bench, 0) + time.monotonic() - began
        for key, values in suite.values.items():
            if key not in printed:
                emit(row_of(key, values))
    if why_not and any(entries[0].bench in traced for entries in cases):
        suite.notes.append(f"no syscalls_per_message: {why_not}")
    if suite.disturbed:
        suite.notes.append(
            f"{suite.disturbed} of {suite.runs} runs shared the machine with others: "
            "trust the ratios more than the figures"
        )
    return suite


def positive(text):
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"'{text}' is not a positive number")
    return int(text)


def arguments():
    parser = argparse.ArgumentParser(
        prog="bench/run",
        description="Runs all benchmarks or those named, prints a JSON object a line, writes an "
        "HTML report, and ends with the table of goals.",
    )
    parser.add_argument("names", metavar="NAME", nargs="*", help="for example echo_rtt")
    parser.add_argument("--smoke", action="store_true", help="each once and briefly")
    parser.add_argument("--json", metavar="FILE", type=pathlib.Path, help="the lines, to a file")
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=pathlib.Path,
        default=ROOT / "build" / "bench" / "report.html",
        help="default: build/bench/report.html",
    )
    parser.add_argument("--runs", type=positive, metavar="N", help="of each benchmark (default 5)")
    parser.add_argument(
        "--programs", metavar="DIR", type=pathlib.Path, help="built before: build nothing"
    )
    return parser.parse_args()


def build():
    say("building build/release")
    built = subprocess.run([str(ROOT / ".ci" / "build"), "release", "bench"], stdout=sys.stderr)
    if built.returncode != 0:
        sys.exit(1)


def select(entries, names):
    """Those that are named; with loads also the peaks that these are shares of."""
    known = {entry.bench for entry in entries}
    unknown = [name for name in names if name not in known]
    if unknown:
        say(f"bench/run: no benchmark '{unknown[0]}'; there are: {', '.join(sorted(known))}")
        sys.exit(2)
    loaded = {e.impl for e in entries if e.bench == "load"} if "load" in names else set()

    def wanted(entry):
        peak = entry.bench == "echo_throughput" and entry.impl in loaded
        return not names or entry.bench in names or peak

    return [entry for entry in entries if wanted(entry)]


def opened(path):
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("w", encoding="utf-8")
    except OSError as problem:
        say(f"bench/run: {problem}")
        sys.exit(2)


def main():
    asked = arguments()
    pace = SMOKE if asked.smoke else FULL
    if asked.runs:
        pace = dataclasses.replace(pace, runs=asked.runs)
    if not asked.programs:
        build()
    entries = select(discover(asked.programs or PROGRAMS), asked.names)
    with contextlib.ExitStack() as stack:
        # Both before the first run: a wrong path shall not show after the last.
        page = stack.enter_context(opened(asked.report))
        lines = stack.enter_context(opened(asked.json)) if asked.json else None

        def emit(row):
            for stream in filter(None, (sys.stdout, lines)):
                print(json.dumps(row), file=stream, flush=True)

        suite = run_suite(by_case(entries), pace, {"echo_throughput"}, emit)
        rows = suite.rows()
        verdicts = goals.judge(goals.load(), rows)
        page.write(report.page(rows, suite.values, verdicts, suite.notes, asked.smoke))

    for text in suite.failures:
        print(f"FAILED: {text}")
    for text in suite.notes:
        print(f"note: {text}")
    parts = ", ".join(f"{bench} {seconds:.0f}" for bench, seconds in suite.spent.items())
    print(f"time: {sum(suite.spent.values()):.0f} s ({parts})")
    print(f"report: {asked.report}")
    print(goals.table(verdicts))
    return 1 if suite.failures or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
