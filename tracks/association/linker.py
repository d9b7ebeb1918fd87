"""Goes through the frames of one sequence, and finds which earlier detection each one continues.

A ``Linker`` takes one frame at a time and keeps only the ends of open tracks, so that a whole
season, or a camera that is still filming, needs no more memory than its busiest minutes. Tracks
lost a few frames ago compete in the same assignment as live ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from common.errors import InputError
from index.vectors import Floats, Ints, l1_normalise
from tracks.association.assign import MAX_PAIRS, decide
from tracks.association.camera import CameraMove
from tracks.association.frames import by_frame, frame_step
from tracks.association.options import PRESETS, TERMS, LinkOptions
from tracks.association.shift import Shift, centred_similarity, find_shift
from tracks.association.state import FrameDetections, OpenTracks, new_tracks


@dataclass(frozen=True)
class Links:
    """Tracks and links of N detections, one entry each in the order given but in ``others``."""

    # Number of its track, from 0 in order of their start; -1 for a weak detection that is in no
    # track.
    track: Ints
    position: Ints  # in the track, from 0; -1 without a track
    previous: Ints  # number of the detection it continues, counted over the sequence; -1 for none
    cost: Floats  # of that link [N]; NaN where there is none, as in terms and margin
    terms: Floats  # its four unweighted terms [N, 4], in the order of TERMS
    margin: Floats  # [N], as in assign.margins
    # Boxes that hold several: number of the detection, and of another track in it [M, 2].
    others: Ints

    @classmethod
    def unlinked(cls, count: int) -> Links:
        """``count`` detections in no track."""
        number, cost = np.full(count, -1, dtype=np.int64), np.full(count, np.nan)
        terms = np.full((count, len(TERMS)), np.nan)
        others = np.empty((0, 2), dtype=np.int64)
        return cls(number, number.copy(), number.copy(), cost, terms, cost.copy(), others)

    def counted_from(self, track: int, rows: Ints) -> Links:
        """The links of a part of a sequence, numbered as in the whole.

        Args:
            track: number of the part's first track.
            rows: number of each of its detections ``[N]``.
        """
        return replace(
            self,
            track=np.where(self.track < 0, -1, self.track + track),
            previous=np.where(self.previous < 0, -1, rows[self.previous]),
            others=np.column_stack([rows[self.others[:, 0]], self.others[:, 1] + track]),
        )

    @classmethod
    def concatenate(cls, parts: list[Links]) -> Links:
        """The parts of one sequence after each other."""
        columns = map(vars, parts)
        return cls(*map(np.concatenate, zip(*(column.values() for column in columns), strict=True)))


class Linker:
    """Links one sequence, frame by frame.

    Args:
        dim: length of an embedding.
        options: default ``PRESETS["online"]``.
        frame_step: usual difference of the numbers of neighbouring frames, the unit of gaps.
        max_pairs: as for ``decide``.

    Attributes:
        open: the tracks that may still continue.
        tracks: number of tracks started so far.
        rows: number of detections so far.
        shift: by how much the camera moved before the last frame; None: it did not.
    """

    def __init__(
        self,
        dim: int,
        options: LinkOptions | None = None,
        *,
        frame_step: int = 1,
        max_pairs: int = MAX_PAIRS,
    ) -> None:
        self.options = options or PRESETS["online"]
        self.frame_step = frame_step
        self.open = OpenTracks.empty(embeddings_kept=self.options.embeddings_kept, dim=dim)
        self.tracks = 0
        self.rows = 0
        self.shift: Shift | None = None
        self._max_pairs = max_pairs

    def restore(self, tracks: OpenTracks, *, started: int, rows: int) -> None:
        """Continue from the state of another linker with the same options.

        Args:
            tracks: its ``open``.
            started: its ``tracks``.
            rows: its ``rows``.
        """
        self.open, self.tracks, self.rows = tracks, started, rows

    def step(
        self,
        frame: int,
        boxes: Floats,
        embeddings: npt.NDArray[np.float32],
        *,
        diagonal_px: float,
        seconds: float = float("nan"),
        scores: npt.NDArray[np.floating] | None = None,
    ) -> Links:
        """Link the N detections of the next frame.

        Args:
            frame: its number, above all earlier ones.
            boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels.
            embeddings: ``[N, D]`` L1-normalised, none zero.
            diagonal_px: of the image, in pixels.
            seconds: time of the frame; needed for ``max_gap_seconds``.
            scores: of the detections ``[N]``, for ``strong_score``; NaN counts as strong.
        """
        options = self.options
        self._close_old(frame, seconds)
        self._follow_camera(frame, boxes, embeddings)
        links = Links.unlinked(len(boxes))
        rows = self.rows + np.arange(len(boxes))
        detections = FrameDetections(frame, seconds, rows, boxes, embeddings)
        weak = np.zeros(len(boxes), dtype=bool)
        if options.strong_score is not None and scores is not None:
            weak = np.asarray(scores) < options.strong_score
        free, extended = self.open, []
        for group in (np.flatnonzero(~weak), np.flatnonzero(weak)):
            if not (len(group) and len(free)):
                continue
            steps = free.steps_to(frame, self.frame_step)
            decision = decide(
                free,
                boxes[group],
                embeddings[group],
                steps=steps,
                diagonal_px=diagonal_px,
                options=options,
                max_pairs=self._max_pairs,
            )
            rows, continued = group[decision.later], free.select(decision.earlier)
            links.track[rows] = continued.track
            links.position[rows] = continued.position + 1
            links.previous[rows] = continued.row
            links.cost[rows] = decision.cost
            links.terms[rows] = decision.terms
            links.margin[rows] = decision.margin
            extended.append(
                continued.extended(
                    detections.select(rows),
                    steps=steps[decision.earlier],
                    memory=options.average_memory,
                )
            )
            unclaimed = np.ones(len(free), dtype=bool)
            unclaimed[decision.earlier] = False
            free = free.select(unclaimed)
        new = np.flatnonzero(~weak & (links.previous < 0))
        links.track[new] = np.arange(self.tracks, self.tracks + len(new))
        links.position[new] = 0
        first = new_tracks(
            links.track[new], detections.select(new), embeddings_kept=options.embeddings_kept
        )
        self.tracks += len(new)
        self.rows += len(boxes)
        self.open = OpenTracks.concatenate([free, *extended, first])
        return links

    def _follow_camera(
        self, frame: int, boxes: Floats, embeddings: npt.NDArray[np.float32]
    ) -> None:
        """Move the open tracks by as much as the camera moved the picture."""
        tracks, self.shift = self.open, None
        if self.options.camera_moves:
            self.shift = find_shift(
                tracks.box,
                boxes,
                lambda rows: centred_similarity(tracks.latest(rows), embeddings),
                usual_px=tracks.usual_move(tracks.steps_to(frame, self.frame_step)),
            )
        if self.shift is not None:
            self.open = tracks.moved(self.shift.dx, self.shift.dy)

    def _close_old(self, frame: int, seconds: float) -> None:
        """Remove tracks that have been missing for too long."""
        options = self.options
        recent = self.open.steps_to(frame, self.frame_step) <= options.gap_frames + 1
        if options.max_gap_seconds is not None:
            recent &= seconds - self.open.seconds <= options.max_gap_seconds
        if not recent.all():
            self.open = self.open.select(recent)


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
        boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels, no NaN (a detection without a box spans its
            image).
        embeddings: ``[N, D]`` of any scale.
        diagonal_px: image diagonal in pixels, one for all or one per detection ``[N]``.
        seconds: time of each detection ``[N]``; needed for ``max_gap_seconds``.
        scores: of each detection ``[N]``, for ``strong_score``.
        options: default ``PRESETS["online"]``.

    Raises:
        InputError: ``max_gap_seconds`` without times that rise; an embedding that is zero or not
            finite, named by its number.
        ValueError: frames out of order, or boxes that are not finite.
    """
    options = options or PRESETS["online"]
    if (np.diff(frames) < 0).any():
        raise ValueError("`frames` must not fall; sort the detections by frame")
    if not np.isfinite(boxes).all():
        raise ValueError("`boxes` must be finite; leave failed rows out")
    require_times(seconds, len(frames), options)
    normalised = l1_normalise(embeddings, [str(row) for row in range(len(frames))])
    return link_frames(
        frames,
        np.asarray(boxes, dtype=np.float64),
        lambda rows: normalised[rows],
        np.broadcast_to(np.asarray(diagonal_px, dtype=np.float64), len(frames)),
        dim=embeddings.shape[1],
        seconds=seconds,
        scores=scores,
        options=options,
    )


def link_frames(
    frames: Ints,
    boxes: Floats,
    embeddings: Callable[[slice], npt.NDArray[np.float32]],
    diagonals: Floats,
    *,
    dim: int,
    seconds: Floats | None,
    scores: npt.NDArray[np.floating] | None,
    options: LinkOptions,
    on_move: Callable[[CameraMove], None] = lambda move: None,
) -> Links:
    """Link one sequence whose embeddings are read frame by frame; nothing is checked.

    Args:
        frames, boxes, seconds, scores, options: as for ``link``.
        embeddings: gives those of a slice of neighbouring rows, L1-normalised ``[R, D]``.
        diagonals: of the image of each detection ``[N]``, in pixels.
        dim: length of an embedding.
        on_move: called where the camera moved.
    """
    linker = Linker(dim, options, frame_step=frame_step(frames))
    parts = [Links.unlinked(0)]
    last = 0
    for rows in by_frame(frames):
        frame = int(frames[rows.start])
        parts.append(
            linker.step(
                frame,
                boxes[rows],
                embeddings(rows),
                diagonal_px=float(diagonals[rows.start]),
                seconds=float("nan") if seconds is None else float(seconds[rows.start]),
                scores=None if scores is None else scores[rows],
            )
        )
        if linker.shift is not None:
            on_move(CameraMove(last, frame, linker.shift))
        last = frame
    return Links.concatenate(parts)


def require_times(seconds: Floats | None, count: int, options: LinkOptions) -> None:
    """Check that a gap in seconds can be measured, where ``max_gap_seconds`` is set.

    Args:
        seconds: time of each detection of one sequence ``[N]``, NaN or None where unknown.
        count: number of detections N.
        options: of linking.

    Raises:
        InputError: times are missing, or fall from one frame to a later one.
    """
    if options.max_gap_seconds is None:
        return
    option = f"`max_gap_seconds={options.max_gap_seconds:g}`:"
    missing = count if seconds is None else int(np.isnan(seconds).sum())
    if seconds is None or missing:
        raise InputError(
            f"{option} {missing} of {count} detections have no timestamp; give timestamps or use "
            "`max_gap_frames` alone"
        )
    falls = int((np.diff(seconds) < 0).sum())
    if falls:
        raise InputError(
            f"{option} time runs backwards {falls} times from a frame to the next; correct the "
            "timestamps or frame numbers, or use `max_gap_frames` alone"
        )
