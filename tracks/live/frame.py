"""A new frame of a live camera."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class Frame:
    """The N detections of one new frame; N may be 0."""

    sequence: str  # camera and session
    number: int | None = None  # above all earlier ones; None: one step after the last
    step: int = 1  # usual difference of the numbers of neighbouring frames, the unit of gaps
    # Time of the frame; needed where the options have max_gap_seconds.
    taken: datetime | None = None
    # Its number and time may be far ahead of the last ones.
    allow_jump: bool = False
    image_size: tuple[float, float]  # width and height of the image, in pixels
    ids: list[str]  # of the detections, none twice
    boxes: npt.NDArray[np.float64]  # [N, 4] as x1, y1, x2, y2 in pixels, finite
    vectors: npt.NDArray[np.float32]  # [N, D] raw embeddings
    # Of the detector [N], NaN for none; for strong_score.
    scores: npt.NDArray[np.float64] | None = None
    # Additional fields of each detection, copied into the answer.
    more: list[dict[str, Any]] | None = None

    @property
    def diagonal_px(self) -> float:
        """Of the image, in pixels."""
        return math.hypot(*self.image_size)
