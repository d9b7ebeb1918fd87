"""What several routes share: reaching what is served, and checking queries before they wait."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from anyio import CapacityLimiter
from fastapi import Depends, Request, Response

from api.http.limits import Limits
from api.http.observe import SNAPSHOT
from api.service.answers import SHOWN, detections
from api.service.batching import Batcher, Search
from api.service.served import Service
from api.service.state import ServedIndex
from index.search.filters import Filter


def held_of(request: Request) -> ServedIndex:
    """What is served now.

    Raises:
        ApiError: 503, nothing yet.
    """
    service: Service = request.app.state.service
    held = service.holdings()
    request.scope[SNAPSHOT] = held.version
    return held


def limits_of(request: Request) -> Limits:
    """The bounds of this server."""
    limits: Limits = request.app.state.limits
    return limits


async def ask(request: Request, search: Search) -> Response:
    """Have a search answered, and note which snapshot did for the log."""
    batcher: Batcher = request.app.state.batcher
    answer = await batcher.search(search)
    request.scope[SNAPSHOT] = answer.snapshot
    return Response(answer.body, media_type="application/json")


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _holdings(request: Request) -> ServedIndex:
    return held_of(request)


async def _crop_turn(request: Request) -> CapacityLimiter:
    turn: CapacityLimiter = request.app.state.crop_turn
    return turn


Serving = Annotated[Service, Depends(_service)]
Held = Annotated[ServedIndex, Depends(_holdings)]
CropTurn = Annotated[CapacityLimiter, Depends(_crop_turn)]


def detection_fields(held: ServedIndex, row: int) -> dict[str, Any]:
    """A row of the index as the fields of ``Detection``, without any folder of the server."""
    return detections(held.snapshot.columns(np.array([row]), SHOWN))[0]


def filter_of(where: str | None, ids: list[str] | None = None) -> Filter | None:
    """The filter of a request; None if it asks for all rows."""
    if where is None and ids is None:
        return None
    return Filter(where=where, ids=None if ids is None else frozenset(ids))
