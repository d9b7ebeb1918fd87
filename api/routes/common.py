"""What several routes share: access to what is served, and answering searches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
from anyio import CapacityLimiter
from fastapi import Depends, Request, Response
from numpy.typing import NDArray

from api.http.limits import Limits
from api.http.observe import SNAPSHOT
from api.schemas.search import SearchOptions
from api.service.answers import SearchResults
from api.service.batching import Batcher, Search
from api.service.served_index import ServedIndex
from api.service.service import Service
from index.search.filters import Filter


def get_served_index(request: Request) -> ServedIndex:
    """The index served now.

    Raises:
        ApiError: 503, none yet.
    """
    service: Service = request.app.state.service
    served = service.served_index()
    request.scope[SNAPSHOT] = served.version
    return served


def get_limits(request: Request) -> Limits:
    """The limits of this server."""
    limits: Limits = request.app.state.limits
    return limits


async def answer_search(
    request: Request,
    queries: list[str | NDArray[np.float32]],
    options: SearchOptions,
    write: Callable[[SearchResults, int], bytes],
) -> Response:
    """Answer a search, and note for the log which snapshot did.

    Args:
        request: the request to answer.
        queries: Q ids of detections or checked vectors [D].
        options: of the search.
        write: makes the answer's bytes, see ``Search``.
    """
    batcher: Batcher = request.app.state.batcher
    filter_ = None
    if options.where is not None or options.ids is not None:
        ids = None if options.ids is None else frozenset(options.ids)
        filter_ = Filter(where=options.where, ids=ids)
    answer = await batcher.search(
        Search(queries, options.k, write, filter_, options.exact, options.include_features)
    )
    request.scope[SNAPSHOT] = answer.snapshot
    return Response(answer.body, media_type="application/json")


async def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


async def _served_index(request: Request) -> ServedIndex:
    return get_served_index(request)


async def _crop_limiter(request: Request) -> CapacityLimiter:
    limiter: CapacityLimiter = request.app.state.crop_limiter
    return limiter


ServiceDep = Annotated[Service, Depends(_service)]
ServedIndexDep = Annotated[ServedIndex, Depends(_served_index)]
CropLimiterDep = Annotated[CapacityLimiter, Depends(_crop_limiter)]
