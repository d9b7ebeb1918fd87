"""One segment opened for searching: its exact vectors, what speeds it up, what its rows are."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import SnapshotError, first_line
from index.metrics import Metric, faiss_metric, to_scores
from index.search.accelerator import Accelerator, Allowed, SearchParams
from index.search.factory import faiss_reason, is_flat
from index.search.filters import Filter, matches
from index.search.recall import Hits
from index.storage.layout import IDS, ROWS, SEARCH, VECTORS, SegmentEntry
from index.storage.rows import ROWS_SCHEMA, IdTable, RowTable, read_rows
from index.storage.store import open_store

_faiss: Any = faiss

COMPARED_VALUES = 16_000_000
"""Under a filter that leaves no more values than this, each row that fits is compared.

62,000 rows of 256: 5 ms on one core. Above it, lists with the rows that fit are visited.
"""

_GPU_MOST_K = 2048  # FAISS selects no more on a GPU
CACHED_FILTERS = 16  # answers to a filter that stay in memory: a byte a row, and 8 a row that fits


class Searchable(Protocol):
    """What a snapshot asks of its segments, wherever they are."""

    def search(
        self, queries: NDArray[np.float32], k: int, *, chosen: Filter | None, exact: bool
    ) -> Hits:
        """The nearest rows of each prepared query: [Q, min(k, rows that fit)], own numbers."""


class Segment:
    """A segment, safe to search from several threads.

    Attributes:
        entry: what the manifest says of it.
        rows: its rows; row numbers start at 0 in each segment.
        ids: from detection id to row.
    """

    def __init__(
        self,
        folder: Path,
        entry: SegmentEntry,
        dim: int,
        metric: Metric,
        deleted: NDArray[np.bool_] | None = None,
        *,
        searched: bool = True,
    ) -> None:
        """Open the segment in ``folder``; rows that are ``deleted`` [N] are never found.

        Where it is not ``searched``, but only looked up, what makes searches fast stays unread.

        Raises:
            SnapshotError: its files are missing, damaged, or not those of ``entry``.
        """
        self.entry = entry
        self._metric = metric
        try:
            table = read_rows(folder / ROWS)
            self.rows = RowTable(table)
            self.ids = IdTable(folder / IDS, self.rows)
            self._store = open_store(folder / VECTORS)
            self._accelerator = (
                None
                if is_flat(entry.factory) or not searched
                else Accelerator.open(folder / SEARCH, self._store, metric)
            )
        except (OSError, pa.ArrowInvalid, ValueError) as error:
            raise damage_error(folder, first_line(error)) from None
        except RuntimeError as error:
            raise damage_error(folder, faiss_reason(error)) from None
        stand = (self._store.ntotal, self._store.d, self._store.metric_type, table.num_rows)
        if stand != (entry.rows, dim, faiss_metric(metric), entry.rows) or (
            table.schema != ROWS_SCHEMA
        ):
            raise damage_error(
                folder, f"it holds {stand}, its manifest says {entry.rows} rows of {dim}"
            )
        self._effort = SearchParams(entry.search_params)
        self._alive = None if deleted is None or not deleted.any() else Allowed(~deleted)
        # Per object and not on the method, where it would keep every snapshot alive.
        self._allowed: Callable[[Filter], Allowed] = lru_cache(CACHED_FILTERS)(self._evaluate)
        self._gpu = _GpuCopy(self._store) if searched and faiss.get_num_gpus() > 0 else None

    def search(
        self, queries: NDArray[np.float32], k: int, *, chosen: Filter | None, exact: bool
    ) -> Hits:
        """The nearest rows of each query, nearest first.

        Args:
            queries: [Q, D], prepared for the metric.
            k: neighbours wanted; clipped to the rows that fit.
            chosen: only rows that fit this.
            exact: compare with every vector instead of looking where neighbours are likely.

        Raises:
            FilterError: ``chosen`` cannot be used.
        """
        allowed = self._allowed(chosen) if chosen else self._alive
        return self.search_among(queries, k, allowed, None if exact else self._effort)

    def search_among(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: Allowed | None,
        effort: SearchParams | None,
    ) -> Hits:
        """``search`` by rows instead of a filter; without an ``effort`` it is exhaustive."""
        k = min(k, self.entry.rows if allowed is None else allowed.count)
        if k == 0:
            return Hits(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), "f4"))
        quick = self._accelerator
        few = allowed is not None and allowed.count * self._store.d <= COMPARED_VALUES
        if quick is None or effort is None or few or (allowed is not None and not quick.filters):
            values, rows = self._compare(queries, k, allowed)
        else:
            values, rows = quick.search(queries, k, effort, allowed)
            # It may reach fewer than k rows and fill up with -1: such queries are answered again
            # by comparing with everything, so that k means k.
            if rows.shape[1] < k:
                values, rows = self._compare(queries, k, allowed)
            elif rows.min() < 0:
                short = np.flatnonzero((rows < 0).any(axis=1))
                values[short], rows[short] = self._compare(queries[short], k, allowed)
        return Hits(rows, to_scores(values, self._metric))

    def efforts(self) -> list[list[SearchParams]]:
        """What there is to try when tuning; nothing for a Flat segment."""
        return [] if self._accelerator is None else self._accelerator.ladders()

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Stored vectors of ``rows``, [R, D]."""
        found: NDArray[np.float32] = self._store.reconstruct_batch(rows)
        return found

    def mask(self, chosen: Filter | None) -> NDArray[np.bool_]:
        """Whether each row is there and fits, [N].

        Raises:
            FilterError: ``chosen`` cannot be used.
        """
        allowed = self._allowed(chosen) if chosen else self._alive
        return np.ones(self.entry.rows, bool) if allowed is None else allowed.mask

    def _evaluate(self, chosen: Filter) -> Allowed:
        fits = matches(chosen, self.rows.table)
        return Allowed(fits if self._alive is None else fits & self._alive.mask)

    def _compare(
        self, queries: NDArray[np.float32], k: int, allowed: Allowed | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        found: tuple[NDArray[np.float32], NDArray[np.int64]]
        if allowed is None:
            on_gpu = self._gpu if k <= _GPU_MOST_K else None
            found = (on_gpu or self._store).search(queries, k)
        else:
            # By their numbers: FAISS goes straight to them, where bits have it look at each row.
            chosen = _faiss.IDSelectorArray(allowed.rows)
            params = _faiss.SearchParameters(sel=chosen)
            found = self._store.search(queries, k, params=params)
        return found


class _GpuCopy:
    """The vectors on the GPUs, for one thread at a time: FAISS allows no two."""

    def __init__(self, store: Any) -> None:
        self._index = _faiss.index_cpu_to_all_gpus(store)
        self._lock = Lock()

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        with self._lock:
            found: tuple[NDArray[np.float32], NDArray[np.int64]] = self._index.search(queries, k)
        return found


def damage_error(path: Path, why: str) -> SnapshotError:
    """The one way to say that files are not what was written."""
    return SnapshotError(f"{path} is damaged: {why}; open another version or build the index again")
