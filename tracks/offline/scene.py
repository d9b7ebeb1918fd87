"""The detections of one sequence as arrays, in units that make scenes alike.

Distances are measured in diagonals of the two boxes, which takes perspective out; frames are counted in their
usual step; a track that begins or ends at the border of the image is expected, elsewhere it is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from index.vectors import Floats, Ints
from tracks.association.frames import by_frame, frame_step
from tracks.association.state import Bools

BORDER = 0.1  # a box is at the border when it is as near to it, in its own diagonals


@dataclass(frozen=True)
class Scene:
    """N detections of one sequence, by frame."""

    step: Ints  # the frame of each, counted in usual steps from 0 [N]
    centre: Floats  # [N, 2] in pixels
    size: Floats  # diagonal of its box [N], in pixels
    log_area: Floats  # of its box [N]
    look: npt.NDArray[np.float32]  # its shortened embedding [N, R], of length 1
    at_border: Bools  # whether its box is at the border of the image [N]
    sizes: Floats  # width and height of its image [N, 2], in pixels
    frames: list[slice]  # the rows of each frame

    @classmethod
    def of(
        cls,
        frames: Ints,
        boxes: Floats,
        look: npt.NDArray[np.float32],
        sizes: Floats,
        *,
        steady: Floats | None = None,
        parts: list[slice] | None = None,
        far: int = 0,
    ) -> Scene:
        """Of frame numbers ``[N]``, never falling, boxes ``[N, 4]`` and image sizes ``[N, 2]`` in pixels.

        ``steady`` are the boxes as if the camera had stood still. Between two of ``parts``, slices of the
        rows, lie at least ``far`` steps.
        """
        rows = by_frame(frames)
        numbers = frames[[part.start for part in rows]]
        steps = np.maximum(np.rint(np.diff(numbers) / frame_step(frames)), 1).astype(np.int64)
        if parts is not None:
            begin = [part.start for part in parts[1:]]
            edges = np.searchsorted([part.start for part in rows], begin) - 1
            steps[edges] = np.maximum(steps[edges], far)
        counts = [part.stop - part.start for part in rows]
        sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 1e-6)
        size = np.hypot(sides[:, 0], sides[:, 1])
        gaps = np.column_stack([boxes[:, :2], sizes - boxes[:, 2:]]).min(axis=1)
        where = boxes if steady is None else steady
        return cls(
            step=np.repeat(np.r_[0, np.cumsum(steps)][: len(rows)], counts),
            centre=(where[:, :2] + where[:, 2:]) / 2,
            size=size,
            log_area=np.log(sides[:, 0] * sides[:, 1]),
            look=look,
            at_border=gaps < BORDER * size,
            sizes=sizes,
            frames=rows,
        )

    def __len__(self) -> int:
        return len(self.step)

    def steps(self, earlier: Ints, later: Ints) -> Ints:
        """Steps from detections to later ones; arrays that broadcast."""
        return self.step[later] - self.step[earlier]

    def displacement(self, earlier: Ints, later: Ints) -> Floats:
        """Between detections ``[...]``, in geometric means of their diagonals ``[..., 2]``."""
        return (self.centre[later] - self.centre[earlier]) / self.scale(earlier, later)[..., None]

    def scale(self, earlier: Ints, later: Ints) -> Floats:
        """Pixels of one unit of their displacement ``[...]``."""
        scale: Floats = np.sqrt(self.size[earlier] * self.size[later])
        return scale

    def anywhere(self, earlier: Ints, later: Ints) -> Floats:
        """Log density of a displacement to anywhere that detections are ``[...]``, as that of ``log_t``."""
        density: Floats = 2 * np.pi * self.scale(earlier, later) ** 2 / self._area
        return np.log(density)

    @cached_property
    def _area(self) -> float:
        """Pixels of the ellipse that detections are in, were they evenly spread; of a box at least."""
        apart = self.centre - self.centre.mean(axis=0)
        variance = apart.T @ apart / len(self) + np.eye(2) * np.median(self.size) ** 2 / 12
        return float(4 * np.pi * np.sqrt(np.linalg.det(variance)))

    def cosine(self, earlier: Ints, later: Ints) -> Floats:
        """Of their looks, pair by pair ``[P]``."""
        cosine: Floats = np.einsum("pr,pr->p", self.look[earlier], self.look[later])
        return cosine.astype(np.float64)

    def growth(self, earlier: Ints, later: Ints) -> Floats:
        """Logarithm of the later area over the earlier one ``[...]``."""
        growth: Floats = self.log_area[later] - self.log_area[earlier]
        return growth
