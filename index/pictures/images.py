"""Images to draw on: upright files, the scene behind what moves, crops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageOps

from index.pictures.style import BLANK, OTHER


def open_upright(path: Path) -> Image.Image:
    """Read an image as RGB after EXIF rotation, the frame that boxes are given in."""
    with Image.open(path) as image:
        return ImageOps.exif_transpose(image).convert("RGB")


def median_image(images: Sequence[Image.Image]) -> Image.Image:
    """Pixelwise median of images of one size.

    What moves disappears; what stays is the scene to draw tracks over.
    """
    stack = np.stack([np.asarray(image) for image in images])
    return Image.fromarray(np.median(stack, axis=0).astype(np.uint8))


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` places out of ``count``, evenly, the first and the last among them."""
    places: list[int] = np.unique(np.linspace(0, count - 1, min(most, count)).astype(int)).tolist()
    return places


def crops(
    regions: Iterable[tuple[Path, Sequence[float | None]]], *, side_px: int
) -> list[Image.Image]:
    """Regions as thumbnails within ``side_px`` squared; each image is opened once in a row.

    Args:
        regions: path and box (x1, y1, x2, y2 in pixels; None in it: the whole image).
        side_px: longest side; smaller crops are enlarged to it.
    """
    made = []
    last: tuple[Path, Image.Image] | None = None
    for path, box in regions:
        if last is None or last[0] != path:
            last = (path, open_upright(path))
        known = [value for value in box if value is not None]
        made.append(thumbnail(last[1], known if len(known) == 4 else None, side_px=side_px))
    return made


def thumbnail(image: Image.Image, box: Sequence[float] | None, *, side_px: int) -> Image.Image:
    """A region within ``side_px`` squared, smaller ones enlarged to it.

    Args:
        image: where it is cut out; what lies outside is left away.
        box: x1, y1, x2, y2 in pixels; None: the whole image.
        side_px: longest side.
    """
    if box is not None:
        x1, y1 = (max(0, int(value)) for value in box[:2])
        x2 = min(image.width, max(x1 + 1, int(np.ceil(box[2]))))
        y2 = min(image.height, max(y1 + 1, int(np.ceil(box[3]))))
        image = image.crop((x1, y1, x2, y2))
    return ImageOps.contain(image, (side_px, side_px), Image.Resampling.BICUBIC)


def surroundings(
    image: Image.Image, box: Sequence[float], *, reach: float, side_px: int
) -> Image.Image:
    """A box with what stands around it, as a square of ``side_px``; the box itself is outlined.

    Args:
        image: where it is cut out; past its edges the square is blank.
        box: x1, y1, x2, y2 in pixels.
        reach: side of the square in pixels of ``image``: one for several shows them in scale.
        side_px: of what comes back.
    """
    scale = side_px / reach
    left, top = (box[0] + box[2] - reach) / 2, (box[1] + box[3] - reach) / 2
    x1, y1 = max(0, int(left)), max(0, int(top))
    x2 = min(image.width, int(np.ceil(left + reach)))
    y2 = min(image.height, int(np.ceil(top + reach)))
    square = Image.new("RGB", (side_px, side_px), BLANK)
    if x1 < x2 and y1 < y2:
        part = image.crop((x1, y1, x2, y2))
        size = (max(1, round(part.width * scale)), max(1, round(part.height * scale)))
        at = (round((x1 - left) * scale), round((y1 - top) * scale))
        square.paste(part.resize(size, Image.Resampling.BICUBIC), at)
    corners = [(side - start) * scale for side, start in zip(box, (left, top) * 2, strict=True)]
    ImageDraw.Draw(square, "RGBA").rectangle(tuple(corners), outline=(*OTHER, 130))
    return square
