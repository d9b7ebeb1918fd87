"""The four metrics: how vectors are stored for each, and what a score is.

Every vector, stored or query, is L1-normalised first. On top of that:

=======  =================================  ==========================  ==================
metric   stored as                          score                       nearer is
=======  =================================  ==========================  ==================
cosine   unit length in L2                  cosine, [-1, 1]             higher
ip       L1-normalised                      inner product, [-1, 1]      higher
l1       L1-normalised                      sum of differences, [0, 2]  lower
l2       L1-normalised                      Euclidean distance, [0, 2]  lower
=======  =================================  ==========================  ==================

``ip`` is not ``cosine``: vectors with a few large values are longer in L2, so ``ip`` ranks them
higher.
"""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
from numpy.typing import NDArray

from index.config import Metric
from index.vectors import l1_normalise

_FAISS = {
    "cosine": faiss.METRIC_INNER_PRODUCT,
    "ip": faiss.METRIC_INNER_PRODUCT,
    "l1": faiss.METRIC_L1,
    "l2": faiss.METRIC_L2,
}
# Squared lengths in this range neither underflow nor overflow in float32.
_MIN_SQUARE, _MAX_SQUARE = 1e-20, 1e20
_RANGE = {"cosine": (-1.0, 1.0), "ip": (-1.0, 1.0), "l1": (0.0, 2.0), "l2": (0.0, 2.0)}


def faiss_metric(metric: Metric) -> int:
    """FAISS's constant for ``metric``."""
    return int(_FAISS[metric])


def higher_is_nearer(metric: Metric) -> bool:
    """Whether scores are similarities; otherwise they are distances."""
    return metric in ("cosine", "ip")


def argsort_nearest(values: NDArray[np.float32], metric: Metric, k: int) -> NDArray[np.int64]:
    """Column numbers of the ``k`` nearest per row, for ``np.take_along_axis``; the sort is stable.

    Args:
        values: [Q, N] scores, or FAISS's values: a square root changes no order.
        metric: what they are scores of.
        k: columns to return.

    Returns:
        [Q, min(k, N)], nearest first.
    """
    signed = -values if higher_is_nearer(metric) else values
    order: NDArray[np.int64] = np.argsort(signed, axis=1, kind="stable")[:, :k]
    return order


def prepare(
    vectors: NDArray[np.floating], ids: Sequence[object], metric: Metric
) -> NDArray[np.float32]:
    """Normalise raw embeddings to the form in which they are stored and searched.

    Args:
        vectors: [N, D], any float type.
        ids: N names for the error message.
        metric: what they are normalised for.

    Returns:
        [N, D] float32, contiguous.

    Raises:
        SnapshotError: rows that are zero or not finite, by their ``ids``.
    """
    if metric == "cosine" and len(vectors) and vectors.dtype == np.float32:
        # Dividing by the L2 norm cancels the L1 norm, so that step and its checks are skipped
        # where the squared length shows that a vector is usable.
        squares = np.einsum("ij,ij->i", vectors, vectors)
        least, most = (squares[0],) * 2 if len(squares) == 1 else (squares.min(), squares.max())
        if least > _MIN_SQUARE and most < _MAX_SQUARE:
            return np.ascontiguousarray(vectors / np.sqrt(squares)[:, None])
        # Each vector by itself: what it becomes must not depend on the others.
        normal = np.empty_like(vectors, order="C")
        usable = (squares > _MIN_SQUARE) & (squares < _MAX_SQUARE)
        normal[usable] = vectors[usable] / np.sqrt(squares[usable])[:, None]
        normal[~usable] = _to_unit(l1_normalise(vectors, ids)[~usable])
        return normal
    normal = l1_normalise(vectors, ids)
    return np.ascontiguousarray(_to_unit(normal) if metric == "cosine" else normal)


def _to_unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    unit: NDArray[np.float32] = vectors / np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    return unit


def to_scores(values: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """FAISS's values as scores: square roots for l2, clipped to the range of the metric."""
    if metric == "l2":
        values = np.sqrt(np.maximum(values, 0))
    low, high = _RANGE[metric]
    if len(values) == 1 and values.size and low <= values[0, 0] <= high >= values[0, -1] >= low:
        return values  # sorted, as hits are: the ends say that nothing is to be done
    scores: NDArray[np.float32] = np.minimum(np.maximum(values, low), high)
    return scores
