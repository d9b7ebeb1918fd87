"""An index in several parts, and one whose lists stay on the disk: the same answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import SnapshotError
from index.build.update import compact, delete_rows
from index.build.version import MIN_MEMORY, build_index
from index.config import IndexConfig
from index.search.filters import Filter
from index.search.recall import recall_at
from index.search.segment import Segment
from index.search.snapshot import Snapshot
from index.storage.layout import SEGMENTS
from tests.helpers.indexes import embeddings, make_run, part_of


def by_id(snapshot: Snapshot, rows: np.ndarray) -> list[list[str]]:
    return [snapshot.columns(each)["detection_id"] for each in rows]


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("factory", ["auto", "IVF4,Flat"])
def test_three_shards_answer_as_one(tmp_path: Path, run: Path, metric: Any, factory: str) -> None:
    config = IndexConfig(metric=metric, factory=factory, recall=1.0)
    many = make_run(tmp_path / "run", embeddings(700), files=9)
    single = build_index([many], tmp_path / "single", config)
    three = build_index([many], tmp_path / "three", config.model_copy(update={"shards": 3}))
    parts = three.manifest.segments
    assert [part.name for part in parts] == ["s0001-00", "s0001-01", "s0001-02"]
    assert sum(part.rows for part in parts) == 700
    assert max(part.rows for part in parts) - min(part.rows for part in parts) <= 80
    queries = embeddings(20, seed=9)
    for condition in (None, Filter("row_id % 3 = 0"), Filter(ids=frozenset({"d1", "d600"}))):
        a = single.search(queries, 12, filter=condition, exact=True)
        b = three.search(queries, 12, filter=condition, exact=True)
        assert by_id(single, a.rows) == by_id(three, b.rows)
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-6)
        assert recall_at(b, three.search(queries, 12, filter=condition)) >= 0.98
    assert single.rows_of(["d5", "no"])[1] == three.rows_of(["d5", "no"])[1] == -1
    np.testing.assert_array_equal(
        single.vectors(single.rows_of([f"d{row}" for row in range(700)])),
        three.vectors(three.rows_of([f"d{row}" for row in range(700)])),
    )
    assert three.search(queries, 5000).rows.shape == (20, 700)


def test_segments_searched_elsewhere_answer_the_same(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", embeddings(300), files=6)
    build_index([run], tmp_path / "index", IndexConfig(shards=3))
    delete_rows(tmp_path / "index", Filter("row_id < 40"))
    here = Snapshot.open(tmp_path / "index")
    numbers: list[int] = []

    def searcher(number: int) -> Segment:
        numbers.append(number)
        return here._segments[number]

    there = Snapshot.open(tmp_path / "index", searcher=searcher)
    assert numbers == [0, 1, 2]
    queries = embeddings(7, seed=2)
    for condition in (None, Filter("row_id > 200")):
        a, b = (snapshot.search(queries, 9, filter=condition) for snapshot in (here, there))
        np.testing.assert_array_equal(a.rows, b.rows)
        np.testing.assert_array_equal(a.scores, b.scores)


def test_more_shards_than_files_make_as_many_as_there_are(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", embeddings(30), files=2)
    snapshot = build_index([run], tmp_path / "index", IndexConfig(shards=5))
    assert [part.rows for part in snapshot.manifest.segments] == [15, 15]
    assert compact(tmp_path / "index").manifest.rows == 30


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 MB of vectors, more than half of the least memory there may be."""
    vectors = embeddings(10_000, dim=1000)
    return make_run(tmp_path_factory.mktemp("large") / "run", vectors, files=4)


def test_lists_that_are_too_large_stay_on_the_disk(tmp_path: Path, large: Path) -> None:
    out = tmp_path / "index"
    in_memory = build_index([large], tmp_path / "memory", IndexConfig(factory="IVF32,Flat"))
    snapshot = build_index([large], out, IndexConfig(factory="IVF32,Flat"), memory_bytes=MIN_MEMORY)
    assert "lists.ivfdata" not in in_memory.manifest.largest.files
    assert "lists.ivfdata" in snapshot.manifest.largest.files
    assert (part_of(snapshot) / "search.faiss").stat().st_size < 2_000_000
    assert snapshot.verify() == 10_000
    facts = snapshot.manifest.recall
    assert facts.measured is not None
    assert facts.measured >= 0.95
    out.rename(tmp_path / "moved")
    moved = Snapshot.open(tmp_path / "moved")
    assert moved.verify() == 10_000
    queries = embeddings(200, seed=3, dim=1000)
    exact = moved.search(queries, 10, exact=True)
    assert recall_at(exact, moved.search(queries, 10)) == pytest.approx(facts.measured, abs=0.04)
    assert recall_at(exact, in_memory.search(queries, 10)) >= 0.9
    half = Filter("row_id % 2 = 1")
    exact = moved.search(queries, 10, filter=half, exact=True)
    assert recall_at(exact, moved.search(queries, 10, filter=half)) >= 0.9
    rows = np.arange(0, 10_000, 1_999)
    assert moved.search(moved.vectors(rows), 1).rows[:, 0].tolist() == rows.tolist()


def test_four_bit_codes_that_do_not_fit_are_refused(
    tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("index.build.fill.lists_bytes", lambda rows, code: MIN_MEMORY)
    with pytest.raises(SnapshotError, match="4-bit codes must be in memory") as caught:
        build_index(
            [large],
            tmp_path / "index",
            IndexConfig(factory="IVF8,PQ50x4fs"),
            memory_bytes=MIN_MEMORY,
        )
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "index").exists()


def test_filters_are_right_where_too_many_rows_fit_to_compare(
    tmp_path: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a large index: lists are visited, graphs walked, codes compared with all."""
    monkeypatch.setattr("index.search.segment.COMPARED_VALUES", 0)
    queries = embeddings(20, seed=5)
    for factory in ("IVF16,Flat", "IVF16,PQ16x4fs", "HNSW16", "SQ8", "PCA16,IVF8,Flat"):
        snapshot = build_index(
            [run], tmp_path / factory.replace(",", "-"), IndexConfig(factory=factory, recall=0.99)
        )
        for where in ("row_id % 3 = 0", "row_id < 690", "label = 'class 1'", "row_id = 5"):
            condition = Filter(where)
            exact = snapshot.search(queries, 10, filter=condition, exact=True)
            hits = snapshot.search(queries, 10, filter=condition)
            assert np.isin(hits.rows, snapshot.matching(condition)).all()
            assert all(len(set(rows)) == len(rows) for rows in hits.rows.tolist())
            assert hits.rows.shape == exact.rows.shape
            assert recall_at(exact, hits) >= 0.95, (factory, where)
        recalls = []
        for row in range(8):  # each among rows that are all far from it
            query = queries[row : row + 1]
            near = by_id(snapshot, snapshot.search(query, 300, exact=True).rows)[0]
            far = Filter(ids=frozenset(f"d{row}" for row in range(700)).difference(near))
            exact = snapshot.search(query, 10, filter=far, exact=True)
            recalls.append(recall_at(exact, snapshot.search(query, 10, filter=far)))
        assert np.mean(recalls) >= 0.5, (factory, recalls)  # two lists are enough for what is near


def test_segments_folder_holds_nothing_of_the_build(tmp_path: Path, large: Path, run: Path) -> None:
    for factory in ("Flat", "HNSW16", "IVF8,SQ8"):
        snapshot = build_index([run], tmp_path / "index", IndexConfig(factory=factory))
        (entry,) = snapshot.manifest.segments
        folder = tmp_path / "index" / SEGMENTS / entry.name
        assert {file.name for file in folder.iterdir()} == set(entry.files)
