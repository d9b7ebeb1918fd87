"""Which index is made, what it really measures, and how recall is counted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faiss
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from cluster.errors import SnapshotError
from index.factory import (
    Knob,
    Metric,
    check_scores,
    choose_factory,
    exact_scores,
    full_name,
    is_exact,
    knob_of,
    make_index,
    search_parameters,
    train,
)
from index.recall import ExactKnn, Hits, recall_at
from index.vectors import l1_normalise

DIM = 16


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Training on a few rows is ten times slower when its threads wait for each other."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    raw = np.random.default_rng(3).normal(size=(400, DIM))
    return l1_normalise(raw, ["" for _ in raw])


def filled(factory: str, metric: Metric, vectors: np.ndarray) -> Any:
    index = make_index(factory, DIM, metric)
    train(index, vectors, factory, metric)
    index.add(vectors)
    return index


def test_auto_is_exact_for_few_values_and_a_graph_above() -> None:
    assert choose_factory(20_000, 1280) == "Flat"
    assert choose_factory(20_001, 1280) == "HNSW32"
    assert choose_factory(1, 4096) == "Flat"


def test_cosine_gets_its_normalisation_once() -> None:
    assert full_name("Flat", "cosine") == "L2norm,Flat"
    assert full_name(" L2norm,HNSW32 ", "cosine") == "L2norm,HNSW32"
    assert full_name("HNSW32", "l1") == "HNSW32"


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF4,Flat", "IVF4,PQ8x4fs,RFlat"])
def test_cosine_scores_are_cosine(factory: str, vectors: np.ndarray) -> None:
    scores, rows = filled(factory, "cosine", vectors).search(vectors[:20], 5)
    true = 1 - cdist(vectors[:20].astype(float), vectors.astype(float), "cosine")
    np.testing.assert_allclose(scores, np.take_along_axis(true, rows, 1), atol=1e-5)


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF4,Flat"])
def test_l1_scores_are_cityblock(factory: str, vectors: np.ndarray) -> None:
    scores, rows = filled(factory, "l1", vectors).search(vectors[:20], 5)
    true = cdist(vectors[:20].astype(float), vectors.astype(float), "cityblock")
    np.testing.assert_allclose(scores, np.take_along_axis(true, rows, 1), atol=1e-5)


def test_inner_product_on_l1_normalised_vectors_is_not_cosine() -> None:
    raw = np.array([[1, 1, 1, 1], [4, 1, 1, 1]], np.float32)
    same, spiky = l1_normalise(raw, ["same", "spiky"])
    assert same @ spiky == pytest.approx(same @ same), "it cannot even tell a vector from another"
    assert spiky @ spiky > same @ same
    index = make_index("Flat", 4, "cosine")
    index.add(np.stack([same, spiky]))
    scores, rows = index.search(same[None], 2)
    assert rows.tolist() == [[0, 1]]
    np.testing.assert_allclose(scores, [[1, 7 / np.sqrt(4 * 19)]], rtol=1e-6)


@pytest.mark.parametrize(
    ("factory", "metric"),
    [
        ("PQ4x4", "l1"),  # FAISS ranks by inner product and says nothing
        ("HNSW32,PQ4x4", "l1"),  # … and by squared L2 here
        ("L2norm,Flat", "l1"),  # L1 of L2-normalised vectors
        ("NSG16", "cosine"),  # takes vectors only once
        ("SQ8", "l1"),  # throws when searched
        ("IDMap,Flat", "cosine"),  # throws when added to
    ],
)
def test_factory_that_answers_something_else_is_refused(
    factory: str, metric: Metric, vectors: np.ndarray
) -> None:
    index = make_index(factory, DIM, metric)
    train(index, vectors, factory, metric)
    with pytest.raises(SnapshotError, match="does not work for metric") as caught:
        check_scores(index, vectors, vectors[:8], factory, metric)
    message = str(caught.value)
    assert repr(factory) in message
    assert repr(metric) in message
    assert "HNSW32" in message
    assert "\n" not in message
    assert index.ntotal == 0


@pytest.mark.parametrize("factory", ["Flat", "HNSW32", "IVF4,SQ8", "PQ4x4", "IVF4,PQ8x4fs,RFlat"])
def test_good_factory_passes_the_check(factory: str, vectors: np.ndarray) -> None:
    index = make_index(factory, DIM, "cosine")
    train(index, vectors, factory, "cosine")
    check_scores(index, vectors, vectors[:8], factory, "cosine")
    assert index.ntotal == 0


def test_one_vector_is_enough_for_the_check(vectors: np.ndarray) -> None:
    for metric in ("cosine", "l1"):
        check_scores(make_index("Flat", DIM, metric), vectors[:1], vectors[:1], "Flat", metric)


@pytest.mark.parametrize(
    ("factory", "why"),
    [("Bogus", "Bogus"), ("PQ7", "multiple"), ("", ""), ("IVF4,PQ8x4fs", "RFlat")],
)
def test_bad_string_is_refused_on_one_line(factory: str, why: str) -> None:
    with pytest.raises(
        SnapshotError, match=rf"factory {factory!r} .*{why}.*IVF1024,Flat"
    ) as caught:
        make_index(factory, DIM, "cosine")
    assert "\n" not in str(caught.value)


def test_too_few_rows_to_train_is_refused(vectors: np.ndarray) -> None:
    with pytest.raises(SnapshotError, match="training on 30 rows"):
        train(make_index("IVF64,Flat", DIM, "cosine"), vectors[:30], "IVF64,Flat", "cosine")


@pytest.mark.parametrize(
    ("factory", "name", "limit"), [("IVF8,Flat", "nprobe", 8), ("HNSW32", "efSearch", 1024)]
)
def test_knob_is_found_and_set_for_one_call(
    factory: str, name: str, limit: int, vectors: np.ndarray
) -> None:
    for metric in ("cosine", "l1"):
        index = filled(factory, metric, vectors)
        knob = knob_of(index)
        assert knob is not None
        assert (knob.name, knob.limit) == (name, limit)
        params = search_parameters(index, {name: limit})
        scores, _ = index.search(vectors[:50], 10, params=params)
        true = np.sort(exact_scores(vectors[:50], vectors, metric), axis=1)
        best = true[:, ::-1][:, :10] if metric == "cosine" else true[:, :10]
        np.testing.assert_allclose(scores, best, atol=1e-5)


def test_flat_has_no_knob_and_is_exact(vectors: np.ndarray) -> None:
    flat = filled("Flat", "cosine", vectors)
    assert knob_of(flat) is None
    assert search_parameters(flat, {}) is None
    assert is_exact(flat)
    assert not is_exact(filled("HNSW32", "cosine", vectors))
    assert not is_exact(filled("PCA8,Flat", "cosine", vectors))


def test_ladder_doubles_and_ends_at_the_limit() -> None:
    assert Knob("nprobe", 1, 6).ladder() == [1, 2, 4, 6]
    assert Knob("nprobe", 1, 1).ladder() == [1]


@pytest.mark.parametrize("metric", ["cosine", "l1"])
def test_exact_search_in_blocks_equals_exact_search_at_once(
    metric: Metric, vectors: np.ndarray
) -> None:
    search = ExactKnn(vectors[:9], 7, metric)
    for first in range(0, len(vectors), 64):
        search.add(vectors[first : first + 64], first)
    hits = search.hits()
    scores = exact_scores(vectors[:9], vectors, metric)
    order = np.argsort(-scores if metric == "cosine" else scores, axis=1)[:, :7]
    np.testing.assert_array_equal(hits.rows, order)
    np.testing.assert_allclose(hits.scores, np.take_along_axis(scores, order, 1), atol=1e-6)


def hits(rows: list[int], scores: list[float]) -> Hits:
    return Hits(np.array([rows]), np.array([scores], np.float32))


def test_recall_counts_the_share_found() -> None:
    exact = hits([1, 2, 3, 4], [0.9, 0.8, 0.7, 0.6])
    assert recall_at(exact, exact) == 1
    assert recall_at(exact, hits([4, 1, 8, 9], [0.6, 0.9, 0.5, 0.4])) == 0.5
    assert recall_at(exact, hits([1, -1, -1, -1], [0.9, 0, 0, 0])) == 0.25


def test_recall_takes_a_tie_for_the_last_place_but_not_for_a_better_one() -> None:
    exact = hits([1, 2, 3], [0.9, 0.5, 0.5])
    assert recall_at(exact, hits([1, 7, 8], [0.9, 0.5, 0.5])) == 1
    assert recall_at(exact, hits([7, 8, 9], [0.5, 0.5, 0.5])) == pytest.approx(2 / 3)


def test_faiss_metric_constants_are_what_the_scores_assume() -> None:
    assert make_index("Flat", DIM, "l1").metric_type == faiss.METRIC_L1
