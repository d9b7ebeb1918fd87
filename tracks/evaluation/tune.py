"""Fit the weights and the threshold of linking to sequences whose individuals are known.

Weights are those of a logistic regression, none below 0, that tells pairs of one individual from
pairs of two by the four terms; pairs are collected as a linker meets them, with tracks that follow
the truth. The threshold is then moved to where the linker itself, on the same sequences, gives the
best IDF1. What that is worth is measured on sequences it has not seen: each is left out once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from common.errors import InputError
from index.vectors import Floats, Ints
from tracks.association.costs import cost_terms
from tracks.association.linker import by_frame, frame_step, link
from tracks.association.options import PRESETS, TERMS, LinkOptions
from tracks.association.state import FrameDetections, OpenTracks, new_tracks
from tracks.evaluation.scores import Scores, evaluate
from tracks.linked import unique_per_frame
from tracks.tracked import TrackBoxes

UNLABELLED = -1
_MOST_PAIRS = 500_000
_RIDGE = 1e-3  # pairs that can be told apart without fault would else want endless weights
_THRESHOLD_FACTORS = np.geomspace(0.4, 2.5, 15)  # thresholds tried, times the fitted one


@dataclass(frozen=True)
class LabelledSequence:
    """One sequence of N detections whose individuals are known, by frame.

    Attributes:
        name: of the sequence.
        frames: frame number of each, never falling.
        boxes: ``[N, 4]`` in pixels.
        looks: ``[N, D]`` L1-normalised embeddings.
        diagonals: of each one's image, in pixels.
        who: number of the individual, ``UNLABELLED`` where the truth knows none.
    """

    name: str
    frames: Ints
    boxes: Floats
    looks: npt.NDArray[np.float32]
    diagonals: Floats
    who: Ints


@dataclass(frozen=True)
class Fold:
    """A sequence that was left out: what options of the others, and the default, made of it."""

    sequence: str
    options: LinkOptions
    tuned: Scores
    default: Scores


@dataclass(frozen=True)
class Tuning:
    """What tuning came to; ``options`` are fitted to all sequences."""

    options: LinkOptions
    folds: list[Fold]

    def spread(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over the folds, of each weight, the threshold and IDF1."""
        columns = {
            f"{term}_weight": [fold.options.weights[place] for fold in self.folds]
            for place, term in enumerate(TERMS)
        }
        columns["max_cost"] = [fold.options.max_cost for fold in self.folds]
        columns["idf1"] = [fold.tuned.idf1 for fold in self.folds]
        columns["idf1_default"] = [fold.default.idf1 for fold in self.folds]
        return {name: (float(np.mean(v)), float(np.std(v))) for name, v in columns.items()}


def tune(
    sequences: Sequence[LabelledSequence],
    *,
    base: LinkOptions | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Tuning:
    """Fit to all ``sequences``, and to all but one of them, each once.

    Args:
        sequences: two or more.
        base: gaps, memory and what else is not fitted; default ``PRESETS["default"]``.
        progress: called with fits done and fits to do.

    Raises:
        InputError: fewer than two sequences, or none with pairs of one individual and of two.
    """
    base = base or PRESETS["default"]
    if len(sequences) < 2:
        raise InputError(
            f"{len(sequences)} labelled sequence; give two or more, so that each can be left out "
            "once and judged by the others"
        )
    pairs = [collect_pairs(sequence, base) for sequence in sequences]
    folds = []
    for place, left_out in enumerate(sequences):
        others = [other for number, other in enumerate(sequences) if number != place]
        options = _fit(others, [p for number, p in enumerate(pairs) if number != place], base)
        folds.append(
            Fold(
                left_out.name,
                options,
                score_linking(left_out, options),
                score_linking(left_out, base),
            )
        )
        progress(place + 1, len(sequences) + 1)
    options = _fit(sequences, pairs, base)
    progress(len(sequences) + 1, len(sequences) + 1)
    return Tuning(options, folds)


def score_linking(sequence: LabelledSequence, options: LinkOptions) -> Scores:
    """The scores of linking one sequence, by its own labels."""
    links = link(
        sequence.frames,
        sequence.boxes,
        sequence.looks,
        diagonal_px=sequence.diagonals,
        options=options,
    )
    known, tracked = sequence.who != UNLABELLED, links.track >= 0
    return evaluate(
        TrackBoxes(sequence.frames[known], sequence.who[known], sequence.boxes[known]),
        TrackBoxes(
            sequence.frames[tracked],
            unique_per_frame(sequence.frames[tracked], links.track[tracked], links.cost[tracked]),
            sequence.boxes[tracked],
        ),
    )


def collect_pairs(
    sequence: LabelledSequence, options: LinkOptions
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Terms ``[P, 4]`` of the pairs a linker would compare if it had made no mistake so far.

    Returns:
        The terms, and which pairs are of one individual.
    """
    step = frame_step(sequence.frames)
    ends = OpenTracks.none(looks_kept=options.looks_kept, dim=sequence.looks.shape[1])
    terms, same = [np.empty((0, len(TERMS)))], [np.empty(0, dtype=bool)]
    for rows in by_frame(sequence.frames):
        frame = int(sequence.frames[rows.start])
        steps = ends.steps_to(frame, step)
        near = steps <= options.max_gap_frames + 1
        ends, steps = ends.keep(near), steps[near]
        who, boxes, looks = sequence.who[rows], sequence.boxes[rows], sequence.looks[rows]
        costs = cost_terms(
            ends.remembered,
            ends.box,
            looks,
            boxes,
            diagonal_px=float(sequence.diagonals[rows.start]),
        )
        terms.append(np.stack(costs[:-1], axis=-1).reshape(-1, len(TERMS)))
        alike = (ends.track[:, None] == who[None, :]) & (who != UNLABELLED)[None, :]
        same.append(alike.ravel())
        mine, here = np.nonzero(alike)
        free = np.ones(len(ends), dtype=bool)
        free[mine] = False
        new = np.setdiff1d(np.arange(len(who)), here)
        seen = FrameDetections(frame, np.nan, np.arange(len(who)), boxes, looks)
        continued = ends.keep(mine).extended(
            seen.at(here), steps=steps[mine], memory=options.look_memory
        )
        begun = new_tracks(who[new], seen.at(new), looks_kept=options.looks_kept)
        ends = OpenTracks.joined([ends.keep(free), continued, begun])
    return np.concatenate(terms), np.concatenate(same)


def fit_weights(terms: Floats, same: npt.NDArray[np.bool_]) -> tuple[Floats, float]:
    """Weights ``[4]``, none below 0, and the cost from which on two are likelier than one.

    Both kinds of pairs count the same in all, however many there are of each. The weights sum to
    what those of the default sum to, so that thresholds can be compared.

    Raises:
        InputError: all pairs are of one kind, or no term tells them apart.
    """
    if same.all() or not same.any():
        raise InputError(
            f"of {len(same)} pairs {int(same.sum())} are of one individual; labels need pairs of "
            "one and of two: give sequences of several individuals over several frames"
        )
    if len(same) > _MOST_PAIRS:
        chosen = np.random.default_rng(0).choice(len(same), _MOST_PAIRS, replace=False)
        terms, same = terms[chosen], same[chosen]
    # In units of its own spread: a distance in diagonals is a tenth of what the others are, and
    # the ridge would forbid it the weight it needs.
    spread = terms.std(axis=0)
    spread[spread == 0] = 1
    terms = terms / spread
    share = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())
    sign = np.where(same, 1.0, -1.0)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        weights, limit = parameters[:-1], parameters[-1]
        surplus = sign * (limit - terms @ weights)
        pull = -share * sign * expit(-surplus)
        slope = np.r_[-(pull @ terms) + 2 * _RIDGE * weights, pull.sum()]
        return float(share @ np.logaddexp(0, -surplus) + _RIDGE * weights @ weights), slope

    bounds = [(0, None)] * len(TERMS) + [(None, None)]
    found = minimize(loss, np.ones(len(TERMS) + 1), jac=True, bounds=bounds, method="L-BFGS-B")
    weights, limit = found.x[:-1] / spread, float(found.x[-1])
    if not (weights.sum() > 0 and limit > 0):
        raise InputError(
            "no term of the cost tells pairs of one individual from pairs of two; check that the "
            "labels belong to this run"
        )
    scale = sum(PRESETS["default"].weights) / weights.sum()
    return weights * scale, float(limit * scale)


def _fit(
    sequences: Sequence[LabelledSequence],
    pairs: Sequence[tuple[Floats, npt.NDArray[np.bool_]]],
    base: LinkOptions,
) -> LinkOptions:
    weights, limit = fit_weights(
        np.concatenate([terms for terms, _ in pairs]), np.concatenate([same for _, same in pairs])
    )
    feature, iou, area, distance = map(_short, weights.tolist())
    options = replace(
        base,
        feature_weight=feature,
        iou_weight=iou,
        area_weight=area,
        distance_weight=distance,
        max_cost=limit,
    )
    tried = [
        replace(options, max_cost=_short(limit * step)) for step in _THRESHOLD_FACTORS.tolist()
    ]
    reached = np.array(
        [np.mean([score_linking(sequence, one).idf1 for sequence in sequences]) for one in tried]
    )
    # Of thresholds that do as well the middle one, which is furthest from doing worse.
    best = np.flatnonzero(reached >= reached.max() - 1e-9)
    return tried[int(best[len(best) // 2])]


def _short(number: float) -> float:
    return float(f"{number:.4g}")  # the rest would only look like knowledge
