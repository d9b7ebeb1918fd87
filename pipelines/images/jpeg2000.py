"""JPEG 2000 colours of more than 8 bits, whose white Pillow turns into black."""

from __future__ import annotations

import imagecodecs
import numpy as np

from pipelines.images.errors import UNSUPPORTED, ImageError

_SIZE = b"\xff\x4f\xff\x51"  # start of a codestream, and the segment that describes it
_SYCC = b"colr\x01\x00\x00\x00\x00\x00\x12"


def decode_deep(data: bytes) -> np.ndarray | None:
    """RGB uint8 ``[H, W, 3]`` of an image with deep colours; None for any other.

    Raises:
        ImageError: its samples are signed, or no RGB.
    """
    at = data.find(_SIZE) + 40  # of the number of components
    depths = data[at + 2 : at + 2 + 3 * int.from_bytes(data[at : at + 2]) : 3]
    bits = max(depths, default=0) % 128 + 1
    if len(depths) < 3 or bits <= 8:
        return None
    if len({*depths[:3]}) > 1 or depths[0] > 127 or _SYCC in data[:at]:
        raise ImageError(UNSUPPORTED, f"JPEG 2000 of {bits} bits that is no plain RGB")
    return (imagecodecs.jpeg2k_decode(data)[..., :3] >> (bits - 8)).astype(np.uint8)
