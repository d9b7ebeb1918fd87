"""What a score is, for every metric, against SciPy."""

from __future__ import annotations

from typing import get_args

import faiss
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from index.config import Metric
from index.metrics import faiss_metric, higher_is_nearer, prepare, to_scores
from tests.helpers.indexes import embeddings, true_scores

EVERY = get_args(Metric)


def scored(metric: Metric, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Scores of all vectors for each query as the index makes them, [Q, N]."""
    index = faiss.IndexFlat(vectors.shape[1], faiss_metric(metric))
    index.add(prepare(vectors, [""] * len(vectors), metric))
    values, rows = index.search(prepare(queries, [""] * len(queries), metric), len(vectors))
    scores = to_scores(values, metric)
    worse = np.diff(scores, axis=1)
    assert (worse <= 1e-6).all() if higher_is_nearer(metric) else (worse >= -1e-6).all()
    return np.asarray(np.take_along_axis(scores, np.argsort(rows, axis=1), axis=1))


@pytest.mark.parametrize("metric", EVERY)
def test_scores_are_those_of_the_definition(metric: Metric) -> None:
    queries, vectors = embeddings(7, seed=1), embeddings(50)
    values = scored(metric, queries, vectors)
    np.testing.assert_allclose(values, true_scores(metric, queries, vectors), atol=2e-6)


@pytest.mark.parametrize("metric", EVERY)
def test_length_does_not_matter(metric: Metric) -> None:
    queries, vectors = embeddings(3, seed=1), embeddings(20)
    longer = scored(metric, queries * 1000, vectors * np.float32(0.01))
    np.testing.assert_allclose(longer, scored(metric, queries, vectors), atol=2e-6)


def test_inner_product_is_not_cosine() -> None:
    raw = np.array([[1, 1, 1, 1], [4, 1, 1, 1]], np.float32)
    even, spiky = 0, 1
    product, cosine = scored("ip", raw, raw), scored("cosine", raw, raw)
    assert product[even, even] == pytest.approx(product[even, spiky]), "it ranks spikes as high"
    assert product[spiky, spiky] > product[spiky, even] > product[even, even] - 1e-6
    np.testing.assert_allclose(np.diag(cosine), 1, atol=1e-6)
    np.testing.assert_allclose(cosine, 1 - cdist(raw, raw, "cosine"), atol=1e-6)


@pytest.mark.parametrize(
    ("metric", "values", "expected"),
    [
        ("cosine", [1.0000001, -1.0000001, 0.5], [1, -1, 0.5]),
        ("ip", [1.0000001, -1.0000001, 0.25], [1, -1, 0.25]),
        ("l1", [2.0000002, -1e-9, 0.5], [2, 0, 0.5]),
        ("l2", [4.0000005, -1e-9, 0.25], [2, 0, 0.5]),  # FAISS gives squares
    ],
)
def test_no_score_leaves_its_range(
    metric: Metric, values: list[float], expected: list[float]
) -> None:
    scores = to_scores(np.array(values, np.float32), metric)
    np.testing.assert_allclose(scores, expected, atol=1e-7)
    low, high = (-1, 1) if higher_is_nearer(metric) else (0, 2)
    assert scores.min() >= low
    assert scores.max() <= high


def test_ends_of_the_ranges_are_reached() -> None:
    raw = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0]], np.float32)
    for metric, same, opposite in (("cosine", 1, -1), ("ip", 1, -1), ("l1", 0, 2), ("l2", 0, 2)):
        values = scored(metric, raw[:1], raw)[0]  # type: ignore[arg-type]
        assert (values[0], values[1]) == (same, opposite)


@pytest.mark.parametrize("metric", EVERY)
def test_what_a_vector_becomes_does_not_depend_on_the_others(metric: Metric) -> None:
    vectors = embeddings(40)
    tiny, huge = vectors[:1] * np.float32(1e-25), vectors[1:2] * np.float32(1e25)
    alone = prepare(vectors, range(40), metric)
    among = prepare(np.concatenate([tiny, vectors, huge]), range(42), metric)
    np.testing.assert_array_equal(among[1:-1], alone)
    for row, one in ((0, tiny), (-1, huge)):
        np.testing.assert_array_equal(among[row], prepare(one, ["it"], metric)[0])
    for row in range(0, 40, 7):
        np.testing.assert_array_equal(
            prepare(vectors[row : row + 1], ["it"], metric)[0], alone[row]
        )
