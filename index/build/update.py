"""Change an index without building it again: add runs, delete rows, compact.

Each of these publishes a version. ``add_runs`` builds a segment of the new rows alone and
``delete_rows`` only marks rows as deleted, so both cost what they change. Every segment and every
deleted row makes searches a little slower, until ``compact`` builds the remaining rows anew.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster.executors import ExecutorChoice
from common.errors import RunError, SnapshotError
from common.json_models import sha256_file
from common.manifests import MANIFEST
from index.build.assemble import ReportRows
from index.build.inputs import Inputs, check_comparable, open_sources
from index.build.sources.run import Selection
from index.build.version import VersionBuilder, build_times
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
    strict: bool = False,
    progress: ReportRows | None = None,
) -> Snapshot:
    """Publish a version that also holds the rows of ``runs``.

    A detection that was deleted may be added again.

    Args:
        index_dir: an index folder.
        runs: folders of finished runs of the index's model.
        memory_bytes: memory that one process may use; None: half of this machine's.
        executor: where to work.
        address: of a Ray cluster to work on.
        strict: refuse embeddings that are zero or not finite.
        progress: called with (rows added, rows to add).

    Raises:
        SnapshotError: there is no index, the model is another one, or an id is in the index
            already; nothing was changed.
        WorkError: the disk refused; the index serves what it served before.
    """
    read_manifest(index_dir)  # before a lock is made where there is no index
    sources = open_sources(runs)
    with lock_index(index_dir) as check:
        snapshot = Snapshot.open(index_dir)
        old = snapshot.manifest
        for source in sources:
            check_comparable(source, str(index_dir), old.fingerprint, old.dim)
        one_segment = old.options.model_copy(update={"shards": 1, "factory": "auto"})
        builder = VersionBuilder(
            one_segment, memory_bytes, executor, address, progress, strict=strict
        )

        def check_new_ids(inputs: Inputs) -> None:
            for part in inputs.parts:
                for rows, _vectors in part.batches():
                    ids = rows["detection_id"].to_pylist()
                    indexed = snapshot.rows_of(ids) >= 0
                    if indexed.any():
                        raise SnapshotError(
                            f"detection_id {ids[int(indexed.argmax())]!r} of {part.path} is in "
                            f"{index_dir} already; an id names one row: delete it first, or leave "
                            "this run out"
                        )

        def fill(draft: Path, version: str) -> SnapshotManifest:
            new = builder.build(
                draft,
                version,
                sources,
                made_by="add",
                parent=old.version,
                first_run=len(old.runs),
                kept=old,
                check=check_new_ids,
            )
            if old.deleted:
                _write_deleted(draft, np.concatenate([~snapshot.mask(), np.zeros(new.rows, bool)]))
            return new.model_copy(
                update={
                    "options": old.options,
                    "rows": old.rows + new.rows,
                    "deleted": old.deleted,
                    "skipped": old.skipped + new.skipped,
                    "skipped_reasons": dict(
                        Counter(old.skipped_reasons) + Counter(new.skipped_reasons)
                    ),
                    "runs": [*old.runs, *new.runs],
                    "segments": [*old.segments, *new.segments],
                }
            )

        version = publish(index_dir, fill, check)
    return Snapshot.open(index_dir, version)


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
    progress: ReportRows | None = None,
) -> Snapshot:
    """Publish a version of the same rows, built anew from the runs with the first build's options.

    Args:
        index_dir: an index folder.
        memory_bytes: memory that one process may use; None: half of this machine's.
        executor: where to work.
        address: of a Ray cluster to work on.
        progress: called with (rows done, rows in all).

    Raises:
        SnapshotError: there is no index, or one of its runs is missing or has changed.
        WorkError: the disk refused; the index serves what it served before.
    """
    read_manifest(index_dir)
    with lock_index(index_dir) as check:
        snapshot = Snapshot.open(index_dir)
        old = snapshot.manifest
        builder = VersionBuilder(old.options, memory_bytes, executor, address, progress)
        source = _remaining_rows(index_dir, snapshot)

        def check_all_there(inputs: Inputs) -> None:
            if inputs.rows != old.rows:
                raise SnapshotError(
                    f"the runs of {index_dir} hold {inputs.rows} of its {old.rows} rows; one of "
                    "them is damaged: check with 'onepass inspect RUN --verify'"
                )

        fill = partial(
            builder.build,
            sources=source,
            made_by="compact",
            parent=old.version,
            check=check_all_there,
        )
        version = publish(index_dir, fill, check)
    return Snapshot.open(index_dir, version)


def _remaining_rows(index_dir: Path, snapshot: Snapshot) -> list[Selection]:
    """The runs that still have undeleted rows, and which of them."""
    present = snapshot.mask()
    run_of = snapshot.rows["run"].to_numpy()
    row_ids = snapshot.rows["row_id"].to_numpy()
    source = []
    for number, entry in enumerate(snapshot.manifest.runs):
        own = run_of == number
        if not present[own].any():
            continue
        try:
            run = Run.open(entry.path)
        except RunError as error:
            raise SnapshotError(
                f"{index_dir} cannot be compacted without the runs it was made from: {error}"
            ) from None
        if sha256_file(run.path / MANIFEST) != entry.manifest_sha256:
            raise SnapshotError(
                f"{run.path} is another run than the one {index_dir} was made from; build the "
                "index anew with 'onepass index build'"
            )
        # By the rows of the segments: they no longer hold what an earlier compact left out.
        source.append(Selection(run, np.sort(row_ids[own & present])))
    return source


def _write_deleted(draft: Path, deleted: NDArray[np.bool_]) -> None:
    np.save(draft / DELETED, np.packbits(deleted, bitorder="little"), allow_pickle=False)
