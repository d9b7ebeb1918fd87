"""What a build makes of runs: its rows, its files, the recall it measured."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest

from common.errors import SnapshotError
from index.build.version import build_index
from index.config import IndexConfig
from tests.helpers.indexes import DIM, embeddings, make_run, order_of, part_of, true_scores


@pytest.mark.parametrize("factory", ["HNSW4", "IVF32,Flat", "IVF16,PQ8x4fs,RFlat"])
def test_recall_in_the_manifest_is_the_recall_there_is(
    tmp_path: Path, vectors: np.ndarray, factory: str
) -> None:
    run = make_run(tmp_path / "run", vectors, files=1)
    snapshot = build_index([run], tmp_path / "index", IndexConfig(factory=factory, recall=0.9))
    facts = snapshot.manifest.recall
    assert (facts.queries, facts.k, facts.target) == (140, 10, 0.9)
    assert facts.held_out is not None
    assert facts.held_out >= 0.9
    stored = vectors[order_of(snapshot)]
    for k, measured in facts.by_k.items():
        hits = snapshot.search(stored, int(k) + 1).rows
        own = np.arange(len(stored))[:, None]
        scores = true_scores("cosine", stored, stored)
        np.fill_diagonal(scores, -2)
        true = np.argsort(-scores, axis=1)[:, : int(k)]
        recall = np.mean(
            [
                len(set(a[a != row].tolist()[: int(k)]) & set(b)) / int(k)
                for row, a, b in zip(own[:, 0], hits, true.tolist(), strict=True)
            ]
        )
        assert measured == pytest.approx(recall, abs=0.03)  # 140 of the 700 were asked
    assert facts.measured == facts.by_k["10"]
    assert (snapshot.manifest.warning is None) == (min(facts.by_k.values()) >= 0.9)


def test_missed_target_is_built_and_said(tmp_path: Path) -> None:
    noise = np.random.default_rng(1).normal(size=(3000, DIM)).astype(np.float32)
    run = make_run(tmp_path / "run", noise)
    snapshot = build_index([run], tmp_path / "index", IndexConfig(factory="PQ1x4", recall=1.0))
    assert snapshot.manifest.recall.measured is not None
    assert snapshot.manifest.recall.measured < 1.0
    assert "below the target of 1" in str(snapshot.manifest.warning)


def test_failed_rows_are_skipped_and_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", embeddings(12), errors={2: "torn file", 11: "gone"})
    snapshot = build_index([run], tmp_path / "index")
    assert (snapshot.manifest.rows, snapshot.manifest.skipped) == (10, 2)
    assert sorted(order_of(snapshot)) == [0, 1, 3, 4, 5, 6, 7, 8, 9, 10]
    with pytest.raises(SnapshotError, match="rows that have an error are not indexed"):
        snapshot.row_of("d2")


def test_two_runs_share_an_index(tmp_path: Path) -> None:
    a, b = embeddings(30, seed=1), embeddings(20, seed=2)
    runs = [
        make_run(tmp_path / "a", a, prefix="a", root=tmp_path / "photos-a"),
        make_run(tmp_path / "b", b, prefix="b", root=tmp_path / "photos-b"),
    ]
    snapshot = build_index(runs, tmp_path / "index")
    assert [entry.rows for entry in snapshot.manifest.runs] == [30, 20]
    assert snapshot.manifest.runs[1].path == str(runs[1])
    for name, raw in (("a7", a[7]), ("b19", b[19])):
        row = snapshot.row_of(name)
        assert snapshot.search(raw[None], 1).rows.tolist() == [[row]]
        assert snapshot.image_path(row) == tmp_path / f"photos-{name[0]}" / f"cam/{name}.jpg"


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_tiny_runs_work(tmp_path: Path, rows: int) -> None:
    vectors = embeddings(rows)
    snapshot = build_index([make_run(tmp_path / "run", vectors, files=1)], tmp_path / "index")
    assert snapshot.search(vectors[:1], 10).rows.shape == (1, rows)
    assert snapshot.neighbors("d0", 3).rows.shape == (1, rows - 1)
    recall = snapshot.manifest.recall
    if rows == 1:
        assert (recall.measured, recall.queries) == (None, 0)
        assert "not measured" in str(snapshot.manifest.warning)
    else:
        assert (recall.measured, recall.queries) == (1.0, 0)  # every row is compared
        assert snapshot.manifest.warning is None


def test_same_rows_give_the_same_files(tmp_path: Path, run: Path) -> None:
    a, b = (build_index([run], tmp_path / "index").manifest.largest.files for _ in range(2))
    assert "vectors.faiss" in a
    assert a == b


def test_progress_counts_to_the_end(tmp_path: Path, run: Path) -> None:
    reports: list[tuple[int, int]] = []
    build_index([run], tmp_path / "index", progress=lambda *report: reports.append(report))
    assert reports == sorted(reports)
    assert reports[-1] == (700, 700)


@pytest.mark.parametrize(
    "factory", ["IVF8,Flat", "IVF8,SQ8", "IVF8,PQ16x4fs", "PCA16,IVF8,PQ8x4fs"]
)
def test_merged_codes_are_those_of_all_rows_added_at_once(
    tmp_path: Path, vectors: np.ndarray, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the rows held out among them, which recall is not measured on."""
    monkeypatch.setattr("index.build.inputs.PART_ROWS", 100)
    run = make_run(tmp_path / "run", vectors, files=7)
    snapshot = build_index([run], tmp_path / "index", IndexConfig(factory=factory))
    merged = faiss.read_index(str(part_of(snapshot) / "search.faiss"))
    at_once = faiss.clone_index(merged)
    at_once.reset()
    at_once.add_with_ids(snapshot.vectors(np.arange(700)), np.arange(700))
    every = faiss.SearchParametersIVF(nprobe=8)
    if "PCA" in factory:
        every = faiss.SearchParametersPreTransform(index_params=every)
    queries = snapshot.vectors(np.arange(0, 700, 7))
    mine, theirs = (index.search(queries, 700, params=every) for index in (merged, at_once))
    for scores, rows in (mine, theirs):
        order = np.argsort(rows, axis=1)
        assert (np.take_along_axis(rows, order, 1) == np.arange(700)).all()
        scores[:] = np.take_along_axis(scores, order, 1)
    np.testing.assert_allclose(mine[0], theirs[0], atol=1e-5)
