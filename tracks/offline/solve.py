"""The tracks of the highest score: frame by frame at first, then by cutting all tracks and matching again.

First each frame continues the tracks before it, which sees no further than that frame. Then the tracks are
cut between two frames, and their beginnings and ends matched anew, at one cut after the other, forwards and
backwards until nothing changes: now a link is judged by what came before and by what follows. Each cut takes
the best assignment, so the score never falls. Links that nothing else comes near to are left as they are.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from index.vectors import Floats, Ints
from tracks.association.assign import assign_sparse, margins
from tracks.offline.learn import FIRST_INSIDE_COST, inside_cost, learn
from tracks.offline.scene import Scene
from tracks.offline.scores import Scores

FITS = 5  # of the price of an end
SAME_COST = 0.3  # nats
SWEEPS = 8
ALL_PAIRS = 1_000  # up to so many, all pairs of a cut are compared
NEAREST = 8  # by place and by looks, where there are more
CERTAIN = 12.0  # nats that the next best choice must be worse by, to leave a link alone


class Matched(NamedTuple):
    """Links of one cut."""

    heads: Ints  # ends of tracks [L]
    tails: Ints  # the beginnings they are linked to [L]
    margin: Floats  # [L], in nats
    gain: float  # their score together


def fitted_scores(
    scene: Scene, *, max_lag: int, times: tuple[Floats, float] | None = None
) -> Scores:
    """Scores with what the sequence shows, and the tracks of a first pass, frame by frame.

    How often tracks begin and end is learned from such tracks.

    Args:
        scene, max_lag, times: as for ``Scores``.
    """
    cost = FIRST_INSIDE_COST
    for _ in range(FITS):
        scores = Scores(scene, learn(scene, cost), max_lag=max_lag, times=times)
        _forward(scores)
        before, cost = cost, inside_cost(scene, scores.previous, scores.next)
        if abs(cost - before) < SAME_COST:
            break
    return scores


def solve(scores: Scores) -> Floats:
    """Set ``next`` and ``previous`` of ``scores``, which have a first pass by ``fitted_scores``.

    Returns:
        The margin of the link to each detection ``[N]``, in nats; NaN where none.
    """
    scores.fit_velocity()
    margin = _forward(scores)
    scores.fit_velocity()
    steps = scores.scene.step[[rows.start for rows in scores.scene.frames]][:-1].tolist()
    for sweep in range(SWEEPS):
        changed = sum(_rematch(scores, cut, margin) for cut in (steps, steps[::-1])[sweep % 2 == 0])
        if not changed:
            break
        if sweep == 1:
            scores.fit_velocity()
    return margin


def _forward(scores: Scores) -> Floats:
    """Each frame continues the tracks before it; later frames are not looked at."""
    scene = scores.scene
    scores.next[:] = scores.previous[:] = -1
    margin = np.full(len(scene), np.nan)
    ends = np.empty(0, dtype=np.int64)
    for frame in scene.frames:
        rows = np.arange(frame.start, frame.stop)
        ends = ends[scene.steps(ends, frame.start) <= scores.max_lag]
        matched = match(scores, ends, rows)
        scores.next[matched.heads], scores.previous[matched.tails] = matched.tails, matched.heads
        margin[matched.tails] = matched.margin
        ends = np.r_[ends[scores.next[ends] < 0], rows]
    return margin


def _rematch(scores: Scores, cut: int, margin: Floats) -> int:
    """Match beginnings and ends anew where tracks are cut after step ``cut``; returns links changed."""
    step, after, before = scores.scene.step, scores.next, scores.previous
    low, middle, high = np.searchsorted(
        step, [cut - scores.max_lag, cut, cut + scores.max_lag], side="right"
    ).tolist()
    heads, tails = np.arange(low, middle), np.arange(middle, high)
    # Row -1 stands for none; what it indexes is not looked at.
    sure_head, sure_tail = margin[after[heads]] > CERTAIN, margin[tails] > CERTAIN
    heads = heads[(after[heads] < 0) | ((after[heads] >= middle) & ~sure_head)]
    tails = tails[(before[tails] < 0) | ((before[tails] < middle) & ~sure_tail)]
    linked = heads[after[heads] >= 0]
    if not len(heads) or not len(tails):
        return 0
    matched = match(scores, heads, tails)
    old = set(zip(linked.tolist(), after[linked].tolist(), strict=True))
    new = set(zip(matched.heads.tolist(), matched.tails.tolist(), strict=True))
    if old == new:
        margin[matched.tails] = matched.margin
        return 0
    if matched.gain <= float(scores.links(linked, after[linked]).sum()) + 1e-6:
        return 0
    before[after[linked]] = -1
    margin[after[linked]] = np.nan
    after[linked] = -1
    after[matched.heads], before[matched.tails] = matched.tails, matched.heads
    margin[matched.tails] = matched.margin
    return len(old ^ new)


def match(scores: Scores, heads: Ints, tails: Ints) -> Matched:
    """The best links between ends and beginnings of tracks, one to one."""
    none = np.empty(0, dtype=np.int64)
    nothing = Matched(none, none, np.empty(0), 0.0)
    if not len(heads) or not len(tails):
        return nothing
    one, other = candidates(scores, heads, tails)
    reach = scores.in_reach(heads[one], tails[other])
    one, other = one[reach], other[reach]
    score = scores.links(heads[one], tails[other])
    worth = score > 0
    if not worth.any():
        return nothing
    pairs, cost = (one[worth], other[worth]), -score[worth]
    most = -float(cost.min())
    assigned = assign_sparse(pairs, cost + most, max_cost=most, later=len(tails))
    margin = margins(pairs, cost, assigned, max_cost=0.0, earlier=len(heads))
    linked = np.flatnonzero(assigned >= 0)
    gain = -float(cost[assigned[pairs[1]] == pairs[0]].sum())
    return Matched(heads[assigned[linked]], tails[linked], margin[linked], gain)


def candidates(scores: Scores, heads: Ints, tails: Ints) -> tuple[Ints, Ints]:
    """Pairs of positions that may be links: all of them, or the nearest by place and by looks."""
    if len(heads) * len(tails) <= ALL_PAIRS:
        return (
            np.repeat(np.arange(len(heads)), len(tails)),
            np.tile(np.arange(len(tails)), len(heads)),
        )
    scene, count = scores.scene, min(NEAREST, len(heads))
    _, near = cKDTree(scene.centre[heads]).query(scene.centre[tails], k=range(1, count + 1))
    cosine = scene.look[tails] @ scene.look[heads].T
    alike = np.argpartition(-cosine, count - 1, axis=1)[:, :count]
    chosen = np.hstack([near, alike])
    other = np.repeat(np.arange(len(tails)), chosen.shape[1])
    numbers = np.unique(other * len(heads) + chosen.ravel())
    return numbers % len(heads), numbers // len(heads)
