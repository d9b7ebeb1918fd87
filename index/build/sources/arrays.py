"""Vectors in an array: a NumPy file with ids beside it, or ``features`` of an HDF5 file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from common.errors import SnapshotError, first_line
from common.text import GUESSED, decode
from index.build.sources.layout import FileLayout, choose_id_column, to_floats, to_ids
from index.build.sources.source import BATCH_ROWS, Batch
from index.storage.rows import load_array, map_array
from pipelines.outputs.hdf5_info import check_h5

FEATURES, VALID = "features", "valid"
_READER_ROWS = 6 * BATCH_ROWS
_UNWRITTEN_BYTES = 2**30  # that may be declared and not written
_MOST_PACKED = 2000  # bytes of one stored byte; Deflate reaches 1,032


def open_npy(path: Path, id_column: str | None) -> FileLayout:
    """Open ``x.npy``, whose ids are in ``x.ids.txt``, one a line, or in ``x.ids.npy``.

    Raises:
        SnapshotError: it is no matrix of numbers, or there are no ids, or another number of them.
    """
    if id_column is not None:
        raise SnapshotError(f"`id_column={id_column!r}`: {path} is an array and has no columns")
    vectors = map_array(path)
    rows, dim = _check_matrix(path, vectors)
    beside = [path.with_suffix(suffix) for suffix in (".ids.txt", ".ids.npy")]
    there = [file for file in beside if file.is_file()]
    if len(there) != 1:
        which = "both are" if there else "neither is"
        raise SnapshotError(
            f"{path} needs its ids beside it, in {beside[0].name} (one a line) or {beside[1].name}; "
            f"{which} there"
        )
    ids = _read_ids(there[0])
    if len(ids) != rows:
        raise SnapshotError(f"{there[0]} holds {len(ids)} ids, {path} {rows} vectors")
    readers = tuple(NpyReader(path, there[0], *span) for span in _spans(rows))
    return FileLayout(dim, rows, pa.schema([]), readers, (path, there[0]))


def open_hdf5(path: Path, id_column: str | None) -> FileLayout:
    """Open an HDF5 file with ``features`` [N, D], as runs write it or of anyone's.

    Ids are in ``detection_id`` or ``id``; other datasets of N values are columns. Where ``valid``
    is False a row has no vector.

    Raises:
        SnapshotError: there are no ``features``, or they are no matrix of numbers.
        VerifyError: it is of a run or of clips, and differs from the manifest there.
    """
    check_h5(path)
    with h5py.File(path) as file:
        arrays = {name: data for name, data in file.items() if isinstance(data, h5py.Dataset)}
        if FEATURES not in arrays:
            raise SnapshotError(
                f"{path} has no dataset {FEATURES!r} (it has {', '.join(file) or 'none'}); name the "
                "one with the vectors so"
            )
        virtual = (
            source
            for data in arrays.values()
            if data.is_virtual
            for source in data.virtual_sources()
        )
        check_h5(path, [source.file_name for source in virtual])
        features = arrays.pop(FEATURES)
        rows, dim = _check_matrix(path, features)
        _check_written(path, features)
        columns = {name: data for name, data in arrays.items() if data.shape[:1] == (rows,)}
        ids = choose_id_column(path, id_column, columns)
        schema = pa.schema([(name, _column_type(data)) for name, data in columns.items()])
        others = pa.schema([field for field in schema if field.name not in (ids, VALID)])
    notes = () if ids else (f"{path} has no ids; its rows are named by their number, from 0",)
    has_valid = VALID in columns
    readers = tuple(Hdf5Reader(path, ids, has_valid, *span) for span in _spans(rows))
    return FileLayout(dim, rows, others, readers, (path,), notes)


@dataclass(frozen=True)
class NpyReader:
    """Reads some rows of a NumPy file."""

    path: Path
    ids: Path
    first_row: int
    end: int

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """As the contract says."""
        vectors, ids = map_array(self.path), _read_ids(self.ids)
        for start in range(self.first_row, self.end, BATCH_ROWS):
            stop = min(start + BATCH_ROWS, self.end)
            yield Batch(
                np.arange(start, stop),
                to_ids(ids.slice(start, stop - start), self.ids, start),
                pa.RecordBatch.from_struct_array(_no_columns(stop - start)),
                to_floats(vectors[start:stop], self.path),
                np.ones(stop - start, bool),
            )


@dataclass(frozen=True)
class Hdf5Reader:
    """Reads some rows of an HDF5 file."""

    path: Path
    ids: str | None
    has_valid: bool
    first_row: int
    end: int

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """As the contract says."""
        try:
            with h5py.File(self.path) as file:
                for start in range(self.first_row, self.end, BATCH_ROWS):
                    yield self._batch(
                        file, columns, slice(start, min(start + BATCH_ROWS, self.end))
                    )
        except (OSError, ValueError) as error:
            raise SnapshotError(f"{self.path} cannot be read: {first_line(error)}") from None

    def _batch(self, file: h5py.File, columns: Sequence[str], rows: slice) -> Batch:
        numbers = np.arange(rows.start, rows.stop)
        ids = pa.array(numbers) if self.ids is None else _to_arrow(file[self.ids], rows)
        there = [name for name in columns if name in file and _is_column(file, name)]
        values = [_to_arrow(file[name], rows) for name in there]
        table = pa.StructArray.from_arrays(values, there) if there else _no_columns(len(numbers))
        return Batch(
            numbers,
            to_ids(ids, self.path, rows.start),
            pa.RecordBatch.from_struct_array(table),
            to_floats(file[FEATURES][rows], self.path),
            file[VALID][rows].astype(bool) if self.has_valid else np.ones(len(numbers), bool),
        )


def _spans(rows: int) -> list[tuple[int, int]]:
    return [(start, min(start + _READER_ROWS, rows)) for start in range(0, rows, _READER_ROWS)]


def _check_matrix(path: Path, vectors: Any) -> tuple[int, int]:
    """Rows and dimension of an array of vectors."""
    if vectors.ndim != 2 or not vectors.shape[1]:
        raise SnapshotError(f"{path}: the vectors have shape {vectors.shape}; give [N, D]")
    to_floats(np.empty(0, vectors.dtype), path)
    return int(vectors.shape[0]), int(vectors.shape[1])


def _check_written(path: Path, vectors: h5py.Dataset) -> None:
    """Refuse a small file that declares many vectors; those that were never written read as zeros."""
    stored = vectors.id.get_storage_size()
    if not vectors.is_virtual and vectors.nbytes > max(_UNWRITTEN_BYTES, _MOST_PACKED * stored):
        raise SnapshotError(
            f"{path}: {FEATURES} declares {vectors.nbytes} bytes and holds {stored}; write its rows, or "
            "make it as long as they are"
        )


def _read_ids(file: Path) -> pa.Array:
    """The ids beside a NumPy file; an empty line is null."""
    return _cached_ids(file, file.stat().st_mtime_ns)


@lru_cache(1)  # the parts of one file are read one after another
def _cached_ids(file: Path, _changed: int) -> pa.Array:
    if file.suffix == ".npy":
        values = load_array(file)
        if values.ndim != 1 or values.dtype.kind not in "USiu":
            raise SnapshotError(
                f"{file} is {values.dtype} {values.shape}; give texts or whole numbers, [N]"
            )
        return pa.array(np.char.decode(values, "utf-8") if values.dtype.kind == "S" else values)
    try:
        text, encoding = decode(file.read_bytes())
    except ValueError as error:
        raise SnapshotError(f"{file} cannot be read: {error}") from None
    if encoding == GUESSED:  # a wrong guess would name other rows
        raise SnapshotError(f"{file} is not UTF-8; give one id a line, in UTF-8")
    lines = text.removesuffix("\n").split("\n")
    return pa.array([line.removesuffix("\r") or None for line in lines], pa.string())


def _is_column(file: h5py.File, name: str) -> bool:
    return isinstance(file[name], h5py.Dataset) and file[name].shape == file[FEATURES].shape[:1]


def _is_text(data: h5py.Dataset) -> bool:
    return h5py.check_string_dtype(data.dtype) is not None


def _column_type(data: h5py.Dataset) -> pa.DataType:
    """The Arrow type of a dataset; that of a list where it has several values a row."""
    if _is_text(data):
        kind = pa.string()
    elif data.dtype.kind in "biuf" and data.dtype.itemsize <= 8:
        kind = pa.from_numpy_dtype(data.dtype.newbyteorder("="))
    else:
        kind = pa.binary()
    return kind if data.ndim == 1 else pa.list_(kind)


def _to_arrow(data: h5py.Dataset, rows: slice) -> pa.Array:
    if _is_text(data):
        return pa.array(data.asstr("utf-8")[rows], pa.string())
    values = data[rows]
    return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False))


def _no_columns(rows: int) -> pa.StructArray:
    return pa.array([{}] * rows, pa.struct([]))
