"""What a sequence shows of itself: how far its individuals move, how alike they look, how they differ.

Nobody says who is who, so links are guessed and their densities fitted in turn (EM): the detections of two frames a
few steps apart are matched softly, one to one, each end at a price; what matches is the same
individual, and all other pairs are different ones. Two detections of one frame are never the same, which tells what
different individuals look like. Where a sequence is too short to tell, what is usual counts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from index.vectors import Floats, Ints
from tracks.association.state import Bools
from tracks.offline.distributions import (
    Growth,
    Looks,
    Moves,
    log_normal,
    log_t,
    t_weights,
)
from tracks.offline.scene import Scene

MAX_LAG = 6  # steps between frames whose pairs are looked at
ROUNDS = 12  # of EM
BALANCING = 10  # of Sinkhorn's method, in each
MAX_PAIRS = 40_000  # of detections, for one lag
MAX_FRAMES = 300  # pairs of frames, for one lag
BORDER_COST = 1.5  # nats that an end at the border costs: one in four
FIRST_INSIDE_COST, MAX_INSIDE_COST = 3.0, 7.0  # elsewhere: one in 20, one in 1,100
USUAL_LOOK = ((0.7, 0.3), (0.2, 0.3), 0.3)  # kept, changed, share of changed
USUAL_DIFFERENT = (0.0, 0.25)
USUAL_DOUBLES = 0.02  # share of different individuals that look alike
USUAL_GROWTH = (0.15, 0.6)  # of the logarithm of the area: same, different
PRIOR = 4.0  # links that what is usual counts for
MANY_PRIOR = 20.0  # pairs that it counts for, where what is sought is rare
SMALLEST = 1e-5  # scatter: three thousandths of a box


@dataclass(frozen=True)
class Evidence:
    """Densities of pairs that are so many steps apart."""

    moves: Moves
    looks: Looks
    growth: Growth

    def of(self, pairs: Pairs) -> Floats:
        """Evidence of each pair, without what came before it, in nats ``[P]``."""
        return (
            self.moves.evidence(pairs.displacement, pairs.anywhere)
            + self.looks.evidence(pairs.cosine)
            + self.growth.evidence(pairs.growth)
        )


@dataclass(frozen=True)
class Shown:
    """What a sequence shows from one frame to the next, in a few numbers.

    Attributes:
        move: usual displacement of one individual, in diagonals of its box.
        leaving: share of the links in which it leaves its place at once.
        apart: usual distance between two individuals of one frame.
        alike: mean cosine of the short embeddings of one individual.
        unlike: of different ones.
        ends: share of the detections away from the border at which a track begins or ends.
        entered, left: tracks that begin, or end, at the border, but for those in the first, or last, frame.
        appeared, vanished: the same of tracks away from the border.
    """

    move: float
    leaving: float
    apart: float
    alike: float
    unlike: float
    ends: float
    entered: int = 0
    left: int = 0
    appeared: int = 0
    vanished: int = 0


@dataclass(frozen=True)
class Learned:
    """What a sequence shows of itself."""

    by_lag: Mapping[int, Evidence]  # from 1 to MAX_LAG
    inside_cost: float  # nats that a beginning or an end of a track costs, away from the border
    apart: float  # median distance of two detections of one frame, in diagonals of their boxes

    def shown(self) -> Shown:
        """The same in a few numbers, for people."""
        moves, looks = self.by_lag[1].moves, self.by_lag[1].looks
        return Shown(
            move=_rounded(np.sqrt(np.trace(moves.near))),
            leaving=_rounded(moves.far_share),
            apart=_rounded(self.apart),
            alike=_rounded(looks.same[0]),
            unlike=_rounded(looks.different[0]),
            ends=_rounded(np.exp(-self.inside_cost)),
        )

    def end_cost(self, at_border: Bools) -> Floats:
        """Nats that a track pays to begin or end with each detection ``[N]``."""
        return np.where(at_border, BORDER_COST, self.inside_cost)


class Pairs:
    """Pairs of detections whose frames are ``lag`` steps apart, with what is seen of each."""

    def __init__(self, scene: Scene, earlier: Ints, later: Ints, block: Ints, expected: Floats):
        self.earlier, self.later = earlier, later
        self.expected = expected  # of each pair: detections of the fuller one of its two frames
        self.displacement = scene.displacement(earlier, later)
        self.anywhere = scene.anywhere(earlier, later)
        self.cosine = scene.cosine(earlier, later)
        self.growth = scene.growth(earlier, later)
        # Ends of each pair among those of its two frames; a detection occurs in several.
        self.rows = np.unique(block * len(scene) + earlier, return_inverse=True)[1]
        self.columns = np.unique(block * len(scene) + later, return_inverse=True)[1]
        self.at_border = scene.at_border[earlier], scene.at_border[later]

    def __len__(self) -> int:
        return len(self.earlier)

    def soft_matches(self, evidence: Floats, inside_cost: float) -> Floats:
        """Probability that each pair is one individual; at most 1 for all pairs of an end."""
        end, start = (np.exp(-np.where(side, BORDER_COST, inside_cost)) for side in self.at_border)
        weight = np.exp(np.clip(evidence, -60, 60)) / self.expected
        left, right = np.ones(len(self)), np.ones(len(self))
        for _ in range(BALANCING):
            left = 1 / (end + np.bincount(self.rows, weight * right)[self.rows])
            right = 1 / (start + np.bincount(self.columns, weight * left)[self.columns])
        return left * weight * right


def learn(scene: Scene, inside_cost: float = FIRST_INSIDE_COST, *, seed: int = 0) -> Learned:
    """Fit everything but ``inside_cost``; a lag that no two frames have is like the lag before."""
    dice = np.random.default_rng(seed)
    one, other = _together(scene, dice)
    cosine = scene.cosine(one, other)
    different = _normal(np.ones(len(one)), cosine, USUAL_DIFFERENT)
    area = _deviation(np.ones(len(one)), scene.growth(one, other), USUAL_GROWTH[1])
    everywhere = _everywhere(scene)
    learned: dict[int, Evidence] = {}
    before: Evidence | None = None
    for lag in range(1, MAX_LAG + 1):
        pairs = _pairs(scene, lag, dice)
        if before is None:
            growth = Growth(USUAL_GROWTH[0], area)
            before = Evidence(_first_moves(pairs, everywhere), _first_looks(different), growth)
        if len(pairs):
            before = _fit(pairs, before, everywhere, inside_cost)
        learned[lag] = before
    learned = {lag: _with_doubles(evidence, cosine) for lag, evidence in learned.items()}
    apart = np.linalg.norm(scene.displacement(one, other), axis=1)
    return Learned(learned, inside_cost, float(np.median(apart)) if len(apart) else 0.0)


def _with_doubles(evidence: Evidence, cosine: Floats) -> Evidence:
    """With the share of doubles among pairs that are certainly different, by their cosines ``[C]``."""
    looks = evidence.looks
    ratio = np.exp(np.clip(looks.ratio(cosine), -50, 50))
    share = looks.doubles
    for _ in range(ROUNDS):
        are_doubles = share * ratio / (share * ratio + 1 - share)
        share = float((are_doubles.sum() + MANY_PRIOR * USUAL_DOUBLES) / (len(cosine) + MANY_PRIOR))
    return replace(evidence, looks=replace(looks, doubles=share))


def inside_cost(scene: Scene, previous: Ints, next_: Ints) -> float:
    """What an end away from the border costs, by how often tracks begin and end there.

    Args:
        scene: of N detections.
        previous, next_: of each detection in its track ``[N]``; -1 where it begins or ends one.
    """
    ends, count = PRIOR * np.exp(-FIRST_INSIDE_COST), PRIOR
    for towards, outermost in ((previous, scene.frames[0]), (next_, scene.frames[-1])):
        inside = ~scene.at_border
        inside[outermost] = False
        ends += int((towards[inside] < 0).sum())
        count += int(inside.sum())
    return float(np.clip(-np.log(ends / count), BORDER_COST, MAX_INSIDE_COST))


def _pairs(scene: Scene, lag: int, dice: np.random.Generator) -> Pairs:
    """All pairs of some frames that are ``lag`` steps apart; of large frames those of one region."""
    steps = scene.step[[rows.start for rows in scene.frames]]
    first = np.flatnonzero(np.isin(steps + lag, steps))
    second = np.searchsorted(steps, steps[first] + lag)
    order = dice.permutation(len(first))
    most = MAX_PAIRS**0.5
    sizes = np.minimum([rows.stop - rows.start for rows in scene.frames], most)
    total = np.cumsum((sizes[first] * sizes[second])[order])
    chosen = np.sort(order[: max(2, min(MAX_FRAMES, int(np.searchsorted(total, MAX_PAIRS))))])
    earlier, later, block, expected = [], [], [], []
    for number, pair in enumerate(chosen.tolist()):
        a, b = scene.frames[first[pair]], scene.frames[second[pair]]
        anchor = scene.centre[int(dice.integers(a.start, a.stop))]
        one, other = np.meshgrid(*(_region(scene, rows, anchor) for rows in (a, b)))
        earlier.append(one.ravel())
        later.append(other.ravel())
        block.append(np.full(one.size, number))
        expected.append(np.full(one.size, float(max(one.shape))))
    none = [np.empty(0, dtype=np.int64)]
    return Pairs(
        scene,
        np.concatenate(earlier or none),
        np.concatenate(later or none),
        np.concatenate(block or none),
        np.concatenate(expected or [np.empty(0)]),
    )


def _region(scene: Scene, rows: slice, anchor: Floats) -> Ints:
    """The rows of a frame; of many, those nearest to a place."""
    most = int(MAX_PAIRS**0.5)
    apart = np.linalg.norm(scene.centre[rows] - anchor, axis=1)
    if len(apart) <= most:
        return np.arange(rows.start, rows.stop)
    nearest: Ints = rows.start + np.sort(np.argpartition(apart, most)[:most])
    return nearest


def _together(scene: Scene, dice: np.random.Generator) -> tuple[Ints, Ints]:
    """Pairs of one frame: certainly different individuals."""
    ends: list[tuple[Ints, Ints]] = []
    for number in dice.permutation(len(scene.frames)).tolist():
        rows = scene.frames[number]
        one, other = np.triu_indices(rows.stop - rows.start, 1)
        if len(one) > 400:
            some = dice.choice(len(one), 400, replace=False)
            one, other = one[some], other[some]
        ends.append((rows.start + one, rows.start + other))
        if sum(len(side) for side, _ in ends) > MAX_PAIRS:
            break
    one, other = (np.concatenate(side) for side in zip(*ends, strict=True))
    return one, other


def _everywhere(scene: Scene) -> Floats:
    """Scatter of displacements from anywhere in the image to anywhere else."""
    sides = np.median(scene.sizes, axis=0) / np.median(scene.size)
    scatter: Floats = np.diag(sides**2 / 6) + SMALLEST * np.eye(2)
    return scatter


def _first_moves(pairs: Pairs, everywhere: Floats) -> Moves:
    """Where EM starts: nearest detections are one individual."""
    squared = (pairs.displacement**2).sum(axis=1)
    nearest = np.full(pairs.rows.max(initial=-1) + 1, np.inf)
    np.minimum.at(nearest, pairs.rows, squared)
    # A tenth of a box where no two frames can be compared, and never nothing.
    near = (float(np.median(nearest)) if len(nearest) else 0.01) + 1e-6
    far = min(100 * near, float(np.trace(everywhere)) / 2)
    return Moves(near * np.eye(2), far * np.eye(2), 0.05)


def _first_looks(different: tuple[float, float]) -> Looks:
    kept, changed, share = USUAL_LOOK
    changed = max(changed[0], different[0]), changed[1]
    return Looks(kept, changed, share, different, USUAL_DOUBLES)


def _fit(pairs: Pairs, start: Evidence, everywhere: Floats, inside_cost: float) -> Evidence:
    """EM from ``start``, which is of one step less."""
    moves = Moves(1.5 * start.moves.near, 1.5 * start.moves.far, start.moves.far_share)
    evidence = Evidence(moves, start.looks, start.growth)
    for _ in range(ROUNDS):
        same = pairs.soft_matches(evidence.of(pairs), inside_cost)
        if same.sum() < 1e-6:
            break
        evidence = Evidence(
            _fit_moves(evidence.moves, pairs.displacement, same, everywhere),
            _fit_looks(evidence.looks, pairs.cosine, same),
            Growth(_deviation(same, pairs.growth, USUAL_GROWTH[0]), evidence.growth.different),
        )
    return evidence


def _fit_moves(moves: Moves, displacement: Floats, same: Floats, everywhere: Floats) -> Moves:
    near = np.log1p(-moves.far_share) + log_t(displacement, moves.near)
    far = np.log(moves.far_share) + log_t(displacement, moves.far)
    is_far = 1 / (1 + np.exp(np.clip(near - far, -50, 50)))
    nearer = fit_scatter(displacement, same * (1 - is_far), moves.near)
    farther = fit_scatter(displacement, same * is_far, moves.far)
    if np.linalg.det(farther) < np.linalg.det(nearer):
        farther = 4 * nearer
    if np.linalg.det(farther) > np.linalg.det(everywhere):
        farther = everywhere
    share = float(np.clip((same * is_far).sum() / same.sum(), 1e-3, 0.5))
    return Moves(nearer, farther, share)


def fit_scatter(displacement: Floats, weight: Floats, before: Floats) -> Floats:
    """One step to the scatter of ``displacement [N, 2]``; a few links alone do not tell directions."""
    total = float(weight.sum())
    weight = weight * t_weights(displacement, before)
    scatter = (weight[:, None] * displacement).T @ displacement / max(total, 1e-12)
    if total < 1e-6:
        return before
    round_share = PRIOR / (PRIOR + total)
    even = np.eye(2) * np.trace(scatter) / 2
    fitted: Floats = (1 - round_share) * scatter + round_share * even + SMALLEST * np.eye(2)
    return fitted


def _fit_looks(looks: Looks, cosine: Floats, same: Floats) -> Looks:
    kept = np.log1p(-looks.changed_share) + log_normal(cosine, *looks.kept)
    changed = np.log(looks.changed_share) + log_normal(cosine, *looks.changed)
    is_changed = 1 / (1 + np.exp(np.clip(kept - changed, -50, 50)))
    share = float(np.clip((same * is_changed).sum() / same.sum(), 0.05, 0.95))
    one = _normal(same * (1 - is_changed), cosine, looks.kept)
    two = _normal(same * is_changed, cosine, looks.different)
    if two[0] > one[0]:
        one, two, share = two, one, 1 - share
    return Looks(one, two, share, looks.different, looks.doubles)


def _normal(weight: Floats, value: Floats, usual: tuple[float, float]) -> tuple[float, float]:
    """Mean and deviation, of which ``usual`` counts for a few observations."""
    total = float(weight.sum()) + PRIOR
    mean = float((weight * value).sum() + PRIOR * usual[0]) / total
    spread = float((weight * (value - mean) ** 2).sum() + PRIOR * usual[1] ** 2) / total
    return mean, max(float(np.sqrt(spread)), 0.03)


def _deviation(weight: Floats, value: Floats, usual: float) -> float:
    total = float(weight.sum()) + PRIOR
    return float(np.sqrt(((weight * value**2).sum() + PRIOR * usual**2) / total))


def _rounded(value: float) -> float:
    return round(float(value), 4)
