"""One writer at a time of a folder: a file lock on this machine, a lease in an object store."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from common.errors import FolderError
from common.lease import hold_lease
from common.storage import is_remote

# Raises LeaseLostError where another command has taken the folder over.
Check: TypeAlias = Callable[[], None]


@contextmanager
def wait_for_lock(file: Path) -> Iterator[None]:
    """Hold a lock file of this machine while the block runs; others wait until it is free.

    Raises:
        OSError: the file cannot be made.
    """
    lock = os.open(file, os.O_CREAT | os.O_RDWR, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


@contextmanager
def lock_folder(
    folder: Path, work: str, on_wait: Callable[[float, float], None] = lambda waited, limit: None
) -> Iterator[Check]:
    """Keep other processes off ``folder`` while the block runs; the lock ends with the process.

    Folders that were made for the lock are removed if the block leaves nothing in them.

    Args:
        folder: local, or in an object store, where the lock is a lease (``common.lease``).
        work: the command, as the error of another process names it: "extract".
        on_wait: called with the seconds waited and the most there may be, while the lease of
            another process is watched. A local lock is never waited for.

    Returns:
        A function to call before anything that only the holder may do.

    Raises:
        FolderError: ``folder`` cannot be written, or another command is at work on it.
        StorageError: an object store cannot be reached.
    """
    if is_remote(folder):
        with hold_lease(folder, work, on_wait) as lease:
            yield lease.check
        return
    new_folders = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise FolderError(
            f"{folder} cannot be written: {error.strerror}; give another folder"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        # Nothing is cleaned up here: all of it belongs to the other process.
        os.close(lock)
        raise FolderError(
            f"{folder}: another onepass {work} is at work on it; wait for it or give another folder"
        ) from None
    try:
        yield lambda: None
    finally:
        if all(entry.name == ".lock" for entry in folder.iterdir()):
            (folder / ".lock").unlink(missing_ok=True)
            for new_folder in new_folders:  # innermost first
                new_folder.rmdir()
        os.close(lock)
