"""How large the images of a sequence are: the unit of distance, and the box of a whole image.

A run does not store image sizes, so they are read from the images' headers, once an image. Where
an image is gone or remote, the usual size in its sequence stands in, or else the extent of the
boxes: too small by the empty margin, which makes the distance term a little stricter and leaves
the other three as they are.
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from index.vectors import Floats
from pipelines.detections import BOX
from pipelines.frame_names import parse_frame
from pipelines.run import Run

EXIF_ORIENTATION = 0x0112


@dataclass(frozen=True)
class Geometry:
    """Where N detections of one sequence lie.

    Attributes:
        boxes: ``[N, 4]`` in pixels; the whole image where a detection has none.
        diagonals: of each one's image ``[N]``, in pixels.
        unread: images whose size could not be read.
        sizes: different sizes among those that could.
    """

    boxes: Floats
    diagonals: Floats
    unread: int
    sizes: int

    def doubts(self, name: str) -> list[str]:
        """What looks wrong about the images of the sequence ``name``, for people."""
        found = []
        if self.unread:
            found.append(
                f"sequence {name!r}: the size of {self.unread} images is not known, they are gone "
                "or unreadable; distances are measured in the extent of the sequence instead"
            )
        if self.sizes > 1:
            found.append(
                f"sequence {name!r}: its images have {self.sizes} sizes; if these are several "
                "cameras, tell them apart with a column 'sequence'"
            )
        return found


def geometry(run: Run, plan: pa.Table) -> Geometry:
    """Boxes and diagonals of the rows of one sequence; opens the header of each image once."""
    boxes = np.column_stack([plan[name].to_numpy() for name in BOX]).astype(np.float64)
    whole = np.isnan(boxes).any(axis=1)
    encoded = plan["image"].combine_chunks().dictionary_encode()
    found = [image_size(run.image_path(image)) for image in encoded.dictionary.to_pylist()]
    known = Counter(size for size in found if size is not None)
    if known:
        instead = known.most_common(1)[0][0]
    else:
        instead = tuple(boxes[~whole, 2:].max(axis=0)) if not whole.all() else (1, 1)
    sizes = np.array([size or instead for size in found], dtype=np.float64)
    sizes = sizes[encoded.indices.to_numpy()]
    boxes[whole] = np.column_stack([np.zeros_like(sizes), sizes])[whole]
    return Geometry(
        boxes, np.hypot(sizes[:, 0], sizes[:, 1]), sum(size is None for size in found), len(known)
    )


def image_size(path: Path) -> tuple[int, int] | None:
    """Width and height after EXIF rotation, from the header alone; None if unreadable."""
    frame = parse_frame(str(path))
    if frame is not None:
        return _video_size(Path(frame.file))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of many pixels, or odd EXIF: none are decoded
            with Image.open(path) as image:
                width, height = image.size
                # Not image.getexif(): for a PNG without EXIF that decodes the pixels.
                turned = Image.Image.getexif(image).get(EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return (height, width) if turned else (width, height)


@lru_cache(maxsize=1)  # the frames of a video stand together
def _video_size(file: Path) -> tuple[int, int] | None:
    # They take seconds to import, and tracks over photos never need them.
    from pipelines.images.pixels import ImageError
    from pipelines.images.video import read_video_info

    try:
        facts = read_video_info(file)
    except ImageError:
        return None
    return facts.width, facts.height
