"""Add, delete and compact: the rows that are there, and the answers they give."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import FilterError, SnapshotError
from index.build.update import add_runs, compact, delete_rows
from index.build.version import build_index
from index.config import IndexConfig
from index.search.columns import count_values
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from index.storage.layout import SEGMENTS, current_version, list_versions
from tests.helpers.indexes import embeddings, make_run, tree, true_scores
from tests.helpers.runs import TINY_FACTS, write_run

A, B = embeddings(200), embeddings(80, seed=1)
RAW = {f"a{row}": A[row] for row in range(200)} | {f"b{row}": B[row] for row in range(80)}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_run(folder / "a", A, prefix="a")
    make_run(folder / "b", B, prefix="b", root=folder / "photos")
    build_index([folder / "a"], folder / "index", IndexConfig(factory="IVF4,PQ16x4fs"))
    return folder


def ids_of(snapshot: Snapshot) -> list[str]:
    return list(snapshot.columns(snapshot.matching())["detection_id"])


def check_answers(snapshot: Snapshot, expected: set[str], metric: Any = "cosine") -> None:
    """It holds ``expected``, finds each by its id, and searches them exactly as they are."""
    assert set(ids_of(snapshot)) == expected
    assert snapshot.manifest.rows == len(expected) == snapshot.verify()
    names = sorted(expected)
    rows = snapshot.rows_of(names)
    assert (rows >= 0).all()
    assert (snapshot.rows_of(sorted(set(RAW) - expected)) == -1).all()
    queries = embeddings(5, seed=9)
    hits = snapshot.search(queries, 7, exact=True)
    scores = true_scores(metric, queries, np.stack([RAW[name] for name in names]))
    true = np.argsort(-scores, axis=1)[:, :7]
    for query in range(5):
        ids = snapshot.columns(hits.rows[query])["detection_id"]
        assert ids == [names[place] for place in true[query]]
    np.testing.assert_allclose(hits.scores, np.take_along_axis(scores, true, 1), atol=1e-5)
    quick = snapshot.search(queries, 7)
    assert set(ids_of(snapshot)) >= set(snapshot.columns(quick.rows.ravel())["detection_id"])
    assert np.isin(quick.rows, hits.rows).mean() >= 0.8


def test_added_rows_are_found_beside_the_others(world: Path, index: Path) -> None:
    before = (index / SEGMENTS / "s0001-00" / "vectors.faiss").stat().st_mtime_ns
    snapshot = add_runs(index, [world / "b"])
    check_answers(snapshot, set(RAW))
    manifest = snapshot.manifest
    assert (manifest.made_by, manifest.version, manifest.parent) == ("add", "v0002", "v0001")
    assert [entry.rows for entry in manifest.segments] == [200, 80]
    assert [entry.rows for entry in manifest.runs] == [200, 80]
    assert (index / SEGMENTS / "s0001-00" / "vectors.faiss").stat().st_mtime_ns == before
    row = snapshot.row_of("b7")
    assert snapshot.image_path(row) == world / "photos" / "cam/b7.jpg"
    assert snapshot.columns(np.array([row]), ["run"]) == {"run": [1]}
    hits = snapshot.neighbors("b7", 5, exact=True)
    assert row not in hits.rows
    check_answers(Snapshot.open(index, "v0001"), {f"a{row}" for row in range(200)})


def unchanged(index: Path, version: str = "v0001") -> None:
    assert current_version(index) == version
    assert not [name for name in tree(index) if ".building" in name]
    Snapshot.open(index).verify()


def test_ids_of_another_run_are_refused(world: Path, index: Path, tmp_path: Path) -> None:
    mixed = write_run(
        tmp_path / "mixed",
        {"image": ["x.jpg", "y.jpg"], "detection_id": ["new", "a7"]},
        embeddings(2),
    )
    with pytest.raises(SnapshotError, match=r"'a7' of .*mixed is in .*/a and with other content"):
        add_runs(index, [mixed.path])
    with pytest.raises(SnapshotError, match="'b0'"):
        add_runs(index, [world / "b", world / "b"])
    unchanged(index)
    assert list_versions(index) == ["v0001"]


def test_run_of_another_model_is_refused(index: Path, tmp_path: Path) -> None:
    other = TINY_FACTS.model_copy(update={"weights_sha256": "1" * 64})
    run = make_run(tmp_path / "other", B, prefix="b", facts=other)
    with pytest.raises(SnapshotError, match="vectors of two models cannot be compared"):
        add_runs(index, [run])
    with pytest.raises(SnapshotError, match="no run was given"):
        add_runs(index, [])
    unchanged(index)


def test_deleted_rows_are_never_found_again(index: Path) -> None:
    near = Snapshot.open(index).search(A[5:6], 20)
    gone = set(Snapshot.open(index).columns(near.rows[0])["detection_id"])
    snapshot, count = delete_rows(index, Filter(ids=frozenset(gone)))
    assert count == 20
    check_answers(snapshot, {f"a{row}" for row in range(200)} - gone)
    for exact in (True, False):
        assert not gone & set(
            snapshot.columns(snapshot.search(A, 180).rows.ravel())["detection_id"]
        )
        condition = Filter(ids=frozenset({*gone, "a199", "a198"}))
        hits = snapshot.search(A[5:6], 20, filter=condition, exact=exact)
        assert hits.rows.shape == (1, len({"a199", "a198"} - gone))
    with pytest.raises(SnapshotError, match="no detection"):
        snapshot.neighbors(next(iter(gone)), 3)
    assert sum(rows for _, rows in count_values(snapshot, "label", None, 100)[1]) == 180
    assert snapshot.manifest.segments == Snapshot.open(index, "v0001").manifest.segments
    check_answers(Snapshot.open(index, "v0001"), {f"a{row}" for row in range(200)})


def test_delete_by_condition_and_again(index: Path) -> None:
    first, count = delete_rows(index, Filter("row_id < 50"))
    assert (count, first.manifest.rows, first.manifest.deleted) == (50, 150, 50)
    second, count = delete_rows(index, Filter("row_id < 80"))
    assert (count, second.manifest.rows, second.manifest.deleted) == (30, 120, 80)
    check_answers(second, {f"a{row}" for row in range(80, 200)})
    assert "80 of 200 rows are deleted; 'onepass index compact'" in str(second.manifest.warning)
    assert (second.manifest.made_by, second.manifest.parent) == ("delete", "v0002")


def test_delete_of_nothing_or_of_all_publishes_nothing(index: Path) -> None:
    snapshot, count = delete_rows(index, Filter("row_id > 1000"))
    assert (count, snapshot.manifest.version) == (0, "v0001")
    with pytest.raises(SnapshotError, match=r"all 200 rows of .* match; an index cannot be empty"):
        delete_rows(index, Filter("row_id >= 0"))
    with pytest.raises(SnapshotError, match="nothing says which rows"):
        delete_rows(index, Filter())
    with pytest.raises(FilterError, match="no column 'species'"):
        delete_rows(index, Filter("species = 'moth'"))
    unchanged(index)
    assert list_versions(index) == ["v0001"]


def test_deleted_rows_may_come_back(world: Path, index: Path) -> None:
    add_runs(index, [world / "b"])
    delete_rows(index, Filter("run = 1"))
    snapshot = add_runs(index, [world / "b"])
    check_answers(snapshot, set(RAW))
    assert [entry.rows for entry in snapshot.manifest.segments] == [200, 80]
    assert snapshot.manifest.deleted == 0
    assert [entry.rows for entry in snapshot.manifest.runs] == [200, 160]
    compacted = compact(index)
    check_answers(compacted, set(RAW))
    assert [Path(entry.path).name for entry in compacted.manifest.runs] == ["a", "b"]


def test_compact_joins_segments_and_drops_deleted_rows(world: Path, index: Path) -> None:
    add_runs(index, [world / "b"])
    before, _ = delete_rows(index, Filter("row_id % 4 = 1"))
    left = {name for name in RAW if int(name[1:]) % 4 != 1}
    check_answers(before, left)
    after = compact(index)
    check_answers(after, left)
    new = after.manifest
    assert (new.made_by, new.parent, new.deleted) == ("compact", before.manifest.version, 0)
    assert [entry.rows for entry in new.segments] == [210]
    assert new.factory == "IVF4,PQ16x4fs", "as it was asked for at first"
    assert not (after.path / "deleted.npy").exists()
    old_rows, rows = before.rows_of(sorted(left)), after.rows_of(sorted(left))
    np.testing.assert_array_equal(before.vectors(old_rows), after.vectors(rows))
    assert before.columns(old_rows) == after.columns(rows)


def test_compact_again_and_after_another_delete_brings_nothing_back(
    world: Path, index: Path
) -> None:
    add_runs(index, [world / "b"])
    left = set(RAW)
    for number in (3, 5, 7):
        delete_rows(index, Filter(f"row_id % 10 = {number}"))
        left = {name for name in left if int(name[1:]) % 10 != number}
        check_answers(compact(index), left)
    check_answers(compact(index), left)


def test_compact_needs_no_run(world: Path, index: Path, tmp_path: Path) -> None:
    shutil.copytree(world / "b", tmp_path / "b")
    shutil.copytree(world / "a", tmp_path / "a")
    out = tmp_path / "moved"
    build_index([tmp_path / "a"], out, IndexConfig(factory="IVF4,PQ16x4fs", shards=2))
    add_runs(out, [tmp_path / "b"])
    before, _ = delete_rows(out, Filter("row_id % 4 = 1"))
    shutil.rmtree(tmp_path / "a")
    shutil.rmtree(tmp_path / "b")
    after = compact(out)
    check_answers(after, {name for name in RAW if int(name[1:]) % 4 != 1})
    assert [entry.rows for entry in after.manifest.segments] == [105, 105]
    assert after.manifest.runs == before.manifest.runs
    delete_rows(out, Filter("run = 0"))
    left = compact(out)
    check_answers(left, {f"b{row}" for row in range(80) if row % 4 != 1})
    assert [Path(entry.path).name for entry in left.manifest.runs] == ["b"]
    assert set(left.columns(left.matching(), ["run"])["run"]) == {0}


def test_failed_rows_stay_out_of_every_change(index: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "bad", B, prefix="b", errors={3: "torn", 40: "gone"})
    added = add_runs(index, [run])
    assert added.manifest.skipped == 2
    left = set(RAW) - {"b3", "b40"}
    check_answers(added, left)
    delete_rows(index, Filter(ids=frozenset({"b41"})))
    compacted = compact(index)
    check_answers(compacted, left - {"b41"})
    assert compacted.manifest.skipped == 2


@pytest.mark.parametrize("metric", ["ip", "l1", "l2"])
def test_every_metric_is_kept(world: Path, tmp_path: Path, metric: Any) -> None:
    out = tmp_path / "index"
    build_index([world / "a"], out, IndexConfig(metric=metric))
    add_runs(out, [world / "b"])
    delete_rows(out, Filter("row_id = 5"))
    snapshot = compact(out)
    assert (snapshot.manifest.metric, snapshot.manifest.rows) == (metric, 278)
    query = embeddings(1, seed=4)
    names = [name for name in RAW if name[1:] != "5"]
    scores = true_scores(metric, query, np.stack([RAW[name] for name in names]))[0]
    best = int(scores.argmax() if metric == "ip" else scores.argmin())
    hits = snapshot.search(query, 1)
    assert snapshot.columns(hits.rows[0])["detection_id"] == [names[best]]
    assert hits.scores[0, 0] == pytest.approx(scores[best], abs=1e-6)
