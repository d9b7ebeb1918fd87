"""What each row of an index is: its columns by row number, its row number by detection id.

Both are memory-mapped and answered in time that does not grow with the index: a row is reached
through its offset, an id through binary search over hashes. Opening reads nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.untrusted import refuse_pickled
from pipelines.detections import BOX

ROWS_SCHEMA = pa.schema(
    [
        ("run", pa.int16()),  # place in the manifest's runs
        ("row_id", pa.int64()),
        ("detection_id", pa.string()),
        ("image", pa.string()),
        *((name, pa.float32()) for name in BOX),
        ("sequence", pa.string()),
        ("timestamp", pa.timestamp("us")),
        ("frame", pa.int64()),
        ("label", pa.string()),
        ("label_index", pa.int32()),
        ("score", pa.float32()),
    ]
)
RUN_COLUMNS = [name for name in ROWS_SCHEMA.names if name != "run"]  # from a run's files

# Rows joined into one block of memory: their strings stay below Arrow's 2 GiB.
BLOCK_ROWS = 1_000_000

_PARSING = Lock()


def to_index_rows(batch: pa.RecordBatch, run: int) -> pa.RecordBatch:
    """Columns of ``rows.arrow`` for a batch of run number ``run``."""
    given = [batch[name].cast(ROWS_SCHEMA.field(name).type) for name in RUN_COLUMNS]
    number = pa.array(np.full(batch.num_rows, run, np.int16))
    return pa.RecordBatch.from_arrays([number, *given], schema=ROWS_SCHEMA)


def write_rows(file: Path, batches: Iterable[pa.RecordBatch]) -> None:
    """Write ``rows.arrow`` in large blocks; memory is bounded by one of them.

    Raises:
        OSError: the disk refused.
    """
    with pa.ipc.new_file(file, ROWS_SCHEMA) as sink:

        def flush(gathered: list[pa.RecordBatch]) -> None:
            if gathered:
                sink.write_table(pa.Table.from_batches(gathered, ROWS_SCHEMA).combine_chunks())

        waiting: list[pa.RecordBatch] = []
        count = 0
        for batch in batches:
            if count + batch.num_rows > BLOCK_ROWS:
                flush(waiting)
                waiting, count = [], 0
            waiting.append(batch)
            count += batch.num_rows
        flush(waiting)


def read_rows(file: Path) -> pa.Table:
    """``rows.arrow``, memory-mapped.

    Raises:
        OSError, pa.ArrowInvalid: it is missing or torn.
        SourceError: a column is of a type that can run code.
    """
    with pa.memory_map(str(file)) as source:
        rows = pa.ipc.open_file(source).read_all()
    refuse_pickled(rows.schema, str(file))
    return rows


def hash_ids(ids: Iterable[str]) -> NDArray[np.uint64]:
    """64 bits of each id, the same on every machine."""
    digest = hashlib.blake2b
    data = b"".join(digest(one.encode(), digest_size=8).digest() for one in ids)
    return np.frombuffer(data, "<u8").astype(np.uint64)


def write_ids(file: Path, hashes: NDArray[np.uint64]) -> None:
    """Write ``ids.npy``, [2, N]: hashes in order, and the row of each.

    Raises:
        OSError: the disk refused.
    """
    order = np.argsort(hashes, kind="stable").astype(np.uint64)
    np.save(file, np.stack([hashes[order], order]), allow_pickle=False)


class RowTable:
    """The rows of one or more segments under each other, numbered from 0."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        batches = table.to_batches()
        self._blocks = [_numpy_columns(batch) for batch in batches]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])

    def columns(
        self, rows: NDArray[np.integer], names: Sequence[str] | None = None
    ) -> dict[str, list[Any]]:
        """Values of ``rows``, in their order, by column.

        Block by block on purpose: ``Table.take`` joins whole string columns first, 20 ms a
        call at a million rows where taking from a block costs microseconds a row.
        """
        wanted = np.asarray(rows, np.int64)
        names = names or self.table.column_names
        within = np.searchsorted(self._starts, wanted, side="right") - 1
        used = np.unique(within)
        if len(used) == 1:
            return _take(self._blocks[used[0]], wanted - self._starts[used[0]], names)
        found: dict[str, list[Any]] = {name: [None] * len(wanted) for name in names}
        for block in used.tolist():
            places = np.flatnonzero(within == block)
            part = _take(self._blocks[block], wanted[places] - self._starts[block], names)
            for name, values in part.items():
                column = found[name]
                for place, value in zip(places.tolist(), values, strict=True):
                    column[place] = value
        return found


_Column: TypeAlias = Any  # an Arrow array, or a NumPy one


def _numpy_columns(batch: pa.RecordBatch) -> dict[str, _Column]:
    """Columns as NumPy sees them where it can: a tenth of Arrow's cost for a few rows."""

    def quick(column: pa.Array) -> _Column:
        if pa.types.is_timestamp(column.type):
            return column.to_numpy(zero_copy_only=False)  # copied only where some are unknown
        if pa.types.is_primitive(column.type) and not column.null_count:
            return column.to_numpy()
        return column

    return {
        name: quick(column) for name, column in zip(batch.schema.names, batch.columns, strict=True)
    }


def _take(
    block: dict[str, _Column], rows: NDArray[np.int64], names: Sequence[str]
) -> dict[str, list[Any]]:
    picked = pa.array(rows)
    found: dict[str, list[Any]] = {}
    for name in names:
        column = block[name]
        if isinstance(column, np.ndarray):
            found[name] = column[rows].tolist()
        else:
            found[name] = column.take(picked).to_pylist()
    return found


def load_array(file: Path, mmap_mode: Literal["r"] | None = None) -> NDArray[Any]:
    """``np.load``, safe in several threads.

    NumPy reads a header with Python's parser, and that of 3.11 fails where two threads parse.

    Raises:
        OSError, ValueError: the file is missing or torn.
    """
    with _PARSING:
        loaded: NDArray[Any] = np.load(file, mmap_mode=mmap_mode, allow_pickle=False)
    return loaded


class IdTable:
    """From detection id to row, within one segment."""

    def __init__(self, file: Path, rows: RowTable) -> None:
        """Open ``ids.npy`` over the rows it was written for.

        Raises:
            OSError, ValueError: it is missing or torn.
        """
        self._hashes, self._order = load_array(file, mmap_mode="r")
        self._rows = rows

    def rows_of(self, ids: Sequence[str]) -> NDArray[np.int64]:
        """Row of each id, [N]; -1 where there is none."""
        found = np.full(len(ids), -1, np.int64)
        if not ids:
            return found
        hashes = hash_ids(ids)
        at = np.searchsorted(self._hashes, hashes)
        inside = np.flatnonzero(at < len(self._hashes))
        same = inside[self._hashes[at[inside]] == hashes[inside]]
        while len(same):  # once, but for two ids of one hash
            rows = self._order[at[same]].astype(np.int64)
            names = self._rows.columns(rows, ["detection_id"])["detection_id"]
            right = np.array([name == ids[place] for name, place in zip(names, same, strict=True)])
            found[same[right]] = rows[right]
            same = same[~right]
            at[same] += 1
            same = same[at[same] < len(self._hashes)]
            same = same[self._hashes[at[same]] == hashes[same]]
        return found
