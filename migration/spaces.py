"""Two embedding spaces over the same rows: whose neighbours stay, how far each vector turned.

One pass over the rows that both runs embed, some megabytes of them at a time: the queries are
compared with each part exactly, and each row's old vector with its new one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from index.metrics import Metric, prepare
from index.search.recall import ExactKnn
from migration.report import Drift, Histogram, Neighbours
from migration.rows import Bools, Ints, Rows

K = 10
SEED = 0
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_BLOCK_BYTES = 16 * 2**20
_BINS = 40

Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Spaces:
    """What was found; ``without_direction`` rows are zero in a space and have no neighbours."""

    neighbours: Neighbours
    drift: Drift
    without_direction: int


def compare_spaces(
    then: Rows,
    now: Rows,
    *,
    metric: Metric = "cosine",
    k: int = K,
    queries: int = 2000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Spaces:
    """Compare the spaces of two runs.

    Args:
        then, now: the rows of both.
        metric: what nearness means, in both.
        k: neighbours of a query; fewer where there are not so many others.
        queries: rows drawn at random whose neighbours are compared; all, where there are fewer.
        progress: called with rows done and rows to do.
    """
    both = np.flatnonzero(then.embedded & now.embedded)
    drawn = np.random.default_rng(SEED).permutation(both)[:queries]
    asked = np.sort(drawn)
    old, new = then.embeddings(asked), now.embeddings(asked)
    good = _has_direction(old) & _has_direction(new)
    asked, names = asked[good], [""] * int(good.sum())
    nearest = [
        ExactKnn(prepare(vectors[good], names, metric), k + 1, metric) for vectors in (old, new)
    ]
    found: list[Ints] = []  # row of each vector that was compared with
    cosines: list[npt.NDArray[np.float64]] = []
    step = max(1, _BLOCK_BYTES // (4 * max(then.dim, now.dim)))
    seen = 0
    for start in range(0, len(both), step):
        rows = both[start : start + step]
        old, new = then.embeddings(rows), now.embeddings(rows)
        good = _has_direction(old) & _has_direction(new)
        names = [""] * int(good.sum())
        for one, vectors in zip(nearest, (old, new), strict=True):
            one.add(prepare(vectors[good], names, metric), seen)
        if then.dim == now.dim:
            cosines.append(row_cosines(old[good], new[good]))
        found.append(rows[good])
        seen += len(names)
        progress(start + len(rows), len(both))
    compared = np.concatenate([np.empty(0, np.int64), *found])
    return Spaces(
        _neighbours(nearest, np.searchsorted(compared, asked), len(compared), k, metric),
        _drift(then.dim, now.dim, np.concatenate([np.empty(0), *cosines])),
        len(both) - len(compared),
    )


def shared_neighbours(old: Ints, new: Ints, own: Ints, k: int) -> Ints:
    """How many of the k nearest others both spaces name, ``[Q]``.

    Args:
        old: rows found in the old space ``[Q, k + 1]``, nearest first, the query among them or,
            where many are equal to it, not.
        new: the same of the new space.
        own: the query's own row ``[Q]``.
        k: others wanted.
    """
    a, b = _others(old, own, k), _others(new, own, k)
    shared: Ints = (a[:, :, None] == b[:, None, :]).any(axis=2).sum(axis=1)
    return shared


def row_cosines(old: Vectors, new: Vectors) -> npt.NDArray[np.float64]:
    """Cosine of each row of ``[N, D]`` to the same row of the other, ``[N]``."""
    a, b = old.astype(np.float64), new.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines: npt.NDArray[np.float64] = np.einsum("nd,nd->n", a, b) / lengths
    return np.clip(cosines, -1, 1)


def quantiles(values: npt.NDArray[np.floating]) -> dict[str, float]:
    """The values below which shares of ``QUANTILES`` lie; none of no values."""
    if not len(values):
        return {}
    found = np.quantile(values, QUANTILES)
    return {f"{q:g}": float(value) for q, value in zip(QUANTILES, found, strict=True)}


def histogram(values: npt.NDArray[np.floating], edges: npt.NDArray[np.floating]) -> Histogram:
    """Counts of ``values`` between ``edges``."""
    counts, _ = np.histogram(values, edges)
    return Histogram(edges=tuple(edges.tolist()), counts=tuple(counts.tolist()))


def _others(rows: Ints, own: Ints, k: int) -> Ints:
    """The first k of each row that are not its own, in their order."""
    order = np.argsort(rows == own[:, None], axis=1, kind="stable")[:, :k]
    return np.take_along_axis(rows, order, axis=1)


def _has_direction(vectors: Vectors) -> Bools:
    """Which vectors have a direction, and so neighbours."""
    size = np.abs(vectors).sum(axis=1, dtype=np.float64)
    good: Bools = np.isfinite(size) & (size > 0)
    return good


def _neighbours(
    nearest: list[ExactKnn], own: Ints, rows: int, k: int, metric: Metric
) -> Neighbours:
    k = min(k, rows - 1)
    if k < 1 or not len(own):
        reason = f"{rows} rows have an embedding in both runs; neighbours need two"
        return Neighbours(
            reason=reason,
            k=K,
            metric=metric,
            seed=SEED,
            queries=0,
            rows=rows,
            overlap=None,
            chance=None,
            quantiles={},
            counts=(),
        )
    old, new = (one.found()[1] for one in nearest)
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


def _drift(then: int, now: int, cosines: npt.NDArray[np.float64]) -> Drift:
    reason = None
    if then != now:
        reason = f"cannot be compared: {then} and {now} numbers"
    elif not len(cosines):
        reason = "no row has an embedding in both runs"
    if reason is not None:
        return Drift(reason=reason, rows=0, mean=None, quantiles={}, histogram=None)
    low, high = float(cosines.min()), float(cosines.max())
    edges = np.linspace(low, max(high, low + 1e-6), _BINS + 1)
    return Drift(
        reason=None,
        rows=len(cosines),
        mean=float(cosines.mean()),
        quantiles=quantiles(cosines),
        histogram=histogram(cosines, edges),
    )
