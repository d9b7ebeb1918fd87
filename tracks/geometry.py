"""Sizes of the images of a sequence: the unit of distance, and the box of a whole image.

Where a camera changed its resolution, boxes are compared as if all images had one size.

A run does not store image sizes, so they are read from the images' headers, once per image. Where
an image is missing or remote, the most common size in its sequence is used, or else the extent of
the boxes: too small by the empty margin, which makes the distance term a little stricter and
leaves the other three as they are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from index.vectors import Floats
from pipelines.detections import BOX
from pipelines.frame_names import parse_frame
from pipelines.images.header import image_size
from pipelines.run import Run

_SAME_SHAPE = 0.02  # most that width : height of two sizes of one view may differ, by rounding


@dataclass(frozen=True)
class Geometry:
    """Boxes and image sizes of N detections of one sequence."""

    boxes: Floats  # [N, 4] in pixels; the whole image where a detection has none
    sizes: Floats  # width and height of the image of each detection [N, 2], in pixels
    unread: int  # number of images whose size could not be read
    counts: tuple[tuple[tuple[int, int], int], ...]  # the other sizes, and the images of each
    where: str = ""  # where the images were looked for

    @property
    def diagonals(self) -> Floats:
        """Of the image of each detection ``[N]``, in pixels."""
        diagonals: Floats = np.hypot(self.sizes[:, 0], self.sizes[:, 1])
        return diagonals

    def in_common_frame(self) -> Geometry:
        """The same with boxes as if all images of one shape had the most common size.

        Images of another shape, such as turned ones, show another view and keep theirs.
        """
        if len(self.counts) < 2:
            return self
        common = np.array(self.counts[0][0], dtype=np.float64)
        factors = scale_factors(self.sizes, common)
        sizes = np.where(np.isnan(factors), self.sizes, common)
        factors = np.where(np.isnan(factors), 1.0, factors)
        return replace(self, boxes=self.boxes * np.tile(factors, 2), sizes=sizes)

    def warnings(self, name: str) -> list[str]:
        """Warnings about the images of the sequence ``name``."""
        messages = []
        if self.unread:
            messages.append(
                f"sequence {name!r}: the size of {self.unread} images is not known, they are gone "
                f"or unreadable{self.where}; distances are measured in the extent of the sequence "
                "instead"
            )
        if len(self.counts) > 1:
            messages.append(f"sequence {name!r}: {self._sizes_said()}")
        return messages

    def _sizes_said(self) -> str:
        sizes = np.array([size for size, _ in self.counts], dtype=np.float64)
        other = np.isnan(scale_factors(sizes, sizes[0])[:, 0])
        said = [f"its images have {len(sizes)} sizes"]
        if np.count_nonzero(~other) > 1:
            width, height = self.counts[0][0]
            said.append(
                f"boxes in images of the shape of {width}x{height} are compared at that size"
            )
        if other.any():
            width, height = self.counts[int(other.argmax())][0]
            images = sum(count for (_, count), bad in zip(self.counts, other, strict=True) if bad)
            said.append(
                f"{images} images have another shape, such as {width}x{height}, and their boxes are "
                "compared as they are; if these are several cameras, tell them apart with a column "
                "'sequence'"
            )
        return "; ".join(said)


def scale_factors(sizes: Floats, common: Floats) -> Floats:
    """What boxes in images of some sizes must be multiplied by to be boxes of another size.

    Args:
        sizes: width and height ``[..., 2]`` in pixels.
        common: width and height ``[2]``.

    Returns:
        Factors of x and y ``[..., 2]``; NaN where the shapes differ, since the views do as well.
    """
    factors = common / sizes
    same = np.abs(factors[..., :1] / factors[..., 1:] - 1) <= _SAME_SHAPE
    scaled: Floats = np.where(same, factors, np.nan)
    return scaled


def read_geometry(run: Run, plan: pa.Table) -> Geometry:
    """Boxes and image sizes of the rows of one sequence; opens the header of each image once."""
    boxes = np.column_stack([plan[name].to_numpy() for name in BOX]).astype(np.float64)
    whole = np.isnan(boxes).any(axis=1)
    encoded = plan["image"].combine_chunks().dictionary_encode()
    sizes = [upright_size(run.image_path(image)) for image in encoded.dictionary.to_pylist()]
    counts = Counter(size for size in sizes if size is not None)
    if counts:
        substitute = counts.most_common(1)[0][0]
    else:
        substitute = tuple(boxes[~whole, 2:].max(axis=0)) if not whole.all() else (1, 1)
    by_image = np.array([size or substitute for size in sizes], dtype=np.float64)
    of_rows = by_image[encoded.indices.to_numpy()]
    boxes[whole] = np.column_stack([np.zeros_like(of_rows), of_rows])[whole]
    unread = sum(size is None for size in sizes)
    where = f" ({run.where_images_are})"
    return Geometry(boxes, of_rows, unread, tuple(counts.most_common()), where)


def upright_size(path: Path) -> tuple[int, int] | None:
    """Width and height after EXIF rotation, from the header alone; None if unreadable."""
    frame = parse_frame(str(path))
    if frame is not None:
        return _video_size(Path(frame.file))
    return image_size(path)


@lru_cache(maxsize=1)  # neighbouring rows are frames of one video
def _video_size(file: Path) -> tuple[int, int] | None:
    # late: torch and FFmpeg take seconds, and tracks over photos never need them
    from pipelines.images.errors import ImageError
    from pipelines.images.video import read_video_info

    try:
        video = read_video_info(file)
    except ImageError:
        return None
    return video.width, video.height
