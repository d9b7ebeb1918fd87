"""One segment, open for searching: its exact vectors, its approximate index, its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import OnepassError, SnapshotError, first_line
from common.refusals import access_error, refusal
from common.storage import is_remote
from index.config import Metric
from index.metrics import faiss_metric, to_scores
from index.search.accelerator import WIDTHS, Accelerator, SearchParams, width_of
from index.search.allowed import Allowed
from index.search.exact import ExactSearch
from index.search.factory import faiss_reason, is_flat
from index.search.filters import Filter, matches
from index.search.nodes import Nodes
from index.search.recall import Hits
from index.search.scores import all_found
from index.storage import store
from index.storage.check import Check, check_parts, compare_files
from index.storage.columns import is_rows_schema, rows_schema
from index.storage.layout import (
    DELETED,
    IDS,
    LISTS,
    NODES,
    ROWS,
    SEARCH,
    SEGMENTS,
    VECTORS,
    SegmentEntry,
    SnapshotManifest,
)
from index.storage.remote import fetch
from index.storage.rows import IdTable, RowTable, load_array, read_rows

COMPARED_VALUES = 16_000_000
"""A filter that leaves at most this many values (rows x dimension) is searched exhaustively.

62,000 rows of 256: 5 ms on one core. Above it, the approximate index is searched.
"""

CACHED_FILTERS = 16  # each takes a byte per row, and 8 per row that matches


class Searchable(Protocol):
    """A segment that a snapshot searches, in this process or another."""

    def search(
        self, queries: NDArray[np.float32], k: int, *, filter: Filter | None, exact: bool
    ) -> Hits:
        """The k nearest rows of each query.

        Args:
            queries: ``[Q, D]``, prepared for the metric.
            k: neighbours of each.
            filter: return only rows that match it.
            exact: compare with every stored vector.
        """


class Segment:
    """A segment, safe to search from several threads.

    Attributes:
        entry: its entry in the manifest.
        dim: values per vector.
        rows: its rows; row numbers start at 0 in each segment.
        ids: from detection id to row.
        uncompared: its files that were not compared with their sha256 before they were opened.
    """

    def __init__(
        self,
        folder: Path,
        entry: SegmentEntry,
        dim: int,
        metric: Metric,
        deleted: NDArray[np.bool_] | None = None,
        *,
        schema: pa.Schema | None = None,
        searchable: bool = True,
        uncompared: Mapping[Path, str] | None = None,
    ) -> None:
        """Open a segment, whose files were compared with their sha256.

        Args:
            folder: its folder.
            entry: its entry in the manifest.
            dim: values per vector.
            metric: how vectors are compared.
            deleted: bool [N], rows that no search returns; None: none.
            schema: of the rows of the version; None: that of this segment's.
            searchable: False opens it only to look rows up; the approximate index stays unread.
            uncompared: files that are compared later, and their sha256.

        Raises:
            SnapshotError: its files are missing, damaged, or not those of ``entry``.
            FileAccessError: this machine refused to read them.
        """
        self.entry = entry
        self.uncompared = uncompared or {}
        self._folder = folder
        self.dim = dim
        self._metric = metric
        try:
            table = read_rows(folder / ROWS)
            self.rows = RowTable(table, schema)
            self.ids = IdTable(folder / IDS, self.rows)
            self._store = store.open_store(folder / VECTORS)
            self._accelerator = None
            if searchable and not is_flat(entry.factory):
                nodes = (
                    Nodes.open(folder / NODES)
                    if NODES in entry.files
                    else Nodes.of_rows(np.arange(entry.rows))  # of format 2: a node for each row
                )
                self._accelerator = Accelerator.open(folder / SEARCH, self._store, metric, nodes)
        except (OSError, MemoryError, EOFError, ValueError, RuntimeError) as error:
            raise _open_error(folder, error) from None
        actual = (self._store.ntotal, self._store.d, self._store.metric_type, table.num_rows)
        if actual != (entry.rows, dim, faiss_metric(metric), entry.rows) or (
            not is_rows_schema(table.schema)
        ):
            raise _damage_error(
                folder, f"it holds {actual}, its manifest says {entry.rows} rows of {dim}"
            )
        self._params = {
            width: SearchParams.read(*stored)
            for width in WIDTHS
            if (stored := entry.params_of(width)) is not None
        }
        self._undeleted = None if deleted is None or not deleted.any() else Allowed(~deleted)
        # Per object, and of a function: a cache of a method would be a cycle, which keeps the files
        # of a replaced snapshot open.
        self._allowed: Callable[[Filter], Allowed] = lru_cache(CACHED_FILTERS)(
            partial(_evaluate, self.rows, self._undeleted)
        )
        self._exact = ExactSearch(self._store, metric, on_gpu=searchable)

    def search(
        self, queries: NDArray[np.float32], k: int, *, filter: Filter | None, exact: bool
    ) -> Hits:
        """Find the nearest rows of each query.

        Args:
            queries: [Q, D] float32, prepared for the metric.
            k: neighbours wanted; clipped to the number of matching rows.
            filter: return only rows that match it.
            exact: compare with every vector instead of searching the approximate index.

        Returns:
            [Q, min(k, matching rows)], nearest first; row numbers are those of the segment.

        Raises:
            FilterError: ``filter`` cannot be used.
        """
        allowed = self._allowed(filter) if filter else self._undeleted
        return self.search_allowed(queries, k, allowed, None if exact else self.params(k))

    def params(self, k: int) -> SearchParams | None:
        """Parameters of a search for ``k`` neighbours; None: it is exhaustive."""
        return self._params.get(width_of(k) or 0)

    def search_allowed(
        self,
        queries: NDArray[np.float32],
        k: int,
        allowed: Allowed | None,
        params: SearchParams | None,
    ) -> Hits:
        """``search`` among given rows.

        Args:
            queries: [Q, D] float32, prepared for the metric.
            k: neighbours wanted; clipped to the number of allowed rows.
            allowed: return only these rows; None: all.
            params: search parameters of at least ``k``; None: exhaustive search.
        """
        k = min(k, self.entry.rows if allowed is None else allowed.count)
        if k == 0:
            return Hits(np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), "f4"))
        index = self._accelerator
        few = allowed is not None and allowed.count * self._store.d <= COMPARED_VALUES
        unsupported = index is not None and allowed is not None and not index.supports_filters
        if index is None or params is None or few or unsupported:
            values, rows = self._exact.search(queries, k, allowed)
        else:
            values, rows = index.search(queries, k, params, allowed)
            # It may return fewer than k rows, padded with -1: such queries are searched again
            # exhaustively, so that every query has k hits.
            if not all_found(rows):
                short = np.flatnonzero(rows[:, -1] < 0)
                values[short], rows[short] = self._exact.search(queries[short], k, allowed)
        return Hits(rows, to_scores(values, self._metric))

    def vectors(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """Stored vectors of ``rows``, [R, D]."""
        vectors: NDArray[np.float32] = self._store.reconstruct_batch(rows)
        return vectors

    def check_copied(self) -> None:
        """Compare the files that rows are copied from; no comparison of another process counts.

        Raises:
            VerifyError: one is missing or differs.
        """
        files = {self._folder / name: self.entry.files[name] for name in (VECTORS, ROWS)}
        compare_files(files, trust="process")

    def mask(self, filter: Filter | None) -> NDArray[np.bool_]:
        """Whether each row is undeleted and matches, [N].

        Raises:
            FilterError: ``filter`` cannot be used.
        """
        allowed = self._allowed(filter) if filter else self._undeleted
        return np.ones(self.entry.rows, bool) if allowed is None else allowed.mask


def _evaluate(rows: RowTable, undeleted: Allowed | None, filter: Filter) -> Allowed:
    mask = matches(filter, rows)
    return Allowed(mask if undeleted is None else mask & undeleted.mask)


def open_segments(
    folder: Path,
    manifest: SnapshotManifest,
    numbers: Iterable[int],
    *,
    searchable: bool = True,
    check: Check = "known",
) -> list[Segment]:
    """Open some segments of a version of the index in ``folder``.

    Args:
        folder: the index folder.
        manifest: that of the version.
        numbers: positions of the segments in the manifest.
        searchable: False opens them only to look rows up; ``search.faiss`` stays unread.
        check: how much is compared with the manifest first.

    Raises:
        VerifyError: a file is missing, or differs from its sha256.
        SnapshotError: files do not fit each other.
        FileAccessError: this machine refused to read them.
    """
    entries = [(number, manifest.segments[number]) for number in numbers]
    stored = [
        (folder / manifest.version, manifest.files),
        *((folder / SEGMENTS / entry.name, entry.files) for _, entry in entries),
    ]
    without = () if searchable else (SEARCH, LISTS, NODES)
    version, *parts = local = fetch(folder, stored, without=without)
    files = [(part, hashes) for part, (_, hashes) in zip(local, stored, strict=True)]
    cached = is_remote(folder)
    later = check_parts(files, without=without, check=check, cached=cached)
    for part, (_, entry) in zip(parts, entries, strict=True):
        file = part / VECTORS
        header = (entry.rows, manifest.dim, manifest.metric)
        if file in later and not store.has_header(file, *header):  # FAISS is not to read it
            compare_files({file: later.pop(file)}, trust="process", cached=cached)
    deleted = _deleted_by_segment(version, manifest)
    schema = rows_schema(manifest.payload_schema)
    return [
        Segment(
            part,
            entry,
            manifest.dim,
            manifest.metric,
            deleted[number],
            schema=schema,
            searchable=searchable,
            uncompared={file: sha256 for file, sha256 in later.items() if file.parent == part},
        )
        for part, (number, entry) in zip(parts, entries, strict=True)
    ]


def _deleted_by_segment(path: Path, manifest: SnapshotManifest) -> list[NDArray[np.bool_] | None]:
    """Deleted rows of each segment, bool [N]; None for each where no row is deleted.

    Raises:
        SnapshotError: ``deleted.npy`` is missing or does not agree with the manifest.
    """
    if not manifest.deleted:
        return [None] * len(manifest.segments)
    total = sum(entry.rows for entry in manifest.segments)
    try:
        bits = load_array(path / DELETED)
        deleted = np.unpackbits(bits, count=total, bitorder="little").astype(bool)
    except (OSError, MemoryError, EOFError, ValueError, TypeError) as error:
        raise _open_error(path, error) from None
    if int(deleted.sum()) != manifest.deleted:
        raise _damage_error(path, f"{int(deleted.sum())} rows are deleted, not {manifest.deleted}")
    return np.split(deleted, np.cumsum([entry.rows for entry in manifest.segments])[:-1])


def _open_error(path: Path, error: Exception) -> OnepassError:
    """The error for files that cannot be opened: this machine refused, or they are damaged."""
    number = refusal(error)
    if number is not None:
        return access_error(path, number)
    why = faiss_reason(error) if isinstance(error, RuntimeError) else first_line(error)
    return _damage_error(path, why)


def _damage_error(path: Path, why: str) -> SnapshotError:
    """The error for files that differ from what was written."""
    return SnapshotError(f"{path} is damaged: {why}; open another version or build the index again")
