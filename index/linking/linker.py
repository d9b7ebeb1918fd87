"""Contract 5: which detection of an earlier frame each detection continues.

The cost of a pair is the four-term sum the AMI data companion uses::

    w_f (1 - cosine) + w_i (1 - IoU) + w_a (1 - min area / max area) + w_d distance / diagonal

The default assignment is one-to-one and globally optimal per frame: it picks the links that
together save most against leaving both ends alone at ``max_cost``. That is not the largest
number of links: where a track has one certain continuation, gating never trades it for two
doubtful ones. Tracks lost a few frames ago compete in the same assignment as live ones.

Everything here is arrays in, arrays out; files are ``index.tracks``' business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cluster.errors import InputError
from index.linking.assign import assign
from index.linking.costs import cost_terms, l1_or_zero
from index.linking.options import PRESETS, TERMS, LinkOptions

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Links:
    """What ``link`` decided, one entry per detection in the order given.

    ``previous`` is the row a detection continues, or -1 where it starts a track; ``cost``
    ``[N]`` and ``terms`` ``[N, 4]`` are NaN there. Tracks are numbered from 0 by their start.
    """

    track: Ints
    position: Ints
    previous: Ints
    cost: Floats
    terms: Floats


@dataclass(frozen=True)
class _Candidates:
    """Detections that may still be continued; one per open track when links are one-to-one."""

    rows: Ints
    appearance: npt.NDArray[np.float32]

    def keep(self, mask: Bools) -> _Candidates:
        return _Candidates(self.rows[mask], self.appearance[mask])

    def join(self, other: _Candidates) -> _Candidates:
        return _Candidates(
            np.concatenate([self.rows, other.rows]),
            np.concatenate([self.appearance, other.appearance]),
        )


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
    embeddings: npt.NDArray[np.float32],
    *,
    diagonal_px: float | Floats,
    seconds: Floats | None = None,
    options: LinkOptions | None = None,
) -> Links:
    """Link the detections of one sequence.

    Args:
        frames: frame number of each detection ``[N]``, never falling.
        boxes: ``[N, 4]`` in pixels, no NaN (a detection without a box spans its image).
        embeddings: ``[N, D]``, finite.
        diagonal_px: image diagonal, one for all or one per detection.
        seconds: time of each detection; needed for ``max_gap_seconds``.
        options: default ``PRESETS["default"]``.

    Raises:
        InputError: ``max_gap_seconds`` without times.
        ValueError: frames out of order, or values that are not finite.
    """
    options = options or PRESETS["default"]
    count = len(frames)
    if (np.diff(frames) < 0).any():
        raise ValueError("frames must not fall; sort the detections by frame")
    if not (np.isfinite(boxes).all() and np.isfinite(embeddings).all()):
        raise ValueError("boxes and embeddings must be finite; leave failed rows out")
    if options.max_gap_seconds is not None and (seconds is None or np.isnan(seconds).any()):
        missing = count if seconds is None else int(np.isnan(seconds).sum())
        raise InputError(
            f"max_gap_seconds is {options.max_gap_seconds} but {missing} of {count} detections "
            "have no timestamp; give timestamps or use max_gap_frames alone"
        )
    diagonals = np.broadcast_to(np.asarray(diagonal_px, dtype=np.float64), count)
    looks = l1_or_zero(embeddings)
    step = frame_step(frames)
    done = Links(
        track=np.full(count, -1, dtype=np.int64),
        position=np.zeros(count, dtype=np.int64),
        previous=np.full(count, -1, dtype=np.int64),
        cost=np.full(count, np.nan),
        terms=np.full((count, len(TERMS)), np.nan),
    )
    tracks = 0
    open_ends = _Candidates(np.empty(0, dtype=np.int64), looks[:0])
    starts = np.flatnonzero(np.diff(frames, prepend=frames[:1] - 1))
    for rows in np.split(np.arange(count), starts[1:]):
        if not len(rows):
            continue
        away = np.rint((frames[rows[0]] - frames[open_ends.rows]) / step)
        open_ends = open_ends.keep(away <= options.max_gap_frames + 1)
        pairs = cost_terms(
            open_ends.appearance,
            boxes[open_ends.rows],
            looks[rows],
            boxes[rows],
            diagonal_px=float(diagonals[rows[0]]),
            weights=options.weights,
        )
        allowed = None
        if options.max_gap_seconds is not None and seconds is not None:
            waited = seconds[rows][None, :] - seconds[open_ends.rows][:, None]
            allowed = waited <= options.max_gap_seconds
        chosen = assign(
            pairs.total, max_cost=options.max_cost, allowed=allowed, assignment=options.assignment
        )
        linked = np.flatnonzero(chosen >= 0)
        taken, here = chosen[linked], rows[linked]
        done.previous[here] = open_ends.rows[taken]
        done.track[here] = done.track[done.previous[here]]
        done.position[here] = done.position[done.previous[here]] + 1
        done.cost[here] = pairs.total[taken, linked]
        for place, term in enumerate(pairs[:-1]):
            done.terms[here, place] = term[taken, linked]
        new = rows[chosen < 0]
        done.track[new] = np.arange(tracks, tracks + len(new))
        tracks += len(new)

        appearance = looks[rows].copy()
        memory = np.float32(options.appearance_memory)
        appearance[linked] = memory * open_ends.appearance[taken] + (1 - memory) * looks[here]
        waiting = np.ones(len(open_ends.rows), dtype=bool)
        waiting[taken] = False
        open_ends = open_ends.keep(waiting).join(_Candidates(rows, appearance))
    return done
