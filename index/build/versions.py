"""Which version of an index is served, which others stand, and what they take up."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from common.errors import SnapshotError
from common.storage import is_remote, storage_errors
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
    """A version that stands in an index folder."""

    manifest: SnapshotManifest
    current: bool


def history(index_dir: Path) -> list[VersionInfo]:
    """All versions that stand, oldest first.

    Raises:
        SnapshotError: there is no index.
    """
    current = read_manifest(index_dir).version
    return [
        VersionInfo(read_manifest(index_dir, version), version == current)
        for version in list_versions(index_dir)
    ]


def promote(index_dir: Path, version: str) -> Snapshot:
    """Serve ``version`` from now on; its files are checked first.

    Raises:
        SnapshotError: no such version, or it cannot be opened; the same is served as before.
        VerifyError: a file of it is not what was written; the same is served as before.
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
    """Serve the version that the current one was made from, or else the one before it.

    Raises:
        SnapshotError: there is none before it.
        VerifyError: a file of it is not what was written.
    """
    manifest = read_manifest(index_dir)
    versions = list_versions(index_dir)
    before = [name for name in versions if int(name[1:]) < int(manifest.version[1:])]
    parent = manifest.parent if manifest.parent in before else None
    if not before:
        raise SnapshotError(
            f"{index_dir} serves {manifest.version} and nothing older stands "
            f"(it has: {', '.join(versions)}); 'onepass index promote' chooses a version by name"
        )
    return promote(index_dir, parent or before[-1])


def prune(index_dir: Path, keep: int) -> list[str]:
    """Remove old versions but for the newest ``keep`` and the one that is served; their names.

    A segment goes with the last version that names it. Who has one open goes on reading it.

    Raises:
        SnapshotError: there is no index, or ``keep`` is below 1.
    """
    if keep < 1:
        raise SnapshotError(f"keep is {keep}; give 1 or more")
    read_manifest(index_dir)
    with lock_index(index_dir):
        current = current_version(index_dir)
        old = [name for name in list_versions(index_dir)[:-keep] if name != current]
        for name in old:
            if is_remote(index_dir):
                remove(index_dir / name)
                continue
            # First out of sight: half a version must never look like a whole one.
            hidden = index_dir / f".removing-{name}"
            (index_dir / name).rename(hidden)
            shutil.rmtree(hidden, ignore_errors=True)
        remove_leftovers(index_dir)
    return old


def version_bytes(index_dir: Path, manifest: SnapshotManifest) -> int:
    """What a version's files take, segments that it shares with others included."""
    folders = [index_dir / manifest.version]
    folders += [index_dir / SEGMENTS / entry.name for entry in manifest.segments]
    with storage_errors(index_dir):
        return sum(file.stat().st_size for folder in folders for file in folder.iterdir())
