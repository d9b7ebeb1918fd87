"""What is known of the tracks that may still go on: arrays with one entry a track."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index.vectors import Floats, Ints

Bools = npt.NDArray[np.bool_]


class FrameDetections(NamedTuple):
    """N detections of one frame.

    ``row`` is their number, counted over the sequence ``[N]``; ``seconds`` is NaN if unknown;
    ``box`` is ``[N, 4]``; ``looks`` is ``[N, D]``, L1-normalised.
    """

    frame: int
    seconds: float
    row: Ints
    box: Floats
    looks: npt.NDArray[np.float32]

    def at(self, chosen: Ints) -> FrameDetections:
        """Those at some positions."""
        return self._replace(row=self.row[chosen], box=self.box[chosen], looks=self.looks[chosen])


@dataclass(frozen=True)
class OpenTracks:
    """Ends of M tracks. Everything a later frame needs is here, so this is all that is saved.

    Attributes:
        track: number of the track ``[M]``; it stands twice only where two detections claimed
            one predecessor (``cheapest``).
        row: number of its last detection, counted over the sequence.
        position: of that detection in the track.
        frame: of that detection.
        seconds: its time; NaN where none is known.
        box: ``[M, 4]`` its box, in pixels.
        velocity: ``[M, 2]`` what its centre moves in one frame step, in pixels.
        looks: ``[M, K, D]`` L1-normalised embeddings it is compared by; zero where there are
            fewer than K yet.
        filled: how many of the K there are.
    """

    track: Ints
    row: Ints
    position: Ints
    frame: Ints
    seconds: Floats
    box: Floats
    velocity: Floats
    looks: npt.NDArray[np.float32]
    filled: Ints

    @classmethod
    def none(cls, *, looks_kept: int, dim: int) -> OpenTracks:
        """No track yet."""
        numbers, reals = np.empty(0, dtype=np.int64), np.empty(0)
        return cls(
            track=numbers,
            row=numbers,
            position=numbers,
            frame=numbers,
            seconds=reals,
            box=np.empty((0, 4)),
            velocity=np.empty((0, 2)),
            looks=np.empty((0, looks_kept, dim), dtype=np.float32),
            filled=numbers,
        )

    def __len__(self) -> int:
        return len(self.track)

    @property
    def remembered(self) -> npt.NDArray[np.float32]:
        """What they are compared by: ``[M, D]`` where one look is kept, else ``[M, K, D]``."""
        return self.looks[:, 0] if self.looks.shape[1] == 1 else self.looks

    def steps_to(self, frame: int, frame_step: int) -> Floats:
        """Frame steps from each one's last detection to a later frame, at least 1 ``[M]``."""
        steps: Floats = np.maximum(np.rint((frame - self.frame) / frame_step), 1)
        return steps

    def keep(self, chosen: Bools | Ints) -> OpenTracks:
        """Those of a mask or of positions."""
        return OpenTracks(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    @classmethod
    def joined(cls, parts: list[OpenTracks]) -> OpenTracks:
        """All of them, one after the other; ``parts`` has at least one."""
        some = [part for part in parts if len(part)] or parts[:1]
        if len(some) == 1:
            return some[0]
        return cls(
            **{f.name: np.concatenate([getattr(p, f.name) for p in some]) for f in fields(cls)}
        )

    def arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """By name, to be saved; ``OpenTracks(**arrays)`` is the same tracks again."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def extended(self, seen: FrameDetections, *, steps: Floats, memory: float) -> OpenTracks:
        """The same M tracks after each was continued by one of M detections.

        Args:
            seen: the detections.
            steps: frame steps since each track's last detection ``[M]``.
            memory: share of the old average that is kept, where one look is kept.
        """
        kept = self.looks.shape[1]
        if kept == 1:
            mixed = np.float32(memory) * self.looks[:, 0] + np.float32(1 - memory) * seen.looks
            # Opposite looks can cancel out to nothing; then only the new one is known.
            mixed[~mixed.any(axis=1)] = seen.looks[~mixed.any(axis=1)]
            remembered = mixed[:, None, :]
        else:
            remembered = self.looks.copy()
            remembered[np.arange(len(self)), self.filled % kept] = seen.looks
        moved = (_centres(seen.box) - _centres(self.box)) / steps[:, None]
        first = self.position == 0
        return replace(
            self,
            row=seen.row,
            position=self.position + 1,
            frame=np.full(len(self), seen.frame, dtype=np.int64),
            seconds=np.full(len(self), seen.seconds),
            box=seen.box,
            velocity=np.where(first[:, None], moved, (self.velocity + moved) / 2),
            looks=remembered,
            filled=self.filled + 1,
        )

    def within_reach(
        self, boxes: Floats, steps: Floats, gate: float, pairs: tuple[Ints, Ints] | None = None
    ) -> Bools:
        """Whether boxes lie within ``gate`` of where tracks were heading, ``[M, N]``.

        The reach is ``gate`` diagonals of the track's last box for each step that passed. With
        ``pairs`` (track, box) only of these, ``[P]``.
        """
        expected = _centres(self.box) + self.velocity * steps[:, None]
        sides = self.box[:, 2:] - self.box[:, :2]
        reach = gate * np.hypot(sides[:, 0], sides[:, 1]) * steps
        centres = _centres(boxes)
        if pairs is None:
            away, reach = centres[None] - expected[:, None], reach[:, None]
        else:
            away, reach = centres[pairs[1]] - expected[pairs[0]], reach[pairs[0]]
        within: Bools = np.hypot(away[..., 0], away[..., 1]) <= reach
        return within


def new_tracks(track: Ints, seen: FrameDetections, *, looks_kept: int) -> OpenTracks:
    """New tracks, numbered ``track``, of one detection each."""
    count = len(track)
    slots = np.zeros((count, looks_kept, seen.looks.shape[1]), dtype=np.float32)
    slots[:, 0] = seen.looks
    return OpenTracks(
        track=track,
        row=seen.row,
        position=np.zeros(count, dtype=np.int64),
        frame=np.full(count, seen.frame, dtype=np.int64),
        seconds=np.full(count, seen.seconds),
        box=seen.box,
        velocity=np.zeros((count, 2)),
        looks=slots,
        filled=np.ones(count, dtype=np.int64),
    )


def _centres(boxes: Floats) -> Floats:
    centres: Floats = (boxes[:, :2] + boxes[:, 2:]) / 2
    return centres
