"""What a pair of detections costs: the four-term sum the AMI data companion uses.

::

    w_f (1 - cosine) + w_i (1 - IoU) + w_a (1 - min area / max area) + w_d distance / diagonal

Terms are worked out for all pairs of two frames, or for the pairs of a list; the formulas are
the same lines, because NumPy's broadcasting does not care which.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index.vectors import Floats, Ints


class PairCosts(NamedTuple):
    """Costs of pairs, each float64 of one shape: the four terms unweighted, and their sum."""

    feature: Floats
    iou: Floats
    area: Floats
    distance: Floats
    total: Floats


def cost_terms(
    before: npt.NDArray[np.float32],
    boxes_before: npt.NDArray[np.floating],
    after: npt.NDArray[np.float32],
    boxes_after: npt.NDArray[np.floating],
    *,
    diagonal_px: float,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> PairCosts:
    """Cost of every pair of M earlier and N later detections, ``[M, N]``.

    Args:
        before: embeddings ``[M, D]``, of any scale, or ``[M, K, D]``: the best of K counts. An
            embedding of K that is all zero is not there.
        boxes_before: ``[M, 4]`` as x1, y1, x2, y2 in pixels.
        after: embeddings ``[N, D]``.
        boxes_after: ``[N, 4]``.
        diagonal_px: diagonal of the later image; with the AMI data companion, the unit of
            distance (not the diagonal of a box).
        weights: of feature, IoU, area and distance.

    Raises:
        ValueError: an embedding is zero, and so has no cosine to anything.
    """
    kept = before.shape[1] if before.ndim == 3 else 1
    looks = before.reshape(-1, before.shape[-1])
    length, later = _norms(before).reshape(-1), _norms(after)
    cosine = looks @ after.T
    cosine /= np.where(length > 0, length, 1)[:, None]
    cosine /= later
    if kept > 1:
        # A slot that is not filled has cosine 0, which must not beat a real one below it.
        cosine[length == 0] = -np.inf
        cosine = cosine.reshape(-1, kept, len(after)).max(axis=1)
    return _combine(
        cosine.astype(np.float64),
        np.asarray(boxes_before, dtype=np.float64)[:, None, :],
        np.asarray(boxes_after, dtype=np.float64)[None, :, :],
        diagonal_px,
        weights,
    )


def cost_terms_of_pairs(
    pairs: tuple[Ints, Ints],
    before: npt.NDArray[np.float32],
    boxes_before: npt.NDArray[np.floating],
    after: npt.NDArray[np.float32],
    boxes_after: npt.NDArray[np.floating],
    *,
    diagonal_px: float,
    weights: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0),
) -> PairCosts:
    """Cost of the P ``pairs`` (earlier, later) alone, ``[P]``; the rest as ``cost_terms``."""
    one, two = pairs
    length, later = _norms(before), _norms(after)
    cosine = np.empty(len(one))
    for start in range(0, len(one), _PAIRS_AT_ONCE):
        mine, theirs = one[start : start + _PAIRS_AT_ONCE], two[start : start + _PAIRS_AT_ONCE]
        dot = np.einsum("p...d,pd->p...", before[mine], after[theirs])
        if before.ndim == 3:
            there = length[mine] > 0
            each = np.divide(dot, length[mine], out=np.full_like(dot, -np.inf), where=there)
            cosine[start : start + _PAIRS_AT_ONCE] = each.max(axis=1) / later[theirs]
        else:
            cosine[start : start + _PAIRS_AT_ONCE] = dot / (length[mine] * later[theirs])
    return _combine(
        cosine,
        np.asarray(boxes_before, dtype=np.float64)[one],
        np.asarray(boxes_after, dtype=np.float64)[two],
        diagonal_px,
        weights,
    )


_PAIRS_AT_ONCE = 4096  # pairs whose embeddings are gathered at once: 20 MiB of 1280 numbers, twice


def _combine(
    cosine: Floats,
    one: Floats,
    two: Floats,
    diagonal_px: float,
    weights: tuple[float, float, float, float],
) -> PairCosts:
    area_one, area_two = _areas(one), _areas(two)
    feature = 1.0 - cosine
    iou = 1.0 - box_overlap(one, two)
    area = 1.0 - _divide(np.minimum(area_one, area_two), np.maximum(area_one, area_two))
    x, y = (
        one[..., axis] + one[..., axis + 2] - two[..., axis] - two[..., axis + 2] for axis in (0, 1)
    )
    distance = np.sqrt(x * x + y * y) / (2 * diagonal_px)
    total = weights[0] * feature + weights[1] * iou + weights[2] * area + weights[3] * distance
    return PairCosts(feature, iou, area, distance, total)


def box_overlap(one: Floats, two: Floats) -> Floats:
    """Intersection over union of boxes ``[..., 4]`` that broadcast; 0 where both are flat."""
    wide = np.minimum(one[..., 2], two[..., 2]) - np.maximum(one[..., 0], two[..., 0])
    high = np.minimum(one[..., 3], two[..., 3]) - np.maximum(one[..., 1], two[..., 1])
    shared = np.maximum(wide, 0) * np.maximum(high, 0)
    return _divide(shared, _areas(one) + _areas(two) - shared)


def _areas(boxes: Floats) -> Floats:
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    areas: Floats = sides[..., 0] * sides[..., 1]
    return areas


def _norms(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Euclidean lengths of ``[N, D]``, or of ``[N, K, D]`` where some of K may be empty.

    In float32: NumPy sums in pairs, which keeps cosines to some 1e-7.
    """
    length: npt.NDArray[np.float32] = np.linalg.norm(vectors, axis=-1)
    empty = length == 0 if length.ndim == 1 else (length == 0).all(axis=1)
    if empty.any():
        raise ValueError(
            f"{int(empty.sum())} embeddings are zero, the first in row {int(empty.argmax())}: "
            "they have no cosine"
        )
    return length


def _divide(part: Floats, whole: Floats) -> Floats:
    """Quotient with 0 where ``whole`` is 0."""
    quotient = np.zeros(np.broadcast_shapes(part.shape, whole.shape))
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient
