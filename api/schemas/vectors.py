"""Base64 text and lists of numbers in requests, read into bytes and arrays."""

from __future__ import annotations

import base64
import binascii

import numpy as np
from numpy.typing import NDArray


def read_bytes(text: str, name: str) -> bytes:
    """Decode base64; ``name`` is what the error message calls it.

    Raises:
        ValueError: it is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{name} is text but not base64") from None


def read_floats(text: str, name: str) -> NDArray[np.float32]:
    """Decode base64 of little-endian float32 to an array [N].

    Raises:
        ValueError: not base64, or not a whole number of float32.
    """
    data = read_bytes(text, name)
    if len(data) % 4:
        raise ValueError(f"{name}'s base64 holds {len(data)} bytes, not a multiple of 4")
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def read_vector(vector: list[float] | str) -> NDArray[np.float32]:
    """A vector of a request as an array [D].

    Raises:
        ValueError: it is text, but not base64 of float32.
    """
    if isinstance(vector, str):
        return read_floats(vector, "the vector")
    with np.errstate(over="ignore"):  # becomes inf, which is refused with a message
        return np.array(vector, dtype=np.float64).astype(np.float32)
