"""Browsing: pages of detections, the values of a column, the track of a detection.

These routes come before those of ``detections``: an id there takes all of a path, so the more
specific paths must be matched first.
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
from api.service.filter_cache import matching_rows
from common.errors import FilterError

router = APIRouter()


@router.get(
    "/v1/detections",
    summary="Detections, a page at a time",
    tags=["detections"],
    responses=error_responses(422, 503),
)
def browse(
    served: ServedIndexDep,
    where: Annotated[
        str | None,
        Query(
            description="Only rows that match this condition, as after WHERE in SQL.",
            examples=["label = 'Noctua pronuba' AND score >= 0.5"],
        ),
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 50,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
) -> DetectionPage:
    """In the order of the index; `where` may name any column of its rows."""
    try:
        rows = matching_rows(served.snapshot, where)
    except FilterError as error:
        raise ApiError(422, "invalid_filter", str(error)) from None
    page = detection_rows(served.snapshot.columns(rows[offset : offset + limit]))
    return DetectionPage(
        snapshot=served.snapshot.manifest.version,
        total=len(rows),
        limit=limit,
        offset=offset,
        detections=[Detection(**fields) for fields in page],
    )


@router.get(
    "/v1/index/facets",
    summary="The values of a column and the number of detections with each",
    tags=["index"],
    responses=error_responses(422, 503),
)
def index_facets(
    served: ServedIndexDep,
    column: Annotated[Literal["label", "sequence"], Query()],
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
) -> Facets:
    """Most frequent first."""
    counts = served.snapshot.counts(column)
    return Facets(
        snapshot=served.snapshot.manifest.version,
        column=column,
        total=len(counts),
        limit=limit,
        values=[Facet(value=value, rows=rows) for value, rows in counts[:limit]],
    )


@router.get(
    "/v1/detections/{detection_id:path}/track",
    summary="The track a detection belongs to",
    tags=["detections"],
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
        raise ApiError(404, "no_track", error.message) from None
    if track_id is None:
        raise ApiError(
            404,
            "no_track",
            f"detection {detection_id[:100]!r} is in no track; "
            "run 'onepass link' on its run and try again",
        )
    return track(served, track_id, run)
