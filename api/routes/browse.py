"""Looking around: detections a page at a time, what values there are, the track of a detection.

These stand before the routes of ``detections``: an id takes all of a path, so the one that says
more must be asked first.
"""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from fastapi import APIRouter, Query

from api.http.errors import ApiError, error_responses
from api.routes.common import ServedIndexDep
from api.routes.detections import DetectionId
from api.routes.tracks import MAX_OFFSET, MAX_PAGE, track
from api.schemas.detections import Detection, DetectionPage, Facet, Facets
from api.schemas.tracks import TrackDetail
from api.service.answers import detection_rows
from api.service.catalog import facets, matching_rows
from common.errors import FilterError

router = APIRouter()


@router.get(
    "/v1/detections",
    summary="Detections, a page at a time",
    tags=["detections"],
    responses=error_responses(422, 503),
)
def browse(
    held: ServedIndexDep,
    where: Annotated[
        str | None,
        Query(
            description="Only rows that fit this condition, as behind WHERE in SQL.",
            examples=["label = 'Noctua pronuba' AND score >= 0.5"],
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
) -> DetectionPage:
    """In the order of the index; `where` may name any column of its rows."""
    try:
        rows = matching_rows(held.snapshot, where)
    except FilterError as error:
        raise ApiError(422, "invalid_filter", str(error)) from None
    page = detection_rows(held.snapshot.columns(rows[offset : offset + limit]))
    return DetectionPage(
        snapshot=held.snapshot.manifest.version,
        total=len(rows),
        limit=limit,
        offset=offset,
        detections=[Detection(**fields) for fields in page],
    )


@router.get(
    "/v1/index/facets",
    summary="The values of a column and how many detections have each",
    tags=["index"],
    responses=error_responses(422, 503),
)
def index_facets(
    held: ServedIndexDep,
    column: Annotated[Literal["label", "sequence"], Query()],
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> Facets:
    """Most frequent first."""
    counted = facets(held.snapshot, column)
    return Facets(
        snapshot=held.snapshot.manifest.version,
        column=column,
        total=len(counted),
        limit=limit,
        values=[Facet(value=value, rows=rows) for value, rows in counted[:limit]],
    )


@router.get(
    "/v1/detections/{detection_id:path}/track",
    summary="The track a detection belongs to",
    tags=["detections"],
    responses=error_responses(404, 422, 503),
)
def track_of(held: ServedIndexDep, detection_id: DetectionId) -> TrackDetail:
    """As `/v1/tracks/{track_id}`; 404 `no_track` if it has none."""
    row = held.row_of(detection_id)
    run = held.snapshot.columns(np.array([row]))["run"][0]
    try:
        found = held.tracks().track_of(run, detection_id)
    except ApiError as error:
        if error.code != "no_tracks":
            raise
        raise ApiError(404, "no_track", error.message) from None
    if found is None:
        raise ApiError(
            404,
            "no_track",
            f"detection {detection_id[:100]!r} is in no track; "
            "run 'onepass link' on its run and ask again",
        )
    return track(held, found, run)
