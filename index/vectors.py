"""L1 normalisation of embeddings: a run stores them raw, the index and every query call this."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import SnapshotError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_NAMED = 5  # ids that a message lists; the rest are counted


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
            raise SnapshotError(
                f"{len(bad)} of {len(vectors)} vectors are zero or not finite: "
                f"{name_some([str(ids[row]) for row in bad[:_NAMED]], len(bad))}; such a vector has no neighbours: "
                "check these images and extract them again, or leave them out"
            )
        # float64 values whose sum alone is too large for a float64
        vectors = vectors / np.abs(vectors).max(axis=1, keepdims=True)
        total = np.abs(vectors).sum(axis=1, keepdims=True)
    normal: NDArray[np.float32] = (vectors / total).astype(np.float32)
    return normal


def unusable(vectors: NDArray[np.floating]) -> tuple[Bools, Bools]:
    """Which vectors have no direction, and therefore no neighbours.

    Args:
        vectors: [N, D], any float type.

    Returns:
        Whether each is zero, and whether each holds NaN or infinity; both [N].
    """
    with np.errstate(over="ignore", invalid="ignore"):
        # One sum finds the rare bad ones; which they are matters only then.
        total = np.abs(vectors).sum(axis=1, dtype=np.float64)
    zero, not_finite = total == 0, np.zeros(len(vectors), bool)
    suspects = np.flatnonzero(~np.isfinite(total))
    not_finite[suspects] = ~np.isfinite(vectors[suspects]).all(axis=1)
    return zero, not_finite


def name_some(names: Sequence[str], total: int) -> str:
    """The first few names, and how many more of the ``total`` there are."""
    named = names[:_NAMED]
    more = f" and {total - len(named)} more" if total > len(named) else ""
    return ", ".join(map(repr, named)) + more
