"""Merge segments: which ones an ``add`` joins, and the new folder that their rows are copied into.

Rows and vectors are read from the segments themselves, block by block, so no run is needed and no
process holds all of them. Stored vectors are prepared for the metric already and stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from index.config import Metric
from index.search.segment import Segment
from index.storage import store
from index.storage.layout import IDS, ROWS, VECTORS
from index.storage.rows import conform, hash_ids, write_ids, write_rows

MAX_MERGED_VALUES = 2**28
"""``add`` makes no larger segment of smaller ones: 1 GiB of vectors, 200,000 rows of 1,280."""

_BLOCK_ROWS = 8192


@dataclass(frozen=True)
class Piece:
    """Some rows of an open segment; ``rows`` are ascending."""

    segment: Segment
    rows: NDArray[np.int64]

    @property
    def dim(self) -> int:
        """Values of a vector."""
        return self.segment.dim


def first_merged(sizes: Sequence[int], new: int, *, base: int, dim: int) -> int:
    """The segments that an ``add`` merges with its new rows: those from this position on.

    From the newest segment back, each joins that has less than twice the rows of what was joined
    before it. So every segment that stays has at least twice the rows of the next: after N adds
    there are some log2(N). And a row that is copied lands in a segment at least half as large again
    as the one it was in: it is copied some log1.5(N) times in all.

    Args:
        sizes: undeleted rows of each segment, in order.
        new: rows that are added.
        base: segments at the front that are left alone: those of the last build or ``compact``.
        dim: values per vector.

    Returns:
        A position in ``sizes``, or its length: then the new rows stay alone.
    """
    first, total = len(sizes), new
    while first > base and sizes[first - 1] < 2 * total:
        if (total + sizes[first - 1]) * dim > MAX_MERGED_VALUES:
            break
        first -= 1
        total += sizes[first]
    return first


def split_evenly(pieces: Sequence[Piece], parts: int) -> list[list[Piece]]:
    """Divide rows, in order, into at most ``parts`` groups of about equally many; none is empty."""
    total = sum(len(piece.rows) for piece in pieces)
    edges = np.linspace(0, total, min(parts, total) + 1).astype(int).tolist()
    groups: list[list[Piece]] = []
    for low, high in pairwise(edges):
        group, start = [], 0
        for piece in pieces:
            own = piece.rows[max(0, low - start) : max(0, high - start)]
            if len(own):
                group.append(Piece(piece.segment, own))
            start += len(piece.rows)
        groups.append(group)
    return groups


def copy_rows(
    folder: Path,
    pieces: Sequence[Piece],
    schema: pa.Schema,
    metric: Metric,
    run_numbers: NDArray[np.int16] | None = None,
) -> None:
    """Write ``vectors.faiss``, ``rows.arrow`` and ``ids.npy`` of a new segment.

    Args:
        folder: an empty folder.
        pieces: the rows, in the order that they will have.
        schema: of the rows of the version; a column that no piece has is left out.
        metric: how vectors are compared.
        run_numbers: by the position of a run in the manifest, its new one; None: the same.

    Raises:
        VerifyError: a file of a piece is damaged.
        OSError: the disk refused.
    """
    for piece in pieces:  # what is written gets a sha256 of its own, which no damage may have
        piece.segment.check_copied()
    total = sum(len(piece.rows) for piece in pieces)
    there = {name for piece in pieces for name in piece.segment.rows.tables[0].column_names}
    schema = pa.schema([field for field in schema if field.name in there])
    store.create(folder / VECTORS, total, pieces[0].dim, metric)
    hashes: list[NDArray[np.uint64]] = []

    def batches() -> Iterator[pa.RecordBatch]:
        row = 0
        for batch, vectors in _blocks(pieces):
            store.write(folder / VECTORS, row, vectors, metric)
            hashes.append(hash_ids(batch["detection_id"].to_pylist()))
            row += len(vectors)
            if run_numbers is not None:
                batch = _renumbered(batch, run_numbers)
            yield from conform(pa.Table.from_batches([batch]), schema).to_batches()

    write_rows(folder / ROWS, batches(), schema)
    write_ids(folder / IDS, np.concatenate(hashes))


def _blocks(pieces: Sequence[Piece]) -> Iterator[tuple[pa.RecordBatch, NDArray[np.float32]]]:
    for piece in pieces:
        start = 0
        for batch in piece.segment.rows.tables[0].to_batches(max_chunksize=_BLOCK_ROWS):
            low, high = np.searchsorted(piece.rows, [start, start + batch.num_rows])
            rows = piece.rows[low:high]
            if len(rows) == batch.num_rows:
                yield batch, piece.segment.vectors(rows)
            elif len(rows):
                yield batch.take(pa.array(rows - start)), piece.segment.vectors(rows)
            start += batch.num_rows


def _renumbered(batch: pa.RecordBatch, run_numbers: NDArray[np.int16]) -> pa.RecordBatch:
    position = batch.schema.get_field_index("run")
    numbers = pa.array(run_numbers[batch["run"].to_numpy()])
    return batch.set_column(position, batch.schema.field(position), numbers)
