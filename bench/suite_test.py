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

    def test_the_goals_of_the_project_can_be_read(self):
        self.assertGreater(len(goals.load()), 0)


class Suite(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        peer = self.folder / "bench_peer"
        peer.write_text(PEER)
        peer.chmod(peer.stat().st_mode | stat.S_IXUSR)

    def run_suite(self):
        pace = suite.Pace(runs=3, seconds=0.1, traced_runs=1)
        cases = suite.by_case(suite.discover(self.folder))
        self.emitted = []
        with contextlib.redirect_stderr(io.StringIO()):
            return suite.run_suite(cases, pace, set(), self.emitted.append)

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
