"""Versions of an index: which stand, which is served, what goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from index.build import build_index
from index.snapshot import Snapshot, current_version, list_versions
from tests.indexes import (
    embeddings,
)


def test_second_build_leaves_the_first_open_to_readers(tmp_path: Path, run: Path) -> None:
    out = tmp_path / "index"
    first = build_index([run], out)
    before = first.search(embeddings(3, seed=8), 4)
    second = build_index([run], out, factory="HNSW32")
    assert (first.path.name, second.path.name) == ("v0001", "v0002")
    assert list_versions(out) == ["v0001", "v0002"]
    assert current_version(out) == "v0002"
    assert Snapshot.open(out).manifest.factory == "HNSW32"
    (out / "v0003").mkdir()  # torn by hand: never served, its number never used again
    assert list_versions(out) == ["v0001", "v0002"]
    assert build_index([run], out).path.name == "v0004"
    again = Snapshot.open(out, "v0001").search(embeddings(3, seed=8), 4)
    np.testing.assert_array_equal(again.rows, before.rows)
    np.testing.assert_array_equal(first.search(embeddings(3, seed=8), 4).rows, before.rows)
