"""Tracks: a page of them, and one with all its links."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from api.http.errors import ApiError, error_responses
from api.routes.common import ServedIndexDep
from api.schemas.detections import Detection
from api.schemas.tracks import Track, TrackDetail, TrackList, TrackStep

MAX_PAGE = 1000
MAX_OFFSET = 2**31 - 1  # more than Arrow can slice at is an error there

router = APIRouter(prefix="/v1/tracks", tags=["tracks"])


@router.get("", summary="Tracks, a page at a time", responses=error_responses(404, 422, 503))
def tracks(
    held: ServedIndexDep,
    sequence: Annotated[str | None, Query(description="Only this sequence's.")] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = 100,
    offset: Annotated[int, Query(ge=0, le=MAX_OFFSET)] = 0,
) -> TrackList:
    """Ordered by run, sequence, first frame and id; 404 if no run of the index was linked."""
    total, page = held.tracks().page(sequence, limit=limit, offset=offset)
    return TrackList(
        total=total, limit=limit, offset=offset, tracks=[Track(**track) for track in page]
    )


@router.get(
    "/{track_id:path}",
    summary="One track and its detections in order",
    responses=error_responses(404, 422, 503),
)
def track(
    held: ServedIndexDep,
    track_id: str,
    run: Annotated[int | None, Query(description="Where two runs have a track of one id.")] = None,
) -> TrackDetail:
    """Each detection says which one it continues and what that link cost, term by term."""
    book = held.tracks()
    found = [one for one in book.summaries(track_id) if run is None or one["run"] == run]
    if not found:
        raise ApiError(
            404,
            "track_not_found",
            f"no track {track_id[:100]!r}; GET /v1/tracks lists what there is",
        )
    if len(found) > 1:
        runs = ", ".join(str(one["run"]) for one in found)
        raise ApiError(
            422, "ambiguous_track", f"track {track_id!r} stands in runs {runs}; say which: ?run="
        )
    steps = book.steps(found[0]["run"], track_id)
    known = held.known([step["detection_id"] for step in steps])
    return TrackDetail(
        **found[0],
        detections=[
            TrackStep(
                **{name: step[name] for name in TrackStep.model_fields if name in step},
                detection=None if row is None else Detection(**row),
            )
            for step, row in zip(steps, known, strict=True)
        ],
    )
