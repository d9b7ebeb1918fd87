"""Publish versions of an index folder: one at a time, whole or not at all.

Whoever dies at any point leaves a hidden folder or a segment that no version names, never half a
version: segments and the version's folder are renamed when they are complete and on the disk,
and CURRENT switches after that. In an object store, where nothing is renamed, the version's
manifest is uploaded when all else is, and CURRENT after it.
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
from common.progress import progress
from common.storage import is_remote, storage_errors
from index.storage import remote
from index.storage.layout import (
    CURRENT,
    MANIFEST,
    SEGMENT,
    SEGMENTS,
    VERSION,
    SnapshotManifest,
    list_versions,
    read_manifest,
)

_BUILDING = re.compile(r"\.building-(\d+)")
_REMOVING = ".removing-"  # a version on its way out; see ``versions.prune``

# Fills a draft folder for a version: its own files in it, new segments below ``segments``.
Fill = Callable[[Path, str], SnapshotManifest]


def lock_index(out: Path) -> AbstractContextManager[Check]:
    """Hold the one writer of ``out`` while the block runs.

    Raises:
        FolderError: ``out`` cannot be written, or another command is at work on it.
        StorageError: an object store cannot be reached.
    """

    def told(waited: float, most: float) -> None:
        progress("lock, waited", int(waited), int(most))

    return lock_folder(out, "index", told)


def publish(out: Path, fill: Fill, check: Check, *, serve: bool = True) -> str:
    """Have ``fill`` make a version, publish it, make it the current one, return its name.

    Call it under ``locked(out)``, whose ``check`` it is. Without ``serve`` the version stands beside the current one,
    and ``versions.promote`` can make it that.

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
        manifest = manifest.model_copy(update={"files": own})
        write_atomic(draft / MANIFEST, manifest.model_dump_json(indent=2).encode())
        if is_remote(out):
            check()
            remote.upload_version(draft, out, version)
            made = [one for one in manifest.segments if (draft / SEGMENTS / one.name).exists()]
            parts = [(Path(SEGMENTS, one.name), one.files) for one in made]
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
        WorkError: the disk or the store refused; the message says what ``out`` serves.
    """
    if is_remote(out):
        try:
            write_atomic(out / CURRENT, f"{version}\n".encode())
        except OSError as error:
            raise WorkError(
                f"whether {out / CURRENT} was written is not known: {first_line(error)}; {version} "
                f"stands, and 'onepass index promote {out} {version}' serves it"
            ) from error
        return
    try:
        _sync(out)  # that the version stands, before anything names it
        write_atomic(out / CURRENT, f"{version}\n".encode())
    except OSError as error:
        raise WorkError(
            f"{out / CURRENT} cannot be written: {error.strerror}; {version} stands, and "
            f"'onepass index promote {out} {version}' serves it"
        ) from error
    try:
        _sync(out)
    except OSError as error:
        raise WorkError(
            f"{out} serves {version} now, but the disk may forget it: {error.strerror}; look at "
            f"the disk, then say 'onepass index promote {out} {version}' again"
        ) from error


def remove_leftovers(out: Path) -> None:
    """Remove what died before it was published: drafts, and segments no version names.

    Call it under ``locked(out)``: then no draft is anybody's but of a process that died.
    """
    if is_remote(out):
        with storage_errors(out):
            for name in _folders(out):
                if VERSION.fullmatch(name) and not (out / name / MANIFEST).is_file():
                    remote.remove(out / name)
    here = remote.cache_folder(out) if is_remote(out) else out
    for entry in here.iterdir() if here.exists() else ():
        found = _BUILDING.fullmatch(entry.name)
        if (
            found and (int(found[1]) == os.getpid() or not _is_alive(int(found[1])))
        ) or entry.name.startswith(_REMOVING):
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name.startswith(f".{CURRENT}."):  # written, never moved into its place
            entry.unlink(missing_ok=True)
    named: set[str] = set()
    damaged = 0  # the newest version of which nobody knows what segments it needs
    for version in list_versions(out):
        try:
            named.update(segment.name for segment in read_manifest(out, version).segments)
        except SnapshotError:
            damaged = int(version[1:])
    for name in _folders(out / SEGMENTS):
        found = SEGMENT.fullmatch(name)
        if found and int(found[1]) > damaged and name not in named:
            remove(out / SEGMENTS / name)


def _next_version(out: Path) -> str:
    """One more than any that stands, complete or not: a name never means two things."""
    numbers = [int(found[1]) for name in _folders(out) if (found := VERSION.fullmatch(name))]
    return f"v{max(numbers, default=0) + 1:04d}"


def _folders(out: Path) -> list[str]:
    """Names in a folder; none where there is no such folder."""
    with storage_errors(out):
        return [entry.name for entry in out.iterdir()] if out.is_dir() else []


def remove(folder: Path) -> None:
    """Remove a folder of an index, of this machine or in an object store."""
    if is_remote(folder):
        remote.remove(folder)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it lives, as somebody else
    return True


def _sync(folder: Path) -> None:
    """Bring a folder and the files in it to the disk, so that a rename never precedes them."""
    for entry in [*(e for e in folder.iterdir() if e.is_file()), folder]:
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
