"""What a session that died may have left of a checkpoint, and what the next one makes of it."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from cluster.storage import write_parquet
from pipelines.checkpoint import committed_rows, settle_checkpoint

ROWS = {"a": 3, "b": 4, "c": 5}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Three committed parts with their data, under names as Ray Data gives them."""
    for part in ROWS:
        _write(tmp_path, f"checkpoint/job_uuid_{part}.parquet", part)
        _write(tmp_path, f"detections/job_uuid_{part}-0.parquet", part)
    return tmp_path


def _write(out: Path, name: str, part: str) -> None:
    (out / name).parent.mkdir(exist_ok=True)
    write_parquet(pa.table({"row_id": range(ROWS[part])}), out / name)


def _left(out: Path) -> set[str]:
    return {file.relative_to(out).as_posix() for file in out.rglob("*.parquet")}


def test_what_agrees_stays(out: Path) -> None:
    before = _left(out)
    settle_checkpoint(out)
    assert _left(out) == before
    assert committed_rows(out) == 12


def test_nothing_is_there_yet(tmp_path: Path) -> None:
    settle_checkpoint(tmp_path)
    assert committed_rows(tmp_path) == 0


def test_committed_and_pending_is_not_committed(out: Path) -> None:
    _write(out, "checkpoint/job_uuid_b.pending.parquet", "b")
    settle_checkpoint(out)
    assert committed_rows(out) == 8
    # Ray Data deletes what is pending, and the data with it.
    assert "checkpoint/job_uuid_b.pending.parquet" in _left(out)
    assert "checkpoint/job_uuid_b.parquet" not in _left(out)


def test_pending_alone_is_left_to_ray(out: Path) -> None:
    (out / "checkpoint/job_uuid_b.parquet").rename(out / "checkpoint/job_uuid_b.pending.parquet")
    before = _left(out)
    settle_checkpoint(out)
    assert _left(out) == before
    assert committed_rows(out) == 8


def test_committed_without_its_data_is_not_committed(out: Path) -> None:
    (out / "detections/job_uuid_c-0.parquet").unlink()
    settle_checkpoint(out)
    assert committed_rows(out) == 7


def test_data_without_a_checkpoint_is_deleted(out: Path) -> None:
    (out / "checkpoint/job_uuid_a.parquet").unlink()
    settle_checkpoint(out)
    assert "detections/job_uuid_a-0.parquet" not in _left(out)
    assert committed_rows(out) == 9


def test_a_name_that_begins_like_another_is_another(out: Path) -> None:
    _write(out, "checkpoint/job_uuid_b2.pending.parquet", "b")
    _write(out, "detections/job_uuid_b2-0.parquet", "b")
    settle_checkpoint(out)
    assert committed_rows(out) == 12
    assert "detections/job_uuid_b-0.parquet" in _left(out)
