"""The versions of an index: list them, choose the one that is served, remove old ones."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from common.errors import SnapshotError
from common.refusals import read_errors
from common.storage import is_remote
from index.search.snapshot import Snapshot
from index.storage.layout import (
    SEGMENTS,
    SnapshotManifest,
    current_version,
    list_versions,
    read_manifest,
)
from index.storage.publish import lock_index, remove, remove_leftovers, set_current


@dataclass(frozen=True)
class VersionInfo:
    """A version in an index folder."""

    manifest: SnapshotManifest
    current: bool


def history(index_dir: Path) -> list[VersionInfo]:
    """All versions, oldest first.

    Raises:
        SnapshotError: there is no index.
    """
    current = read_manifest(index_dir).version
    return [
        VersionInfo(read_manifest(index_dir, version), version == current)
        for version in list_versions(index_dir)
    ]


def promote(index_dir: Path, version: str) -> Snapshot:
    """Check the files of ``version`` and serve it from now on.

    Raises:
        SnapshotError: there is no such version, or it cannot be opened; nothing was changed.
        VerifyError: one of its files is not what was written; nothing was changed.
    """
    read_manifest(index_dir, version)
    with lock_index(index_dir) as check:
        remove_leftovers(index_dir)
        snapshot = Snapshot.open(index_dir, version)
        snapshot.verify()
        check()
        set_current(index_dir, version)
    return snapshot


def rollback(index_dir: Path) -> Snapshot:
    """Serve the parent of the current version, or the version before it where the parent is gone.

    Raises:
        SnapshotError: there is no older version.
        VerifyError: one of its files is not what was written.
    """
    manifest = read_manifest(index_dir)
    versions = list_versions(index_dir)
    older = [name for name in versions if int(name[1:]) < int(manifest.version[1:])]
    if not older:
        raise SnapshotError(
            f"{index_dir} serves {manifest.version} and has no older version "
            f"(it has: {', '.join(versions)}); 'onepass index promote' chooses a version by name"
        )
    return promote(index_dir, manifest.parent if manifest.parent in older else older[-1])


def prune(index_dir: Path, keep: int) -> list[str]:
    """Remove all versions but the newest ``keep`` and the one that is served.

    A segment is removed with the last version that names it. A process that has one open can
    still read it.

    Returns:
        Names of the removed versions.

    Raises:
        SnapshotError: there is no index, or ``keep`` is below 1.
    """
    if keep < 1:
        raise SnapshotError(f"`keep={keep}` is too few; give 1 or more")
    read_manifest(index_dir)
    with lock_index(index_dir):
        current = current_version(index_dir)
        old = [name for name in list_versions(index_dir)[:-keep] if name != current]
        for name in old:
            if is_remote(index_dir):
                remove(index_dir / name)
                continue
            # Renamed first: a version that is half removed must not look complete.
            hidden = index_dir / f".removing-{name}"
            (index_dir / name).rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        remove_leftovers(index_dir)
    return old


def version_bytes(index_dir: Path, manifest: SnapshotManifest) -> int:
    """Size of a version's files, including the segments that it shares with other versions."""
    folders = [index_dir / manifest.version]
    folders += [index_dir / SEGMENTS / entry.name for entry in manifest.segments]
    with read_errors(index_dir):
        return sum(file.stat().st_size for folder in folders for file in folder.iterdir())
