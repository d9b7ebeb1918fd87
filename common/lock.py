"""One writer at a time of a folder: a lock on this machine, a lease in an object store."""

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
def lock_folder(
    folder: Path, work: str, told: Callable[[float, float], None] = lambda waited, of: None
) -> Iterator[Check]:
    """Keep other processes off ``folder`` while the block runs; the lock dies with the process.

    In an object store it is a lease: see ``common.lease``, whose ``told`` this is.

    A block that leaves nothing in ``folder`` leaves no trace: the folders made for it go again.

    Args:
        work: the command, as others are told of it.

    Raises:
        FolderError: ``folder`` cannot be written, or another command is at work on it.
        StorageError: an object store cannot be reached.
    """
    if is_remote(folder):
        with hold_lease(folder, work, told) as lease:
            yield lease.check
        return
    new = [one for one in (folder, *folder.parents) if not one.exists()]
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
            for one in new:  # innermost first
                one.rmdir()
        os.close(lock)
