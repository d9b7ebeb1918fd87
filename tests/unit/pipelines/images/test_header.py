"""Headers of images, and boxes in stored pixels, compared with Pillow's own turning of them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps, PngImagePlugin

from common.moved import ImageRoot
from pipelines.images.errors import ImageError
from pipelines.images.formats import decode
from pipelines.images.header import ImageHeader, header_of, image_size, read_header
from tests.helpers.videos import write_video

BOX = (8, 16, 32, 26)
KINDS = {"JPEG": "jpg", "PNG": "png", "TIFF": "tif", "WEBP": "webp", "AVIF": "avif"}


def marked() -> Image.Image:
    """A black image of 80 x 48 with one white rectangle."""
    image = Image.new("RGB", (80, 48))
    image.paste((255, 255, 255), BOX)
    return image


def rotated(kind: str, orientation: int) -> bytes:
    stream, exif = io.BytesIO(), Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    given = {"tiffinfo": {274: orientation}} if kind == "TIFF" else {"exif": exif}
    marked().save(stream, kind, **({"quality": 100} if kind == "AVIF" else {}), **given)
    return stream.getvalue()


def white(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """The box around what is white in ``[H, W, 3]``."""
    rows, columns = np.nonzero(pixels[..., 1] > 127)
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_stored_box_is_where_pillow_puts_it(tmp_path: Path, kind: str, orientation: int) -> None:
    data = rotated(kind, orientation)
    (tmp_path / f"image.{KINDS[kind]}").write_bytes(data)
    with Image.open(io.BytesIO(data)) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    header = read_header(ImageRoot(tmp_path), f"image.{KINDS[kind]}")
    assert header.upright_size == (expected.shape[1], expected.shape[0])
    assert header.stored_size == (80, 48)
    assert tuple(header.to_upright(np.array([BOX], np.float64))[0]) == white(expected)
    assert decode(data).pixels.shape == (3, expected.shape[0], expected.shape[1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_box_that_ends_before_it_begins_stays_so(orientation: int) -> None:
    header = ImageHeader(80, 48, orientation)
    x1, y1, x2, y2 = header.to_upright(np.array([[32.0, 26, 8, 16]]))[0]
    assert x2 < x1
    assert y2 < y1
    assert np.isnan(header.to_upright(np.full((1, 4), np.nan))).all()


def late_exif(orientation: int) -> bytes:
    """A PNG whose EXIF comes after its pixels."""
    stream = io.BytesIO()
    marked().save(stream, "PNG")
    data = stream.getvalue()
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    late = io.BytesIO()
    PngImagePlugin.putchunk(late, b"eXIf", exif.tobytes()[6:])
    end = data.index(b"IEND") - 4
    return data[:end] + late.getvalue() + data[end:]


def test_exif_after_the_pixels_of_a_png_counts() -> None:
    header = header_of(io.BytesIO(late_exif(6)))
    assert (header.orientation, header.upright_size) == (6, (48, 80))


def test_exif_after_the_pixels_does_not_have_a_bomb_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipelines.images.header.MAX_PIXELS", 80 * 48 - 1)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    assert header_of(io.BytesIO(late_exif(6))) == ImageHeader(80, 48)


def test_a_png_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", None)
    assert header_of(io.BytesIO(rotated("PNG", 3))).orientation == 3


def test_what_cannot_be_read_is_what_decoding_says(tmp_path: Path) -> None:
    (tmp_path / "notes.jpg").write_text("not an image")
    (tmp_path / "empty.jpg").touch()
    for name, kind in {
        "notes.jpg": "not an image",
        "empty.jpg": "empty file",
        "gone.jpg": "missing file",
    }.items():
        with pytest.raises(ImageError) as raised:
            read_header(ImageRoot(tmp_path), name)
        assert raised.value.kind == kind


def test_a_frame_of_a_video_has_the_size_that_is_shown(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", 3)
    header = read_header(ImageRoot(tmp_path), "clip.mp4#frame=1")
    assert header.upright_size == header.stored_size == (64, 64)


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError) as refused:
        read_header(ImageRoot(tmp_path), "pipe.jpg")
    assert refused.value.kind == "unreadable file"
    assert image_size(tmp_path / "pipe.jpg") is None
