"""What nearness means: the four metrics, how vectors are stored for each, and what a score is.

Every vector is L1-normalised on the way in, a query like a stored one. On top of that:

=======  =================================  ==========================  ==================
metric   stored as                          score                       nearer is
=======  =================================  ==========================  ==================
cosine   unit length in L2                  cosine, [-1, 1]             higher
ip       L1-normalised                      inner product, [-1, 1]      higher
l1       L1-normalised                      sum of differences, [0, 2]  lower
l2       L1-normalised                      Euclidean distance, [0, 2]  lower
=======  =================================  ==========================  ==================

``ip`` is not ``cosine``: it also ranks by how concentrated a vector's values are, because those
are the longer ones in L2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import faiss
import numpy as np
from numpy.typing import NDArray

from index.vectors import l1_normalise

Metric = Literal["cosine", "ip", "l1", "l2"]
METRICS: tuple[str, ...] = get_args(Metric)

_FAISS = {
    "cosine": faiss.METRIC_INNER_PRODUCT,
    "ip": faiss.METRIC_INNER_PRODUCT,
    "l1": faiss.METRIC_L1,
    "l2": faiss.METRIC_L2,
}
_TINY, _HUGE = 1e-20, 1e20  # squares that float32 neither loses nor overflows with
_RANGE = {"cosine": (-1.0, 1.0), "ip": (-1.0, 1.0), "l1": (0.0, 2.0), "l2": (0.0, 2.0)}


def faiss_metric(metric: Metric) -> int:
    """FAISS's number for it."""
    return int(_FAISS[metric])


def higher_is_nearer(metric: Metric) -> bool:
    """Whether scores are similarities; else they are distances."""
    return metric in ("cosine", "ip")


def argsort_nearest(values: NDArray[np.float32], metric: Metric, k: int) -> NDArray[np.int64]:
    """Places of the ``k`` nearest of each row of ``values``, [Q, k], for ``take_along_axis``.

    ``values`` may be scores or FAISS's own: a root changes no order. Ties stay as they stand.
    """
    signed = -values if higher_is_nearer(metric) else values
    order: NDArray[np.int64] = np.argsort(signed, axis=1, kind="stable")[:, :k]
    return order


def prepare(
    vectors: NDArray[np.floating], ids: Sequence[str], metric: Metric
) -> NDArray[np.float32]:
    """Raw embeddings as they are stored and searched with, float32 [N, D], contiguous.

    Raises:
        SnapshotError: rows that are zero or not finite, by their ``ids``.
    """
    if metric == "cosine" and vectors.dtype == np.float32:
        # What dividing by the L1 norm does to a vector, dividing by the L2 norm undoes. Where the
        # squares say that all is well, that step and its checks are left out.
        squares = np.einsum("ij,ij->i", vectors, vectors)
        if squares.size and squares.min() > _TINY and squares.max() < _HUGE:
            return np.ascontiguousarray(vectors / np.sqrt(squares)[:, None])
    normal = l1_normalise(vectors, ids)
    if metric == "cosine":
        normal /= np.sqrt(np.einsum("ij,ij->i", normal, normal))[:, None]
    return np.ascontiguousarray(normal)


def to_scores(found: NDArray[np.float32], metric: Metric) -> NDArray[np.float32]:
    """FAISS's values as scores: roots of squares for l2, and no ulp past the end of the range."""
    if metric == "l2":
        found = np.sqrt(np.maximum(found, 0))
    low, high = _RANGE[metric]
    scores: NDArray[np.float32] = np.minimum(np.maximum(found, np.float32(low)), np.float32(high))
    return scores
