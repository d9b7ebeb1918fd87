"""The decode stage: plan rows in, uint8 pixels or an error text out.

Pixels are in fixed-size binary columns, which Arrow and NumPy share without a copy: one for the
model, and one for a gate with another input.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import closing
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from common.errors import first_line
from common.moved import ImageRoot
from common.sampling import even_parts
from pipelines.config import OnDamage
from pipelines.detections import BOX, IMAGE_DAMAGE, with_column
from pipelines.images.errors import DAMAGED, ImageError
from pipelines.images.pixels import Decoded, crop, resize
from pipelines.images.reader import ImageReader
from pipelines.model_info import Preprocess

# In names that no source has.
PIXELS, GATE_PIXELS = "decode:pixels", "decode:gate_pixels"
_REPORT_SECONDS = 1.0  # the frames of a block may be hours of video apart

Decoding = Generator[tuple[str, Decoded | ImageError, tuple[float | None, ...]]]


def decode_rows(
    rows: pa.Table,
    root: Path | ImageRoot,
    inputs: dict[str, Preprocess],
    *,
    damaged: OnDamage = "error",
    done: Callable[[int], None] = lambda rows: None,
) -> pa.Table:
    """Plan rows with an ``error`` column and one column of pixels for each of ``inputs``.

    A problem with an image or a box becomes the row's ``error``, unless the plan has one already.

    Args:
        rows: of a plan.
        root: where the images are.
        inputs: name of the pixel column to its preprocessing.
        damaged: ``keep`` takes what can be decoded of a damaged image, and adds the column
            ``image_damage``, which says what is wrong.
        done: receives the number of rows finished since its last call.
    """
    (decoded,) = decode_batches(
        rows, root, inputs, max(1, rows.num_rows), damaged=damaged, done=done
    )
    return decoded


def decode_batches(
    rows: pa.Table,
    root: Path | ImageRoot,
    inputs: dict[str, Preprocess],
    most: int,
    *,
    damaged: OnDamage = "error",
    done: Callable[[int], None] = lambda rows: None,
) -> Generator[pa.Table]:
    """``decode_rows`` in parts of at most ``most`` rows, to limit the memory for pixels.

    Videos stay open from one part to the next, and an image with rows in two is decoded once.

    Args:
        rows, root, inputs, damaged, done: as of ``decode_rows``.
        most: rows of a part.
    """
    with closing(_decode_images(rows, root, damaged)) as images:
        for begin, end in even_parts(rows.num_rows, most):
            decoded = _decode(rows.slice(begin, end - begin), images, inputs, done)
            yield decoded if damaged == "keep" else decoded.drop_columns([IMAGE_DAMAGE])


def _decode(
    rows: pa.Table,
    images: Decoding,
    inputs: dict[str, Preprocess],
    done: Callable[[int], None],
) -> pa.Table:
    """Decode rows with the next of ``images``."""
    buffers = {
        name: torch.zeros((rows.num_rows, *preprocess.input_size, 3), dtype=torch.uint8)
        for name, preprocess in inputs.items()
    }
    errors: list[str | None] = []
    taken: list[Any] = []
    damage: list[str | None] = []
    reported, reported_at = 0, time.monotonic()
    for number, (image, decoded, box) in enumerate(islice(images, rows.num_rows)):
        if time.monotonic() - reported_at > _REPORT_SECONDS:
            done(number - reported)
            reported, reported_at = number, time.monotonic()
        taken.append(decoded.taken if isinstance(decoded, Decoded) else None)
        damage.append(decoded.damage if isinstance(decoded, Decoded) else None)
        try:
            if isinstance(decoded, ImageError):
                raise decoded
            region = crop(decoded.pixels, box)
            for name, preprocess in inputs.items():
                buffers[name][number] = _resize(region, preprocess).permute(1, 2, 0)
        except ImageError as error:
            errors.append(f"{error} [{image}]")
            continue
        errors.append(None)
    done(rows.num_rows - reported)
    timestamps = rows["timestamp"].combine_chunks()
    timestamps = pc.coalesce(timestamps, pa.array(taken, timestamps.type))
    rows = with_column(rows, "timestamp", timestamps)
    error_column = pa.array(errors, pa.string())
    if "error" in rows.column_names:
        error_column = pc.coalesce(rows["error"], error_column)
    rows = with_column(rows, IMAGE_DAMAGE, pa.array(damage, pa.string()))
    rows = with_column(rows, "error", error_column)
    for name, buffer in buffers.items():
        rows = rows.append_column(name, _pack(buffer))
    return rows


def _resize(region: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """``resize``, with an ``ImageError`` for a region that it cannot take."""
    try:
        return resize(region, preprocess)
    except RuntimeError as error:
        if "memory" in str(error):  # torch has no error of its own for it
            raise MemoryError(first_line(error)) from None
        raise ImageError(
            DAMAGED, f"{[*region.shape]} cannot be resized: {first_line(error)}"
        ) from None


def _decode_images(rows: pa.Table, root: Path | ImageRoot, damaged: OnDamage) -> Decoding:
    """Each row's image name, its decoded image or the error, and its box.

    An image with several boxes is decoded once: rows of one image are adjacent in a plan, so it
    is enough to keep the last image. Nothing is read for rows with an error.
    """
    last: str | None = None
    decoded: Decoded | ImageError | None = None
    boxes = zip(*(rows[name].to_pylist() for name in BOX), strict=True)
    errors = rows["error"].to_pylist() if "error" in rows.column_names else [None] * rows.num_rows
    images = rows["image"].to_pylist()
    usable = (image for image, error in zip(images, errors, strict=True) if error is None)
    names = (image for image, _ in groupby(usable))
    with closing(ImageReader(root, names, damaged=damaged)) as reader:
        for image, box, error in zip(images, boxes, errors, strict=True):
            if error is not None:
                yield image, ImageError("planned", error), box
                continue
            if image != last or decoded is None:
                try:
                    decoded = reader.read(image)
                except ImageError as image_error:
                    decoded = image_error
                except MemoryError as memory_error:
                    raise MemoryError(f"{memory_error} [{image}]") from memory_error
                last = image
            yield image, decoded, box


def _pack(pixels: torch.Tensor) -> pa.Array:
    """uint8 ``[N, H, W, 3]`` as one fixed-size binary value a row, without a copy."""
    size = pixels[0].numel() if len(pixels) else 1
    return pa.Array.from_buffers(pa.binary(size), len(pixels), [None, pa.py_buffer(pixels.numpy())])


def unpack(rows: pa.Table, name: str, preprocess: Preprocess) -> np.ndarray:
    """The pixels of a column, without a copy.

    Args:
        rows: of ``decode_rows``.
        name: of the column.
        preprocess: which made it.

    Returns:
        uint8 ``[N, H, W, 3]``
    """
    packed = rows[name].combine_chunks()
    shape = (len(packed), *preprocess.input_size, 3)
    if not len(packed):
        return np.empty(shape, np.uint8)
    size = shape[1] * shape[2] * 3
    raw = np.frombuffer(packed.buffers()[1], dtype=np.uint8)
    return raw[packed.offset * size : (packed.offset + len(packed)) * size].reshape(shape)
