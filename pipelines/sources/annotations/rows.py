"""What a reader of annotations makes: rows with the columns of all formats."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from pipelines.detections import BOX
from pipelines.images.errors import ImageError
from pipelines.sources.box_layouts import Layout
from pipelines.sources.boxes import to_corners
from pipelines.times import iso_time

LABEL, SCORE, TRACK = "source_label", "detector_score", "source_track"
PROBLEM = "problem"  # becomes ``error``, which no source may have before its plan is complete
NO_IMAGE = "(no image)"

_MOST = 2**53  # floats hold larger whole numbers inexactly
_NONE: tuple[float, ...] = (math.nan,) * 4


@dataclass
class Rows:
    """Collects the rows of a file.

    Attributes:
        own: its columns, of ``LABEL``, ``SCORE`` and ``TRACK``.
        layout: of its boxes.
        sizes: width and height of images, where the file says them.
        notes: remarks for people.
    """

    own: tuple[str, ...]
    layout: Layout = "xywh"
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _rows: list[Mapping[str, Any]] = field(default_factory=list)
    _boxes: list[tuple[float, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._rows)

    def add(
        self, image: str, box: object = None, *, problem: str | None = None, **columns: Any
    ) -> None:
        """Add a row.

        Args:
            image: its name.
            box: four numbers as the file has them; None: the whole image.
            problem: why the row cannot be used.
            columns: ``sequence``, ``frame``, ``timestamp``, and those of ``own``.
        """
        image = plain_name(image)
        numbers = _NONE
        if box is not None and problem is None:
            try:
                numbers = four_numbers(box)
            except ImageError as error:
                problem = str(error)
        row_error = None if problem is None else f"{problem} [{image}]"
        self._rows.append({"image": image, PROBLEM: row_error, **columns})
        self._boxes.append(numbers)

    def set_size(self, image: str, width: object, height: object) -> None:
        """Keep width and height of an image, where both are above 0."""
        size = size_of(width, height)
        if size is not None:
            self.sizes[plain_name(image)] = size

    def note(self, count: int, text: str) -> None:
        """Remark on some items, where there are any."""
        if count:
            self.notes.append(f"{count} {text}")

    def to_table(self) -> pa.Table:
        """The rows; ``sequence``, ``frame`` and ``timestamp`` only where one has a value."""
        kinds = {
            "image": pa.string(),
            "sequence": pa.string(),
            "frame": pa.int64(),
            "timestamp": pa.timestamp("us"),
            LABEL: pa.string(),
            SCORE: pa.float64(),
            TRACK: pa.string(),
            PROBLEM: pa.string(),
        }
        boxes = to_corners(np.array(self._boxes, np.float64).reshape(-1, 4), self.layout)
        empty = np.isnan(boxes)
        with np.errstate(over="ignore"):
            sides = boxes.astype(np.float32)
        columns = {
            name: pa.array([row.get(name) for row in self._rows], kind)
            for name, kind in kinds.items()
        }
        always = {"image", PROBLEM, *self.own}
        table = pa.table(
            {
                name: values
                for name, values in columns.items()
                if name in always or values.null_count < len(values)
            }
        )
        for side, name in enumerate(BOX):
            table = table.append_column(name, pa.array(sides[:, side], mask=empty[:, side]))
        return table


def plain_name(name: str) -> str:
    """A name of an image as names are here: with slashes, also where Windows wrote it."""
    if "\\" in name and "/" not in name:
        name = name.replace("\\", "/")
    return name.removeprefix("./")


def four_numbers(raw: object) -> tuple[float, ...]:
    """The four numbers of a box.

    Raises:
        ImageError: they are not four finite numbers.
    """
    if not isinstance(raw, list | tuple) or len(raw) != 4:
        raise ImageError("incomplete box", f"{raw!r:.60}, not four numbers")
    try:
        numbers = tuple(float(value) for value in raw)
    except (TypeError, ValueError):
        raise ImageError("box not numbers", f"{raw!r:.60}") from None
    if not all(map(math.isfinite, numbers)):
        raise ImageError("box not finite", f"{raw!r:.60}")
    return numbers


def number(raw: object) -> float | None:
    """A number, or its text; None where it is none."""
    try:
        value = float(raw)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def whole(raw: object) -> int | None:
    """A whole number from 0, or its text; None where it is none."""
    value = number(raw)
    return int(value) if value is not None and value % 1 == 0 and 0 <= value < _MOST else None


def text(raw: object) -> str | None:
    """A value as text; None stays."""
    return None if raw is None or raw == "" else str(raw)


def size_of(width: object, height: object) -> tuple[int, int] | None:
    """Width and height in pixels; None where they are not both above 0."""
    sides = number(width), number(height)
    if None in sides or min(side or 0 for side in sides) <= 0:
        return None
    return round(sides[0] or 0), round(sides[1] or 0)


def time_of(raw: object) -> datetime | None:
    """A time in ISO 8601; with a zone it becomes UTC. None where it is none."""
    return iso_time(str(raw or "").strip())
