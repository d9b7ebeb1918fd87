"""The index of a migrated run: a version in the same folder, beside the one that is served.

It holds the rows that the served version holds, with their new vectors, and those that had
failed before; what was deleted stays deleted. ``versions.promote`` serves it and
``versions.rollback`` goes back to the version it was made beside.
"""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from cluster.executors import ExecutorChoice
from common.errors import SnapshotError
from common.json_models import sha256_file
from common.storage import to_path
from index.build.assemble import ReportRows
from index.build.inputs import Selection
from index.build.version import SegmentBuilder, check_options, make_manifest
from index.search.factory import is_flat, make_index, without_transforms
from index.search.snapshot import Snapshot
from index.storage.layout import (
    BuildOptions,
    RunEntry,
    SnapshotManifest,
    list_versions,
    read_manifest,
)
from index.storage.publish import lock_index, publish
from pipelines.run import Run

MADE_BY = "migrate"


def check_replaceable(index: Path, old: Run, out: Path) -> SnapshotManifest:
    """See that the index serves the run ``old`` and no other, or what it was migrated to, ``out``.

    Raises:
        SnapshotError: there is no index, or it serves other runs.
    """
    manifest = read_manifest(index)
    if _is_index_of(manifest, old.path) or _is_index_of(manifest, out):
        return manifest
    if len(manifest.runs) > 1:
        raise SnapshotError(
            f"{index} serves rows of {len(manifest.runs)} runs, and a migration replaces one: "
            "migrate each without --index, then 'onepass index build RUN2 RUN2 … --out "
            f"{index} --beside' and 'onepass index promote'"
        )
    raise SnapshotError(
        f"{index} serves the run {manifest.runs[0].path}, not {old.path}; give the index that was "
        "built from this run"
    )


def build_candidate(
    index: Path,
    old: Run,
    new: Run,
    *,
    executor: ExecutorChoice = "auto",
    progress: ReportRows | None = None,
) -> SnapshotManifest:
    """Build a version of ``new`` beside the one that is served, asked for as that one was.

    A version that was built so before is found again, and one that is served already is left.

    Args:
        index: an index folder that serves ``old``, alone.
        old: the run that was migrated.
        new: what it was migrated to.
        executor: where to work.
        progress: called with rows done and rows in all.

    Raises:
        SnapshotError: the index serves other runs, or nothing fits the new vectors.
        WorkError: the disk refused; the index serves what it served before.
    """
    began = time.monotonic()
    check_replaceable(index, old, new.path)
    with lock_index(index) as check:
        now = Snapshot.open(index)
        there = check_replaceable(index, old, new.path)
        found = there if _is_index_of(there, new.path) else _existing_candidate(index, there, new)
        if found is not None:
            return found
        if sha256_file(old.path / "manifest.json") != there.runs[0].manifest_sha256:
            raise SnapshotError(
                f"{old.path} is another run than the one {index} was made from; build its index "
                "anew with 'onepass index build'"
            )
        options = there.options
        _check_factory(options, new, index)
        memory = check_options(options, None)
        work = SegmentBuilder(options, memory, executor, None, progress or (lambda _, __: None))
        source = [Selection(new, _undeleted_rows(now, old))]

        def fill(draft: Path, version: str) -> SnapshotManifest:
            made = work.segments(draft, version, source, first_run=0)
            return make_manifest(
                version,
                new,
                options,
                made_by=MADE_BY,
                parent=there.version,
                made=made,
                began=began,
            )

        version = publish(index, fill, check, serve=False)
    return read_manifest(index, version)


def _is_index_of(manifest: SnapshotManifest, run: Path) -> bool:
    return [to_path(entry.path) for entry in manifest.runs] == [run.resolve()]


def _existing_candidate(index: Path, there: SnapshotManifest, new: Run) -> SnapshotManifest | None:
    """The newest version of this very run that was made beside the one that is served now."""
    made = sha256_file(new.path / "manifest.json")
    for version in reversed(list_versions(index)):
        manifest = read_manifest(index, version)
        beside = manifest.made_by == MADE_BY and manifest.parent == there.version
        if beside and _is_index_of(manifest, new.path) and _sha256(manifest.runs) == [made]:
            return manifest
    return None


def _sha256(runs: list[RunEntry]) -> list[str]:
    return [entry.manifest_sha256 for entry in runs]


def _undeleted_rows(now: Snapshot, old: Run) -> npt.NDArray[np.int64] | None:
    """Rows of the run that are not deleted from the index; None: none is."""
    table = old.table(["row_id", "error"])
    failed = table.filter(pc.is_valid(table["error"]))["row_id"].to_numpy()
    present = now.rows["row_id"].to_numpy()[now.mask()]
    if len(present) + len(failed) == table.num_rows:
        return None
    kept: npt.NDArray[np.int64] = np.union1d(present, failed)
    return kept


def _check_factory(options: BuildOptions, new: Run, index: Path) -> None:
    """Refuse a factory that the new vectors do not fit, before anything is written."""
    if is_flat(options.factory) or without_transforms(options.factory) == "auto":
        return
    try:
        make_index(options.factory, new.manifest.model.feature_dim, options.metric)
    except SnapshotError as error:
        raise SnapshotError(
            f"{error}; build with another factory: onepass index build {new.path} --out {index} "
            "--beside --factory auto"
        ) from None
