"""Images drawn by code, the same on every machine."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def drawn(seed: int, *, width: int = 320, height: int = 240) -> Image.Image:
    """A smooth colourful picture with a few shapes in it, different for each seed."""
    stream = np.random.Generator(np.random.PCG64(seed))
    y, x = np.mgrid[0:height, 0:width] / max(width, height)
    waves = stream.uniform(2, 12, (3, 2))
    phase = stream.uniform(0, 6, 3)
    channels = [
        np.sin(a * x + b * y + p) * 90 + 128 for (a, b), p in zip(waves, phase, strict=True)
    ]
    picture = np.stack(channels, axis=-1)
    for _ in range(4):
        cx, cy, radius = stream.uniform(0, 1), stream.uniform(0, 0.75), stream.uniform(0.04, 0.2)
        inside = (x - cx) ** 2 + (y - cy) ** 2 < radius**2
        picture[inside] = stream.uniform(0, 255, 3)
    return Image.fromarray(picture.clip(0, 255).astype(np.uint8))


def encoded(image: Image.Image, kind: str = "JPEG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def photo_folder(path: Path, count: int, **size: int) -> Path:
    """``count`` drawn JPEGs, two folders of them."""
    for number in range(count):
        file = path / f"night{number % 2}" / f"{number:04d}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        drawn(number, **size).save(file, quality=92)
    return path


def bad_folder(path: Path) -> Path:
    """Twelve kinds of trouble and two good rows, with a manifest ``rows.csv``.

    Five of the kinds are odd but readable; the others must become errors.
    """
    path.mkdir(parents=True, exist_ok=True)
    good = drawn(1)
    (path / "good.jpg").write_bytes(encoded(good))
    (path / "empty.jpg").write_bytes(b"")
    whole = encoded(good)
    (path / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (path / "text.jpg").write_text("this is not a picture\n" * 20)
    (path / "one_pixel.png").write_bytes(encoded(Image.new("RGB", (1, 1), (200, 30, 30)), "PNG"))
    (path / "wide.png").write_bytes(encoded(Image.new("RGB", (30_000, 3), (9, 99, 9)), "PNG"))
    (path / "cmyk.jpg").write_bytes(encoded(good.convert("CMYK")))
    deep = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    (path / "deep.png").write_bytes(encoded(Image.fromarray(deep), "PNG"))
    frames = [drawn(n) for n in (2, 3, 4)]
    (path / "moving.gif").write_bytes(
        encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    )
    rows = ["image,x1,y1,x2,y2,night"]
    rows += [f"{name},,,,,1" for name in BAD_FILES]
    rows += ["good.jpg,,,,,1", "good.jpg,10,10,100,90,1"]
    rows += ["good.jpg,20,20,20,60,1", "good.jpg,900,900,950,950,1", "good.jpg,nan,10,50,50,1"]
    (path / "rows.csv").write_text("\n".join(rows) + "\n")
    return path


BAD_FILES = (
    "empty.jpg",
    "truncated.jpg",
    "text.jpg",
    "one_pixel.png",
    "wide.png",
    "cmyk.jpg",
    "deep.png",
    "moving.gif",
    "gone.jpg",
)

BAD_ERRORS = {
    "empty file": 1,
    "damaged image": 1,
    "not an image": 1,
    "missing file": 1,
    "box without area": 1,
    "box outside image": 1,
    "box not finite": 1,
}
