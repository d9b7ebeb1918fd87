"""Linking a camera's frames as they come, and where a sequence stands."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio
from fastapi import APIRouter, Query, Request, Response

from api.http.errors import ApiError, error_responses
from api.routes.common import get_limits, get_served_index
from api.routes.direct import DirectRoute
from api.schemas.link import LinkAnswer, LinkRequest, OpenSequence, OpenTrack
from api.service.frames import read_frame, request_digest
from api.service.line import BoundedQueue
from common.errors import ClashError, FrameError, LinkStateError
from tracks.live.session import Answer, LiveLinker
from tracks.store import track_id

router = APIRouter(prefix="/v1/link", tags=["link"])
direct = APIRouter(prefix="/v1/link", tags=["link"], route_class=DirectRoute)

_log = logging.getLogger("onepass.api")

T = TypeVar("T")


@direct.post(
    "",
    summary="Link a new frame's detections to the open tracks of its sequence",
    response_model=LinkAnswer,
    responses=error_responses(400, 409, 413, 422, 429, 503),
)
async def link(request: Request, asked: LinkRequest) -> Response:
    """Send frames of a sequence in their order, and one again whose answer did not arrive.

    Of a sequence's last 32 requests the answers are kept. Frames of one sequence are linked one
    after the other, and what is known of it outlives the server. Tracks are closed when nothing
    came for 30 days, and all at once where the server's link options or its model are no longer
    those they were made with: then `restarted` says so, and numbers of tracks are counted on.
    """
    held, limits = get_served_index(request), get_limits(request)
    limits.check_detections(len(asked.detections))
    live: LiveLinker = request.app.state.live
    frames: BoundedQueue = request.app.state.frames
    with frames.slot():
        digest = await anyio.to_thread.run_sync(request_digest, asked)

        def ask(what: Callable[[], T]) -> Any:
            return anyio.to_thread.run_sync(_with_api_errors, request, what, limiter=frames.limiter)

        known = await ask(lambda: live.answered(asked.sequence, asked.request_id, digest))
        if known is not None:
            answer = Answer(known, repeated=True)
        else:
            frame = await read_frame(asked, held, limits, request.app.state.uploads)
            answer = await ask(
                lambda: live.link(
                    frame,
                    request_id=asked.request_id,
                    digest=digest,
                    fingerprint=held.snapshot.manifest.fingerprint,
                )
            )
    request.app.state.metrics.record_linked(answer.continued, answer.started, answer.weak)
    headers = {"idempotent-replayed": "true"} if answer.repeated else None
    return Response(answer.body, headers=headers, media_type="application/json")


@router.get("", summary="Where a sequence stands", responses=error_responses(404, 422, 503))
async def sequence(
    request: Request,
    sequence: Annotated[str, Query(description="As it was named in its frames.")],
) -> OpenSequence:
    """For a camera that was restarted: its last frame, and the tracks that may go on."""
    held = get_served_index(request)
    live: LiveLinker = request.app.state.live
    frames: BoundedQueue = request.app.state.frames
    state = await anyio.to_thread.run_sync(
        _with_api_errors, request, lambda: live.state(sequence), limiter=frames.limiter
    )
    if state is None:
        raise ApiError(
            404,
            "sequence_not_found",
            f"no frame of sequence {sequence[:100]!r} was linked here; POST /v1/link begins it",
        )
    tracks = state.tracks
    return OpenSequence(
        sequence=sequence,
        frame=state.head.frame,
        timestamp=state.head.taken,
        restarts=state.cut_off(live.options, held.snapshot.manifest.fingerprint),
        tracks_started=state.head.started,
        tracks=[]
        if tracks is None
        else [
            OpenTrack(
                track_id=track_id(sequence, number),
                length=position + 1,
                detection_id=name,
                frame=frame,
                box=tuple(box),
            )
            for number, position, name, frame, box in zip(
                tracks.track.tolist(),
                tracks.position.tolist(),
                state.head.last_ids,
                tracks.frame.tolist(),
                tracks.box.tolist(),
                strict=True,
            )
        ],
    )


def _with_api_errors(request: Request, what: Callable[[], T]) -> T:
    """The result of ``what``, whose refusals become answers."""
    try:
        return what()
    except ClashError as error:
        raise ApiError(409, "clash", str(error)) from None
    except FrameError as error:
        raise ApiError(422, "invalid_frame", str(error)) from None
    except LinkStateError as error:
        _log.error("%s", error)
        message = request.app.state.service.without_paths(error)
        raise ApiError(503, "link_unavailable", message, headers={"retry-after": "5"}) from None
