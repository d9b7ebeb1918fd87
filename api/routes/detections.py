"""One detection: its row, its neighbours, its pixels.

Ids are whatever the user gave, so they may hold slashes: the id takes all of the path up to
the last word. Everything that means something in a URL (``?``, ``#``, ``%``) must be
percent-encoded; a slash may be. The one thing a path cannot say is an id that itself ends in
``/neighbours`` or ``/image``; ``POST /v1/search`` takes it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import anyio
import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath

from api.http.errors import ApiError, error_responses
from api.routes.common import CropTurn, Held, ask, detection_fields, filter_of, held_of, limits_of
from api.schemas.search import DEFAULT_K, MAX_K, WHERE, Detection, SearchAnswer
from api.service.answers import search_body
from api.service.batching import Search
from api.service.state import ServedIndex
from common.errors import StorageError, UnavailableError

JPEG_QUALITY = 90

router = APIRouter(prefix="/v1/detections", tags=["detections"])

DetectionId = Annotated[
    str,
    InPath(description="May hold slashes; percent-encode ?, # and %.", examples=["trap-4/57-2"]),
]


@router.get(
    "/{detection_id:path}/neighbours",
    summary="Nearest detections to a detection",
    response_model=SearchAnswer,
    responses=error_responses(404, 422, 429, 503),
)
async def neighbours(
    request: Request,
    detection_id: DetectionId,
    k: Annotated[int, Query(ge=1, le=MAX_K)] = DEFAULT_K,
    where: Annotated[str | None, Query(description=WHERE)] = None,
) -> Response:
    """The detection itself is left out."""
    held_of(request)
    limits_of(request).check_k(k)
    return await ask(
        request,
        Search(
            [detection_id],
            k,
            lambda found, place: search_body(found, place, k),
            chosen=filter_of(where),
        ),
    )


@router.get(
    "/{detection_id:path}/image",
    summary="The detection's pixels as JPEG",
    response_class=Response,
    responses={
        200: {"content": {"image/jpeg": {}}, "description": "The crop; the whole image if no box."},
        **error_responses(404, 422, 503),
    },
)
async def image(held: Held, turn: CropTurn, detection_id: DetectionId) -> Response:
    """Cut out exactly as the network saw it before resizing."""
    crop = await anyio.to_thread.run_sync(_crop, held, detection_id, limiter=turn)
    return Response(crop, media_type="image/jpeg")


@router.get(
    "/{detection_id:path}",
    summary="One detection",
    responses=error_responses(404, 422, 503),
)
def detection(held: Held, detection_id: DetectionId) -> Detection:
    """What the index knows of it."""
    return Detection(**detection_fields(held, held.row_of(detection_id)))


def _crop(held: ServedIndex, detection_id: str) -> bytes:
    # torch takes seconds to import, and a server that is only searched never needs it
    from PIL import Image

    from pipelines.images.opener import read_image
    from pipelines.images.pixels import ImageError, crop

    row = held.row_of(detection_id)
    columns = held.snapshot.columns(np.array([row]))
    name = columns["image"][0].rsplit("/", 1)[-1]
    try:
        pixels = read_image(Path(), str(held.snapshot.image_path(row))).pixels
        part = crop(pixels, tuple(columns[corner][0] for corner in ("x1", "y1", "x2", "y2")))
    except ImageError as error:
        if error.kind == "missing file":
            raise ApiError(
                404,
                "image_missing",
                f"{name} is no longer where its run read it; put it back to see it",
            ) from None
        raise ApiError(404, "image_unreadable", f"{name}: {error}") from None
    except StorageError as error:
        raise UnavailableError(str(error)) from None
    jpeg = io.BytesIO()
    Image.fromarray(part.permute(1, 2, 0).numpy()).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    return jpeg.getvalue()
