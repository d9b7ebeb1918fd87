"""Change an index without building it again: add runs, delete rows, fold both in.

Each of these publishes a version. ``add`` makes a segment of the new rows alone, ``delete``
writes tombstones and nothing else, so both cost what they change. Searches pay a little for
every segment and tombstone until ``compact`` builds one segment of what is left, from the runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.executors import ExecutorChoice
from common.errors import RunError, SnapshotError
from common.json_models import sha256_file
from index.build.assemble import ReportRows
from index.build.encode import iterate_ids
from index.build.inputs import Inputs, Selection, check_same_model, open_runs
from index.build.version import (
    NewSegments,
    SegmentBuilder,
    build_times,
    check_options,
    make_manifest,
)
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from index.storage.layout import DELETED, SnapshotManifest, read_manifest
from index.storage.publish import lock_index, publish
from pipelines.run import Run


def add_runs(
    index_dir: Path,
    runs: Sequence[Path],
    *,
    memory_bytes: int | None = None,
    executor: ExecutorChoice = "auto",
    address: str | None = None,
    progress: ReportRows | None = None,
) -> Snapshot:
    """Publish a version that also holds the rows of ``runs``.

    A detection that was deleted may come back so; one that is there already is refused.

    Args:
        index_dir: an index folder.
        runs: folders of finished runs of the index's model.
        memory_bytes: what one process may use; None: half of this machine's.
        executor: where to work.
        address: of a Ray cluster to work on.
        progress: called with (rows added, rows to add).

    Raises:
        SnapshotError: no index, another model, or an id that is there; nothing was changed.
        WorkError: the disk refused; the index serves what it served before.
    """
    began = time.monotonic()
    read_manifest(index_dir)  # before a lock is made where there is no index
    opened = open_runs(runs)
    with lock_index(index_dir) as check:
        now = Snapshot.open(index_dir)
        there = now.manifest
        for run in opened:
            check_same_model(run, str(index_dir), there.fingerprint)
        memory = check_options(there.options, memory_bytes)
        one_part = there.options.model_copy(update={"shards": 1, "factory": "auto"})
        work = SegmentBuilder(one_part, memory, executor, address, progress or (lambda _, __: None))

        def refuse_known(found: Inputs) -> None:
            for part in found.parts:
                for names, _skipped in iterate_ids(part):
                    there_already = now.rows_of(names) >= 0
                    if there_already.any():
                        known = names[int(there_already.argmax())]
                        raise SnapshotError(
                            f"detection_id {known!r} of {part.path} is in {index_dir} already; "
                            "an id names one row: delete it first, or leave this run out"
                        )

        def fill(draft: Path, version: str) -> SnapshotManifest:
            made = work.segments(
                draft,
                version,
                [Selection(run) for run in opened],
                first_run=len(there.runs),
                known=refuse_known,
            )
            gone = ~now.mask()
            if gone.any():
                added = sum(entry.rows for entry in made.segments)
                _write_deleted(draft, np.concatenate([gone, np.zeros(added, bool)]))
            return make_manifest(
                version,
                opened[0],
                there.options,
                made_by="add",
                parent=there.version,
                made=NewSegments(
                    [*there.segments, *made.segments],
                    [*there.runs, *made.runs],
                    there.skipped + made.skipped,
                ),
                deleted=there.deleted,
                began=began,
            )

        version = publish(index_dir, fill, check)
    return Snapshot.open(index_dir, version)


def delete_rows(index_dir: Path, chosen: Filter) -> tuple[Snapshot, int]:
    """Publish a version without the rows that fit ``chosen``; it and how many those are.

    Where none fits, nothing is published.

    Raises:
        SnapshotError: no index, or no row would be left; nothing was changed.
        FilterError: ``chosen`` cannot be used.
        WorkError: the disk refused; the index serves what it served before.
    """
    began = time.monotonic()
    if not chosen:
        raise SnapshotError("nothing says which rows to delete; give a condition or ids")
    read_manifest(index_dir)
    with lock_index(index_dir) as check:
        now = Snapshot.open(index_dir)
        there = now.manifest
        leaving = now.matching(chosen)
        if not len(leaving):
            return now, 0
        if len(leaving) == there.rows:
            raise SnapshotError(
                f"all {there.rows} rows of {index_dir} fit; an index cannot be empty: delete the "
                "folder if that is meant"
            )
        gone = ~now.mask()
        gone[leaving] = True

        def fill(draft: Path, version: str) -> SnapshotManifest:
            _write_deleted(draft, gone)
            return there.model_copy(
                update={
                    "version": version,
                    "parent": there.version,
                    "made_by": "delete",
                    "rows": there.rows - len(leaving),
                    "deleted": there.deleted + len(leaving),
                    **build_times(began),
                }
            )

        version = publish(index_dir, fill, check)
    return Snapshot.open(index_dir, version), len(leaving)


def compact(
    index_dir: Path,
    *,
    memory_bytes: int | None = None,
    executor: ExecutorChoice = "auto",
    address: str | None = None,
    progress: ReportRows | None = None,
) -> Snapshot:
    """Publish a version of the same rows, built anew from the runs as it was asked for at first.

    Args:
        index_dir: an index folder.
        memory_bytes: what one process may use; None: half of this machine's.
        executor: where to work.
        address: of a Ray cluster to work on.
        progress: called with (rows done, rows in all).

    Raises:
        SnapshotError: no index, or a run that it was made from is gone or another one now.
        WorkError: the disk refused; the index serves what it served before.
    """
    began = time.monotonic()
    read_manifest(index_dir)
    with lock_index(index_dir) as check:
        now = Snapshot.open(index_dir)
        there = now.manifest
        memory = check_options(there.options, memory_bytes)
        source = _what_is_left(index_dir, now)
        work = SegmentBuilder(
            there.options, memory, executor, address, progress or (lambda _, __: None)
        )

        def refuse_others(found: Inputs) -> None:
            if found.rows != there.rows:
                raise SnapshotError(
                    f"the runs of {index_dir} hold {found.rows} of its {there.rows} rows; one of them is "
                    "damaged: check with 'onepass inspect RUN --verify'"
                )

        def fill(draft: Path, version: str) -> SnapshotManifest:
            made = work.segments(draft, version, source, first_run=0, known=refuse_others)
            return make_manifest(
                version,
                source[0].run,
                there.options,
                made_by="compact",
                parent=there.version,
                made=made,
                began=began,
            )

        version = publish(index_dir, fill, check)
    return Snapshot.open(index_dir, version)


def _what_is_left(index_dir: Path, now: Snapshot) -> list[Selection]:
    """The runs that still have rows, and which of them."""
    present = now.mask()
    run_of = now.rows["run"].to_numpy()
    row_ids = now.rows["row_id"].to_numpy()
    source = []
    for number, entry in enumerate(now.manifest.runs):
        own = run_of == number
        if not present[own].any():
            continue
        try:
            run = Run.open(entry.path)
        except RunError as error:
            raise SnapshotError(
                f"{index_dir} cannot be compacted without the runs it was made from: {error}"
            ) from None
        if sha256_file(run.path / "manifest.json") != entry.manifest_sha256:
            raise SnapshotError(
                f"{run.path} is another run than the one {index_dir} was made from; build the "
                "index anew with 'onepass index build'"
            )
        # By what is here: what an earlier compacting left out stands in no segment.
        source.append(Selection(run, np.sort(row_ids[own & present])))
    return source


def _write_deleted(draft: Path, gone: NDArray[np.bool_]) -> None:
    np.save(draft / DELETED, np.packbits(gone, bitorder="little"), allow_pickle=False)
