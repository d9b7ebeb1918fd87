"""Reads a frame as it was sent into arrays; pixels go through the model."""

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
from api.service.queues import BoundedQueue
from api.service.served_index import ServedIndex
from api.service.vectors import check_vectors, invalid_vector, wrong_dimension
from tracks.live.session import Frame

Vectors = NDArray[np.float32]
_Labels = list[dict[str, Any]]  # label and label_score of each detection


def request_digest(request: LinkRequest) -> bytes:
    """Hash of a request's values, whatever the layout of its JSON; blocks for large ones."""
    return hashlib.sha256(request.model_dump_json(exclude_unset=True).encode()).digest()


async def read_frame(
    request: LinkRequest, served: ServedIndex, limits: Limits, uploads: BoundedQueue
) -> Frame:
    """The frame of a request, with an embedding of each detection.

    Args:
        request: as it was sent.
        served: its model embeds pixels.
        limits: ``pixels``.
        uploads: the queue of the model.

    Raises:
        ApiError: 422, a vector, an image or a box is not valid; 429, too many images wait;
            503, the model cannot be loaded.
    """
    size = (request.image_width or 0, request.image_height or 0)
    if request.image is None and all(item.image is None for item in request.detections):
        labels: _Labels = [{"label": None, "label_score": None} for _ in request.detections]
        vectors = await anyio.to_thread.run_sync(
            _read_vectors, request, served.snapshot.manifest.dim
        )
    else:
        with uploads.slot():
            vectors, labels, size = await anyio.to_thread.run_sync(
                _embed_pixels, request, served, limits.pixels, limiter=uploads.limiter
            )
    return Frame(
        sequence=request.sequence,
        number=request.frame,
        step=request.frame_step,
        taken=request.timestamp,
        diagonal_px=math.hypot(*size),
        ids=request.detection_ids,
        boxes=np.array([item.box for item in request.detections], np.float64).reshape(-1, 4),
        vectors=vectors,
        scores=np.array([item.score for item in request.detections], np.float64),  # None is NaN
        more=labels,
    )


def _read_vectors(request: LinkRequest, dim: int) -> Vectors:
    vectors = np.empty((len(request.detections), dim), np.float32)
    for number, detection in enumerate(request.detections):
        assert detection.vector is not None
        prefix = f"detection {number}: "
        try:
            vector = read_vector(detection.vector)
        except ValueError as error:
            raise invalid_vector(f"{prefix}{error}") from None
        if len(vector) != dim:
            raise wrong_dimension(len(vector), dim, prefix)
        vectors[number] = vector
    return check_vectors(vectors, item="detection")


def _embed_pixels(
    request: LinkRequest, served: ServedIndex, max_pixels: int
) -> tuple[Vectors, _Labels, tuple[int, int]]:
    """Embeddings, classes, and the size of the frame."""
    size = (request.image_width or 0, request.image_height or 0)
    if request.image is not None:
        embedded, size = served.embed_boxes(
            _read_image(request.image, "the frame's image"),
            [detection.box for detection in request.detections],
            max_pixels=max_pixels,
        )
    else:
        crops = [
            _read_image(detection.image or "", f"the image of detection {number}")
            for number, detection in enumerate(request.detections)
        ]
        embedded = served.embed_crops(crops, max_pixels=max_pixels)
    vectors = np.empty((len(embedded), served.snapshot.manifest.dim), np.float32)
    for number, item in enumerate(embedded):
        vectors[number] = item.embedding
    labels: _Labels = [{"label": item.label, "label_score": item.score} for item in embedded]
    return check_vectors(vectors, item="detection"), labels, size


def _read_image(text: str, name: str) -> bytes:
    try:
        return read_bytes(text, name)
    except ValueError as error:
        raise ApiError(422, "invalid_image", str(error)) from None
