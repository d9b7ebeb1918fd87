"""Contract 4 on the disk: what stands in an index folder, and the records that describe it.

::

    INDEX/
      CURRENT             one line: the version that is served, switched atomically
      v0001/              one immutable snapshot: which segments, which of their rows are deleted
        manifest.json     written last; what it was built from, how, and the recall measured
        deleted.npy       tombstones, one bit a row                  (only where there are any)
      segments/           immutable parts, shared by the snapshots that name them
        s0001-00/
          vectors.faiss   every vector, exact, memory-mapped
          search.faiss    what makes a search fast                   (not for a Flat segment)
          lists.ivfdata   its inverted lists, left on the disk       (where memory is short)
          rows.arrow      what each row is, memory-mapped
          ids.npy         from detection id to row, memory-mapped
      .building-PID/      a build in progress; never read

In an object store the same names hold the same bytes; ``remote.py`` says how they are read.

A snapshot's rows are those of its segments, one after another; a row number means something in
that snapshot only. ``add`` writes one small segment, ``delete`` only tombstones, ``compact`` one
new segment out of all that is left.
"""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import Field

from common.errors import RunError, SnapshotError
from common.json_models import JsonModel, read_json
from common.storage import storage_errors, to_path
from index.metrics import Metric
from pipelines.model_info import ModelInfo

FORMAT = 2
CURRENT = "CURRENT"
SEGMENTS = "segments"
MANIFEST, DELETED = "manifest.json", "deleted.npy"
VECTORS, SEARCH, LISTS = "vectors.faiss", "search.faiss", "lists.ivfdata"
ROWS, IDS = "rows.arrow", "ids.npy"

VERSION = re.compile(r"v(\d{4,})")
SEGMENT = re.compile(r"s(\d{4,})-\d{2,}")


class BuildOptions(JsonModel):
    """What was asked for; ``compact`` asks for the same again."""

    metric: Metric = "cosine"
    factory: str = "auto"
    recall: float = 0.95
    shards: int = 1  # segments that a build makes


class RunEntry(JsonModel):
    """A run whose rows are in the snapshot; its place in the manifest is column ``run``."""

    path: str
    root: str  # relative image names of this run start here
    rows: int  # indexed, before any was deleted
    manifest_sha256: str  # of the run's manifest.json: compacting must find the same run


class RecallFacts(JsonModel):
    """Recall@k measured on held-out queries while building."""

    k: int
    target: float
    measured: float | None  # None: too few rows to hold any out
    queries: int
    # Share of the rows that a random filter leaves, and the recall under such a filter.
    filtered: dict[str, float] = Field(default_factory=dict)


class SegmentEntry(JsonModel):
    """One immutable part of a snapshot."""

    name: str
    rows: int
    factory: str  # FAISS factory string; "Flat": every search is exact
    search_params: dict[str, int]
    recall: RecallFacts
    files: dict[str, str] = Field(repr=False)  # name to sha256


class SnapshotManifest(JsonModel):
    """Contents of a snapshot's ``manifest.json``."""

    format: int = FORMAT
    version: str
    parent: str | None  # the version that this one changes or stands beside; None after a build
    made_by: str  # build, add, delete, compact or migrate
    options: BuildOptions
    rows: int  # that a search can find
    deleted: int
    skipped: int  # rows of the runs that have an error and no embedding
    dim: int
    model: ModelInfo
    fingerprint: str
    runs: list[RunEntry]
    segments: list[SegmentEntry]
    seconds: float
    created: str  # ISO 8601, UTC
    versions: dict[str, str]
    files: dict[str, str] = Field(repr=False)  # of the version's own folder: name to sha256

    @property
    def metric(self) -> Metric:
        """How nearness is measured."""
        return self.options.metric

    @property
    def largest(self) -> SegmentEntry:
        """The segment that most searches spend their time in."""
        return max(self.segments, key=lambda segment: segment.rows)

    @property
    def recall(self) -> RecallFacts:
        """Recall of the largest segment; what was added since is searched no worse."""
        return self.largest.recall

    @property
    def factory(self) -> str:
        """Factory string of the largest segment."""
        return self.largest.factory

    @property
    def warning(self) -> str | None:
        """What a user should know; None when all is well."""
        recall, rows = self.recall, sum(segment.rows for segment in self.segments)
        if recall.measured is None:
            return f"recall was not measured: {self.rows} row leaves no query to hold out"
        if recall.measured < recall.target:
            return (
                f"recall@{recall.k} is {recall.measured:.3f}, below the {recall.target:g} asked "
                f"for, with {self.factory} and {self.largest.search_params or 'nothing to tune'}; "
                "build with --factory HNSW64 or Flat for more"
            )
        if self.deleted > rows // 3:
            return f"{self.deleted} of {rows} rows are deleted; 'onepass index compact' drops them"
        return None


def list_versions(index_dir: str | Path) -> list[str]:
    """Versions that stand complete in ``index_dir``, oldest first; empty when there is none."""
    folder = to_path(index_dir)
    with storage_errors(folder):
        if not folder.is_dir():
            return []
        names = [
            entry.name
            for entry in folder.iterdir()
            if VERSION.fullmatch(entry.name) and (entry / MANIFEST).is_file()
        ]
    return sorted(names, key=lambda name: int(name[1:]))


def current_version(index_dir: str | Path) -> str | None:
    """The version that is served; None when ``index_dir`` holds no index.

    Raises:
        SnapshotError: CURRENT says something that is not a version name.
    """
    file = to_path(index_dir) / CURRENT
    with storage_errors(file):
        try:
            version = file.read_bytes().decode(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
    if not VERSION.fullmatch(version):
        raise SnapshotError(
            f"{file} says {version[:40]!r}, which is no version (allowed: "
            f"{', '.join(list_versions(index_dir)) or 'none stands here'}); write one into it"
        )
    return version


def read_manifest(index_dir: str | Path, version: str | None = None) -> SnapshotManifest:
    """Read the manifest of ``version``; None reads that of the one that is served.

    Raises:
        SnapshotError: no index, no such version, or its manifest cannot be read.
    """
    folder = to_path(index_dir)
    version = version or current_version(folder)
    with storage_errors(folder):
        if version is None or not folder.is_dir():
            what = "holds no index (no CURRENT file)" if folder.is_dir() else "does not exist"
            raise SnapshotError(f"{folder} {what}; make one with 'onepass index build'")
        file = folder / version / MANIFEST
        if not VERSION.fullmatch(version) or not file.is_file():
            have = ", ".join(list_versions(folder)) or "none"
            raise SnapshotError(f"{folder} has no version {version!r} (it has: {have})")
    try:
        with storage_errors(file):
            return read_json(file, SnapshotManifest)
    except RunError as error:
        raise SnapshotError(f"{error}; build it again with 'onepass index build'") from None
