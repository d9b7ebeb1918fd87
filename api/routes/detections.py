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
from api.http.routing import DirectRoute
from api.routes.common import (
    ServedIndexDep,
    ServiceDep,
    answer_search,
    filter_of,
    served_index_of,
    service_of,
    shown_of,
)
from api.routes.tracks import track
from api.schemas.detections import (
    BrowseParams,
    Detection,
    DetectionPage,
    DetectionParams,
    FetchAnswer,
    FetchRequest,
)
from api.schemas.search import SearchAnswer, SearchOptions
from api.schemas.tracks import TrackDetail
from api.service.answers import Shown, describe_rows, search_body, to_json
from api.service.checks import check_ids, check_vector_count
from api.service.served_index import ServedIndex
from common.errors import ColumnError, FilterError, StorageError, UnavailableError

JPEG_QUALITY = 90

logger = logging.getLogger("onepass.api")

router = v1_router("/detections", "detections", "search")
direct = v1_router("/detections", "detections", "search", DirectRoute)
last = v1_router("/detections", "detections", "search", DirectRoute)  # an id takes all of a path

DetectionId = Annotated[
    str,
    InPath(description="May contain slashes; percent-encode ?, # and %.", examples=["trap-4/57-2"]),
]


@direct.get(
    "",
    summary="Detections, a page at a time",
    response_model=DetectionPage,
    responses=error_responses(422, 503),
)
async def browse(request: Request, params: Annotated[BrowseParams, Query()]) -> Response:
    """In the order of the index, or of any column; `where` may name any column of its rows."""
    service, served = service_of(request), served_index_of(request)
    check_ids(service.limits, params.ids)
    if params.with_vector:
        check_vector_count(service.limits, params.limit, served.dim)
    shown = shown_of(served, params)
    limiter = service.vectors_limiter if params.with_vector else None
    body = await anyio.to_thread.run_sync(_page_body, served, params, shown, limiter=limiter)
    return Response(body, media_type="application/json")


@direct.post(
    "",
    summary="Detections by their ids, with their vectors",
    response_model=FetchAnswer,
    responses=error_responses(408, 413, 422, 503),
)
async def fetch(request: Request, body: FetchRequest) -> Response:
    """Many at once; the API does not write: rows are added by `onepass index add`."""
    service, served = service_of(request), served_index_of(request)
    check_ids(service.limits, body.ids)
    if body.with_vector:
        check_vector_count(service.limits, len(body.ids), served.dim)
    shown = shown_of(served, body)
    limiter = service.vectors_limiter if body.with_vector else None
    answer = await anyio.to_thread.run_sync(_fetch_body, served, body.ids, shown, limiter=limiter)
    return Response(answer, media_type="application/json")


@direct.get(
    "/{detection_id:path}/neighbours",
    summary="Nearest detections to a detection",
    response_model=SearchAnswer,
    responses=error_responses(404, 422, 429, 503),
)
async def neighbours(
    request: Request, options: Annotated[SearchOptions, Query()], detection_id: DetectionId
) -> Response:
    """The detection itself is left out. As `POST /v1/search` with the same options."""
    return await answer_search(
        request,
        [detection_id],
        options,
        lambda results, query: search_body(results, query, options.k),
    )


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


@last.get(
    "/{detection_id:path}",
    summary="One detection",
    response_model=Detection,
    responses=error_responses(404, 422, 503),
)
async def detection(
    request: Request, params: Annotated[DetectionParams, Query()], detection_id: DetectionId
) -> Response:
    """The fields of its row, and its vector."""
    served = served_index_of(request)
    shown = shown_of(served, params)
    row = np.array([served.row_of(detection_id)])
    body = to_json(describe_rows(served.snapshot, row, shown)[0])
    return Response(body, media_type="application/json")


def _page_body(served: ServedIndex, params: BrowseParams, shown: Shown) -> bytes:
    filter = filter_of(params.where, params.ids)
    try:
        rows = served.matching_rows(filter)
        if params.order_by is not None:
            order = served.sorted_rows(params.order_by, params.direction)
            allowed = np.zeros(len(order), bool)
            allowed[rows] = True
            rows = order[allowed[order]]
    except FilterError as error:
        raise ApiError(422, "invalid_filter", str(error)) from None
    except ColumnError as error:
        raise ApiError(422, "invalid_column", f"order_by: {error}") from None
    page = rows[params.offset : params.offset + params.limit]
    return to_json(
        {
            "snapshot": served.version,
            "total": len(rows),
            "limit": params.limit,
            "offset": params.offset,
            "unknown_ids": served.unknown_ids(filter),
            "detections": describe_rows(served.snapshot, page, shown),
        }
    )


def _fetch_body(served: ServedIndex, ids: list[str], shown: Shown) -> bytes:
    rows = served.rows_of(ids)
    return to_json(
        {
            "snapshot": served.version,
            "unknown_ids": [ids[at] for at in np.flatnonzero(rows < 0).tolist()],
            "detections": describe_rows(served.snapshot, rows[rows >= 0], shown),
        }
    )


def _crop(served: ServedIndex, detection_id: str) -> bytes:
    # late: torch takes seconds to import, and a server that is only searched never needs it
    from pipelines.images.errors import ImageError
    from pipelines.images.pixels import crop
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
