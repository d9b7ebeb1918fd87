"""The files of an index folder, and the JSON records that describe them.

::

    INDEX/
      CURRENT             the version that is served, and its manifest's sha256; replaced atomically
      v0001/              one immutable snapshot: its segments, and which rows are deleted
        manifest.json     written last; runs, options, segments, and the recall measured
        deleted.npy       one bit per row                            (only where rows are deleted)
      segments/           immutable parts, shared by the snapshots that name them
        s0001-00/
          vectors.faiss   the exact vectors, memory-mapped
          search.faiss    the approximate index                      (not for a Flat segment)
          lists.ivfdata   its inverted lists, left on the disk       (where memory is short)
          nodes.arrow     the rows that each of its numbers stands for
          rows.arrow      the columns of each row, memory-mapped
          ids.npy         row numbers by detection id, memory-mapped
      .building-PID/      a build in progress; never read

In an object store the same names hold the same bytes; ``remote.py`` says how they are read.

The rows of a snapshot are those of its segments, one after another; row numbers are valid in one
snapshot only. ``add`` writes one segment, in place of small ones before it, ``delete`` only
``deleted.npy``, ``compact`` new segments of the rows that are left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer

from common.errors import OnepassError, RunError, SnapshotError
from common.json_models import JsonModel, sha256_file
from common.manifests import MANIFEST, Manifest
from common.moved import ImageRoot, Pairs, apply_pairs, find_path
from common.refusals import read_errors
from common.storage import is_remote, to_path
from index.config import IndexConfig, Metric
from pipelines.model_info import ModelInfo
from pipelines.run import Run

CURRENT = "CURRENT"
SEGMENTS = "segments"
DELETED = "deleted.npy"
VECTORS, SEARCH, LISTS = "vectors.faiss", "search.faiss", "lists.ivfdata"
ROWS, IDS, NODES = "rows.arrow", "ids.npy", "nodes.arrow"

MANY_SEGMENTS = 20  # beyond those of a build: more are a warning

VERSION = re.compile(r"v(\d{4,})")
SEGMENT = re.compile(r"s(\d{4,})-\d{2,}")


class RunEntry(JsonModel):
    """A run, or file of vectors, whose rows are in the snapshot.

    Column ``run`` is its position in the manifest.
    """

    path: str
    root: str  # relative image names of this run start here
    rows: int  # indexed, before any was deleted
    manifest_sha256: str  # of the run's manifest.json, or of the file
    moved: Pairs = ()  # old and new folder of images that were moved

    def located(self, then: str | None, now: Path, pairs: Pairs = ()) -> RunEntry:
        """The entry with its folders as they are now.

        Args:
            then: the index folder when the entry was written; None: not known.
            now: the index folder, as it is now.
            pairs: of folders that were moved by themselves.
        """
        path = find_path(self.path, then, now, pairs)
        root = find_path(self.root, then, now, pairs)
        if not is_remote(root) and not Path(root).is_dir():  # moved with the run, not the index
            with suppress(OnepassError, OSError):
                root = str(Run.open(path, pairs).root)
        known = pairs if root == self.root else (*pairs, (self.root, root))
        earlier = ((old, apply_pairs(known, new)) for old, new in self.moved)
        moved = tuple(dict.fromkeys((*known, *earlier)))
        return self.model_copy(update={"path": path, "root": root, "moved": moved})

    @model_serializer(mode="wrap")
    def _without_unknown(self, standard: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Without ``moved`` where it says nothing, as entries of earlier versions are."""
        values: dict[str, Any] = standard(self)
        return {name: value for name, value in values.items() if value or name != "moved"}

    def image_path(self, image: str) -> Path:
        """The file of an image of the run."""
        return ImageRoot(to_path(self.root), self.moved).path(image)


_VECTORS = "vectors"


def vectors_fingerprint(model_name: str | None) -> str:
    """The fingerprint of vectors that were made elsewhere; of a model in the user's words, if any."""
    return _VECTORS if model_name is None else f"{_VECTORS}:{model_name}"


def model_name_of(fingerprint: str) -> str | None:
    """What the user called the model, from such a fingerprint; None: nothing."""
    return fingerprint.removeprefix(f"{_VECTORS}:") if ":" in fingerprint else None


class RecallFacts(JsonModel):
    """Recall measured while building, with rows as queries of which there are no copies.

    In format 2 ``measured`` is what ``held_out`` is now, of rows drawn from all.
    """

    k: int
    target: float
    measured: float | None  # recall@k of rows of the index; None: too few rows
    # The least of rows that were not in the index yet, at any number of neighbours.
    held_out: float | None = None
    queries: int
    by_k: dict[str, float] = Field(default_factory=dict)  # as ``measured``, by number of neighbours
    # Share of the rows that a random filter keeps, to the recall under such a filter.
    filtered: dict[str, float] = Field(default_factory=dict)


class SegmentEntry(JsonModel):
    """One immutable part of a snapshot."""

    name: str
    rows: int
    factory: str  # FAISS factory string; "Flat": every search is exact
    search_params: dict[str, int]  # of the narrowest width
    # Most neighbours of a search to its parameters; wider searches are exact. Empty in format 2.
    widths: dict[str, dict[str, int]] = Field(default_factory=dict)
    recall: RecallFacts
    files: dict[str, str] = Field(repr=False)  # name to sha256

    def params_of(self, width: int) -> tuple[int, dict[str, int]] | None:
        """Stored search parameters for ``width`` neighbours, and the most that they are for.

        Format 2 holds those for ten neighbours: effort grows with the number of neighbours.

        Returns:
            None: such a search is exhaustive.
        """
        if self.widths or not self.search_params:
            stored = {int(most): params for most, params in self.widths.items()}
            return min(((m, p) for m, p in stored.items() if m >= width), default=None)
        measured_for = self.recall.k
        return width, {
            name: value
            if name == "refine"
            else -(-value * max(width, measured_for) // measured_for)
            for name, value in self.search_params.items()
        }


class SnapshotManifest(Manifest):
    """Contents of a snapshot's ``manifest.json``; ``files`` are those of the version's own folder."""

    format: int = 3  # 2: without what has a default here
    version: str
    parent: str | None  # the version that this one was made from; None after a build
    made_by: str  # build, add, delete, compact or migrate
    options: IndexConfig  # ``compact`` builds with the same again
    rows: int  # that a search can return
    deleted: int
    skipped: int  # rows of the runs that are not in it
    skipped_reasons: dict[str, int] = Field(default_factory=dict)  # no_embedding, zero, not_finite
    notes: tuple[str, ...] = ()  # what was left out: rows, columns
    payload_schema: dict[str, str] = Field(default_factory=dict)  # own columns, to their types
    dim: int
    model: ModelInfo | None  # None: the vectors were made elsewhere
    fingerprint: str
    path: str | None = None  # the index folder when this was written; None: before it was kept
    runs: list[RunEntry]
    segments: list[SegmentEntry]
    seconds: float
    created: str  # ISO 8601, UTC
    versions: dict[str, str]

    @property
    def model_name(self) -> str:
        """The model, for people; ``vectors`` where nobody said what made them."""
        return self.model.request.spec if self.model else self.fingerprint

    @property
    def metric(self) -> Metric:
        """How vectors are compared."""
        return self.options.metric

    @property
    def largest(self) -> SegmentEntry:
        """The segment with the most rows."""
        return max(self.segments, key=lambda segment: segment.rows)

    @property
    def recall(self) -> RecallFacts:
        """Recall of the largest segment; smaller ones are searched at least as well."""
        return self.largest.recall

    @property
    def factory(self) -> str:
        """Factory string of the largest segment."""
        return self.largest.factory

    @property
    def warning(self) -> str | None:
        """A warning for users, of all that there is; None where there is nothing to warn of."""
        return "; ".join(self._warnings()) or None

    def _warnings(self) -> Iterator[str]:
        recall, rows = self.recall, sum(segment.rows for segment in self.segments)
        if recall.measured is None:
            yield f"recall was not measured: {self.rows} row leaves no query to hold out"
        else:
            least = min(
                [recall.measured, *recall.by_k.values(), recall.held_out or recall.measured]
            )
            if least < recall.target:
                yield (
                    f"recall is {least:.3f}, below the target of {recall.target:g}, with "
                    f"{self.factory} and {self.largest.search_params or 'no search parameters'}; "
                    "build with `factory='Flat'` for exact answers"
                )
        if self.deleted > rows // 3:
            yield f"{self.deleted} of {rows} rows are deleted; 'onepass index compact' drops them"
        if len(self.segments) > self.options.shards + MANY_SEGMENTS:
            yield (
                f"{len(self.segments)} segments make searches slower; 'onepass index compact' "
                "makes one of them"
            )


def list_versions(index_dir: str | Path) -> list[str]:
    """Complete versions in ``index_dir``, oldest first; empty where there is no index."""
    folder = to_path(index_dir)
    with read_errors(folder):
        if not folder.is_dir():
            return []
        names = [
            entry.name
            for entry in folder.iterdir()
            if VERSION.fullmatch(entry.name) and (entry / MANIFEST).is_file()
        ]
    return sorted(names, key=lambda name: int(name[1:]))


def current_version(index_dir: str | Path) -> str | None:
    """The version that is served; None where ``index_dir`` holds no index.

    Raises:
        SnapshotError: CURRENT holds something that is not a version name.
    """
    current = _read_current(index_dir)
    return current and current[0]


def _read_current(index_dir: str | Path) -> tuple[str, str] | None:
    """The version that CURRENT names, and the sha256 of its manifest; empty: written by hand, or before."""
    file = to_path(index_dir) / CURRENT
    with read_errors(file):
        try:
            text = file.read_bytes().decode(errors="replace").strip()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
    version, _, digest = text.partition("\n")
    if not VERSION.fullmatch(version):
        raise SnapshotError(
            f"{file} holds {version[:40]!r}, which is no version (there are: "
            f"{', '.join(list_versions(index_dir)) or 'none'}); write one into it"
        )
    return version, digest


def current_text(index_dir: Path, version: str) -> bytes:
    """The contents of CURRENT for a version that is complete.

    One changed letter of a name is another name, so the sha256 of the version's manifest is with it.
    """
    return f"{version}\n{sha256_file(index_dir / version / MANIFEST)}\n".encode()


def read_manifest(
    index_dir: str | Path, version: str | None = None, pairs: Pairs = ()
) -> SnapshotManifest:
    """Read the manifest of a version; None reads that of the served one.

    Args:
        index_dir: the index folder.
        version: its name.
        pairs: of folders of runs and images that were moved.

    Returns:
        The manifest, whose runs are where they lie now.

    Raises:
        SnapshotError: there is no index or no such version, or its manifest cannot be read.
    """
    folder = to_path(index_dir)
    is_served, digest = version is None, ""
    if is_served and (current := _read_current(folder)):
        version, digest = current
    with read_errors(folder):
        if version is None or not folder.is_dir():
            what = "holds no index (no CURRENT file)" if folder.is_dir() else "does not exist"
            raise SnapshotError(f"{folder} {what}; make one with 'onepass index build'")
        file = folder / version / MANIFEST
        if not VERSION.fullmatch(version) or not file.is_file():
            versions = ", ".join(list_versions(folder)) or "none"
            named = f", which {CURRENT} names" if is_served else ""
            raise SnapshotError(f"{folder} has no version {version!r}{named} (it has: {versions})")
    try:
        manifest = SnapshotManifest.read(folder / version)
    except RunError as error:
        raise SnapshotError(f"{error}; or open another version") from None
    if digest and digest != sha256_file(file):
        raise SnapshotError(
            f"{folder / CURRENT} was damaged, or changed by hand: it holds {version} and not the sha256 "
            f"of its manifest; 'onepass index promote {folder} VERSION' serves a version"
        )
    if manifest.version != version:
        raise SnapshotError(
            f"{folder / version / MANIFEST} is that of {manifest.version}; restore it from a copy, or "
            "open another version"
        )
    then, now = manifest.path, folder.resolve()
    runs = [entry.located(then, now, pairs) for entry in manifest.runs]
    model = manifest.model
    if model is not None:
        model = model.located(lambda file: find_path(file, then, now, pairs))
    return manifest.model_copy(update={"runs": runs, "model": model})
