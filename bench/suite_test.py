# SPDX-License-Identifier: Apache-2.0
"""What bench/run says must follow from what was measured: sums, goals, failures, the report."""

import contextlib
import io
import pathlib
import stat
import tempfile
import unittest

import goals
import report
import suite

PEER = """#!/bin/sh
case "$1" in
  --list) printf 'echo tcp hawser\\necho tcp broken\\n'; exit ;;
esac
if [ "$3" = broken ]; then echo "it broke" >&2; exit 3; fi
echo '{"bench":"echo","case":"tcp","impl":"hawser","metric":"p50","unit":"us","value":4}'
"""

# Its peaks are 1000 and 400 messages a second; under a load it says what rate it was offered.
LOADED = """#!/bin/sh
if [ "$1" = --list ]; then
  for bench in load echo_throughput; do
    for impl in hawser slow floor; do echo "$bench tcp $impl"; done
  done
  exit
fi
say() {
  printf '{"bench":"%s","case":"tcp","impl":"%s","metric":"%s",' "$1" "$2" "$3"
  printf '"unit":"%s","value":%s}\\n' "$4" "$5"
}
case "$1 $3" in
  'echo_throughput slow') say "$1" "$3" throughput messages/s 400 ;;
  'echo_throughput '*) say "$1" "$3" throughput messages/s 1000 ;;
  load*) say "$1" "$3" offered messages/s "$7"; say "$1" "$3" p50 us 9; say "$1" "$3" p99 us 9 ;;
esac
"""


def rows(**medians):
    return [
        {"bench": "b", "case": "tcp", "impl": impl, "metric": "m", "median": value}
        for impl, value in medians.items()
    ]


def judge(goal, **medians):
    return goals.judge([goal], rows(**medians))[0]


class Goals(unittest.TestCase):
    ratio = goals.Goal("twice the floor", "b/tcp/hawser/m", "b/tcp/floor/m", at_least=2)
    bound = goals.Goal("few", "b/tcp/hawser/m", 1, at_most=0.05)

    def test_a_ratio_of_medians_holds_from_its_bound_on(self):
        self.assertEqual(judge(self.ratio, hawser=6, floor=3).word, "holds")
        self.assertEqual(judge(self.ratio, hawser=5, floor=3).word, "MISSES")

    def test_a_constant_denominator_bounds_the_figure_itself(self):
        self.assertEqual(judge(self.bound, hawser=0.05).word, "holds")
        self.assertEqual(judge(self.bound, hawser=0.06).word, "MISSES")

    def test_a_missing_figure_neither_holds_nor_misses(self):
        self.assertEqual(judge(self.ratio, hawser=6).word, "not measured")

    def test_the_best_of_several_peers_counts_and_who_was_not_measured_does_not(self):
        peers = [f"b/tcp/{peer}/m" for peer in ("asio", "zeromq", "absent")]
        best = goals.Goal("best", "b/tcp/hawser/m", {"max_of": peers}, at_least=2)
        least = goals.Goal("least", "b/tcp/hawser/m", {"min_of": peers}, at_most=2)
        self.assertEqual(judge(best, hawser=8, asio=2, zeromq=5).measured, 1.6)
        self.assertEqual(judge(least, hawser=8, asio=2, zeromq=5).measured, 4)
        self.assertEqual(judge(best, hawser=8).word, "not measured")

    def test_a_difference_needs_both_of_its_figures(self):
        more = goals.Goal("more", {"minus": ["b/tcp/a/m", "b/tcp/b/m"]}, "b/tcp/c/m", at_most=4)
        self.assertEqual(judge(more, a=9, b=1, c=2).measured, 4)
        self.assertEqual(judge(more, a=9, c=2).word, "not measured")

    def test_the_goals_of_the_project_can_be_read(self):
        every = goals.load()
        self.assertGreater(len(every), 0)
        for goal in every:
            names = goals.names_in(goal.numerator) + goals.names_in(goal.denominator)
            self.assertTrue(names, goal.text)
            for name in names:
                self.assertEqual(name.count("/"), 3, goal.text)


class WithPrograms(unittest.TestCase):
    program = PEER
    pace = suite.Pace(runs=3, seconds=0.1, traced_runs=1, curve=(25, 75), curve_runs=2)

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        peer = self.folder / "bench_peer"
        peer.write_text(self.program)
        peer.chmod(peer.stat().st_mode | stat.S_IXUSR)

    def run_suite(self, names=()):
        cases = suite.by_case(suite.select(suite.discover(self.folder), names))
        self.emitted = []
        with contextlib.redirect_stderr(io.StringIO()):
            return suite.run_suite(cases, self.pace, set(), self.emitted.append)


class Load(WithPrograms):
    program = LOADED

    def offered(self, bench, case, impl):
        wanted = {"bench": bench, "case": case, "impl": impl, "metric": "offered"}
        return [
            (row["median"], row["runs"])
            for row in self.emitted
            if all(row[key] == value for key, value in wanted.items())
        ]

    def test_a_peer_and_hawser_are_offered_shares_of_the_peak_of_the_peer(self):
        self.run_suite()
        for impl in ("slow", "hawser"):
            self.assertEqual(self.offered("load_10", "tcp-slow", impl), [(40, 3)])
            self.assertEqual(self.offered("load_50", "tcp-slow", impl), [(200, 3)])
        self.assertFalse([row for row in self.emitted if row["case"] == "tcp-floor"])

    def test_a_curve_is_of_shares_of_the_own_peak(self):
        self.run_suite()
        self.assertEqual(self.offered("load_curve", "tcp-25", "slow"), [(100, 2)])
        self.assertEqual(self.offered("load_curve", "tcp-75", "floor"), [(750, 2)])

    def test_loads_alone_bring_the_peaks_that_they_are_shares_of(self):
        done = self.run_suite(["load"])
        self.assertEqual(list(done.spent), ["echo_throughput", "load"])
        self.assertEqual(self.offered("load_10", "tcp-slow", "hawser"), [(40, 3)])

    def test_the_report_draws_a_line_a_peer(self):
        done = self.run_suite()
        page = report.page(done.rows(), done.values, [], [], True)
        self.assertEqual(page.count("<polyline"), 6)  # three peers, p50 and p99


class TradeOff(unittest.TestCase):
    def test_the_line_goes_from_the_idle_pings_to_all_the_bulk(self):
        figures = {
            "idle_p99": 10, "p99_at_50": 20, "bandwidth_at_50": 1, "p99": 40, "bandwidth": 2
        }
        of = {"bench": "ping_beside_bulk", "case": "tcp", "impl": "hawser"}
        rows = [{**of, "metric": name, "median": value} for name, value in figures.items()]
        drawn = report.trade_off(rows)
        self.assertIn("hawser: 0 GB/s: 10 us; 1 GB/s: 20 us; 2 GB/s: 40 us", drawn)


class Tracing(unittest.TestCase):
    def test_who_spins_is_not_traced(self):
        entries = [suite.Entry(pathlib.Path("p"), "b", "tcp", impl) for impl in
                   ("hawser", "hawser_sleeping", "floor", "floor_spin", "asio")]
        traced = [entry.impl for entry in entries if suite.is_traceable(entry)]
        self.assertEqual(traced, ["hawser_sleeping", "floor", "asio"])


class Suite(WithPrograms):
    def test_a_peer_that_fails_is_named_and_the_others_go_on(self):
        done = self.run_suite()
        self.assertEqual(done.failures, ["echo tcp broken: exit code 3: it broke"])
        self.assertEqual([row["runs"] for row in self.emitted], [3])
        self.assertEqual(self.emitted, done.rows())

    def test_a_row_has_the_keys_that_are_promised(self):
        row = suite.row_of(("b", "tcp", "hawser", "p50", "us"), [3.0, 1.0, 2.0])
        self.assertEqual(list(row.values()), ["b", "tcp", "hawser", "p50", "us", 3, 1.0, 2.0, 3.0])
        keys = "bench case impl metric unit runs min median max"
        self.assertEqual(" ".join(row), keys)

    def test_the_report_is_one_page_that_refers_to_nothing_else(self):
        done = self.run_suite()
        page = report.page(done.rows(), done.values, goals.judge(goals.load(), []), ["a & b"], True)
        self.assertIn("<svg", page)
        self.assertIn("a &amp; b", page)
        self.assertNotRegex(page, r"(src|href)=|url\(|@import")


if __name__ == "__main__":
    unittest.main()
