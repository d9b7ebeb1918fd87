"""L1 normalisation of embeddings: a run stores them raw, the index and every query call this."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import SnapshotError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

NAMED = 5  # ids that a message lists; the rest are counted


def l1_normalise(vectors: NDArray[np.floating], ids: Sequence[object]) -> NDArray[np.float32]:
    """Divide each row by the sum of its absolute values.

    Args:
        vectors: [N, D], any float type.
        ids: N names for the error message.

    Returns:
        [N, D] float32, each row's absolute values summing to 1.

    Raises:
        SnapshotError: a row is all zero, or holds NaN or infinity: it has no direction and
            therefore no neighbours.
    """
    # A float32 sum over a thousand values loses the last digits of the cosine, hence float64.
    with np.errstate(over="ignore", invalid="ignore"):  # judged below
        total = np.abs(vectors).sum(axis=1, dtype=np.float64, keepdims=True)
    if not (np.isfinite(total) & (total > 0)).all():
        zero, not_finite = unusable(vectors)
        bad = np.flatnonzero(zero | not_finite)
        if len(bad):
            named = name_some([str(ids[row]) for row in bad[:NAMED]], len(bad))
            raise SnapshotError(
                f"{len(bad)} of {len(vectors)} vectors are zero or not finite: {named}; such a "
                "vector has no neighbours: "
                "check these images and extract them again, or leave them out"
            )
        # float64 values whose sum alone is too large, or too small, for a float64
        odd = ~(np.isfinite(total) & (total > 0))[:, 0]
        vectors = vectors.copy()
        vectors[odd] /= np.abs(vectors[odd]).max(axis=1, keepdims=True)
        total[odd] = np.abs(vectors[odd]).sum(axis=1, keepdims=True)
    normal: NDArray[np.float32] = (vectors / total).astype(np.float32)
    return normal


def unusable(vectors: NDArray[np.floating]) -> tuple[Bools, Bools]:
    """Which vectors have no direction, and therefore no neighbours.

    Args:
        vectors: [N, D], any float type.

    Returns:
        Whether each is zero, and whether each holds NaN or infinity; both [N].
    """
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        # One pass finds all that may be bad: these are looked at closely.
        squares = np.einsum("ij,ij->i", vectors, vectors)
        suspects = np.flatnonzero(~(np.isfinite(squares) & (squares > 0)))
    zero, not_finite = np.zeros((2, len(vectors)), bool)
    zero[suspects] = ~vectors[suspects].any(axis=1)
    not_finite[suspects] = ~np.isfinite(vectors[suspects]).all(axis=1)
    return zero, not_finite


def name_some(names: Sequence[str], total: int) -> str:
    """The first few names, and how many more of the ``total`` there are."""
    named = names[:NAMED]
    more = f" and {total - len(named)} more" if total > len(named) else ""
    return ", ".join(map(repr, named)) + more
