"""L1 normalisation of embeddings: a run stores them raw, the index and every query call this."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from common.errors import SnapshotError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_NAMED = 5  # ids that an error message lists; the rest are counted


def l1_normalise(vectors: NDArray[np.floating], ids: Sequence[str]) -> NDArray[np.float32]:
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
    total = np.abs(vectors).sum(axis=1, dtype=np.float64, keepdims=True)
    good = np.isfinite(total) & (total > 0)
    if not good.all():
        bad = np.flatnonzero(~good[:, 0])
        named = ", ".join(repr(str(ids[row])) for row in bad[:_NAMED])
        more = f" and {len(bad) - _NAMED} more" if len(bad) > _NAMED else ""
        raise SnapshotError(
            f"{len(bad)} of {len(vectors)} vectors are zero or not finite: {named}{more}; "
            "such a vector has no neighbours: check these images and extract them again, "
            "or leave them out"
        )
    normal: NDArray[np.float32] = (vectors / total).astype(np.float32)
    return normal
