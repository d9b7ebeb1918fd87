"""Reads a frame as it was sent into arrays; pixels go through the model."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import anyio
import numpy as np
from numpy.typing import NDArray

from api.schemas.link import LinkRequest
from api.service.checks import Vectors, check_vectors, read_bytes, read_vector, wrong_dimension
from api.service.queues import BoundedQueue
from api.service.served_index import ServedIndex
from api.service.uploads import UploadDecoder
from tracks.live.frame import Frame


class _Content(NamedTuple):
    vectors: Vectors
    labels: list[dict[str, Any]]  # label and label_score of each
    size: tuple[int, int]  # of the frame, upright, in pixels
    boxes: NDArray[np.float64]  # [N, 4], of the upright frame


def request_digest(request: LinkRequest) -> bytes:
    """Hash of a request's values, whatever the layout of its JSON; blocks for large ones."""
    return hashlib.sha256(request.model_dump_json(exclude_unset=True).encode()).digest()


async def read_frame(
    request: LinkRequest, served: ServedIndex, decoder: UploadDecoder, uploads: BoundedQueue
) -> Frame:
    """The frame of a request, with an embedding of each detection.

    Args:
        request: as it was sent.
        served: its model embeds pixels.
        decoder: of the frame or its crops.
        uploads: the queue of the model.

    Raises:
        ApiError: 422, a vector, an image or a box is not valid; 429, too many images wait;
            503, the model cannot be loaded.
    """
    if request.image is None and all(item.image is None for item in request.detections):
        content = await anyio.to_thread.run_sync(_read_vectors, request, served.dim)
    else:
        with uploads.slot():
            content = await anyio.to_thread.run_sync(
                _embed_pixels, request, served, decoder, limiter=uploads.limiter
            )
    return Frame(
        sequence=request.sequence,
        number=request.frame,
        step=request.frame_step,
        taken=request.timestamp,
        allow_jump=request.allow_jump,
        image_size=content.size,
        ids=request.detection_ids,
        boxes=content.boxes,
        vectors=check_vectors(content.vectors, item="detection"),
        scores=np.array([item.score for item in request.detections], np.float64),  # None is NaN
        more=content.labels,
    )


def _read_vectors(request: LinkRequest, dim: int) -> _Content:
    vectors = np.empty((len(request.detections), dim), np.float32)
    for number, detection in enumerate(request.detections):
        prefix = f"detection {number}: "
        vector = read_vector(detection.vector, prefix)
        if len(vector) != dim:
            raise wrong_dimension(len(vector), dim, prefix)
        vectors[number] = vector
    labels: list[dict[str, Any]] = [{"label": None, "label_score": None}] * len(vectors)
    return _Content(vectors, labels, _size(request), _boxes(request))


def _embed_pixels(request: LinkRequest, served: ServedIndex, decoder: UploadDecoder) -> _Content:
    size, boxes = _size(request), _boxes(request)
    if request.image is not None:
        image = read_bytes(request.image, "the frame's image", "invalid_image")
        stored = request.box_frame == "stored"
        embedded, size, boxes = served.embedder.embed_boxes(image, boxes, decoder, stored=stored)
    else:
        crops = [
            read_bytes(detection.image or "", f"the image of detection {number}", "invalid_image")
            for number, detection in enumerate(request.detections)
        ]
        embedded = served.embedder.embed_images(crops, decoder, item="detection")
    vectors = np.array([item.embedding for item in embedded], np.float32).reshape(-1, served.dim)
    labels = [{"label": i.label, "label_score": i.score} for i in embedded]
    return _Content(vectors, labels, size, boxes)


def _boxes(request: LinkRequest) -> NDArray[np.float64]:
    return np.array([item.box for item in request.detections], np.float64).reshape(-1, 4)


def _size(request: LinkRequest) -> tuple[int, int]:
    return request.image_width or 0, request.image_height or 0
