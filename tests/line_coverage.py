#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Reads `llvm-cov export -summary-only` and prints the line coverage of folders.

usage: line_coverage.py ROOT GOAL_PERCENT FOLDER... < export.json

Exits with 1 if a folder has no measured file or less than the goal.
"""
import json
import os
import sys


def row(name, covered, count):
    percent = 100 * covered / count if count else 0
    return f"{name:50} {covered:6} of {count:6} lines {percent:7.2f} %"


def main():
    root, goal, folders = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
    files = json.load(sys.stdin)["data"][0]["files"]
    measured = {os.path.relpath(f["filename"], root): f["summary"]["lines"] for f in files}
    holds = True
    for folder in folders:
        inside = sorted((p, s) for p, s in measured.items() if p.startswith(folder + "/"))
        for path, lines in inside:
            print(row(path, lines["covered"], lines["count"]))
        count = sum(s["count"] for _, s in inside)
        covered = sum(s["covered"] for _, s in inside)
        reached = count > 0 and 100 * covered >= goal * count
        holds = holds and reached
        print(row(folder, covered, count), "holds" if reached else "MISSES", f"{goal:g} %")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
