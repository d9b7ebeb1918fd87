"""The size of an image, from its header alone and without torch."""

from __future__ import annotations

import io
from pathlib import Path

from PIL import ExifTags, Image
from tifffile import TiffFile

from common.storage import is_remote
from pipelines.images.pillow import open_image, quiet
from pipelines.images.tiff import is_tiff

_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations
_ORIENTATION = ExifTags.Base.Orientation


def image_size(image: Path | bytes) -> tuple[int, int] | None:
    """Width and height in pixels, as EXIF turns it; None if remote or with an unreadable header.

    Args:
        image: a file, or its content.
    """
    if not isinstance(image, bytes) and is_remote(image):
        return None
    try:
        with quiet(), io.BytesIO(image) if isinstance(image, bytes) else image.open("rb") as stream:
            tiff = is_tiff(stream.read(4))
            stream.seek(0)
            if tiff:
                page = TiffFile(stream).pages.first
                width, height = page.imagewidth, page.imagelength
                orientation = page.tags.valueof(_ORIENTATION, 1)
            else:
                header = open_image(stream)
                if header is None:
                    return None
                width, height = header.size
                # Not header.getexif(): for a PNG without EXIF that decodes the pixels.
                orientation = Image.Image.getexif(header).get(_ORIENTATION, 1)
    except Exception:  # decoders raise any; decoding says what is wrong
        return None
    return (height, width) if orientation in _SIDEWAYS else (width, height)
