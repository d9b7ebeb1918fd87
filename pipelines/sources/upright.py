"""Boxes of a plan in pixels of the upright image, whatever they were given in.

Only here a plan opens images, and only the headers of those whose boxes need it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import SourceError
from pipelines.detections import BOX, derive_ids, with_column
from pipelines.frame_names import parse_frame
from pipelines.images.errors import ImageError
from pipelines.images.header import UPRIGHT, Boxes, ImageHeader, read_header
from pipelines.sources.boxes import BoxesGiven, Frame
from pipelines.sources.files import AT_ONCE, map_files
from pipelines.sources.plan import Plan

_OUTSIDE_PIXELS = 1.5  # a box that ends farther outside is not of this frame

Header = ImageHeader | ImageError


def to_upright(plan: Plan, report: Callable[[int, int], None] = lambda done, total: None) -> Plan:
    """The plan with its boxes in pixels of upright images.

    An image that cannot be read keeps its boxes, and decoding will say what is wrong; where they
    are shares of its size its rows get an ``error``.

    Args:
        plan: with boxes as its source has them.
        report: receives images read and images in all.

    Raises:
        SourceError: boxes in stored pixels of a video.
        StorageError: an object store did not answer.
    """
    given = plan.boxes
    if given.units == "pixels" and given.frame == "upright":
        return plan
    table = plan.table
    boxes = np.stack([table[name].to_numpy() for name in BOX], axis=1).astype(np.float64)
    boxed = np.isfinite(boxes).all(axis=1)
    errors = table["error"].to_pylist() if "error" in table.column_names else [None] * len(table)
    boxed &= np.array([error is None for error in errors], bool)
    rows_of = _rows_by_image(table["image"], boxed)
    if given.units == "pixels" and given.frame is None:  # frames of videos are seen upright
        rows_of = {name: rows for name, rows in rows_of.items() if parse_frame(name) is None}
    if given.frame == "stored" and (frames := [n for n in rows_of if parse_frame(n) is not None]):
        raise SourceError(
            f"{frames[0]}: `box_frame='stored'` is for images; boxes of a video are in pixels of "
            "the picture as it is shown"
        )
    headers = _read_headers(plan, list(rows_of), report)
    frames_of, notes = _frames(headers, rows_of, boxes, given)
    for name, rows in rows_of.items():
        header = headers[name]
        if isinstance(header, ImageError):
            if given.units == "normalised":
                _fail(boxes, errors, rows, f"{header} [{name}]")
            continue
        if (problem := _other_size(header, given, name)) is not None:
            _fail(boxes, errors, rows, f"{problem} [{name}]")
            continue
        boxes[rows] = _converted(boxes[rows], header, frames_of[name], given)
    table = _with_boxes(plan, boxes, boxed, errors)
    return replace(plan, table=table, notes=(*plan.notes, *notes), boxes=BoxesGiven())


def _rows_by_image(images: pa.ChunkedArray, boxed: np.ndarray) -> dict[str, np.ndarray]:
    """Rows with a box by image; rows of one image are adjacent."""
    encoded = images.combine_chunks().dictionary_encode()
    numbers = np.flatnonzero(boxed)
    codes = encoded.indices.to_numpy()[numbers]
    names = encoded.dictionary.to_pylist()
    if not len(codes):
        return {}
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    parts = np.split(numbers, starts[1:])
    return {names[codes[at]]: rows for at, rows in zip(starts, parts, strict=True)}


def _read_headers(
    plan: Plan, names: list[str], report: Callable[[int, int], None]
) -> dict[str, Header]:
    images = plan.images
    files = {name: frame.file if (frame := parse_frame(name)) else name for name in names}
    one_of = {file: name for name, file in files.items()}  # of a video one frame

    def read(name: str) -> Header:
        try:
            return read_header(images, name)
        except ImageError as error:
            return error

    read_ones = map_files(read, list(one_of.values()), AT_ONCE, report)
    headers = dict(zip(one_of, read_ones, strict=True))
    return {name: headers[file] for name, file in files.items()}


def _frames(
    headers: dict[str, Header], rows_of: dict[str, np.ndarray], boxes: Boxes, given: BoxesGiven
) -> tuple[dict[str, Frame], tuple[str, ...]]:
    """The frame of the boxes of each image, and remarks on those that are rotated."""
    rotated = {
        name: header
        for name, header in headers.items()
        if isinstance(header, ImageHeader) and header.orientation != UPRIGHT
    }
    frame_by_name = {
        name: given.frame or _frame_by_size(header, given, name, boxes[rows_of[name]])
        for name, header in rotated.items()
    }
    known = {frame for frame in frame_by_name.values() if frame is not None}
    usual: Frame = known.pop() if len(known) == 1 else given.fallback
    frames: dict[str, Frame] = {name: frame_by_name.get(name) or usual for name in headers}
    if not rotated:
        return frames, ()
    counts = Counter(frames[name] for name in rotated)
    unsure = sum(frame is None for frame in frame_by_name.values())
    kinds = " and ".join(
        f"{count} in {'stored pixels' if frame == 'stored' else 'pixels of the upright image'}"
        for frame, count in sorted(counts.items())
    )
    because = f", {given.because}" if given.because else ""
    guess = f" ({unsure} of them could not be told by their size)" if unsure else ""
    return frames, (
        f"{len(rotated)} of {len(headers)} images are rotated by EXIF; their boxes are read as "
        f"{kinds}{because}{guess}; `box_frame` says it otherwise",
    )


def _frame_by_size(header: ImageHeader, given: BoxesGiven, name: str, boxes: Boxes) -> Frame | None:
    """The frame that the size in the source and the boxes themselves are of; None: both may be."""
    size = given.sizes.get(name)
    stored, upright = header.stored_size, header.upright_size
    if given.units == "pixels":
        ends = boxes.max(axis=0)[2:] - _OUTSIDE_PIXELS
        in_stored, in_upright = (bool((ends <= frame).all()) for frame in (stored, upright))
        if in_stored != in_upright:
            return "stored" if in_stored else "upright"
    if stored == upright or size not in (stored, upright):
        return None
    return "stored" if size == stored else "upright"


def _other_size(header: ImageHeader, given: BoxesGiven, name: str) -> str | None:
    """What is wrong where boxes in pixels were made on an image of another size."""
    size, (width, height) = given.sizes.get(name), header.upright_size
    if size is None or size in (header.stored_size, header.upright_size):
        return None
    if given.units == "normalised":
        return None
    return f"image of another size: its boxes are of {size[0]}x{size[1]}, it is {width}x{height}"


def _converted(boxes: Boxes, header: ImageHeader, frame: Frame, given: BoxesGiven) -> Boxes:
    if given.units == "normalised":
        width, height = header.stored_size if frame == "stored" else header.upright_size
        boxes = boxes * [width, height, width, height]
    return header.to_upright(boxes) if frame == "stored" else boxes


def _fail(boxes: Boxes, errors: list[str | None], rows: np.ndarray, error: str) -> None:
    for row in rows.tolist():
        errors[row] = error
    boxes[rows] = np.nan


def _with_boxes(plan: Plan, boxes: Boxes, boxed: np.ndarray, errors: list[str | None]) -> pa.Table:
    """The plan's table with the boxes of rows that had one, and their errors."""
    table = plan.table
    columns: dict[str, pa.Array] = {"error": pa.array(errors, pa.string())}
    for side, name in enumerate(BOX):
        with np.errstate(over="ignore"):  # infinite; an error row when its image is decoded
            values = boxes[:, side].astype(np.float32)
        converted = pa.array(values, mask=np.isnan(values))
        columns[name] = pc.if_else(pa.array(boxed), converted, table[name].combine_chunks())
    for name, values in columns.items():
        table = with_column(table, name, values)
    if not plan.ids_given:
        table = with_column(table, "detection_id", derive_ids(table))
    return table.combine_chunks()
