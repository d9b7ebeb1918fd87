"""A disk that is full at any point of a command: one line, and what was served is served."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pytest

from common.errors import WorkError
from index.build.update import add_runs, compact, delete_rows
from index.build.version import build_index
from index.build.versions import promote
from index.config import IndexConfig
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from index.storage.layout import SEGMENTS, current_version
from tests.helpers.indexes import tree

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

# Every way in which the index writes. FAISS throws errors of its own.
WRITES: dict[str, tuple[object, str]] = {
    "vectors": (os, "pwrite"),
    "faiss": (faiss, "write_index"),
    "numpy": (np, "save"),
    "rows": (pa.ipc, "new_file"),
    "sync": (os, "fsync"),
    "rename": (os, "rename"),
    "replace": (os, "replace"),
    "mkdir": (os, "mkdir"),
}


def commands(world: Path, index: Path) -> dict[str, Callable[[], Any]]:
    return {
        "lists": lambda: build_index([world / "first"], index, IndexConfig(factory="IVF2,Flat")),
        "graph": lambda: build_index([world / "first"], index, IndexConfig(factory="HNSW8")),
        "add": lambda: add_runs(index, [world / "second"]),
        "delete": lambda: delete_rows(index, Filter(ids=frozenset({"a95"}))),
        "compact": lambda: compact(index),
        "promote": lambda: promote(index, "v0001"),
    }


@pytest.mark.parametrize("command", ["lists", "graph", "add", "delete", "compact", "promote"])
def test_full_at_every_write(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    failures = 0
    for kind, (owner, name) in WRITES.items():
        for call in range(30):
            index = tmp_path / f"{kind}-{call}"
            shutil.copytree(world / "index", index)
            before = tree(index)
            with monkeypatch.context() as patched:
                tried = full_at(patched, owner, name, call)
                try:
                    commands(world, index)[command]()
                except WorkError as error:
                    message = str(error)
                else:
                    assert not tried, "a write failed without an error"
                    break
            assert tried
            failures += 1
            assert "\n" not in message
            assert "No space left on device" in message
            if (served := current_version(index)) != "v0002":  # written, maybe not on the disk
                assert f"promote {index} {served}" in message
                assert Snapshot.open(index).verify()
                continue
            assert Snapshot.open(index).verify() == 100
            left = set(tree(index)) - set(before)
            if f"promote {index} v0003" not in message:  # which is complete
                assert not [name for name in left if not name.startswith(SEGMENTS)]
            commands(world, index)[command]()
            assert not [entry.name for entry in index.glob(".*") if entry.name != ".lock"]
        else:
            raise AssertionError(f"{command} never got through {kind}")
    assert failures >= 3


def full_at(patched: pytest.MonkeyPatch, owner: object, name: str, call: int) -> list[str]:
    """Have ``owner.name`` fail at its nth call; the list says so once it has."""
    real, calls, failed = getattr(owner, name), 0, []

    def write(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        target = args[1] if owner is faiss else args[0]
        if name == "mkdir" and Path(target).exists():  # nothing is made
            return real(*args, **kwargs)
        if owner is faiss and not isinstance(target, str):  # into memory
            return real(*args, **kwargs)
        calls += 1
        if calls <= call:
            return real(*args, **kwargs)
        failed.append(str(target))
        if owner is faiss:
            raise RuntimeError(f"Error in write at io.cpp:9: Error: 'x' failed: {FULL.strerror}")
        raise OSError(FULL.errno, FULL.strerror)

    patched.setattr(owner, name, write)
    return failed
