"""What several routes share: reaching what is served, and checking queries before they wait."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from anyio import CapacityLimiter
from fastapi import Depends, Request, Response

from api.http.limits import Limits
from api.http.observe import SNAPSHOT
from api.service.answers import DETECTION_COLUMNS, detection_rows
from api.service.batching import Batcher, Search
from api.service.served import Service
from api.service.state import ServedIndex
from index.search.filters import Filter


def get_served_index(request: Request) -> ServedIndex:
    """What is served now.

    Raises:
        ApiError: 503, nothing yet.
    """
    service: Service = request.app.state.service
    held = service.served_index()
    request.scope[SNAPSHOT] = held.version
    return held


def get_limits(request: Request) -> Limits:
    """The bounds of this server."""
    limits: Limits = request.app.state.limits
    return limits


async def answer_search(request: Request, search: Search) -> Response:
    """Have a search answered, and note which snapshot did for the log."""
    batcher: Batcher = request.app.state.batcher
    answer = await batcher.search(search)
    request.scope[SNAPSHOT] = answer.snapshot
    return Response(answer.body, media_type="application/json")


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _served_index(request: Request) -> ServedIndex:
    return get_served_index(request)


async def _crop_limiter(request: Request) -> CapacityLimiter:
    turn: CapacityLimiter = request.app.state.crop_limiter
    return turn


ServiceDep = Annotated[Service, Depends(_service)]
ServedIndexDep = Annotated[ServedIndex, Depends(_served_index)]
CropLimiterDep = Annotated[CapacityLimiter, Depends(_crop_limiter)]


def detection_fields(held: ServedIndex, row: int) -> dict[str, Any]:
    """A row of the index as the fields of ``Detection``, without any folder of the server."""
    return detection_rows(held.snapshot.columns(np.array([row]), DETECTION_COLUMNS))[0]


def make_filter(where: str | None, ids: list[str] | None = None) -> Filter | None:
    """The filter of a request; None if it asks for all rows."""
    if where is None and ids is None:
        return None
    return Filter(where=where, ids=None if ids is None else frozenset(ids))
