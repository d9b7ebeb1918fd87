"""Animals followed through boxes that hold several: by their own speed and size, pushed to the sides that are seen.

Inside, nobody sees who is who, but each side of the box is a side of one of the animals: of the one who
is expected to reach farthest to that side.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from index.vectors import Floats


@dataclass(frozen=True)
class Body:
    """One animal."""

    centre: Floats  # [2] in pixels
    sides: Floats  # [2], width and height
    speed: Floats  # [2] in pixels a step

    def after(self, steps: int) -> Body:
        """Where it is if it goes on."""
        return Body(self.centre + steps * self.speed, self.sides, self.speed)


def fit_bodies(
    expected: Mapping[int, Body], steps: Mapping[int, int], box: Floats
) -> dict[int, Body]:
    """Where each of K animals is in the box ``[4]`` around them.

    Args:
        expected: where each one would be if it went on.
        steps: since it was seen.
        box: x1, y1, x2, y2 in pixels.
    """
    centre = np.stack([body.centre for body in expected.values()])  # [K, 2]
    half = np.minimum([body.sides for body in expected.values()], box[2:] - box[:2]) / 2
    low, high = box[:2] + half, box[2:] - half  # where centres can be
    fitted = np.clip(centre, low, high)
    for axis in range(2):
        first, last = (centre - half)[:, axis].argmin(), (centre + half)[:, axis].argmax()
        if first != last:
            fitted[first, axis], fitted[last, axis] = low[first, axis], high[last, axis]
        else:  # it reaches from side to side
            fitted[first, axis] = (low[first, axis] + high[first, axis]) / 2
    return {
        name: Body(fitted[row], body.sides, body.speed + (fitted[row] - body.centre) / steps[name])
        for row, (name, body) in enumerate(expected.items())
    }
