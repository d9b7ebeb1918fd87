"""What a build does with one part of the rows: count, sample, encode. Each runs anywhere.

A part is some Parquet files of one run. A task holds a batch of its vectors and the codes it
makes of them, never more; it writes its vectors into the segment's one file, at their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import SnapshotError
from common.storage import open_parquet
from index.metrics import Metric, prepare
from index.search.factory import save
from index.search.recall import ExactKnn
from index.storage import store
from index.storage.layout import ROWS, VECTORS
from index.storage.rows import ROWS_SCHEMA, RUN_COLUMNS, hash_ids, to_index_rows

_BATCH_ROWS = 8192


@dataclass(frozen=True)
class Part:
    """Parquet files of one run, and which of its rows are wanted."""

    run: int  # its place among the runs of the snapshot
    path: Path  # of the run, for messages
    files: tuple[Path, ...]
    kept: NDArray[np.int64] | None  # row_ids, ascending; None: all


@dataclass(frozen=True)
class RowCounts:
    """How many rows of a part can be indexed, how many have an error, and their ids' hashes."""

    rows: int
    skipped: int
    hashes: NDArray[np.uint64]  # in the order of the rows


@dataclass(frozen=True)
class SampleTask:
    """A part, and which of its rows are wanted, counted among those that can be indexed."""

    part: Part
    wanted: NDArray[np.int64]  # ascending
    dim: int
    metric: Metric


@dataclass(frozen=True)
class EncodeTask:
    """A part, where it goes, and what is measured along the way."""

    part: Part
    number: int
    folder: Path  # of the segment, in the draft
    rows: int  # that can be indexed
    held: NDArray[np.int64]  # of them, kept aside: they come last in the segment
    first: int  # row of the segment that the part's first goes to
    dim: int
    metric: Metric
    trained: Path | None  # the trained index to fill; None: there is none, or it is filled later
    queries: NDArray[np.float32]
    k: int
    threads: int  # 0: FAISS's own choice


@dataclass(frozen=True)
class EncodedPart:
    """What came of it, beside the files that ``shard_file`` and ``rows_file`` name."""

    rows: int
    held: pa.Table  # described rows of those kept aside
    found: tuple[NDArray[np.float32], NDArray[np.int64]]  # nearest of the queries in this part


def shard_file(folder: Path, number: int) -> Path:
    """The filled index of a part; gone when the shards are merged."""
    return folder / f".shard-{number:05d}.faiss"


def rows_file(folder: Path, number: int) -> Path:
    """The described rows of a part; gone when they are joined."""
    return folder / f".{ROWS}-{number:05d}"


def count(part: Part) -> RowCounts:
    """Count the rows of a part without reading a vector."""
    skipped, hashes = 0, [np.empty(0, np.uint64)]
    for names, failed in iterate_ids(part):
        hashes.append(hash_ids(names))
        skipped += failed
    joined = np.concatenate(hashes)
    return RowCounts(len(joined), skipped, joined)


def iterate_ids(part: Part) -> Iterator[tuple[list[str], int]]:
    """Detection ids of the rows that can be indexed, batch by batch, and how many have an error."""
    for batch in _batches(part, ["row_id", "detection_id", "error"]):
        good = batch.filter(pc.is_null(batch["error"]))
        yield (
            _kept(good, part)["detection_id"].to_pylist(),
            batch.num_rows - good.num_rows,
        )


def sample(wish: SampleTask) -> NDArray[np.float32]:
    """The wanted vectors of a part, [S, D], prepared for the metric.

    Raises:
        SnapshotError: one of them is zero or not finite.
    """
    found = [np.empty((0, wish.dim), np.float32)]
    start = 0
    for batch in _good(wish.part, ["detection_id"]):
        low, high = np.searchsorted(wish.wanted, [start, start + batch.num_rows])
        here = wish.wanted[low:high] - start
        if len(here):
            names = batch["detection_id"].take(pa.array(here)).to_pylist()
            found.append(prepare(_vectors(batch, wish.dim)[here], names, wish.metric))
        start += batch.num_rows
    return np.concatenate(found)


def encode(job: EncodeTask) -> EncodedPart:
    """Write a part's vectors and rows, fill its shard, compare the queries with it.

    Raises:
        SnapshotError: a vector is zero or not finite, or the run is damaged.
        OSError: the disk refused.
    """
    if job.threads:
        faiss.omp_set_num_threads(job.threads)
    shard = faiss.read_index(str(job.trained)) if job.trained else None
    nearest = ExactKnn(job.queries, job.k, job.metric)
    held_mask = np.zeros(job.rows, bool)
    held_mask[job.held] = True
    late: list[pa.RecordBatch] = []
    start, row = 0, job.first
    with pa.ipc.new_file(rows_file(job.folder, job.number), ROWS_SCHEMA) as rows:
        for batch in _good(job.part, RUN_COLUMNS):
            if start + batch.num_rows > job.rows:
                break
            names = batch["detection_id"].to_pylist()
            vectors = prepare(_vectors(batch, job.dim), names, job.metric)
            held = held_mask[start : start + batch.num_rows]
            told = to_index_rows(batch, job.part.run)
            late.append(told.filter(pa.array(held)))
            if held.any():
                told, vectors = told.filter(pa.array(~held)), vectors[~held]
            rows.write_batch(told)
            store.write(job.folder / VECTORS, row, vectors, job.metric)
            nearest.add(vectors, row)
            if shard is not None:
                shard.add_with_ids(vectors, np.arange(row, row + len(vectors)))
            start += batch.num_rows
            row += len(vectors)
    if start != job.rows or row != job.first + job.rows - len(job.held):
        raise SnapshotError(
            f"{job.part.path} has {job.rows} rows without an error, and another number of them "
            "hold an embedding; it is damaged: check with 'onepass inspect RUN --verify'"
        )
    if shard is not None:
        save(shard, shard_file(job.folder, job.number))
    return EncodedPart(job.rows, pa.Table.from_batches(late, ROWS_SCHEMA), nearest.found())


def _batches(part: Part, columns: list[str]) -> Iterator[pa.RecordBatch]:
    for file in part.files:
        with open_parquet(file) as parquet:
            yield from parquet.iter_batches(_BATCH_ROWS, columns=columns)


def _good(part: Part, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Batches of rows that can be indexed, with their embedding; never an empty one."""
    wanted = list(dict.fromkeys([*columns, "row_id", "embedding", "error"]))
    for batch in _batches(part, wanted):
        there = pc.and_(pc.is_null(batch["error"]), pc.is_valid(batch["embedding"]))
        good = _kept(batch.filter(there), part)
        if good.num_rows:
            yield good


def _kept(batch: pa.RecordBatch, part: Part) -> pa.RecordBatch:
    if part.kept is None:
        return batch
    return batch.filter(pa.array(np.isin(batch["row_id"].to_numpy(), part.kept)))


def _vectors(batch: pa.RecordBatch, dim: int) -> NDArray[np.floating[Any]]:
    """Embeddings of a batch, [N, dim], without a copy."""
    column = batch["embedding"]
    if not pa.types.is_fixed_size_list(column.type) or column.type.list_size != dim:
        raise SnapshotError(
            f"column 'embedding' is {column.type}, the run's manifest says {dim} values a row; "
            "the run is damaged: check with 'onepass inspect RUN --verify'"
        )
    vectors: NDArray[np.floating[Any]] = column.flatten().to_numpy().reshape(-1, dim)
    return vectors
