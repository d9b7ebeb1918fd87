"""Data files and checkpoints after writers that died anywhere: what is left is whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.execution.checkpoints import committed_rows, drop_repeats, reconcile


def write(out: Path, task: str, rows: range, *, pending: bool = False, data: bool = True) -> None:
    for folder in ("checkpoint", "detections"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    ids = pa.table({"row_id": list(rows)})
    pq.write_table(ids, out / "checkpoint" / f"{task}{'.pending' if pending else ''}.parquet")
    if data:
        pq.write_table(ids, out / "detections" / f"{task}-0.parquet")


def stored(out: Path) -> list[int]:
    files = sorted((out / "detections").glob("*.parquet"))
    return sorted(row for file in files for row in pq.read_table(file)["row_id"].to_pylist())


def broken(out: Path) -> None:
    """Every way in which a writer can die, each with ten rows; rows 0 to 9 are committed."""
    write(out, "w_000000", range(10))
    write(out, "w_000001", range(10, 20), pending=True, data=False)  # before its file
    write(out, "w_000002", range(20, 30), pending=True)  # before the commit
    write(out, "w_000003", range(30, 40))  # given out again after the commit
    write(out, "w_000003", range(30, 40), pending=True, data=False)
    write(out, "w_000004", range(40, 50))  # a file that is cut off
    os.truncate(out / "detections" / "w_000004-0.parquet", 100)
    write(out, "w_000005", range(50, 60), data=False)  # a file that is gone
    write(out, "w_000008", range(80, 90))  # a file whose footer makes no sense
    garbled = out / "detections" / "w_000008-0.parquet"
    data = garbled.read_bytes()
    footer = int.from_bytes(data[-8:-4], "little")
    garbled.write_bytes(data[: -8 - footer] + b"\xff" * footer + data[-8:])
    write(out, "w_000006", range(60, 70))  # a writer that outlived its driver
    (out / "checkpoint" / "w_000006.parquet").unlink()
    write(out, "w_000007", range(70, 80))  # a file that has fewer rows
    pq.write_table(pa.table({"row_id": [70]}), out / "detections" / "w_000007-0.parquet")


def test_what_is_left_is_whole(tmp_path: Path) -> None:
    broken(tmp_path)
    assert reconcile(tmp_path) == (50, 10)  # rows that a checkpoint named in vain
    assert stored(tmp_path) == list(range(10))
    assert committed_rows(tmp_path) == 10
    assert [file.name for file in (tmp_path / "checkpoint").iterdir()] == ["w_000000.parquet"]
    assert reconcile(tmp_path) == (0, 10)
    assert stored(tmp_path) == list(range(10))


def test_a_run_that_did_not_begin_is_left_alone(tmp_path: Path) -> None:
    assert reconcile(tmp_path) == (0, 0)
    assert committed_rows(tmp_path) == 0


def test_reconciling_may_be_interrupted_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unlink = Path.unlink
    interrupted = 0
    for after in range(30):
        out = tmp_path / str(after)
        broken(out)
        left = after

        def dying(self: Path, missing_ok: bool = False) -> None:
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left -= 1
            unlink(self, missing_ok)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", dying)
            try:
                reconcile(out)
            except KeyboardInterrupt:
                interrupted += 1
        reconcile(out)
        assert stored(out) == list(range(10))
        assert committed_rows(out) == 10
        shutil.rmtree(out)
    assert interrupted > 8


def test_a_block_done_twice_is_kept_once(tmp_path: Path) -> None:
    write(tmp_path, "a_000000", range(10))
    write(tmp_path, "b_000000", range(10))
    write(tmp_path, "b_000001", range(10, 20))
    assert drop_repeats(tmp_path) == 1
    assert stored(tmp_path) == list(range(20))
    assert committed_rows(tmp_path) == 20
    assert drop_repeats(tmp_path) == 0
