"""The task that writes the rows of one part into a segment. It runs anywhere.

A task holds one batch of vectors in memory; it writes them into the one file of the segment, at
their offset.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from common.errors import SnapshotError
from index.build.sources.source import Part
from index.config import Metric
from index.metrics import prepare
from index.storage import store
from index.storage.layout import ROWS, VECTORS


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


def encode(task: EncodeTask) -> int:
    """Write a part's vectors into the file of the segment, its rows into ``rows_file``.

    Returns:
        The number of rows.

    Raises:
        SnapshotError: the source is damaged, or has changed.
        OSError: the disk refused.
    """
    done = 0
    with pa.ipc.new_file(rows_file(task.folder, task.number), task.part.schema) as sink:
        for rows, raw in task.part.batches():
            if done + len(raw) > task.rows:
                done = -1
                break
            vectors = prepare(raw, rows["detection_id"].to_pylist(), task.metric)
            sink.write_batch(rows)
            store.write(task.folder / VECTORS, task.first_row + done, vectors, task.metric)
            done += len(raw)
    if done != task.rows:
        raise SnapshotError(
            f"{task.part.path} had {task.rows} rows to index and now has another number; it was "
            "changed while the index was built"
        )
    return done
