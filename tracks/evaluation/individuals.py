"""What became of each individual of a truth: found, switched, and the track that has most of it.

Boxes are matched as CLEAR matches them, so that the columns add up to its totals: at an IoU of 0.5
or more, the track of the frame before first, then the largest overlap in all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.optimize import linear_sum_assignment

from index.vectors import Floats, Ints
from tracks.boxes import TrackBoxes
from tracks.evaluation.scores import by_frame

_SAME_BOX = 0.5
_ROUNDING = np.finfo(np.float64).eps
_CONTINUES = 1000  # added to the overlap with the track of the frame before


@dataclass(frozen=True)
class Individual:
    """One individual of a truth, in the evaluated frames."""

    individual: int  # its id in the truth
    boxes: int  # its true boxes
    found: int  # those of them that a track has a box on
    track: str | None  # the track that found most of them; None where none did
    share: float  # of its boxes that this track found, 0 to 1
    switches: int  # times that it continues in another track
    fragmentations: int  # times that it is found again after it was missed


@dataclass
class _History:
    """What has happened to an individual so far."""

    boxes: int = 0
    found_by: Counter[int] = field(default_factory=Counter)  # boxes by track
    last: int | None = None  # the track that found it last
    switches: int = 0
    times_found: int = 0  # after a frame in which it was not


def trace_individuals(
    truth: TrackBoxes, tracked: TrackBoxes, names: Mapping[int, str]
) -> list[Individual]:
    """Trace each individual of a truth through the tracks.

    Args:
        truth: true boxes; their ids are those of individuals.
        tracked: boxes in tracks.
        names: name of each track by its id.

    Returns:
        One entry for each individual: the smallest share first, then the most switches.

    Raises:
        InputError: the evaluator is not installed.
    """
    histories = {individual: _History() for individual in np.unique(truth.ids).tolist()}
    before: dict[int, int] = {}  # track by individual, in the last frame that has both kinds
    for true_ids, ids, overlaps in by_frame(truth, tracked):
        for individual in true_ids.tolist():
            histories[individual].boxes += 1
        if not (len(ids) and len(true_ids)):
            continue  # as in CLEAR, such a frame interrupts nothing
        now = dict(_matches(true_ids, ids, overlaps, before))
        for individual, track in now.items():
            history = histories[individual]
            history.found_by[track] += 1
            history.switches += history.last not in (None, track)
            history.times_found += individual not in before
            history.last = track
        before = now
    found = (_summary(individual, history, names) for individual, history in histories.items())
    return sorted(found, key=lambda one: (one.share, -one.switches, one.individual))


def _matches(
    true_ids: Ints, ids: Ints, overlaps: Floats, before: Mapping[int, int]
) -> Iterator[tuple[int, int]]:
    """Individuals and their tracks in one frame."""
    previous = np.array([before.get(individual, -1) for individual in true_ids.tolist()])
    score = overlaps + _CONTINUES * (ids[None] == previous[:, None])
    score[overlaps < _SAME_BOX - _ROUNDING] = 0
    for row, column in zip(*linear_sum_assignment(-score), strict=True):
        if score[row, column] > 0:
            yield int(true_ids[row]), int(ids[column])


def _summary(individual: int, history: _History, names: Mapping[int, str]) -> Individual:
    track, most = next(iter(history.found_by.most_common(1)), (None, 0))
    return Individual(
        individual=individual,
        boxes=history.boxes,
        found=history.found_by.total(),
        track=None if track is None else names[track],
        share=most / history.boxes,
        switches=history.switches,
        fragmentations=max(history.times_found - 1, 0),
    )
