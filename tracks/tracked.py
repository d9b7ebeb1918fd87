"""Boxes with identities as arrays: what is judged, drawn and exported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from index.vectors import Floats, Ints


@dataclass(frozen=True)
class TrackBoxes:
    """Boxes with identities of one sequence, one entry a box, in any order.

    Attributes:
        frames: frame number ``[N]``.
        ids: number of the individual, or of the track, ``[N]``; once a frame.
        boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels.
    """

    frames: Ints
    ids: Ints
    boxes: Floats

    def at(self, frames: Ints) -> TrackBoxes:
        """What stands in these frames."""
        here = np.isin(self.frames, frames)
        return TrackBoxes(self.frames[here], self.ids[here], self.boxes[here])

    def repeated(self) -> tuple[int, int] | None:
        """Frame and id of the first that stands twice in its frame; None where all are alone."""
        pairs, counts = np.unique(
            np.column_stack([self.frames, self.ids]), axis=0, return_counts=True
        )
        twice = pairs[counts > 1]
        return (int(twice[0, 0]), int(twice[0, 1])) if len(twice) else None
