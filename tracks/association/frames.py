"""Numbers of the frames of one sequence: their usual step, and the rows of each."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from index.vectors import Ints


def frame_step(frames: Ints) -> int:
    """The usual distance of neighbouring frames: 5 for a clip sampled every fifth frame.

    Gaps are counted in this step, so that "one frame missing" means the same for a sampled clip
    and a numbered folder. The smaller of two equally frequent distances counts.
    """
    distances = np.diff(np.unique(frames))
    if not len(distances):
        return 1
    values, counts = np.unique(distances, return_counts=True)
    return int(values[counts.argmax()])


def by_frame(frames: Ints) -> list[slice]:
    """Slices of neighbouring rows that have the same number, one for each frame."""
    edges = np.r_[0, np.flatnonzero(np.diff(frames)) + 1, len(frames)]
    return [slice(a, b) for a, b in pairwise(edges.tolist()) if b > a]
