"""One run and one index of it that tests only read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from index.build.version import build_index
from index.search.snapshot import Snapshot
from tests.helpers.indexes import embeddings, make_run, one_faiss_thread

__all__ = ["one_faiss_thread"]


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return embeddings(700)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, vectors: np.ndarray) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run", vectors)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, run: Path) -> Snapshot:
    return build_index([run], tmp_path_factory.mktemp("served") / "index")
