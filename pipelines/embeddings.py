"""The one reader of stored embeddings: columns of lists as arrays, rows in any order.

Every package that needs stored embeddings reads them here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common.errors import RunError
from common.parquet import open_parquet
from pipelines.run import Run

Ints = npt.NDArray[np.int64]

_BATCH_ROWS = 1024


def read_embeddings(run: Run, files: Ints, offsets: Ints) -> npt.NDArray[np.float32]:
    """Read the embeddings of N rows, in any order.

    Args:
        run: the rows' run.
        files: ``[N]``, index of each row's file in ``run.files()``.
        offsets: ``[N]``, each row's offset in its file; none twice.

    Returns:
        ``[N, D]``

    Raises:
        RunError: a row has no embedding, although it has no error.
        VerifyError: a file is missing or damaged.
    """
    embeddings = np.empty((len(files), run.manifest.model.feature_dim), dtype=np.float32)
    names = run.files()
    for number in np.unique(files):
        rows = np.flatnonzero(files == number)
        order = rows[np.argsort(offsets[rows])]
        done = 0
        for start, column in _batches(run.check(names[number]), offsets[order]):
            stop = int(np.searchsorted(offsets[order], start + len(column)))
            batch_rows = order[done:stop]
            values = column.take(pa.array(offsets[batch_rows] - start))
            if values.null_count:
                raise RunError(
                    f"{run.path}: {values.null_count} detections of {names[number].name} have "
                    "neither an embedding nor an error; extract again and keep the features"
                )
            embeddings[batch_rows] = values.flatten().to_numpy().reshape(len(batch_rows), -1)
            done = stop
    return embeddings


def _batches(file: Path, offsets: Ints) -> Iterator[tuple[int, pa.Array]]:
    """Batches of the embedding column that hold one of the sorted offsets, with their start."""

    def needed(start: int, rows: int) -> bool:
        low, high = np.searchsorted(offsets, [start, start + rows])
        return bool(high > low)

    with open_parquet(file) as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if not needed(start, rows):
                start += rows
                continue
            for batch in parquet.iter_batches(
                _BATCH_ROWS, row_groups=[group], columns=["embedding"]
            ):
                if needed(start, batch.num_rows):
                    yield start, batch["embedding"]
                start += batch.num_rows


def matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    """A column of lists of D numbers as ``[N, D]``; rows with an error hold NaN already."""
    values: np.ndarray = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return values
