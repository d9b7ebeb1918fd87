"""Measure the recall of an approximate index, and choose search parameters that reach a target.

Recall is measured, never assumed: the same factory string gives 0.99 on one set of embeddings and
0.6 on another. The exact answer is computed block by block, in one pass over the vectors and in
the memory of one block.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray

from index.config import Metric
from index.metrics import argsort_nearest, faiss_metric, to_scores

if TYPE_CHECKING:
    from index.search.accelerator import SearchParams

_MARGIN = 0.16
"""Searches are tuned to the target plus this over the root of the number of queries: what they can
resolve, 0.005 for a thousand queries and 0.016 for a hundred."""

_MIN_GAIN, _FLAT_STEPS = 0.002, 2  # a row of the grid is left after so many steps of less gain
_TIMED_SEARCHES = 3
TIE = 2e-6
"""Scores this close are equal: float32 rounding over a thousand products."""


@dataclass(frozen=True)
class Hits:
    """Nearest rows of each query, nearest first.

    Attributes:
        rows: int64 [Q, k], rows of the snapshot, each once per query and never -1.
        scores: float32 [Q, k], in units of the metric: see ``metrics.py``.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]

    def of(self, query: int) -> Hits:
        """The hits of one query, still two-dimensional: [1, k]."""
        return Hits(self.rows[query : query + 1], self.scores[query : query + 1])

    def first(self, k: int) -> Hits:
        """The first k hits of each query."""
        return Hits(self.rows[:, :k], self.scores[:, :k])


class ExactKnn:
    """The exact k nearest of each query among vectors that arrive block by block."""

    def __init__(self, queries: NDArray[np.float32], k: int, metric: Metric) -> None:
        """Start with no vectors.

        Args:
            queries: [Q, D], prepared for the metric.
            k: neighbours to keep.
            metric: how vectors are compared.
        """
        self._queries = queries
        self._k = k
        self._metric = metric
        self._rows = np.empty((len(queries), 0), np.int64)
        self._values = np.empty((len(queries), 0), np.float32)

    def add(self, vectors: NDArray[np.float32], first_row: int) -> None:
        """Compare the queries with ``vectors`` [N, D], prepared; they are rows ``first_row``, …."""
        if not len(vectors) or not len(self._queries):
            return
        kind, k = faiss_metric(self._metric), min(self._k, len(vectors))
        values, rows = faiss.knn(self._queries, vectors, k, metric=kind)
        self.merge(values, rows + first_row)

    def merge(self, values: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Merge the ``neighbors`` among other vectors."""
        all_rows = np.hstack([self._rows, rows])
        all_values = np.hstack([self._values, values])
        order = argsort_nearest(all_values, self._metric, self._k)
        self._rows = np.take_along_axis(all_rows, order, axis=1)
        self._values = np.take_along_axis(all_values, order, axis=1)

    def neighbors(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """FAISS's values and rows, [Q, min(k, N)] each, nearest first."""
        return self._values, self._rows

    def hits(self) -> Hits:
        """The same with scores."""
        return Hits(self._rows, to_scores(self._values, self._metric))


def recall_at(exact: Hits, hits: Hits) -> float:
    """Mean share of the exact k nearest that are among ``hits``; k is the width of ``exact``.

    A row that ties with the k-th nearest counts as correct, but not in place of a nearer one:
    otherwise a hundred pictures of the same empty background make a perfect index look bad.

    Args:
        exact: [Q, k].
        hits: [Q, k], each row once per query, with exact scores; row -1: none.
    """
    last = exact.scores[:, -1:]
    sign = 1 if (exact.scores[:, :1] >= last).all() else -1
    nearer = (sign * (exact.scores - last) > TIE).sum(axis=1)
    gap = np.where(hits.rows >= 0, sign * (hits.scores - last), -np.inf)
    tied = (np.abs(gap) <= TIE).sum(axis=1)
    correct = (gap > TIE).sum(axis=1) + np.minimum(tied, exact.rows.shape[1] - nearer)
    return int(correct.sum()) / exact.rows.size


def without_rows(hits: Hits, left_out: NDArray[np.int64], k: int) -> Hits:
    """The k first hits of each query that are not ``left_out``, or fewer where one has fewer.

    Args:
        hits: [Q, W].
        left_out: rows [M] of every query, or [Q, 1] one of each.
        k: hits to keep.
    """
    dropped = hits.rows == left_out if left_out.ndim == 2 else np.isin(hits.rows, left_out)
    k = min(k, int((~dropped).sum(axis=1).min(initial=k)))
    order = np.argsort(dropped, axis=1, kind="stable")[:, :k]
    return Hits(np.take_along_axis(hits.rows, order, 1), np.take_along_axis(hits.scores, order, 1))


def tune(
    search: Callable[[SearchParams], Hits],
    grid: list[list[SearchParams]],
    exact: Hits,
    *,
    ks: Sequence[int],
    target: float,
) -> tuple[SearchParams, dict[int, float]]:
    """Find the fastest search parameters that reach a recall.

    Args:
        search: hits of all queries with the given parameters.
        grid: parameters to try, each row in order of rising cost; not empty.
        exact: the queries' true nearest rows.
        ks: numbers of neighbours at which the recall must reach the target.
        target: recall wanted, 0..1.

    Returns:
        The parameters and their recall at each of ``ks``: below ``target`` where none of the grid
        reaches it.
    """
    goal = min(1.0, target + _MARGIN / math.sqrt(len(exact.rows)))

    def recall_of(params: SearchParams) -> dict[int, float]:
        hits = search(params)
        return {k: recall_at(exact.first(k), hits.first(k)) for k in ks}

    sufficient: list[_Tried] = []
    best: _Tried | None = None
    for grid_row in grid:
        previous: _Tried | None = None
        flat_steps = 0
        for params in grid_row:
            tried = _Tried(params, recall_of(params))
            if best is None or tried.least > best.least:
                best = tried
            if tried.least >= goal:
                sufficient.append(_least_effort(recall_of, previous, tried, goal))
                break
            gain = tried.least - previous.least if previous else 1.0
            is_flat = gain < _MIN_GAIN and tried.least < goal - _MIN_GAIN
            flat_steps = flat_steps + 1 if is_flat else 0
            if flat_steps == _FLAT_STEPS:
                break  # recall is limited by a parameter that is constant in this row
            previous = tried
    if sufficient:
        best = min(sufficient, key=lambda tried: _seconds(search, tried.params))
    assert best is not None
    return best.params, best.recall


@dataclass(frozen=True)
class _Tried:
    """Parameters and their recall, by number of neighbours."""

    params: SearchParams
    recall: dict[int, float]

    @property
    def least(self) -> float:
        return min(self.recall.values())


def _least_effort(
    recall_of: Callable[[SearchParams], dict[int, float]],
    too_little: _Tried | None,
    enough: _Tried,
    goal: float,
) -> _Tried:
    """The least effort that reaches the goal, to within an eighth, by bisection."""
    low = too_little.params.effort if too_little else enough.params.effort
    while enough.params.effort - low > max(1, low // 8):
        params = enough.params._replace(effort=(low + enough.params.effort) // 2)
        tried = _Tried(params, recall_of(params))
        if tried.least >= goal:
            enough = tried
        else:
            low = params.effort
    return enough


def _seconds(search: Callable[[SearchParams], Hits], params: SearchParams) -> float:
    def time_search() -> float:
        started = time.perf_counter()
        search(params)
        return time.perf_counter() - started

    return min(time_search() for _ in range(_TIMED_SEARCHES))
