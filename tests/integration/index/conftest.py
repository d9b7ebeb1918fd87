"""Runs and indexes that tests only read, and a copy of one to change."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from index.build.update import delete_rows
from index.build.version import build_index
from index.config import IndexConfig
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from tests.helpers.indexes import embeddings, make_run, one_faiss_thread

__all__ = ["one_faiss_thread"]

FIRST, SECOND = embeddings(120), embeddings(40, seed=1)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return embeddings(700)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", vectors)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Snapshot:
    return build_index([run], tmp_path_factory.mktemp("served") / "index")


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs, and an index of the first: v0001 whole, v0002 without some rows, the served one."""
    folder = tmp_path_factory.mktemp("world")
    first = make_run(folder / "first", FIRST, prefix="a")
    make_run(folder / "second", SECOND, prefix="b")
    build_index([first], folder / "index", IndexConfig(factory="IVF4,Flat"))
    delete_rows(folder / "index", Filter("row_id >= 100"))
    return folder


@pytest.fixture
def index(world: Path, tmp_path: Path) -> Path:
    """A copy of the index of ``world``."""
    shutil.copytree(world / "index", tmp_path / "index")
    return tmp_path / "index"
