"""The tasks of a build, each on one part of the rows: count, sample, encode. Each runs anywhere.

A part is some Parquet files of one run. A task holds one batch of its vectors and their codes in
memory; it writes its vectors into the one file of the segment, at their offset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import SnapshotError
from common.storage import open_parquet
from index.config import Metric
from index.metrics import prepare
from index.search.accelerator import Neighbors
from index.search.factory import save
from index.search.recall import ExactKnn
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
class SampleTask:
    """Read some vectors of a part."""

    part: Part
    rows: NDArray[np.int64]  # ascending, counted among the rows that can be indexed
    dim: int
    metric: Metric


@dataclass(frozen=True)
class EncodeTask:
    """Write the vectors and rows of a part, and fill a shard of the index with them."""

    part: Part
    number: int
    folder: Path  # of the segment, in the draft
    rows: int  # that can be indexed
    held_out: NDArray[np.int64]  # rows of the part that come last in the segment, as queries
    first_row: int  # row of the segment that the part starts at
    dim: int
    metric: Metric
    trained: Path | None  # trained index to fill; None: there is none, or it is filled later
    queries: NDArray[np.float32]  # [Q, D]
    k: int
    threads: int  # 0: FAISS's default


@dataclass(frozen=True)
class EncodedPart:
    """Result of ``encode``, in addition to the files ``shard_file`` and ``rows_file``."""

    rows: int
    held_out: pa.Table  # rows of the index
    neighbors: Neighbors  # of the queries, in this part


def shard_file(folder: Path, number: int) -> Path:
    """The filled index of a part; removed when the shards are merged."""
    return folder / f".shard-{number:05d}.faiss"


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


def sample(task: SampleTask) -> NDArray[np.float32]:
    """The wanted vectors of a part, [S, D], prepared for the metric.

    Raises:
        SnapshotError: one of them is zero or not finite.
    """
    vectors = [np.empty((0, task.dim), np.float32)]
    start = 0
    for batch in _embedded_batches(task.part, ["detection_id"]):
        low, high = np.searchsorted(task.rows, [start, start + batch.num_rows])
        wanted = task.rows[low:high] - start
        if len(wanted):
            ids = batch["detection_id"].take(pa.array(wanted)).to_pylist()
            vectors.append(prepare(_embeddings(batch, task.dim)[wanted], ids, task.metric))
        start += batch.num_rows
    return np.concatenate(vectors)


def encode(task: EncodeTask) -> EncodedPart:
    """Write a part's vectors and rows, fill its shard, find the queries' neighbours in it.

    Raises:
        SnapshotError: a vector is zero or not finite, or the run is damaged.
        OSError: the disk refused.
    """
    if task.threads:
        faiss.omp_set_num_threads(task.threads)
    shard = faiss.read_index(str(task.trained)) if task.trained else None
    nearest = ExactKnn(task.queries, task.k, task.metric)
    is_held_out = np.zeros(task.rows, bool)
    is_held_out[task.held_out] = True
    held_out: list[pa.RecordBatch] = []
    start, row = 0, task.first_row
    with pa.ipc.new_file(rows_file(task.folder, task.number), ROWS_SCHEMA) as sink:
        for batch in _embedded_batches(task.part, RUN_COLUMNS):
            if start + batch.num_rows > task.rows:
                break
            ids = batch["detection_id"].to_pylist()
            vectors = prepare(_embeddings(batch, task.dim), ids, task.metric)
            is_query = is_held_out[start : start + batch.num_rows]
            rows = to_index_rows(batch, task.part.run)
            held_out.append(rows.filter(pa.array(is_query)))
            if is_query.any():
                rows, vectors = rows.filter(pa.array(~is_query)), vectors[~is_query]
            sink.write_batch(rows)
            store.write(task.folder / VECTORS, row, vectors, task.metric)
            nearest.add(vectors, row)
            if shard is not None:
                shard.add_with_ids(vectors, np.arange(row, row + len(vectors)))
            start += batch.num_rows
            row += len(vectors)
    if start != task.rows or row != task.first_row + task.rows - len(task.held_out):
        raise SnapshotError(
            f"{task.part.path} has {task.rows} rows without an error, and another number of them "
            "hold an embedding; it is damaged: check with 'onepass inspect RUN --verify'"
        )
    if shard is not None:
        save(shard, shard_file(task.folder, task.number))
    joined = pa.Table.from_batches(held_out, ROWS_SCHEMA)
    return EncodedPart(task.rows, joined, nearest.neighbors())


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
