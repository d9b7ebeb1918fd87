"""The one normalisation of the index: its values and its refusals."""

from __future__ import annotations

import numpy as np
import pytest

from common.errors import SnapshotError
from index.metrics import prepare
from index.vectors import l1_normalise, unusable


def test_absolute_values_sum_to_one_and_direction_stays() -> None:
    vectors = np.array([[1, -3], [0, 2], [1e-20, 1e-20]], np.float32)
    normal = l1_normalise(vectors, ["a", "b", "c"])
    assert normal.dtype == np.float32
    expected = np.array([[0.25, -0.75], [0, 1], [0.5, 0.5]])
    np.testing.assert_allclose(normal, expected, rtol=1e-6)


def test_float16_sums_do_not_overflow() -> None:
    vectors = np.full((1, 4096), 60_000, np.float16)  # float16 ends at 65,504
    np.testing.assert_allclose(l1_normalise(vectors, ["a"]), 1 / 4096, rtol=1e-6)


def test_no_vectors_is_no_error() -> None:
    assert l1_normalise(np.empty((0, 3), np.float32), []).shape == (0, 3)


@pytest.mark.parametrize("bad", [0.0, np.nan, np.inf])
def test_vector_without_direction_is_refused_by_name(bad: float) -> None:
    vectors = np.ones((3, 2), np.float32)
    vectors[1] = bad
    with pytest.raises(SnapshotError, match=r"1 of 3 vectors .*: 'moth-2';"):
        l1_normalise(vectors, ["moth-1", "moth-2", "moth-3"])


def test_long_lists_of_bad_vectors_are_counted() -> None:
    with pytest.raises(SnapshotError, match=r"8 of 8 .*'r0', 'r1', 'r2', 'r3', 'r4' and 3 more"):
        l1_normalise(np.zeros((8, 2), np.float32), [f"r{n}" for n in range(8)])


@pytest.mark.parametrize("kind", ["f2", "f4", "f8"])
def test_zero_and_not_finite_are_told_apart(kind: str) -> None:
    smallest, largest = np.finfo(kind).smallest_subnormal, np.finfo(kind).max
    vectors = np.zeros((7, 3), kind)
    vectors[1] = largest  # their sum is more than the type can hold
    vectors[2, 1] = smallest
    vectors[3, 0], vectors[4, 2], vectors[5] = np.nan, -np.inf, [np.inf, -np.inf, 0]
    vectors[6] = -0.0
    zero, not_finite = unusable(vectors)
    assert np.flatnonzero(zero).tolist() == [0, 6]
    assert np.flatnonzero(not_finite).tolist() == [3, 4, 5]
    for metric in ("cosine", "ip"):
        usable = prepare(vectors[1:3], ["a", "b"], metric)  # type: ignore[arg-type]
        length = np.linalg.norm(usable, axis=1) if metric == "cosine" else abs(usable).sum(axis=1)
        np.testing.assert_allclose(length, 1, rtol=1e-6)


def test_no_vectors_are_all_usable() -> None:
    zero, not_finite = unusable(np.empty((0, 3), np.float32))
    assert (zero.shape, not_finite.shape) == ((0,), (0,))
