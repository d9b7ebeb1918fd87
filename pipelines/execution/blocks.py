"""A plan cut into blocks: one plan file each, which is answered and written as one.

Cut between images, so that an image is decoded once and every lane finds work soon.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from cluster.slots import Slots
from common.storage import make_folder, remove_folder, write_parquet
from pipelines.request import Request

BLOCK_BYTES = 64 * 2**20  # of what a block holds most of: pixels, or kept maps
BLOCK_ROWS = 512
PART = "part-"  # how names of plan files begin
RETRIES = 2  # of a block whose stage raised an error, in the same process


def write_plan(folder: Path, table: pa.Table, request: Request, slots: Slots) -> None:
    """Write the plan in files of one block each."""
    cuts = cut_plan(table, request, block_rows(request, table.num_rows, slots))
    write_blocks(folder, [table.slice(begin, end - begin) for begin, end in cuts])


def cut_plan(table: pa.Table, request: Request, rows: int) -> list[tuple[int, int]]:
    """Where blocks of at least ``rows`` rows begin and end.

    Cut only between images, and where they fit in a block between videos: a video that is
    cut is decoded up to the cut twice.
    """
    most = _most_rows(request)
    images = _starts(table["image"])
    videos = _starts(table["sequence"]) if request.config.kind == "video" else images
    cuts: list[tuple[int, int]] = []
    begin = 0
    while begin < table.num_rows:
        end = _next(videos, begin + rows, table.num_rows)
        if end - begin > max(most, rows):
            end = _next(images, begin + rows, table.num_rows)
        cuts.append((begin, end))
        begin = end
    return cuts


def write_blocks(folder: Path, blocks: Sequence[pa.Table]) -> None:
    """Write each of ``blocks`` as a plan file; what stood in ``folder`` goes."""
    remove_folder(folder)
    make_folder(folder)
    for number, block in enumerate(blocks):
        write_parquet(block, folder / f"{PART}{number:05d}.parquet")


def _starts(column: pa.ChunkedArray) -> np.ndarray:
    """Rows where another value begins."""
    codes = column.combine_chunks().dictionary_encode().indices.to_numpy()
    return np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])


def _next(starts: np.ndarray, least: int, total: int) -> int:
    later = starts[np.searchsorted(starts, least) :]
    return int(later[0]) if len(later) else total


def block_rows(request: Request, planned: int, slots: Slots) -> int:
    """Rows of a block: what fits in its bytes, and fewer where actors would stay idle."""
    return min(_most_rows(request), max(16, -(-planned // (4 * slots.actors))))


def _most_rows(request: Request) -> int:
    height, width = request.facts.preprocess.input_size
    kept = sum(4 * math.prod(known.shape) for known in request.facts.maps)
    return min(BLOCK_ROWS, max(1, BLOCK_BYTES // max(height * width * 3, kept)))
