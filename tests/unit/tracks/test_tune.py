"""Weights fitted to labels: they are found again, and a left-out sequence is not looked at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from common.errors import InputError
from index.vectors import l1_normalise
from tests.helpers.scenes import crowd
from tracks.association.frames import by_frame
from tracks.association.options import PRESETS, LinkOptions
from tracks.evaluation.tune import (
    UNLABELLED,
    LabelledSequence,
    collect_pairs,
    fit_weights,
    score_linking,
    tune,
)


def labelled(name: str, *, seed: int, frames: int = 12) -> LabelledSequence:
    numbers, boxes, looks, who = crowd(frames=frames, seed=seed)
    return LabelledSequence(
        name,
        numbers,
        boxes,
        l1_normalise(looks, [""] * len(looks)),
        np.full((len(who), 2), 1000.0),
        who,
    )


def test_weights_are_found_again() -> None:
    random = np.random.default_rng(0)
    terms = random.uniform(0, 1, (60_000, 4)) * [1, 1, 1, 0.2]
    true, limit = np.array([3.0, 1.0, 0.0, 10.0]), 3.0
    same = random.random(len(terms)) < 1 / (1 + np.exp(-4 * (limit - terms @ true)))
    weights, threshold = fit_weights(terms, same)
    assert weights.sum() == pytest.approx(sum(PRESETS["online"].weights))
    # Equal shares of both kinds move the threshold, and the ridge shrinks a little.
    assert weights / weights.sum() == pytest.approx(true / true.sum(), abs=0.02)
    assert threshold / weights.sum() == pytest.approx(limit / true.sum(), rel=0.1)


def test_no_weight_is_below_zero() -> None:
    random = np.random.default_rng(1)
    terms = random.uniform(0, 1, (5000, 4))
    same = (terms[:, 0] < 0.5) & (terms[:, 2] > 0.3)  # a large third term speaks for a pair
    weights, _ = fit_weights(terms, same)
    assert weights[2] == 0
    assert weights[0] > 5


@pytest.mark.parametrize(
    ("terms", "same", "says"),
    [
        (np.ones((10, 4)), [True] * 10, "individual"),
        (np.ones((10, 4)), [False] * 10, "individual"),
        (np.repeat([[1.0] * 4, [0.1] * 4], 5, axis=0), [True] * 5 + [False] * 5, "this run"),
    ],
)
def test_pairs_that_teach_nothing(terms: np.ndarray, same: list[bool], says: str) -> None:
    with pytest.raises(InputError, match=says):
        fit_weights(terms, np.array(same))


def test_pairs_follow_the_truth() -> None:
    # Two in two frames, then one of them and an unlabelled one, two frames later.
    one = LabelledSequence(
        "one",
        np.array([0, 0, 1, 1, 3, 3]),
        np.array([[0, 0, 10, 10], [50, 0, 60, 10]] * 3, dtype=float),
        l1_normalise(np.eye(6, 4, dtype=np.float32) + 1, [""] * 6),
        np.tile([60.0, 80.0], (6, 1)),
        np.array([7, 8, 8, 7, 7, UNLABELLED]),
    )
    terms, same = collect_pairs(one, PRESETS["online"])
    # Frame 1: 2 x 2. Frame 3: both ends, at the other's first place, with 2.
    assert same.tolist() == [False, True, True, False, *[True, False], *[False, False]]
    assert terms[1, 3] == pytest.approx(0.5)
    assert terms[0, 3] == pytest.approx(0.0)
    terms, same = collect_pairs(one, LinkOptions(max_gap_frames=0))
    assert len(same) == 4  # frame 3 is too late for all


def test_a_left_out_sequence_is_not_looked_at() -> None:
    sequences = [labelled(f"s{seed}", seed=seed) for seed in range(3)]
    progress_seen: list[tuple[int, int]] = []
    tuned = tune(sequences, progress=lambda done, total: progress_seen.append((done, total)))
    assert progress_seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [fold.sequence for fold in tuned.folds] == ["s0", "s1", "s2"]
    shuffled, random = sequences[1].individuals.copy(), np.random.default_rng(9)
    for rows in by_frame(sequences[1].frames):
        shuffled[rows] = random.permutation(shuffled[rows])
    again = tune([sequences[0], replace(sequences[1], individuals=shuffled), sequences[2]])
    assert again.folds[1].options == tuned.folds[1].options
    assert again.folds[0].options != tuned.folds[0].options
    for fold, sequence in zip(tuned.folds, sequences, strict=True):
        assert fold.tuned == score_linking(sequence, fold.options)
        assert fold.default == score_linking(sequence, PRESETS["default"])
        assert fold.tuned.idf1 > 0.9
    mean, deviation = tuned.spread()["idf1"]
    assert mean == pytest.approx(np.mean([fold.tuned.idf1 for fold in tuned.folds]))
    assert deviation == pytest.approx(np.std([fold.tuned.idf1 for fold in tuned.folds]))


def test_one_sequence_is_too_few() -> None:
    with pytest.raises(InputError, match="1 labelled sequence"):
        tune([labelled("alone", seed=0)])
