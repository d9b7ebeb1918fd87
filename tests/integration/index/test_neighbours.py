"""The right neighbours: among copies, for every number of them, alone and together, in one order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.build.version import build_index
from index.config import IndexConfig, Metric
from index.search.accelerator import WIDTHS
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from tests.helpers.indexes import make_run, order_of, true_scores

ROWS, DIM = 6_000, 64
KS = (1, 2, 5, 10, 16, 17, 20, 50, 100, 500, 1_500)


def varied(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Vectors that lie near a space of twelve dimensions, as embeddings do."""
    random = np.random.default_rng(seed)
    axes = np.random.default_rng(77).normal(size=(12, dim))
    raw = random.normal(size=(rows, 12)) @ axes + 0.3 * random.normal(size=(rows, dim))
    return raw.astype(np.float32)


def with_copies(share: float, groups: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of which a share are copies of a few, and which of them occur once."""
    random = np.random.default_rng(5)
    single = round(ROWS * (1 - share))
    raw = varied(single + groups, DIM)
    raw /= np.linalg.norm(raw, axis=1, keepdims=True)
    copies = raw[single:][random.integers(groups, size=ROWS - single)]
    copies += noise * random.normal(size=copies.shape).astype(np.float32)
    order = random.permutation(ROWS)
    occurs_once = np.arange(ROWS) < single
    return np.concatenate([raw[:single], copies])[order], occurs_once[order]


def build(folder: Path, vectors: np.ndarray, factory: str, **config: Any) -> Snapshot:
    run = make_run(folder / "run", vectors)
    return build_index([run], folder / "index", IndexConfig(factory=factory, **config))


def recall_of(scores: np.ndarray, true: np.ndarray, k: int, *, higher: bool = True) -> float:
    """Share of the hits [Q, k] that are at least as near as the true k-th; ``true`` is sorted."""
    last = true[:, k - 1 : k]
    near = scores[:, :k] >= last - 3e-6 if higher else scores[:, :k] <= last + 3e-6
    return float(near.mean())


@pytest.mark.parametrize(
    ("share", "groups", "noise"),
    [
        (0.0, 5, 0.0),
        (0.6, 5, 0.0),
        (0.6, 5, 0.01),
        (0.9, 20, 0.0),
        (0.9, 20, 0.001),
        (0.9, 60, 0.01),
    ],
)
def test_rows_that_occur_once_are_found_among_copies(
    tmp_path: Path, share: float, groups: int, noise: float
) -> None:
    vectors, once = with_copies(share, groups, noise)
    snapshot = build(tmp_path, vectors, "HNSW16,SQ8")
    assert snapshot.manifest.warning is None
    rows = snapshot.rows_of([f"d{row}" for row in np.flatnonzero(once)])
    queries = snapshot.vectors(rows)
    hits = snapshot.search(queries, 11)
    itself = (hits.rows == rows[:, None]).any(axis=1)
    assert itself.mean() >= 0.99
    true = -np.sort(-(queries @ snapshot.vectors(np.arange(ROWS)).T), axis=1)
    recall = recall_of(hits.scores, true, 11)
    assert recall >= 0.95
    measured = snapshot.manifest.recall.measured
    assert measured == pytest.approx(recall, abs=0.01)


def test_the_manifest_says_what_other_rows_reach(tmp_path: Path) -> None:
    """The rows that it is measured with are added last, when no later row links to them."""
    vectors = np.random.default_rng(3).normal(size=(8_000, 96)).astype(np.float32)
    snapshot = build(tmp_path, vectors, "HNSW16,SQ8")
    stored = snapshot.vectors(np.arange(len(vectors)))
    true = -np.sort(-(stored[:600] @ stored.T), axis=1)
    recall = recall_of(snapshot.search(stored[:600], 11).scores, true, 11)
    assert snapshot.manifest.recall.measured == pytest.approx(recall, abs=0.01)


@pytest.fixture(
    scope="module",
    params=["Flat", "HNSW16,SQ8", "HNSW16", "IVF32,PQ32x4fsr", "IVF32,SQ8", "PCA32,IVF16,Flat"],
)
def searched(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    folder = tmp_path_factory.mktemp("searched")
    return build(folder, varied(ROWS, DIM), request.param)


def test_recall_is_kept_for_every_number_of_neighbours(searched: Snapshot) -> None:
    queries = varied(200, DIM, seed=3)
    stored = varied(ROWS, DIM)[order_of(searched)]
    true = -np.sort(-true_scores("cosine", queries, stored), axis=1)
    for k in KS:
        assert recall_of(searched.search(queries, k).scores, true, k) >= 0.945, k
    for k in map(int, searched.manifest.recall.by_k):
        assert k < max(WIDTHS)


def test_fewer_neighbours_are_the_first_of_more(searched: Snapshot) -> None:
    """For all numbers that share the effort of a search, also of a row's own neighbours."""
    queries = varied(100, DIM, seed=4)
    for width, ks in ((12, (1, 2, 5, 10, 12)), (64, (13, 50, 64)), (2_000, (1_100, 2_000))):
        widest = searched.search(queries, width)
        for k in ks:
            hits = searched.search(queries, k)
            np.testing.assert_array_equal(hits.rows, widest.rows[:, :k])
            np.testing.assert_array_equal(hits.scores, widest.scores[:, :k])
    for name in ("d5", "d77", "d5999"):
        ten = searched.neighbors(name, 10)
        np.testing.assert_array_equal(searched.neighbors(name, 1).rows, ten.rows[:, :1])


def test_a_query_alone_is_answered_as_among_others(searched: Snapshot) -> None:
    queries = varied(300, DIM, seed=6)
    for k, exact in ((1, False), (10, False), (50, False), (10, True), (1_500, False)):
        together = searched.search(queries, k, exact=exact)
        for number in range(0, 300, 13):
            alone = searched.search(queries[number : number + 1], k, exact=exact)
            np.testing.assert_array_equal(alone.rows[0], together.rows[number])
            np.testing.assert_array_equal(alone.scores[0], together.scores[number])
        few = searched.search(queries[:7], k, exact=exact)
        np.testing.assert_array_equal(few.rows, together.rows[:7])


@pytest.mark.parametrize("factory", ["Flat", "HNSW16,SQ8", "IVF16,Flat", "SQ8"])
@pytest.mark.parametrize("metric", ["cosine", "ip", "l1", "l2"])
def test_equal_scores_are_in_the_order_of_rows(
    tmp_path: Path, factory: str, metric: Metric
) -> None:
    if metric == "l1" and "SQ8" in factory:
        pytest.skip("l1 needs whole vectors")
    vectors = varied(2_000, DIM)
    vectors[100:1_300:4] = vectors[7]  # 300 equal rows and the one they are copies of
    snapshot = build(tmp_path, vectors, factory, metric=metric)
    equal = np.sort(snapshot.rows_of([f"d{row}" for row in (7, *range(100, 1_300, 4))]))
    queries = np.stack([vectors[7], vectors[7] + np.float32(0.001)])
    for k in (1, 2, 10, 30, 100, 299, 301, 350):
        for query in queries:
            hits = snapshot.search(query[None], k)
            np.testing.assert_array_equal(hits.rows[0, : min(k, 301)], equal[:k])
            assert len(set(hits.rows[0].tolist())) == k
    kept = snapshot.matching()[::3]
    expected = equal[np.isin(equal, kept)]
    names = snapshot.columns(kept, ["detection_id"])["detection_id"]
    hits = snapshot.search(queries[:1], 40, filter=Filter(ids=frozenset(names)))
    np.testing.assert_array_equal(hits.rows[0], expected[:40])


def test_different_vectors_with_equal_scores_are_in_the_order_of_rows(tmp_path: Path) -> None:
    """Every row as far from the query as every other, and none equal to another."""
    vectors = np.eye(300, dtype=np.float32)
    snapshot = build(tmp_path, vectors, "Flat")
    query = np.ones((1, 300), np.float32)
    for k in (1, 10, 299):
        assert snapshot.search(query, k).rows[0].tolist() == list(range(k))
        assert snapshot.search(np.repeat(query, 40, 0), k).rows[39].tolist() == list(range(k))
