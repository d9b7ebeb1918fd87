"""One detection: its row, its neighbours, its pixels.

Ids are chosen by the user and may contain slashes: the id takes all of the path up to the last
word. Characters with a meaning in a URL (``?``, ``#``, ``%``) must be percent-encoded; a slash may
be. A path cannot express an id that itself ends in ``/neighbours`` or ``/image``;
``POST /v1/search`` takes it.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Annotated

import anyio
import numpy as np
from fastapi import APIRouter, Query, Request, Response
from fastapi import Path as InPath
from PIL import Image

from api.http.errors import ApiError, error_responses
from api.routes.common import (
    CropLimiterDep,
    ServedIndexDep,
    answer_search,
    get_limits,
    get_served_index,
)
from api.schemas.detections import Detection
from api.schemas.search import DEFAULT_K, MAX_K, WHERE, SearchAnswer, SearchOptions
from api.service.answers import DETECTION_COLUMNS, detection_rows, search_body
from api.service.served_index import ServedIndex
from common.errors import StorageError, UnavailableError

JPEG_QUALITY = 90

router = APIRouter(prefix="/v1/detections", tags=["detections"])

DetectionId = Annotated[
    str,
    InPath(description="May contain slashes; percent-encode ?, # and %.", examples=["trap-4/57-2"]),
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
    get_served_index(request)
    get_limits(request).check_k(k)
    return await answer_search(
        request,
        [detection_id],
        SearchOptions(k=k, where=where),
        lambda results, query: search_body(results, query, k),
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
async def image(
    served: ServedIndexDep, limiter: CropLimiterDep, detection_id: DetectionId
) -> Response:
    """Cropped exactly as the network saw it before resizing."""
    crop = await anyio.to_thread.run_sync(_crop, served, detection_id, limiter=limiter)
    return Response(crop, media_type="image/jpeg")


@router.get(
    "/{detection_id:path}",
    summary="One detection",
    responses=error_responses(404, 422, 503),
)
def detection(served: ServedIndexDep, detection_id: DetectionId) -> Detection:
    """The fields of its row."""
    row = served.snapshot.columns(np.array([served.row_of(detection_id)]), DETECTION_COLUMNS)
    return Detection(**detection_rows(row)[0])


def _crop(served: ServedIndex, detection_id: str) -> bytes:
    # late: torch takes seconds to import, and a server that is only searched never needs it
    from pipelines.images.opener import read_image
    from pipelines.images.pixels import ImageError, crop

    row = served.row_of(detection_id)
    columns = served.snapshot.columns(np.array([row]))
    name = columns["image"][0].rsplit("/", 1)[-1]
    try:
        pixels = read_image(Path(), str(served.snapshot.image_path(row))).pixels
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
