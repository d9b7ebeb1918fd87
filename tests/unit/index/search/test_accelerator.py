"""Every kind of index, searched as hard as it can be: what brute force finds, filtered or not."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from index.config import Metric
from index.metrics import faiss_metric, higher_is_nearer, prepare, to_scores
from index.search.accelerator import Accelerator, SearchParams
from index.search.allowed import Allowed
from index.search.factory import make_index, save, train
from index.search.nodes import Nodes
from tests.helpers.indexes import DIM, embeddings, true_scores

ROWS, K, WIDTH = 2000, 10, 16
RAW, QUERIES = embeddings(ROWS), embeddings(20, seed=5)

LISTS = ["IVF16,Flat", "IVF16,SQ8", "IVF16,PQ8x4", "IVF16,PQ16x4fs", "IVF32_HNSW8,Flat"]
PROJECTED = ["PCA8,IVF4,Flat", "OPQ16,IVF16,PQ16x4fs", "PCA16,HNSW16"]
NODES = Nodes.of_rows(np.arange(ROWS))
GRAPHS = ["HNSW16", "HNSW16,SQ8"]
CODES = ["SQ8", "PQ8x4", "PQ8x4fs", "NSG16"]

EVERY: list[tuple[str, Metric]] = [
    *((name, "cosine") for name in (*LISTS, *PROJECTED, *GRAPHS, *CODES)),
    *((name, "ip") for name in ("IVF16,PQ16x4fs", "HNSW16", "SQ8")),
    *((name, "l2") for name in ("IVF16,PQ16x4fs", "PCA8,IVF4,Flat", "HNSW16", "PQ8x4")),
    *((name, "l1") for name in ("IVF16,Flat", "HNSW16")),
]
FILTERED = [(name, metric) for name, metric in EVERY if name not in CODES]


@cache
def index_and_store(factory: str, metric: Metric) -> tuple[Any, Any]:
    """An index of all rows and the exact vectors."""
    vectors = prepare(RAW, [""] * ROWS, metric)
    index = make_index(factory, DIM, metric)
    train(index, vectors, factory, metric)
    index.add(vectors)
    store = faiss.IndexFlat(DIM, faiss_metric(metric))
    store.add(vectors)
    return index, store


def open_accelerator(factory: str, metric: Metric, folder: Path) -> Accelerator:
    """As a snapshot opens it: from a file."""
    index, store = index_and_store(factory, metric)
    save(index, folder / "search.faiss")
    return Accelerator.open(folder / "search.faiss", store, metric, NODES)


def brute(
    metric: Metric, queries: np.ndarray, k: int, mask: np.ndarray | None = None
) -> np.ndarray:
    """Rows of the ``k`` nearest that ``mask`` lets pass, [Q, k]."""
    scores = true_scores(metric, queries, RAW)
    signed = -scores if higher_is_nearer(metric) else scores
    if mask is not None:
        signed[:, ~mask] = np.inf
    return np.argsort(signed, axis=1)[:, :k]


def recall_of(rows: np.ndarray, true: np.ndarray) -> float:
    pairs = zip(rows.tolist(), true.tolist(), strict=True)
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


def prepared(metric: Metric, queries: np.ndarray = QUERIES) -> np.ndarray:
    return prepare(queries, [""] * len(queries), metric)


@pytest.mark.parametrize(("factory", "metric"), EVERY)
def test_hardest_search_is_brute_force(tmp_path: Path, factory: str, metric: Metric) -> None:
    accelerator = open_accelerator(factory, metric, tmp_path)
    values, rows = accelerator.search(prepared(metric), K, accelerator.search_grid(WIDTH)[-1][-1])
    assert recall_of(rows, brute(metric, QUERIES, K)) >= 0.995
    true = np.take_along_axis(true_scores(metric, QUERIES, RAW), rows, 1)
    np.testing.assert_allclose(to_scores(values, metric), true, atol=3e-6)


@pytest.mark.parametrize(("factory", "metric"), EVERY)
def test_more_effort_never_finds_less(tmp_path: Path, factory: str, metric: Metric) -> None:
    accelerator = open_accelerator(factory, metric, tmp_path)
    true = brute(metric, QUERIES, K)
    grid = accelerator.search_grid(WIDTH)
    for steps in (grid[0], [row[-1] for row in grid]):
        recalls = [
            recall_of(accelerator.search(prepared(metric), K, step)[1], true) for step in steps
        ]
        assert recalls[-1] >= max(recalls) - 0.02
        assert np.diff(recalls).min(initial=0) > -0.05


def masks(metric: Metric, query: np.ndarray) -> dict[str, np.ndarray]:
    """Rows by chance, and rows that are all far from ``query`` [1, D]."""
    random = np.random.default_rng(0)
    order = brute(metric, query, ROWS)[0]
    far, without_near = np.zeros(ROWS, bool), np.ones(ROWS, bool)
    far[order[-300:]] = True
    without_near[order[:60]] = False  # 0.97 of all, and the near ones are what is missing
    return {
        "a third": random.random(ROWS) < 0.3,
        "nearly all": random.random(ROWS) < 0.97,
        "far": far,
        "without near": without_near,
        "five": np.arange(ROWS) % 400 == 0,
    }


@pytest.mark.parametrize(("factory", "metric"), FILTERED)
@pytest.mark.parametrize("which", ["a third", "nearly all", "far", "without near", "five"])
def test_filtered_search_is_brute_force_among_what_fits(
    tmp_path: Path, factory: str, metric: Metric, which: str
) -> None:
    accelerator = open_accelerator(factory, metric, tmp_path)
    assert accelerator.supports_filters
    query = QUERIES[:1]
    mask = masks(metric, query)[which]
    allowed = Allowed(mask)
    k = min(K, allowed.count)
    queries = query if which in ("far", "without near") else QUERIES
    hardest = accelerator.search_grid(WIDTH)[-1][-1]
    _, rows = accelerator.search(prepared(metric, queries), k, hardest, allowed)
    assert mask[rows[rows >= 0]].all(), "a row that does not fit"
    assert all(len(set(row)) == len(row) for row in rows.tolist() if -1 not in row)
    whole = (rows >= 0).all(axis=1)  # the others are for the segment to compare with all
    if factory.startswith("IVF"):
        assert whole.all()
    true = brute(metric, queries, k, mask)
    if whole.any():
        assert recall_of(rows[whole], true[whole]) >= 0.97


@pytest.mark.parametrize("factory", ["IVF64,Flat", "IVF64,PQ16x4fs"])
def test_little_effort_is_enough_for_rows_that_are_all_far(tmp_path: Path, factory: str) -> None:
    """Lists are counted by what fits in them, so that it does not matter where that is."""
    accelerator = open_accelerator(factory, "cosine", tmp_path)
    params = SearchParams(WIDTH, 16, 16 if "PQ" in factory else 1)
    for query in QUERIES[:5]:
        far = masks("cosine", query[None])["far"]
        _, rows = accelerator.search(prepared("cosine", query[None]), K, params, Allowed(far))
        assert (rows >= 0).all()
        assert recall_of(rows, brute("cosine", query[None], K, far)) >= 0.9


@pytest.mark.parametrize("factory", CODES)
def test_codes_alone_take_no_filter(tmp_path: Path, factory: str) -> None:
    assert not open_accelerator(factory, "cosine", tmp_path).supports_filters


def test_grid_rises_and_ends_at_the_limit() -> None:
    lists = Accelerator(*index_and_store("IVF16,Flat", "cosine"), "cosine", NODES).search_grid(
        WIDTH
    )
    assert [[step.effort for step in row] for row in lists] == [[1, 2, 3, 4, 6, 9, 13, 16]]
    graph = Accelerator(*index_and_store("HNSW16", "cosine"), "cosine", NODES).search_grid(WIDTH)
    walked = [step.effort for step in graph[0]]
    assert (walked[:4], walked[-1]) == ([16, 24, 36, 54], 1024)
    codes = Accelerator(*index_and_store("SQ8", "cosine"), "cosine", NODES).search_grid(WIDTH)
    assert [[step.refine for step in row] for row in codes] == [[1, 2, 4, 8, 16, 32, 64]]
    both = Accelerator(*index_and_store("IVF16,PQ8x4", "cosine"), "cosine", NODES).search_grid(
        WIDTH
    )
    assert len(both) == 7
    assert both[1][3] == SearchParams(WIDTH, 4, 2)
