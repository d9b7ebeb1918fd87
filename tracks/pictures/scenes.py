"""The images of a run's rows; those that cannot be read are counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from common.moved import ImageRoot
from pipelines.images.errors import ImageError
from pipelines.images.reader import ImageReader


class RunImages:
    """Reads images of a run by name, frames of videos as well; fastest in order.

    Args:
        root: where they are: the folder that relative names start from, or all of it.

    Attributes:
        missing: number of images that could not be read, by kind of error.
    """

    def __init__(self, root: Path | ImageRoot) -> None:
        self._reader = ImageReader(root, damaged="keep")
        self.missing: Counter[str] = Counter()
        self.close = self._reader.close

    def read(self, name: str) -> Image.Image | None:
        """The upright image called ``name``, None if it cannot be read."""
        try:
            pixels = self._reader.read(name).pixels
        except ImageError as error:
            self.missing[error.kind] += 1
            return None
        return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))
