"""How large an image is and how it is rotated, without decoding its pixels; boxes made upright.

Cameras store pixels as the sensor reads them, and in EXIF how to turn them. Boxes are given in
either frame: of the *stored* pixels, or of the *upright* image, which is what people see.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image
from tifffile import TiffFile

from common.errors import first_line
from pipelines.frame_names import parse_frame
from pipelines.images.errors import MAX_PIXELS, UNSUPPORTED, ImageError
from pipelines.images.pillow import KNOWN, open_image, quiet
from pipelines.images.tiff import is_tiff

if TYPE_CHECKING:
    from common.moved import ImageRoot

Boxes = NDArray[np.float64]

UPRIGHT = 1  # EXIF's orientation of pixels that are stored as they are shown

_SWAPPED = (5, 6, 7, 8)  # orientations that exchange width and height
# Sides of the upright box by sides of the stored one, as (side, mirrored): x1, y1, x2, y2 are 0 to 3.
_TURNED: dict[int, tuple[tuple[int, bool], ...]] = {
    2: ((2, True), (1, False), (0, True), (3, False)),
    3: ((2, True), (3, True), (0, True), (1, True)),
    4: ((0, False), (3, True), (2, False), (1, True)),
    5: ((1, False), (0, False), (3, False), (2, False)),
    6: ((3, True), (0, False), (1, True), (2, False)),
    7: ((3, True), (2, True), (1, True), (0, True)),
    8: ((1, False), (2, True), (3, False), (0, True)),
}


class ImageHeader(NamedTuple):
    """Size of the stored pixels, and EXIF's orientation of them, from 1 to 8."""

    width: int
    height: int
    orientation: int = UPRIGHT

    @property
    def stored_size(self) -> tuple[int, int]:
        """Width and height before any rotation."""
        return self.width, self.height

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the image as it is shown."""
        if self.orientation in _SWAPPED:
            return self.height, self.width
        return self.width, self.height

    def to_upright(self, boxes: Boxes) -> Boxes:
        """Boxes in stored pixels as boxes of the upright image.

        Args:
            boxes: ``[N, 4]`` as x1, y1, x2, y2; one with x2 before x1 stays so, and NaN stays.
        """
        if self.orientation not in _TURNED:
            return boxes
        sizes = (self.width, self.height)
        sides = [
            sizes[side % 2] - boxes[:, side] if mirrored else boxes[:, side]
            for side, mirrored in _TURNED[self.orientation]
        ]
        return np.stack(sides, axis=1)


def read_header(root: ImageRoot, name: str) -> ImageHeader:
    """The header of an image, or of a frame of a video, which is decoded for it.

    Args:
        root: where images are.
        name: of the image, as in a plan.

    Raises:
        ImageError: it cannot be read; the reason is that of decoding it.
        StorageError: an object store did not answer.
    """
    # late: torch takes seconds, Arrow half a second
    from common.storage import open_file
    from pipelines.images.formats import decode
    from pipelines.images.pixels import read
    from pipelines.images.reader import ImageReader

    if parse_frame(name) is not None:
        with closing(ImageReader(root)) as reader:
            height, width = reader.read(name).pixels.shape[1:]
        return ImageHeader(width, height)
    file = root.path(name)
    try:
        with closing(open_file(file)) as stream:
            return header_of(stream)
    except Exception as error:  # decoders raise any for a damaged header
        decode(read(file))  # says what is wrong with it
        raise ImageError(UNSUPPORTED, f"its rotation cannot be read: {first_line(error)}") from None


def header_of(stream: IO[bytes]) -> ImageHeader:
    """The header of an encoded image.

    Raises:
        Exception: tifffile or Pillow cannot read it; they raise nearly any.
    """
    with quiet():
        tiff = is_tiff(stream.read(4))
        stream.seek(0)
        if tiff:
            page = TiffFile(stream).pages.first
            size = int(page.imagewidth), int(page.imagelength)  # damaged, a tag has several
            orientation = page.tags.valueof(ExifTags.Base.Orientation, UPRIGHT)
        else:
            image = open_image(stream)
            if image is None:
                raise ImageError("not an image", f"of no known format; {KNOWN}")
            size, orientation = image.size, UPRIGHT
            if (
                size[0] * size[1] <= MAX_PIXELS
            ):  # or else it is never decoded, as late EXIF asks for
                orientation = _exif_of(image, stream).get(ExifTags.Base.Orientation, UPRIGHT)
    # EXIF may have it as a ratio or a float, which are equal to the whole number.
    return ImageHeader(*size, int(orientation) if orientation in _TURNED else UPRIGHT)


def image_size(image: Path) -> tuple[int, int] | None:
    """Width and height in pixels, as EXIF turns it; None if remote or with an unreadable header."""
    from common.storage import is_remote, open_file  # late: Arrow takes half a second

    if is_remote(image):
        return None
    try:
        with open_file(image) as stream:
            return header_of(stream).upright_size
    except Exception:  # decoding says what is wrong
        return None


def _exif_of(image: Image.Image, stream: IO[bytes]) -> Image.Exif:
    """The image's EXIF; of a PNG without decoding it, unless EXIF comes after the pixels."""
    if image.format != "PNG" or _holds_late_exif(stream):
        return image.getexif()
    return cast(Callable[[Image.Image], Image.Exif], Image.Image.getexif)(image)


def _holds_late_exif(stream: IO[bytes]) -> bool:
    """Whether a PNG has a chunk after its pixels that may hold EXIF."""
    position = stream.tell()
    try:
        at, pixels = 8, False
        while True:
            stream.seek(at)
            head = stream.read(8)
            if len(head) < 8:
                return False
            length, kind = struct.unpack(">I4s", head)
            if pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
                return True
            pixels = pixels or kind == b"IDAT"
            at += length + 12
    finally:
        stream.seek(position)
