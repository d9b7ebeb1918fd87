"""Goes through the frames of one sequence, and says of each detection which one it continues.

A ``Linker`` takes one frame at a time and keeps only the ends of open tracks, so that a whole
season, or a camera that is still filming, needs no more memory than its busiest minutes. Tracks
lost a few frames ago compete in the same assignment as live ones.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from common.errors import InputError
from index.vectors import Floats, Ints, l1_normalise
from tracks.association.decide import MAX_PAIRS, decide
from tracks.association.options import PRESETS, TERMS, LinkOptions
from tracks.association.state import FrameDetections, OpenTracks, new_tracks


@dataclass(frozen=True)
class Links:
    """What was decided of N detections, one entry each in the order given.

    Attributes:
        track: number of its track, from 0 in order of their start; -1 for a weak detection that
            no track took.
        position: in the track, from 0; -1 without a track.
        previous: number of the detection it continues, counted over the sequence; -1 for none.
        cost, terms, margin: of that link, ``[N]``, ``[N, 4]`` in the order of ``TERMS``, ``[N]``
            as in ``assign.margins``; NaN where there is none.
    """

    track: Ints
    position: Ints
    previous: Ints
    cost: Floats
    terms: Floats
    margin: Floats

    @classmethod
    def unlinked(cls, count: int) -> Links:
        """``count`` detections of which nothing is known yet."""
        number, cost = np.full(count, -1, dtype=np.int64), np.full(count, np.nan)
        terms = np.full((count, len(TERMS)), np.nan)
        return cls(number, number.copy(), number.copy(), cost, terms, cost.copy())

    @classmethod
    def joined(cls, parts: list[Links]) -> Links:
        """The frames of one sequence after each other."""
        return cls(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(cls)))


class Linker:
    """Links one sequence, frame by frame.

    Args:
        dim: length of an embedding.
        options: default ``PRESETS["default"]``.
        frame_step: how far apart neighbouring frames are numbered; gaps are counted in it.
        max_pairs: of open tracks and detections; more are not enumerated, but looked for with
            ``candidates``, where the assignment is optimal.
    """

    def __init__(
        self,
        dim: int,
        options: LinkOptions | None = None,
        *,
        frame_step: int = 1,
        max_pairs: int = MAX_PAIRS,
    ) -> None:
        self.options = options or PRESETS["default"]
        self.frame_step = frame_step
        self.open = OpenTracks.none(looks_kept=self.options.looks_kept, dim=dim)
        self.tracks = 0  # started so far
        self.rows = 0  # seen so far
        self._max_pairs = max_pairs

    def restore(self, tracks: OpenTracks, *, started: int, rows: int) -> None:
        """Go on where another linker with the same options stood."""
        self.open, self.tracks, self.rows = tracks, started, rows

    def step(
        self,
        frame: int,
        boxes: Floats,
        looks: npt.NDArray[np.float32],
        *,
        diagonal_px: float,
        seconds: float = float("nan"),
        scores: npt.NDArray[np.floating] | None = None,
    ) -> Links:
        """Link the N detections of the next frame.

        Args:
            frame: later than any before.
            boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels.
            looks: ``[N, D]`` L1-normalised embeddings, none zero.
            diagonal_px: of the image.
            seconds: when it was taken; needed for ``max_gap_seconds``.
            scores: of the detections, for ``strong_score``; NaN counts as strong.
        """
        self._close(frame, seconds)
        made = Links.unlinked(len(boxes))
        seen = FrameDetections(frame, seconds, self.rows + np.arange(len(boxes)), boxes, looks)
        weak = np.zeros(len(boxes), dtype=bool)
        if self.options.strong_score is not None and scores is not None:
            weak = np.asarray(scores) < self.options.strong_score
        ends, now = self.open, []
        for chosen in (np.flatnonzero(~weak), np.flatnonzero(weak)):
            if not (len(chosen) and len(ends)):
                continue
            steps = ends.steps_to(frame, self.frame_step)
            decided = decide(
                ends,
                boxes[chosen],
                looks[chosen],
                steps=steps,
                diagonal_px=diagonal_px,
                options=self.options,
                max_pairs=self._max_pairs,
            )
            mine = decided.earlier
            rows, continued = chosen[decided.later], ends.keep(mine)
            made.track[rows] = continued.track
            made.position[rows] = continued.position + 1
            made.previous[rows] = continued.row
            made.cost[rows] = decided.cost
            made.terms[rows] = decided.terms
            made.margin[rows] = decided.margin
            now.append(
                continued.extended(
                    seen.at(rows), steps=steps[mine], memory=self.options.look_memory
                )
            )
            free = np.ones(len(ends), dtype=bool)
            free[mine] = False
            ends = ends.keep(free)
        new = np.flatnonzero(~weak & (made.previous < 0))
        made.track[new] = np.arange(self.tracks, self.tracks + len(new))
        made.position[new] = 0
        first = new_tracks(made.track[new], seen.at(new), looks_kept=self.options.looks_kept)
        self.tracks += len(new)
        self.rows += len(boxes)
        self.open = OpenTracks.joined([ends, *now, first])
        return made

    def _close(self, frame: int, seconds: float) -> None:
        """Forget tracks that have been missing for too long."""
        options = self.options
        near = self.open.steps_to(frame, self.frame_step) <= options.max_gap_frames + 1
        if options.max_gap_seconds is not None:
            near &= seconds - self.open.seconds <= options.max_gap_seconds
        if not near.all():
            self.open = self.open.keep(near)


def frame_step(frames: Ints) -> int:
    """The usual distance of neighbouring frames: 5 for a clip sampled every fifth frame.

    Gaps are counted in this step, so that a sampled clip and a numbered folder mean the same
    by "one frame missing". The smaller of two equally frequent distances counts.
    """
    distances = np.diff(np.unique(frames))
    if not len(distances):
        return 1
    values, counts = np.unique(distances, return_counts=True)
    return int(values[counts.argmax()])


def link(
    frames: Ints,
    boxes: npt.NDArray[np.floating],
    embeddings: npt.NDArray[np.floating],
    *,
    diagonal_px: float | Floats,
    seconds: Floats | None = None,
    scores: npt.NDArray[np.floating] | None = None,
    options: LinkOptions | None = None,
) -> Links:
    """Link all the detections of one sequence, that are in memory.

    Args:
        frames: frame number of each detection ``[N]``, never falling.
        boxes: ``[N, 4]`` in pixels, no NaN (a detection without a box spans its image).
        embeddings: ``[N, D]`` of any scale.
        diagonal_px: image diagonal, one for all or one per detection.
        seconds: time of each detection; needed for ``max_gap_seconds``.
        scores: of each detection, for ``strong_score``.
        options: default ``PRESETS["default"]``.

    Raises:
        InputError: ``max_gap_seconds`` without times that rise; an embedding that is zero or not
            finite, named by its number.
        ValueError: frames out of order, or boxes that are not finite.
    """
    if (np.diff(frames) < 0).any():
        raise ValueError("frames must not fall; sort the detections by frame")
    if not np.isfinite(boxes).all():
        raise ValueError("boxes must be finite; leave failed rows out")
    linker = Linker(embeddings.shape[1], options, frame_step=frame_step(frames))
    require_times(seconds, len(frames), linker.options)
    looks = l1_normalise(embeddings, [str(row) for row in range(len(frames))])
    diagonals = np.broadcast_to(np.asarray(diagonal_px, dtype=np.float64), len(frames))
    parts = [Links.unlinked(0)]
    for rows in by_frame(frames):
        parts.append(
            linker.step(
                int(frames[rows.start]),
                np.asarray(boxes[rows], dtype=np.float64),
                looks[rows],
                diagonal_px=float(diagonals[rows.start]),
                seconds=float("nan") if seconds is None else float(seconds[rows.start]),
                scores=None if scores is None else scores[rows],
            )
        )
    return Links.joined(parts)


def require_times(seconds: Floats | None, count: int, options: LinkOptions) -> None:
    """See that a gap in seconds can be measured in a sequence of ``count`` detections.

    Raises:
        InputError: it is wanted, and times are missing or fall from one frame to a later one.
    """
    if options.max_gap_seconds is None:
        return
    wanted = f"max_gap_seconds is {options.max_gap_seconds:g} but"
    missing = count if seconds is None else int(np.isnan(seconds).sum())
    if seconds is None or missing:
        raise InputError(
            f"{wanted} {missing} of {count} detections have no timestamp; give timestamps or use "
            "max_gap_frames alone"
        )
    falls = int((np.diff(seconds) < 0).sum())
    if falls:
        raise InputError(
            f"{wanted} time runs backwards {falls} times from a frame to the next; correct the "
            "timestamps or frame numbers, or use max_gap_frames alone"
        )


def by_frame(frames: Ints) -> list[slice]:
    """The rows of each frame, or of whatever else has one number in neighbouring rows."""
    edges = np.r_[0, np.flatnonzero(np.diff(frames)) + 1, len(frames)]
    return [slice(a, b) for a, b in pairwise(edges.tolist()) if b > a]
