"""The tracks that may still continue, as arrays with one entry per track."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index.vectors import Floats, Ints

Bools = npt.NDArray[np.bool_]

LEAST_MOVING = 3
"""Tracks of two detections or more that say how far individuals usually move."""


class FrameDetections(NamedTuple):
    """N detections of one frame."""

    frame: int  # its number
    seconds: float  # its time; NaN if unknown
    row: Ints  # number of each detection, counted over the sequence [N]
    box: Floats  # [N, 4] in pixels
    embedding: npt.NDArray[np.float32]  # [N, D] float32, L1-normalised

    def select(self, rows: Ints) -> FrameDetections:
        """The detections at ``rows``."""
        return self._replace(row=self.row[rows], box=self.box[rows], embedding=self.embedding[rows])


@dataclass(frozen=True)
class OpenTracks:
    """Ends of M tracks. Everything a later frame needs is here, so this is all that is saved."""

    # Number of the track [M]; it occurs twice only where two detections claimed one predecessor
    # (cheapest).
    track: Ints
    row: Ints  # number of its last detection, counted over the sequence
    position: Ints  # of that detection in the track
    frame: Ints  # of that detection
    seconds: Floats  # its time; NaN if unknown
    box: Floats  # [M, 4] its box, in pixels
    velocity: Floats  # [M, 2] movement of its centre in one frame step, in pixels
    # [M, K, D] float32, L1-normalised embeddings it is compared by; zero in the slots that are
    # not filled yet.
    appearance: npt.NDArray[np.float32]
    filled: Ints  # number of embeddings that the track has stored so far

    @classmethod
    def empty(cls, *, embeddings_kept: int, dim: int) -> OpenTracks:
        """No track yet."""
        rows, embedding = np.empty(0, dtype=np.int64), np.empty((0, dim), dtype=np.float32)
        nothing = FrameDetections(0, np.nan, rows, np.empty((0, 4)), embedding)
        return new_tracks(rows, nothing, embeddings_kept=embeddings_kept)

    def __len__(self) -> int:
        return len(self.track)

    @property
    def embeddings(self) -> npt.NDArray[np.float32]:
        """What they are compared by: ``[M, D]`` where one is kept, else ``[M, K, D]``."""
        return self.appearance[:, 0] if self.appearance.shape[1] == 1 else self.appearance

    def steps_to(self, frame: int, frame_step: int) -> Floats:
        """Frame steps from each one's last detection to a later frame, at least 1 ``[M]``."""
        steps: Floats = np.maximum(np.rint((frame - self.frame) / frame_step), 1)
        return steps

    def select(self, rows: Bools | Ints) -> OpenTracks:
        """The tracks of a mask or at positions."""
        return OpenTracks(**{name: column[rows] for name, column in vars(self).items()})

    def moved(self, dx: float, dy: float) -> OpenTracks:
        """The tracks after the camera moved, which moved the picture by so many pixels."""
        return replace(self, box=self.box + np.array([dx, dy, dx, dy]))

    def scaled(self, x: float, y: float) -> OpenTracks:
        """The tracks in an image that is ``x`` times as wide and ``y`` times as high."""
        factors = np.array([x, y])
        return replace(self, box=self.box * np.tile(factors, 2), velocity=self.velocity * factors)

    def latest(self, rows: Ints) -> npt.NDArray[np.float32]:
        """The embeddings that the tracks at ``rows`` stored last; the averages where those are kept."""
        slots = self.appearance.shape[1]
        stored: npt.NDArray[np.float32] = self.appearance[rows, (self.filled[rows] - 1) % slots]
        return stored

    def usual_move(self, steps: Floats) -> float:
        """Median distance that they move until a later frame, in pixels; NaN if too few have moved.

        Args:
            steps: frame steps from each one's last detection to that frame ``[M]``.
        """
        moving = self.position > 0
        if np.count_nonzero(moving) < LEAST_MOVING:
            return float("nan")
        speed = np.hypot(self.velocity[:, 0], self.velocity[:, 1])
        return float(np.median((speed * steps)[moving]))

    @classmethod
    def concatenate(cls, parts: list[OpenTracks]) -> OpenTracks:
        """All of them, one after the other; ``parts`` has at least one."""
        filled = [part for part in parts if len(part)] or parts[:1]
        if len(filled) == 1:
            return filled[0]
        columns = map(vars, filled)
        return cls(*map(np.concatenate, zip(*(column.values() for column in columns), strict=True)))

    def extended(self, detections: FrameDetections, *, steps: Floats, memory: float) -> OpenTracks:
        """The M tracks after each was continued by one of M detections.

        Args:
            detections: M of one frame.
            steps: frame steps since each track's last detection ``[M]``.
            memory: share of the old average that is kept, where one embedding is kept; 0 to 1.
        """
        new, slots = detections.embedding, self.appearance.shape[1]
        if slots == 1:
            average = np.float32(memory) * self.appearance[:, 0] + np.float32(1 - memory) * new
            # Opposite embeddings can cancel out to zero; then only the new one is kept.
            cancelled = ~average.any(axis=1)
            average[cancelled] = new[cancelled]
            appearance = average[:, None, :]
        else:
            appearance = self.appearance.copy()
            appearance[np.arange(len(self)), self.filled % slots] = new
        moved = (_centres(detections.box) - _centres(self.box)) / steps[:, None]
        first = self.position == 0
        return replace(
            self,
            row=detections.row,
            position=self.position + 1,
            frame=np.full(len(self), detections.frame, dtype=np.int64),
            seconds=np.full(len(self), detections.seconds),
            box=detections.box,
            velocity=np.where(first[:, None], moved, (self.velocity + moved) / 2),
            appearance=appearance,
            filled=self.filled + 1,
        )

    def within_gate(
        self, boxes: Floats, steps: Floats, gate: float, pairs: tuple[Ints, Ints] | None = None
    ) -> Bools:
        """Whether boxes lie where the tracks' motion predicts them.

        Args:
            boxes: ``[N, 4]`` in pixels.
            steps: frame steps since each track's last detection ``[M]``.
            gate: largest distance, in diagonals of the track's last box for each step.
            pairs: positions of (track, box), ``[P]`` each, to test these alone.

        Returns:
            ``[M, N]``, or ``[P]`` with ``pairs``.
        """
        expected = _centres(self.box) + self.velocity * steps[:, None]
        sides = self.box[:, 2:] - self.box[:, :2]
        reach = gate * np.hypot(sides[:, 0], sides[:, 1]) * steps
        centres = _centres(boxes)
        if pairs is None:
            offset, reach = centres[None] - expected[:, None], reach[:, None]
        else:
            offset, reach = centres[pairs[1]] - expected[pairs[0]], reach[pairs[0]]
        within: Bools = np.hypot(offset[..., 0], offset[..., 1]) <= reach
        return within


def new_tracks(track: Ints, detections: FrameDetections, *, embeddings_kept: int) -> OpenTracks:
    """Tracks that start with one detection each.

    Args:
        track: their numbers ``[N]``.
        detections: N of one frame.
        embeddings_kept: slots for embeddings of each track.
    """
    count = len(track)
    slots = np.zeros((count, embeddings_kept, detections.embedding.shape[1]), dtype=np.float32)
    slots[:, 0] = detections.embedding
    return OpenTracks(
        track=track,
        row=detections.row,
        position=np.zeros(count, dtype=np.int64),
        frame=np.full(count, detections.frame, dtype=np.int64),
        seconds=np.full(count, detections.seconds),
        box=detections.box,
        velocity=np.zeros((count, 2)),
        appearance=slots,
        filled=np.ones(count, dtype=np.int64),
    )


def _centres(boxes: Floats) -> Floats:
    centres: Floats = (boxes[:, :2] + boxes[:, 2:]) / 2
    return centres
