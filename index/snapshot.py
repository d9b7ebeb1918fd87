"""One immutable version of an index, opened for reading.

::

    INDEX/
      CURRENT            one line: the version that is served, switched atomically
      v0001/
        vectors.faiss    the FAISS index
        rows.arrow       what each row is; row number = FAISS id
        manifest.json    what it was built from, how, and the recall that was measured
      .building-PID/     a build in progress; never read

Both data files are memory-mapped: opening costs milliseconds whatever their size, looking up a
row touches that row only, and several processes on a machine share one copy in memory.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import Field

from cluster.errors import RunError, SnapshotError, VerifyError, first_line
from index.factory import Metric, is_exact, knob_of, reason_of, search_parameters
from index.filters import Filter, matches
from index.recall import ExactKnn, Hits
from index.vectors import l1_normalise
from pipelines.detections import BOX
from pipelines.facts import ModelFacts
from pipelines.records import Record, read_record, sha256_file

__all__ = ["Hits", "Snapshot", "SnapshotManifest", "current_version", "list_versions"]

FORMAT = 1
CURRENT = "CURRENT"
VECTORS, ROWS, MANIFEST = "vectors.faiss", "rows.arrow", "manifest.json"

ROWS_SCHEMA = pa.schema(
    [
        ("run", pa.int16()),  # place in the manifest's runs
        ("row_id", pa.int64()),
        ("detection_id", pa.string()),
        ("image", pa.string()),
        *((name, pa.float32()) for name in BOX),
        ("sequence", pa.string()),
        ("timestamp", pa.timestamp("us")),
        ("frame", pa.int64()),
        ("label", pa.string()),
        ("label_index", pa.int32()),
        ("score", pa.float32()),
    ]
)

_VERSION = re.compile(r"v\d{4,}")
_BLOCK = 8192  # rows read back at a time when searching exactly


class RunEntry(Record):
    """A run whose rows are in the snapshot."""

    path: str
    root: str  # relative image names of this run start here
    rows: int


class RecallFacts(Record):
    """Recall measured while building, before the held-out queries were added themselves."""

    k: int
    target: float
    measured: float | None  # None: too few rows to hold any out
    queries: int


class SnapshotManifest(Record):
    """Contents of a snapshot's ``manifest.json``."""

    format: int = FORMAT
    version: str
    metric: Metric
    factory: str
    search_params: dict[str, int]
    rows: int
    skipped: int  # rows of the runs that have an error and no embedding
    dim: int
    recall: RecallFacts
    model: ModelFacts
    fingerprint: str
    runs: list[RunEntry]
    seconds: float
    created: str  # ISO 8601, UTC
    versions: dict[str, str]
    files: dict[str, str] = Field(repr=False)  # name to sha256

    @property
    def warning(self) -> str | None:
        """What a user should know of the measured recall; None when it met its target."""
        recall = self.recall
        if recall.measured is None:
            return f"recall was not measured: {self.rows} row leaves no query to hold out"
        if recall.measured < recall.target:
            return (
                f"recall@{recall.k} is {recall.measured:.3f}, below the {recall.target:g} asked "
                f"for, with {self.factory} and {self.search_params or 'nothing to tune'}; "
                "build with --factory HNSW64 or Flat for more"
            )
        return None


def list_versions(index_dir: str | Path) -> list[str]:
    """Versions that stand complete in ``index_dir``, oldest first; empty when there is none."""
    folder = Path(index_dir)
    if not folder.is_dir():
        return []
    names = [
        entry.name
        for entry in folder.iterdir()
        if _VERSION.fullmatch(entry.name) and (entry / MANIFEST).is_file()
    ]
    return sorted(names, key=lambda name: int(name[1:]))


def current_version(index_dir: str | Path) -> str | None:
    """The version that is served; None when ``index_dir`` holds no index.

    Raises:
        SnapshotError: CURRENT says something that is not a version name.
    """
    file = Path(index_dir) / CURRENT
    if not file.is_file():
        return None
    version = file.read_text(errors="replace").strip()
    if not _VERSION.fullmatch(version):
        raise SnapshotError(
            f"{file} says {version[:40]!r}, which is no version (allowed: "
            f"{', '.join(list_versions(index_dir)) or 'none stands here'}); write one into it"
        )
    return version


def read_manifest(index_dir: str | Path, version: str) -> SnapshotManifest:
    """Read the manifest of one version.

    Raises:
        SnapshotError: no such version, or its manifest cannot be read.
    """
    file = Path(index_dir) / version / MANIFEST
    if not _VERSION.fullmatch(version) or not file.is_file():
        have = ", ".join(list_versions(index_dir)) or "none"
        raise SnapshotError(f"{index_dir} has no version {version!r} (it has: {have})")
    try:
        return read_record(file, SnapshotManifest)
    except RunError as error:
        raise SnapshotError(f"{error}; build it again with 'onepass index build'") from None


class Snapshot:
    """A snapshot, safe to search from several threads.

    Attributes:
        path: folder of this version.
        manifest: what it is made of.
        rows: Arrow table with the columns of ``ROWS_SCHEMA``, memory-mapped.
    """

    def __init__(self, path: Path, manifest: SnapshotManifest, index: Any, rows: pa.Table) -> None:
        """Use ``Snapshot.open``."""
        self.path = path
        self.manifest = manifest
        self.rows = rows
        self._index = index

    @classmethod
    def open(cls, index_dir: str | Path, version: str | None = None) -> Snapshot:
        """Open ``version`` of an index; None opens the one that is served.

        Raises:
            SnapshotError: no index there, no such version, or its files are damaged.
        """
        folder = Path(index_dir)
        version = version or current_version(folder)
        if version is None:
            what = "holds no index (no CURRENT file)" if folder.is_dir() else "does not exist"
            raise SnapshotError(f"{folder} {what}; make one with 'onepass index build'")
        manifest = read_manifest(folder, version)
        path = folder / version
        try:
            with pa.memory_map(str(path / ROWS)) as source:
                rows = pa.ipc.open_file(source).read_all()
            index = faiss.read_index(str(path / VECTORS), faiss.IO_FLAG_MMAP_IFC)
        except (OSError, pa.ArrowInvalid) as error:
            raise _damaged(path, first_line(error)) from None
        except RuntimeError as error:
            raise _damaged(path, f"{VECTORS}: {reason_of(error)}") from None
        stand = (index.ntotal, index.d, rows.num_rows)
        if stand != (manifest.rows, manifest.dim, manifest.rows) or rows.schema != ROWS_SCHEMA:
            raise _damaged(path, f"its files hold {stand}, its manifest says {manifest.rows} rows")
        return cls(path, manifest, index, rows)

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
            vectors: [Q, D] raw embeddings; they are L1-normalised here.
            k: neighbours per query; clipped to the number of rows.
            exact: compare with every stored vector instead of walking the index. Exact up to
                what the index stores: a lossy factory (``SQ8``, ``PQ…``) stores less.

        Raises:
            SnapshotError: another dimension, k below 1, a zero or non-finite query.
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
        k = min(k, self.manifest.rows)
        normal = l1_normalise(queries, [f"query {row}" for row in range(len(queries))])
        if chosen:
            return self._clip(self._among(normal, k, self.matching(chosen)))
        if exact and not is_exact(self._index):
            return self._clip(self._exhaustive(normal, k))
        params = search_parameters(self._index, self.manifest.search_params)
        scores, rows = self._index.search(normal, k, params=params)
        # An approximate index may reach fewer than k rows and fills up with -1: such queries
        # are answered again by looking everywhere, so that k means k.
        short = np.flatnonzero((rows < 0).any(axis=1))
        if len(short):
            whole = self._everywhere(normal[short], k)
            rows[short], scores[short] = whole.rows, whole.scores
        return self._clip(Hits(rows, scores))

    def matching(self, chosen: Filter | None) -> NDArray[np.int64]:
        """Rows that fit a filter, ascending."""
        if not chosen:
            return np.arange(self.manifest.rows)
        return np.flatnonzero(matches(chosen, self.rows))

    def _among(self, queries: NDArray[np.float32], k: int, rows: NDArray[np.int64]) -> Hits:
        search = ExactKnn(queries, k, self.manifest.metric)
        search.add(self.vectors(rows), 0)
        hits = search.hits()
        return Hits(rows[hits.rows], hits.scores)

    def counts(self, column: str) -> list[tuple[str, int]]:
        """Distinct values of a column and how many rows have each, most frequent first."""
        counted = pc.value_counts(self.rows[column]).to_pylist()
        pairs = [(one["values"], one["counts"]) for one in counted if one["values"] is not None]
        return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))

    def columns(self, rows: NDArray[np.integer]) -> dict[str, list[Any]]:
        """Columns of ``rows``, in their order, as Python values."""
        records = self.records(rows)
        return {name: [one[name] for one in records] for name in self.rows.column_names}

    def rows_of(self, detection_ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each detection, -1 where there is none."""
        found = []
        for one in detection_ids:
            try:
                found.append(self.row_of(one))
            except SnapshotError:
                found.append(-1)
        return np.array(found, np.int64)

    def neighbours(self, detection_id: str, k: int, *, exact: bool = False) -> Hits:
        """Find the k rows nearest to a stored one, itself left out; arrays are [1, k].

        k is clipped to the number of other rows: a snapshot of one row has no neighbours.

        Raises:
            SnapshotError: no such detection, or k below 1.
        """
        row = self.row_of(detection_id)
        if k < 1:
            raise SnapshotError(f"k is {k}; it must be 1 or more")
        hits = self.search(self.vector(row)[None], k + 1, exact=exact)
        # An approximate search may miss the row itself: then the farthest is one too many.
        others = np.flatnonzero(hits.rows[0] != row)[: min(k, self.manifest.rows - 1)]
        return Hits(hits.rows[:, others], hits.scores[:, others])

    def row_of(self, detection_id: str) -> int:
        """Row of a detection, by binary search over ids sorted once.

        Raises:
            SnapshotError: no such detection.
        """
        ids, order = self.rows["detection_id"], self._by_id
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            if ids[int(order[middle])].as_py() < detection_id:
                low = middle + 1
            else:
                high = middle
        if low < len(order) and ids[int(order[low])].as_py() == detection_id:
            return int(order[low])
        raise SnapshotError(
            f"no detection {detection_id!r} among the {self.manifest.rows} rows of {self.path}; "
            "rows that have an error are not indexed"
        )

    @cached_property
    def _by_id(self) -> NDArray[np.uint64]:
        # A permutation costs 8 bytes a row where a dict of strings costs about 150.
        order: NDArray[np.uint64] = pc.sort_indices(self.rows["detection_id"]).to_numpy()
        return order

    def vector(self, row: int) -> NDArray[np.float32]:
        """Stored vector of a row, [D]: L2-normalised for cosine, L1-normalised for l1."""
        vector: NDArray[np.float32] = self.vectors([row])[0]
        return vector

    def vectors(self, rows: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Stored vectors of ``rows``, [R, D], as in ``vector``.

        Raises:
            SnapshotError: a row number outside the snapshot.
        """
        wanted = np.asarray(rows, np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < self.manifest.rows):
            bad = int(wanted.min()) if wanted.min() < 0 else int(wanted.max())
            raise SnapshotError(
                f"row {bad} is outside {self.path}, which has rows 0 to {self.manifest.rows - 1}"
            )
        if not len(wanted):
            return np.empty((0, self.manifest.dim), np.float32)
        vectors: NDArray[np.float32] = self._index.reconstruct_batch(wanted)
        return vectors

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

    def records(self, rows: NDArray[np.integer]) -> list[dict[str, Any]]:
        """Columns of ``rows``, in their order, as Python values.

        Row by row on purpose: ``Table.take`` copies whole string columns together first, 20 ms
        a query at a million rows where a slice costs 0.04 ms.
        """
        return [self.rows.slice(int(row), 1).to_pylist()[0] for row in rows]

    def image_path(self, row: int) -> Path:
        """Where the image of a row stands: its run's root, then the image's own name."""
        run, image = self.rows["run"][row].as_py(), self.rows["image"][row].as_py()
        root = Path(self.manifest.runs[run].root)
        return root / str(image)  # an absolute name replaces the root

    def verify(self) -> int:
        """Check every file's sha256; returns the number of rows.

        Raises:
            VerifyError: naming the first file that disagrees with the manifest.
        """
        for name, expected in self.manifest.files.items():
            file = self.path / name
            if not file.is_file():
                raise VerifyError(f"{file} is named in the manifest but missing")
            if sha256_file(file) != expected:
                raise VerifyError(
                    f"{file} does not match its sha256 in the manifest; build the index again"
                )
        return self.manifest.rows

    def _everywhere(self, queries: NDArray[np.float32], k: int) -> Hits:
        knob = knob_of(self._index)
        if knob is None or knob.name != "nprobe":
            return self._exhaustive(queries, k)
        params = search_parameters(self._index, {knob.name: knob.limit})  # every list
        scores, rows = self._index.search(queries, k, params=params)
        return Hits(rows, scores)

    def _exhaustive(self, queries: NDArray[np.float32], k: int) -> Hits:
        search = ExactKnn(queries, k, self.manifest.metric)
        for first in range(0, self.manifest.rows, _BLOCK):
            count = min(_BLOCK, self.manifest.rows - first)
            search.add(self._index.reconstruct_n(first, count), first)
        return search.hits()

    def _clip(self, hits: Hits) -> Hits:
        """Rounding may carry a score an ulp past the end of its range."""
        low = -1.0 if self.manifest.metric == "cosine" else 0.0
        high = 1.0 if self.manifest.metric == "cosine" else 2.0
        return Hits(hits.rows, np.clip(hits.scores, low, high))


def _damaged(path: Path, why: str) -> SnapshotError:
    return SnapshotError(f"{path} is damaged: {why}; open another version or build the index again")
