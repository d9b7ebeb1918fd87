"""One immutable version of an index, opened for reading: searched, looked up, described.

Opening costs milliseconds whatever the size: vectors and rows are memory-mapped, looking up a
row touches that row only, and several processes on a machine share one copy in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import SnapshotError, VerifyError, first_line
from common.json_models import sha256_file
from common.storage import resolve_path, storage_errors, to_path
from index.metrics import argsort_nearest, prepare
from index.search.filters import Filter
from index.search.recall import Hits
from index.search.segment import Searchable, Segment, damage_error
from index.storage.layout import (
    DELETED,
    LISTS,
    SEARCH,
    SEGMENTS,
    SnapshotManifest,
    current_version,
    list_versions,
    read_manifest,
)
from index.storage.remote import fetch
from index.storage.rows import RowTable, load_array
from pipelines.detections import BOX

__all__ = ["Hits", "Snapshot", "SnapshotManifest", "current_version", "list_versions"]

# From the number of a segment to who searches it, where that is not this process.
Searcher = Callable[[int], Searchable]


class Snapshot:
    """A snapshot, safe to search from several threads.

    Attributes:
        path: folder of this version.
        manifest: what it is made of.
        rows: Arrow table with the columns of ``ROWS_SCHEMA``, memory-mapped; the rows of all
            segments, deleted ones among them.
    """

    def __init__(
        self,
        path: Path,
        manifest: SnapshotManifest,
        segments: Sequence[Segment],
        elsewhere: Searcher | None,
    ) -> None:
        """Use ``Snapshot.open``."""
        self.path = path
        self.manifest = manifest
        self.rows = pa.concat_tables([segment.rows.table for segment in segments])
        self._segments = segments
        self._firsts = np.cumsum([0, *(segment.entry.rows for segment in segments)])
        self._table = RowTable(self.rows)
        self._searched: list[Searchable] = (
            [elsewhere(number) for number in range(len(segments))] if elsewhere else [*segments]
        )
        self._side_by_side = ThreadPoolExecutor(len(segments)) if elsewhere else None
        self._counted: Callable[[str], list[tuple[str, int]]] = lru_cache(8)(self._count)

    @classmethod
    def open(
        cls,
        index_dir: str | Path,
        version: str | None = None,
        *,
        elsewhere: Searcher | None = None,
    ) -> Snapshot:
        """Open ``version`` of an index; None opens the one that is served.

        Args:
            index_dir: the index folder.
            version: a version that stands in it.
            elsewhere: who searches each segment, if not this process; all at once then.

        Raises:
            SnapshotError: no index there, no such version, or its files are damaged.
        """
        folder = to_path(index_dir)
        manifest = read_manifest(folder, version)
        path = folder / manifest.version
        numbers = range(len(manifest.segments))
        segments = open_segments(folder, manifest, numbers, searched=elsewhere is None)
        return cls(path, manifest, segments, elsewhere)

    def search(
        self,
        vectors: NDArray[np.floating],
        k: int,
        *,
        chosen: Filter | None = None,
        exact: bool = False,
    ) -> Hits:
        """Find the k nearest rows of each query.

        Args:
            vectors: [Q, D] raw embeddings; they are normalised here.
            k: neighbours per query; clipped to the rows that fit.
            chosen: only rows that fit this.
            exact: compare with every stored vector instead of looking where neighbours are
                likely to be.

        Raises:
            SnapshotError: another dimension, k below 1, a zero or non-finite query.
            FilterError: ``chosen`` cannot be used.
        """
        queries = np.asarray(vectors)
        if queries.ndim != 2 or queries.shape[1] != self.manifest.dim:
            raise SnapshotError(
                f"the query has shape {queries.shape}, the index {self.path} holds vectors of "
                f"dimension {self.manifest.dim}; give [queries, {self.manifest.dim}] from the "
                f"model it was built with ({self.manifest.model.request.spec})"
            )
        if k < 1:
            raise SnapshotError(f"k is {k}; it must be 1 or more")
        names = [f"query {row}" for row in range(len(queries))]
        normal = prepare(queries, names, self.manifest.metric)

        def ask(searched: Searchable) -> Hits:
            return searched.search(normal, k, chosen=chosen or None, exact=exact)

        if len(self._searched) == 1:
            return ask(self._searched[0])
        run = self._side_by_side.map if self._side_by_side else map
        return self._merged(list(run(ask, self._searched)), k)

    def neighbours(
        self, detection_id: str, k: int, *, chosen: Filter | None = None, exact: bool = False
    ) -> Hits:
        """Find the k rows nearest to a stored one, itself left out; arrays are [1, k].

        k is clipped to the number of other rows: a snapshot of one row has no neighbours.

        Raises:
            SnapshotError: no such detection, or k below 1.
            FilterError: ``chosen`` cannot be used.
        """
        row = self.row_of(detection_id)
        if k < 1:
            raise SnapshotError(f"k is {k}; it must be 1 or more")
        hits = self.search(self.vector(row)[None], k + 1, chosen=chosen, exact=exact)
        # An approximate search may miss the row itself: then the farthest is one too many.
        others = np.flatnonzero(hits.rows[0] != row)[:k]
        return Hits(hits.rows[:, others], hits.scores[:, others])

    def row_of(self, detection_id: str) -> int:
        """Row of a detection.

        Raises:
            SnapshotError: no such detection.
        """
        row = int(self.rows_of([detection_id])[0])
        if row < 0:
            raise SnapshotError(
                f"no detection {detection_id!r} among the {self.manifest.rows} rows of "
                f"{self.path}; rows that have an error are not indexed"
            )
        return row

    def rows_of(self, detection_ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each detection, [N]; -1 where there is none, or no longer."""
        found = np.full(len(detection_ids), -1, np.int64)
        for number, segment in enumerate(self._segments):
            rows = segment.ids.rows_of(detection_ids)
            there = rows >= 0
            if self.manifest.deleted and there.any():
                there[there] = segment.mask(None)[rows[there]]
            found[there] = rows[there] + self._firsts[number]
        return found

    def vector(self, row: int) -> NDArray[np.float32]:
        """Stored vector of a row, [D]: L2-normalised for cosine, else L1-normalised."""
        vector: NDArray[np.float32] = self.vectors([row])[0]
        return vector

    def vectors(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Stored vectors of ``rows``, [R, D], as in ``vector``.

        Raises:
            SnapshotError: a row number outside the snapshot.
        """
        wanted = np.asarray(rows, np.int64)
        last = int(self._firsts[-1]) - 1
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() <= last):
            bad = int(wanted.min()) if wanted.min() < 0 else int(wanted.max())
            raise SnapshotError(f"row {bad} is outside {self.path}, which has rows 0 to {last}")
        found = np.empty((len(wanted), self.manifest.dim), np.float32)
        owner = np.searchsorted(self._firsts, wanted, side="right") - 1
        for number in np.unique(owner).tolist():
            own = owner == number
            found[own] = self._segments[number].vectors(wanted[own] - self._firsts[number])
        return found

    def columns(
        self, rows: NDArray[np.integer], names: Sequence[str] | None = None
    ) -> dict[str, list[Any]]:
        """Columns of ``rows``, in their order, as Python values."""
        return self._table.columns(rows, names)

    def records(self, rows: NDArray[np.integer]) -> list[dict[str, Any]]:
        """The same, a dict a row."""
        columns = self.columns(rows)
        values = zip(*columns.values(), strict=True)
        return [dict(zip(columns, one, strict=True)) for one in values]

    def matching(self, chosen: Filter | None = None) -> NDArray[np.int64]:
        """Rows that are there and fit a filter, ascending.

        Raises:
            FilterError: ``chosen`` cannot be used.
        """
        return np.flatnonzero(self.mask(chosen))

    def mask(self, chosen: Filter | None = None) -> NDArray[np.bool_]:
        """Whether each row is there and fits a filter, [N].

        Raises:
            FilterError: ``chosen`` cannot be used.
        """
        return np.concatenate([segment.mask(chosen or None) for segment in self._segments])

    def counts(self, column: str) -> list[tuple[str, int]]:
        """Distinct values of a column and the rows that have each, most frequent first."""
        return self._counted(column)

    def _count(self, column: str) -> list[tuple[str, int]]:
        values = self.rows[column]
        if self.manifest.deleted:
            values = values.filter(pa.array(self.mask()))
        counted = pc.value_counts(values).to_pylist()
        pairs = [(one["values"], one["counts"]) for one in counted if one["values"] is not None]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def describe(self, hits: Hits) -> list[dict[str, Any]]:
        """The hits of one query ([1, k], see ``Hits.of``), nearest first, as JSON-able dicts.

        ``score`` is the nearness in the index's metric, ``label_score`` the classifier's.
        """
        if len(hits.rows) != 1:
            raise ValueError(f"describe takes the hits of one query, not {len(hits.rows)}")
        found = self.records(hits.rows[0])
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
            }
            for rank, (row, score) in enumerate(
                zip(found, hits.scores[0].tolist(), strict=True), start=1
            )
        ]

    def image_path(self, row: int) -> Path:
        """Where the image of a row stands: its run's root, then the image's own name."""
        run, image = self.rows["run"][row].as_py(), self.rows["image"][row].as_py()
        return resolve_path(to_path(self.manifest.runs[run].root), str(image))

    def verify(self) -> int:
        """Check every file's sha256; returns the number of rows a search can find.

        Raises:
            VerifyError: naming the first file that disagrees with the manifest.
        """
        named = [(self.path, self.manifest.files)]
        segments = self.path.parent / SEGMENTS
        named += [(segments / entry.name, entry.files) for entry in self.manifest.segments]
        for folder, files in named:
            for name, expected in files.items():
                file = folder / name
                with storage_errors(file):
                    if not file.is_file():
                        raise VerifyError(f"{file} is named in the manifest but missing")
                    digest = sha256_file(file)
                if digest != expected:
                    raise VerifyError(
                        f"{file} does not match its sha256 in the manifest; build the index again"
                    )
        return self.manifest.rows

    def _merged(self, parts: list[Hits], k: int) -> Hits:
        """The k nearest of what each segment found."""
        firsts = self._firsts[:-1].tolist()
        rows = np.hstack([part.rows + first for part, first in zip(parts, firsts, strict=True)])
        scores = np.hstack([part.scores for part in parts])
        order = argsort_nearest(scores, self.manifest.metric, k)
        return Hits(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))


def open_segments(
    folder: Path, manifest: SnapshotManifest, numbers: Iterable[int], *, searched: bool = True
) -> list[Segment]:
    """Open some segments of a version of the index in ``folder``.

    Args:
        folder: the index folder.
        manifest: of the version.
        numbers: places of the segments in the manifest.
        searched: False where they are only looked up; their ``search.faiss`` stays unread.

    Raises:
        SnapshotError: files are missing or damaged.
    """
    entries = [(number, manifest.segments[number]) for number in numbers]
    version, *parts = fetch(
        folder,
        [
            (folder / manifest.version, manifest.files),
            *((folder / SEGMENTS / entry.name, entry.files) for _, entry in entries),
        ],
        without=() if searched else (SEARCH, LISTS),
    )
    deleted = deleted_by_segment(version, manifest)
    return [
        Segment(part, entry, manifest.dim, manifest.metric, deleted[number], searched=searched)
        for part, (number, entry) in zip(parts, entries, strict=True)
    ]


def deleted_by_segment(path: Path, manifest: SnapshotManifest) -> list[NDArray[np.bool_] | None]:
    """For each segment, which of its rows are deleted, [N]; None where none is anywhere.

    Raises:
        SnapshotError: the tombstones are missing or not those of the manifest.
    """
    if not manifest.deleted:
        return [None] * len(manifest.segments)
    total = sum(entry.rows for entry in manifest.segments)
    try:
        bits = load_array(path / DELETED)
        gone = np.unpackbits(bits, count=total, bitorder="little").astype(bool)
    except (OSError, ValueError, TypeError) as error:
        raise damage_error(path, first_line(error)) from None
    if int(gone.sum()) != manifest.deleted:
        raise damage_error(path, f"{int(gone.sum())} rows are deleted, not {manifest.deleted}")
    return np.split(gone, np.cumsum([entry.rows for entry in manifest.segments])[:-1])
