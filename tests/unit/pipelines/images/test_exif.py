"""EXIF times, as Pillow reads them from the opened image."""

from __future__ import annotations

import io
from datetime import datetime

import numpy as np
import pytest
from PIL import ExifTags, Image

from pipelines.images.exif import read_time_taken, time_taken
from pipelines.images.formats import decode

WHEN = datetime(2023, 10, 29, 2, 10)
BASE = ExifTags.Base


def photo(
    kind: str = "JPEG", *, note: int = 0, size: int = 32, profile: int = 0, **values: object
) -> bytes:
    """A picture with EXIF values, ``note`` bytes of a maker's note, and an ICC profile."""
    pixels = np.random.default_rng(0).integers(0, 255, (size, size, 3), np.uint8)
    exif = Image.Exif()
    exif[BASE.Make] = "camera"
    details = exif.get_ifd(ExifTags.IFD.Exif)
    details |= {getattr(BASE, name): value for name, value in values.items()}
    if note:
        details[BASE.MakerNote] = bytes(note)
    stream = io.BytesIO()
    more = {"icc_profile": bytes(profile)} if profile else {}
    Image.fromarray(pixels).save(stream, kind, exif=exif.tobytes(), **more)
    return stream.getvalue()


TIME = {"DateTimeOriginal": "2023:10:29 02:10:00"}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "MPO"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"size": 500},
        {"note": 60_000},
        {"profile": 200_000},
        {"note": 40_000, "profile": 90_000},
    ],
)
def test_the_time_is_that_of_the_whole_file(kind: str, more: dict[str, int]) -> None:
    data = photo(kind, **TIME, **more)  # type: ignore[arg-type]
    assert (
        Image.open(io.BytesIO(data)).getexif().get_ifd(0x8769)[0x9003] == TIME["DateTimeOriginal"]
    )
    assert read_time_taken(io.BytesIO(data)) == decode(data).taken == WHEN


@pytest.mark.parametrize(
    ("text", "microsecond"),
    [("5", 500_000), ("05", 50_000), ("123456789", 123_456), ("", 0), ("x", 0)],
)
def test_the_part_of_a_second_tells_a_burst_apart(text: str, microsecond: int) -> None:
    data = photo(**TIME, SubsecTimeOriginal=text)  # type: ignore[arg-type]
    assert read_time_taken(io.BytesIO(data)) == WHEN.replace(microsecond=microsecond)


@pytest.mark.parametrize(
    "data",
    [
        photo(),
        photo(DateTimeOriginal="0000:00:00 00:00:00"),
        photo(DateTimeOriginal="yesterday"),
        photo(DateTimeDigitized="2023:10:29 02:10:00"),
        b"",
        b"no image",
        photo(**TIME)[:60],  # type: ignore[arg-type]
    ],
)
def test_no_time_is_none(data: bytes) -> None:
    assert read_time_taken(io.BytesIO(data)) is None


def test_damaged_metadata_are_no_error() -> None:
    data = photo(**TIME)  # type: ignore[arg-type]
    random = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(data)
        for at in random.integers(0, 120, 4):
            broken[at] = random.integers(0, 256)
        read_time_taken(io.BytesIO(bytes(broken)))
        try:
            image = Image.open(io.BytesIO(bytes(broken)))
        except Exception:  # noqa: S112 - it is no image any more
            continue
        time_taken(image)
