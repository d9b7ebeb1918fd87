"""Checks vectors of a request before they are compared."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from api.http.errors import ApiError


def check_vectors(
    vectors: NDArray[np.float32], prefix: str = "", *, item: str = "query"
) -> NDArray[np.float32]:
    """Return vectors unchanged if each is finite and not zero.

    Args:
        vectors: ``[Q, D]``, or one ``[D]``.
        prefix: start of the error message for one vector.
        item: what the error message calls each of many.

    Raises:
        ApiError: 422, one is zero or not finite.
    """
    # One sum finds the rare bad one; which it is matters only then.
    with np.errstate(over="ignore", invalid="ignore"):
        sizes = np.abs(vectors).sum(axis=-1, dtype=np.float64)
    if np.all((sizes > 0) & np.isfinite(sizes)):
        return vectors
    for number, vector in enumerate(np.atleast_2d(vectors)):
        start = f"{item} {number}: " if vectors.ndim > 1 else prefix
        if not np.isfinite(vector).all():
            raise invalid_vector(f"{start}the vector has numbers that are not finite")
        if not vector.any():
            raise invalid_vector(f"{start}the vector is all zeros and points nowhere")
    raise AssertionError("a finite vector that is not zero has a finite size above zero")


def invalid_vector(message: str) -> ApiError:
    """422 for a vector."""
    return ApiError(422, "invalid_vector", message)


def wrong_dimension(length: int, dim: int, prefix: str) -> ApiError:
    """422 for a vector of another length than the index's; ``prefix`` says which one."""
    return invalid_vector(f"{prefix}the vector has {length} numbers, this index has {dim}")
