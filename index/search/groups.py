"""The nearest rows of the nearest groups: one hit, or a few, per image, sequence, track or column.

The groups of an answer are those that walking through all rows, nearest first, meets first. The
walk ends where no further row can change the answer: the search is repeated with more hits, four
times as many each time, until few rows are left that could; those are compared one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from index.metrics import argsort_nearest, faiss_metric, prepare, to_scores
from index.search.columns import read_column
from index.search.exact import ExactSearch
from index.search.filters import Filter
from index.search.selection import Selection, within

if TYPE_CHECKING:
    from index.search.snapshot import Snapshot

_FEW_ROWS = 20_000  # compared one by one in some milliseconds
_DEEPER = 4

Codes = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Grouping:
    """The group of each row of an index.

    Attributes:
        codes: [N]; those below ``len(values)`` are groups of rows with the same value, each of the
            others is the group of one row without a value.
        values: the value of each group that has one.
    """

    codes: Codes
    values: pa.Array

    @classmethod
    def of_codes(cls, codes: Codes, values: pa.Array) -> Grouping:
        """The grouping by numbers of ``values``.

        Args:
            codes: [N]; -1: the row has no value, so it is a group of its own.
            values: of the groups.
        """
        single = codes < 0
        codes = codes.copy()
        codes[single] = len(values) + np.arange(int(single.sum()))
        return cls(codes, values)

    @property
    def count(self) -> int:
        """Number of groups, those of one row included."""
        return int(self.codes.max(initial=-1)) + 1

    def value(self, code: int) -> Any:
        """The value of a group; None for a row without one."""
        return self.values[code].as_py() if code < len(self.values) else None


def group_by_column(snapshot: Snapshot, name: str) -> Grouping:
    """Rows with the same value in a column are a group; for ``image``, of the same file.

    Two runs may hold images of the same name under different roots; those are different images.

    Raises:
        ColumnError: there is no such column.
    """
    codes, values = _encode(read_column(snapshot, name))
    if name == "image":
        runs = snapshot.manifest.runs
        roots = [str(run.root) for run in runs]
        root_of_run = np.array([roots.index(root) for root in roots], np.int64)
        root = root_of_run[snapshot.rows["run"].to_numpy()]
        codes, values = _split(codes, root, values)
    return Grouping.of_codes(codes, values)


def group_by_members(
    snapshot: Snapshot, ids: Sequence[str], runs: NDArray[np.integer], names: pa.ChunkedArray
) -> Grouping:
    """Groups by lists of their members, as tracks are given.

    Args:
        snapshot: the index.
        ids: [M] detections; those that are not in the index are left out.
        runs: [M] the run of each, by its position in the manifest; a name holds within one run.
        names: [M] the group of each.

    Returns:
        The grouping; rows that are in no group are each a group of their own.
    """
    codes, values = _encode(names)
    codes, values = _split(codes, runs, values)
    rows = snapshot.rows_of(ids)
    stored = snapshot.rows["run"].to_numpy()
    here = np.flatnonzero(rows >= 0)
    here = here[stored[rows[here]] == runs[here]]
    of_rows = np.full(snapshot.rows.num_rows, -1, np.int64)
    of_rows[rows[here]] = codes[here]
    return Grouping.of_codes(of_rows, values)


def _encode(values: pa.ChunkedArray) -> tuple[Codes, pa.Array]:
    """The number of each value among the distinct ones, -1 without one; and those."""
    encoded = values.dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return np.empty(0, np.int64), pa.array([], values.type)
    parts = [pc.fill_null(chunk.indices, -1).to_numpy() for chunk in encoded.chunks]
    return np.concatenate(parts).astype(np.int64), encoded.chunk(0).dictionary


def _split(codes: Codes, parts: NDArray[np.integer], values: pa.Array) -> tuple[Codes, pa.Array]:
    """Groups of the same code and part; codes of -1 stay so."""
    count = int(parts.max(initial=0)) + 1
    if count == 1:
        return codes, values
    pairs, numbers = np.unique(codes * count + parts, return_inverse=True)
    # Every pair of a code of -1 is below 0, and those come first.
    without = int((pairs < 0).sum())
    split = np.maximum(numbers - without, -1).astype(np.int64)
    return split, values.take(pa.array(pairs[without:] // count))


def search_groups(
    snapshot: Snapshot,
    vectors: NDArray[np.float32],
    grouping: Grouping,
    *,
    k: int,
    group_size: int,
    offset: int = 0,
    score_threshold: float | None = None,
    excluded: Sequence[NDArray[np.int64]],
    filter: Filter | None = None,
    exact: bool = False,
) -> Selection:
    """Find the nearest rows of the nearest groups of each query.

    Args:
        snapshot: the index.
        vectors: [Q, D] raw embeddings.
        grouping: of its rows.
        k: groups of each query.
        group_size: most hits of each group.
        offset: nearest groups to leave out.
        score_threshold: the worst score of a hit, see ``within``; None: any.
        excluded: [Q] rows that are no hits of each query.
        filter: only rows that match it.
        exact: compare with every vector.

    Returns:
        The hits, those of one group together, the nearest group first; within a group the nearest
        hit first. ``ranks`` count hits of the answer, from 1.

    Raises:
        SnapshotError: as of ``Snapshot.search``.
    """
    walk = _Walk(snapshot, grouping, offset + k, group_size, score_threshold, filter, exact)
    parts = [
        walk.search(vector[None], rows) for vector, rows in zip(vectors, excluded, strict=True)
    ]
    kept = [_cut(rows, scores, grouping.codes[rows], offset) for rows, scores in parts]
    counts = np.array([len(rows) for rows, _ in kept], np.int64)
    rows = np.concatenate([rows for rows, _ in kept])
    ranks = np.concatenate([np.arange(1, count + 1) for count in counts.tolist()])
    groups = [grouping.value(code) for code in grouping.codes[rows].tolist()]
    return Selection(rows, np.concatenate([scores for _, scores in kept]), ranks, counts, groups)


class _Walk:
    """Through the rows of an index, nearest first, until the groups of a query are complete."""

    def __init__(
        self,
        snapshot: Snapshot,
        grouping: Grouping,
        wanted: int,
        size: int,
        threshold: float | None,
        filter: Filter | None,
        exact: bool,
    ) -> None:
        self._snapshot, self._codes = snapshot, grouping.codes
        self._wanted, self._size = wanted, size
        self._threshold = np.nan if threshold is None else threshold
        self._filter, self._exact = filter, exact
        self._mask = snapshot.mask(filter)
        self._sizes = np.bincount(self._codes[self._mask], minlength=grouping.count)

    def search(
        self, vector: NDArray[np.float32], excluded: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Rows and scores of one query [1, D], group by group."""
        mask, sizes = self._mask, self._sizes
        if len(excluded):
            mask = mask.copy()
            mask[excluded] = False
            sizes = np.bincount(self._codes[mask], minlength=len(sizes))
        total = int(self._mask.sum())
        groups = int((sizes > 0).sum())
        if not groups:
            return np.empty(0, np.int64), np.empty(0, np.float32)
        wanted = min(self._wanted, groups)
        depth = 2 * wanted * self._size + len(excluded) + 16
        while True:
            hits = self._snapshot.search(vector, depth, filter=self._filter, exact=self._exact)
            kept = ~np.isin(hits.rows[0], excluded)
            rows, scores = self._near(hits.rows[0][kept], hits.scores[0][kept])
            if depth >= total or len(rows) < int(kept.sum()):
                return self._best(rows, scores, wanted)
            found, counts = _first_groups(self._codes[rows], wanted)
            may_change = np.full(len(sizes), len(found) < wanted)
            may_change[found] = counts < np.minimum(sizes[found], self._size)
            left = np.flatnonzero(mask & may_change[self._codes])
            if not len(left):
                return self._best(rows, scores, wanted)
            if len(left) <= _FEW_ROWS:
                return self._best(*self._with_rows(vector, rows, scores, left), wanted)
            depth = min(depth * _DEEPER, total)

    def _with_rows(
        self,
        vector: NDArray[np.float32],
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        left: NDArray[np.int64],
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The hits and all of some more rows, nearest first."""
        metric = self._snapshot.manifest.metric
        left = np.setdiff1d(left, rows)
        store = faiss.IndexFlat(vector.shape[1], faiss_metric(metric))
        store.add(self._snapshot.vectors(left))
        query = prepare(vector, ["the query"], metric)
        values, at = ExactSearch(store, metric).search(query, len(left))
        near = self._near(left[at[0]], to_scores(values, metric)[0])
        rows, scores = np.concatenate([rows, near[0]]), np.concatenate([scores, near[1]])
        by_row = np.argsort(rows)  # equal scores are in the order of the rows
        order = by_row[argsort_nearest(scores[by_row][None], metric, len(rows))[0]]
        return rows[order], scores[order]

    def _near(
        self, rows: NDArray[np.int64], scores: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        near = within(scores, self._threshold, self._snapshot.manifest.metric)
        return rows[near], scores[near]

    def _best(
        self, rows: NDArray[np.int64], scores: NDArray[np.float32], wanted: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The hits of the first groups, group by group."""
        codes = self._codes[rows]
        found, _ = _first_groups(codes, wanted)
        rank = np.full(int(codes.max(initial=0)) + 1, wanted)
        rank[found] = np.arange(len(found))
        order = np.argsort(rank[codes], kind="stable")
        order = order[rank[codes[order]] < wanted]
        of_group = rank[codes[order]]
        starts = np.searchsorted(of_group, of_group)
        order = order[np.arange(len(order)) - starts < self._size]
        return rows[order], scores[order]


def _first_groups(codes: Codes, wanted: int) -> tuple[Codes, NDArray[np.int64]]:
    """The groups met first, in that order, and the hits of each."""
    unique, first, counts = np.unique(codes, return_index=True, return_counts=True)
    order = np.argsort(first)[:wanted]
    return unique[order], counts[order]


def _cut(
    rows: NDArray[np.int64], scores: NDArray[np.float32], codes: Codes, offset: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Without the first ``offset`` groups."""
    if not offset or not len(rows):
        return rows, scores
    number = np.cumsum(np.concatenate([[0], np.diff(codes) != 0]))
    return rows[number >= offset], scores[number >= offset]
