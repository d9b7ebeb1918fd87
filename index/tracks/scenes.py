"""The images behind a run's rows, small enough to draw on; those that are gone are counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from pipelines.images import ImageError
from pipelines.video.frames import ImageReader


@dataclass
class Scenes:
    """Reads images of a run by name, frames of videos as well; fastest in order.

    Attributes:
        root: folder that relative names start from.
        max_side_px: larger images are reduced to it.
        missing: images that could not be read, by what was wrong with them.
    """

    root: Path
    max_side_px: int
    missing: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._reader = ImageReader(self.root)

    def read(self, name: str) -> tuple[Image.Image, float] | None:
        """The image called ``name`` and how far it was reduced, 1 or less; None if unreadable."""
        try:
            pixels = self._reader.read(name).pixels
        except ImageError as error:
            self.missing[error.kind] += 1
            return None
        image = Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
        scale = min(1.0, self.max_side_px / max(image.size))
        if scale < 1:
            size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
            image = image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0)
        return image, scale

    def close(self) -> None:
        """Close the video that is open, if one is."""
        self._reader.close()
