"""The one reader of stored embeddings: columns of lists as arrays, rows in any order.

Every other package that needs embeddings of a run reads them here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from common.errors import RunError
from common.storage import open_parquet
from pipelines.run import Run

Ints = npt.NDArray[np.int64]

_BATCH_ROWS = 1024


def read_embeddings(run: Run, files: Ints, places: Ints) -> npt.NDArray[np.float32]:
    """Embeddings ``[N, D]`` of N rows.

    Args:
        run: whose rows these are.
        files: of each row, which of ``run.files()`` it stands in.
        places: of each row, which row of that file it is; none twice.

    Raises:
        RunError: a row has no embedding, although it has no error.
    """
    found = np.empty((len(files), run.manifest.model.feature_dim), dtype=np.float32)
    names = run.files()
    for number in np.unique(files):
        mine = np.flatnonzero(files == number)
        order = mine[np.argsort(places[mine])]
        done = 0
        for start, column in _batches(names[number], places[order]):
            stop = int(np.searchsorted(places[order], start + len(column)))
            here = order[done:stop]
            wanted = column.take(pa.array(places[here] - start))
            if wanted.null_count:
                raise RunError(
                    f"{run.path}: {wanted.null_count} detections of {names[number].name} have "
                    "neither an embedding nor an error; extract again and keep the features"
                )
            found[here] = wanted.flatten().to_numpy().reshape(len(here), -1)
            done = stop
    return found


def _batches(file: Path, places: Ints) -> Iterator[tuple[int, pa.Array]]:
    """Batches of the embedding column that hold a place, each with the place it starts at."""
    with open_parquet(file) as parquet:
        start = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if np.searchsorted(places, start + rows) > np.searchsorted(places, start):
                at = start
                for batch in parquet.iter_batches(
                    _BATCH_ROWS, row_groups=[group], columns=["embedding"]
                ):
                    if np.searchsorted(places, at + batch.num_rows) > np.searchsorted(places, at):
                        yield at, batch["embedding"]
                    at += batch.num_rows
            start += rows


def matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    """A column of lists of D numbers as ``[N, D]``; rows with an error hold NaN already."""
    values: np.ndarray = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return values
