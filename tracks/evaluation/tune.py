"""Fit the weights and the threshold of linking to sequences whose individuals are known.

Weights are those of a logistic regression, none below 0, that separates pairs of one individual
from pairs of two by the four terms; pairs are collected as a linker meets them, with tracks that
follow the truth. The threshold is then moved to where the linker itself, on the same sequences,
gives the best IDF1. How well that generalises is measured by leaving out each sequence once, and
linking it by default beside it: all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from scipy.special import expit

from common.errors import InputError
from common.json_models import JsonModel
from index.vectors import Floats, Ints
from tracks.association.costs import cost_terms
from tracks.association.frames import by_frame, frame_step
from tracks.association.linker import link
from tracks.association.options import PRESETS, TERMS, LinkOptions
from tracks.association.state import Bools, FrameDetections, OpenTracks, new_tracks
from tracks.boxes import TrackBoxes, unique_per_frame
from tracks.evaluation.scores import Scores, evaluate
from tracks.offline.linker import link_offline
from tracks.offline.looks import SAMPLE, Shortener

UNLABELLED = -1
_MAX_PAIRS = 500_000
_RIDGE = 1e-3  # without it, pairs that are separated perfectly would need infinite weights
_THRESHOLD_FACTORS = np.geomspace(0.4, 2.5, 15)  # thresholds tried, relative to the fitted one


@dataclass(frozen=True)
class LabelledSequence:
    """One sequence of N detections whose individuals are known, by frame."""

    name: str  # of the sequence
    frames: Ints  # frame number of each detection [N], never falling
    boxes: Floats  # [N, 4] in pixels
    embeddings: npt.NDArray[np.float32]  # [N, D] float32, L1-normalised
    sizes: Floats  # width and height of the image of each detection [N, 2], in pixels
    individuals: Ints  # number of the individual [N], UNLABELLED where it is not known
    # Of labels by a truth: the number there of the sequence's frame 0, and one with which boxes lie
    # clearly better on the true ones; None: none is known.
    first_frame: int = 0
    better_first_frame: int | None = None

    @property
    def diagonals(self) -> Floats:
        """Of the image of each detection ``[N]``, in pixels."""
        diagonals: Floats = np.hypot(self.sizes[:, 0], self.sizes[:, 1])
        return diagonals


class Fold(JsonModel):
    """A sequence that was left out, linked with options fitted to the others and by default."""

    sequence: str  # its name
    options: LinkOptions  # fitted to the others
    tuned: Scores  # scores with them
    default: Scores  # scores with ``PRESETS["default"]``


class Tuning(JsonModel):
    """Result of tuning."""

    options: LinkOptions  # fitted to all sequences
    folds: list[Fold]  # one for each sequence

    def spread(self) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation over the folds, of each weight, the threshold and IDF1."""
        columns = {
            f"{term}_weight": [fold.options.weights[number] for fold in self.folds]
            for number, term in enumerate(TERMS)
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
    """Fit to all ``sequences``, and to all but one of them, leaving out each once.

    Args:
        sequences: two or more.
        base: options whose weights and threshold are replaced; default ``PRESETS["online"]``.
        progress: called with the number of fits done and of all fits.

    Raises:
        InputError: fewer than two sequences, or no pairs of one individual, or none of two.
    """
    base = base or PRESETS["online"]
    if len(sequences) < 2:
        raise InputError(
            f"{len(sequences)} labelled sequence; give two or more, so that each can be left out "
            "once and judged by the others"
        )
    pairs = [collect_pairs(sequence, base) for sequence in sequences]
    folds = []
    for number, left_out in enumerate(sequences):
        rest = [other for other in range(len(sequences)) if other != number]
        options = _fit([sequences[n] for n in rest], [pairs[n] for n in rest], base)
        tuned = score_linking(left_out, options)
        default = score_linking(left_out, PRESETS["default"])
        folds.append(Fold(sequence=left_out.name, options=options, tuned=tuned, default=default))
        progress(number + 1, len(sequences) + 1)
    options = _fit(sequences, pairs, base)
    progress(len(sequences) + 1, len(sequences) + 1)
    return Tuning(options=options, folds=folds)


def score_linking(sequence: LabelledSequence, options: LinkOptions) -> Scores:
    """Link one sequence and compare the tracks with its labels."""
    if options.method == "offline":
        links, _ = link_offline(
            sequence.frames,
            sequence.boxes,
            lambda rows: sequence.embeddings[rows],
            sequence.sizes,
            Shortener(sequence.embeddings[:: max(1, len(sequence.embeddings) // SAMPLE)]),
            parts=[slice(0, len(sequence.frames))],
            options=options,
        )
    else:
        links = link(
            sequence.frames,
            sequence.boxes,
            sequence.embeddings,
            diagonal_px=sequence.diagonals,
            options=options,
        )
    labelled, linked = sequence.individuals != UNLABELLED, links.track >= 0
    frames = sequence.frames[linked]
    tracks = unique_per_frame(frames, links.track[linked], links.cost[linked])
    return evaluate(
        TrackBoxes(
            sequence.frames[labelled], sequence.individuals[labelled], sequence.boxes[labelled]
        ),
        TrackBoxes(frames, tracks, sequence.boxes[linked]),
    )


def collect_pairs(sequence: LabelledSequence, options: LinkOptions) -> tuple[Floats, Bools]:
    """The P pairs that a linker compares if it has made no mistake so far.

    Returns:
        Their terms ``[P, 4]``, and whether they are of one individual ``[P]``.
    """
    step, kept = frame_step(sequence.frames), options.embeddings_kept
    # ``track`` of these open tracks is the individual.
    tracks = OpenTracks.empty(embeddings_kept=kept, dim=sequence.embeddings.shape[1])
    terms, same = [np.empty((0, len(TERMS)))], [np.empty(0, dtype=bool)]
    for rows in by_frame(sequence.frames):
        frame = int(sequence.frames[rows.start])
        steps = tracks.steps_to(frame, step)
        recent = steps <= options.gap_frames + 1
        tracks, steps = tracks.select(recent), steps[recent]
        individuals, count = sequence.individuals[rows], rows.stop - rows.start
        detections = FrameDetections(
            frame, np.nan, np.arange(count), sequence.boxes[rows], sequence.embeddings[rows]
        )
        costs = cost_terms(
            tracks.embeddings,
            tracks.box,
            detections.embedding,
            detections.box,
            diagonal_px=float(sequence.diagonals[rows.start]),
        )
        terms.append(np.stack(costs[:-1], axis=-1).reshape(-1, len(TERMS)))
        equal = (tracks.track[:, None] == individuals) & (individuals != UNLABELLED)
        same.append(equal.ravel())
        earlier, later = np.nonzero(equal)
        free = np.ones(len(tracks), dtype=bool)
        free[earlier] = False
        new = np.setdiff1d(np.arange(count), later)
        continued = tracks.select(earlier).extended(
            detections.select(later), steps=steps[earlier], memory=options.average_memory
        )
        started = new_tracks(individuals[new], detections.select(new), embeddings_kept=kept)
        tracks = OpenTracks.concatenate([tracks.select(free), continued, started])
    return np.concatenate(terms), np.concatenate(same)


def fit_weights(terms: Floats, same: Bools) -> tuple[Floats, float]:
    """Fit weights ``[4]``, none below 0, and the cost above which two individuals are likelier.

    Both kinds of pairs have the same total weight, however many there are of each. The weights sum
    to the sum of the default's, so that thresholds can be compared.

    Args:
        terms: ``[P, 4]``.
        same: whether a pair is of one individual ``[P]``.

    Raises:
        InputError: all pairs are of one kind, or no term separates them.
    """
    if same.all() or not same.any():
        raise InputError(
            f"of {len(same)} pairs {int(same.sum())} are of one individual; labels need pairs of "
            "one and of two: give sequences of several individuals over several frames"
        )
    if len(same) > _MAX_PAIRS:
        sample = np.random.default_rng(0).choice(len(same), _MAX_PAIRS, replace=False)
        terms, same = terms[sample], same[sample]
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
        gradient = np.r_[-(pull @ terms) + 2 * _RIDGE * weights, pull.sum()]
        return float(share @ np.logaddexp(0, -surplus) + _RIDGE * weights @ weights), gradient

    bounds = [(0, None)] * len(TERMS) + [(None, None)]
    fit = minimize(loss, np.ones(len(TERMS) + 1), jac=True, bounds=bounds, method="L-BFGS-B")
    weights, limit = fit.x[:-1] / spread, float(fit.x[-1])
    if not (weights.sum() > 0 and limit > 0):
        raise InputError(
            "no term of the cost separates pairs of one individual from pairs of two; check that "
            "the labels belong to this run"
        )
    scale = sum(PRESETS["online"].weights) / weights.sum()
    return weights * scale, float(limit * scale)


def _fit(
    sequences: Sequence[LabelledSequence],
    pairs: Sequence[tuple[Floats, Bools]],
    base: LinkOptions,
) -> LinkOptions:
    weights, limit = fit_weights(
        np.concatenate([terms for terms, _ in pairs]), np.concatenate([same for _, same in pairs])
    )
    names = [f"{term}_weight" for term in TERMS]
    fitted = base.replace(**dict(zip(names, map(_rounded, weights.tolist()), strict=True)))
    candidates = [
        fitted.replace(max_cost=_rounded(limit * factor)) for factor in _THRESHOLD_FACTORS.tolist()
    ]
    idf1 = np.array(
        [
            np.mean([score_linking(sequence, options).idf1 for sequence in sequences])
            for options in candidates
        ]
    )
    # Of thresholds that do as well the middle one, which is furthest from doing worse.
    best = np.flatnonzero(idf1 >= idf1.max() - 1e-9)
    return candidates[int(best[len(best) // 2])]


def _rounded(number: float) -> float:
    return float(f"{number:.4g}")  # more digits would claim more than is known
