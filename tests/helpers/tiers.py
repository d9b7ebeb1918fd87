"""Which tier a test is of, what each may take on two cores, and what each took."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

import pytest

# Seconds; together the eight minutes of ``make test``. They are told and never asserted.
BUDGETS = {"unit": 60, "local": 240, "ray": 180}
SLOWEST = 10


def tier_of(item: pytest.Item) -> str:
    """unit: pure functions. local: one machine, no Ray. ray: what is about Ray."""
    if item.get_closest_marker("ray"):
        return "ray"
    return "unit" if folder_of(item.path, item.config.rootpath) == "unit" else "local"


def folder_of(path: Path, root: Path) -> str:
    """The folder below ``tests`` that a test stands in."""
    return path.relative_to(root).parts[1]


class Stopwatch:
    """A plugin that adds up what tests take, with their fixtures, and tells it at the end."""

    def __init__(self) -> None:
        self._tiers: dict[str, str] = {}
        self._seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self._tiers = {item.nodeid: tier_of(item) for item in session.items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        spent: defaultdict[str, float] = defaultdict(float)
        for test, seconds in self._seconds.items():
            spent[self._tiers.get(test, "local")] += seconds
        terminalreporter.section("time")
        for tier, budget in BUDGETS.items():
            if spent[tier]:
                over = "  over" if spent[tier] > budget else ""
                terminalreporter.line(f"{tier:<6} {spent[tier]:6.0f} s of {budget} s{over}")
        for test in sorted(self._seconds, key=self._seconds.__getitem__, reverse=True)[:SLOWEST]:
            terminalreporter.line(f"{self._seconds[test]:6.1f} s  {test}")
