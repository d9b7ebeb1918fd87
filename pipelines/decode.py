"""The decode stage: plan rows in, uint8 pixels out, trouble as text.

Pixels travel in one fixed-size binary column, which Arrow and NumPy share without a copy.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import torch

from pipelines.detections import BOX
from pipelines.facts import Preprocess
from pipelines.images import Decoded, ImageError, cut, decode, fit, read

PIXELS = "pixels"


class DecodeBlock:
    """Plan rows to pixels; an image with several boxes is decoded once.

    Rows of one image stand together in the plan, so remembering the last image is enough.
    Whatever is wrong with an image or a box becomes the row's ``error``.
    """

    def __init__(self, root: str, preprocess: Preprocess, board: Any) -> None:
        self._root = Path(root)
        self._preprocess = preprocess
        self._board = board

    def __call__(self, rows: pa.Table) -> pa.Table:
        torch.set_num_threads(1)
        height, width = self._preprocess.input_size
        size = height * width * 3
        buffer = torch.zeros((rows.num_rows, height, width, 3), dtype=torch.uint8)
        errors: list[str | None] = []
        taken: list[Any] = []
        for number, (image, result) in enumerate(self._images(rows)):
            decoded, box = result
            taken.append(decoded.taken if isinstance(decoded, Decoded) else None)
            try:
                if isinstance(decoded, ImageError):
                    raise decoded
                pixels = fit(cut(decoded.pixels, box), self._preprocess)
            except ImageError as error:
                errors.append(f"{error} [{image}]")
                continue
            buffer[number] = pixels.permute(1, 2, 0)
            errors.append(None)
        if self._board is not None:
            self._board.decoded.remote(rows.num_rows)
        stamps = rows["timestamp"].combine_chunks()
        stamps = pc.coalesce(stamps, pa.array(taken, stamps.type))
        column = pa.Array.from_buffers(
            pa.binary(size), rows.num_rows, [None, pa.py_buffer(buffer.numpy())]
        )
        at = rows.column_names.index("timestamp")
        return (
            rows.set_column(at, "timestamp", stamps)
            .append_column("error", pa.array(errors, pa.string()))
            .append_column(PIXELS, column)
        )

    def _images(
        self, rows: pa.Table
    ) -> Iterator[tuple[str, tuple[Decoded | ImageError, tuple[float | None, ...]]]]:
        last: str | None = None
        decoded: Decoded | ImageError | None = None
        boxes = zip(*(rows[name].to_pylist() for name in BOX), strict=True)
        for image, box in zip(rows["image"].to_pylist(), boxes, strict=True):
            if image != last or decoded is None:
                try:
                    decoded = decode(read(self._root / image))
                except ImageError as error:
                    decoded = error
                last = image
            yield image, (decoded, box)
