"""What a search answers, against NumPy and SciPy; what a snapshot says of its rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import SnapshotError
from index.build.version import build_index
from index.config import IndexConfig
from index.search.recall import recall_at
from index.search.snapshot import Snapshot
from tests.helpers.indexes import DIM, embeddings, in_threads, l1, order_of, true_hits, true_scores
from tests.helpers.runs import write_run


@pytest.mark.parametrize("metric", ["cosine", "l1"])
@pytest.mark.parametrize("factory", ["auto", "HNSW32", "IVF8,Flat"])
@pytest.mark.parametrize("exact", [False, True])
def test_search_equals_the_definition(
    tmp_path: Path, run: Path, vectors: np.ndarray, metric: Any, factory: str, exact: bool
) -> None:
    snapshot = build_index(
        [run], tmp_path / "index", IndexConfig(metric=metric, factory=factory, recall=1.0)
    )
    assert snapshot.manifest.recall.measured == pytest.approx(1.0, abs=0.005)
    stored = vectors[order_of(snapshot)]
    queries = embeddings(25, seed=9)
    hits = snapshot.search(queries, 10, exact=exact)
    true = true_hits(metric, queries, stored, 10)
    if exact or factory == "auto":
        np.testing.assert_array_equal(hits.rows, true.rows)
    np.testing.assert_allclose(
        hits.scores,
        np.take_along_axis(true_scores(metric, queries, stored), hits.rows, 1),
        atol=1e-5,
    )
    assert recall_at(true, hits) >= 0.98
    assert hits.rows.dtype == np.int64
    assert hits.scores.dtype == np.float32


def test_vectors_read_back_are_normalised_for_the_metric(
    tmp_path: Path, run: Path, vectors: np.ndarray, served: Snapshot
) -> None:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    np.testing.assert_allclose(served.vectors([3])[0], unit[order_of(served)[3]], atol=1e-6)
    other = build_index([run], tmp_path / "index", IndexConfig(metric="l1", factory="IVF8,Flat"))
    np.testing.assert_allclose(
        other.vectors([5, 699, 0]), l1(vectors)[order_of(other)[[5, 699, 0]]], atol=1e-6
    )
    assert other.vectors([]).shape == (0, DIM)
    with pytest.raises(SnapshotError, match=r"row 700 is outside .* rows 0 to 699"):
        other.vectors([1, 700])
    with pytest.raises(SnapshotError, match="row -1 is outside"):
        other.vectors([-1])


def test_neighbours_leave_the_detection_itself_out(served: Snapshot, vectors: np.ndarray) -> None:
    hits = served.neighbors("d17", 5)
    row = served.row_of("d17")
    stored = vectors[order_of(served)]
    true = true_hits("cosine", stored[row][None], stored, 6)
    assert true.rows[0, 0] == row
    np.testing.assert_array_equal(hits.rows, true.rows[:, 1:])
    assert served.neighbors("d17", 10_000).rows.shape == (1, 699)


@pytest.mark.parametrize("factory", ["HNSW4", "IVF64,Flat"])
def test_minus_one_is_never_returned(tmp_path: Path, run: Path, factory: str) -> None:
    snapshot = build_index([run], tmp_path / "index", IndexConfig(factory=factory, recall=0.01))
    for k in (10, 700, 5000):
        hits = snapshot.search(embeddings(20, seed=4), k)
        assert hits.rows.shape == (20, min(k, 700))
        assert hits.rows.min() >= 0
        assert all(len(set(rows)) == len(rows) for rows in hits.rows.tolist())
        assert np.all(np.diff(hits.scores, axis=1) <= 1e-6)


def test_threads_search_one_snapshot(tmp_path: Path, run: Path) -> None:
    snapshot = build_index([run], tmp_path / "index", IndexConfig(factory="HNSW32"))
    queries = embeddings(40, seed=5)
    expected = snapshot.search(queries, 5)

    def search_one_by_one() -> None:
        for query in range(40):
            hits = snapshot.search(queries[query : query + 1], 5)
            np.testing.assert_array_equal(hits.rows, expected.of(query).rows)

    in_threads(search_one_by_one)


def test_rows_say_what_was_extracted(tmp_path: Path) -> None:
    plan: dict[str, list[Any]] = {
        "image": ["a/20240501223000.jpg", "a/20240501223000.jpg", "/data/b.jpg"],
        "x1": [1.5, None, None],
        "y1": [2.0, None, None],
        "x2": [30.0, None, None],
        "y2": [40.0, None, None],
        "detection_id": ["boxed", "whole", "far"],
    }
    write_run(tmp_path / "run", plan, np.eye(3, dtype=np.float32) + 0.1, root=tmp_path / "photos")
    snapshot = build_index([tmp_path / "run"], tmp_path / "index")
    hits = snapshot.search(np.array([[1.1, 0.1, 0.1]]), 1)
    (described,) = snapshot.describe(hits)
    assert described == {
        "rank": 1,
        "detection_id": "boxed",
        "score": pytest.approx(1.0),
        "label": "class 0",
        "label_index": 0,
        "label_score": 0.5,
        "image": "a/20240501223000.jpg",
        "box": [1.5, 2.0, 30.0, 40.0],
        "sequence": "a",
        "frame": 0,
        "timestamp": "2024-05-01T22:30:00",
        "payload": {},
    }
    assert json.loads(json.dumps(described)) == described
    (far,) = snapshot.describe(snapshot.search(np.array([[0.1, 0.1, 1.1]]), 1))
    assert (far["box"], far["timestamp"]) == (None, None)
    assert snapshot.image_path(snapshot.row_of("boxed")) == tmp_path / "photos" / plan["image"][0]
    assert snapshot.image_path(snapshot.row_of("far")) == Path("/data/b.jpg")
    with pytest.raises(ValueError, match="one query"):
        snapshot.describe(snapshot.search(np.eye(3), 1))
