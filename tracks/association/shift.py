"""By how much a camera moved between two frames, found in their detections alone.

A nudge moves all of them at once, and alike. Two frames are compared as two sets of points. Pairs that look
alike propose shifts. One is taken for a move of the camera where most detections, moved by it, meet
one of the other frame, clearly more than by any other shift and by chance, and where hardly any
stayed in its place. The unit is how far detections move anyway, so animals that walk or swim, each by
itself or as a flock, move no camera while they do so steadily. A flock that sets off as one cannot be told
from a nudge; to take that out as well does its links good.

A shift is a translation: a turn or a zoom has more unknowns than the few detections of a trap's frame
can tell from animals that move.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree
from scipy.stats import poisson

from index.vectors import Floats, Ints

LEAST_DETECTIONS = 3
"""Detections that must agree: two that move alike are often two that walk together."""

_SHARE = 0.4  # of the detections of the frame with fewer that must agree, and one more
_SHARE_UNKNOWN = 0.6  # the same, where it is not known how far detections usually move
_SERIOUS = 0.5  # another shift is one on which at least such a part of them agrees
_PER_LOST = 2.0  # so many must agree for each that looks more like one it meets by another shift
_PER_STILL = 3.0  # so many must agree for each that stayed in its place
_CLEARLY = 3.0  # standard errors by which looks must tell a move from a row that stayed
_CHANCE = 1e-2  # most shifts, by expectation, on which so many would agree by chance
_LEAST_OVERLAP = 0.1  # of two frames, each way, for that expectation

# How near two detections meet, and the least shift, in usual moves and in box sizes.
_RADIUS_MOVES, _RADIUS_SIZES, _RADIUS_UNKNOWN = 2.5, (0.15, 0.5), 0.25
_LEAST_MOVES, _LEAST_RADII = 4.0, 2.0

_PROPOSERS = 200  # detections of the earlier frame that propose shifts
_LOOK_ALIKE = 5  # partners of each detection whose shifts are proposed
_REFINEMENTS = 3  # a detection at the edge of the first guess pulls in its neighbours
_COMPARED = 16  # detections in their places whose looks are compared with all
_PEAKS = 6  # shifts that are examined, those with most votes


class Shift(NamedTuple):
    """By how much the picture moved between two frames."""

    dx: float  # in pixels, to the right
    dy: float  # in pixels, downwards
    agree: int  # number of detections that moved so


def find_shift(
    before: Floats,
    after: Floats,
    similarity: Callable[[Ints], Floats],
    *,
    usual_px: float,
) -> Shift | None:
    """By how much the camera moved between two frames; None: it did not, or they cannot tell.

    Args:
        before: boxes of M detections ``[M, 4]`` in pixels.
        after: boxes of N detections of the later frame ``[N, 4]``.
        similarity: gives that of R of the earlier detections, by their positions ``[R]``, to all
            later ones ``[R, N]``; of a few where the frames are alike, and else of up to 200.
        usual_px: how far detections usually move between two such frames, the camera at rest; NaN
            where that is not known.
    """
    fewer = min(len(before), len(after))
    if fewer < LEAST_DETECTIONS:
        return None
    radius, least = _tolerances(np.concatenate([before, after]), usual_px)
    start, end = _centres(before), _centres(after)
    tree = cKDTree(end)
    if _stands_still(_partners(tree, start, radius), fewer, similarity):
        return None
    proposers = np.unique(np.linspace(0, len(before) - 1, _PROPOSERS).astype(np.int64))
    similar = similarity(proposers)
    first, second = _look_alikes(similar)
    proposals = end[second] - start[proposers[first]]

    def examine(shift: Shift) -> _Candidate:
        partners = _partners(tree, start[proposers] + shift[:2], radius)
        alike = similar[np.arange(len(proposers)), partners]
        return _Candidate(shift, np.where(partners >= 0, alike, -np.inf))

    share = _SHARE_UNKNOWN if np.isnan(usual_px) else _SHARE
    needed = max(LEAST_DETECTIONS, min(1 + share * fewer, fewer))
    candidates = [
        examine(_centred(peak, tree, start, end, radius, worth=needed / 2))
        for peak in _peaks(proposals, radius)
    ]
    # Of a row at equal distances, others meet by a wrong shift; then it is the looks that tell.
    most_alike = np.max([candidate.alike for candidate in candidates], axis=0)
    best = max(candidates, key=lambda each: each.agree + np.count_nonzero(each.rivals(most_alike)))
    shift, agree = best.shift, best.agree
    if shift.agree < needed or np.hypot(shift.dx, shift.dy) < least:
        return None
    at_rest = examine(Shift(0.0, 0.0, 0))
    if not _looks_tell(best.alike, at_rest.alike, agree, _spread(similar)):
        return None
    stayed = at_rest.rivals(best.alike)
    others = [
        other.rivals(best.alike)
        for other in candidates
        if other.far_from(best, 2 * radius) and other.agree >= _SERIOUS * agree
    ]
    lost = np.any(others, axis=0) if others else np.zeros(len(proposers), dtype=bool)
    if agree < _PER_STILL * np.count_nonzero(stayed) or agree < _PER_LOST * np.count_nonzero(lost):
        return None
    by_chance = _by_chance(start, end, shift, radius)
    expected = len(proposals) * poisson.sf(shift.agree - 2, by_chance)
    return shift if expected <= _CHANCE else None


class _Candidate(NamedTuple):
    """A shift that was proposed."""

    shift: Shift
    # How alike each of the R proposers and the detection that it meets are; -inf where it meets
    # none [R].
    alike: Floats

    @property
    def agree(self) -> int:
        """Number of proposers that meet somebody."""
        return int(np.count_nonzero(np.isfinite(self.alike)))

    def rivals(self, alike: Floats) -> npt.NDArray[np.bool_]:
        """Which proposers look no less like those they meet here than by another shift ``[R]``."""
        better: npt.NDArray[np.bool_] = np.isfinite(self.alike) & (self.alike >= alike)
        return better

    def far_from(self, best: _Candidate, distance: float) -> bool:
        """Whether it is another shift than ``best``."""
        x, y = self.shift.dx - best.shift.dx, self.shift.dy - best.shift.dy
        return bool(np.hypot(x, y) > distance)


def _looks_tell(moved: Floats, at_rest: Floats, agree: int, spread: float) -> bool:
    """Whether a shift is told by looks from one by which nothing moved, where that is as likely by places.

    Args:
        moved, at_rest: how alike each detection and the one that it meets are ``[R]``; -inf for none.
        agree: number of detections that meet one by the shift.
        spread: of the likeness of different individuals, a standard deviation.
    """
    both = np.isfinite(moved) & np.isfinite(at_rest)
    count = int(np.count_nonzero(both))
    if count < _SERIOUS * agree:
        return True
    gain = (moved[both] - at_rest[both]).mean()
    return bool(gain >= _CLEARLY * spread * (2 / count) ** 0.5)


def _spread(similar: Floats) -> float:
    """Standard deviation of the likeness of most pairs, which are different individuals."""
    return float(1.48 * np.median(np.abs(similar - np.median(similar))))


def _stands_still(partners: Ints, fewer: int, similarity: Callable[[Ints], Floats]) -> bool:
    """Whether most detections are in their places, and some of them look as if they were the same.

    Args:
        partners: the detection in the place of each earlier one ``[M]``; -1 for none.
        fewer: number of detections of the frame with fewer.
        similarity: as of ``find_shift``.
    """
    stayed = np.flatnonzero(partners >= 0)
    if _PER_STILL * len(stayed) <= fewer:
        return False
    some = stayed[np.unique(np.linspace(0, len(stayed) - 1, _COMPARED).astype(np.int64))]
    most_alike = similarity(some).argmax(axis=1)
    return bool(np.mean(most_alike == partners[some]) > 0.5)


def centred_similarity(before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> Floats:
    """Cosines of embeddings ``[R, D]`` and ``[N, D]`` after their mean is taken away, ``[R, N]``.

    Embeddings of one network are much alike; it is by the rest that individuals differ.
    """
    both = np.concatenate([before, after])
    both = both - both.mean(axis=0)
    both /= np.maximum(np.linalg.norm(both, axis=1, keepdims=True), np.finfo(np.float32).tiny)
    similar: Floats = (both[: len(before)] @ both[len(before) :].T).astype(np.float64)
    return similar


def usual_move(before: Floats, after: Floats) -> float:
    """Median distance from each detection of the frame with fewer to the nearest of the other."""
    fewer, more = sorted((_centres(before), _centres(after)), key=len)
    return float(np.median(cKDTree(more).query(fewer)[0]))


def _centres(boxes: Floats) -> Floats:
    """Centres of boxes ``[N, 4]``, as ``[N, 2]``."""
    middle: Floats = (boxes[:, :2] + boxes[:, 2:]) / 2
    return middle


def _tolerances(boxes: Floats, usual_px: float) -> tuple[float, float]:
    """How near two detections meet, and the least shift of a camera, in pixels."""
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    size = max(float(np.median(sides.min(axis=1))), 1.0)
    if np.isnan(usual_px):
        radius = _RADIUS_UNKNOWN * size
        return radius, _LEAST_RADII * radius
    lowest, highest = _RADIUS_SIZES
    radius = min(max(_RADIUS_MOVES * usual_px, lowest * size), highest * size)
    return radius, max(_LEAST_RADII * radius, _LEAST_MOVES * usual_px)


def _by_chance(start: Floats, end: Floats, shift: Shift, radius: float) -> float:
    """Expected number of pairs that meet after a shift, of points that lie anywhere."""
    spread = (np.ptp(start, axis=0) + np.ptp(end, axis=0)) / 2 + 2 * radius
    spread = np.full(2, spread.max())  # those that stand in a row may walk out of it
    overlap = np.maximum(1 - np.abs(shift[:2]) / spread, _LEAST_OVERLAP)
    return float(len(start) * len(end) * np.pi * radius**2 * np.prod(overlap / spread))


def _look_alikes(similar: Floats) -> tuple[Ints, Ints]:
    """The pairs in which one end is among the most similar of the other."""
    alike = np.zeros(similar.shape, dtype=bool)
    for axis in (0, 1):
        kept = min(_LOOK_ALIKE, similar.shape[axis])
        nearest = np.argpartition(-similar, kept - 1, axis=axis)
        np.put_along_axis(alike, np.take(nearest, np.arange(kept), axis=axis), True, axis=axis)
    first, second = np.nonzero(alike)
    return first, second


def _peaks(proposals: Floats, radius: float) -> list[Floats]:
    """Shifts around which most proposals lie, the densest first."""
    peaks: list[Floats] = []
    votes = cKDTree(proposals)
    counts = np.asarray(votes.query_ball_point(proposals, radius, return_length=True))
    while len(peaks) < _PEAKS and counts.any():
        densest = proposals[counts.argmax()]
        peaks.append(np.median(proposals[votes.query_ball_point(densest, radius)], axis=0))
        counts[votes.query_ball_point(densest, 2 * radius)] = 0
    return peaks


def _centred(
    peak: Floats, tree: cKDTree, start: Floats, end: Floats, radius: float, *, worth: float
) -> Shift:
    """The median shift of the pairs that meet after one near to it; ``worth`` this, if so many do."""
    shift = peak
    for last in (*[False] * _REFINEMENTS, True):
        partners = _partners(tree, start + shift, radius)
        met = partners >= 0
        agree = int(np.count_nonzero(met))
        if last or agree < worth:
            break
        shift = np.median(end[partners[met]] - start[met], axis=0)
    return Shift(float(shift[0]), float(shift[1]), agree)


def _partners(tree: cKDTree, points: Floats, radius: float) -> Ints:
    """The point of the tree nearest to each point within the radius ``[P]``; -1 for none, none twice."""
    distance, nearest = map(np.asarray, tree.query(points, distance_upper_bound=radius))
    rows = np.flatnonzero(np.isfinite(distance))
    rows = rows[np.argsort(distance[rows], kind="stable")]
    taken, first = np.unique(nearest[rows], return_index=True)
    partners = np.full(len(points), -1, dtype=np.int64)
    partners[rows[first]] = taken
    return partners
