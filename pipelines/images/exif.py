"""When a photo was taken, as its camera wrote it."""

from __future__ import annotations

from datetime import datetime
from typing import IO

from PIL import ExifTags, Image

from pipelines.images.pillow import open_image

_HEAD_BYTES = 64 * 2**10  # one request to a store
_JPEG, _SCAN, _EXIF = b"\xff\xd8", b"\xff\xda", b"Exif\0\0"


def time_taken(image: Image.Image) -> datetime | None:
    """The EXIF time of an opened image, with the part of a second that tells a burst apart."""
    try:
        return _time_in(image.getexif())
    except Exception:  # damaged metadata does not make the picture unusable
        return None


def read_time_taken(stream: IO[bytes]) -> datetime | None:
    """The EXIF time of an image file; no pixel is decoded. None where it cannot be read.

    Pillow warns of large images; the caller silences it, because that is a setting of the process.
    """
    head = stream.read(_HEAD_BYTES)
    if head.startswith(_JPEG) and _SCAN in head:
        begin = head.find(_EXIF)
        if begin < 0:
            return None
        try:  # half the time of opening the image, which also reads its tables
            exif = Image.Exif()
            exif.load(head[begin:])
            return _time_in(exif)
        except Exception:  # noqa: S110 - it is damaged, or longer than the head
            pass
    stream.seek(0)
    try:
        image = open_image(stream)
        return None if image is None else time_taken(image)
    except Exception:  # decoders raise anything; decoding says what is wrong
        return None


def _time_in(exif: Image.Exif) -> datetime | None:
    details = exif.get_ifd(ExifTags.IFD.Exif)
    return parse_time(
        details.get(ExifTags.Base.DateTimeOriginal), details.get(ExifTags.Base.SubsecTimeOriginal)
    )


def parse_time(text: object, fraction: object) -> datetime | None:
    """The time of EXIF's two texts: the second, and the digits after it.

    Raises:
        ValueError: it is no time.
    """
    if not text:
        return None
    taken = datetime.strptime(str(text).strip(" \0"), "%Y:%m:%d %H:%M:%S")
    part = str(fraction or "").strip(" \0")
    digits = part if part.isascii() and part.isdigit() else "0"
    return taken.replace(microsecond=int(digits[:6].ljust(6, "0")))
