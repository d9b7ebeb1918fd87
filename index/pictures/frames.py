"""One frame of an annotated video: boxes, track ids, the tail of each path, what is lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from index.pictures.style import GREY, PAPER, Colour, letters

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Shown:
    """What one frame shows of one track, in its pixels.

    Attributes:
        name: written at the box; empty for a detection without a track.
        tint: its colour.
        box: x1, y1, x2, y2: where it is, or was last seen.
        here: whether it is in this frame; a lost one is dashed.
        tail: centres of its last places, oldest first ``[N, 2]``, this one among them.
        missed: which steps of the tail bridge frames in which it was not found ``[N - 1]``.
    """

    name: str
    tint: Colour
    box: Floats
    here: bool
    tail: Floats
    missed: npt.NDArray[np.bool_]


def annotate(image: Image.Image, shown: Sequence[Shown], caption: str) -> None:
    """Draw onto ``image``, which is changed; sizes follow its own."""
    unit = max(1, round(max(image.size) / 640))
    pen = ImageDraw.Draw(image, "RGBA")
    for one in shown:
        _tail(pen, one, unit)
    for one in shown:
        if one.here:
            pen.rectangle(tuple(one.box), outline=one.tint, width=unit + 1)
        else:
            _dashed(pen, one.box, one.tint, unit)
    for one in shown:  # last, so that no box crosses a name
        if one.name:
            _name(pen, image.size, one, unit)
    type_ = letters(11 * unit)
    wide = type_.getlength(caption) + 4 * unit
    at = (0, image.height - round(type_.size * 1.5))
    pen.rectangle((*at, wide, image.height), fill=(0, 0, 0, 150))
    pen.text((2 * unit, at[1] + unit), caption, fill=PAPER, font=type_)


def _tail(pen: ImageDraw.ImageDraw, one: Shown, unit: int) -> None:
    steps = len(one.tail) - 1
    for step in range(steps):
        strength = round(255 * (0.25 + 0.75 * (step + 1) / steps))
        start, end = one.tail[step], one.tail[step + 1]
        if one.missed[step]:
            _dots(pen, start, end, (*one.tint, strength), unit)
        else:
            ends = (float(start[0]), float(start[1]), float(end[0]), float(end[1]))
            pen.line(ends, fill=(*one.tint, strength), width=unit + 1)


def _dots(
    pen: ImageDraw.ImageDraw, start: Floats, end: Floats, tint: tuple[int, ...], unit: int
) -> None:
    count = max(2, int(np.hypot(*(end - start)) / (5 * unit)))
    for share in np.linspace(0, 1, count):
        x, y = (start + share * (end - start)).tolist()
        pen.ellipse((x - unit, y - unit, x + unit, y + unit), fill=tint)


def _dashed(pen: ImageDraw.ImageDraw, box: Floats, tint: Colour, unit: int) -> None:
    x1, y1, x2, y2 = box.tolist()
    dash = 4 * unit
    for a, b, flat, at in (
        *((x1, x2, True, y) for y in (y1, y2)),
        *((y1, y2, False, x) for x in (x1, x2)),
    ):
        for start in np.arange(a, b, 2 * dash).tolist():
            end = min(start + dash, b)
            pen.line((start, at, end, at) if flat else (at, start, at, end), fill=tint, width=unit)


def _name(pen: ImageDraw.ImageDraw, size: tuple[int, int], one: Shown, unit: int) -> None:
    text = one.name if one.here else f"{one.name} ?"
    type_ = letters(10 * unit)
    wide, high = type_.getlength(text) + 2 * unit, round(type_.size * 1.3)
    x = min(max(0.0, float(one.box[0])), size[0] - wide)
    y = float(one.box[1]) - high
    if y < 0:
        y = min(float(one.box[3]), size[1] - high)
    pen.rectangle((x, y, x + wide, y + high), fill=(*(one.tint if one.here else GREY), 220))
    pen.text((x + unit, y), text, fill=PAPER, font=type_)
