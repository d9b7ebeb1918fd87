"""Boxes with identities as arrays: what is evaluated, drawn and exported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from index.vectors import Floats, Ints


@dataclass(frozen=True)
class TrackBoxes:
    """Boxes with identities of one sequence, N in any order.

    Attributes:
        frames: frame number ``[N]``.
        ids: number of the individual, or of the track, ``[N]``; once per frame.
        boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels.
    """

    frames: Ints
    ids: Ints
    boxes: Floats

    def at(self, frames: Ints) -> TrackBoxes:
        """The boxes in these frames."""
        inside = np.isin(self.frames, frames)
        return TrackBoxes(self.frames[inside], self.ids[inside], self.boxes[inside])

    def first_duplicate(self) -> tuple[int, int] | None:
        """Frame and id of the first id that occurs twice in its frame; None if there is none."""
        pairs, counts = np.unique(
            np.column_stack([self.frames, self.ids]), axis=0, return_counts=True
        )
        duplicates = pairs[counts > 1]
        return (int(duplicates[0, 0]), int(duplicates[0, 1])) if len(duplicates) else None
