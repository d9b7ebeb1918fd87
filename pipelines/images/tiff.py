"""TIFFs, which store nearly anything: read by tifffile, scaled by what the file declares.

Of several pages the first is read. What no rule turns into a picture is an error: bands that are
not colours, volumes, raw data of a camera's sensor.
"""

from __future__ import annotations

import io
import logging
import math
import re
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from PIL import Image
from tifffile import TiffFile, TiffPage

from common.errors import first_line
from pipelines.images.errors import DAMAGED, MAX_PIXELS, TOO_LARGE, UNSUPPORTED, ImageError
from pipelines.images.exif import parse_time
from pipelines.images.jpeg import decode_jpeg
from pipelines.images.scale import to_bytes

# It reports irregular files to a logger, which without a handler prints.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_JPEG, _OLD_JPEG = 7, 6
_COLOURS = {_WHITE_IS_ZERO: 1, _BLACK_IS_ZERO: 1, _PALETTE: 1, _RGB: 3, _CMYK: 4}
_DNG_VERSION, _EXIF, _ORIENTATION, _NO_DATA = 50706, 34665, 274, 42113
_MIN, _MAX, _SMIN, _SMAX = 280, 281, 340, 341
_SIGNIFICANT = re.compile(r'SignificantBits="(\d+)"')
_ASSOCIATED, _UNASSOCIATED = 1, 2  # alpha by which the colours are multiplied, or not
_MAX_BYTES = 8 * MAX_PIXELS  # of all samples: RGB of 16 bits with alpha


class Tiff(NamedTuple):
    """The first page of a TIFF."""

    pixels: np.ndarray | None  # uint8 [H, W, 3] as stored; None: a kind that Pillow reads
    orientation: int  # as in EXIF
    taken: datetime | None  # by EXIF
    damage: str | None


def is_tiff(data: bytes) -> bool:
    """Whether a file begins as a TIFF or BigTIFF."""
    return data[:4] in _MAGIC


def read_tiff(data: bytes) -> Tiff:
    """Read the first page.

    Raises:
        ImageError: no picture, or one whose samples cannot be turned into colours.
        Exception: tifffile and its decoders raise nearly any for damaged files.
    """
    with TiffFile(io.BytesIO(data)) as file:
        page = file.pages.first
        _check(data, page)
        orientation = int(page.tags.valueof(_ORIENTATION, 1))
        pixels = None if _is_pillows(page) else _colours(file, page)
        damage = _damaged_strip(data, page) if page.compression == _JPEG else None
    return Tiff(pixels, orientation, _taken(page), damage)


def _taken(page: TiffPage) -> datetime | None:
    try:
        exif = page.tags.valueof(_EXIF)
        return parse_time(exif.get("DateTimeOriginal"), exif.get("SubsecTimeOriginal"))
    except Exception:  # damaged metadata does not make the picture unusable
        return None


def _check(data: bytes, page: TiffPage) -> None:
    """Refuse what is not one whole picture."""
    raw = page.is_reduced or _DNG_VERSION in page.tags or data[8:10] == b"CR"
    if raw or page.photometric in (32803, 34892):
        raise ImageError(
            UNSUPPORTED, "raw data of a camera, with a small picture at most; export it as JPEG"
        )
    width, height = page.imagewidth, page.imagelength
    if not width or not height:
        raise ImageError(DAMAGED, f"TIFF of {width}x{height} pixels")
    if width * height > MAX_PIXELS or page.nbytes > _MAX_BYTES:
        raise ImageError(
            TOO_LARGE, f"{width}x{height} is over {MAX_PIXELS} pixels, or {_MAX_BYTES} bytes"
        )
    if page.imagedepth > 1:
        raise ImageError(UNSUPPORTED, f"a volume of {page.imagedepth} slices")
    parts = [*zip(page.dataoffsets, page.databytecounts, strict=True)]
    if len(parts) < math.prod(page.chunked):
        raise ImageError(DAMAGED, f"TIFF with {len(parts)} of {math.prod(page.chunked)} strips")
    if any(offset + count > len(data) for offset, count in parts):
        raise ImageError(DAMAGED, "TIFF that ends before its pixels do")
    if not page.is_geotiff and not all(count for _, count in parts):
        raise ImageError(DAMAGED, "TIFF with strips that were never written")


def _is_pillows(page: TiffPage) -> bool:
    """Whether Pillow, with libtiff, reads the page right: JPEG, subsampled colours, CIELAB."""
    if page.photometric in (_YCBCR, _LAB):
        return True
    return page.bitspersample == 8 and (
        page.compression in (_JPEG, _OLD_JPEG) or _ASSOCIATED in page.extrasamples
    )


def _colours(file: TiffFile, page: TiffPage) -> np.ndarray:
    """RGB of a page, uint8 ``[H, W, 3]``."""
    samples = _samples(page)
    bits = page.bitspersample if samples.dtype.kind == "u" else None
    if page.photometric == _PALETTE and samples.dtype.kind == "u":
        return _looked_up(page, samples[..., 0])
    declared, clip = _declared(file, page, samples)
    if bits and declared is None and file.is_ome:
        said = _SIGNIFICANT.search(file.ome_metadata or "")
        bits = min(bits, int(said[1])) if said and int(said[1]) else bits
    no_data = page.tags.valueof(_NO_DATA)
    scaled = to_bytes(
        samples,
        bits=bits,
        declared=declared,
        clip=clip,
        no_data=float(page.nodata) if no_data is not None else None,
    )
    if page.photometric == _WHITE_IS_ZERO:
        scaled = ~scaled
    if page.photometric == _CMYK:
        return np.array(Image.fromarray(scaled, "CMYK").convert("RGB"))
    return np.repeat(scaled, 3, axis=2) if scaled.shape[2] == 1 else scaled


def _samples(page: TiffPage) -> np.ndarray:
    """The samples that are colours: ``[H, W, C]`` of the file's type, C = 1, 3 or 4."""
    colours = _COLOURS.get(page.photometric)
    extra = page.samplesperpixel - (colours or 0)
    if colours is None or extra < 0:
        raise ImageError(
            UNSUPPORTED,
            f"TIFF of photometric interpretation {int(page.photometric)} with "
            f"{page.samplesperpixel} samples a pixel",
        )
    alpha = [int(sample) in (_ASSOCIATED, _UNASSOCIATED) for sample in page.extrasamples]
    if extra and colours == 1 and not (len(alpha) == extra == 1 and alpha[0]):
        raise ImageError(
            UNSUPPORTED, f"TIFF with {page.samplesperpixel} bands that are no colours; convert it"
        )
    if page.dtype is None:
        raise ImageError(UNSUPPORTED, f"TIFF with samples of {page.bitspersample} bits")
    values = page.asarray(squeeze=False, maxworkers=1)  # [planes, 1, H, W, samples]
    planes = values.shape[0] > 1
    values = values[:colours, 0, :, :, 0] if planes else values[0, 0, :, :, :colours]
    return np.moveaxis(values, 0, -1) if planes else values


def _looked_up(page: TiffPage, index: np.ndarray) -> np.ndarray:
    colours = page.colormap
    if colours is None or page.bitspersample > 8 or index.max() >= colours.shape[1]:
        raise ImageError(DAMAGED, "TIFF with a palette that does not fit its pixels")
    # Some writers store bytes there, as libtiff knows as well.
    table = (colours >> 8 if colours.max() > 255 else colours).astype(np.uint8)
    return np.ascontiguousarray(table.T[index])


def _declared(
    file: TiffFile, page: TiffPage, samples: np.ndarray
) -> tuple[tuple[float, float] | None, bool]:
    """The values that are black and white by the file's tags, and whether to clip to them."""
    if page.bitspersample <= 8:
        return None, False
    if page.tags.get(_SMIN) or page.tags.get(_SMAX):
        return (_number(page, _SMIN, min, 0), _number(page, _SMAX, max, 0)), False
    shown = file.imagej_metadata if file.is_imagej else None
    if shown and "min" in shown and "max" in shown:
        return (float(shown["min"]), float(shown["max"])), True  # what ImageJ shows
    most = _number(page, _MAX, max, 0)
    # The tag is for statistics, so it declares a range only where it is a number of bits.
    few = samples.dtype.kind == "u" and 255 < most < 2**page.bitspersample - 1
    if few and (int(most) + 1) & int(most) == 0:
        return (_number(page, _MIN, min, 0), most), False
    return None, False


def _number(page: TiffPage, tag: int, pick: Any, default: float) -> float:
    """A tag's one value for all samples."""
    value = page.tags.valueof(tag, default)
    return float(pick(value) if isinstance(value, tuple | list | np.ndarray) else value)


def _damaged_strip(data: bytes, page: TiffPage) -> str | None:
    """What libjpeg warns of in strips that are JPEGs, and libtiff passes over."""
    tables = page.jpegtables[:-2] if page.jpegtables else b""
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        strip = data[offset : offset + count]
        whole = tables + strip[2:] if tables else strip
        try:
            damage = decode_jpeg(whole, cmyk=page.samplesperpixel == 4)[1]
        except ValueError as error:
            damage = first_line(error)
        if damage and "subsampling" not in damage and "precision" not in damage:
            return damage
    return None
