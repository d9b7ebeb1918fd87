"""Detections: pages of them; of one its row, its track, its neighbours, its pixels.

Ids are chosen by the user and may contain slashes: the id takes all of the path up to the last
word. Characters with a meaning in a URL (``?``, ``#``, ``%``) must be percent-encoded; a slash may
be. A path cannot express an id that itself ends in ``/neighbours`` or ``/image``;
``POST /v1/search`` takes it.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Annotated

import anyio
import numpy as np
from fastapi import Path as InPath
from fastapi import Query, Request, Response
from PIL import Image

from api.http.errors import ApiError, error_responses
from api.http.keys import v1_router
from api.routes.common import Limit, Offset, ServedIndexDep, ServiceDep, answer_search
from api.routes.tracks import track
from api.schemas import MAX_K
from api.schemas.detections import Detection, DetectionPage
from api.schemas.search import DEFAULT_K, WHERE, SearchAnswer, SearchOptions
from api.schemas.tracks import TrackDetail
from api.service.answers import DETECTION_COLUMNS, detection_rows, search_body
from api.service.served_index import ServedIndex
from common.errors import FilterError, StorageError, UnavailableError

JPEG_QUALITY = 90

logger = logging.getLogger("onepass.api")

router = v1_router("/detections", "detections")

DetectionId = Annotated[
    str,
    InPath(description="May contain slashes; percent-encode ?, # and %.", examples=["trap-4/57-2"]),
]


@router.get("", summary="Detections, a page at a time", responses=error_responses(422, 503))
def browse(
    served: ServedIndexDep,
    where: Annotated[
        str | None,
        Query(
            description="Only rows that match this condition, as after WHERE in SQL.",
            examples=["label = 'Noctua pronuba' AND score >= 0.5"],
        ),
    ] = None,
    limit: Limit = 50,
    offset: Offset = 0,
) -> DetectionPage:
    """In the order of the index; `where` may name any column of its rows."""
    try:
        rows = served.matching_rows(where)
    except FilterError as error:
        raise ApiError(422, "invalid_filter", str(error)) from None
    page = detection_rows(served.snapshot.columns(rows[offset : offset + limit]))
    return DetectionPage(
        snapshot=served.version,
        total=len(rows),
        limit=limit,
        offset=offset,
        detections=[Detection(**fields) for fields in page],
    )


# An id takes all of a path, so the more specific paths come first.
@router.get(
    "/{detection_id:path}/track",
    summary="The track a detection belongs to",
    responses=error_responses(404, 422, 503),
)
def track_of(served: ServedIndexDep, detection_id: DetectionId) -> TrackDetail:
    """As `/v1/tracks/{track_id}`; 404 `no_track` if it has none."""
    row = served.row_of(detection_id)
    run = served.snapshot.columns(np.array([row]))["run"][0]
    try:
        track_id = served.tracks().track_of(run, detection_id)
    except ApiError as error:
        if error.code != "no_tracks":
            raise
        raise ApiError(404, "no_track", error.detail) from None
    if track_id is None:
        raise ApiError(
            404,
            "no_track",
            f"detection {detection_id[:100]!r} is in no track; "
            "run 'onepass link' on its run and try again",
        )
    return track(served, track_id, run)


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
async def image(service: ServiceDep, served: ServedIndexDep, detection_id: DetectionId) -> Response:
    """Cropped exactly as the network saw it before resizing."""
    limiter = service.crop_limiter
    crop = await anyio.to_thread.run_sync(_crop, served, detection_id, limiter=limiter)
    return Response(crop, media_type="image/jpeg")


@router.get(
    "/{detection_id:path}", summary="One detection", responses=error_responses(404, 422, 503)
)
def detection(served: ServedIndexDep, detection_id: DetectionId) -> Detection:
    """The fields of its row."""
    row = served.snapshot.columns(np.array([served.row_of(detection_id)]), DETECTION_COLUMNS)
    return Detection(**detection_rows(row)[0])


def _crop(served: ServedIndex, detection_id: str) -> bytes:
    # late: torch takes seconds to import, and a server that is only searched never needs it
    from pipelines.images.pixels import ImageError, crop
    from pipelines.images.reader import read_image

    row = served.row_of(detection_id)
    columns = served.snapshot.columns(np.array([row]))
    if columns["image"][0] is None:
        raise ApiError(404, "image_missing", "nobody said which image this vector was made from")
    name = columns["image"][0].rsplit("/", 1)[-1]
    try:
        pixels = read_image(Path(), str(served.snapshot.image_path(row))).pixels
        part = crop(pixels, tuple(columns[corner][0] for corner in ("x1", "y1", "x2", "y2")))
    except ImageError as error:
        if error.kind == "missing file":
            # Not in the answer: clients are not shown where the disk is.
            path = served.snapshot.image_path(row)
            logger.warning("no image %s; where its folder is now says 'serve --images'", path)
            raise ApiError(
                404,
                "image_missing",
                f"{name} is not where its run read it; put it back, or serve with --images OLD=NEW",
            ) from None
        raise ApiError(404, "image_unreadable", f"{name}: {error}") from None
    except StorageError as error:
        raise UnavailableError(str(error)) from None
    jpeg = io.BytesIO()
    Image.fromarray(part.permute(1, 2, 0).numpy()).save(jpeg, "JPEG", quality=JPEG_QUALITY)
    return jpeg.getvalue()
