"""How the camera moved over a sequence whose detections are in memory, and what to say about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from index.vectors import Floats, Ints
from tracks.association.frames import by_frame, frame_step
from tracks.association.shift import LEAST_DETECTIONS, Shift, find_shift, usual_move

_STEADY = 0.7  # of the frames, in which a camera that never stands still must be seen to move
_LOOKED_AT = 20  # frames, to see whether it may be one
_NOTES = 5  # moves of a sequence that are named
_OFTEN = 0.1  # of the frames; more moves are no nudges, and are summed up


class CameraMove(NamedTuple):
    """A shift, and the frames between which it happened."""

    before: int  # number of the earlier frame
    frame: int  # number of the later one
    shift: Shift


@dataclass(frozen=True)
class CameraMotion:
    """How the picture moved over one sequence of F frames."""

    frames: Ints  # their numbers, rising [F]
    # Of each frame against the first one, in pixels; 0 where nothing is known [F, 2].
    shifts: Floats
    moves: tuple[CameraMove, ...]  # where it moved

    def steady_boxes(self, frames: Ints, boxes: Floats) -> Floats:
        """Boxes as the camera would have seen them had it stood still, where it began.

        Args:
            frames: frame number of each detection ``[N]``, each one of ``self.frames``.
            boxes: ``[N, 4]`` in pixels.
        """
        shifts = self.shifts[np.searchsorted(self.frames, frames)]
        steady: Floats = boxes - np.tile(shifts, 2)
        return steady


def camera_motion(frames: Ints, boxes: Floats, embeddings: Floats) -> CameraMotion:
    """How the camera moved over one sequence, all of whose detections are in memory.

    A frame is compared with the last one that has ``LEAST_DETECTIONS``. Where either has fewer,
    the detections cannot tell, and the camera is taken to stand still.

    Args:
        frames: frame number of each detection ``[N]``, never falling.
        boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels, finite.
        embeddings: ``[N, D]``, whose dot product is their similarity: centred, of unit length.
    """
    parts = by_frame(frames)
    numbers = frames[[rows.start for rows in parts]]
    told = [at for at, rows in enumerate(parts) if rows.stop - rows.start >= LEAST_DETECTIONS]
    pairs = list(pairwise(told))
    steps = np.array([numbers[b] - numbers[a] for a, b in pairs]) / frame_step(frames)
    own = np.array([usual_move(boxes[parts[a]], boxes[parts[b]]) for a, b in pairs]) / steps
    usual = _of_others(own)

    def find(pair: int, *, known: bool) -> Shift | None:
        before, after = (parts[at] for at in pairs[pair])
        return find_shift(
            boxes[before],
            boxes[after],
            lambda rows: embeddings[before][rows] @ embeddings[after].T,
            usual_px=float(usual[pair] * steps[pair]) if known else np.nan,
        )

    found = [find(pair, known=True) for pair in range(len(pairs))]
    some = range(0, len(pairs), max(1, len(pairs) // _LOOKED_AT))
    moving = [find(pair, known=False) is not None for pair in some]
    if len(moving) >= LEAST_DETECTIONS and np.mean(moving) >= _STEADY:
        found = [find(pair, known=False) or shift for pair, shift in enumerate(found)]
    shifts = np.zeros((len(parts), 2))
    moves = []
    for (before, after), shift in zip(pairs, found, strict=True):
        if shift is not None:
            first = _first_moved([boxes[rows] for rows in parts[before:after]], shift)
            shifts[before + first :] += shift[:2]
            moves.append(CameraMove(int(numbers[before]), int(numbers[after]), shift))
    return CameraMotion(numbers, shifts, tuple(moves))


def move_notes(name: str, moves: Sequence[CameraMove], frames: int) -> list[str]:
    """What to say about the moves of a camera, in a few lines.

    Args:
        name: of the sequence.
        moves: in order.
        frames: number of frames of the sequence.
    """
    lengths = [float(np.hypot(move.shift.dx, move.shift.dy)) for move in moves]
    if len(moves) > max(_NOTES, _OFTEN * frames):
        return [
            f"sequence {name!r}: between {len(moves)} of {frames - 1} neighbouring frames most "
            f"detections moved alike, by up to {max(lengths):.0f} pixels: the camera moves, or a "
            "flock; it was taken out"
        ]
    notes = [
        f"sequence {name!r}: the camera moved by about {length:.0f} pixels between frames "
        f"{move.before} and {move.frame}; it was taken out"
        for move, length in zip(moves[:_NOTES], lengths, strict=False)
    ]
    if len(moves) > _NOTES:
        notes.append(f"sequence {name!r}: the camera moved {len(moves) - _NOTES} more times")
    return notes


def _first_moved(boxes: list[Floats], shift: Shift) -> int:
    """Number of the first of some frames that a shift has moved, which happened after frame 0.

    Args:
        boxes: of the frames; all but frame 0 have too few detections to find a shift.
        shift: as it was found between frame 0 and the frame after these.
    """
    start, moved = boxes[0], boxes[0] + np.tile(shift[:2], 2)
    for number, later in enumerate(boxes[1:], 1):
        if usual_move(moved, later) < usual_move(start, later):
            return number
    return len(boxes)


def _of_others(own: Floats) -> Floats:
    """Of each value the lower median of all the others; NaN where there are fewer than three."""
    count = len(own)
    if count < 4:
        return np.full(count, np.nan)
    order = np.argsort(own, kind="stable")
    rank = np.empty(count, dtype=np.int64)
    rank[order] = np.arange(count)
    middle = (count - 2) // 2
    others: Floats = own[order[middle + (rank <= middle)]]
    return others
