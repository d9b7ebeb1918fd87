"""What pictures share: colours, the font, discs. Pillow only, no plotting stack."""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt
from PIL import ImageDraw, ImageFont

Colour = tuple[int, int, int]

# Told apart on grey, longest track first.
EIGHT: tuple[Colour, ...] = (
    (214, 39, 40),  # red
    (31, 98, 196),  # blue
    (44, 150, 60),  # green
    (245, 130, 32),  # orange
    (130, 45, 170),  # purple
    (0, 178, 200),  # cyan
    (232, 50, 190),  # magenta
    (122, 78, 30),  # brown
)
GREY: Colour = (130, 130, 130)
INK: Colour = (30, 30, 30)
BLANK: Colour = (235, 235, 235)
PAPER: Colour = (255, 255, 255)
SAME: Colour = (44, 150, 60)
OTHER: Colour = (214, 39, 40)


def colours(count: int) -> list[Colour]:
    """``count`` colours: eight clearly distinct ones, then hues a golden ratio apart."""
    made = list(EIGHT[:count])
    for number in range(len(made), count):
        red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1.0, 0.65, 0.75)
        made.append((round(red * 255), round(green * 255), round(blue * 255)))
    return made


def disc(
    pen: ImageDraw.ImageDraw,
    centre: npt.NDArray[np.float64],
    radius: float,
    fill: Colour,
    outline: Colour | None = None,
) -> None:
    """Draw a disc around ``centre``, ``[2]`` in pixels."""
    x, y = centre.tolist()
    around = (x - radius, y - radius, x + radius, y + radius)
    pen.ellipse(around, fill=fill, outline=outline, width=max(1, round(radius / 2.5)))


def letters(size_px: float) -> ImageFont.FreeTypeFont:
    """Pillow's own font at a size."""
    font = ImageFont.load_default(size_px)
    assert isinstance(font, ImageFont.FreeTypeFont)  # every Pillow wheel has FreeType
    return font
