"""Built engines, kept between runs: one file or folder a key, built once a machine.

Two actors that want the same engine at once take turns: the first builds, the second finds
it built. What stands under its name is complete.

A compiled engine is machine code: who can write it runs code as whoever loads it. So nothing is
loaded that somebody else owns or everybody may write.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from common.errors import ModelError


def cache_folder() -> Path:
    """Where built engines are kept; ``XDG_CACHE_HOME`` moves it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "onepass" / "engines"


def digest(*parts: object) -> str:
    """A short name for everything that decides what a built engine is."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """``name`` in the cache, made by ``build(draft)`` where it is not there yet.

    Raises:
        ModelError: the cache cannot be written, or others can write it.
    """
    target = cache_folder() / name
    if target.exists():
        return _checked_owner(target)
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(target.with_suffix(".lock"), os.O_CREAT | os.O_RDWR, 0o644)
    except OSError as error:
        raise ModelError(
            f"built engines are kept in {target.parent}, which cannot be written "
            f"({error.strerror}); set XDG_CACHE_HOME to a folder that can, or `engine='eager'`"
        ) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            # The end of the name stays: compilers look at it.
            draft = target.with_name(f".{os.getpid()}-{target.name}")
            try:
                build(draft)
                draft.replace(target)
            finally:
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
    finally:
        os.close(lock)
    return _checked_owner(target)


def _checked_owner(target: Path) -> Path:
    for path in (target.parent, target):
        status = path.stat()
        if status.st_uid not in (os.geteuid(), 0) or status.st_mode & stat.S_IWOTH:
            raise ModelError(
                f"{path}: built engines are code, and others can write this one; take the folder "
                "away, set XDG_CACHE_HOME to a folder of your own, or use `engine='eager'`"
            )
    return target
