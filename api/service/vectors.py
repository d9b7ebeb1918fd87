"""Whether vectors of a request can be compared at all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from api.http.errors import ApiError


def check_vectors(
    vectors: NDArray[np.float32], at: str = "", *, each: str = "query"
) -> NDArray[np.float32]:
    """Vectors [Q, D] or one [D], if each points somewhere; ``each`` is what they are called.

    Raises:
        ApiError: 422, one is zero or not finite.
    """
    # One sum finds the rare bad one; which it is matters only then.
    with np.errstate(over="ignore", invalid="ignore"):
        size = np.abs(vectors).sum(axis=-1, dtype=np.float64)
    if np.all((size > 0) & np.isfinite(size)):
        return vectors
    for number, vector in enumerate(np.atleast_2d(vectors)):
        where = f"{each} {number}: " if vectors.ndim > 1 else at
        if not np.isfinite(vector).all():
            raise ApiError(
                422, "invalid_vector", f"{where}the vector has numbers that are not finite"
            )
        if not vector.any():
            raise ApiError(
                422, "invalid_vector", f"{where}the vector is all zeros and points nowhere"
            )
    raise AssertionError("a finite vector that is not zero has a finite size above zero")
