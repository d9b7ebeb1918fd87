"""Tracks: a page of them, and one with all its links."""

from __future__ import annotations

from typing import Annotated

from fastapi import Query

from api.http.errors import ApiError, error_responses
from api.http.keys import v1_router
from api.routes.common import Limit, Offset, ServedIndexDep
from api.schemas.detections import Detection
from api.schemas.tracks import Track, TrackDetail, TrackList, TrackStep

router = v1_router("/tracks", "tracks", "search")


@router.get("", summary="Tracks, a page at a time", responses=error_responses(404, 422, 503))
def tracks(
    served: ServedIndexDep,
    sequence: Annotated[str | None, Query(description="Only tracks of this sequence.")] = None,
    limit: Limit = 100,
    offset: Offset = 0,
) -> TrackList:
    """Ordered by run, sequence, first frame and id; 404 if no run of the index was linked."""
    total, page = served.tracks().page(sequence, limit=limit, offset=offset)
    return TrackList(
        total=total, limit=limit, offset=offset, tracks=[Track(**track) for track in page]
    )


@router.get(
    "/{track_id:path}",
    summary="One track and its detections in order",
    responses=error_responses(404, 422, 503),
)
def track(
    served: ServedIndexDep,
    track_id: str,
    run: Annotated[
        int | None, Query(description="Needed where two runs have a track with this id.")
    ] = None,
) -> TrackDetail:
    """Each detection has the previous one and what the link to it cost, term by term."""
    table = served.tracks()
    matches = [track for track in table.summaries(track_id) if run is None or track["run"] == run]
    if not matches:
        raise ApiError(
            404, "track_not_found", f"no track {track_id[:100]!r}; GET /v1/tracks lists all tracks"
        )
    if len(matches) > 1:
        runs = ", ".join(str(track["run"]) for track in matches)
        raise ApiError(
            422, "ambiguous_track", f"track {track_id!r} is in runs {runs}; choose one with ?run="
        )
    steps = table.steps(matches[0]["run"], track_id)
    rows = served.detections([step["detection_id"] for step in steps])
    return TrackDetail(
        **matches[0],
        detections=[
            TrackStep(
                **{name: step[name] for name in TrackStep.model_fields if name in step},
                detection=None if row is None else Detection(**row),
            )
            for step, row in zip(steps, rows, strict=True)
        ],
    )
