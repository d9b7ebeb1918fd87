"""Links frames of live cameras, and shows the open tracks of a sequence."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Annotated, TypeVar

import anyio
from fastapi import Path as InPath
from fastapi import Request, Response

from api.http.errors import ApiError, error_responses
from api.http.keys import v1_router
from api.http.routing import DirectRoute
from api.routes.common import ServedIndexDep, ServiceDep, served_index_of, service_of
from api.schemas.link import LinkAnswer, LinkRequest, OpenSequence, OpenTrack
from api.service.checks import over_limit
from api.service.frames import read_frame, request_digest
from api.service.service import Service
from common.errors import (
    ClashError,
    FrameError,
    LinkDamagedError,
    LinkFullError,
    LinkStateError,
)
from tracks.live.session import Answer
from tracks.store import track_id

router = v1_router("/link", "link", "link")
direct = v1_router("/link", "link", "link", DirectRoute)

logger = logging.getLogger("onepass.api")

T = TypeVar("T")

SequenceName = Annotated[
    str,
    InPath(
        max_length=500,
        description="As in the requests that sent its frames; percent-encode ?, # and %.",
        examples=["trap-4/2022-06-19"],
    ),
]


@direct.post(
    "",
    summary="Link a new frame's detections to the open tracks of its sequence",
    response_model=LinkAnswer,
    responses=error_responses(400, 408, 409, 413, 422, 429, 503),
)
async def link(request: Request, body: LinkRequest) -> Response:
    """Send the frames of a sequence in order, and a frame again if its answer did not arrive.

    The answers of a sequence's last 32 requests are kept, fewer where they are very large. Frames of
    one sequence are linked one after the other, and its state outlives the server. Tracks are closed
    when no frame came for 30 days, or for an hour where others need the room, and all at once if the
    server's link options or its model have changed: then `restarted` says so, and track numbers
    continue. A number or time that is far ahead of the last one is refused, unless `allow_jump`.
    """
    service, served = service_of(request), served_index_of(request)
    live, limits = service.live, service.limits
    if len(body.detections) > limits.detections:
        raise over_limit(
            f"{len(body.detections)} detections in a frame; this server links up to "
            f"{limits.detections}"
        )
    with service.frames.slot():
        one_at_a_time = request.app.state.body_limiter  # it takes twice the bytes of the body
        digest = await anyio.to_thread.run_sync(request_digest, body, limiter=one_at_a_time)
        stored = await _call(
            service, lambda: live.stored_answer(body.sequence, body.request_id, digest)
        )
        if stored is not None:
            answer = Answer(stored, repeated=True)
        else:
            frame = await read_frame(body, served, service.decoder, service.uploads)
            answer = await _call(
                service,
                lambda: live.link(
                    frame,
                    request_id=body.request_id,
                    digest=digest,
                    fingerprint=served.snapshot.manifest.fingerprint,
                ),
            )
    for outcome in ("continued", "started", "weak", "duplicates"):
        service.metrics.linked.labels(outcome).inc(getattr(answer, outcome))
    for left in ("closed", "removed"):
        service.metrics.link_idle.labels(left).inc(getattr(answer, left))
    headers = {"idempotent-replayed": "true"} if answer.repeated else None
    return Response(answer.body, headers=headers, media_type="application/json")


@router.get(
    "/{sequence:path}",
    summary="The last frame and the open tracks of a sequence",
    responses=error_responses(404, 409, 422, 503),
)
async def sequence(
    service: ServiceDep, served: ServedIndexDep, sequence: SequenceName
) -> OpenSequence:
    """For a camera that was restarted: its last frame, and the tracks that may continue."""
    state = await _call(service, lambda: service.live.state(sequence))
    if state is None:
        raise _not_found(sequence)
    tracks = state.tracks
    return OpenSequence(
        sequence=sequence,
        frame=state.head.frame,
        timestamp=state.head.taken,
        restarts=state.cut_off(service.live.options, served.snapshot.manifest.fingerprint),
        tracks_started=state.head.started,
        bytes=state.size,
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


@router.delete(
    "/{sequence:path}",
    status_code=204,
    summary="Start a sequence anew",
    responses=error_responses(404, 422, 503),
)
async def delete(service: ServiceDep, sequence: SequenceName) -> None:
    """Forgets its open tracks and answers: its next frame is its first, with any number, and its
    tracks are numbered from 0 again. The way out where a wrong frame number was sent, or where
    what is stored is damaged.
    """
    if not await _call(service, lambda: service.live.delete(sequence)):
        raise _not_found(sequence)
    logger.info("sequence %r begins anew", sequence[:100])


def _not_found(sequence: str) -> ApiError:
    return ApiError(
        404,
        "sequence_not_found",
        f"no frame of sequence {sequence[:100]!r} was linked here; start it with POST /v1/link",
    )


async def _call(service: Service, function: Callable[[], T]) -> T:
    """Call a function of the live linker in its turn, in a thread; its errors become answers."""
    try:
        return await anyio.to_thread.run_sync(function, limiter=service.frames.limiter)
    except ClashError as error:
        raise ApiError(409, "clash", str(error)) from None
    except FrameError as error:
        raise ApiError(422, "invalid_frame", str(error)) from None
    except LinkDamagedError as error:
        logger.error("%s", error)
        raise ApiError(409, "link_damaged", str(error)) from None
    except LinkFullError as error:
        service.metrics.rejected.labels("link_full").inc()
        raise ApiError(503, "link_full", str(error), headers={"retry-after": "60"}) from None
    except LinkStateError as error:
        logger.error("%s", error)
        message = service.watcher.without_paths(error)
        raise ApiError(503, "link_unavailable", message, headers={"retry-after": "5"}) from None
