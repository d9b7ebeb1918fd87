"""The local executor after a Ray that outlived its driver: every row in one file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.engines.unresolved import Unresolved
from pipelines.execution import local
from pipelines.execution.base import Job
from pipelines.execution.checkpoints import Part, reconcile
from pipelines.execution.local import LocalExecutor
from pipelines.progress.counters import Counts
from tests.helpers.runs import TINY_FACTS, make_config, request_of

ROWS = 20


class Resolution:
    """Of no network: none is asked."""

    @staticmethod
    def engines(batch_rows: int | None, *, calls_in_flight: int) -> SimpleNamespace:
        return SimpleNamespace(model=SimpleNamespace(on_gpu=False))


class LanesBesideRay:
    """Answers each part, while a writer that lost its driver commits the same rows."""

    answered: ClassVar[list[str]] = []

    def __init__(self, job: Job, engines: Any, count: int) -> None:
        self._out = job.folder

    def run(self, parts: list[Part], on_snapshot: Any) -> Counts:
        for part in parts:
            ids = part.read().select(["row_id"])
            pq.write_table(ids, self._out / "detections" / f"{part.name}.parquet")
            late_writer(self._out, ids)
            self.answered.append(part.name)
        return Counts(passes=1)


def late_writer(out: Path, ids: pa.Table) -> None:
    name = f"late_{ids['row_id'][0].as_py():06d}"
    pq.write_table(ids, out / "detections" / f"{name}-0.parquet")
    pq.write_table(ids, out / "checkpoint" / f"{name}.parquet")


def stored(out: Path) -> list[int]:
    files = (out / "detections").iterdir()
    return sorted(row for file in files for row in pq.read_table(file)["row_id"].to_pylist())


@pytest.fixture
def job(tmp_path: Path) -> Job:
    for folder in ("plan", "checkpoint", "detections"):
        (tmp_path / folder).mkdir()
    for part in range(2):
        ids = pa.table({"row_id": list(range(10 * part, 10 * part + 10))})
        pq.write_table(ids, tmp_path / "plan" / f"part-{part:05d}.parquet")
    return Job(tmp_path, tmp_path, request_of(make_config(), TINY_FACTS), ROWS)


@pytest.fixture
def executor(tmp_path: Path) -> LocalExecutor:
    nothing = Unresolved(make_config(), {}, pa.table({}), str(tmp_path), ROWS, None)
    executor = LocalExecutor(nothing)
    executor._resolution = Resolution()  # type: ignore[assignment]
    return executor


def test_what_a_late_writer_commits_meanwhile_stands_once(
    job: Job, executor: LocalExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "Lanes", LanesBesideRay)
    monkeypatch.setattr(LanesBesideRay, "answered", [])
    assert executor.answer(job).passes == 1
    assert LanesBesideRay.answered == ["part-00000", "part-00001"]
    assert stored(job.folder) == list(range(ROWS))
    assert reconcile(job.folder) == (0, ROWS)


def test_what_a_late_writer_committed_before_stands_once(job: Job, executor: LocalExecutor) -> None:
    for part in range(2):
        ids = pa.table({"row_id": list(range(10 * part, 10 * part + 10))})
        pq.write_table(ids, job.folder / "detections" / f"part-{part:05d}.parquet")
        late_writer(job.folder, ids)
    assert executor.answer(job).passes == 0  # nothing was left to do
    assert stored(job.folder) == list(range(ROWS))
    assert reconcile(job.folder) == (0, ROWS)
