"""Build one segment from parts: write their vectors and rows in parallel, then make it searchable.

The vectors are written into one file at their offsets, so that no process holds all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.tasks import Tasks
from index.build.encode import EncodeTask, encode, rows_file
from index.build.inputs import Inputs
from index.build.searchable import ReportRows, make_searchable
from index.config import IndexConfig
from index.storage import store
from index.storage.layout import IDS, ROWS, VECTORS, SegmentEntry
from index.storage.rows import read_rows, write_ids, write_rows


def assemble(
    folder: Path,
    inputs: Inputs,
    *,
    dim: int,
    config: IndexConfig,
    memory_bytes: int,
    tasks: Tasks,
    report: ReportRows,
) -> SegmentEntry:
    """Build a segment; its rows are in the order of the input.

    Args:
        folder: an empty folder for its files.
        inputs: rows of the segment.
        dim: values per vector.
        config: metric, factory and the recall to tune for.
        memory_bytes: memory of one process.
        tasks: runs the work on the parts.
        report: called with (rows done, rows in all); a row is half done when it is written.

    Raises:
        SnapshotError: the factory does not work, or a source is damaged.
        OSError: the disk refused.
    """
    total, written = inputs.rows, 0

    def report_written(rows: int) -> None:
        nonlocal written
        written += rows
        report(written // 2, total)

    store.create(folder / VECTORS, total, dim, config.metric)
    first_rows = np.cumsum([0, *(counts.rows for counts in inputs.counts)]).tolist()
    jobs = [
        EncodeTask(part, number, folder.resolve(), counts.rows, first_row, dim, config.metric)
        for number, ((part, counts), first_row) in enumerate(zip(inputs, first_rows, strict=False))
    ]
    tasks.run(encode, jobs, done=report_written)
    _join_rows(folder, inputs)
    return make_searchable(
        folder,
        dim=dim,
        config=config,
        memory_bytes=memory_bytes,
        tasks=tasks,
        report=lambda done, _: report((total + done) // 2, total),
    )


def _join_rows(folder: Path, inputs: Inputs) -> None:
    """Write ``rows.arrow`` and ``ids.npy`` of the rows of the parts."""
    files = [rows_file(folder, number) for number in range(len(inputs.parts))]

    def batches() -> Iterator[pa.RecordBatch]:
        for file in files:
            yield from read_rows(file).to_batches()

    write_rows(folder / ROWS, batches(), inputs.parts[0].schema)
    write_ids(folder / IDS, np.concatenate([counts.hashes for counts in inputs.counts]))
    for file in files:
        file.unlink()
