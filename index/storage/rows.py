"""The rows of an index: columns by row number, row number by detection id.

Both files are memory-mapped, and look-ups take the same time at any size: a row is read at its
offset, an id is found by binary search over hashes. Opening reads nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.untrusted import refuse_pickled
from index.storage.columns import ROWS_SCHEMA, plain_name, to_type

BLOCK_ROWS = 1_000_000  # of one Arrow batch, whose strings must stay below 2 GiB

_HEADER_LOCK = Lock()
_READ_HEADER = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def to_index_rows(
    batch: pa.RecordBatch,
    run: int,
    row_ids: NDArray[np.int64],
    ids: pa.Array,
    schema: pa.Schema,
    filled: Collection[str],
) -> pa.RecordBatch:
    """Rows of a run or file with the columns of ``rows.arrow``; null where it has none.

    Args:
        batch: columns of N rows, with the names that they have in the run or file.
        run: its position in the manifest.
        row_ids: [N], position of each row in it.
        ids: [N], detection ids.
        schema: ``ROWS_SCHEMA`` and the own columns of the segment.
        filled: names in ``schema`` of the columns that the run or file fills; the others are null,
            although the batch may have columns of these names.

    Raises:
        SnapshotError: a value does not fit into the type that its column is stored with.
    """
    made = {
        "run": pa.array(np.full(batch.num_rows, run, np.int16)),
        "row_id": pa.array(row_ids),
        "detection_id": ids,
    }

    def column(field: pa.Field) -> pa.Array:
        if field.name in made:
            return made[field.name]
        name = plain_name(field.name)
        if field.name not in filled or name not in batch.schema.names:
            return pa.nulls(batch.num_rows, field.type)
        return to_type(batch[name], field.type, field.name)

    return pa.RecordBatch.from_arrays([column(field) for field in schema], schema=schema)


def write_rows(
    file: Path, batches: Iterable[pa.RecordBatch], schema: pa.Schema = ROWS_SCHEMA
) -> None:
    """Write ``rows.arrow`` in large blocks, one of them in memory at a time.

    Args:
        file: to write.
        batches: the rows.
        schema: of the batches: ``ROWS_SCHEMA``, then own columns.

    Raises:
        OSError: the disk refused.
    """
    with pa.ipc.new_file(file, schema) as sink:

        def flush(block: list[pa.RecordBatch]) -> None:
            if block:
                sink.write_table(pa.Table.from_batches(block, schema).combine_chunks())

        block: list[pa.RecordBatch] = []
        rows = 0
        for batch in batches:
            if rows + batch.num_rows > BLOCK_ROWS:
                flush(block)
                block, rows = [], 0
            block.append(batch)
            rows += batch.num_rows
        flush(block)


def read_rows(file: Path) -> pa.Table:
    """``rows.arrow``, memory-mapped.

    Raises:
        OSError, pa.ArrowInvalid: it is missing or damaged.
        SourceError: a column has a type that can execute code.
    """
    with pa.memory_map(str(file)) as source:
        rows = pa.ipc.open_file(source).read_all()
    refuse_pickled(rows.schema, str(file))
    return rows


def hash_ids(ids: Iterable[str]) -> NDArray[np.uint64]:
    """64 bits of each id, the same on every machine."""
    digest = hashlib.blake2b
    data = b"".join(digest(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(data, "<u8").astype(np.uint64)


def write_ids(file: Path, hashes: NDArray[np.uint64]) -> None:
    """Write ``ids.npy``, uint64 [2, N]: sorted hashes, and the row of each.

    Raises:
        OSError: the disk refused.
    """
    order = np.argsort(hashes, kind="stable").astype(np.uint64)
    np.save(file, np.stack([hashes[order], order]), allow_pickle=False)


class RowTable:
    """The rows of one or more segments, numbered from 0.

    Attributes:
        tables: those of the segments, as they are on the disk.
        schema: ``ROWS_SCHEMA`` and the own columns of the version. A segment may lack some of these,
            or hold them as another type.
    """

    def __init__(
        self, tables: pa.Table | Sequence[pa.Table], schema: pa.Schema | None = None
    ) -> None:
        self.tables = [tables] if isinstance(tables, pa.Table) else list(tables)
        self.schema = schema or self.tables[0].schema
        batches = [batch for table in self.tables for batch in table.to_batches()]
        self._blocks = [_Block(batch, self.schema) for batch in batches]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])

    @property
    def num_rows(self) -> int:
        """Number of rows."""
        return int(self._starts[-1])

    def select(self, names: Sequence[str]) -> pa.Table:
        """Some columns, whole.

        Args:
            names: the columns, which are in ``schema``.

        Returns:
            All rows. Memory is that of the file, but for what a segment lacks or holds as another
            type.
        """
        schema = pa.schema([self.schema.field(name) for name in names])
        return pa.concat_tables([conform(table, schema) for table in self.tables])

    def columns(
        self, rows: NDArray[np.integer], names: Sequence[str] | None = None
    ) -> dict[str, list[Any]]:
        """Values of some rows, by column.

        Args:
            rows: [R] row numbers.
            names: columns wanted; None: all.

        Returns:
            R Python values per column, in the order of ``rows``.
        """
        # Block by block: ``Table.take`` first joins whole string columns, 20 ms a call at a
        # million rows, where taking from a block costs microseconds a row.
        wanted = np.asarray(rows, np.int64)
        names = names or self.schema.names
        block_of = np.searchsorted(self._starts, wanted, side="right") - 1
        used = np.unique(block_of)
        if len(used) == 1:
            return _take(self._blocks[used[0]], wanted - self._starts[used[0]], names)
        columns: dict[str, list[Any]] = {name: [None] * len(wanted) for name in names}
        for block in used.tolist():
            positions = np.flatnonzero(block_of == block)
            part = _take(self._blocks[block], wanted[positions] - self._starts[block], names)
            for name, values in part.items():
                for position, value in zip(positions.tolist(), values, strict=True):
                    columns[name][position] = value
        return columns


_Column: TypeAlias = Any  # an Arrow array, or a NumPy one


class _Block(dict[str, _Column]):
    """Columns of a batch, as NumPy arrays where possible: for a few rows a tenth of Arrow's time.

    Each is made when it is first used.
    """

    def __init__(self, batch: pa.RecordBatch, schema: pa.Schema) -> None:
        self._batch = batch
        self._schema = schema

    def __missing__(self, name: str) -> _Column:
        if name not in self._batch.schema.names:
            column = pa.nulls(self._batch.num_rows)  # of no type, which takes no memory
        else:
            column = to_type(self._batch[name], self._schema.field(name).type, name)
        kind = column.type
        if pa.types.is_timestamp(kind):
            column = column.to_numpy(zero_copy_only=False)  # a copy only where some are null
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
            column = column if column.null_count else column.to_numpy()
        self[name] = column
        return column


def _take(block: _Block, rows: NDArray[np.int64], names: Sequence[str]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {}
    for name in names:
        column = block[name]
        if isinstance(column, np.ndarray):
            columns[name] = column[rows].tolist()
        else:
            columns[name] = column.take(pa.array(rows)).to_pylist()
    return columns


def conform(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Columns of a segment with the types of the version; null where it has none.

    Args:
        table: rows of a segment.
        schema: the columns that are wanted.
    """
    columns = [
        to_type(table[field.name], field.type, field.name)
        if field.name in table.column_names
        else pa.nulls(table.num_rows, field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)


def load_array(file: Path) -> NDArray[Any]:
    """The array of a NumPy file; what its header declares is not allocated before the file has it.

    Raises:
        OSError, ValueError: the file is missing or damaged.
    """
    return map_array(file).copy()


def map_array(file: Path) -> NDArray[Any]:
    """The array of a NumPy file, mapped. Unlike NumPy's own mapping it keeps no file handle.

    NumPy reads a header with Python's parser, and that of 3.11 fails where two threads parse.

    Raises:
        OSError, ValueError: the file is missing or damaged.
    """
    with file.open("rb") as stream, _HEADER_LOCK:
        version = np.lib.format.read_magic(stream)
        if version not in _READ_HEADER:  # only of structured types
            raise ValueError(f"a NumPy file of version {version[0]}.{version[1]}")
        shape, is_fortran, dtype = _READ_HEADER[version](stream)
        start = stream.tell()
    if dtype.hasobject:
        raise ValueError("an array of Python objects")
    with pa.memory_map(str(file)) as source:
        values = np.frombuffer(source.read_buffer(), np.uint8)[start:]
    mapped: NDArray[Any] = values.view(dtype).reshape(shape, order="F" if is_fortran else "C")
    return mapped


class IdTable:
    """Row numbers by detection id, within one segment."""

    def __init__(self, file: Path, rows: RowTable) -> None:
        """Open ``ids.npy`` over the rows it was written for.

        Raises:
            OSError, ValueError: it is missing or damaged.
        """
        self._hashes, self._order = map_array(file)
        self._rows = rows

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each id, [N]; -1 where there is none."""
        row_numbers = np.full(len(ids), -1, np.int64)
        if not ids:
            return row_numbers
        hashes = hash_ids(ids)
        at = np.searchsorted(self._hashes, hashes)

        def same_hash(positions: NDArray[np.int64]) -> NDArray[np.int64]:
            positions = positions[at[positions] < len(self._hashes)]
            equal: NDArray[np.int64] = positions[self._hashes[at[positions]] == hashes[positions]]
            return equal

        candidates = same_hash(np.arange(len(ids)))
        while len(candidates):  # more than once only where two ids have the same hash
            rows = self._order[at[candidates]].astype(np.int64)
            names = self._rows.columns(rows, ["detection_id"])["detection_id"]
            equal = np.array([n == ids[i] for n, i in zip(names, candidates, strict=True)])
            row_numbers[candidates[equal]] = rows[equal]
            candidates = candidates[~equal]
            at[candidates] += 1
            candidates = same_hash(candidates)
        return row_numbers
