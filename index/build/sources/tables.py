"""Vectors in a column ``embedding`` of a Parquet file, or of an Arrow (Feather) file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import DamagedFileError, SnapshotError, first_line
from common.parquet import open_parquet
from common.storage import arrow
from common.untrusted import refuse_pickled
from index.build.sources.layout import FileLayout, choose_id_column, to_floats, to_ids
from index.build.sources.source import BATCH_ROWS, Batch

EMBEDDING = "embedding"


def open_parquet_file(path: Path, id_column: str | None) -> FileLayout:
    """Open a Parquet file with vectors.

    Raises:
        SnapshotError: it has no column ``embedding``, no ids, or no row with a vector.
    """
    with open_parquet(path) as parquet:
        schema, groups = parquet.schema_arrow, parquet.num_row_groups
        ends = np.cumsum([parquet.metadata.row_group(each).num_rows for each in range(groups)])
    ids = _check_columns(path, schema, id_column)
    starts = [0, *ends.tolist()]
    readers = [ParquetReader(path, ids, 0, group, start) for group, start in enumerate(starts[:-1])]
    dim = _dimension(path, schema, readers)
    sized = tuple(replace(reader, dim=dim) for reader in readers)
    return FileLayout(dim, starts[-1], _other_columns(schema, ids), sized, (path,))


def open_arrow(path: Path, id_column: str | None) -> FileLayout:
    """Open an Arrow IPC file or stream with vectors; Feather is such a file.

    Raises:
        SnapshotError: it has no column ``embedding``, no ids, or no row with a vector.
    """
    with _open_ipc(path) as (schema, batches):
        refuse_pickled(schema, str(path))
        ids = _check_columns(path, schema, id_column)
        rows = sum(batch.num_rows for batch in batches)
    reader = ArrowReader(path, ids, 0)
    dim = _dimension(path, schema, [reader])
    sized = (replace(reader, dim=dim),)
    return FileLayout(dim, rows, _other_columns(schema, ids), sized, (path,))


class _TableReader:
    """What readers of tables share: batches of columns become batches of the contract."""

    path: Path
    ids: str
    dim: int

    def read(self, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Batches of these columns, and the number of each one's first row in the file."""
        raise NotImplementedError

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """As the contract says."""
        wanted = list(dict.fromkeys([*columns, self.ids, EMBEDDING]))
        try:
            for batch, first in self.read(wanted):
                vectors, has_vector = _to_vectors(batch[EMBEDDING], self.dim, self.path, first)
                yield Batch(
                    np.arange(first, first + batch.num_rows),
                    to_ids(batch[self.ids], self.path, first),
                    batch.select([name for name in columns if name in batch.schema.names]),
                    vectors,
                    has_vector,
                )
        except (OSError, pa.ArrowException, DamagedFileError) as error:
            why = error.reason if isinstance(error, DamagedFileError) else first_line(error)
            if why.startswith("Expected all lists to be of size"):  # Arrow before 26
                why = (
                    f"in Parquet, a column of lists of one size cannot hold null: write "
                    f"{EMBEDDING!r} as a plain list, or leave out the rows without a vector"
                )
            raise SnapshotError(f"{self.path} cannot be read: {why}") from None


@dataclass(frozen=True)
class ParquetReader(_TableReader):
    """Reads one row group of a Parquet file."""

    path: Path
    ids: str
    dim: int
    group: int
    first_row: int

    def read(self, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, int]]:
        """As ``_TableReader``."""
        first = self.first_row
        with open_parquet(self.path) as parquet:
            there = [name for name in columns if name in parquet.schema_arrow.names]
            for batch in parquet.iter_batches(BATCH_ROWS, row_groups=[self.group], columns=there):
                yield batch, first
                first += batch.num_rows


@dataclass(frozen=True)
class ArrowReader(_TableReader):
    """Reads an Arrow file."""

    path: Path
    ids: str
    dim: int

    def read(self, columns: Sequence[str]) -> Iterator[tuple[pa.RecordBatch, int]]:
        """As ``_TableReader``."""
        first = 0
        with _open_ipc(self.path) as (schema, batches):
            there = [name for name in columns if name in schema.names]
            for batch in batches:
                for start in range(0, batch.num_rows, BATCH_ROWS):
                    part = batch.select(there).slice(start, BATCH_ROWS)
                    yield part, first
                    first += part.num_rows


@contextmanager
def _open_ipc(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    system, name = arrow(path)
    with system.open_input_file(name) as source:
        try:
            file = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            source.seek(0)
            stream = pa.ipc.open_stream(source)
            yield stream.schema, iter(stream)
        else:
            yield file.schema, (file.get_batch(each) for each in range(file.num_record_batches))


def _check_columns(path: Path, schema: pa.Schema, id_column: str | None) -> str:
    """The column of the ids, once there are vectors and every name stands once."""
    names = schema.names
    for name in names:
        if names.count(name) > 1:
            raise SnapshotError(f"{path} has two columns {name!r}; rename one")
    if EMBEDDING not in names:
        raise SnapshotError(
            f"{path} has no column {EMBEDDING!r} (it has {', '.join(names)}); name the column with "
            "the vectors so"
        )
    ids = choose_id_column(path, id_column, names)
    if ids is None:
        raise SnapshotError(
            f"{path} has no column 'detection_id' or 'id' (it has {', '.join(names)}); say which "
            "one names a row: `id_column`"
        )
    kind = _list_type(schema.field(EMBEDDING).type)
    if kind is None:
        raise SnapshotError(
            f"{path}: column {EMBEDDING!r} is {schema.field(EMBEDDING).type}; give a list of numbers"
        )
    to_floats(np.empty(0, kind.value_type.to_pandas_dtype()), path)
    return ids


def _list_type(kind: pa.DataType) -> pa.DataType | None:
    """The type of a column of lists, also where it is stored as a tensor; None: it is none."""
    if isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    tests = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    if not any(test(kind) for test in tests):
        return None
    number = pa.types.is_integer(kind.value_type) or pa.types.is_floating(kind.value_type)
    return kind if number else None


def _other_columns(schema: pa.Schema, ids: str) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in (EMBEDDING, ids)])


def _dimension(path: Path, schema: pa.Schema, readers: Sequence[_TableReader]) -> int:
    """Values of a vector: of lists of any length, those of the first."""
    kind = _list_type(schema.field(EMBEDDING).type)
    assert kind is not None
    if pa.types.is_fixed_size_list(kind):
        dim = int(kind.list_size)
    else:
        batches = (batch for reader in readers for batch, _ in reader.read([EMBEDDING]))
        lengths = (pc.list_value_length(batch[EMBEDDING]).drop_null() for batch in batches)
        dim = next((each[0].as_py() for each in lengths if len(each)), 0)
    if not dim:
        raise SnapshotError(f"{path} has no row with a vector")
    return dim


def _to_vectors(
    column: pa.Array, dim: int, path: Path, first_row: int
) -> tuple[NDArray[np.floating], NDArray[np.bool_]]:
    """Vectors of a column [N, D], and whether each row has one."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    there = np.asarray(column.is_valid())
    lists = column.drop_null()
    lengths = np.asarray(pc.list_value_length(lists))
    if (lengths != dim).any():
        wrong = int(np.argmax(lengths != dim))
        raise SnapshotError(
            f"{path}: row {first_row + int(np.flatnonzero(there)[wrong])} (counted from 0) holds a "
            f"vector of {lengths[wrong]} values, the first one {dim}; an index needs vectors of "
            "one length"
        )
    values = lists.flatten().to_numpy(zero_copy_only=False)  # NaN where one is null
    given = to_floats(values, path).reshape(-1, dim)
    if there.all():
        return given, there
    vectors = np.zeros((len(column), dim), given.dtype)
    vectors[there] = given
    return vectors, there
