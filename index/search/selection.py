"""Which of the nearest rows an answer holds: below a threshold, after an offset, without the query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.config import Metric
from index.metrics import higher_is_nearer
from index.search.recall import Hits


@dataclass(frozen=True)
class Selection:
    """The hits of Q queries, those of one query after the other's.

    Attributes:
        rows: int64 [H].
        scores: float32 [H].
        ranks: int64 [H], 1 for the nearest of a query; after an offset they begin above it.
        counts: int64 [Q], hits of each query.
        groups: [H] the group of each hit, with ``group_by``; None without.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]
    ranks: NDArray[np.int64]
    counts: NDArray[np.int64]
    groups: list[Any] | None = None

    def padded(self) -> tuple[Hits, NDArray[np.object_] | None]:
        """As [Q, W], W being the most hits of a query: row -1, score NaN, group None beyond."""
        filled = np.arange(self.counts.max(initial=0)) < self.counts[:, None]
        rows = np.full(filled.shape, -1, np.int64)
        scores = np.full(filled.shape, np.nan, np.float32)
        rows[filled], scores[filled] = self.rows, self.scores
        if self.groups is None:
            return Hits(rows, scores), None
        groups = np.full(filled.shape, None, object)
        groups[filled] = np.fromiter(self.groups, object, len(self.groups))
        return Hits(rows, scores), groups


def within(
    scores: NDArray[np.float32], threshold: NDArray[np.float64] | float, metric: Metric
) -> NDArray[np.bool_]:
    """Whether scores are at least as near as a threshold.

    Args:
        scores: of hits.
        threshold: a least similarity, or a largest distance, as the metric has it; NaN: none.
        metric: of the scores.
    """
    # float32, as the scores are: 0.9 of a request is not above the 0.9 of a hit.
    with np.errstate(over="ignore"):  # beyond float32 it is infinite, and is compared as such
        limit = np.asarray(threshold, np.float32)
    near = scores >= limit if higher_is_nearer(metric) else scores <= limit
    return near | np.isnan(limit)


def select(
    hits: Hits,
    metric: Metric,
    *,
    ends: Sequence[int],
    offsets: Sequence[int] | None = None,
    thresholds: Sequence[float | None] | None = None,
    own_rows: NDArray[np.int64] | None = None,
    excluded: Sequence[tuple[int, NDArray[np.int64]]] = (),
) -> Selection:
    """Cut the hits of each query to what its answer holds.

    Args:
        hits: [Q, W], nearest first.
        metric: of the scores.
        ends: [Q] the last hit of each query, counted from 1: its offset and its k.
        offsets: [Q] nearest hits to leave out; None: none.
        thresholds: [Q] the worst score of a hit, or None; None: all None.
        own_rows: [Q] the row of each query, which is no hit of its own; -1: it has none.
        excluded: numbers of queries, each with more rows that are no hits of it.
    """
    kept = hits.rows >= 0
    if own_rows is not None:
        kept &= hits.rows != own_rows[:, None]
    for query, rows in excluded:
        kept[query] &= ~np.isin(hits.rows[query], rows)
    ranks = np.cumsum(kept, axis=1, dtype=np.int64)
    kept &= ranks <= np.asarray(ends)[:, None]
    if offsets is not None:
        kept &= ranks > np.asarray(offsets)[:, None]
    if thresholds is not None:
        limits = np.array(thresholds, float)  # NaN for None
        kept &= within(hits.scores, limits[:, None], metric)
    return Selection(
        hits.rows[kept], hits.scores[kept], ranks[kept], kept.sum(axis=1, dtype=np.int64)
    )
