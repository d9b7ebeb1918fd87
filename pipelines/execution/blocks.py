"""A plan cut into blocks: one plan file each, which is answered and written as one.

Cut between images, so that an image is decoded once and every lane finds work soon.

A block that a lane works on is marked. Decoders are C libraries, and a damaged image can end the
process that reads it. Its block then still has a mark in ``RUN/open/``, and the next session reads
the block's images in a child process first: the image that ends the child becomes an error, and all
others are answered.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from cluster.children import Child, ChildDiedError
from cluster.slots import Slots
from common.moved import ImageRoot
from common.parquet import write_parquet
from common.storage import list_folder, make_folder, remove_folder
from pipelines.detections import with_column
from pipelines.images.errors import ImageError
from pipelines.request import Request

if TYPE_CHECKING:
    from pipelines.images.reader import ImageReader

BLOCK_BYTES = 64 * 2**20  # of what a block holds most of: pixels, or kept maps
BLOCK_ROWS = 512
PART = "part-"  # how names of plan files begin
OPEN = "open"  # the folder of marks in a run
RETRIES = 2  # of a block whose stage raised an error, in the same process
_IMAGE_SECONDS = 120.0  # an image that takes longer to read is as bad as one that crashes


def write_plan(folder: Path, table: pa.Table, request: Request, slots: Slots) -> dict[str, str]:
    """Write the plan in files of one block each.

    Args:
        folder: gets the files, and nothing else stays in it.
        table: the planned rows.
        request: of the run.
        slots: that will answer it.

    Returns:
        Name of each file to its sha256.
    """
    cuts = cut_plan(table, request, block_rows(request, table.num_rows, slots))
    return write_blocks(folder, [table.slice(begin, end - begin) for begin, end in cuts])


def cut_plan(table: pa.Table, request: Request, rows: int) -> list[tuple[int, int]]:
    """Where blocks of at least ``rows`` rows begin and end.

    Cut only between images, and where they fit in a block between videos: a video that is
    cut is decoded up to the cut twice.

    Args:
        table: the planned rows.
        request: of the run.
        rows: of a block, at least.
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


def write_blocks(folder: Path, blocks: Sequence[pa.Table]) -> dict[str, str]:
    """Write each of ``blocks`` as a plan file, of which it returns name and sha256; others go."""
    remove_folder(folder)
    make_folder(folder)
    names = (f"{PART}{number:05d}.parquet" for number in range(len(blocks)))
    return {
        name: write_parquet(block, folder / name) for name, block in zip(names, blocks, strict=True)
    }


def _starts(column: pa.ChunkedArray) -> np.ndarray:
    """Rows where another value begins."""
    codes = column.combine_chunks().dictionary_encode().indices.to_numpy()
    return np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])


def _next(starts: np.ndarray, least: int, total: int) -> int:
    later = starts[np.searchsorted(starts, least) :]
    return int(later[0]) if len(later) else total


def block_rows(request: Request, planned: int, slots: Slots) -> int:
    """Rows of a block: what fits in its bytes, and fewer where actors would stay idle.

    Args:
        request: of the run.
        planned: rows in all.
        slots: that will answer them.
    """
    return min(_most_rows(request), max(16, -(-planned // (4 * slots.actors))))


def _most_rows(request: Request) -> int:
    height, width = request.facts.preprocess.input_size
    kept = sum(4 * math.prod(info.shape) for info in request.facts.maps)
    return min(BLOCK_ROWS, max(1, BLOCK_BYTES // max(height * width * 3, kept)))


class OpenBlocks:
    """The marks of one run's blocks."""

    def __init__(self, run: Path) -> None:
        self._folder = run / OPEN
        make_folder(self._folder)
        self._died = {mark.name for mark in list_folder(self._folder)}

    @contextlib.contextmanager
    def working_on(self, name: str) -> Iterator[bool]:
        """Mark the block while the context runs; whether a session has died over it before."""
        mark = self._folder / name
        mark.write_bytes(b"")
        try:
            yield name in self._died
        finally:  # this process lives
            with contextlib.suppress(OSError):
                mark.unlink(missing_ok=True)


def with_crashes(rows: pa.Table, root: ImageRoot) -> pa.Table:
    """The rows with an ``error`` where reading the image ends the process that does it.

    Each image is read in a child process.
    """
    errors: list[str | None] = (
        rows["error"].to_pylist() if "error" in rows.column_names else [None] * rows.num_rows
    )
    images = rows["image"].to_pylist()
    child = Child()
    try:
        verdict: str | None = None
        for row, image in enumerate(images):
            if errors[row] is not None:
                continue
            if not row or image != images[row - 1]:
                try:
                    verdict = child.call(_read, (root, image), seconds=_IMAGE_SECONDS)
                except ChildDiedError as died:
                    verdict = f"crashed decoder: reading it {died} [{image}]"
                    child.close()
                    child = Child()
            errors[row] = verdict
    finally:
        child.close()
    return with_column(rows, "error", pa.array(errors, pa.string()))


def _read(where: tuple[ImageRoot, str]) -> None:
    """Read an image and ignore its errors, which are reported when it is answered."""
    root, image = where
    with contextlib.suppress(ImageError):
        _reader(root).read(image)


@functools.cache
def _reader(root: ImageRoot) -> ImageReader:
    """One for all calls, because opening a video takes long."""
    from pipelines.images.reader import ImageReader  # late: it imports torch

    return ImageReader(root)
