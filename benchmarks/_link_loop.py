"""The usual linking, as its users run it: one Python loop inside another, one pair at a time.

It keeps the habits of such scripts: every pair's cosine from two vectors by NumPy, boxes as Python
lists, every detection of a frame against every one of the frame before, the cheapest taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = Sequence[float]


def link_frame(
    before: Sequence[NDArray[np.float32]],
    boxes_before: Sequence[Box],
    after: Sequence[NDArray[np.float32]],
    boxes_after: Sequence[Box],
    *,
    diagonal: float,
    max_cost: float,
) -> list[int]:
    """The cheapest predecessor of each later detection, -1 where none costs ``max_cost`` or less."""
    chosen = []
    for here, box in zip(after, boxes_after, strict=True):
        best, least = -1, max_cost
        for number, (there, other) in enumerate(zip(before, boxes_before, strict=True)):
            cost = (
                (1 - _cosine(there, here))
                + (1 - _iou(other, box))
                + (1 - min(_area(other), _area(box)) / max(_area(other), _area(box)))
                + math.dist(_centre(other), _centre(box)) / diagonal
            )
            if cost <= least:
                best, least = number, cost
        chosen.append(best)
    return chosen


def _cosine(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    one, two = one / np.abs(one).sum(), two / np.abs(two).sum()
    return float(np.dot(one, two) / (np.linalg.norm(one) * np.linalg.norm(two)))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _iou(one: Box, two: Box) -> float:
    wide = max(0.0, min(one[2], two[2]) - max(one[0], two[0]))
    high = max(0.0, min(one[3], two[3]) - max(one[1], two[1]))
    shared = wide * high
    return shared / (_area(one) + _area(two) - shared)
