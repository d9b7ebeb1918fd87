"""One immutable version of an index, open for reading: search it, look rows up, read columns.

Files are compared with their sha256 before they are opened, large ones once a day and user
(``index/storage/check.py``). After that vectors and rows are memory-mapped, looking up a row reads
that row only, and all processes of a machine share one copy in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import SnapshotError
from common.moved import Pairs
from common.storage import to_path
from index.config import Metric
from index.metrics import argsort_nearest, prepare
from index.search.filters import Filter
from index.search.recall import Hits
from index.search.segment import Searchable, Segment, open_segments
from index.storage.check import Check, compare_files
from index.storage.columns import ROWS_SCHEMA, payload, rows_schema
from index.storage.layout import (
    SEGMENTS,
    SnapshotManifest,
    current_version,
    list_versions,
    read_manifest,
)
from index.storage.rows import RowTable
from index.vectors import unusable
from pipelines.detections import BOX

__all__ = ["Hits", "Snapshot", "SnapshotManifest", "current_version", "list_versions"]

Searcher = Callable[[int], Searchable]
"""Given the number of a segment, what searches it."""


class Snapshot:
    """One version of an index; safe to search from several threads.

    Attributes:
        path: folder of this version.
        manifest: its runs, segments, model, metric, and the recall measured.
        rows: Arrow table with the columns of ``ROWS_SCHEMA``, memory-mapped; the rows of all
            segments, the deleted ones included. ``column`` gives one of the user's own.
    """

    def __init__(
        self,
        path: Path,
        manifest: SnapshotManifest,
        segments: Sequence[Segment],
        searcher: Searcher | None,
    ) -> None:
        """Use ``Snapshot.open``."""
        self.path = path
        self.manifest = manifest
        tables = [table for segment in segments for table in segment.rows.tables]
        self._table = RowTable(tables, rows_schema(manifest.payload_schema))
        self.rows = self._table.select(ROWS_SCHEMA.names)
        self._segments = segments
        self._first_rows = np.cumsum([0, *(segment.entry.rows for segment in segments)])
        self._searchables: list[Searchable] = (
            [searcher(number) for number in range(len(segments))] if searcher else [*segments]
        )
        self._pool = ThreadPoolExecutor(len(segments)) if searcher else None

    @classmethod
    def open(
        cls,
        index_dir: str | Path,
        version: str | None = None,
        *,
        searcher: Searcher | None = None,
        pairs: Pairs = (),
        check: Check = "known",
    ) -> Snapshot:
        """Open a version of an index.

        Args:
            index_dir: the index folder, on this machine or in an object store.
            version: name of a version, as ``v0001``; None: the one that is served.
            searcher: given the number of a segment, returns what searches it, in place of this
                process; all segments are then searched at once.
            pairs: of folders of runs and images that were moved.
            check: how much is compared with the manifest before it is opened.

        Raises:
            SnapshotError: there is no index or no such version, or its manifest is damaged.
            VerifyError: a file is missing, or differs from its sha256.
            FileAccessError: this machine refused to read them, as where too many files are open.
            StorageError: the object store does not answer.
        """
        folder = to_path(index_dir)
        manifest = read_manifest(folder, version, pairs)
        numbers = range(len(manifest.segments))
        segments = open_segments(
            folder, manifest, numbers, searchable=searcher is None, check=check
        )
        return cls(folder / manifest.version, manifest, segments, searcher)

    def search(
        self,
        vectors: NDArray[np.floating],
        k: int,
        *,
        filter: Filter | None = None,
        exact: bool = False,
    ) -> Hits:
        """Find the k nearest rows of each query.

        Args:
            vectors: [Q, D] raw embeddings, float32 or another float type; they are normalised
                here.
            k: neighbours per query; clipped to the number of matching rows.
            filter: return only rows that match it.
            exact: compare with every stored vector instead of searching the approximate index.

        Returns:
            Rows int64 and scores float32, both [Q, min(k, matching rows)], nearest first.

        Raises:
            SnapshotError: the dimension is not the index's, ``k`` is below 1, or a query is zero
                or not finite.
            FilterError: ``filter`` cannot be used.
        """
        queries = np.asarray(vectors)
        if queries.ndim != 2 or queries.shape[1] != self.manifest.dim:
            raise SnapshotError(
                f"the query has shape {queries.shape}, the index {self.path} holds vectors of "
                f"dimension {self.manifest.dim}; give [queries, {self.manifest.dim}] from the "
                f"model it was built with ({self.manifest.model_name})"
            )
        _check_k(k)
        prepared = _prepare_queries(queries, self.manifest.metric)

        def search_segment(segment: Searchable) -> Hits:
            return segment.search(prepared, k, filter=filter or None, exact=exact)

        if len(self._searchables) == 1:
            return search_segment(self._searchables[0])
        run = self._pool.map if self._pool else map
        return self._merge(list(run(search_segment, self._searchables)), k)

    def neighbors(
        self, detection_id: str, k: int, *, filter: Filter | None = None, exact: bool = False
    ) -> Hits:
        """Find the k rows nearest to a stored one, that row itself excluded.

        Args:
            detection_id: a detection of the index.
            k: neighbours; clipped to the number of other rows.
            filter: return only rows that match it.
            exact: compare with every stored vector instead of searching the approximate index.

        Returns:
            Rows int64 and scores float32, both [1, min(k, other matching rows)], nearest first.

        Raises:
            SnapshotError: there is no such detection, or ``k`` is below 1.
            FilterError: ``filter`` cannot be used.
        """
        row = self.row_of(detection_id)
        _check_k(k)
        hits = self.search(self.vectors([row]), k + 1, filter=filter, exact=exact)
        # An approximate search may miss the row itself: then the last hit is one too many.
        others = np.flatnonzero(hits.rows[0] != row)[:k]
        return Hits(hits.rows[:, others], hits.scores[:, others])

    def row_of(self, detection_id: str) -> int:
        """Row number of a detection.

        Raises:
            SnapshotError: there is no such detection.
        """
        row = int(self.rows_of([detection_id])[0])
        if row < 0:
            raise SnapshotError(
                f"no detection {detection_id!r} among the {self.manifest.rows} rows of "
                f"{self.path}; rows that have an error are not indexed"
            )
        return row

    def rows_of(self, detection_ids: Sequence[str]) -> NDArray[np.int64]:
        """Row number of each detection, int64 [N]; -1 where it is missing or deleted."""
        row_numbers = np.full(len(detection_ids), -1, np.int64)
        for number, segment in enumerate(self._segments):
            rows = segment.ids.rows_of(detection_ids)
            present = rows >= 0
            if self.manifest.deleted and present.any():
                present[present] = segment.mask(None)[rows[present]]
            row_numbers[present] = rows[present] + self._first_rows[number]
        return row_numbers

    def vectors(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Stored vectors of R rows, float32 [R, D], in the order of ``rows``.

        They are L2-normalised for cosine, otherwise L1-normalised.

        Raises:
            SnapshotError: a row number outside the snapshot.
        """
        numbers = np.asarray(rows, np.int64)
        last = int(self._first_rows[-1]) - 1
        if len(numbers) and not (numbers.min() >= 0 and numbers.max() <= last):
            bad = int(numbers.min()) if numbers.min() < 0 else int(numbers.max())
            raise SnapshotError(f"row {bad} is outside {self.path}, which has rows 0 to {last}")
        vectors = np.empty((len(numbers), self.manifest.dim), np.float32)
        segment_of = np.searchsorted(self._first_rows, numbers, side="right") - 1
        for number in np.unique(segment_of).tolist():
            own = segment_of == number
            vectors[own] = self._segments[number].vectors(numbers[own] - self._first_rows[number])
        return vectors

    def columns(
        self, rows: NDArray[np.integer], names: Sequence[str] | None = None
    ) -> dict[str, list[Any]]:
        """Values of some rows, by column.

        Args:
            rows: [R] row numbers.
            names: columns of ``ROWS_SCHEMA`` or ``own_columns``; None: all.

        Returns:
            R Python values per column, in the order of ``rows``.
        """
        return self._table.columns(rows, names)

    @property
    def segments(self) -> Sequence[Segment]:
        """Its segments, open."""
        return self._segments

    @property
    def schema(self) -> pa.Schema:
        """``ROWS_SCHEMA``, then the types of ``own_columns``."""
        return self._table.schema

    @property
    def own_columns(self) -> list[str]:
        """Names of the user's own columns, which ``where`` and ``columns`` know.

        A name that the index uses itself has the prefix ``payload.``, as ``payload.run``.
        """
        return list(self.manifest.payload_schema)

    def column(self, name: str) -> pa.ChunkedArray:
        """A column of ``ROWS_SCHEMA`` or ``own_columns``, of all rows, the deleted ones included."""
        return self._table.select([name])[name]

    def matching(self, filter: Filter | None = None) -> NDArray[np.int64]:
        """Row numbers of the undeleted rows that match, int64, ascending.

        Raises:
            FilterError: ``filter`` cannot be used.
        """
        return np.flatnonzero(self.mask(filter))

    def mask(self, filter: Filter | None = None) -> NDArray[np.bool_]:
        """Whether each row is undeleted and matches, bool [N].

        Raises:
            FilterError: ``filter`` cannot be used.
        """
        return np.concatenate([segment.mask(filter or None) for segment in self._segments])

    def describe(self, hits: Hits) -> list[dict[str, Any]]:
        """The hits of one query as dicts that can be written as JSON.

        Args:
            hits: [1, k], see ``Hits.of``.

        Returns:
            k dicts, nearest first; ``score`` is that of the metric, ``label_score`` that of the
            classifier, ``payload`` a dict of the user's own columns.

        Raises:
            ValueError: ``hits`` are of several queries.
        """
        if len(hits.rows) != 1:
            raise ValueError(f"describe takes the hits of one query, not {len(hits.rows)}")
        columns = self.columns(hits.rows[0])
        own = payload(columns, self.own_columns)
        records = [
            dict(zip(columns, values, strict=True))
            for values in zip(*columns.values(), strict=True)
        ]
        return [
            {
                "rank": rank,
                "detection_id": row["detection_id"],
                "score": score,
                "label": row["label"],
                "label_index": row["label_index"],
                "label_score": row["score"],
                "image": row["image"],
                "box": None if row["x1"] is None else [row[side] for side in BOX],
                "sequence": row["sequence"],
                "frame": row["frame"],
                "timestamp": row["timestamp"].isoformat() if row["timestamp"] else None,
                "payload": own[rank - 1],
            }
            for rank, (score, row) in enumerate(
                zip(hits.scores[0].tolist(), records, strict=True), start=1
            )
        ]

    def image_path(self, row: int) -> Path:
        """Path of the image of a row: the root of its run, then the image's name.

        Raises:
            SnapshotError: its vector was made elsewhere, and nobody said from which image.
        """
        values = self.columns(np.array([row]), ["run", "image"])
        if values["image"][0] is None:
            raise SnapshotError(f"row {row} of {self.path} has no image")
        return self.manifest.runs[int(values["run"][0])].image_path(str(values["image"][0]))

    def verify(self) -> int:
        """Check the sha256 of every file; returns the number of rows that a search can return.

        Raises:
            VerifyError: a file differs from the manifest; names the first.
        """
        parts = [(self.path, self.manifest.files)]
        segments = self.path.parent / SEGMENTS
        parts += [(segments / entry.name, entry.files) for entry in self.manifest.segments]
        files = {
            folder / name: sha256 for folder, hashes in parts for name, sha256 in hashes.items()
        }
        compare_files(files, trust="nothing")
        return self.manifest.rows

    @property
    def uncompared(self) -> dict[Path, str]:
        """Files that ``open`` has left for later, and their sha256."""
        return {
            file: sha256
            for segment in self._segments
            for file, sha256 in segment.uncompared.items()
        }

    def _merge(self, by_segment: list[Hits], k: int) -> Hits:
        """The k nearest of the hits of all segments."""
        first_rows = self._first_rows[:-1].tolist()
        rows = np.hstack([h.rows + first for h, first in zip(by_segment, first_rows, strict=True)])
        scores = np.hstack([hits.scores for hits in by_segment])
        order = argsort_nearest(scores, self.manifest.metric, k)
        return Hits(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def _prepare_queries(queries: NDArray[np.floating], metric: Metric) -> NDArray[np.float32]:
    """Queries [Q, D], prepared for the metric.

    Raises:
        SnapshotError: one is zero or not finite; names the first.
    """
    try:
        return prepare(queries, range(len(queries)), metric)
    except SnapshotError:
        zero, not_finite = unusable(queries)
        bad = int(np.argmax(zero | not_finite))
        what = "is zero" if zero[bad] else "holds NaN or infinity"
        raise SnapshotError(
            f"query {bad} of {len(queries)} (counted from 0) {what}: it has no direction and "
            "therefore no neighbours; give another vector"
        ) from None


def _check_k(k: int) -> None:
    if k < 1:
        raise SnapshotError(f"`k={k}` is too small; give 1 or more")
