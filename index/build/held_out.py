"""The rows that recall is measured with, and their true neighbours.

They are rows that occur once. A mean over all rows says little where most are copies of a few: a
search that loses every other row still finds a copy's copies.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import faiss
import numpy as np
from numpy.typing import NDArray

from cluster.tasks import Tasks
from index.build.copies import MIN_COPIES, EqualRows, Slice, slices
from index.config import Metric
from index.search.recall import ExactKnn, Hits, without_rows
from index.search.scores import Neighbors
from index.storage import store
from index.storage.layout import VECTORS

MAX_HELD_OUT = 1_000  # queries: recall@10 over 10,000 neighbours, good to 0.005
_MAX_SAMPLED = 10_000  # rows that are looked at to find them, where most are copies
_SAMPLED_PRODUCTS = 2e12  # and multiplications: a minute on two cores
_LONELY = 0.99  # quantile of the distances to the nearest row
_NEAR = 0.3  # of that distance: copies
_COMMON = 0.005  # share of rows with many copies, from which they matter

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class HeldOut:
    """Rows that serve as queries, and how near to each other rows are copies.

    Attributes:
        rows: row numbers, ascending; the search is tuned for them before they are added.
        others: rows of the same kind, ascending, that are added among all others: recall is
            measured with them in the end. Those that are added last have other links.
        near: distance up to which rows are copies; None: there are too few to matter.
    """

    rows: Ints
    others: Ints
    near: float | None


@dataclass(frozen=True)
class NearestTask:
    """Find the nearest rows of a slice to some queries."""

    part: Slice
    queries: NDArray[np.float32]  # [Q, D]
    k: int
    metric: Metric
    threads: int  # 0: FAISS's default


def nearest(task: NearestTask) -> Neighbors:
    """FAISS's values and the rows of the segment, [Q, min(k, rows)]."""
    if task.threads:
        faiss.omp_set_num_threads(task.threads)
    among = ExactKnn(task.queries, task.k, task.metric)
    among.add(task.part.vectors(), task.part.first)
    return among.neighbors()


@dataclass(frozen=True)
class TrueNeighbors:
    """Exact neighbours among the vectors of a segment, computed slice by slice."""

    folder: Path  # of the segment
    metric: Metric
    tasks: Tasks
    total: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "total", store.open_store(self.folder / VECTORS).ntotal)

    def of(self, queries: NDArray[np.float32], k: int) -> Hits:
        """The k nearest of all rows to each query, [Q, min(k, N)]."""
        threads = 1 if self.tasks.is_parallel else 0
        among = ExactKnn(queries, k, self.metric)
        work = [
            NearestTask(part, queries, k, self.metric, threads)
            for part in slices(self.folder, self.total)
        ]
        self.tasks.run(nearest, work, done=lambda neighbors: among.merge(*neighbors))
        return among.hits()

    def without(self, queries: NDArray[np.float32], k: int, left_out: Ints) -> Hits:
        """The k nearest among all rows but some; fewer where there are fewer.

        Args:
            queries: [Q, D].
            k: neighbours of each.
            left_out: rows [M] that are left out for every query, or [Q, 1] one for each.
        """
        more = 1 if left_out.ndim == 2 else 32 + int(3 * k * len(left_out) / self.total)
        return without_rows(self.of(queries, k + more), left_out, k)


def hold_out(true: TrueNeighbors, equal: EqualRows, random: np.random.Generator) -> HeldOut:
    """Choose up to a fifth of the rows that occur once, at most ``MAX_HELD_OUT``, and half as many.

    Args:
        true: of the segment.
        equal: its rows with equal vectors.
        random: chooses.
    """
    if true.total < 2:
        return HeldOut(np.arange(0), np.arange(0), None)
    candidates = equal.single if len(equal.single) else np.unique(equal.first)
    drawn = random.permutation(candidates)
    vectors = store.open_store(true.folder / VECTORS)
    most = min(_MAX_SAMPLED, int(_SAMPLED_PRODUCTS / (true.total * vectors.d)))
    wanted = _wanted(len(candidates))
    first = drawn[: wanted + _others(wanted)]
    if true.metric == "ip" or true.total <= MIN_COPIES:  # the nearest by ip need not be near
        return _split(first, wanted, None)
    apart = _distances(true.of(vectors.reconstruct_batch(first), MIN_COPIES + 1), true.metric)
    near = _NEAR * float(np.quantile(apart[:, 1], _LONELY))
    lonely = apart[:, MIN_COPIES] > near
    rows = first[lonely]
    if (~lonely).mean() < _COMMON or not len(rows):
        return _split(first, wanted, None)
    wanted = _wanted(round(len(candidates) * len(rows) / len(first)))
    for start in range(len(first), min(len(drawn), most), MAX_HELD_OUT):
        if len(rows) >= wanted + _others(wanted):
            break
        part = drawn[start : start + MAX_HELD_OUT]
        apart = _distances(true.of(vectors.reconstruct_batch(part), MIN_COPIES + 1), true.metric)
        lonely = apart[:, MIN_COPIES] > near
        rows = np.concatenate([rows, part[lonely]])
    return _split(rows, wanted, near)


def _split(rows: Ints, wanted: int, near: float | None) -> HeldOut:
    held_out, others = rows[:wanted], rows[wanted : wanted + _others(wanted)]
    return HeldOut(np.sort(held_out), np.sort(others if len(others) else held_out), near)


def _others(wanted: int) -> int:
    return max(1, wanted // 2)


def _wanted(rows: int) -> int:
    """How many of some rows are held out: a fifth, but at least one and few enough to compare."""
    return min(MAX_HELD_OUT, max(1, rows // 5))


def _distances(hits: Hits, metric: Metric) -> NDArray[np.float32]:
    """Distances of hits, [Q, k]."""
    if metric == "cosine":
        return np.sqrt(np.maximum(2 - 2 * hits.scores, 0))
    return hits.scores
