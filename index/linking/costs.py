"""What a pair of detections costs: the four-term sum the AMI data companion uses.

::

    w_f (1 - cosine) + w_i (1 - IoU) + w_a (1 - min area / max area) + w_d distance / diagonal
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Array = TypeVar("Array", npt.NDArray[np.float32], npt.NDArray[np.float64])


class PairCosts(NamedTuple):
    """Costs of all pairs, each ``[M, N]`` float64: the four terms unweighted, and their sum."""

    feature: Floats
    iou: Floats
    area: Floats
    distance: Floats
    total: Floats


def l1_or_zero(embeddings: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Rows of ``[N, D]`` divided by the sum of their absolute values; zero rows stay zero."""
    size = np.abs(embeddings).sum(axis=1, keepdims=True)
    return _divide(embeddings, size)


def cost_terms(
    before: npt.NDArray[np.float32],
    boxes_before: npt.NDArray[np.floating],
    after: npt.NDArray[np.float32],
    boxes_after: npt.NDArray[np.floating],
    *,
    diagonal_px: float,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> PairCosts:
    """Cost of every pair of M earlier and N later detections.

    Args:
        before: embeddings ``[M, D]``, of any scale; a zero vector is like nothing (term 1).
        boxes_before: ``[M, 4]`` as x1, y1, x2, y2 in pixels.
        after: embeddings ``[N, D]``.
        boxes_after: ``[N, 4]``.
        diagonal_px: diagonal of the later image; with the AMI data companion, the unit of
            distance (not the diagonal of a box).
        weights: of feature, IoU, area and distance.
    """
    feature = 1.0 - _unit(l1_or_zero(before)) @ _unit(l1_or_zero(after)).T
    one = np.asarray(boxes_before, dtype=np.float64)[:, None, :]
    two = np.asarray(boxes_after, dtype=np.float64)[None, :, :]
    sides = np.minimum(one[..., 2:], two[..., 2:]) - np.maximum(one[..., :2], two[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    area_one = np.clip(one[..., 2:] - one[..., :2], 0, None).prod(axis=-1)
    area_two = np.clip(two[..., 2:] - two[..., :2], 0, None).prod(axis=-1)
    iou = 1.0 - _divide(shared, area_one + area_two - shared)
    area = 1.0 - _divide(np.minimum(area_one, area_two), np.maximum(area_one, area_two))
    centres = (one[..., :2] + one[..., 2:] - two[..., :2] - two[..., 2:]) / 2
    distance = np.hypot(centres[..., 0], centres[..., 1]) / diagonal_px
    terms = (feature, iou, area, distance)
    total = sum((w * term for w, term in zip(weights, terms, strict=True)), np.zeros(feature.shape))
    return PairCosts(*terms, total)


def _unit(vectors: npt.NDArray[np.float32]) -> Floats:
    wide = vectors.astype(np.float64)
    return _divide(wide, np.linalg.norm(wide, axis=1, keepdims=True))


def _divide(part: Array, whole: Array) -> Array:
    """Quotient with 0 where ``whole`` is 0."""
    quotient = np.zeros_like(part)
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient
