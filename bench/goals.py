# SPDX-License-Identifier: Apache-2.0
"""The goals of goals.json: bounds on the ratio of two medians, or of one to a constant."""

import dataclasses
import json
import pathlib
import typing

FILE = pathlib.Path(__file__).with_name("goals.json")


@dataclasses.dataclass(frozen=True)
class Goal:
    text: str
    numerator: str
    denominator: typing.Union[str, float]
    at_least: typing.Optional[float] = None
    at_most: typing.Optional[float] = None

    @property
    def bound(self):
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}"

    def holds(self, measured):
        if self.at_least is not None and measured < self.at_least:
            return False
        return self.at_most is None or measured <= self.at_most


@dataclasses.dataclass(frozen=True)
class Verdict:
    goal: Goal
    measured: typing.Optional[float]

    @property
    def word(self):
        if self.measured is None:
            return "not measured"
        return "holds" if self.goal.holds(self.measured) else "MISSES"

    @property
    def figure(self):
        return "-" if self.measured is None else f"{self.measured:.3g}"


def load(path=FILE):
    goals = []
    for entry in json.loads(path.read_text()):
        goal = Goal(entry.pop("goal"), **entry)
        if (goal.at_least is None) == (goal.at_most is None):
            raise ValueError(f"{path}: '{goal.text}' needs either at_least or at_most")
        goals.append(goal)
    return goals


def judge(goals, rows):
    """A figure is named bench/case/impl/metric and stands for the median."""
    medians = {
        "/".join((row["bench"], row["case"], row["impl"], row["metric"])): row["median"]
        for row in rows
    }

    def value(figure):
        return medians.get(figure) if isinstance(figure, str) else figure

    verdicts = []
    for goal in goals:
        above, below = value(goal.numerator), value(goal.denominator)
        missing = above is None or not below
        verdicts.append(Verdict(goal, None if missing else above / below))
    return verdicts


def table(verdicts):
    lines = [("goal", "bound", "measured", "")]
    lines += [(v.goal.text, v.goal.bound, v.figure, v.word) for v in verdicts]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    texts = []
    for text, bound, figure, word in lines:
        texts.append(f"{text:<{widths[0]}}  {bound:>{widths[1]}}  {figure:>{widths[2]}}  {word}")
    return "\n".join(text.rstrip() for text in texts)
