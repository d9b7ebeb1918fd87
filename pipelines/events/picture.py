"""The picture of a profile: rows a second, who was at work, memory, over one axis of time."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.events.profile import Profile
from pipelines.events.words import duration
from pipelines.probe.report import extra
from pipelines.records import write_atomic

COLOURS = {
    "load": "#b39ddb",
    "decode": "#e39a2d",
    "forward": "#1f62c4",
    "write": "#4c9f70",
    "driver": "#828282",
}
_TROUBLE = "#d62728"
_NAMED_SESSIONS = 12  # of more, only the boundaries are drawn


def draw_profile(profile: Profile, file: Path, *, title: str) -> None:
    """Draw ``profile`` as a PNG.

    Raises:
        InputError: matplotlib is not installed.
    """
    figure = extra("matplotlib.figure").Figure(figsize=(11, 8), layout="constrained")
    rates, busy, memory = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 2))
    figure.suptitle(f"{title}\n{_words(profile)}", fontsize=11, x=0.02, ha="left", parse_math=False)
    _draw_rates(rates, profile)
    _draw_busy(busy, profile)
    _draw_memory(memory, profile)
    curves = profile.curves
    for axes in (rates, busy, memory):
        for begin, end in curves.idle:
            axes.axvspan(begin, end, color="#f0f0f0", zorder=0, linewidth=0)
        for begin in curves.begins[1:]:
            axes.axvline(begin, color="black", linewidth=1)
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    memory.set_xlim(0, curves.edges[-1])
    memory.set_xlabel(
        "seconds at work"
        + (", sessions one after another" if len(profile.sessions) > 1 else "")
        + "; grey: starting and finishing"
    )
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=120)
    write_atomic(file, sink.getvalue())


def _words(profile: Profile) -> str:
    """The last session in a line."""
    last = profile.sessions[-1]
    told = [f"{last.rows} rows in {duration(last.seconds)}"]
    if last.rows_a_second:
        told.append(f"{last.rows_a_second:.0f}/s while at work")
    if last.waited is not None:
        told.append(f"actors waited {last.waited:.0%}")
    if last.limit:
        told.append(f"limit: {last.limit}")
    if last.errors:
        told.append(f"errors in {sum(last.errors.values())} rows")
    name = f"session {last.session}, {last.outcome}: " if len(profile.sessions) > 1 else ""
    return name + ", ".join(told)


def _draw_rates(axes: Any, profile: Profile) -> None:
    curves = profile.curves
    axes.stairs(curves.rates, curves.edges, fill=True, color=COLOURS["forward"], alpha=0.25)
    axes.stairs(curves.rates, curves.edges, color=COLOURS["forward"], linewidth=1.2)
    axes.set_ylabel("rows answered a second")
    top = max(float(curves.rates.max()), 1e-9)
    if curves.troubles:
        axes.plot(
            curves.troubles,
            np.full(len(curves.troubles), 0.03 * top),
            "v",
            color=_TROUBLE,
            label="answered again",
        )
        axes.legend(loc="upper right", frameon=False)
    if 1 < len(profile.sessions) <= _NAMED_SESSIONS:
        for told, begin in zip(profile.sessions, curves.begins, strict=True):
            axes.text(
                begin,
                1.02,
                f" {told.session}: {told.outcome}",
                transform=axes.get_xaxis_transform(),
                fontsize=8,
            )


def _draw_busy(axes: Any, profile: Profile) -> None:
    curves = profile.curves
    below = np.zeros(len(curves.edges) - 1)
    for name, values in curves.busy.items():
        axes.stairs(
            below + values, curves.edges, baseline=below, fill=True, color=COLOURS[name], label=name
        )
        below = below + values
    actors = max(told.actors for told in profile.sessions)
    axes.axhline(actors, color="black", linestyle=":", label=f"{actors} actors")
    axes.set_ylabel("processes at work")
    axes.legend(loc="upper left", ncols=5, frameon=False)
    axes.set_ylim(top=1.3 * max(actors, float(below.max())))


def _draw_memory(axes: Any, profile: Profile) -> None:
    for name, (times, sizes) in profile.curves.memory.items():
        marker = "." if len(times) < 40 else None
        axes.plot(times, sizes / 2**20, color=COLOURS[name], marker=marker, linewidth=1, label=name)
    axes.set_ylabel("MiB a process")
    axes.legend(loc="upper left", ncols=5, frameon=False)
    axes.set_ylim(top=1.3 * axes.get_ylim()[1])
