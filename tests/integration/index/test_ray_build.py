"""A build on Ray makes the very same files as one without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from common.errors import SnapshotError, WorkError
from index.build.update import add_runs, compact, delete_rows
from index.build.version import build_index
from index.config import IndexConfig
from index.search.filters import Filter
from index.search.snapshot import current_version
from tests.helpers.indexes import embeddings, make_run
from tests.helpers.runs import write_run

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session")]


@pytest.fixture
def _on_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("index.build.version.RAY_FROM_BYTES", 0)


@pytest.mark.usefixtures("_on_ray")
@pytest.mark.parametrize("factory", ["Flat", "IVF8,Flat", "IVF8,PQ16x4fs"])
def test_files_are_those_of_a_build_without_ray(
    tmp_path: Path, factory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", embeddings(900), files=5, errors={7: "torn"})
    reports: list[tuple[int, int]] = []
    monkeypatch.setattr("index.build.inputs.PART_ROWS", 200)
    on_ray = build_index(
        [run],
        tmp_path / "ray",
        IndexConfig(factory=factory),
        progress=lambda *done: reports.append(done),
    )
    monkeypatch.setattr("index.build.version.RAY_FROM_BYTES", 2**40)
    here = build_index([run], tmp_path / "here", IndexConfig(factory=factory))
    a, b = on_ray.manifest.largest, here.manifest.largest
    for name in ("vectors.faiss", "ids.npy"):
        assert a.files[name] == b.files[name]
    assert on_ray.rows.equals(here.rows)
    queries = embeddings(20, seed=3)
    for exact in (True, False):
        x, y = (snapshot.search(queries, 10, exact=exact) for snapshot in (on_ray, here))
        if exact or a.search_params == b.search_params:  # tuning prefers what was faster
            np.testing.assert_array_equal(x.rows, y.rows)
            np.testing.assert_allclose(x.scores, y.scores, atol=1e-6)
    assert (a.recall.measured, a.recall.queries) == (
        pytest.approx(b.recall.measured, abs=0.05),
        b.recall.queries,
    )
    assert reports[-1] == (899, 899)
    assert sum(done < 450 for done, _ in reports) == 5  # each part once it is written


@pytest.mark.usefixtures("_on_ray")
def test_changes_work_on_ray_too(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", embeddings(60), prefix="a")
    b = make_run(tmp_path / "b", embeddings(30, seed=1), prefix="b")
    build_index([a], tmp_path / "index")
    add_runs(tmp_path / "index", [b])
    delete_rows(tmp_path / "index", Filter("row_id < 10"))
    snapshot = compact(tmp_path / "index")
    assert snapshot.verify() == 70
    assert snapshot.neighbors("b20", 3, exact=True).rows.shape == (1, 3)


@pytest.mark.usefixtures("_on_ray")
@pytest.mark.parametrize("row", [59, 0])
def test_task_that_fails_is_one_line_and_leaves_nothing(tmp_path: Path, row: int) -> None:
    """A time that no index can hold, in one row."""
    seconds = np.zeros(60, np.int64)
    seconds[row] = 10**13
    plan = {
        "image": [f"{each}.jpg" for each in range(60)],
        "seen": pa.array(seconds, pa.timestamp("s")),
    }
    run = write_run(tmp_path / "run", plan, embeddings(60), files=4)
    with pytest.raises(SnapshotError, match="'seen' is timestamp") as caught:
        build_index([run.path], tmp_path / "index", IndexConfig(factory="IVF2,Flat"))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "index").exists()


@pytest.mark.usefixtures("_on_ray")
def test_disk_that_refuses_a_task_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part that is gone once it was counted stands for any error of the disk in a task."""
    run = make_run(tmp_path / "run", embeddings(60), files=4)
    build_index([run], tmp_path / "index")

    def gone(*_: object) -> None:
        for file in (run / "detections").glob("*.parquet"):
            file.unlink()

    monkeypatch.setattr("index.build.version.check_unique_ids", gone)
    with pytest.raises(WorkError, match=r"part-000\d.parquet") as caught:
        build_index([run], tmp_path / "index")
    assert "\n" not in str(caught.value)
    assert current_version(tmp_path / "index") == "v0001"  # it serves what it served before
