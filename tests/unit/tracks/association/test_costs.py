"""The four terms, by hand and against the formulas written out."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tests.helpers.scenes import SQUARE
from tracks.association.costs import cost_terms


def test_worked_out_by_hand() -> None:
    before = np.array([[3.0, 4.0]], np.float32)
    after = np.array([[4.0, 3.0], [-3.0, -4.0]], np.float32)
    boxes = np.array([[5.0, 0.0, 15.0, 10.0], [0.0, 0.0, 20.0, 20.0]])
    pairs = cost_terms(before, np.array([SQUARE]), after, boxes, diagonal_px=50.0)
    assert pairs.feature[0] == pytest.approx([1 - 24 / 25, 2.0], abs=1e-6)
    assert pairs.iou[0] == pytest.approx([1 - 50 / 150, 1 - 100 / 400])
    assert pairs.area[0] == pytest.approx([0.0, 1 - 100 / 400])
    assert pairs.distance[0] == pytest.approx([5 / 50, math.hypot(5, 5) / 50])
    assert pairs.total[0, 0] == pytest.approx(0.04 + 2 / 3 + 0.1, abs=1e-6)


def test_weights_apply_to_their_own_term() -> None:
    before, after = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    boxes = np.array([[5.0, 0.0, 25.0, 10.0]])
    pairs = cost_terms(
        before, np.array([SQUARE]), after, boxes, diagonal_px=50.0, weights=(1, 10, 100, 1000)
    )
    expected = 1 + 10 * (1 - 50 / 250) + 100 * (1 - 100 / 200) + 1000 * (10 / 50)
    assert pairs.total[0, 0] == pytest.approx(expected, abs=1e-5)


def test_itself_costs_nothing_at_any_scale() -> None:
    looks = np.random.default_rng(1).normal(size=(5, 8)).astype(np.float32)
    boxes = np.array([SQUARE]) + np.arange(5)[:, None] * 30
    pairs = cost_terms(looks, boxes, 1000 * looks, boxes, diagonal_px=10.0)
    assert np.diag(pairs.total) == pytest.approx(np.zeros(5), abs=1e-6)
    for term in pairs[:-1]:
        assert term == pytest.approx(term.T, abs=1e-6)


def test_flat_boxes_and_no_boxes_give_numbers() -> None:
    flat, one = np.array([[5.0, 5.0, 5.0, 5.0]]), np.ones((1, 3), np.float32)
    pairs = cost_terms(one, flat, one, flat, diagonal_px=10.0)
    assert (pairs.iou[0, 0], pairs.area[0, 0], pairs.distance[0, 0]) == (1.0, 1.0, 0.0)
    assert np.isfinite(pairs.total).all()
    assert cost_terms(one[:0], flat[:0], one, flat, diagonal_px=1.0).total.shape == (0, 1)


@pytest.mark.parametrize("where", ["before", "after"])
def test_a_zero_vector_is_an_error_that_names_its_row(where: str) -> None:
    looks = {"before": np.ones((3, 4), np.float32), "after": np.ones((3, 4), np.float32)}
    looks[where][1] = 0
    boxes = np.array([SQUARE] * 3)
    with pytest.raises(ValueError, match="row 1"):
        cost_terms(looks["before"], boxes, looks["after"], boxes, diagonal_px=1.0)


def literal_terms(
    one: np.ndarray, box_one: np.ndarray, two: np.ndarray, box_two: np.ndarray, diagonal: float
) -> list[float]:
    """The formulas, one pair at a time, in plain Python numbers."""
    size_one, size_two = (sum(abs(v) for v in side.tolist()) for side in (one, two))
    a = [value / size_one for value in one.tolist()]
    b = [value / size_two for value in two.tolist()]
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    cosine = dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))
    wide = max(0.0, min(box_one[2], box_two[2]) - max(box_one[0], box_two[0]))
    high = max(0.0, min(box_one[3], box_two[3]) - max(box_one[1], box_two[1]))
    area_one = (box_one[2] - box_one[0]) * (box_one[3] - box_one[1])
    area_two = (box_two[2] - box_two[0]) * (box_two[3] - box_two[1])
    iou = wide * high / (area_one + area_two - wide * high)
    middle_one = ((box_one[0] + box_one[2]) / 2, (box_one[1] + box_one[3]) / 2)
    middle_two = ((box_two[0] + box_two[2]) / 2, (box_two[1] + box_two[3]) / 2)
    return [
        1 - cosine,
        1 - iou,
        1 - min(area_one, area_two) / max(area_one, area_two),
        math.dist(middle_one, middle_two) / diagonal,
    ]


def random_side(count: int, *, signed: bool, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    looks = random.normal(size=(count, 1280)) if signed else random.gamma(0.5, size=(count, 1280))
    corner = random.uniform(0, 400, (count, 2))
    return looks.astype(np.float32), np.hstack(
        [corner, corner + random.uniform(5, 200, (count, 2))]
    )


@pytest.mark.parametrize("signed", [True, False])
def test_terms_are_the_formulas_written_out(signed: bool) -> None:
    one, boxes_one = random_side(9, signed=signed, seed=3)
    two, boxes_two = random_side(11, signed=signed, seed=4)
    weights = (1.0, 0.5, 2.0, 4.0)
    pairs = cost_terms(one, boxes_one, two, boxes_two, diagonal_px=700.0, weights=weights)
    for i in range(9):
        for j in range(11):
            expected = literal_terms(one[i], boxes_one[i], two[j], boxes_two[j], 700.0)
            assert [term[i, j] for term in pairs[:-1]] == pytest.approx(expected, abs=1e-6)
            assert pairs.total[i, j] == pytest.approx(np.dot(weights, expected), abs=1e-6)
    at = tuple(np.indices((9, 11)).reshape(2, -1))
    listed = cost_terms(
        one, boxes_one, two, boxes_two, diagonal_px=700.0, weights=weights, pairs=at
    )
    for dense, of_list in zip(pairs, listed, strict=True):
        assert of_list == pytest.approx(dense[at], abs=1e-6)


def test_of_several_looks_the_best_counts_and_an_empty_place_is_none() -> None:
    gallery = np.zeros((2, 3, 2), np.float32)
    gallery[0, 0], gallery[0, 1] = [1, 0], [0, 1]
    gallery[1, 0] = [-1, 0]
    after = np.array([[0.0, 2.0], [1.0, 0.0]], np.float32)
    boxes = np.array([SQUARE] * 2)
    pairs = cost_terms(gallery, boxes, after, boxes, diagonal_px=1.0)
    # The second track is unlike the second detection; its empty places must not say 1.
    assert pairs.feature == pytest.approx(np.array([[0.0, 0.0], [1.0, 2.0]]))
    at = (np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    listed = cost_terms(gallery, boxes, after, boxes, diagonal_px=1.0, pairs=at)
    assert listed.feature == pytest.approx(pairs.feature[at])
