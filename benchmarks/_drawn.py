"""Drawn images, for benchmarks that can do without real ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def draw_images(folder: Path, count: int, *, size: tuple[int, int] = (320, 240)) -> Path:
    """``count`` JPEG files of ``size`` (width, height), every one another."""
    folder.mkdir(parents=True)
    dice = np.random.default_rng(0)
    for number in range(count):
        coarse = dice.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(size).save(folder / f"{number:06d}.jpg", quality=90)
    return folder
