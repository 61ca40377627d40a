# SPDX-License-Identifier: Apache-2.0
"""The goals of goals.json: bounds on the ratio of two figures.

A figure is a number, "bench/case/impl/metric", which stands for a median, or made of others:
{"max_of": [...]} and {"min_of": [...]} of those that were measured, {"minus": [a, b]}.
"""

import dataclasses
import json
import pathlib
import typing

FILE = pathlib.Path(__file__).with_name("goals.json")


Figure = typing.Union[str, float, dict]


@dataclasses.dataclass(frozen=True)
class Goal:
    text: str
    numerator: Figure
    denominator: Figure
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


def value_of(figure, medians):
    """None if it was not measured."""
    if isinstance(figure, str):
        return medians.get(figure)
    if not isinstance(figure, dict):
        return figure
    [(how, of)] = figure.items()
    values = [value_of(one, medians) for one in of]
    if how == "minus":
        return None if None in values else values[0] - values[1]
    choose = {"max_of": max, "min_of": min}[how]
    return choose((value for value in values if value is not None), default=None)


def names_in(figure):
    """The medians that a figure is made of."""
    if isinstance(figure, str):
        return [figure]
    if not isinstance(figure, dict):
        return []
    return [name for of in figure.values() for one in of for name in names_in(one)]


def judge(goals, rows):
    medians = {
        "/".join((row["bench"], row["case"], row["impl"], row["metric"])): row["median"]
        for row in rows
    }
    verdicts = []
    for goal in goals:
        above = value_of(goal.numerator, medians)
        below = value_of(goal.denominator, medians)
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
