"""Boxes with identities as arrays: what is evaluated, drawn and exported."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.vectors import Floats, Ints


@dataclass(frozen=True)
class TrackBoxes:
    """Boxes with identities of one sequence, N in any order."""

    frames: Ints  # frame number [N]
    ids: Ints  # number of the individual, or of the track, [N]; once per frame
    boxes: Floats  # [N, 4] as x1, y1, x2, y2 in pixels

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


def unique_per_frame(frames: Ints, tracks: Ints, cost: npt.NDArray[np.floating]) -> Ints:
    """Track numbers such that each occurs once in a frame.

    The preset ``ami`` lets two detections of a frame continue one track. Evaluators and track files
    allow one box per frame: the cheapest stays in the track, and the second, third, … of
    all frames make up tracks of their own, numbered after all others.

    Args:
        frames: of each detection ``[N]``.
        tracks: number of its track, from 0 ``[N]``.
        cost: of its link ``[N]``; NaN where the track starts.

    Returns:
        The new numbers ``[N]``.
    """
    numbers = tracks.astype(np.int64)
    added: dict[tuple[int, int], int] = {}  # number of the new track by ((track, place))
    places: dict[tuple[int, int], int] = {}  # so far, by (frame, track)
    next_number = int(numbers.max(initial=-1)) + 1
    for row in np.lexsort([np.nan_to_num(cost), frames]).tolist():
        key = (int(frames[row]), int(tracks[row]))
        places[key] = place = places.get(key, 0) + 1
        if place > 1:
            numbers[row] = added.setdefault((key[1], place), next_number + len(added))
    return numbers
