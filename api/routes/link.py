"""Links frames of live cameras, and shows the open tracks of a sequence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, TypeVar

import anyio
from fastapi import APIRouter, Query, Request, Response

from api.http.errors import ApiError, error_responses
from api.routes.common import get_limits, get_served_index
from api.routes.direct import DirectRoute
from api.schemas.link import LinkAnswer, LinkRequest, OpenSequence, OpenTrack
from api.service.frames import read_frame, request_digest
from api.service.queues import BoundedQueue
from common.errors import ClashError, FrameError, LinkStateError
from tracks.live.session import Answer, LiveLinker
from tracks.store import track_id

router = APIRouter(prefix="/v1/link", tags=["link"])
direct = APIRouter(prefix="/v1/link", tags=["link"], route_class=DirectRoute)

logger = logging.getLogger("onepass.api")

T = TypeVar("T")


@direct.post(
    "",
    summary="Link a new frame's detections to the open tracks of its sequence",
    response_model=LinkAnswer,
    responses=error_responses(400, 409, 413, 422, 429, 503),
)
async def link(request: Request, body: LinkRequest) -> Response:
    """Send the frames of a sequence in order, and a frame again if its answer did not arrive.

    The answers of a sequence's last 32 requests are kept. Frames of one sequence are linked one
    after the other, and its state outlives the server. Tracks are closed when no frame came for
    30 days, and all at once if the server's link options or its model have changed: then
    `restarted` says so, and track numbers continue.
    """
    served, limits = get_served_index(request), get_limits(request)
    limits.check_detections(len(body.detections))
    live: LiveLinker = request.app.state.live
    frames: BoundedQueue = request.app.state.frames
    with frames.slot():
        digest = await anyio.to_thread.run_sync(request_digest, body)
        kept = await _call(
            request, lambda: live.stored_answer(body.sequence, body.request_id, digest)
        )
        if kept is not None:
            answer = Answer(kept, repeated=True)
        else:
            frame = await read_frame(body, served, limits, request.app.state.uploads)
            answer = await _call(
                request,
                lambda: live.link(
                    frame,
                    request_id=body.request_id,
                    digest=digest,
                    fingerprint=served.snapshot.manifest.fingerprint,
                ),
            )
    request.app.state.metrics.record_linked(answer.continued, answer.started, answer.weak)
    headers = {"idempotent-replayed": "true"} if answer.repeated else None
    return Response(answer.body, headers=headers, media_type="application/json")


@router.get(
    "",
    summary="The last frame and the open tracks of a sequence",
    responses=error_responses(404, 422, 503),
)
async def sequence(
    request: Request,
    sequence: Annotated[str, Query(description="As in the requests that sent its frames.")],
) -> OpenSequence:
    """For a camera that was restarted: its last frame, and the tracks that may continue."""
    served = get_served_index(request)
    live: LiveLinker = request.app.state.live
    state = await _call(request, lambda: live.state(sequence))
    if state is None:
        raise ApiError(
            404,
            "sequence_not_found",
            f"no frame of sequence {sequence[:100]!r} was linked here; start it with POST /v1/link",
        )
    tracks = state.tracks
    return OpenSequence(
        sequence=sequence,
        frame=state.head.frame,
        timestamp=state.head.taken,
        restarts=state.cut_off(live.options, served.snapshot.manifest.fingerprint),
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


async def _call(request: Request, function: Callable[[], T]) -> T:
    """Call a function of the live linker in its turn, in a thread; its errors become answers."""
    frames: BoundedQueue = request.app.state.frames
    try:
        return await anyio.to_thread.run_sync(function, limiter=frames.limiter)
    except ClashError as error:
        raise ApiError(409, "clash", str(error)) from None
    except FrameError as error:
        raise ApiError(422, "invalid_frame", str(error)) from None
    except LinkStateError as error:
        logger.error("%s", error)
        message = request.app.state.service.without_paths(error)
        raise ApiError(503, "link_unavailable", message, headers={"retry-after": "5"}) from None
