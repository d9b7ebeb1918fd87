"""Measure what an approximate index misses, and search harder until it misses little enough.

Recall is measured, never assumed: the same factory string gives 0.99 on one set of embeddings
and 0.6 on another. The exact answer is computed block by block, so that it costs one pass over
the vectors and never more memory than a block.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import faiss
import numpy as np
from numpy.typing import NDArray

from index.metrics import Metric, argsort_nearest, faiss_metric, to_scores

if TYPE_CHECKING:
    from index.search.accelerator import SearchParams

MARGIN = 0.005
"""Searches are tuned to this much over the target, half of what a thousand queries can tell."""

_FLAT_RISE, _FLAT_STEPS = 0.002, 2  # a ladder that rises no more is left
_TIMED = 3
TIE = 2e-6
"""Scores this close are the same score: float32 rounding over a thousand products."""


@dataclass(frozen=True)
class Hits:
    """Nearest rows of each query, nearest first.

    Attributes:
        rows: int64 [Q, k], rows of the snapshot, each once per query and never -1.
        scores: float32 [Q, k], in the metric's own terms: see ``metrics.py``.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]

    def of(self, query: int) -> Hits:
        """The hits of one query alone, still two-dimensional: [1, k]."""
        return Hits(self.rows[query : query + 1], self.scores[query : query + 1])


class ExactKnn:
    """The exact k nearest of each query among vectors that arrive block by block."""

    def __init__(self, queries: NDArray[np.float32], k: int, metric: Metric) -> None:
        """Take ``queries`` [Q, D], prepared for the metric."""
        self._queries = queries
        self._k = k
        self._metric = metric
        self._rows = np.empty((len(queries), 0), np.int64)
        self._values = np.empty((len(queries), 0), np.float32)

    def add(self, vectors: NDArray[np.float32], first_row: int) -> None:
        """Compare with ``vectors`` [N, D], prepared, which are rows ``first_row`` and on."""
        if not len(vectors) or not len(self._queries):
            return
        kind, k = faiss_metric(self._metric), min(self._k, len(vectors))
        values, rows = faiss.knn(self._queries, vectors, k, metric=kind)
        self.join(values, rows + first_row)

    def join(self, values: NDArray[np.float32], rows: NDArray[np.int64]) -> None:
        """Take in the nearest of other vectors, as ``found`` gives them."""
        all_rows = np.hstack([self._rows, rows])
        all_values = np.hstack([self._values, values])
        order = argsort_nearest(all_values, self._metric, self._k)
        self._rows = np.take_along_axis(all_rows, order, axis=1)
        self._values = np.take_along_axis(all_values, order, axis=1)

    def found(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """FAISS's values and rows, nearest first; fewer than k columns for fewer vectors."""
        return self._values, self._rows

    def hits(self) -> Hits:
        """The same as scores."""
        return Hits(self._rows, to_scores(self._values, self._metric))


def recall_at(exact: Hits, found: Hits) -> float:
    """Mean share of the exact k nearest that were found, k being ``exact``'s width.

    A row that ties with the k-th nearest is as right as it: without this, a hundred pictures of
    the same empty background make a perfect index look broken.
    """
    k = exact.rows.shape[1]
    right = 0
    for e_rows, e_scores, rows, scores in zip(
        exact.rows, exact.scores, found.rows, found.scores, strict=True
    ):
        tied = np.abs(e_scores - e_scores[-1]) <= TIE
        nearer = e_rows[~tied]
        is_nearer = np.isin(rows, nearer)
        as_good = np.isin(rows, e_rows[tied]) | (
            (np.abs(scores - e_scores[-1]) <= TIE) & (rows >= 0)
        )
        right += int(is_nearer.sum()) + min(int((as_good & ~is_nearer).sum()), k - len(nearer))
    return right / exact.rows.size


def tune(
    search: Callable[[SearchParams], Hits],
    ladders: list[list[SearchParams]],
    exact: Hits,
    *,
    target: float,
) -> tuple[SearchParams, float]:
    """Find the effort that reaches ``target`` in the least time.

    Args:
        search: the nearest of all queries, with a given effort.
        ladders: efforts to try, each ladder from little to much; not empty.
        exact: the queries' true nearest rows.
        target: recall wanted, 0..1.

    Returns:
        The effort and its recall: below ``target`` when even the best of them misses it.
    """
    aim = min(1.0, target + MARGIN)
    reached: list[tuple[float, float, SearchParams]] = []  # seconds, recall, effort
    best: tuple[float, SearchParams] | None = None
    for ladder in ladders:
        before, flat = -1.0, 0
        for effort in ladder:
            measured = recall_at(exact, search(effort))
            if best is None or measured > best[0]:
                best = measured, effort
            if measured >= aim:
                reached.append((_seconds(search, effort), measured, effort))
                break
            if before >= 0 and measured - before < _FLAT_RISE and measured < aim - _FLAT_RISE:
                flat += 1
            else:
                flat = 0
            if flat == _FLAT_STEPS:
                break  # what this ladder does not turn is what is missing
            before = measured
    if reached:
        _, measured, effort = min(reached, key=lambda one: one[0])
        return effort, measured
    assert best is not None
    return best[1], best[0]


def _seconds(search: Callable[[SearchParams], Hits], effort: SearchParams) -> float:
    def once() -> float:
        began = time.perf_counter()
        search(effort)
        return time.perf_counter() - began

    return min(once() for _ in range(_TIMED))
