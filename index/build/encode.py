"""The tasks that read runs, each on one part of the rows: count, encode. Each runs anywhere.

A part is some Parquet files of one run. A task holds one batch of its vectors in memory; it writes
its vectors into the one file of the segment, at their offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import SnapshotError
from common.storage import open_parquet
from index.config import Metric
from index.metrics import prepare
from index.storage import store
from index.storage.layout import ROWS, VECTORS
from index.storage.rows import ROWS_SCHEMA, RUN_COLUMNS, hash_ids, to_index_rows
from pipelines.embeddings import matrix

_BATCH_ROWS = 8192


@dataclass(frozen=True)
class Part:
    """Parquet files of one run, and which of their rows are indexed."""

    run: int  # position of the run in the manifest
    path: Path  # of the run, for messages
    files: tuple[Path, ...]
    row_ids: NDArray[np.int64] | None  # ascending; None: all


@dataclass(frozen=True)
class RowCounts:
    """How many rows of a part can be indexed and how many have an error."""

    rows: int
    skipped: int
    hashes: NDArray[np.uint64]  # of the detection ids, in the order of the rows


@dataclass(frozen=True)
class EncodeTask:
    """Write the vectors and rows of a part."""

    part: Part
    number: int
    folder: Path  # of the segment, in the draft
    rows: int  # that can be indexed
    first_row: int  # row of the segment that the part starts at
    dim: int
    metric: Metric


def rows_file(folder: Path, number: int) -> Path:
    """The rows of a part; removed when they are joined."""
    return folder / f".{ROWS}-{number:05d}"


def count(part: Part) -> RowCounts:
    """Count the rows of a part without reading a vector."""
    skipped, hashes = 0, [np.empty(0, np.uint64)]
    for ids, failed in iterate_ids(part):
        hashes.append(hash_ids(ids))
        skipped += failed
    joined = np.concatenate(hashes)
    return RowCounts(len(joined), skipped, joined)


def iterate_ids(part: Part) -> Iterator[tuple[list[str], int]]:
    """Per batch: detection ids of the rows that can be indexed, and the number of failed rows."""
    for batch in _batches(part, ["row_id", "detection_id", "error"]):
        good = batch.filter(pc.is_null(batch["error"]))
        ids = _selected(good, part)["detection_id"].to_pylist()
        yield ids, batch.num_rows - good.num_rows


def encode(task: EncodeTask) -> int:
    """Write a part's vectors into the file of the segment, its rows into ``rows_file``.

    Returns:
        The number of rows.

    Raises:
        SnapshotError: a vector is zero or not finite, or the run is damaged.
        OSError: the disk refused.
    """
    done = 0
    with pa.ipc.new_file(rows_file(task.folder, task.number), ROWS_SCHEMA) as sink:
        for batch in _embedded_batches(task.part, RUN_COLUMNS):
            if done + batch.num_rows > task.rows:
                done = -1
                break
            ids = batch["detection_id"].to_pylist()
            vectors = prepare(_embeddings(batch, task.dim), ids, task.metric)
            sink.write_batch(to_index_rows(batch, task.part.run))
            store.write(task.folder / VECTORS, task.first_row + done, vectors, task.metric)
            done += batch.num_rows
    if done != task.rows:
        raise SnapshotError(
            f"{task.part.path} has {task.rows} rows without an error, and another number of them "
            "hold an embedding; it is damaged: check with 'onepass inspect RUN --verify'"
        )
    return done


def _batches(part: Part, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for file in part.files:
        with open_parquet(file) as parquet:
            yield from parquet.iter_batches(_BATCH_ROWS, columns=columns)


def _embedded_batches(part: Part, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of rows that can be indexed, with their embedding; never an empty one."""
    wanted = list(dict.fromkeys([*columns, "row_id", "embedding", "error"]))
    for batch in _batches(part, wanted):
        embedded = pc.and_(pc.is_null(batch["error"]), pc.is_valid(batch["embedding"]))
        good = _selected(batch.filter(embedded), part)
        if good.num_rows:
            yield good


def _selected(batch: pa.RecordBatch, part: Part) -> pa.RecordBatch:
    if part.row_ids is None:
        return batch
    return batch.filter(pa.array(np.isin(batch["row_id"].to_numpy(), part.row_ids)))


def _embeddings(batch: pa.RecordBatch, dim: int) -> np.ndarray:
    """Embeddings of a batch, [N, dim], without a copy."""
    column = batch["embedding"]
    if not pa.types.is_fixed_size_list(column.type) or column.type.list_size != dim:
        raise SnapshotError(
            f"column 'embedding' is {column.type}, the run's manifest says {dim} values a row; "
            "the run is damaged: check with 'onepass inspect RUN --verify'"
        )
    return matrix(column)
