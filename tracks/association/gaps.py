"""Gaps far beyond the rhythm of a sequence, such as the day between two nights.

The rhythm is what the sequence itself shows. A gap is beyond it where it is more than ten times as
long as every shorter step, and rare: the only one, or fewer than one step in six (one in twenty where
such gaps are themselves of all lengths). So the hours between the bursts of a camera that is triggered by
motion are its rhythm, and so are steps that grow from seconds to hours without a jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from index.vectors import Floats, Ints
from tracks.association.frames import frame_step

JUMP = 10
"""A gap beyond the rhythm is more than so many times as long as every shorter step."""

HABIT = 1 / 6
"""Gaps that are this share of all steps, or more, are part of the rhythm."""

_IRREGULAR_HABIT = 1 / 20  # as HABIT, of gaps of which the longest is JUMP times the shortest
_LEAST_STEPS = 3
# Shorter steps count as this. Many clocks do not know parts of a second; and where a frame without
# detections is not known, some of them are missing in every sequence.
_LEAST_SECONDS, _LEAST_FRAMES = 1.0, 5.0


def longest_usual(steps: Floats | Sequence[float], *, least: float = _LEAST_SECONDS) -> float:
    """The longest step that belongs to the rhythm; infinite where all do, or too few are known.

    Args:
        steps: times between neighbouring frames in seconds, all above 0.
        least: shorter steps count as this.
    """
    ordered = np.sort(np.maximum(np.asarray(steps, dtype=np.float64), least))
    count = len(ordered)
    if count < _LEAST_STEPS:
        return np.inf
    usual = (count - 1) // 2
    jumps = usual + np.flatnonzero(ordered[usual + 1 :] > JUMP * ordered[usual:-1])
    for last in jumps.tolist():
        longer = ordered[last + 1 :]
        irregular = longer[-1] >= JUMP * longer[0]
        if len(longer) == 1 or len(longer) / count < (_IRREGULAR_HABIT if irregular else HABIT):
            return float(ordered[last])
    return np.inf


def sessions(frames: Ints, seconds: Floats, *, max_gap_frames: int) -> list[slice]:
    """The parts of a sequence between gaps that are beyond its rhythm; one where there are none.

    Args:
        frames: frame number of each detection ``[N]``, never falling.
        seconds: time of each detection ``[N]``, NaN where none is known. A step is taken between
            neighbouring frames whose times are known, and rise; where no time is known, frame
            numbers count instead.
        max_gap_frames: frames that may be missing; so many are never beyond the rhythm of numbers.

    Returns:
        Slices of the detections, in order.
    """
    first = np.flatnonzero(np.diff(frames, prepend=frames[:1] - 1))
    if np.isnan(seconds).all():
        steps = np.diff(frames[first]) / frame_step(frames)
        usual = longest_usual(steps, least=_LEAST_FRAMES)
        beyond = steps > max(usual, max_gap_frames + 1)
    else:
        steps = np.diff(seconds[first])
        known = steps > 0  # not NaN, nor of one moment, nor a clock that was put back
        beyond = known & (steps > longest_usual(steps[known]))
    edges = [0, *first[1:][beyond].tolist(), len(frames)]
    return [slice(start, stop) for start, stop in pairwise(edges)]
