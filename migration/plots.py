"""The plots of a migration's page, each an SVG made from the report alone.

Matplotlib is in the extra ``migrate``; the report in JSON does not need it.
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
_MAX_CHANGES = 12
_MAX_LETTERS = 22  # of a class name on an axis


def overlap_plot(neighbours: Neighbours) -> str:
    """Queries by the number of neighbours that both spaces share, with chance and mean."""
    figure, axes = _figure()
    axes.bar(range(neighbours.k + 1), neighbours.counts, color=NEW, width=0.85)
    for share, label, style in (
        (neighbours.overlap, "mean", "-"),
        (neighbours.chance, "chance", ":"),
    ):
        if share is not None:
            axes.axvline(share * neighbours.k, color=OLD, linestyle=style, label=label)
    axes.set_xlabel(f"of the {neighbours.k} nearest, shared by both spaces")
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
    """The most frequent changes of class."""
    shown = labels.changes[:_MAX_CHANGES]
    figure, axes = _figure(height=0.9 + 0.28 * len(shown))
    names = [f"{_short(change.then)} → {_short(change.now)}" for change in shown]
    axes.barh(range(len(shown)), [change.rows for change in shown], color=NEW, height=0.7)
    axes.set_yticks(range(len(shown)), names, fontsize=8)
    axes.invert_yaxis()
    ticks = optional("matplotlib.ticker", "migrate").MaxNLocator(integer=True)
    axes.xaxis.set_major_locator(ticks)
    axes.set_xlabel("rows")
    return _svg(figure)


def costs_plot(threshold: Threshold) -> str:
    """Costs of linked and of other pairs in both spaces, with the threshold of each."""
    figure, (upper, lower) = _figure(height=3.6, rows=2)
    for axes, name, linked, others, limit in (
        (upper, "old space", threshold.linked_then, threshold.others_then, threshold.max_cost),
        (lower, "new space", threshold.linked_now, threshold.others_now, threshold.suggested),
    ):
        for costs, color, label in ((others, GREY, "other pairs"), (linked, NEW, "linked")):
            if costs is not None and any(costs.counts):
                axes.stairs(
                    _shares(costs), costs.edges, fill=True, color=color, alpha=0.6, label=label
                )
        if limit is not None:
            label = "max_cost" if axes is upper else "suggested"
            axes.axvline(limit, color="#d6402a", linestyle="--", label=f"{label} {limit:.3g}")
        axes.set_title(name, fontsize=9, loc="left")
        axes.set_ylabel("share")
        axes.legend(frameon=False, fontsize=8)
    lower.set_xlabel("cost of a pair of detections")
    return _svg(figure)


def _figure(height: float = 2.6, rows: int = 1) -> tuple[Figure, Any]:
    """A figure, and its axes: one, or ``rows`` below each other."""
    figure = optional("matplotlib.figure", "migrate").Figure(
        figsize=(4.3, height), layout="constrained"
    )
    axes = figure.subplots(rows, 1, sharex=True)
    for each in axes if rows > 1 else (axes,):
        each.spines[["top", "right"]].set_visible(False)
        each.grid(axis="both", alpha=0.2)
        each.set_axisbelow(True)
    return figure, axes


def _shares(histogram: Histogram) -> Any:
    counts = np.asarray(histogram.counts, dtype=float)
    return counts / counts.sum()


def _short(name: str) -> str:
    name = name.replace("$", r"\$")  # otherwise Matplotlib reads it as a formula
    return name if len(name) <= _MAX_LETTERS else name[: _MAX_LETTERS - 1] + "…"


def _svg(figure: Figure) -> str:
    sink = io.StringIO()
    # Without a date and with fixed names, the same report gives the same page.
    with optional("matplotlib", "migrate").rc_context({"svg.hashsalt": "onepass"}):
        figure.savefig(sink, format="svg", metadata={"Date": None})
    return sink.getvalue()
