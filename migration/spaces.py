"""Compare two embedding spaces over the same rows: overlap of neighbours, drift of vectors.

One pass over the rows that both runs embed, some megabytes at a time: the queries are compared
with each block exactly, and each row's old vector with its new one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from index.config import Metric
from index.metrics import prepare
from index.search.recall import ExactKnn
from index.vectors import Floats, Ints
from migration.align import Bools, Rows
from migration.report import Drift, Histogram, Neighbours

K = 10
SEED = 0
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 40  # of a histogram
_BLOCK_BYTES = 16 * 2**20

Vectors = npt.NDArray[np.float32]


def compare_spaces(
    old: Rows,
    new: Rows,
    *,
    metric: Metric = "cosine",
    k: int = K,
    queries: int = 2000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[Neighbours, Drift, int]:
    """Compare the spaces of two runs.

    Args:
        old: rows of the old run.
        new: rows of the new run.
        metric: how vectors are compared, in both.
        k: neighbours per query; fewer where there are fewer other rows.
        queries: rows drawn at random whose neighbours are compared; all, where there are fewer.
        progress: called with (rows done, rows in all).

    Returns:
        Overlap, drift, and the number of rows that are zero in one of the spaces, and so have no
        neighbours.
    """
    both = np.flatnonzero(old.embedded & new.embedded)
    query_rows = np.sort(np.random.default_rng(SEED).permutation(both)[:queries])
    query_rows, *query_vectors = _read_both(old, new, query_rows)
    names = [""] * len(query_rows)
    nearest = [ExactKnn(prepare(each, names, metric), k + 1, metric) for each in query_vectors]
    compared_rows = [np.empty(0, np.int64)]
    cosines = [np.empty(0)]
    step = max(1, _BLOCK_BYTES // (4 * max(old.dim, new.dim)))
    seen = 0
    for start in range(0, len(both), step):
        block = both[start : start + step]
        rows, *vectors = _read_both(old, new, block)
        names = [""] * len(rows)
        for knn, each in zip(nearest, vectors, strict=True):
            knn.add(prepare(each, names, metric), seen)
        if old.dim == new.dim:
            cosines.append(row_cosines(*vectors))
        compared_rows.append(rows)
        seen += len(rows)
        progress(start + len(block), len(both))
    compared = np.concatenate(compared_rows)
    return (
        _neighbours(nearest, np.searchsorted(compared, query_rows), len(compared), k, metric),
        _drift(old.dim, new.dim, np.concatenate(cosines)),
        len(both) - len(compared),
    )


def _read_both(old: Rows, new: Rows, rows: Ints) -> tuple[Ints, Vectors, Vectors]:
    """Those of ``rows`` that have a direction in both runs, and their embeddings in each."""
    old_vectors, new_vectors = old.embeddings(rows), new.embeddings(rows)
    keep = _has_direction(old_vectors) & _has_direction(new_vectors)
    return rows[keep], old_vectors[keep], new_vectors[keep]


def shared_neighbours(old: Ints, new: Ints, own: Ints, k: int) -> Ints:
    """Number of neighbours that both spaces have in common, int64 ``[Q]``.

    Args:
        old: nearest rows in the old space, int64 ``[Q, k + 1]``, nearest first; the query itself
            is usually among them, but not where many rows are equal to it.
        new: the same in the new space.
        own: row of each query, int64 ``[Q]``.
        k: neighbours compared, the query itself not counted.
    """
    in_old, in_new = _without_query(old, own, k), _without_query(new, own, k)
    shared: Ints = (in_old[:, :, None] == in_new[:, None, :]).any(axis=2).sum(axis=1)
    return shared


def row_cosines(old: Vectors, new: Vectors) -> Floats:
    """Cosine of each row of ``old`` to the same row of ``new``, both ``[N, D]``; float64 ``[N]``."""
    a, b = old.astype(np.float64), new.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: Floats = np.einsum("nd,nd->n", a, b) / lengths
    return np.clip(cosines, -1, 1)


def quantiles(values: npt.NDArray[np.floating]) -> dict[str, float]:
    """The ``QUANTILES`` of some values; empty where there are no values."""
    if not len(values):
        return {}
    results = np.quantile(values, QUANTILES)
    return {f"{q:g}": float(value) for q, value in zip(QUANTILES, results, strict=True)}


def histogram(values: npt.NDArray[np.floating], edges: npt.NDArray[np.floating]) -> Histogram:
    """Counts of ``values`` between ``edges``."""
    counts, _ = np.histogram(values, edges)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def _without_query(rows: Ints, own: Ints, k: int) -> Ints:
    """The first k rows that are not the query's own, in the same order."""
    order = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1)


def _has_direction(vectors: Vectors) -> Bools:
    """Which vectors have a direction and therefore neighbours."""
    size = np.abs(vectors).sum(axis=1, dtype=np.float64)
    good: Bools = np.isfinite(size) & (size > 0)
    return good


def _neighbours(
    nearest: list[ExactKnn], own: Ints, rows: int, k: int, metric: Metric
) -> Neighbours:
    k = min(k, rows - 1)
    if k < 1 or not len(own):
        reason = f"{rows} rows have an embedding in both runs; neighbours need two"
        return Neighbours(reason=reason, k=K, metric=metric, seed=SEED, rows=rows)
    old, new = (knn.neighbors()[1] for knn in nearest)
    shared = shared_neighbours(old, new, own, k)
    return Neighbours(
        reason=None,
        k=k,
        metric=metric,
        seed=SEED,
        queries=len(own),
        rows=rows,
        overlap=float(shared.mean() / k),
        chance=k / (rows - 1),
        quantiles=quantiles(shared / k),
        counts=tuple(np.bincount(shared, minlength=k + 1).tolist()),
    )


def _drift(old_dim: int, new_dim: int, cosines: Floats) -> Drift:
    if old_dim != new_dim:
        return Drift(reason=f"cannot be compared: {old_dim} and {new_dim} numbers")
    if not len(cosines):
        return Drift(reason="no row has an embedding in both runs")
    low, high = float(cosines.min()), float(cosines.max())
    edges = np.linspace(low, max(high, low + 1e-6), BINS + 1)
    return Drift(
        reason=None,
        rows=len(cosines),
        mean=float(cosines.mean()),
        quantiles=quantiles(cosines),
        histogram=histogram(cosines, edges),
    )
