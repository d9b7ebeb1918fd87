"""The plots of a migration's page, each an SVG made from the report alone.

Matplotlib is in the extra ``migrate``; who has none gets the report in JSON all the same.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np

from common.extras import optional
from migration.report import Drift, Histogram, Labels, Neighbours, Threshold

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OLD, NEW, GREY = "#6b7480", "#1f62c4", "#9aa1ab"
_MOST_CHANGES = 12
_MOST_LETTERS = 22  # of a class name on an axis


def overlap_plot(neighbours: Neighbours) -> str:
    """Queries by how many of their nearest both spaces name, chance and mean marked."""
    figure, axes = _figure()
    axes.bar(range(neighbours.k + 1), neighbours.counts, color=NEW, width=0.85)
    for share, label, style in (
        (neighbours.overlap, "mean", "-"),
        (neighbours.chance, "chance", ":"),
    ):
        if share is not None:
            axes.axvline(share * neighbours.k, color=OLD, linestyle=style, label=label)
    axes.set_xlabel(f"of the {neighbours.k} nearest, named in both spaces")
    axes.set_ylabel("queries")
    axes.set_xticks(range(neighbours.k + 1))
    axes.legend(frameon=False)
    return _svg(figure)


def drift_plot(drift: Drift) -> str:
    """Rows by the cosine of their old embedding to the new one."""
    figure, axes = _figure()
    if drift.histogram is not None:
        axes.stairs(drift.histogram.counts, drift.histogram.edges, fill=True, color=NEW)
    if drift.mean is not None:
        axes.axvline(drift.mean, color=OLD, label=f"mean {drift.mean:.3f}")
        axes.legend(frameon=False)
    axes.set_xlabel("cosine of a row's old embedding to its new one")
    axes.set_ylabel("rows")
    return _svg(figure)


def changes_plot(labels: Labels) -> str:
    """The changes of class that most rows made."""
    shown = labels.changes[:_MOST_CHANGES]
    figure, axes = _figure(height=0.9 + 0.28 * len(shown))
    names = [f"{_short(one.then)} → {_short(one.now)}" for one in shown]
    axes.barh(range(len(shown)), [one.rows for one in shown], color=NEW, height=0.7)
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.invert_yaxis()
    axes.xaxis.set_major_locator(_whole_numbers())
    axes.set_xlabel("rows")
    return _svg(figure)


def costs_plot(threshold: Threshold) -> str:
    """Costs of linked and of other pairs in both spaces, with the threshold of each."""
    figure = optional("matplotlib.figure", "migrate").Figure(
        figsize=(4.3, 3.6), layout="constrained"
    )
    upper, lower = figure.subplots(2, 1, sharex=True)
    for axes, name, linked, others, bound in (
        (upper, "old space", threshold.linked_then, threshold.others_then, threshold.max_cost),
        (lower, "new space", threshold.linked_now, threshold.others_now, threshold.suggested),
    ):
        for counted, color, what in ((others, GREY, "other pairs"), (linked, NEW, "linked")):
            if counted is not None and any(counted.counts):
                axes.stairs(
                    _shares(counted), counted.edges, fill=True, color=color, alpha=0.6, label=what
                )
        if bound is not None:
            what = "max_cost" if axes is upper else "suggested"
            axes.axvline(bound, color="#d6402a", linestyle="--", label=f"{what} {bound:.3g}")
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_ylabel("share")
        axes.legend(frameon=False, fontsize=8)
        _strip_axes(axes)
    lower.set_xlabel("cost of a pair, both detections alone")
    return _svg(figure)


def _figure(height: float = 2.6) -> tuple[Figure, Any]:
    figure = optional("matplotlib.figure", "migrate").Figure(
        figsize=(4.3, height), layout="constrained"
    )
    axes = figure.subplots()
    _strip_axes(axes)
    return figure, axes


def _strip_axes(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="both", alpha=0.2)
    axes.set_axisbelow(True)


def _shares(counted: Histogram) -> Any:
    values = np.asarray(counted.counts, dtype=float)
    return values / values.sum()


def _whole_numbers() -> Any:
    return optional("matplotlib.ticker", "migrate").MaxNLocator(integer=True)


def _short(name: str) -> str:
    name = name.replace("$", r"\$")  # else Matplotlib takes it for mathematics
    return name if len(name) <= _MOST_LETTERS else name[: _MOST_LETTERS - 1] + "…"


def _svg(figure: Figure) -> str:
    sink = io.StringIO()
    # Without a date and with names that are no accident, one report makes one page.
    with optional("matplotlib", "migrate").rc_context({"svg.hashsalt": "onepass"}):
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()
