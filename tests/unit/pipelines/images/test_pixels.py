"""Decode, crop, resize: pixel values, not only shapes."""

from __future__ import annotations

import io
import math
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from pipelines.images.errors import ImageError
from pipelines.images.formats import decode
from pipelines.images.pillow import quiet
from pipelines.images.pixels import crop, read, resize
from pipelines.model_info import Preprocess
from tests.helpers.pictures import drawn, encoded

HALF = (0.5, 0.5, 0.5)


def as_array(pixels: torch.Tensor) -> np.ndarray:
    return pixels.permute(1, 2, 0).numpy().astype(int)


def test_jpeg_equals_pillow() -> None:
    data = encoded(drawn(3), quality=90)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(as_array(decode(data).pixels) - expected).max() <= 1


@pytest.mark.parametrize(("kind", "most"), [("PNG", 0), ("TIFF", 0), ("BMP", 0), ("WEBP", 4)])
def test_formats_give_the_pixels(kind: str, most: int) -> None:
    picture = drawn(4)
    difference = as_array(decode(encoded(picture, kind, quality=95)).pixels) - np.asarray(picture)
    assert np.abs(difference).mean() <= most


def test_cmyk_keeps_its_colours() -> None:
    picture = Image.new("RGB", (40, 40), (200, 40, 60))
    pixels = as_array(decode(encoded(picture.convert("CMYK"), quality=95)).pixels)
    assert np.abs(pixels.mean((0, 1)) - (200, 40, 60)).max() < 6


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    deep = np.full((8, 8), 0x4000, dtype=np.uint16)
    assert (as_array(decode(encoded(Image.fromarray(deep), "PNG")).pixels) == 0x40).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_exif_rotation_is_honoured(kind: str) -> None:
    picture = Image.new("RGB", (60, 30), (0, 0, 255))
    picture.paste((255, 0, 0), (0, 0, 10, 30))  # red on the left edge
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate 90 degrees clockwise to view: left edge becomes the top
    pixels = as_array(decode(encoded(picture, kind, exif=exif)).pixels)
    assert pixels.shape == (60, 30, 3)
    assert pixels[2, 15, 0] > 200
    assert pixels[50, 15, 2] > 200


def test_exif_time_is_read() -> None:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0x9003] = "2022:07:28 23:22:39"
    taken = decode(encoded(drawn(1), exif=exif)).taken
    assert taken is not None
    assert taken.isoformat() == "2022-07-28T23:22:39"


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"hello" * 50, "not an image"),
        (encoded(drawn(1))[:3000], "damaged image"),
        (encoded(drawn(1), "PNG")[:3000], "damaged image"),
    ],
)
def test_bad_bytes_name_their_trouble(data: bytes, kind: str) -> None:
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.kind == kind
    assert "\n" not in str(caught.value)
    assert ".cpp" not in str(caught.value)


def test_files_that_are_missing_or_empty(tmp_path: Path) -> None:
    (tmp_path / "b.jpg").touch()
    for name, kind in (("a.jpg", "missing file"), ("b.jpg", "empty file")):
        with pytest.raises(ImageError) as caught:
            read(tmp_path / name)
        assert caught.value.kind == kind


def test_a_crop_grows_to_whole_pixels_and_clips() -> None:
    pixels = torch.arange(3 * 10 * 20).reshape(3, 10, 20)
    assert torch.equal(crop(pixels, (None,) * 4), pixels)
    assert torch.equal(crop(pixels, (2.4, 1.6, 5.1, 4.0)), pixels[:, 1:4, 2:6])
    assert torch.equal(crop(pixels, (-5, -5, 3, 2)), pixels[:, :2, :3])
    assert torch.equal(crop(pixels, (15, 5, 99, 99)), pixels[:, 5:, 15:])


@pytest.mark.parametrize(
    ("box", "kind"),
    [
        ((1, 1, 1, 5), "box without area"),
        ((5, 1, 1, 5), "box without area"),
        ((20, 1, 25, 5), "box outside image"),
        ((-9, 1, 0, 5), "box outside image"),
        ((math.nan, 1, 2, 5), "box not finite"),
        ((0, 0, math.inf, 5), "box not finite"),
        ((1, None, 2, 5), "incomplete box"),
    ],
)
def test_bad_boxes_name_their_trouble(box: tuple[float | None, ...], kind: str) -> None:
    with pytest.raises(ImageError) as caught:
        crop(torch.zeros(3, 10, 20), box)
    assert caught.value.kind == kind


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (225, 225), (97, 341)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0])
def test_crop_equals_torchvision(size: tuple[int, int], crop_pct: float) -> None:
    pixels = torch.from_numpy(np.array(drawn(7, width=size[0], height=size[1]))).permute(2, 0, 1)
    how = Preprocess(input_size=(224, 224), resize="crop", crop_pct=crop_pct, mean=HALF, std=HALF)
    expected = Compose([Resize(int(224 / crop_pct), antialias=True), CenterCrop(224)])(pixels)
    difference = (resize(pixels, how).int() - expected.int()).abs()
    assert difference.float().mean() < 1.0


def test_squash_and_pad() -> None:
    pixels = torch.full((3, 50, 100), 200, dtype=torch.uint8)
    squashed = resize(pixels, Preprocess(input_size=(64, 64), resize="squash", mean=HALF, std=HALF))
    assert squashed.shape == (3, 64, 64)
    assert (squashed == 200).all()
    mean = (0.2, 0.4, 0.6)
    padded = resize(pixels, Preprocess(input_size=(64, 64), resize="pad", mean=mean, std=HALF))
    assert padded[:, 0, 0].tolist() == [51, 102, 153]
    assert padded[:, 32, 32].tolist() == [200, 200, 200]
    assert (padded[0] == 200).sum() == 32 * 64


@pytest.mark.parametrize("mode", ["squash", "crop", "pad"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 30_000), (30_000, 1)])
def test_extreme_shapes_fit(mode: str, shape: tuple[int, int]) -> None:
    pixels = torch.full((3, *shape), 7, dtype=torch.uint8)
    how = Preprocess(input_size=(224, 224), resize=mode, mean=HALF, std=HALF)  # type: ignore[arg-type]
    fitted = resize(pixels, how)
    assert fitted.shape == (3, 224, 224)
    assert (fitted[:, 111:113, 111:113] == 7).all(0).any()


def test_threads_that_are_quiet_at_once_leave_warnings_as_they_were() -> None:
    """Also where the first to come is the first to go, after which the last is still quiet."""
    first, last = quiet(), quiet()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        before = warnings.filters[:]
        first.__enter__()
        with ThreadPoolExecutor(1) as other_thread:
            other_thread.submit(last.__enter__).result(60)
            first.__exit__(None, None, None)
            warnings.warn("while the last is quiet", stacklevel=1)
            other_thread.submit(last.__exit__, None, None, None).result(60)
        assert warnings.filters == before
        with pytest.raises(UserWarning, match="heard again"):
            warnings.warn("heard again", stacklevel=1)


def test_many_threads_decode_what_pillow_warns_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)  # it warns from there to twice as many
    data = encoded(Image.new("RGB", (10, 10), (9, 99, 9)), "PNG")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Image.DecompressionBombWarning):
            Image.open(io.BytesIO(data))
        before = warnings.filters[:]
        together = threading.Barrier(4)

        def decoded(_: int) -> tuple[int, ...]:
            together.wait(60)
            (shape,) = {tuple(decode(data).pixels.shape) for _ in range(50)}
            return shape

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(decoded, range(4))) == [(3, 10, 10)] * 4
        assert warnings.filters == before
