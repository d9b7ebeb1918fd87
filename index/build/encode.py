"""The tasks of a build, each on one part of the rows: count, sample, encode. Each runs anywhere.

A part is some Parquet files of one run. A task holds one batch of its vectors and their codes in
memory; it writes its vectors into the one file of the segment, at their offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import SnapshotError
from index.build.sources.source import Part
from index.config import Metric
from index.metrics import prepare
from index.search.accelerator import Neighbors
from index.search.factory import save
from index.search.recall import ExactKnn
from index.storage import store
from index.storage.layout import ROWS, VECTORS


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


def sample(task: SampleTask) -> NDArray[np.float32]:
    """The wanted vectors of a part, [S, D], prepared for the metric.

    Raises:
        SnapshotError: one of them is zero or not finite.
    """
    vectors = [np.empty((0, task.dim), np.float32)]
    start = 0
    for rows, raw in task.part.batches():
        low, high = np.searchsorted(task.rows, [start, start + len(raw)])
        wanted = task.rows[low:high] - start
        if len(wanted):
            ids = rows["detection_id"].take(pa.array(wanted)).to_pylist()
            vectors.append(prepare(raw[wanted], ids, task.metric))
        start += len(raw)
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
    with pa.ipc.new_file(rows_file(task.folder, task.number), task.part.schema) as sink:
        for rows, raw in task.part.batches():
            if start + len(raw) > task.rows:
                break
            vectors = prepare(raw, rows["detection_id"].to_pylist(), task.metric)
            is_query = is_held_out[start : start + len(raw)]
            held_out.append(rows.filter(pa.array(is_query)))
            if is_query.any():
                rows, vectors = rows.filter(pa.array(~is_query)), vectors[~is_query]
            sink.write_batch(rows)
            store.write(task.folder / VECTORS, row, vectors, task.metric)
            nearest.add(vectors, row)
            if shard is not None:
                shard.add_with_ids(vectors, np.arange(row, row + len(vectors)))
            start += len(raw)
            row += len(vectors)
    if start != task.rows or row != task.first_row + task.rows - len(task.held_out):
        raise SnapshotError(
            f"{task.part.path} had {task.rows} rows to index and now has another number; it was "
            "changed while the index was built"
        )
    if shard is not None:
        save(shard, shard_file(task.folder, task.number))
    joined = pa.Table.from_batches(held_out, task.part.schema)
    return EncodedPart(task.rows, joined, nearest.neighbors())
