"""Training and exact search on a GPU: what the CPU finds. Written for machines that have one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from index.build.version import build_index
from index.config import IndexConfig
from index.metrics import prepare
from index.search.factory import core_index, make_index, train
from index.search.filters import Filter
from index.search.recall import recall_at
from tests.helpers.indexes import embeddings, in_threads, make_run, true_hits, true_scores

pytestmark = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _faiss_sees_it() -> None:
    assert faiss.get_num_gpus() > 0, "torch sees a GPU and FAISS does not: install faiss-gpu"


@pytest.mark.parametrize("factory", ["IVF64,Flat", "IVF64,PQ16x4fs", "PCA16,IVF64,SQ8"])
def test_lists_are_trained_as_well_as_on_the_cpu(factory: str) -> None:
    vectors = prepare(embeddings(6000), [""] * 6000, "cosine")
    index = make_index(factory, 32, "cosine")
    train(index, vectors, factory, "cosine")
    assert core_index(index).clustering_index is None, "nothing of the GPU is kept"
    on_gpu = quality(index, vectors)
    cpu = make_index(factory, 32, "cosine")
    cpu.train(vectors)
    assert on_gpu >= quality(cpu, vectors) - 0.01


def quality(index: Any, vectors: np.ndarray) -> float:
    """Mean nearness of each vector to the centre of its list; the higher the better."""
    inner = vectors
    if isinstance(index, faiss.IndexPreTransform):
        inner = index.chain.at(0).apply(vectors)
    nearness, _ = core_index(index).quantizer.search(np.ascontiguousarray(inner), 1)
    return float(nearness.mean())


@pytest.mark.parametrize("metric", ["cosine", "ip", "l1", "l2"])
def test_exact_search_is_that_of_the_definition(tmp_path: Path, metric: Any) -> None:
    raw, queries = embeddings(3000), embeddings(25, seed=9)
    snapshot = build_index(
        [make_run(tmp_path / "run", raw)], tmp_path / "index", IndexConfig(metric=metric)
    )
    stored = raw[[int(name[1:]) for name in snapshot.rows["detection_id"].to_pylist()]]
    hits = snapshot.search(queries, 10, exact=True)
    assert recall_at(true_hits(metric, queries, stored, 10), hits) >= 0.99
    true = np.take_along_axis(true_scores(metric, queries, stored), hits.rows, 1)
    np.testing.assert_allclose(hits.scores, true, atol=1e-4)
    even = Filter("row_id % 2 = 0")
    assert np.isin(snapshot.search(queries, 10, filter=even).rows, snapshot.matching(even)).all()


def test_threads_share_the_gpu(tmp_path: Path) -> None:
    snapshot = build_index([make_run(tmp_path / "run", embeddings(3000))], tmp_path / "index")
    queries = embeddings(40, seed=5)
    expected = snapshot.search(queries, 5, exact=True)

    def search_one_by_one() -> None:
        for query in range(40):
            hits = snapshot.search(queries[query : query + 1], 5, exact=True)
            np.testing.assert_array_equal(hits.rows, expected.of(query).rows)

    in_threads(search_one_by_one)
