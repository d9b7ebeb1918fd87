"""The candidate index of a migrated run: a version in the same folder that is not served yet.

It holds the rows of the served version with their new vectors, and rows that had failed before;
deleted rows stay deleted. ``versions.promote`` serves it, ``versions.rollback`` goes back to the
version that was served when it was built.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from cluster.executors import ExecutorChoice
from common.errors import SnapshotError
from common.json_models import sha256_file
from common.storage import to_path
from index.build.searchable import ReportRows
from index.build.sources.run import Selection
from index.build.sources.source import left_out
from index.build.version import VersionBuilder
from index.config import IndexConfig
from index.search.factory import check_factory
from index.search.snapshot import Snapshot
from index.storage.layout import SnapshotManifest, list_versions, read_manifest
from index.storage.publish import lock_index, publish
from pipelines.run import Run

MADE_BY = "migrate"


def check_replaceable(index: Path, old: Run, out: Path) -> SnapshotManifest:
    """Check that the index serves one run alone: ``old``, or the run that it was migrated to.

    Args:
        index: an index folder.
        old: the run to migrate.
        out: folder of the run that it is migrated to.

    Returns:
        The manifest of the served version.

    Raises:
        SnapshotError: there is no index, or it serves other runs.
    """
    manifest = read_manifest(index)
    if _is_index_of(manifest, old.path) or _is_index_of(manifest, out):
        return manifest
    if len(manifest.runs) > 1:
        raise SnapshotError(
            f"{index} serves rows of {len(manifest.runs)} runs, and a migration replaces one: "
            "migrate each without `index`, then 'onepass index build RUN2 RUN2 … --out "
            f"{index} --candidate' and 'onepass index promote'"
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
    """Build a version of ``new`` with the options of the served one, without serving it.

    Nothing is built where such a version exists, or is served already.

    Args:
        index: an index folder that serves ``old``, alone.
        old: the run that was migrated.
        new: the run that it was migrated to.
        executor: where to work.
        progress: called with (rows done, rows in all).

    Returns:
        The manifest of the candidate.

    Raises:
        SnapshotError: the index serves other runs, or its factory does not work for the new vectors.
        WorkError: the disk refused; the index serves what it served before.
    """
    check_replaceable(index, old, new.path)
    with lock_index(index) as check:
        snapshot = Snapshot.open(index)
        served = check_replaceable(index, old, new.path)
        if _is_index_of(served, new.path):
            return served
        if existing := _existing_candidate(index, served, new):
            return existing
        if sha256_file(old.path / "manifest.json") != served.runs[0].manifest_sha256:
            raise SnapshotError(
                f"{old.path} is another run than the one {index} was made from; build its index "
                "anew with 'onepass index build'"
            )
        config = served.options
        _check_factory(config, new, index)
        builder = VersionBuilder(config, executor=executor, report=progress)
        sources = [Selection(new, _undeleted_rows(snapshot, old))]

        def fill(draft: Path, version: str) -> SnapshotManifest:
            return builder.build(draft, version, sources, made_by=MADE_BY, parent=served.version)

        version = publish(index, fill, check, serve=False)
    return read_manifest(index, version)


def _is_index_of(manifest: SnapshotManifest, run: Path) -> bool:
    return [to_path(entry.path) for entry in manifest.runs] == [run.resolve()]


def _existing_candidate(index: Path, served: SnapshotManifest, new: Run) -> SnapshotManifest | None:
    """The newest version of this very run that was built while ``served`` was served."""
    digest = sha256_file(new.path / "manifest.json")
    for version in reversed(list_versions(index)):
        manifest = read_manifest(index, version)
        is_candidate = manifest.made_by == MADE_BY and manifest.parent == served.version
        if (
            is_candidate
            and _is_index_of(manifest, new.path)
            and manifest.runs[0].manifest_sha256 == digest
        ):
            return manifest
    return None


def _undeleted_rows(snapshot: Snapshot, old: Run) -> npt.NDArray[np.int64] | None:
    """Row ids of the run that are not deleted from the index; None: none is deleted."""
    never_indexed = left_out(Selection(old))
    present = snapshot.rows["row_id"].to_numpy()[snapshot.mask()]
    if len(present) + len(never_indexed) == len(old):
        return None
    row_ids: npt.NDArray[np.int64] = np.union1d(present, never_indexed)
    return row_ids


def _check_factory(config: IndexConfig, new: Run, index: Path) -> None:
    """Check that the factory works for the new vectors, before anything is written."""
    try:
        check_factory(config.factory, new.manifest.model.feature_dim, config.metric)
    except SnapshotError as error:
        raise SnapshotError(
            f"{error}; build with another factory: onepass index build {new.path} --out {index} "
            "--candidate --factory auto"
        ) from None
