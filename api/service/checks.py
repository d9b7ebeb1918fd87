"""Values of requests as arrays, checked against the limits of the server and its index."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from api.config import Limits
from api.http.errors import ApiError
from api.schemas.search import SearchOptions

Vectors = NDArray[np.float32]


def invalid_vector(message: str) -> ApiError:
    """422 for a vector."""
    return ApiError(422, "invalid_vector", message)


def invalid_examples(message: str) -> ApiError:
    """422 for examples that give no query."""
    return ApiError(422, "invalid_examples", message)


def wrong_dimension(length: int, dim: int, prefix: str) -> ApiError:
    """422 for a vector of another length than the index's.

    Args:
        length: of the vector.
        dim: of the index.
        prefix: start of the message, which says which vector it is.
    """
    return invalid_vector(f"{prefix}the vector has {length} numbers, this index has {dim}")


def over_limit(message: str) -> ApiError:
    """422 for a request that is larger than this server answers."""
    return ApiError(422, "over_limit", message)


def check_search(limits: Limits, options: SearchOptions, queries: int, dim: int) -> None:
    """Check that a search and its answer are within the limits.

    Args:
        limits: of this server.
        options: of the search.
        queries: number of queries in the request.
        dim: numbers in each vector.

    Raises:
        ApiError: 422 ``over_limit``, or ``invalid_request``: options that do not go together.
    """
    k, lower = options.k, ": lower k or send fewer queries"
    if k > limits.k:
        raise over_limit(f"k is {k}; this server gives up to {limits.k} hits a query")
    if options.group_by is not None:
        k *= options.group_size
    elif options.group_size > 1:
        raise ApiError(422, "invalid_request", "group_size is of groups: give group_by as well")
    check_ids(limits, options.ids)
    if queries > limits.batch:
        raise over_limit(f"{queries} queries in one batch; this server takes up to {limits.batch}")
    # One query with k alone may always ask for as much as ``limits.k`` says.
    several = queries > 1 or options.offset or k > options.k
    if several and queries * (k + options.offset) > limits.hits:
        raise over_limit(
            f"{queries} queries of {k} hits after offset {options.offset} are "
            f"{queries * (k + options.offset)} hits; one answer takes up to {limits.hits}{lower}"
        )
    if options.include_features or options.with_vector:
        check_vector_count(limits, queries * k, dim)


def check_ids(limits: Limits, ids: Sequence[str] | None) -> None:
    """Check the number of detections that a request names.

    Raises:
        ApiError: 422 ``over_limit``.
    """
    if ids is not None and len(ids) > limits.ids:
        raise over_limit(f"ids names {len(ids)} detections; this server takes up to {limits.ids}")


def check_vector_count(limits: Limits, vectors: int, dim: int) -> None:
    """Check the number of vectors that an answer would hold.

    Raises:
        ApiError: 422 ``over_limit``.
    """
    if vectors * dim > limits.numbers:
        raise over_limit(
            f"{vectors} vectors of {dim} numbers are asked for; one answer holds up to "
            f"{limits.numbers} numbers: ask for fewer rows, or send fewer queries"
        )


def read_vector(vector: list[float] | str | None, prefix: str = "") -> Vectors:
    """A vector of a request as an array [D]; ``prefix`` starts the message of an error.

    Raises:
        ApiError: 422, it is not the base64 of float32, zero, or not finite.
    """
    assert vector is not None
    if isinstance(vector, str):
        return check_vectors(_read_floats(vector, f"{prefix}the vector"), prefix)
    with np.errstate(over="ignore"):  # becomes inf, which is refused with a message
        return check_vectors(np.array(vector, dtype=np.float64).astype(np.float32), prefix)


def read_vectors(text: str, dim: int) -> Vectors:
    """The vectors of a batch [Q, dim], of the base64 of little-endian float32.

    Raises:
        ApiError: 422, as for ``read_vector``, or they are not of this dimension.
    """
    numbers = _read_floats(text, "vectors")
    if not len(numbers) or len(numbers) % dim:
        raise invalid_vector(
            f"vectors holds {len(numbers)} numbers; this index has {dim} a vector, so give a "
            f"multiple of {dim}"
        )
    return check_vectors(numbers.reshape(-1, dim))


def check_vectors(vectors: Vectors, prefix: str = "", *, item: str = "query") -> Vectors:
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
    number = int(np.argmin((sizes > 0) & np.isfinite(sizes)))
    start = f"{item} {number}: " if vectors.ndim > 1 else prefix
    if np.isfinite(np.atleast_2d(vectors)[number]).all():
        raise invalid_vector(f"{start}the vector is all zeros and points nowhere")
    raise invalid_vector(f"{start}the vector has numbers that are not finite")


def read_bytes(text: str, name: str, code: str) -> bytes:
    """Decode base64.

    Args:
        text: as it was sent.
        name: what the error message calls it.
        code: of the error.

    Raises:
        ApiError: 422, it is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise ApiError(422, code, f"{name} is text but not base64") from None


def _read_floats(text: str, name: str) -> Vectors:
    """Decode base64 of little-endian float32 to an array [N]."""
    data = read_bytes(text, name, "invalid_vector")
    if len(data) % 4:
        raise invalid_vector(f"{name}'s base64 holds {len(data)} bytes, not a multiple of 4")
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)
