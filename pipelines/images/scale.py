"""Samples of any type to bytes, by the range that the file declares for them.

The type declares a range: 0 to 2^bits - 1 of unsigned integers, all of the type of signed ones, 0
to 1 of floats. Values that use less than a quarter of it are refused: 12 bits stored as 16 are
nearly black that way, and nothing tells them from a dark picture.
"""

from __future__ import annotations

import numpy as np

from pipelines.images.errors import DAMAGED, UNKNOWN_SCALE, UNSUPPORTED, ImageError

_USED = 4  # the part of a declared range that values must reach: one in so many
_ROUNDED = 1e-3  # floats may pass 1 by as much
_VALUES = 2**22  # scaled at a time, because floats take eight times the memory
_HINT = "declare their range (SMinSampleValue, SMaxSampleValue) or convert to 8 bits"


def to_bytes(
    values: np.ndarray,
    *,
    bits: int | None = None,
    declared: tuple[float, float] | None = None,
    clip: bool = False,
    no_data: float | None = None,
) -> np.ndarray:
    """Scale samples to 0 to 255.

    Args:
        values: of any shape and type.
        bits: of an unsigned sample, where it has fewer than its type.
        declared: the values that are black and white, where the file says so.
        clip: values may lie outside of ``declared``.
        no_data: stands where there is no value; becomes 0.

    Returns:
        uint8 of the same shape.

    Raises:
        ImageError: the range is not declared and cannot be told from the values.
    """
    kind = values.dtype.kind
    if kind == "b":
        return values.astype(np.uint8) * np.uint8(255)
    if kind not in "uif":
        raise ImageError(UNSUPPORTED, f"samples of type {values.dtype}")
    bits = bits or 8 * values.dtype.itemsize
    if kind == "u" and bits <= 8 and declared is None:
        table = np.arange(256) * 255 / (2**bits - 1)
        table = table.round().clip(0, 255).astype(np.uint8)
        return values if bits == 8 else table[values]
    unused = None if no_data is None else _equal(values, no_data)
    used = values if unused is None else values[~unused]
    if not used.size:
        return np.zeros(values.shape, np.uint8)
    low, high = _range(used, bits, declared, clip=clip)
    if kind == "u" and (low, high) == (0, 2**bits - 1):
        scaled = (values >> (bits - 8)).astype(np.uint8)
    else:
        scaled = _linear(values, low, high)
    if unused is not None:
        scaled[unused] = 0
    return scaled


def _range(
    used: np.ndarray, bits: int, declared: tuple[float, float] | None, *, clip: bool
) -> tuple[float, float]:
    """The values that are black and white."""
    least, most = used.min().item(), used.max().item()
    if not np.isfinite([least, most]).all():
        raise ImageError(UNKNOWN_SCALE, "some values are not finite")
    if declared is not None:
        low, high = declared
        if high <= low or (not clip and (least < low or most > high)):
            raise ImageError(
                UNKNOWN_SCALE,
                f"values from {least:g} to {most:g}, where the file declares {low:g} to {high:g}",
            )
        return low, high
    kind = used.dtype.kind
    if kind == "f":
        if least < 0 or most > 1 + _ROUNDED or 0 < most < 1 / _USED:
            raise _unknown("floating-point", least, most)
        return 0, 1
    low, high = (0, 2**bits - 1) if kind == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    if most > high:
        raise ImageError(DAMAGED, f"a value of {most} in {bits} bits")
    dark = most * _USED < high and (most or low) and not _from_bytes(used, high)
    if dark or (low and least * _USED > low):
        raise _unknown(f"{bits}-bit", least, most)
    return low, high


def _from_bytes(values: np.ndarray, high: int) -> bool:
    """Whether 16-bit values are bytes, stretched: of a dark picture, but of the full range."""
    return high == 0xFFFF and not (values % 257).any()


def _unknown(what: str, least: float, most: float) -> ImageError:
    return ImageError(
        UNKNOWN_SCALE,
        f"{what} values from {least:g} to {most:g}: nothing says which is white; {_HINT}",
    )


def _equal(values: np.ndarray, value: float) -> np.ndarray:
    equal: np.ndarray = np.isnan(values) if np.isnan(value) else values == value
    return equal


def _linear(values: np.ndarray, low: float, high: float) -> np.ndarray:
    scaled = np.empty(values.size, np.uint8)
    flat = values.reshape(-1)
    for begin in range(0, len(flat), _VALUES):
        part = flat[begin : begin + _VALUES].astype(np.float64)
        part = ((part - low) * (255 / (high - low))).round().clip(0, 255)
        scaled[begin : begin + _VALUES] = np.nan_to_num(part).astype(np.uint8)
    return scaled.reshape(values.shape)
