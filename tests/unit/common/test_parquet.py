"""Parquet files with a checksum of every page."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from common.errors import DamagedFileError
from common.parquet import open_parquet, read_parquet, write_parquet


def table() -> pa.Table:
    numbers = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(numbers.ravel()), 8)
    return pa.table({"row_id": range(50), "name": [f"n{i % 7}" for i in range(50)], "v": vectors})


def batches(file: Path) -> pa.Table:
    with open_parquet(file) as opened:
        return pa.Table.from_batches(opened.iter_batches(7))


def row_group(file: Path) -> pa.Table:
    with open_parquet(file) as opened:
        return opened.read_row_group(0)


READERS = (read_parquet, batches, row_group)


@pytest.mark.parametrize("column", [0, 1, 2])
def test_a_flipped_bit_of_a_page_is_named(tmp_path: Path, column: int) -> None:
    file = tmp_path / "rows.parquet"
    write_parquet(table(), file)
    assert all(read(file).equals(table()) for read in READERS)
    chunk = pq.ParquetFile(file).metadata.row_group(0).column(column)
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    end = start + chunk.total_compressed_size
    whole = file.read_bytes()
    for bit in range(8 * (end - 3), 8 * end):  # the last bytes are of a page, not of its header
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        file.write_bytes(damaged)
        for read in READERS:
            with pytest.raises(DamagedFileError, match=r"rows\.parquet"):
                read(file)


@pytest.mark.parametrize("kept", [0, 3, 100, -1])
def test_a_file_that_was_cut_is_named(tmp_path: Path, kept: int) -> None:
    file = tmp_path / "rows.parquet"
    write_parquet(table(), file)
    file.write_bytes(file.read_bytes()[:kept])
    for read in READERS:
        with pytest.raises(DamagedFileError, match=r"rows\.parquet"):
            read(file)


def test_what_is_not_damage_is_not_called_so(tmp_path: Path) -> None:
    file = tmp_path / "rows.parquet"
    with pytest.raises(FileNotFoundError):
        read_parquet(file)
    write_parquet(table(), file)
    with pytest.raises(pa.ArrowException):
        read_parquet(file, filters=pa.compute.field("name") > 3)


def test_the_error_travels_between_processes() -> None:
    error = DamagedFileError(Path("a.parquet"), "no footer")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own
    assert (str(again), again.reason) == (str(error), "no footer")
