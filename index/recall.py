"""Measure what an approximate index misses, and search harder until it misses little enough.

Recall is measured, never assumed: the same factory string gives 0.99 on one set of embeddings
and 0.6 on another. The exact answer is computed block by block, so that it costs one pass over
the vectors and never more memory than a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.factory import Metric, comparable, knob_of, search_parameters

TIE = 2e-6
"""Scores this close are the same score: float32 rounding over a thousand products."""


@dataclass(frozen=True)
class Hits:
    """Nearest rows of each query, nearest first.

    Attributes:
        rows: int64 [Q, k], rows of the snapshot, each once per query and never -1.
        scores: float32 [Q, k]. cosine: the similarity, in [-1, 1], higher is nearer. l1: the L1
            distance between the L1-normalised vectors, in [0, 2], lower is nearer.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]

    def of(self, query: int) -> Hits:
        """The hits of one query alone, still two-dimensional: [1, k]."""
        return Hits(self.rows[query : query + 1], self.scores[query : query + 1])


class ExactKnn:
    """The exact k nearest of each query among vectors that arrive block by block."""

    def __init__(self, queries: NDArray[np.float32], k: int, metric: Metric) -> None:
        """Take ``queries`` [Q, D] L1-normalised."""
        self._queries = np.ascontiguousarray(comparable(queries, metric))
        self._k = k
        self._metric = metric
        self._rows = np.empty((len(queries), 0), np.int64)
        self._scores = np.empty((len(queries), 0), np.float32)

    def add(self, vectors: NDArray[np.float32], first_row: int) -> None:
        """Compare with ``vectors`` [N, D] L1-normalised, which are rows ``first_row`` and on."""
        if not len(vectors) or not len(self._queries):
            return
        scores, rows = faiss.knn(
            self._queries,
            np.ascontiguousarray(comparable(vectors, self._metric)),
            min(self._k, len(vectors)),
            metric=faiss.METRIC_INNER_PRODUCT if self._metric == "cosine" else faiss.METRIC_L1,
        )
        all_rows = np.hstack([self._rows, rows + first_row])
        all_scores = np.hstack([self._scores, scores])
        order = np.argsort(
            -all_scores if self._metric == "cosine" else all_scores, axis=1, kind="stable"
        )[:, : self._k]
        self._rows = np.take_along_axis(all_rows, order, axis=1)
        self._scores = np.take_along_axis(all_scores, order, axis=1)

    def hits(self) -> Hits:
        """The nearest so far; fewer than k columns while fewer than k vectors were seen."""
        return Hits(self._rows, self._scores)


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
    index: Any, queries: NDArray[np.float32], exact: Hits, *, target: float
) -> tuple[dict[str, int], float]:
    """Raise the index's knob until recall reaches ``target`` or the ladder ends.

    Args:
        index: a filled FAISS index; it is only searched.
        queries: [Q, D] L1-normalised vectors that are not in it.
        exact: their true nearest rows.
        target: recall wanted, 0..1.

    Returns:
        The search parameters settled on ({} for an index without a knob) and the recall measured
        with them: below ``target`` when even the last rung misses it.
    """
    knob = knob_of(index)
    measured = 0.0
    values: dict[str, int] = {}
    for rung in knob.ladder() if knob else [None]:
        values = {} if knob is None or rung is None else {knob.name: rung}
        scores, rows = index.search(
            queries, exact.rows.shape[1], params=search_parameters(index, values)
        )
        measured = recall_at(exact, Hits(rows, scores))
        if measured >= target:
            break
    return values, measured
