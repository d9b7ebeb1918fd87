"""Publish versions of an index folder: one at a time, whole or not at all.

A build that dies at any point leaves a hidden folder behind, never half a version: the folder
is renamed when it is complete and on the disk, and CURRENT switches after that.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from cluster.errors import SnapshotError, WorkError
from index.snapshot import CURRENT
from pipelines.records import write_atomic

_NUMBERED = re.compile(r"v(\d{4,})")
_BUILDING = re.compile(r"\.building-(\d+)")


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Hold the one build of ``out``; the lock goes with the process, however it dies."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        file = (out / ".lock").open("a")
    except OSError as error:
        raise SnapshotError(
            f"{out} cannot be written ({error.strerror}); give another folder with --out"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SnapshotError(
                f"another build of {out} is running; wait for it, or give another --out"
            ) from None
        yield


def publish(out: Path, write: Callable[[Path, str], None]) -> str:
    """Have ``write(draft, version)`` fill a folder, make it the current version, return its name.

    Call it under ``locked(out)``.

    Raises:
        WorkError: the disk refused; ``out`` serves what it served before.
    """
    _remove_leftovers(out)
    version = _next_version(out)
    draft = out / f".building-{os.getpid()}"
    draft.mkdir()
    try:
        write(draft, version)
        _sync(draft)
        draft.rename(out / version)
        _sync(out)
    except OSError as error:
        raise WorkError(
            f"writing {draft} failed: {error.strerror or error}; {out} serves what it served before"
        ) from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    write_atomic(out / CURRENT, f"{version}\n".encode())
    _sync(out)
    return version


def _next_version(out: Path) -> str:
    """One more than any that stands, complete or not: a name never means two things."""
    numbers = [int(found[1]) for e in out.iterdir() if (found := _NUMBERED.fullmatch(e.name))]
    return f"v{max(numbers, default=0) + 1:04d}"


def _remove_leftovers(out: Path) -> None:
    """Remove drafts of builds that died; under the lock our own process has none."""
    for entry in out.iterdir():
        found = _BUILDING.fullmatch(entry.name)
        if found and (int(found[1]) == os.getpid() or not _alive(int(found[1]))):
            shutil.rmtree(entry, ignore_errors=True)


def _alive(pid: int) -> bool:
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
