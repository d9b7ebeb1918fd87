"""Publish versions of an index folder: one at a time, complete or not at all.

A process that dies at any point leaves a hidden folder or a segment that no version names, never
half a version: segments and the version's folder are renamed when they are complete and on the
disk, and CURRENT is replaced after that. In an object store, where nothing can be renamed, the
version's manifest is uploaded after all other files, and CURRENT after it.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from common.errors import SnapshotError, WorkError, first_line
from common.json_models import sha256_file, write_atomic
from common.lock import Check, lock_folder
from common.manifests import MANIFEST
from common.progress import progress
from common.refusals import read_errors
from common.storage import is_remote, storage_errors
from index.storage import remote
from index.storage.layout import (
    CURRENT,
    SEGMENT,
    SEGMENTS,
    VERSION,
    SnapshotManifest,
    current_text,
    list_versions,
    read_manifest,
)

_BUILDING = re.compile(r"\.building-(\d+)")
_REMOVING = ".removing-"  # a version being removed; see ``versions.prune``

Fill = Callable[[Path, str], SnapshotManifest]
"""Given a draft folder and the name of a version, writes the version's own files into the folder
and new segments below ``segments``, and returns the manifest."""


def lock_index(out: Path) -> AbstractContextManager[Check]:
    """Lock ``out`` against other writers while the block runs.

    Raises:
        FolderError: ``out`` cannot be written, or another command is at work on it.
        StorageError: an object store cannot be reached.
    """

    def report_waiting(waited: float, limit: float) -> None:
        progress("lock, waited", int(waited), int(limit))

    return lock_folder(out, "index", report_waiting)


def publish(out: Path, fill: Fill, check: Check, *, serve: bool = True) -> str:
    """Make the next version and publish it.

    Args:
        out: the index folder, locked with ``lock_index``.
        fill: writes the version into a draft folder.
        check: what ``lock_index`` gave.
        serve: make it the served version; otherwise ``versions.promote`` can do that later.

    Returns:
        The name of the version.

    Raises:
        WorkError: the disk or the store refused; ``out`` serves what it served before.
    """
    remove_leftovers(out)
    version = _next_version(out)
    draft = (remote.cache_folder(out) if is_remote(out) else out) / f".building-{os.getpid()}"
    try:
        (draft / SEGMENTS).mkdir(parents=True)
        manifest = fill(draft, version)
        own = {file.name: sha256_file(file) for file in draft.iterdir() if file.is_file()}
        manifest = manifest.model_copy(update={"files": own, "path": str(out.resolve())})
        manifest.write(draft)
        if is_remote(out):
            check()
            remote.upload_version(draft, out, version)
            parts = [
                (Path(SEGMENTS, segment.name), segment.files)
                for segment in manifest.segments
                if (draft / SEGMENTS / segment.name).exists()  # others are of older versions
            ]
            remote.keep_in_cache(draft, out, [(Path(), own), *parts])
        else:
            _rename_into(draft, out, version)
    except OSError as error:
        raise WorkError(
            f"writing {draft} failed: {error.strerror or error}; {out} serves what it served before"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    if serve:
        check()
        set_current(out, version)
    return version


def _rename_into(draft: Path, out: Path, version: str) -> None:
    (out / SEGMENTS).mkdir(exist_ok=True)
    for segment in sorted((draft / SEGMENTS).iterdir()):
        _sync(segment)
        segment.rename(out / SEGMENTS / segment.name)
    (draft / SEGMENTS).rmdir()
    _sync(out / SEGMENTS)
    _sync(draft)
    draft.rename(out / version)


def set_current(out: Path, version: str) -> None:
    """Make ``version`` the one that is served.

    Raises:
        WorkError: the disk or the store refused; CURRENT may name the version or the one before.
    """
    try:
        if not is_remote(out):
            _sync(out)  # the version must be on the disk before CURRENT names it
        write_atomic(out / CURRENT, current_text(out, version))
        if not is_remote(out):
            _sync(out)
    except OSError as error:
        raise WorkError(
            f"{out / CURRENT} could not be written, or not for good: "
            f"{error.strerror or first_line(error)}; {version} is complete, and 'onepass index "
            f"promote {out} {version}' serves it"
        ) from error


def remove_leftovers(out: Path) -> None:
    """Remove drafts of dead processes, and segments that no version names.

    Call it under ``lock_index(out)``.
    """
    if is_remote(out):
        with storage_errors(out):
            for name in _names(out):
                if VERSION.fullmatch(name) and not (out / name / MANIFEST).is_file():
                    remote.remove(out / name)
    local = remote.cache_folder(out) if is_remote(out) else out
    for entry in local.iterdir() if local.exists() else ():
        if entry.name.startswith(_REMOVING) or _is_dead_draft(entry.name):
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name.startswith(f".{CURRENT}."):  # written, but never renamed to CURRENT
            entry.unlink(missing_ok=True)
    versions = {int(name[1:]): name for name in list_versions(out)}
    unnamed = {
        name: number
        for name in _names(out / SEGMENTS)
        if (match := SEGMENT.fullmatch(name)) and (number := int(match[1])) not in versions
    }
    # The newest version names most of what older ones left.
    for version in sorted(versions, reverse=True):
        if not unnamed:
            break
        try:
            for segment in read_manifest(out, versions[version]).segments:
                unnamed.pop(segment.name, None)
        except SnapshotError:  # it may need those that are older
            unnamed = {name: number for name, number in unnamed.items() if number > version}
    for name in unnamed:
        remove(out / SEGMENTS / name)


def _next_version(out: Path) -> str:
    """Next unused version number; numbers are never reused, also of incomplete versions."""
    numbers = [int(match[1]) for name in _names(out) if (match := VERSION.fullmatch(name))]
    return f"v{max(numbers, default=0) + 1:04d}"


def _names(out: Path) -> list[str]:
    """Names in a folder; none where there is no such folder."""
    with read_errors(out):
        return [entry.name for entry in out.iterdir()] if out.is_dir() else []


def remove(folder: Path) -> None:
    """Remove a folder of an index, on this machine or in an object store."""
    if is_remote(folder):
        remote.remove(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _is_dead_draft(name: str) -> bool:
    """Whether it is a draft of this process or of one that no longer runs."""
    match = _BUILDING.fullmatch(name)
    if match is None:
        return False
    pid = int(match[1])
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # it runs, as another user
    return False


def _sync(folder: Path) -> None:
    """Flush a folder and the files in it to the disk, so that a rename never precedes them."""
    for entry in [*(file for file in folder.iterdir() if file.is_file()), folder]:
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
