"""Cost of linking two detections: the four-term sum the AMI data companion uses.

::

    w_f (1 - cosine) + w_i (1 - IoU) + w_a (1 - min area / max area) + w_d distance / diagonal

Terms are computed for all pairs of two frames, or for a list of pairs; both use the same formulas
through NumPy's broadcasting.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index.vectors import Floats, Ints

_PAIRS_AT_ONCE = 4096  # of a list, whose embeddings are copied: 20 MiB of 1280 numbers, twice


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
    pairs: tuple[Ints, Ints] | None = None,
) -> PairCosts:
    """Cost of every pair of M earlier and N later detections ``[M, N]``, or of some ``[P]``.

    Args:
        before: embeddings ``[M, D]`` of any scale, or ``[M, K, D]``, of which the most similar of
            K counts. An all-zero embedding among K is an empty slot.
        boxes_before: ``[M, 4]`` as x1, y1, x2, y2 in pixels.
        after: embeddings ``[N, D]``.
        boxes_after: ``[N, 4]``.
        diagonal_px: diagonal of the later image in pixels, the unit of distance as in the AMI data
            companion (not the diagonal of a box).
        weights: of feature, IoU, area and distance.
        pairs: positions of the earlier and of the later detection, ``[P]`` each, of these alone.

    Raises:
        ValueError: an embedding is zero, and so has no cosine to anything.
    """
    earlier: Floats = np.asarray(boxes_before, dtype=np.float64)
    later: Floats = np.asarray(boxes_after, dtype=np.float64)
    if pairs is None:
        cosine = _cosines(before, after)
        earlier, later = earlier[:, None, :], later[None, :, :]
    else:
        cosine = _cosines_of_pairs(before, after, pairs)
        earlier, later = earlier[pairs[0]], later[pairs[1]]
    return _combine(cosine, earlier, later, diagonal_px, weights)


def _cosines(before: npt.NDArray[np.float32], after: npt.NDArray[np.float32]) -> Floats:
    slots = before.shape[1] if before.ndim == 3 else 1
    norms, norms_after = _norms(before).reshape(-1), _norms(after)
    cosine = before.reshape(-1, before.shape[-1]) @ after.T
    cosine /= np.where(norms > 0, norms, 1)[:, None]
    cosine /= norms_after
    if slots > 1:
        # An empty slot has cosine 0, which must not beat a real one below it.
        cosine[norms == 0] = -np.inf
        cosine = cosine.reshape(-1, slots, len(after)).max(axis=1)
    return cosine.astype(np.float64)


def _cosines_of_pairs(
    before: npt.NDArray[np.float32], after: npt.NDArray[np.float32], pairs: tuple[Ints, Ints]
) -> Floats:
    norms, norms_after = _norms(before), _norms(after)
    cosine = np.empty(len(pairs[0]))
    for start in range(0, len(cosine), _PAIRS_AT_ONCE):
        part = slice(start, start + _PAIRS_AT_ONCE)
        rows, columns = pairs[0][part], pairs[1][part]
        dot = np.einsum("p...d,pd->p...", before[rows], after[columns])
        if before.ndim == 3:
            filled = norms[rows] > 0
            similarity = np.divide(dot, norms[rows], out=np.full_like(dot, -np.inf), where=filled)
            cosine[part] = similarity.max(axis=1) / norms_after[columns]
        else:
            cosine[part] = dot / (norms[rows] * norms_after[columns])
    return cosine


def _combine(
    cosine: Floats,
    before: Floats,
    after: Floats,
    diagonal_px: float,
    weights: tuple[float, float, float, float],
) -> PairCosts:
    area_before, area_after = _areas(before), _areas(after)
    feature = 1.0 - cosine
    iou = 1.0 - box_overlap(before, after)
    area = 1.0 - _divide(np.minimum(area_before, area_after), np.maximum(area_before, area_after))
    x, y = (
        before[..., axis] + before[..., axis + 2] - after[..., axis] - after[..., axis + 2]
        for axis in (0, 1)
    )
    distance = np.sqrt(x * x + y * y) / (2 * diagonal_px)
    total = weights[0] * feature + weights[1] * iou + weights[2] * area + weights[3] * distance
    return PairCosts(feature, iou, area, distance, total)


def box_overlap(a: Floats, b: Floats) -> Floats:
    """Intersection over union of boxes ``[..., 4]`` that broadcast; 0 where both are flat."""
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    return _divide(shared, _areas(a) + _areas(b) - shared)


def _areas(boxes: Floats) -> Floats:
    sides = np.maximum(boxes[..., 2:] - boxes[..., :2], 0)
    areas: Floats = sides[..., 0] * sides[..., 1]
    return areas


def _norms(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Euclidean norms of ``[N, D]``, or of ``[N, K, D]`` where some of K may be empty.

    In float32: NumPy sums in pairs, which keeps cosines to some 1e-7.
    """
    norms: npt.NDArray[np.float32] = np.linalg.norm(vectors, axis=-1)
    empty = norms == 0 if norms.ndim == 1 else (norms == 0).all(axis=1)
    if empty.any():
        raise ValueError(
            f"{int(empty.sum())} embeddings are zero, the first in row {int(empty.argmax())}: "
            "they have no cosine"
        )
    return norms


def _divide(part: Floats, whole: Floats) -> Floats:
    """Quotient with 0 where ``whole`` is 0."""
    quotient = np.zeros(np.broadcast_shapes(part.shape, whole.shape))
    np.divide(part, whole, out=quotient, where=whole > 0)
    return quotient
