"""The limits that a migration must meet, and the verdict by them.

The fields of ``Limits`` are options of ``onepass migrate`` and parameters of ``onepass.migrate``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from common.json_models import JsonModel


class Limits(JsonModel):
    """What a migration must meet; a measure at its limit meets it.

    The defaults are below what two models of one kind reach and above what an untrained network
    reaches. EfficientNet-Lite0 and Lite1 agree on 0.93 of 200 ImageNet images and share
    0.49 of their ten nearest; on 119 crops of a moth trap they share 0.68, and Lite0 with an
    untrained ResNet-18 0.36. Classes that do not fit the images agree less (0.39 there), and a
    model for another task needs other limits.
    """

    min_label_agreement: float = Field(
        default=0.8, ge=0, le=1, description="Share of rows that keep their class."
    )
    min_overlap: float = Field(
        default=0.4,
        ge=0,
        le=1,
        description="Mean share of the ten nearest that both spaces have in common.",
    )
    max_new_failures: int = Field(
        default=0, ge=0, description="Rows that fail with the new model only."
    )
    max_changed_links: float = Field(
        default=0.3, ge=0, le=1, description="Share of links that only one of the runs has."
    )


class LimitCheck(JsonModel):
    """One limit and the value measured."""

    name: str
    limit: float
    measured: float | None
    outcome: Literal["met", "missed", "not comparable"]
    says: str


class Verdict(JsonModel):
    """Passed where no limit was missed; a limit that is not comparable does not count."""

    passed: bool
    limits: tuple[LimitCheck, ...]


MEASURES = {
    "max_new_failures": "new failures",
    "min_label_agreement": "label agreement",
    "min_overlap": "neighbour overlap",
    "max_changed_links": "changed links",
}
"""What each limit is about, in the order of the verdict."""


def judge(limits: Limits, measured: Mapping[str, tuple[float | None, str | None]]) -> Verdict:
    """Judge a migration.

    Args:
        limits: what it must meet.
        measured: by name of the limit, the value, or None and the reason why there is none.
    """
    checks = tuple(_check(name, getattr(limits, name), *measured[name]) for name in MEASURES)
    return Verdict(passed=all(check.outcome != "missed" for check in checks), limits=checks)


def _check(name: str, limit: float, measured: float | None, reason: str | None) -> LimitCheck:
    outcome: Literal["met", "missed", "not comparable"] = "not comparable"
    says = f"{MEASURES[name]}: {reason}"
    if measured is not None:
        at_most = name.startswith("max")
        outcome = "met" if (measured <= limit if at_most else measured >= limit) else "missed"
        bound = "at most" if at_most else "at least"
        says = f"{MEASURES[name]}: {measured:.4g}, `{name}` wants {bound} {limit:g}"
    return LimitCheck(name=name, limit=limit, measured=measured, outcome=outcome, says=says)
