"""Blocks that a lane works on, so that the next session knows where this one died.

Decoders are C libraries, and a damaged image can end the process that reads it. Its block then
still has a mark in ``RUN/open/``, and the next session reads the block's images in a child
process first: the image that ends the child becomes an error, and all others are answered.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.children import Child, ChildDiedError
from common.storage import list_folder, make_folder, to_path

if TYPE_CHECKING:
    from pipelines.images.reader import ImageReader

FOLDER = "open"
_IMAGE_SECONDS = 120.0  # an image that takes longer to read is as bad as one that crashes


class OpenBlocks:
    """The marks of one run."""

    def __init__(self, run: Path) -> None:
        self._folder = run / FOLDER
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


def with_crashes(rows: pa.Table, root: Path) -> pa.Table:
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
                    verdict = child.call(_read, (str(root), image), seconds=_IMAGE_SECONDS)
                except ChildDiedError as died:
                    verdict = f"crashed decoder: reading it {died} [{image}]"
                    child.close()
                    child = Child()
            errors[row] = verdict
    finally:
        child.close()
    column = pa.array(errors, pa.string())
    if "error" in rows.column_names:
        return rows.set_column(rows.column_names.index("error"), "error", column)
    return rows.append_column("error", column)


def _read(where: tuple[str, str]) -> None:
    """Read an image and ignore its errors, which are reported when it is answered."""
    from pipelines.images.pixels import ImageError

    root, image = where
    with contextlib.suppress(ImageError):
        _reader(root).read(image)


@functools.cache
def _reader(root: str) -> ImageReader:
    """One for all calls, because opening a video takes long."""
    from pipelines.images.reader import ImageReader

    return ImageReader(to_path(root))
