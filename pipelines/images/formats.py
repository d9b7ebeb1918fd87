"""A file's bytes to upright RGB, whatever its format; no exception but ``ImageError`` comes out.

JPEGs are decoded by libjpeg-turbo through simplejpeg, about twice as fast as by Pillow; TIFFs by
tifffile; PNG, WebP, GIF, BMP, AVIF, JPEG 2000 and others by Pillow. Nothing here needs torch, whose
import takes seconds: the process that decodes uploads (``isolated``) does without it.
"""

from __future__ import annotations

import io
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from common.errors import first_line
from pipelines.images import damage, jpeg
from pipelines.images.errors import DAMAGED, MAX_PIXELS, TOO_LARGE, UNSUPPORTED, ImageError
from pipelines.images.exif import time_taken
from pipelines.images.jpeg2000 import decode_deep
from pipelines.images.pillow import KNOWN, open_image, quiet, to_rgb
from pipelines.images.tiff import is_tiff, read_tiff

if TYPE_CHECKING:
    from pipelines.config import OnDamage
    from pipelines.images.pixels import Decoded

_JPEGS = ("JPEG", "MPO")


class Picture(NamedTuple):
    """A decoded file."""

    pixels: np.ndarray  # uint8 [H, W, 3], upright
    taken: datetime | None  # by EXIF
    damage: str | None  # what is wrong with it


def decode(data: bytes, *, damaged: OnDamage = "error") -> Decoded:
    """``decode_array`` with the pixels as a tensor; arguments and errors are the same."""
    import torch  # late: it takes seconds

    from pipelines.images.pixels import Decoded

    picture = decode_array(data, damaged=damaged)
    return Decoded(torch.from_numpy(picture.pixels).permute(2, 0, 1), picture.taken, picture.damage)


def decode_array(data: bytes, *, damaged: OnDamage = "error") -> Picture:
    """Decode to upright RGB.

    Of animations and pages the first is taken, transparency is dropped, samples of more than 8
    bits are scaled by the range that the file declares.

    Args:
        data: the file.
        damaged: ``keep`` decodes as much of a damaged picture as its decoder gives, and says so
            in ``damage``.

    Raises:
        ImageError: not an image, damaged, of samples that cannot be scaled, or more than
            ``MAX_PIXELS``.
        MemoryError: the machine has too little memory for an image of this size.
    """
    what, pixels = f"{len(data)} bytes", MAX_PIXELS
    try:
        with quiet():  # decoders warn of large images and odd metadata
            if is_tiff(data):
                what = "TIFF"
                decoded = _decode_tiff(data)
            else:
                header = open_image(io.BytesIO(data))
                if header is None:
                    raise ImageError(
                        "not an image", f"{len(data)} bytes in no known format; {KNOWN}"
                    )
                with header:
                    width, height = header.size
                    what, pixels = f"{header.format} {width}x{height}", width * height
                    decoded = _decode(data, header)
    except ImageError:
        raise
    except MemoryError:
        _check_memory(what, min(pixels, MAX_PIXELS))
        raise ImageError(DAMAGED, f"{what}: asks for more memory than it can need") from None
    except Exception as error:  # decoders raise any, and one image must not end a run
        raise ImageError(DAMAGED, f"{what}: {first_line(error)}") from None
    if decoded.damage is not None and damaged == "error":
        raise ImageError(DAMAGED, f"{what}: {decoded.damage}")
    return decoded


def _check_memory(what: str, pixels: int) -> None:
    """Raise ``MemoryError`` where the machine lacks what an image of this size may need."""
    try:
        bytearray(8 * pixels)
    except MemoryError:
        raise MemoryError(f"{what}: this machine has no memory left for it") from None


def _decode(data: bytes, header: Image.Image) -> Picture:
    """An opened image; a JPEG is decoded without Pillow."""
    width, height = header.size
    if width * height > MAX_PIXELS:
        raise ImageError(TOO_LARGE, f"{width}x{height} is over {MAX_PIXELS} pixels")
    if header.format in _JPEGS:
        rgb, wrong = _jpeg(data, header)
    else:
        deep = decode_deep(data) if header.format == "JPEG2000" else None
        rgb = to_rgb(header) if deep is None else deep
        wrong = damage.find_damage(data, header)
    orientation = header.getexif().get(ExifTags.Base.Orientation, 1)  # Pillow may have turned it
    return Picture(_upright(rgb, orientation), time_taken(header), wrong)


def _jpeg(data: bytes, header: Image.Image) -> tuple[np.ndarray, str | None]:
    cmyk = header.mode == "CMYK"
    try:
        array, wrong = jpeg.decode_jpeg(data, cmyk=cmyk)
    except ValueError as error:
        if "subsampling" not in first_line(error):
            raise
        # A layout of colours that TurboJPEG has no name for: warnings cannot be had.
        return to_rgb(header), jpeg.find_damage(data)
    if cmyk:  # stored inverted, as Adobe does it
        array = np.array(Image.fromarray(255 - array, "CMYK").convert("RGB"))
    return array, wrong


def _decode_tiff(data: bytes) -> Picture:
    tiff = read_tiff(data)
    if tiff.pixels is not None:
        return Picture(_upright(tiff.pixels, tiff.orientation), tiff.taken, tiff.damage)
    header = open_image(io.BytesIO(data))
    if header is None:
        raise ImageError(UNSUPPORTED, "TIFF of a kind that neither tifffile nor Pillow reads")
    with header:
        decoded = _decode(data, header)
    return decoded._replace(damage=tiff.damage)


def _upright(array: np.ndarray, orientation: Any) -> np.ndarray:
    """``[H, W, 3]``, turned as EXIF says."""
    turned = {
        2: lambda stored: stored[:, ::-1],
        3: lambda stored: stored[::-1, ::-1],
        4: lambda stored: stored[::-1],
        5: lambda stored: stored.swapaxes(0, 1),
        6: lambda stored: stored[::-1].swapaxes(0, 1),
        7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
        8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
    }.get(orientation)
    return array if turned is None else np.ascontiguousarray(turned(array))
