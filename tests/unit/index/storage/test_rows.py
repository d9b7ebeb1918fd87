"""Columns by row number, over several blocks; row numbers by id, over colliding hashes."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index.storage import rows
from index.storage.rows import (
    ROWS_SCHEMA,
    IdTable,
    RowTable,
    hash_ids,
    map_array,
    read_rows,
    write_ids,
    write_rows,
)

NAMES = ["moth", "Ölkäfer", "蛾", "🦋", "", "a b", "moth2"]


def batch(names: list[str], first: int = 0) -> pa.RecordBatch:
    """Rows with values in some columns and nulls in some of those."""
    plan: dict[str, list[Any]] = {name: [None] * len(names) for name in ROWS_SCHEMA.names}
    plan["run"] = [first % 7] * len(names)
    plan["row_id"] = list(range(first, first + len(names)))
    plan["detection_id"] = names
    plan["image"] = [f"é/{name}.jpg" for name in names]
    plan["x1"] = [float(row) if row % 2 else None for row in range(len(names))]
    plan["label"] = [name if row % 3 else None for row, name in enumerate(names)]
    plan["timestamp"] = [
        datetime.datetime(2024, 5, 1, 22, 30, row) if row % 2 else None for row in range(len(names))
    ]
    plan["score"] = [row / 4 for row in range(len(names))]
    return pa.RecordBatch.from_pydict(plan, schema=ROWS_SCHEMA)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pa.Table:
    """70 rows in blocks of at most 20, mapped from the disk."""
    monkeypatch.setattr(rows, "BLOCK_ROWS", 20)
    parts = [batch([f"{name}-{part}" for name in NAMES], 7 * part) for part in range(10)]
    write_rows(tmp_path / "rows.arrow", iter(parts))
    return read_rows(tmp_path / "rows.arrow")


def test_blocks_are_joined_up_to_their_limit(written: pa.Table) -> None:
    assert [part.num_rows for part in written.to_batches()] == [14, 14, 14, 14, 14]
    assert written.schema == ROWS_SCHEMA
    assert written["row_id"].to_pylist() == list(range(70))


@pytest.mark.parametrize(
    "wanted",
    [[0], [69], [3, 3, 3], [13, 14], [69, 0, 28, 27, 14, 13, 0], list(range(70))[::-1], []],
)
def test_columns_are_those_of_the_table_in_the_order_asked_for(
    written: pa.Table, wanted: list[int]
) -> None:
    expected = written.take(pa.array(wanted, pa.int64())).to_pydict()
    columns = RowTable(written).columns(np.array(wanted, np.int64))
    assert columns == expected
    assert list(columns) == ROWS_SCHEMA.names
    some = RowTable(written).columns(np.array(wanted, np.int32), ["label", "x1"])
    assert some == {"label": expected["label"], "x1": expected["x1"]}


def test_no_rows_is_a_table_too(tmp_path: Path) -> None:
    write_rows(tmp_path / "rows.arrow", iter([]))
    assert read_rows(tmp_path / "rows.arrow").num_rows == 0


def table_of(names: list[str], file: Path) -> IdTable:
    write_ids(file, rows.hash_ids(names))
    return IdTable(file, RowTable(pa.Table.from_batches([batch(names)])))


def test_every_id_is_found_and_no_other(tmp_path: Path) -> None:
    ids = table_of(NAMES, tmp_path / "ids.npy")
    assert ids.rows_of(NAMES[::-1]).tolist() == [6, 5, 4, 3, 2, 1, 0]
    assert ids.rows_of(["moth", "no", "moth", "Moth", "moth "]).tolist() == [0, -1, 0, -1, -1]
    assert ids.rows_of([]).tolist() == []
    assert ids.rows_of([]).dtype == np.int64


def test_no_ids_at_all(tmp_path: Path) -> None:
    assert table_of([], tmp_path / "ids.npy").rows_of(["moth", ""]).tolist() == [-1, -1]


@pytest.mark.parametrize("hashes", [1, 2, 3])
def test_ids_of_one_hash_are_distinguished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hashes: int
) -> None:
    def poor(ids: Any) -> np.ndarray:
        return np.array([len(name.encode()) % hashes for name in ids], np.uint64)

    monkeypatch.setattr(rows, "hash_ids", poor)
    ids = table_of(NAMES, tmp_path / "ids.npy")
    assert ids.rows_of(NAMES).tolist() == list(range(7))
    assert ids.rows_of(["no", "none", "蛾", "nobody", "x"]).tolist() == [-1, -1, 2, -1, -1]


def test_hashes_are_the_same_everywhere() -> None:
    assert hash_ids(["moth", "蛾"]).tolist() == [
        18104695741588729865,
        5485945285690969355,
    ]  # as b2sum -l 64 says
    assert hash_ids([]).shape == (0,)
    many = hash_ids(str(number) for number in range(10_000))
    assert len(np.unique(many)) == 10_000


@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<u8"])
def test_mapped_arrays_are_those_that_numpy_loads(
    tmp_path: Path, version: tuple[int, int], order: Any, dtype: str
) -> None:
    file = tmp_path / "x.npy"
    values = np.asarray(np.arange(35).reshape(7, 5), dtype, order=order)
    with file.open("wb") as stream:
        np.lib.format.write_array(stream, values, version=version)
    mapped = map_array(file)
    np.testing.assert_array_equal(mapped, np.load(file))
    assert mapped.dtype == np.dtype(dtype)


def test_arrays_of_objects_and_structures_are_not_mapped(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}], object), allow_pickle=True)
    structures = np.zeros(2, [("蛾", "f4")])
    with pytest.warns(UserWarning, match=r"format 3\.0"):
        np.save(tmp_path / "structures.npy", structures)
    for name in ("objects.npy", "structures.npy"):
        with pytest.raises(ValueError, match=r"NumPy file|Python objects"):
            map_array(tmp_path / name)
