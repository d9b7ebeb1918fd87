"""Puts the application together: routes, errors, limits, and opening the index at start-up.

The index opens in a worker thread while the server already listens: a large one takes
longer than a liveness probe waits. Until it has answered a first search, ``/readyz`` and
every route that needs it say 503.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import anyio
from fastapi import FastAPI

from api import errors
from api.limits import BodyLimit
from api.routes import browse, detections, health, page, search, tracks
from api.state import Service
from cluster.errors import OnepassError

MAX_BODY_BYTES = 20_000_000

logger = logging.getLogger("onepass.api")

_TAGS = [
    {"name": "search", "description": "Nearest detections to a detection, a vector or an image."},
    {"name": "detections", "description": "One detection, its neighbours, its pixels."},
    {"name": "tracks", "description": "Detections of one individual, in order."},
    {"name": "index", "description": "What is being served."},
    {"name": "health", "description": "For probes and load balancers."},
]


def _log_failure(error: OnepassError) -> None:
    logger.error("%s", error)


def create_app(
    index: Path,
    *,
    max_body_bytes: int = MAX_BODY_BYTES,
    on_failure: Callable[[OnepassError], None] = _log_failure,
) -> FastAPI:
    """The application serving ``index``; the index is opened when the application starts.

    Args:
        index: an index folder; its current version is served until the process ends.
        max_body_bytes: requests with a larger body are refused with 413.
        on_failure: called from a worker thread if the index cannot be opened; the
            application goes on answering 503, so the caller decides whether to end it.
    """
    service = Service(index, on_failure=on_failure)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        # One upload at a time is decoded and embedded: each may take a gigabyte, and a forward
        # uses every core by itself. Those that wait hold no worker thread.
        app.state.forward_turn = anyio.CapacityLimiter(1)
        opening = asyncio.create_task(
            anyio.to_thread.run_sync(service.load, abandon_on_cancel=True)
        )
        yield
        opening.cancel()  # the thread itself cannot be stopped, only left alone

    app = FastAPI(
        title="onepass",
        summary="Nearest detections and tracks from one pass over the images.",
        version=_version(),
        lifespan=lifespan,
        openapi_tags=_TAGS,
    )
    app.state.service = service
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    errors.install(app)
    for routes in (page, search, browse, detections, tracks, health):  # browse before detections
        app.include_router(routes.router)
    return app


def _version() -> str:
    try:
        return version("onepass")
    except PackageNotFoundError:  # a bare checkout, as 'ray job submit' ships it
        return "0"
