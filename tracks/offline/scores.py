"""What links are worth: evidence of pairs, of where a track was heading, and of what it looked like so far.

A score is in nats, and a link is made where it is above 0, which is what leaving both ends alone
is worth. The sum over all links is what ``solve`` makes as large as it can: a chain of detections in which each
step depends on the step before it.
"""

from __future__ import annotations

import numpy as np

from index.vectors import Floats, Ints
from tracks.association.state import Bools
from tracks.offline.distributions import Growth, Looks, Moves, log_t, t_weights
from tracks.offline.learn import MAX_LAG, Learned, fit_scatter
from tracks.offline.scene import Scene

MISSED = 0.7  # nats for each step in which one was not found, one in two; up to AHEAD
REMEMBERED = 8  # detections of either side of a link whose looks are compared as well
MAX_LOOK = 6.0  # nats that these are worth at most
AHEAD = 25  # steps; farther ahead nobody knows where one is, or whether it was missed
STALE = 3  # steps after which a velocity says nothing
FEW, MANY = 8, 5_000  # displacements that a velocity is fitted to: at least, at most


class Scores:
    """Scores of links in one sequence.

    Args:
        scene: of N detections.
        learned: densities by lag, and what an end costs.
        max_lag: steps that a link may span.
        times: of the detections in seconds ``[N]``, and the most that a link may span.

    Attributes:
        next, previous: the detection that follows each one in its track, and the one before; -1 for none [N].
    """

    def __init__(
        self,
        scene: Scene,
        learned: Learned,
        *,
        max_lag: int,
        times: tuple[Floats, float] | None = None,
    ) -> None:
        max_lag = max(1, min(max_lag, int(scene.step[-1])))  # no more than there is
        self.scene, self.max_lag, self._times = scene, max_lag, times
        self.learned = learned
        self.next = np.full(len(scene), -1, dtype=np.int64)
        self.previous = np.full(len(scene), -1, dtype=np.int64)
        lags = np.maximum(np.arange(max_lag + 1), 1)
        by_lag = [learned.by_lag[lag] for lag in range(1, MAX_LAG + 1)]
        # Beyond the lags that were looked at, moves grow with the lag to the power of three quarters.
        growth = np.maximum(lags / MAX_LAG, 1.0)[:, None, None] ** 1.5
        which = np.minimum(lags, MAX_LAG) - 1
        moves = [evidence.moves for evidence in by_lag]
        self._near = np.stack([each.near for each in moves])[which] * growth  # [lags, 2, 2]
        self._far = np.stack([each.far for each in moves])[which] * growth
        self._far_share = np.array([each.far_share for each in moves])[which]
        looks = [evidence.looks for evidence in by_lag]
        self._kept = np.array([each.kept for each in looks]).T[:, which]  # [2, lags]
        self._changed = np.array([each.changed for each in looks]).T[:, which]
        self._changed_share = np.array([each.changed_share for each in looks])[which]
        self._other_look = looks[0].different
        self._doubles = np.array([each.doubles for each in looks])[which]
        growth_of = [(evidence.growth.same, evidence.growth.different) for evidence in by_lag]
        self._growth: Floats = np.array(growth_of).T[:, which]
        self._end_cost = learned.end_cost(scene.at_border)
        self._expected = np.log(len(scene) / max(len(scene.frames), 1))
        self._remembered = looks[-1].same
        self._drag = np.zeros(max_lag + 1)  # share of the velocity that is kept, times the lag
        self._heading = self._near.copy()  # scatter about where a velocity leads

    def links(self, heads: Ints, tails: Ints) -> Floats:
        """Of P pairs: the end of one track and the beginning of another.

        What follows the tail is part of it: its first step depends on where the link comes from.
        """
        velocity, known = self._velocity(self.previous[heads], heads)
        score = self._pairs(heads, tails) + self._moves(heads, tails, velocity, known)
        score += self._memories(heads, tails)
        after = self.next[tails]
        some = np.flatnonzero(after >= 0)
        if len(some):
            tail, then = tails[some], after[some]
            velocity, known = self._velocity(heads[some], tail)
            nothing = np.zeros(len(some), dtype=bool)
            score[some] += self._moves(tail, then, velocity, known)
            score[some] -= self._moves(tail, then, velocity, nothing)
        return score

    def in_reach(self, heads: Ints, tails: Ints) -> Bools:
        """Which of P pairs are in order, and not too far apart in time."""
        steps = self.scene.steps(heads, tails)
        reach: Bools = (steps >= 1) & (steps <= self.max_lag)
        if self._times is not None:
            seconds, limit = self._times
            reach &= seconds[tails] - seconds[heads] <= limit
        return reach

    def fit_velocity(self) -> None:
        """Fit how far a track goes on as it was heading, from the links there are now."""
        middle = np.flatnonzero((self.previous >= 0) & (self.next >= 0))
        middle = middle[self.scene.steps(self.previous[middle], middle) == 1]
        then = self.next[middle]
        for lag in range(1, min(self.max_lag, AHEAD) + 1):
            at_lag = self.scene.steps(middle, then) == lag
            begin, end = middle[at_lag], then[at_lag]
            some = slice(None, None, max(1, len(begin) // MANY))
            begin, end = begin[some], end[some]
            if len(begin) >= FEW:
                scale = self.scene.scale(begin, end)[:, None]
                velocity, _ = self._velocity(self.previous[begin], begin)
                moved = self.scene.displacement(begin, end)
                self._drag[lag], self._heading[lag] = _regression(velocity / scale, moved, lag)
            else:
                self._drag[lag], self._heading[lag] = 0.0, self._near[lag]
            # The next detection of those that are nearer is further on.
            alive = np.flatnonzero(self.scene.steps(middle, then) <= lag)
            onward = self.next[then[alive]]
            keep = np.ones(len(middle), dtype=bool)
            keep[alive[onward < 0]] = False
            then[alive] = np.where(onward >= 0, onward, then[alive])
            middle, then = middle[keep], then[keep]

    @property
    def astray(self) -> float:
        """Usual distance from where a velocity leads in one step, in diagonals."""
        return float(np.sqrt(np.trace(self._heading[1])))

    def alike(self, heads: Ints, tails: Ints) -> Floats:
        """Of P pairs: the evidence of looks and sizes alone."""
        return self._alike(heads, tails) + self._memories(heads, tails)

    def _alike(self, heads: Ints, tails: Ints) -> Floats:
        scene, lag = self.scene, self._lags(heads, tails)
        kept, changed = self._kept[:, lag], self._changed[:, lag]
        looks = Looks(
            tuple(kept),
            tuple(changed),
            self._changed_share[lag],
            self._other_look,
            self._doubles[lag],
        )
        growth = Growth(*self._growth[:, lag])
        score: Floats = looks.evidence(np.minimum(scene.cosine(heads, tails), kept[0]))
        return score + growth.evidence(scene.growth(heads, tails))

    def _pairs(self, heads: Ints, tails: Ints) -> Floats:
        lag = self._lags(heads, tails)
        score: Floats = self._alike(heads, tails) - self._expected
        score += self._end_cost[heads] + self._end_cost[tails] - MISSED * np.minimum(lag - 1, AHEAD)
        return score

    def _moves(self, heads: Ints, tails: Ints, velocity: Floats, known: Bools) -> Floats:
        """Of displacements, given the velocities ``[P, 2]`` that are known, in pixels a step."""
        scene, lag = self.scene, self._lags(heads, tails)
        moved = scene.displacement(heads, tails)
        ahead = self._drag[lag][:, None] * velocity / scene.scale(heads, tails)[:, None]
        moves = Moves(self._near[lag], self._far[lag], self._far_share[lag])
        aside = np.where(known[:, None], moved - ahead, moved)
        scatter = np.where(known[:, None, None], self._heading[lag], moves.near)
        near = log_t(aside, scatter)
        return moves.evidence(moved, scene.anywhere(heads, tails), near)

    def _memories(self, heads: Ints, tails: Ints) -> Floats:
        """Of the last looks of one track against the first of the other, on average.

        Their nearest looks were compared already, so where there are no others, this adds nothing.
        """
        unique_heads, head = np.unique(heads, return_inverse=True)
        unique_tails, tail = np.unique(tails, return_inverse=True)
        before, earlier = self._average_look(unique_heads, self.previous)
        after, later = self._average_look(unique_tails, self.next)
        before, after, pairs = before[head], after[tail], earlier[head] * later[tail]
        cosine = np.einsum("pr,pr->p", before, after).astype(np.float64)
        (same, deviation), (different, other) = self._remembered, self._other_look
        variance = (deviation**2 + other**2) / 2
        evidence = (same - different) / variance * (cosine - (same + different) / 2)
        bounded: Floats = np.clip(evidence, -MAX_LOOK, MAX_LOOK) * (1 - 1 / pairs)
        return bounded

    def _average_look(self, rows: Ints, towards: Ints) -> tuple[Floats, Floats]:
        """Of each of P tracks, from its end on ``[P, R]``, and the number of looks ``[P]``."""
        total = self.scene.look[rows].copy()
        count = np.ones(len(rows))
        for _ in range(REMEMBERED - 1):
            rows = np.where(rows >= 0, towards[rows], -1)
            there = rows >= 0
            if not there.any():
                break
            total[there] += self.scene.look[rows[there]]
            count += there
        return total / count[:, None], count

    def _velocity(self, before: Ints, rows: Ints) -> tuple[Floats, Bools]:
        """In pixels a step ``[P, 2]``, and where it is known; ``before`` may be -1."""
        known = before >= 0
        earlier = np.where(known, before, rows)
        steps = np.maximum(self.scene.steps(earlier, rows), 1)
        moved = self.scene.centre[rows] - self.scene.centre[earlier]
        return moved / steps[:, None], known & (steps <= STALE)

    def _lags(self, heads: Ints, tails: Ints) -> Ints:
        return np.clip(self.scene.steps(heads, tails), 1, self.max_lag)


def _regression(velocity: Floats, moved: Floats, lag: int) -> tuple[float, Floats]:
    """The share of ``velocity [N, 2]`` that ``moved [N, 2]`` goes on with, and the scatter about it."""
    share, scatter = 0.0, np.eye(2) * (np.median((moved**2).sum(axis=1)) / 2 + 1e-5)
    for _ in range(8):
        rest = moved - share * velocity
        weight = t_weights(rest, scatter)[:, None]
        power = float((weight * velocity**2).sum())
        share = float(np.clip((weight * velocity * moved).sum() / max(power, 1e-12), 0, lag))
        scatter = fit_scatter(moved - share * velocity, np.ones(len(moved)), scatter)
    return share, scatter
