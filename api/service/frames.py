"""A frame as it was sent, brought to arrays: vectors are read, pixels go through the model."""

from __future__ import annotations

import hashlib
import math
from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray

from api.http.errors import ApiError
from api.http.limits import Limits
from api.schemas.link import LinkRequest
from api.schemas.vectors import read_bytes, read_vector
from api.service.line import BoundedQueue
from api.service.state import ServedIndex
from api.service.vectors import check_vectors
from tracks.live.session import Frame

Vectors = NDArray[np.float32]
_More = list[dict[str, Any]]


def request_digest(asked: LinkRequest) -> bytes:
    """Of what was asked, however its JSON was laid out; blocks for large ones."""
    return hashlib.sha256(asked.model_dump_json(exclude_unset=True).encode()).digest()


async def read_frame(
    asked: LinkRequest, held: ServedIndex, limits: Limits, uploads: BoundedQueue
) -> Frame:
    """The frame that was asked about, with an embedding of each detection.

    Raises:
        ApiError: 422, a vector, an image or a box does not serve; 429, too many images wait;
            503, the model cannot be loaded.
    """
    size = (asked.image_width or 0, asked.image_height or 0)
    if asked.image is None and all(one.image is None for one in asked.detections):
        more: _More = [{"label": None, "label_score": None} for _ in asked.detections]
        vectors = await anyio.to_thread.run_sync(_read_vectors, asked, held.snapshot.manifest.dim)
    else:
        with uploads.slot():
            vectors, more, size = await anyio.to_thread.run_sync(
                _embed_pixels, asked, held, limits.pixels, limiter=uploads.limiter
            )
    return Frame(
        sequence=asked.sequence,
        number=asked.frame,
        step=asked.frame_step,
        taken=asked.timestamp,
        diagonal_px=math.hypot(*size),
        ids=asked.detection_ids,
        boxes=np.array([one.box for one in asked.detections], np.float64).reshape(-1, 4),
        vectors=vectors,
        scores=np.array([one.score for one in asked.detections], np.float64),  # None is NaN
        more=more,
    )


def _read_vectors(asked: LinkRequest, dim: int) -> Vectors:
    vectors = np.empty((len(asked.detections), dim), np.float32)
    for number, one in enumerate(asked.detections):
        assert one.vector is not None
        at = f"detection {number}: "
        try:
            vector = read_vector(one.vector)
        except ValueError as error:
            raise ApiError(422, "invalid_vector", f"{at}{error}") from None
        if len(vector) != dim:
            raise ApiError(
                422,
                "invalid_vector",
                f"{at}the vector has {len(vector)} numbers, this index has {dim}",
            )
        vectors[number] = vector
    return check_vectors(vectors, each="detection")


def _embed_pixels(
    asked: LinkRequest, held: ServedIndex, max_pixels: int
) -> tuple[Vectors, _More, tuple[int, int]]:
    """Embeddings, classes, and the size of the frame."""
    size = (asked.image_width or 0, asked.image_height or 0)
    if asked.image is not None:
        found, size = held.embed_boxes(
            _read_image(asked.image, "the frame's image"),
            [one.box for one in asked.detections],
            max_pixels=max_pixels,
        )
    else:
        crops = [
            _read_image(one.image or "", f"the image of detection {number}")
            for number, one in enumerate(asked.detections)
        ]
        found = held.embed_crops(crops, max_pixels=max_pixels)
    vectors = np.empty((len(found), held.snapshot.manifest.dim), np.float32)
    for number, one in enumerate(found):
        vectors[number] = one.embedding
    more: _More = [{"label": one.label, "label_score": one.score} for one in found]
    return check_vectors(vectors, each="detection"), more, size


def _read_image(text: str, what: str) -> bytes:
    try:
        return read_bytes(text, what)
    except ValueError as error:
        raise ApiError(422, "invalid_image", str(error)) from None
