"""Add what is new of a run, replace what has changed, and many small adds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import SnapshotError
from index.build.changes import RowChanges
from index.build.update import add_runs, delete_rows
from index.build.version import build_index
from index.config import IndexConfig, Metric
from index.search.filters import Filter
from index.search.snapshot import Snapshot
from index.storage.layout import list_versions
from tests.helpers.indexes import DIM, embeddings, true_scores
from tests.helpers.runs import write_run


class Camera:
    """A folder of photos that grows: the rows it should have, and runs of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vectors: dict[str, np.ndarray] = {}
        self.labels: dict[str, str] = {}
        self.site: dict[str, str] = {}

    def answer(self, ids: list[str], *, seed: int, label: str = "moth", site: str = "A") -> None:
        for name, vector in zip(ids, embeddings(len(ids), seed=seed), strict=True):
            self.vectors[name], self.labels[name], self.site[name] = vector, label, site

    def run(self, name: str = "run", ids: list[str] | None = None) -> Path:
        """Write a run of some rows, all in order, in place of an earlier one of that name."""
        ids = list(self.vectors) if ids is None else ids
        path = self.folder / name
        if path.exists():
            for file in sorted(path.rglob("*"), reverse=True):
                file.rmdir() if file.is_dir() else file.unlink()
        plan: dict[str, list[Any]] = {
            "image": [f"{each}.jpg" for each in ids],
            "detection_id": ids,
            "site": [self.site[each] for each in ids],
        }
        vectors = np.stack([self.vectors[each] for each in ids])
        write_run(path, plan, vectors, labels=[self.labels[each] for each in ids])
        return path

    def check(self, snapshot: Snapshot, metric: Metric = "cosine") -> None:
        """The snapshot holds these rows alone, each once, and finds what comparing all finds."""
        names = sorted(self.vectors)
        rows = snapshot.matching()
        columns = snapshot.columns(rows)
        assert sorted(columns["detection_id"]) == names
        assert snapshot.manifest.rows == len(names) == snapshot.verify()
        assert dict(zip(columns["detection_id"], columns["label"], strict=True)) == self.labels
        assert dict(zip(columns["detection_id"], columns["site"], strict=True)) == self.site
        assert (snapshot.rows_of(columns["detection_id"]) == rows).all()
        queries = embeddings(4, seed=77)
        raw = np.stack([self.vectors[each] for each in names])
        scores = true_scores(metric, queries, raw)
        k = min(9, len(names))
        order = np.argsort(-scores if metric in ("cosine", "ip") else scores, axis=1)[:, :k]
        hits = snapshot.search(queries, k, exact=True)
        assert [snapshot.columns(own)["detection_id"] for own in hits.rows] == [
            [names[place] for place in own] for own in order
        ]
        np.testing.assert_allclose(hits.scores, np.take_along_axis(scores, order, 1), atol=1e-5)
        moths = set(snapshot.columns(snapshot.matching(Filter("label = 'moth'")))["detection_id"])
        assert moths == {each for each in names if self.labels[each] == "moth"}


@pytest.fixture
def camera(tmp_path: Path) -> Camera:
    made = Camera(tmp_path)
    made.answer([f"a{row}" for row in range(60)], seed=0)
    return made


def add(index: Path, run: Path, **options: Any) -> tuple[Snapshot, RowChanges]:
    changes: list[RowChanges] = []
    snapshot = add_runs(index, [run], on_changes=changes.append, **options)
    return snapshot, changes[0]


def test_a_run_that_grew_adds_what_is_new(camera: Camera) -> None:
    index = camera.folder / "index"
    build_index([camera.run()], index)
    camera.answer([f"b{row}" for row in range(7)], seed=1)
    snapshot, changes = add(index, camera.run())
    assert changes == RowChanges(added=7, unchanged=60)
    camera.check(snapshot)
    assert [entry.rows for entry in snapshot.manifest.runs] == [67], "the same run, not another"
    snapshot, changes = add(index, camera.run())
    assert changes == RowChanges(unchanged=67)
    assert list_versions(index) == ["v0001", "v0002"], "nothing is new, nothing is published"
    camera.check(snapshot)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l1", "l2"])
def test_what_changed_is_replaced_in_one_version(camera: Camera, metric: Metric) -> None:
    index = camera.folder / "index"
    build_index([camera.run()], index, IndexConfig(metric=metric))
    before = dict(camera.labels)
    camera.answer(["a3", "a4"], seed=5)  # other vectors
    camera.labels |= {"a5": "empty", "a3": "empty"}  # other columns
    camera.site["a6"] = "B"  # an own column
    camera.answer(["new"], seed=6)
    kept, changes = add(index, camera.run())
    assert changes == RowChanges(added=1, unchanged=56, differing=4, named=("a3", "a4", "a5", "a6"))
    labels = kept.columns(kept.rows_of(sorted(before)), ["label"])["label"]
    assert labels == [before[name] for name in sorted(before)]
    taken, changes = add(index, camera.run(), replace=True)
    assert changes == RowChanges(replaced=4, unchanged=57)
    assert taken.manifest.parent == kept.manifest.version
    camera.check(taken, metric)
    again, changes = add(index, camera.run(), replace=True)
    assert changes == RowChanges(unchanged=61)
    assert again.manifest.version == taken.manifest.version


def test_ids_of_another_run(camera: Camera) -> None:
    index = camera.folder / "index"
    build_index([camera.run()], index)
    camera.answer(["b0"], seed=1)
    snapshot, changes = add(index, camera.run("copy", ["a0", "a1", "b0"]))
    assert changes == RowChanges(added=1, unchanged=2), "equal content is no conflict"
    camera.check(snapshot)
    camera.answer(["a2", "c0"], seed=2)
    other = camera.run("other", ["a0", "a2", "c0"])
    with pytest.raises(SnapshotError, match=r"'a2' of .*other is in .*/run and with other content"):
        add_runs(index, [other])
    assert list_versions(index) == ["v0001", "v0002"]
    snapshot, changes = add(index, other, replace=True)
    assert changes == RowChanges(added=1, replaced=1, unchanged=1)
    camera.check(snapshot)
    assert snapshot.columns(snapshot.rows_of(["a2"]), ["run"])["run"] == [2]
    assert snapshot.image_path(snapshot.row_of("c0")) == other / "c0.jpg"


def test_rounding_is_no_change(camera: Camera) -> None:
    index = camera.folder / "index"
    build_index([camera.run()], index)
    for name, vector in camera.vectors.items():
        camera.vectors[name] = np.nextafter(vector, np.float32(np.inf))
    _, changes = add(index, camera.run())
    assert changes == RowChanges(unchanged=60)
    camera.vectors["a9"] = camera.vectors["a9"] * (1 + np.float32(1e-4) * (np.arange(DIM) == 3))
    _, changes = add(index, camera.run())
    assert changes.named == ("a9",)


def test_a_deleted_row_may_come_back_changed(camera: Camera) -> None:
    index = camera.folder / "index"
    build_index([camera.run()], index)
    delete_rows(index, Filter(ids=frozenset({"a1", "a2"})))
    camera.answer(["a1"], seed=8)
    snapshot, changes = add(index, camera.run())
    assert changes == RowChanges(added=2, unchanged=58)
    camera.check(snapshot)


def test_many_small_adds_stay_few_segments(camera: Camera) -> None:
    index = camera.folder / "index"
    random = np.random.default_rng(3)
    build_index([camera.run()], index)
    segments = []
    for turn in range(40):
        ids = [f"t{turn}-{row}" for row in range(5)]
        changed = random.choice(sorted(camera.vectors), 2, replace=False).tolist()
        camera.answer(ids, seed=100 + turn, label=["moth", "empty"][turn % 2])
        camera.answer(changed, seed=500 + turn, site="B")
        snapshot, changes = add(index, camera.run(f"r{turn}", [*ids, *changed]), replace=True)
        assert changes.taken == len({*ids, *changed})
        segments.append(len(snapshot.manifest.segments))
        if turn % 8 == 0:
            gone = str(random.choice(sorted(camera.vectors)))
            delete_rows(index, Filter(ids=frozenset({gone})))
            for each in (camera.vectors, camera.labels, camera.site):
                del each[gone]
    camera.check(Snapshot.open(index))
    assert max(segments) <= 8
    assert snapshot.manifest.warning is None
