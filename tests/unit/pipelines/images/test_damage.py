"""Damaged images are errors, whole ones with odd metadata are not, and kept ones say what is wrong."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipelines.images.errors import ImageError
from pipelines.images.formats import decode
from pipelines.images.header import header_of
from tests.helpers.pictures import encoded

EOI = b"\xff\xd9"


def photo(width: int = 320, height: int = 240) -> Image.Image:
    """Something with detail everywhere, as a photo has."""
    noise = np.random.default_rng(5).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


JPEG = encoded(photo(), quality=90)
PROGRESSIVE = encoded(photo(), quality=90, progressive=True)
RESTARTS = encoded(photo(), quality=90, restart_marker_blocks=4)
CMYK = encoded(photo().convert("CMYK"), quality=90)
GREY = encoded(photo().convert("L"), quality=90)
ROTATED_EXIF = Image.Exif()
ROTATED_EXIF[0x0112] = 6
ROTATED = encoded(photo(), quality=90, exif=ROTATED_EXIF)
JPEGS = {
    "baseline": JPEG,
    "progressive": PROGRESSIVE,
    "restarts": RESTARTS,
    "cmyk": CMYK,
    "grey": GREY,
    "rotated": ROTATED,
}


def scan_of(data: bytes) -> int:
    """Where the coded data of the first scan begin."""
    return data.index(b"\xff\xda") + 14


def zeroed(data: bytes, begin: float, end: float) -> bytes:
    """The part from ``begin`` to ``end`` (0 to 1) of the coded data as zeros."""
    start = scan_of(data)
    first, last = (start + int((len(data) - 2 - start) * share) for share in (begin, end))
    return data[:first] + bytes(last - first) + data[last:]


def kind_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    return caught.value.kind


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "zeroed middle": lambda data: zeroed(data, 0.3, 0.6),
    "zeroed tail, end marker": lambda data: zeroed(data, 0.5, 1),
    "zeroed tail": lambda data: zeroed(data, 0.5, 1)[:-2] + bytes(2),
    "cut": lambda data: data[: len(data) * 2 // 3],
    "cut, end marker": lambda data: data[: len(data) * 2 // 3] + EOI,
    "0xFF in the middle": lambda data: data[: len(data) // 2] + b"\xff" * 900 + data[-2:],
    "other data in the middle": lambda data: (
        data[: len(data) // 2] + bytes(range(1, 255)) * 9 + data[len(data) // 2 :]
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("jpeg", JPEGS)
def test_a_damaged_jpeg_is_an_error(jpeg: str, damage: str) -> None:
    decode(JPEGS[jpeg])
    assert kind_of(DAMAGES[damage](JPEGS[jpeg])) == "damaged image"


@pytest.mark.parametrize("height", [-40, 40, 300])
def test_a_jpeg_of_another_height_than_its_header_says(height: int) -> None:
    at = JPEG.index(b"\xff\xc0") + 5
    assert kind_of(JPEG[:at] + (240 + height).to_bytes(2) + JPEG[at + 2 :]) == "damaged image"


def test_a_progressive_jpeg_that_ends_after_some_scans() -> None:
    scans = [match.start() for match in re.finditer(b"\xff\xda", PROGRESSIVE)]
    for scan in scans[1:]:
        assert kind_of(PROGRESSIVE[:scan] + EOI) == "damaged image"


def test_a_hole_that_libjpeg_does_not_warn_of() -> None:
    start, whole = scan_of(JPEG), 0
    for at in range(start, len(JPEG) - 300, 97):
        hurt = JPEG[:at] + bytes(128) + JPEG[at + 128 :]
        try:
            decode(hurt)
        except ImageError:
            continue
        whole += 1
    assert whole == 0


def segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content


INTACT = {
    "bytes after the end": JPEG + b"\x01\x02" * 500,
    "zeros after the end": JPEG + bytes(4000),
    "a second picture after the end": JPEG + GREY,
    "no end marker": JPEG[:-2],
    "padding before the end": JPEG[:-2] + bytes(2) + EOI,
    "an odd APP marker": JPEG[:20] + segment(0xEB, b"maker" * 100) + JPEG[20:],
    "zeros in a maker's note": JPEG[:20] + segment(0xE1, b"Exif\0\0" + bytes(4000)) + JPEG[20:],
    "a broken profile": JPEG[:20] + segment(0xE2, b"ICC_PROFILE\0\x05\x02odd") + JPEG[20:],
    "other bounds of coefficients": JPEG[: scan_of(JPEG) - 3] + bytes(3) + JPEG[scan_of(JPEG) :],
    "an unknown JFIF": JPEG[:11] + b"\x03" + JPEG[12:],
    "an unknown Adobe": JPEG[:2] + segment(0xEE, b"Adobe\0\x64\0\0\0\0\x07") + JPEG[20:],
}


@pytest.mark.parametrize("name", INTACT)
def test_a_whole_jpeg_with_odd_surroundings_is_whole(name: str) -> None:
    expected = decode(JPEG).pixels
    assert decode(INTACT[name]).pixels.equal(expected)


def test_even_areas_may_be_coded_as_zeros() -> None:
    even = Image.new("RGB", (1600, 1600), (255, 255, 255))
    for options in ({}, {"optimize": True}, {"progressive": True}):
        data = encoded(even, quality=90, **options)
        assert decode(data).pixels.min() >= 254


def test_pictures_of_several_are_their_first() -> None:
    stream = io.BytesIO()
    photo().save(stream, "MPO", save_all=True, append_images=[photo().rotate(180)])
    difference = decode(stream.getvalue()).pixels.int() - decode(encoded(photo())).pixels.int()
    assert difference.abs().float().mean() < 2


def hurt_png() -> bytes:
    """Its pixels have another checksum than it says, which Pillow does not look at."""
    data = encoded(photo(64, 48), "PNG")
    at = data.rindex(b"IEND") - 8
    return data[:at] + bytes(4) + data[at + 4 :]


def test_formats_with_checksums_or_a_length() -> None:
    picture = photo(64, 48)
    assert kind_of(hurt_png()) == "damaged image"
    for name in ("PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "AVIF", "JPEG2000"):
        data = encoded(picture, name)
        assert kind_of(data[: len(data) - 20 - len(data) // 8]) in ("damaged image", "not an image")


@pytest.mark.parametrize(("name", "hole"), [("WEBP", 100), ("AVIF", 1100)])
def test_a_hole_in_formats_without_checksums(name: str, hole: int) -> None:
    data = encoded(photo(), name, quality=90)
    at = len(data) // 2
    assert kind_of(data[:at] + bytes(hole) + data[at + hole :]) == "damaged image"


def test_keep_takes_what_there_is_and_says_so() -> None:
    whole = decode(JPEG, damaged="keep")
    assert whole.damage is None
    for jpeg, data in JPEGS.items():
        kept = decode(zeroed(data, 0.5, 0.9), damaged="keep")
        assert kept.damage, jpeg
        assert kept.pixels.shape == decode(data).pixels.shape
    top = decode(zeroed(JPEG, 0.5, 1), damaged="keep").pixels
    assert top[:, :80].equal(whole.pixels[:, :80])
    assert decode(hurt_png(), damaged="keep").damage
    with pytest.raises(ImageError):
        decode(encoded(photo(), "PNG")[:3000], damaged="keep")  # of which Pillow gives nothing


@pytest.mark.parametrize("name", ["AVIF", "DDS", "TIFF", "ICO"])
@pytest.mark.parametrize("value", [0, 255])
def test_no_damage_of_a_header_raises_another_error(name: str, value: int) -> None:
    data = encoded(photo(32, 32), name)
    for at in range(4, 180):
        with contextlib.suppress(ImageError):
            decode(data[:at] + bytes([value]) + data[at + 1 :])


@pytest.mark.parametrize("name", ["JPEG", "MPO", "PNG", "WEBP", "GIF", "TIFF", "AVIF", "BMP"])
def test_the_limit_of_pixels_is_ours_and_not_pillows(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Pillow refuses at twice its own limit, which other code of the process may rely on."""
    data = encoded(photo(64, 48), name)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 48 // 4)
    assert decode(data).pixels.shape == (3, 48, 64)
    assert header_of(io.BytesIO(data)).upright_size == (64, 48)
    assert Image.MAX_IMAGE_PIXELS == 64 * 48 // 4
    for module in ("formats", "pillow", "tiff"):
        monkeypatch.setattr(f"pipelines.images.{module}.MAX_PIXELS", 64 * 48 - 1)
    assert kind_of(data) == "too large"


ODD = [TypeError, IndexError, OverflowError, RecursionError, AssertionError, EOFError, MemoryError]


@pytest.mark.parametrize("error", ODD)
@pytest.mark.parametrize("step", ["_open", "load", "getexif", "convert"])
def test_no_error_of_a_decoder_comes_through(
    monkeypatch: pytest.MonkeyPatch, step: str, error: type[Exception]
) -> None:
    from PIL.BmpImagePlugin import BmpImageFile

    def fails(*args: object, **kwargs: object) -> None:
        raise error("two\nlines")

    data = encoded(photo(64, 48), "BMP")
    monkeypatch.setattr(BmpImageFile, step, fails)
    assert kind_of(data) in ("damaged image", "not an image")


def test_an_interrupt_and_a_full_memory_come_through(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL.BmpImagePlugin import BmpImageFile

    data = encoded(photo(64, 48), "BMP")

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(BmpImageFile, "load", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decode(data)

    def full(*args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(BmpImageFile, "load", full)
    monkeypatch.setattr("pipelines.images.formats.bytearray", full, raising=False)
    with pytest.raises(MemoryError, match="BMP 64x48"):
        decode(data)
