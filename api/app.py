"""Builds the application: routes, errors, limits, and opening the index at start-up.

The index opens in a worker thread while the server already listens: a large one takes
longer than a liveness probe waits. Until it has answered a first search, ``/readyz`` and
every route that needs it answer 503.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import anyio
from fastapi import FastAPI

from api.http import errors, keys
from api.http.keys import KeyCheck
from api.http.limits import BodyLimit, Limits
from api.http.metrics import Metrics
from api.http.observe import Observe
from api.routes import browse, detections, health, index, link, page, search, tracks
from api.service.batching import Batcher
from api.service.queues import BoundedQueue
from api.service.service import Service
from common.errors import OnepassError
from common.storage import is_remote
from index.search.snapshot import Snapshot
from tracks.association.options import PRESETS, LinkOptions
from tracks.live.session import LiveLinker
from tracks.live.store import LINK_STATE, LinkStore

logger = logging.getLogger("onepass.api")

_TAGS = [
    {"name": "search", "description": "Nearest detections to a detection, a vector or an image."},
    {"name": "detections", "description": "One detection, its neighbours, its pixels."},
    {"name": "tracks", "description": "Detections of one individual, in order."},
    {"name": "link", "description": "Live cameras: tracks are extended frame by frame."},
    {"name": "index", "description": "What is being served."},
    {"name": "health", "description": "For probes and load balancers; they need no key."},
]


def _log_failure(error: OnepassError) -> None:
    logger.error("%s", error)


def create_app(
    index_dir: Path,
    *,
    limits: Limits | None = None,
    api_keys: frozenset[bytes] | None = None,
    micro_batching: bool = True,
    link_state: Path | None = LINK_STATE,
    link_options: LinkOptions | None = None,
    open_snapshot: Callable[[Path], Snapshot] = Snapshot.open,
    on_failure: Callable[[OnepassError], None] = _log_failure,
    startup_wait_s: float = 0.0,
) -> FastAPI:
    """The application that serves an index; it opens the index when it starts.

    Args:
        index_dir: an index folder; the version that its CURRENT names is served, also after
            that changes.
        limits: limits of requests and queues.
        api_keys: requests under /v1 must send one of these; None requires no key.
        micro_batching: False answers each search by itself, for comparison.
        link_state: file for the open tracks of live cameras, relative to the index folder; None
            switches live linking off, as does a relative one if the index is in an object store.
        link_options: how their frames are linked; default ``PRESETS["default"]``.
        open_snapshot: opens the current version of an index folder.
        on_failure: called if the index cannot be opened; the application keeps answering 503,
            so the caller decides whether to end it.
        startup_wait_s: seconds to wait for the index before the application counts as started,
            for a server that sends requests to it from that moment.
    """
    limits = limits or Limits()
    metrics = Metrics()
    if link_state is not None and is_remote(index_dir) and not link_state.is_absolute():
        link_state = None
    live = LiveLinker(
        LinkStore(None if link_state is None else index_dir / link_state),
        link_options or PRESETS["default"],
    )
    service = Service(
        index_dir, metrics=metrics, on_failure=on_failure, open_snapshot=open_snapshot
    )

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.uploads = BoundedQueue(
            limits.waiting_uploads,
            "images wait for the model",
            reason="uploads",
            metrics=metrics,
        )
        app.state.frames = BoundedQueue(
            limits.waiting_frames, "frames wait to be linked", reason="frames", metrics=metrics
        )
        app.state.crop_limiter = anyio.CapacityLimiter(os.cpu_count() or 1)  # each decodes an image
        batcher = app.state.batcher = Batcher(
            service.served_index, limits=limits, metrics=metrics, micro_batching=micro_batching
        )
        batcher.start()
        watching = asyncio.create_task(service.watch())
        with contextlib.suppress(TimeoutError):
            if startup_wait_s:
                await asyncio.wait_for(service.tried.wait(), startup_wait_s)
        yield
        watching.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watching
        await anyio.to_thread.run_sync(batcher.close)
        await anyio.to_thread.run_sync(live.store.close)
        service.close()

    app = FastAPI(
        title="onepass",
        summary="Nearest detections and tracks from one pass over the images.",
        version=_version(),
        lifespan=lifespan,
        openapi_tags=_TAGS,
        redirect_slashes=False,
    )
    app.state.service = service
    app.state.limits = limits
    app.state.metrics = metrics
    app.state.live = live
    # The last one added handles a request first.
    app.add_middleware(BodyLimit, max_bytes=limits.body_bytes, metrics=metrics)
    if api_keys is not None:
        app.add_middleware(KeyCheck, keys=api_keys, metrics=metrics)
    app.add_middleware(Observe, metrics=metrics)
    errors.install(app)
    # Matched in this order, so the busiest come first. Not include_router: it matches each path
    # twice, which slows a search by id noticeably.
    for router in (
        search.direct,
        browse.router,  # before detections, whose ids match any path
        detections.router,
        search.router,
        tracks.router,
        link.direct,
        link.router,
        index.router,
        health.router,
        page.router,
    ):
        app.router.routes += router.routes
    keys.declare(app)
    return app


def _version() -> str:
    try:
        return version("onepass")
    except PackageNotFoundError:  # a plain checkout, as 'ray job submit' sends it
        return "0"
