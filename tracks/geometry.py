"""Sizes of the images of a sequence: the unit of distance, and the box of a whole image.

A run does not store image sizes, so they are read from the images' headers, once per image. Where
an image is missing or remote, the most common size in its sequence is used, or else the extent of
the boxes: too small by the empty margin, which makes the distance term a little stricter and
leaves the other three as they are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from index.vectors import Floats
from pipelines.detections import BOX
from pipelines.frame_names import parse_frame
from pipelines.images.header import image_size
from pipelines.run import Run


@dataclass(frozen=True)
class Geometry:
    """Boxes and image sizes of N detections of one sequence."""

    boxes: Floats  # [N, 4] in pixels; the whole image where a detection has none
    diagonals: Floats  # of the image of each detection [N], in pixels
    unread: int  # number of images whose size could not be read
    sizes: int  # number of different sizes among the others
    where: str = ""  # where the images were looked for

    def warnings(self, name: str) -> list[str]:
        """Warnings about the images of the sequence ``name``."""
        messages = []
        if self.unread:
            messages.append(
                f"sequence {name!r}: the size of {self.unread} images is not known, they are gone "
                f"or unreadable{self.where}; distances are measured in the extent of the sequence "
                "instead"
            )
        if self.sizes > 1:
            messages.append(
                f"sequence {name!r}: its images have {self.sizes} sizes; if these are several "
                "cameras, tell them apart with a column 'sequence'"
            )
        return messages


def read_geometry(run: Run, plan: pa.Table) -> Geometry:
    """Boxes and diagonals of the rows of one sequence; opens the header of each image once."""
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
    diagonals = np.hypot(of_rows[:, 0], of_rows[:, 1])
    unread = sum(size is None for size in sizes)
    where = f" ({run.where_images_are})"
    return Geometry(boxes, diagonals, unread, len(counts), where)


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
