"""Compare the measurements with the limits; what is not comparable does not count."""

from __future__ import annotations

from typing import Literal

from migration.limits import Limits
from migration.report import (
    Counts,
    Labels,
    LimitCheck,
    LinksChanged,
    Neighbours,
    Verdict,
)

LIMIT_OPTIONS = {
    "max_new_failures": "new failures",
    "min_label_agreement": "label agreement",
    "min_overlap": "neighbour overlap",
    "max_changed_links": "changed links",
}


def judge(
    limits: Limits, counts: Counts, labels: Labels, neighbours: Neighbours, links: LinksChanged
) -> Verdict:
    """Judge a migration.

    Args:
        limits: what it must meet.
        counts: rows that failed.
        labels: classes that changed.
        neighbours: overlap of neighbours.
        links: links that changed.
    """
    measured: dict[str, tuple[float | None, str | None]] = {
        "max_new_failures": (counts.newly_failed, None),
        "min_label_agreement": (labels.agreement, labels.reason),
        "min_overlap": (neighbours.overlap, neighbours.reason),
        "max_changed_links": (links.changed, links.reason),
    }
    checks = tuple(_check(name, getattr(limits, name), *measured[name]) for name in LIMIT_OPTIONS)
    return Verdict(passed=all(check.outcome != "missed" for check in checks), limits=checks)


def _check(name: str, limit: float, measured: float | None, reason: str | None) -> LimitCheck:
    what = LIMIT_OPTIONS[name]
    outcome: Literal["met", "missed", "not comparable"] = "not comparable"
    says = f"{what}: {reason}"
    if measured is not None:
        met = measured <= limit if name.startswith("max") else measured >= limit
        outcome = "met" if met else "missed"
        bound = "at most" if name.startswith("max") else "at least"
        says = f"{what}: {measured:.4g}, `{name}` wants {bound} {limit:g}"
    return LimitCheck(name=name, limit=limit, measured=measured, outcome=outcome, says=says)
