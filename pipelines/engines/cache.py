"""Built engines, cached between runs: one file or folder for each key, built once on a machine.

Of two actors that need the same engine at once the first builds it while the second waits. An
entry under its final name is complete.

A compiled engine is machine code, so nothing is loaded that another user owns or that everybody
may write.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

from common.errors import ModelError, first_line
from common.lock import wait_for_lock


def cache_folder() -> Path:
    """The folder of built engines, below ``XDG_CACHE_HOME``."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "onepass" / "engines"


def digest(*parts: object) -> str:
    """A short hash of all parts of a key."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def cached(name: str, build: Callable[[Path], None]) -> Path:
    """The entry ``name``, built by ``build(draft)`` where it is missing.

    Raises:
        ModelError: the cache cannot be written, or others can write it.
    """
    target = cache_folder() / name
    if target.exists():
        return _checked_owner(target)
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = target.with_suffix(".lock")
        lock.touch(0o644)
    except OSError as error:
        raise ModelError(
            f"built engines are kept in {target.parent}, which cannot be written "
            f"({error.strerror}); set XDG_CACHE_HOME to a folder that can, or `engine='eager'`"
        ) from None
    with wait_for_lock(lock):
        if not target.exists():
            # The suffix stays, because compilers read it.
            draft = target.with_name(f".{os.getpid()}-{target.name}")
            try:
                build(draft)
                draft.replace(target)
            finally:
                shutil.rmtree(draft) if draft.is_dir() else draft.unlink(missing_ok=True)
    return _checked_owner(target)


def build_error(engine: str, action: str, error: Exception) -> ModelError:
    """The error for a network that an engine's builder does not accept.

    Args:
        engine: as ``EngineName``.
        action: what failed, as a participle: ``compiled``, ``converted``.
        error: what the builder raised.
    """
    return ModelError(
        f"`engine={engine!r}`: this network cannot be {action} ({type(error).__name__}: "
        f"{first_line(error)}); use `engine='eager'`"
    )


def _checked_owner(target: Path) -> Path:
    for path in (target.parent, target):
        status = path.stat()
        if status.st_uid not in (os.geteuid(), 0) or status.st_mode & stat.S_IWOTH:
            raise ModelError(
                f"{path}: built engines are code, and others can write this one; take the folder "
                "away, set XDG_CACHE_HOME to a folder of your own, or use `engine='eager'`"
            )
    return target
