"""Images to draw on: upright files, the scene behind what moves, crops."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps


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


def thumbnail(
    image: Image.Image, box: Sequence[float] | None, *, side_px: int, around: float = 0.0
) -> Image.Image:
    """A region within ``side_px`` squared, smaller ones enlarged to it.

    Args:
        image: where it is cut out; what lies outside is left away.
        box: x1, y1, x2, y2 in pixels; None: the whole image.
        side_px: longest side.
        around: what is shown beside the box, as a share of its longer side.
    """
    if box is not None:
        more = around * max(box[2] - box[0], box[3] - box[1])
        x1 = min(max(0, int(box[0] - more)), image.width - 1)
        y1 = min(max(0, int(box[1] - more)), image.height - 1)
        x2 = min(image.width, max(x1 + 1, int(np.ceil(box[2] + more))))
        y2 = min(image.height, max(y1 + 1, int(np.ceil(box[3] + more))))
        image = image.crop((x1, y1, x2, y2))
    return ImageOps.contain(image, (side_px, side_px), Image.Resampling.BICUBIC)
