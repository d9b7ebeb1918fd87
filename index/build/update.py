"""Change an index without building it again: add runs, delete rows, compact.

Each of these publishes a version. ``add_runs`` makes a segment of the new rows, and of the small
segments before it that ``merge.first_merged`` names; ``delete_rows`` only marks rows as deleted. So
both cost what they change. Every segment and every deleted row makes searches a little slower, until
``compact`` builds the remaining rows anew.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster.executors import ExecutorChoice
from common.errors import SnapshotError
from common.moved import Pairs
from index.build.changes import RowChanges, SourceChanges, find_changes, summarise
from index.build.inputs import check_comparable, open_sources, refuse_unusable
from index.build.merge import Piece, first_merged, split_evenly
from index.build.searchable import ReportRows
from index.build.sources.source import VectorSource
from index.build.version import VersionBuilder, build_times
from index.search.factory import FLAT
from index.search.filters import Filter
from index.search.segment import Segment
from index.search.snapshot import Snapshot
from index.storage.columns import rows_schema
from index.storage.layout import DELETED, SEGMENTS, RunEntry, SnapshotManifest, read_manifest
from index.storage.publish import lock_index, publish

MAX_RUN = 2**15 - 1  # of column ``run``, which is int16


def add_runs(
    index_dir: Path,
    runs: Sequence[Path],
    *,
    replace: bool = False,
    memory_bytes: int | None = None,
    executor: ExecutorChoice = "auto",
    address: str | None = None,
    strict: bool = False,
    id_column: str | None = None,
    model_name: str | None = None,
    pairs: Pairs = (),
    progress: ReportRows | None = None,
    on_changes: Callable[[RowChanges], None] = lambda _: None,
) -> Snapshot:
    """Publish a version that also holds the rows of ``runs``; nothing, where all are there already.

    Rows that are in the index as they are are left out. A detection that was deleted may be added
    again.

    Args:
        index_dir: an index folder.
        runs: folders of finished runs of the index's model, or files of such vectors.
        replace: take rows that have changed, in place of those of the same id.
        memory_bytes: memory that one process may use; None: half of this machine's.
        executor: where to work.
        address: of a Ray cluster to work on.
        strict: refuse embeddings that are zero or not finite.
        id_column: of files: the column with the ids; None: ``detection_id`` or ``id``.
        model_name: of files: what made the vectors; None: what made those of the index.
        pairs: of folders of runs and images that were moved.
        progress: called with (rows added, rows to add).
        on_changes: called once with what is taken and what is left out, before anything is written.

    Raises:
        SnapshotError: there is no index, the model is another one, or, without ``replace``, an id is
            in the index from another run and with other content; nothing was changed.
        WorkError: the disk refused; the index serves what it served before.
    """
    served = read_manifest(index_dir)  # before a lock is made where there is no index
    sources = open_sources(
        runs, id_column=id_column, model_name=model_name, index=served, pairs=pairs
    )
    with lock_index(index_dir) as check:
        snapshot = Snapshot.open(index_dir, pairs=pairs)
        old = snapshot.manifest
        for source in sources:
            check_comparable(source, str(index_dir), old.fingerprint, old.dim)
        if strict:  # of all rows, and not of those alone that are new
            refuse_unusable(sources)
        numbers = _numbers(sources, old.runs)
        changes = [
            find_changes(source, number, snapshot, replace=replace)
            for source, number in zip(sources, numbers, strict=True)
        ]
        on_changes(summarise(changes))
        wanted = [
            (source.select(each.row_ids), each)
            for source, each in zip(sources, changes, strict=True)
            if each.row_ids is None or len(each.row_ids)
        ]
        if not wanted:
            return snapshot

        def builder(factory: str) -> VersionBuilder:
            config = old.options.model_copy(update={"shards": 1, "factory": factory})
            return VersionBuilder(config, memory_bytes, executor, address, progress, strict=strict)

        def fill(draft: Path, version: str) -> SnapshotManifest:
            new = builder(FLAT).build(
                draft,
                version,
                [source for source, _ in wanted],
                made_by="add",
                parent=old.version,
                numbers=[each.number for _, each in wanted],
                kept=old,
            )
            return _join_new_rows(
                draft, new, snapshot, [each for _, each in wanted], builder("auto")
            )

        version = publish(index_dir, fill, check)
    return Snapshot.open(index_dir, version)


def _numbers(sources: Sequence[VectorSource], runs: Sequence[RunEntry]) -> list[int]:
    """The position of each source in the manifest: that of the same run, or a new one."""
    numbers = {run.path: number for number, run in enumerate(runs)}
    found = [numbers.setdefault(str(source.path), len(numbers)) for source in sources]
    if max(found) > MAX_RUN:
        raise SnapshotError(
            f"`runs`: an index holds rows of {MAX_RUN + 1} runs at most, and has {len(runs)}; add "
            "new images to a run that is there (`update=True` of extract), and that run again"
        )
    return found


def _join_new_rows(
    draft: Path,
    new: SnapshotManifest,
    snapshot: Snapshot,
    changes: Sequence[SourceChanges],
    builder: VersionBuilder,
) -> SnapshotManifest:
    """Merge the segment of the new rows with small ones of ``snapshot``; the manifest of all."""
    old = snapshot.manifest
    present = snapshot.mask()
    for each in changes:
        present[each.replaced_rows] = False
    masks = np.split(present, np.cumsum([entry.rows for entry in old.segments])[:-1])
    first = first_merged(
        [int(mask.sum()) for mask in masks], new.rows, base=old.options.shards, dim=old.dim
    )
    pieces = [
        Piece(segment, np.flatnonzero(mask))
        for segment, mask in zip(snapshot.segments[first:], masks[first:], strict=True)
        if mask.any()
    ]
    (entry,) = new.segments
    folder = draft / SEGMENTS / entry.name
    if pieces:
        pieces.append(Piece(Segment(folder, entry, new.dim, new.metric), np.arange(entry.rows)))
        schema = rows_schema(new.payload_schema)
        segments = builder.merge(draft, new.version, [pieces], schema)
        shutil.rmtree(folder)
    else:
        segments = [builder.finish(folder, new.dim, 0, entry.rows)]
    kept = np.concatenate([*masks[:first], np.ones(segments[0].rows, bool)])
    if not kept.all():
        _write_deleted(draft, ~kept)
    return new.model_copy(
        update={
            "options": old.options,
            "rows": int(kept.sum()),
            "deleted": int((~kept).sum()),
            "skipped": old.skipped + new.skipped,
            "skipped_reasons": dict(Counter(old.skipped_reasons) + Counter(new.skipped_reasons)),
            "runs": _join_runs(old.runs, new.runs, [each.number for each in changes]),
            "segments": [*old.segments[:first], *segments],
        }
    )


def _join_runs(
    old: Sequence[RunEntry], new: Sequence[RunEntry], numbers: Sequence[int]
) -> list[RunEntry]:
    """The manifest's runs after an ``add``: an updated run keeps its position."""
    runs = dict(enumerate(old))
    for number, entry in zip(numbers, new, strict=True):
        before = runs[number].rows if number in runs else 0
        runs[number] = entry.model_copy(update={"rows": before + entry.rows})
    return [runs[number] for number in sorted(runs)]


def delete_rows(index_dir: Path, filter: Filter) -> tuple[Snapshot, int]:
    """Publish a version without the rows that match; where none matches, nothing is published.

    Returns:
        The version that is served now, and how many rows were deleted.

    Raises:
        SnapshotError: there is no index, the filter is empty, or no row would be left; nothing
            was changed.
        FilterError: ``filter`` cannot be used.
        WorkError: the disk refused; the index serves what it served before.
    """
    began = time.monotonic()
    if not filter:
        raise SnapshotError("nothing says which rows to delete; give a condition or ids")
    read_manifest(index_dir)
    with lock_index(index_dir) as check:
        snapshot = Snapshot.open(index_dir)
        old = snapshot.manifest
        rows = snapshot.matching(filter)
        if not len(rows):
            return snapshot, 0
        if len(rows) == old.rows:
            raise SnapshotError(
                f"all {old.rows} rows of {index_dir} match; an index cannot be empty: delete the "
                "folder if that is meant"
            )
        deleted = ~snapshot.mask()
        deleted[rows] = True

        def fill(draft: Path, version: str) -> SnapshotManifest:
            _write_deleted(draft, deleted)
            return old.model_copy(
                update={
                    "version": version,
                    "parent": old.version,
                    "made_by": "delete",
                    "rows": old.rows - len(rows),
                    "deleted": old.deleted + len(rows),
                    **build_times(began),
                }
            )

        version = publish(index_dir, fill, check)
    return Snapshot.open(index_dir, version), len(rows)


def compact(
    index_dir: Path,
    *,
    memory_bytes: int | None = None,
    executor: ExecutorChoice = "auto",
    address: str | None = None,
    pairs: Pairs = (),
    progress: ReportRows | None = None,
) -> Snapshot:
    """Publish a version of the same rows, built anew with the first build's options.

    Rows and vectors are those of the index itself, so no run is needed.

    Args:
        index_dir: an index folder.
        memory_bytes: memory that one process may use; None: half of this machine's.
        executor: where to work.
        address: of a Ray cluster to work on.
        pairs: of folders of runs and images that were moved.
        progress: called with (rows done, rows in all).

    Raises:
        SnapshotError: there is no index.
        WorkError: the disk refused; the index serves what it served before.
    """
    began = time.monotonic()
    read_manifest(index_dir)
    with lock_index(index_dir) as check:
        snapshot = Snapshot.open(index_dir, pairs=pairs)
        old = snapshot.manifest
        builder = VersionBuilder(old.options, memory_bytes, executor, address, progress)
        pieces = [
            Piece(segment, np.flatnonzero(segment.mask(None))) for segment in snapshot.segments
        ]
        runs, run_numbers = _remaining_runs(snapshot)

        def fill(draft: Path, version: str) -> SnapshotManifest:
            groups = split_evenly(pieces, old.options.shards)
            schema = rows_schema(old.payload_schema)
            changed: dict[str, Any] = {
                "version": version,
                "parent": old.version,
                "made_by": "compact",
                "deleted": 0,
                "runs": runs,
                "segments": builder.merge(draft, version, groups, schema, run_numbers),
            }
            return old.model_copy(update=changed | build_times(began))

        version = publish(index_dir, fill, check)
    return Snapshot.open(index_dir, version)


def _remaining_runs(snapshot: Snapshot) -> tuple[list[RunEntry], NDArray[np.int16]]:
    """The runs that still have undeleted rows, and by its old position the new one of each run."""
    runs = snapshot.manifest.runs
    used = np.unique(snapshot.rows["run"].to_numpy()[snapshot.mask()])
    numbers = np.full(len(runs), -1, np.int16)
    numbers[used] = np.arange(len(used))
    return [runs[number] for number in used.tolist()], numbers


def _write_deleted(draft: Path, deleted: NDArray[np.bool_]) -> None:
    np.save(draft / DELETED, np.packbits(deleted, bitorder="little"), allow_pickle=False)
