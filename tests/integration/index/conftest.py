"""One run and one index of it that tests only read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import faiss
import numpy as np
import pytest

from index.build.version import build_index
from index.search.snapshot import Snapshot
from tests.helpers.indexes import (
    embeddings,
    make_run,
)


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Work on a few rows is ten times slower when its threads wait for each other."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return embeddings(700)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", vectors)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Snapshot:
    return build_index([run], tmp_path_factory.mktemp("served") / "index")
