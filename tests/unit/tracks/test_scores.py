"""Scores of small cases, worked out by hand from the definitions of HOTA, IDF1 and CLEAR."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

import numpy as np
import pytest

from tracks.boxes import TrackBoxes, unique_per_frame
from tracks.evaluation.scores import evaluate, evaluate_together

FAR = 100.0  # between individuals: their boxes never touch


def tracked(*individuals: Sequence[int | None]) -> TrackBoxes:
    """Still individuals; each is the id it has in frame 0, 1, …, None where it is not there."""
    rows = [
        (frame, number, FAR * place)
        for place, ids in enumerate(individuals)
        for frame, number in enumerate(ids)
        if number is not None
    ]
    table = np.array(rows)
    corner = np.column_stack([table[:, 2], np.zeros(len(rows))])
    return TrackBoxes(
        table[:, 0].astype(np.int64),
        table[:, 1].astype(np.int64),
        np.column_stack([corner, corner + 10]),
    )


ONE, TWO = tracked([1] * 4), tracked([1] * 4, [2] * 4)


FLAT = TrackBoxes(ONE.frames, ONE.ids, ONE.boxes * [1, 1, 1, 0.62])
ASS_A = (3 * 0.75 + 4) / 7


@pytest.mark.parametrize(
    ("truth", "result", "expected", "counts"),
    [
        pytest.param(TWO, tracked([8] * 4, [7] * 4), (1, 1, 1, 1, 1), (0, 0, 0, 0), id="perfect"),
        # Of each of four boxes, half the association is right: AssA 2 / (2 + 2 + 0).
        pytest.param(
            ONE, tracked([5, 5, 6, 6]), (sqrt(0.5), 1, 0.5, 0.5, 0.75), (1, 0, 0, 0), id="a switch"
        ),
        # AssA 2 / (2 + 2 + 2); both are switched.
        pytest.param(
            TWO,
            tracked([5, 5, 6, 6], [6, 6, 5, 5]),
            (sqrt(1 / 3), 1, 1 / 3, 0.5, 0.75),
            (2, 0, 0, 0),
            id="two change",
        ),
        # Seven of eight found; three of them share a track that lacks a quarter of its individual.
        pytest.param(
            TWO,
            tracked([5, 5, None, 5], [6] * 4),
            (sqrt(7 / 8 * ASS_A), 7 / 8, ASS_A, 14 / 15, 7 / 8),
            (0, 1, 1, 0),
            id="a miss",
        ),
        pytest.param(
            ONE,
            tracked([5] * 4, [6, None, None, None]),
            (sqrt(0.8), 0.8, 1, 8 / 9, 0.75),
            (0, 0, 0, 1),
            id="a false box",
        ),
        # IoU 0.62 counts at 12 of HOTA's 19 thresholds, and at the 0.5 of the others.
        pytest.param(ONE, FLAT, (12 / 19, 12 / 19, 12 / 19, 1, 1), (0, 0, 0, 0), id="a little off"),
        pytest.param(TWO, ONE.at(np.array([9])), (0, 0, 0, 0, 0), (0, 0, 8, 0), id="nothing"),
    ],
)
def test_scores_by_hand(
    truth: TrackBoxes, result: TrackBoxes, expected: tuple[float, ...], counts: tuple[int, ...]
) -> None:
    scores = evaluate(truth, result)
    shares = (scores.hota, scores.det_a, scores.ass_a, scores.idf1, scores.mota)
    assert shares == pytest.approx(expected)
    assert (scores.switches, scores.fragmentations, scores.missed, scores.false) == counts
    assert (scores.frames, scores.truth_boxes, scores.boxes) == (
        4,
        len(truth.ids),
        len(result.ids),
    )
    assert (scores.truth_tracks, scores.tracks) == (len(set(truth.ids)), len(set(result.ids)))


def test_the_order_of_rows_is_nothing() -> None:
    result = tracked([5, 5, 6, 6], [7, 7, 7, None])
    order = np.random.default_rng(0).permutation(len(result.ids))
    shuffled = TrackBoxes(result.frames[order], result.ids[order], result.boxes[order])
    assert evaluate(TWO, shuffled) == evaluate(TWO, result)


def test_sequences_together_add_up() -> None:
    """Counts are added, so the longer one weighs more; ids of two sequences are not the same."""
    one, other = tracked([1] * 4), tracked([1] * 8)
    each, together = evaluate_together([(one, tracked([5, 5, 6, 6])), (other, tracked([5] * 8))])
    assert [scores.mota for scores in each] == pytest.approx([0.75, 1])
    assert together.mota == pytest.approx(1 - 1 / 12)
    assert together.idf1 == pytest.approx(10 / 12)
    assert together.ass_a == pytest.approx((4 * 0.5 + 8 * 1) / 12)
    assert (together.frames, together.truth_tracks, together.tracks) == (12, 2, 3)


@pytest.mark.parametrize(
    ("truth", "result", "says"),
    [
        (TWO.at(np.array([9])), TWO, "truth"),
        (TrackBoxes(TWO.frames, np.ones(8, np.int64), TWO.boxes), TWO, "`truth`: id 1"),
        (TWO, TrackBoxes(TWO.frames, np.ones(8, np.int64), TWO.boxes), "`tracked`: id 1"),
        (TWO, TrackBoxes(TWO.frames, TWO.ids, TWO.boxes * np.nan), "`tracked`.*finite"),
    ],
)
def test_what_cannot_be_judged(truth: TrackBoxes, result: TrackBoxes, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        evaluate(truth, result)


def test_a_track_claimed_twice_keeps_the_cheaper_claim() -> None:
    frames = np.array([0, 1, 1, 2, 2, 2])
    tracks = np.array([0, 0, 0, 0, 0, 1])
    cost = np.array([np.nan, 0.9, 0.1, 0.2, 0.3, 0.0])
    assert unique_per_frame(frames, tracks, cost).tolist() == [0, 2, 0, 0, 2, 1]
    assert unique_per_frame(frames[:2], tracks[:2], cost[:2]).tolist() == [0, 0]
    assert unique_per_frame(frames[:0], tracks[:0], cost[:0]).tolist() == []
