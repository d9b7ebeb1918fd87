"""Faults at named points of extraction's processes; Python imports this where it starts.

A process that has this folder in its PYTHONPATH and FAULTS in its environment looks, at each
point, for a file ``POINT@ACTION@NUMBER`` in the folder FAULTS, takes it away under another
name, and does what it says; so a fault happens once, in one process. ``POINT@ACTION@always``
stays. ``slow`` holds seconds that every block takes longer, ``clock`` seconds that the wall
clock of our own modules is wrong by, ``crash`` the name of an image that ends who reads it.

Points: ``forward`` (a block is answered), ``write`` (a file begins), ``pending`` (its pending
checkpoint is there), ``data`` (the file is there too), ``committed`` (so is the commit).
Actions: ``raise``, ``kill``, ``full`` (the disk), ``half`` (half a file, then the power).
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("FAULTS", "/nonexistent"))


def point(name: str) -> str | None:
    """Suffer what waits at ``name``; what the caller must do itself is returned."""
    for token in FOLDER.glob(f"{name}@*@*"):
        _, action, number = token.name.split("@")
        if number != "always":
            try:
                token.rename(FOLDER / f"done-{token.name}")
            except FileNotFoundError:  # another process had it
                continue
        if action == "raise":
            raise RuntimeError("one of a thousand batches")
        if action == "full":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        return action
    return None


def _forward(module: Any) -> None:
    answer = module.Forward.answer

    def slowed(self: Any, rows: Any) -> Any:
        point("forward")
        with contextlib.suppress(FileNotFoundError):
            time.sleep(float((FOLDER / "slow").read_text()))
        return answer(self, rows)

    module.Forward.answer = slowed


def _frames(module: Any) -> None:
    read = module.ImageReader.read

    def crashing(self: Any, name: str) -> Any:
        with contextlib.suppress(FileNotFoundError):
            if name == (FOLDER / "crash").read_text():
                os._exit(9)
        return read(self, name)

    module.ImageReader.read = crashing


def _write(module: Any) -> None:
    write = module.ParquetDatasink.write

    def broken(self: Any, blocks: Any, ctx: Any) -> None:
        action = point("write")
        write(self, blocks, ctx)
        if action == "half":
            newest = max(Path(self.path).glob("*.parquet"), key=lambda f: f.stat().st_mtime_ns)
            os.truncate(newest, newest.stat().st_size // 2)
            os.kill(os.getpid(), signal.SIGKILL)

    module.ParquetDatasink.write = broken


def _checkpoint(module: Any) -> None:
    writer = module.BatchBasedCheckpointWriter
    pend, commit = writer.write_pending_checkpoint, writer.commit_checkpoint

    def pended(self: Any, *args: Any, **kwargs: Any) -> Any:
        pending = pend(self, *args, **kwargs)
        point("pending")
        return pending

    def committed(self: Any, pending: Any) -> None:
        point("data")
        commit(self, pending)
        point("committed")

    writer.write_pending_checkpoint, writer.commit_checkpoint = pended, committed


PATCHES: dict[str, Callable[[Any], None]] = {
    "pipelines.engines.forward": _forward,
    "pipelines.images.reader": _frames,
    "pipelines.execution.ray_internals": _write,
    "ray.data.checkpoint.checkpoint_writer": _checkpoint,
}


class _Clock:
    """The module ``time`` with a wall clock that may be wrong."""

    _read, _offset = -1.0, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def time(self) -> float:
        if time.monotonic() - self._read > 0.2:
            self._read = time.monotonic()
            try:
                self._offset = float((FOLDER / "clock").read_text() or 0)
            except OSError:
                self._offset = 0.0
        return time.time() + self._offset


class _Finder:
    """Patches a module of ours right after it was executed, and Ray's checkpoints."""

    @staticmethod
    def find_spec(name: str, path: Any = None, target: Any = None) -> Any:
        ours = name.startswith(("pipelines.", "cluster."))
        if name not in PATCHES and not ours:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def patched(module: Any) -> None:
            execute(module)
            if name in PATCHES:
                PATCHES[name](module)
            if ours and getattr(module, "time", None) is time:
                module.time = _Clock()

        spec.loader.exec_module = patched  # type: ignore[method-assign]
        return spec


if "FAULTS" in os.environ:
    sys.meta_path.insert(0, _Finder)  # type: ignore[arg-type]
