"""Embeddings, runs of them, and the exact answers of an index by definition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from scipy.spatial.distance import cdist

from index.config import Metric
from index.metrics import higher_is_nearer
from index.search.recall import Hits
from index.search.snapshot import Snapshot
from index.storage.layout import SEGMENTS
from tests.helpers.runs import write_run

DIM = 32


@pytest.fixture(scope="module", autouse=True)
def one_faiss_thread() -> Iterator[None]:
    """Work on a few rows is ten times slower when its threads wait for each other."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


def embeddings(rows: int, *, seed: int = 0, dim: int = DIM) -> np.ndarray:
    """Embeddings in twenty loose groups, of very different lengths."""
    centres = np.random.default_rng(99).normal(size=(20, dim))
    random = np.random.default_rng(seed)
    raw = centres[random.integers(20, size=rows)] + 0.6 * random.normal(size=(rows, dim))
    return (raw * random.uniform(0.1, 10, size=(rows, 1))).astype(np.float32)


def make_run(path: Path, vectors: np.ndarray, *, prefix: str = "d", **more: Any) -> Path:
    ids = [f"{prefix}{row}" for row in range(len(vectors))]
    images = [f"cam/{prefix}{row}.jpg" for row in range(len(vectors))]
    write_run(path, {"image": images, "detection_id": ids}, vectors, **more)
    return path


def order_of(snapshot: Snapshot, prefix: str = "d") -> np.ndarray:
    """Number of the embedding that each row of the snapshot was made from."""
    ids = snapshot.rows["detection_id"].to_pylist()
    return np.array([int(name.removeprefix(prefix)) for name in ids])


def part_of(snapshot: Snapshot) -> Path:
    """The folder of its only segment."""
    (entry,) = snapshot.manifest.segments
    return snapshot.path.parent / SEGMENTS / entry.name


def in_threads(work: Callable[[], object], threads: int = 4) -> None:
    """Call ``work`` in several threads at once; raises the first error of one."""
    with ThreadPoolExecutor(threads) as pool:
        for call in [pool.submit(work) for _ in range(threads)]:
            call.result()


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*"))


def l1(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.abs(vectors.astype(float)).sum(axis=1, keepdims=True))


def true_scores(metric: Metric, queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Scores of every vector for every query, [Q, N], by definition and in float64."""
    if metric == "cosine":
        return np.asarray(1 - cdist(queries.astype(float), vectors.astype(float), "cosine"))
    a, b = l1(queries), l1(vectors)
    if metric == "ip":
        return np.asarray(a @ b.T)
    return np.asarray(cdist(a, b, "cityblock" if metric == "l1" else "euclidean"))


def true_hits(metric: Metric, queries: np.ndarray, vectors: np.ndarray, k: int) -> Hits:
    scores = true_scores(metric, queries, vectors)
    order = np.argsort(-scores if higher_is_nearer(metric) else scores, axis=1)[:, :k]
    return Hits(order, np.take_along_axis(scores, order, 1))
