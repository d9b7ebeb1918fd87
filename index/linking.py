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

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from cluster.errors import InputError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Array = TypeVar("Array", npt.NDArray[np.float32], npt.NDArray[np.float64])

TERMS = ("feature", "iou", "area", "distance")


@dataclass(frozen=True, kw_only=True)
class LinkOptions:
    """How linking weighs a pair and when it gives up; costs have no unit.

    The defaults were chosen on EfficientNet-Lite0 embeddings of three sources:

    - eight fish, 501 frames, 3,922 boxes of which some are two touching fish: with a gap of 5
      and all weights 1, a cost of 1.0 left 186 tracks and 1.5 left 27, and 1.5 and 2.0 linked
      across the whole tank 8 and 7 times, because a fifth of the diagonal costs only 0.2.
      With distance weighed 4, a cost of 2.0 left 12 tracks and 2 such jumps.
    - five moth-trap frames a minute apart, judged by eye: 8 of 8 doubtful true links kept and
      none of 6 false ones made (all weights 1 at 2.0: 8 and 3; the ``ami`` preset: 3 and 0).
    - two flies up to a second apart: IDF1 1.00 (the ``ami`` preset: 0.72 to 1.00).

    Three scenes are not a law; look at the tracks, and move ``max_cost`` first.

    ``appearance_memory`` is the share of the old appearance a track keeps at each link: 0
    compares with the last detection only. ``max_gap_frames`` is how many frames a track may
    be missing; 0 links neighbouring frames only. ``assignment="greedy"`` lets every detection
    take its cheapest predecessor, so that two may claim one.

    Raises:
        InputError: a weight, cost, gap or memory outside its range.
    """

    feature_weight: float = 1.0
    iou_weight: float = 1.0
    area_weight: float = 1.0
    distance_weight: float = 4.0
    max_cost: float = 2.0
    max_gap_frames: int = 5
    max_gap_seconds: float | None = None
    appearance_memory: float = 0.8
    assignment: Literal["optimal", "greedy"] = "optimal"

    def __post_init__(self) -> None:
        for name, weight in zip(TERMS, self.weights, strict=True):
            if not (math.isfinite(weight) and weight >= 0):
                raise InputError(f"{name}_weight is {weight}; give a number of 0 or more")
        if not any(self.weights):
            raise InputError("all four link weights are 0; give at least one above 0")
        if not (math.isfinite(self.max_cost) and self.max_cost > 0):
            raise InputError(f"max_cost is {self.max_cost}; give a number above 0")
        if self.max_gap_frames < 0:
            raise InputError(f"max_gap_frames is {self.max_gap_frames}; give 0 or more")
        if self.max_gap_seconds is not None and not self.max_gap_seconds > 0:
            raise InputError(f"max_gap_seconds is {self.max_gap_seconds}; give seconds above 0")
        if not 0 <= self.appearance_memory < 1:
            raise InputError(
                f"appearance_memory is {self.appearance_memory}; give 0 (none) to just below 1"
            )
        if self.assignment not in ("optimal", "greedy"):
            raise InputError(f"assignment is {self.assignment!r}; choose 'optimal' or 'greedy'")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """The four weights in the order of ``TERMS``."""
        return (self.feature_weight, self.iou_weight, self.area_weight, self.distance_weight)


PRESETS: Mapping[str, LinkOptions] = {
    "default": LinkOptions(),
    # The rule of the AMI data companion, for comparison. It counts box sides with one pixel
    # more and rounds IoU to two digits; that is not repeated here.
    "ami": LinkOptions(
        distance_weight=1.0,
        max_cost=1.0,
        max_gap_frames=0,
        appearance_memory=0.0,
        assignment="greedy",
    ),
}


class PairCosts(NamedTuple):
    """Costs of all pairs, each ``[M, N]`` float64: the four terms unweighted, and their sum."""

    feature: Floats
    iou: Floats
    area: Floats
    distance: Floats
    total: Floats


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


def l1_or_zero(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of ``[N, D]`` divided by the sum of their absolute values; zero rows stay zero."""
    size = np.abs(embeddings).sum(axis=1, keepdims=True)
    return _divide(embeddings, size)


def cost_terms(
    before: npt.NDArray[np.float32],
    boxes_before: npt.NDArray[np.floating],
    after: npt.NDArray[np.float32],
    boxes_after: npt.NDArray[np.floating],
    *,
    diagonal_px: float,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> PairCosts:
    """Cost of every pair of M earlier and N later detections.

    Args:
        before: embeddings ``[M, D]``, of any scale; a zero vector is like nothing (term 1).
        boxes_before: ``[M, 4]`` as x1, y1, x2, y2 in pixels.
        after: embeddings ``[N, D]``.
        boxes_after: ``[N, 4]``.
        diagonal_px: diagonal of the later image; with the AMI data companion, the unit of
            distance (not the diagonal of a box).
        weights: of feature, IoU, area and distance.
    """
    feature = 1.0 - _unit(l1_or_zero(before)) @ _unit(l1_or_zero(after)).T
    one = np.asarray(boxes_before, dtype=np.float64)[:, None, :]
    two = np.asarray(boxes_after, dtype=np.float64)[None, :, :]
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    area_one = np.clip(one[..., 2:] - one[..., :2], 0, None).prod(axis=-1)
    area_two = np.clip(two[..., 2:] - two[..., :2], 0, None).prod(axis=-1)
    iou = 1.0 - _divide(shared, area_one + area_two - shared)
    area = 1.0 - _divide(np.minimum(area_one, area_two), np.maximum(area_one, area_two))
    centres = (one[..., :2] + one[..., 2:] - two[..., :2] - two[..., 2:]) / 2
    distance = np.hypot(centres[..., 0], centres[..., 1]) / diagonal_px
    terms = (feature, iou, area, distance)
    total = sum((w * term for w, term in zip(weights, terms, strict=True)), np.zeros(feature.shape))
    return PairCosts(*terms, total)


def _unit(vectors: npt.NDArray[np.float32]) -> Floats:
    wide = vectors.astype(np.float64)
    return _divide(wide, np.linalg.norm(wide, axis=1, keepdims=True))


def _divide(part: Array, whole: Array) -> Array:
    """Quotient with 0 where ``whole`` is 0."""
    quotient = np.zeros_like(part)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient


def assign(
    cost: Floats,
    *,
    max_cost: float,
    allowed: Bools | None = None,
    assignment: Literal["optimal", "greedy"] = "optimal",
) -> Ints:
    """The earlier detection each later one continues: ``[N]``, -1 for none.

    Args:
        cost: ``[M, N]``.
        max_cost: pairs above it are never linked.
        allowed: ``[M, N]``, False where a pair is ruled out whatever its cost.
        assignment: ``optimal`` claims each earlier detection at most once.
    """
    feasible = cost <= max_cost
    if allowed is not None:
        feasible &= allowed
    chosen = np.full(cost.shape[1], -1, dtype=np.int64)
    if not feasible.any():
        return chosen
    if assignment == "greedy":
        best = np.where(feasible, cost, np.inf).argmin(axis=0)
        found = feasible.any(axis=0)
        chosen[found] = best[found]
        return chosen
    # A ruled-out pair costs what leaving both ends alone costs, and a hair more so that a
    # tie goes to a link. Any larger figure would break certain links to make more of them.
    alone = max_cost + 1e-9 * (1.0 + max_cost)
    rows, columns = linear_sum_assignment(np.where(feasible, cost, alone))
    kept = feasible[rows, columns]
    chosen[columns[kept]] = rows[kept]
    return chosen


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
