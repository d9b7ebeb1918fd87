"""Build a version of an index from finished runs or files of vectors: check everything, assemble, publish.

Whatever can be checked is checked before anything is written. What fails later leaves a draft,
which is removed, and the version that was served stays the one that is served.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from cluster.executors import ExecutorChoice
from cluster.tasks import Tasks, tasks
from common.errors import SnapshotError
from common.moved import Pairs
from common.storage import is_remote, storage_errors, to_path
from index.build.assemble import assemble
from index.build.inputs import (
    Inputs,
    check_unique_ids,
    count_rows,
    describe_unusable,
    open_sources,
    partition,
    run_entries,
)
from index.build.merge import Piece, copy_rows
from index.build.searchable import ReportRows, make_searchable
from index.build.sources.source import NO_EMBEDDING, VectorSource
from index.config import IndexConfig, Metric
from index.search.factory import check_factory
from index.search.snapshot import Snapshot
from index.storage.columns import payload_schema, rows_schema, unify
from index.storage.layout import (
    SEGMENTS,
    VERSION,
    SegmentEntry,
    SnapshotManifest,
    current_version,
    list_versions,
    read_manifest,
)
from index.storage.publish import lock_index, publish

MIN_MEMORY = 64 * 2**20
RAY_FROM_BYTES = 512 * 2**20
"""Builds of more bytes of vectors than this run on Ray, where there is one."""


def build_index(
    runs: Sequence[Path],
    out: Path,
    config: IndexConfig | None = None,
    *,
    memory_bytes: int | None = None,
    executor: ExecutorChoice = "auto",
    address: str | None = None,
    candidate: bool = False,
    strict: bool = False,
    id_column: str | None = None,
    model_name: str | None = None,
    pairs: Pairs = (),
    progress: ReportRows | None = None,
) -> Snapshot:
    """Build the next version of the index in ``out`` and make it the one that is served.

    Rows that have an error have no embedding, and an embedding that is zero or not finite has no
    neighbours: they are left out, and counted in the manifest.
    Recall is measured with up to 1,000 held-out rows as queries, which are added at the end.
    Where it misses its target the version is built all the same, with ``manifest.warning``.

    Args:
        runs: folders of finished runs, or files of vectors, all of one model.
        out: index folder; created if it does not exist.
        config: metric, factory, recall and shards; None: the default of each.
        memory_bytes: memory that one process may use; None: half of this machine's.
        executor: where to work.
        address: of a Ray cluster to work on; it must be able to read the runs and ``out``.
        candidate: keep serving the current version. The new one may be of another model; where
            it is promoted and rolled back, the version served now comes back.
        strict: refuse embeddings that are zero or not finite.
        id_column: of files: the column with the ids; None: ``detection_id`` or ``id``.
        model_name: of files: what made the vectors, in your words; vectors of two names, or of one
            and none, do not share an index.
        pairs: of folders of images that were moved.
        progress: called with (rows added, rows in all) after each part.

    Returns:
        The new version, open.

    Raises:
        SnapshotError: an argument is wrong, the runs do not fit each other or the index, or
            ``out`` is something else; nothing was written.
        RunError: one of ``runs`` is not a finished run.
        FolderError: another command works on ``out``.
        WorkError: the disk refused; ``out`` serves what it served before.
    """
    config = config or IndexConfig()
    builder = VersionBuilder(config, memory_bytes, executor, address, progress, strict=strict)
    sources = open_sources(runs, id_column=id_column, model_name=model_name, pairs=pairs)
    check_factory(config.factory, sources[0].dim, config.metric)
    out = to_path(out)

    def check_out() -> str | None:
        if candidate:
            return read_manifest(out).version
        _check_folder(out, sources[0], config.metric)
        return None

    check_out()  # before a lock is made where there is no index
    with lock_index(out) as check:
        parent = check_out()  # another build may have ended meanwhile
        fill = partial(builder.build, sources=sources, made_by="build", parent=parent)
        version = publish(out, fill, check, serve=not candidate)
    return Snapshot.open(out, version, pairs=pairs)


def _check_folder(out: Path, source: VectorSource, metric: Metric) -> None:
    """Check that a version of ``source`` can become the one that ``out`` serves."""
    with storage_errors(out):
        if not out.exists():
            return
        if not out.is_dir():
            raise SnapshotError(f"`out={str(out)!r}` is a file; give a folder for the index")
    version = current_version(out)
    if version is None:
        with storage_errors(out):
            names = [entry.name for entry in out.iterdir()]
        other = [
            name
            for name in names
            if not name.startswith(".")
            and name != SEGMENTS
            # In a store, where nothing is hidden, a first build that was killed may leave one.
            and not (is_remote(out) and VERSION.fullmatch(name))
        ]
        if other and not list_versions(out):
            raise SnapshotError(
                f"`out={str(out)!r}` holds {sorted(other)[0]!r} and is no index; give a new or "
                "empty folder"
            )
        return
    served = read_manifest(out)
    for what, old, new in (
        ("dimension", served.dim, source.dim),
        ("metric", served.metric, metric),
        ("model fingerprint", served.fingerprint, source.fingerprint),
    ):
        if old != new:
            raise SnapshotError(
                f"{out} serves {version} of {what} {old}, this build has {new}; give another "
                "folder as `out`, or `candidate=True` and promote the version when it is to be served"
            )


class VersionBuilder:
    """Builds the segments of a version, with a given configuration and resources.

    Args:
        config: what to build.
        memory_bytes: memory that one process may use; None: half of this machine's.
        executor: where to work.
        address: of a Ray cluster to work on.
        report: called with (rows done, rows in all) after each part.
        strict: refuse vectors that are zero or not finite.

    Raises:
        SnapshotError: the memory is too little.
    """

    def __init__(
        self,
        config: IndexConfig,
        memory_bytes: int | None = None,
        executor: ExecutorChoice = "auto",
        address: str | None = None,
        report: ReportRows | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self._began = time.monotonic()
        if memory_bytes is None:
            memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
        if memory_bytes < MIN_MEMORY:
            raise SnapshotError(
                f"`memory_bytes={memory_bytes}` is too little; give {MIN_MEMORY >> 20} MB or more"
            )
        self._config = config
        self._memory_bytes = memory_bytes
        self._executor = executor
        self._address = address
        self._strict = strict
        self._report = report or (lambda _, __: None)

    def build(
        self,
        draft: Path,
        version: str,
        sources: Sequence[VectorSource],
        *,
        made_by: str,
        parent: str | None,
        numbers: Sequence[int] | None = None,
        kept: SnapshotManifest | None = None,
    ) -> SnapshotManifest:
        """Build segments in the draft of a version.

        Args:
            draft: folder of the draft.
            version: its name, which the segments are named by.
            sources: the rows that are wanted.
            made_by: the command.
            parent: the version that it changes, if any.
            numbers: position of each source in the manifest; None: 0, 1, ….
            kept: the version whose segments stay beside the new ones; None: they are alone.

        Returns:
            The manifest of a version of these segments alone, but for ``payload_schema``, which is
            that of the kept ones too; ``publish`` adds the hashes of its files.

        Raises:
            SnapshotError: an id is repeated, a source has no row to index, own columns of one name
                have types that do not go together, or as ``assemble``.
        """
        first = sources[0]
        numbers = range(len(sources)) if numbers is None else numbers
        own = self._unify_columns(sources, kept)
        there = {name for source in sources for name in source.own_columns.schema.names}
        schema = rows_schema({name: kind for name, kind in own.items() if name in there})
        size = 4 * first.dim * sum(source.rows for source in sources)
        with self._tasks(size) as runner:
            inputs = count_rows(sources, numbers, self._config.shards, schema, runner)
            notes = self._notes(sources, inputs)
            check_unique_ids(inputs)
            segments: list[SegmentEntry] = []
            before = 0
            for number, shard in enumerate(partition(inputs, self._config.shards)):
                folder = draft / SEGMENTS / f"s{version[1:]}-{number:02d}"
                folder.mkdir()
                entry = assemble(
                    folder,
                    shard,
                    dim=first.dim,
                    config=self._config,
                    memory_bytes=self._memory_bytes,
                    tasks=runner,
                    report=lambda done, _, before=before: self._report(before + done, inputs.rows),  # type: ignore[misc]
                )
                segments.append(entry)
                before += shard.rows
        skipped = inputs.total.skipped
        return SnapshotManifest(
            version=version,
            parent=parent,
            made_by=made_by,
            options=self._config,
            rows=inputs.rows,
            deleted=0,
            skipped=sum(skipped.values()),
            skipped_reasons=skipped,
            notes=notes,
            payload_schema=own,
            dim=first.dim,
            model=first.model,
            fingerprint=first.fingerprint,
            runs=run_entries(sources, inputs, numbers),
            segments=segments,
            **build_times(self._began),
            files={},
        )

    def merge(
        self,
        draft: Path,
        version: str,
        groups: Sequence[Sequence[Piece]],
        schema: pa.Schema,
        run_numbers: NDArray[np.int16] | None = None,
    ) -> list[SegmentEntry]:
        """Make segments of rows that other segments hold.

        Args:
            draft: folder of the draft.
            version: its name, which the segments are named by.
            groups: the rows of each new segment.
            schema: of the rows of the version.
            run_numbers: by the position of a run in the manifest, its new one; None: the same.

        Raises:
            SnapshotError: the factory does not work.
            OSError: the disk refused.
        """
        rows = [sum(len(piece.rows) for piece in group) for group in groups]
        segments = draft / SEGMENTS
        entries: list[SegmentEntry] = []
        for group in groups:
            folder = segments / f"s{version[1:]}-{len(list(segments.iterdir())):02d}"
            folder.mkdir()
            copy_rows(folder, group, schema, self._config.metric, run_numbers)
            before = sum(entry.rows for entry in entries)
            entries.append(self.finish(folder, group[0].dim, before, sum(rows)))
        return entries

    def finish(self, folder: Path, dim: int, before: int, total: int) -> SegmentEntry:
        """Make the approximate index of a segment whose rows are written.

        Args:
            folder: of the segment, in the draft.
            dim: values per vector.
            before: rows of the segments before it, for the progress.
            total: rows of all segments that are made.

        Raises:
            SnapshotError: the factory does not work.
            OSError: the disk refused.
        """
        with self._tasks(4 * dim * total) as runner:
            return make_searchable(
                folder,
                dim=dim,
                config=self._config,
                memory_bytes=self._memory_bytes,
                tasks=runner,
                report=lambda done, _: self._report(before + done, total),
            )

    def _tasks(self, size: int) -> AbstractContextManager[Tasks]:
        """What runs the tasks of a build of ``size`` bytes of vectors."""
        return tasks(
            "index build",
            executor=self._executor,
            address=self._address,
            large=size > RAY_FROM_BYTES,
            children=False,  # FAISS uses all cores
        )

    def _unify_columns(
        self, sources: Sequence[VectorSource], kept: SnapshotManifest | None
    ) -> dict[str, str]:
        """``payload_schema`` of a version of ``sources`` beside the segments of ``kept``."""
        schemas = [(str(source.path), source.own_columns.schema) for source in sources]
        if kept is not None:
            old = rows_schema(kept.payload_schema)
            own = [old.field(name) for name in kept.payload_schema]
            schemas.insert(0, (f"version {kept.version}", pa.schema(own)))
        return payload_schema(unify(schemas))

    def _notes(self, sources: Sequence[VectorSource], inputs: Inputs) -> tuple[str, ...]:
        """What is left out, in words.

        Raises:
            SnapshotError: vectors are zero or not finite, and that is not allowed.
        """
        notes = [note for source in sources for note in source.notes]
        missing = inputs.total.skipped.get(NO_EMBEDDING)
        if missing and sources[0].model is None:  # of a run, 'extract' has said it
            notes.append(f"{missing} rows have no embedding; they are left out")
        unusable = describe_unusable(inputs.total)
        if unusable and self._strict:
            raise SnapshotError(f"{unusable}; without `strict=True` such rows are left out")
        if unusable:
            notes.append(f"{unusable}; these rows are left out")
        left_out = {
            name: kind for each in sources for name, kind in each.own_columns.left_out.items()
        }
        if left_out:
            names = ", ".join(f"{name!r} ({kind})" for name, kind in left_out.items())
            notes.append(
                f"columns {names} are left out; an index keeps text, numbers, booleans, dates and "
                "times"
            )
        return tuple(notes)


def build_times(began: float) -> dict[str, Any]:
    """The manifest's ``seconds`` since ``began``, the time now as ``created``, and ``versions``."""
    return {
        "seconds": round(time.monotonic() - began, 3),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"faiss": faiss.__version__, "numpy": np.__version__},
    }
