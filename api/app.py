"""Builds the application from its configuration: routes, errors, limits, keys.

The index opens in a worker thread while the server already listens: a large one takes
longer than a liveness probe waits. Until it has answered a first search, ``/readyz`` and
every route that needs it answer 503.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

from anyio import CapacityLimiter
from fastapi import FastAPI

from api.config import ServeConfig
from api.http.errors import HANDLERS
from api.http.keys import KeyCheck, KeyFile, Keys, declare_keys
from api.http.limits import RequestLimits
from api.http.middleware import Observe
from api.http.origins import OriginCheck, SecurityHeaders
from api.routes import detections, index, link, page, search, tracks
from api.service.service import Service
from common.errors import OnepassError
from index.search.snapshot import Snapshot

logger = logging.getLogger("onepass.api")

_TAGS = [
    {"name": "search", "description": "Nearest detections to a detection, a vector or an image."},
    {"name": "detections", "description": "One detection, its neighbours, its pixels."},
    {"name": "tracks", "description": "Detections of one individual, in order."},
    {"name": "link", "description": "Live cameras: tracks are extended frame by frame."},
    {"name": "index", "description": "What is being served."},
    {"name": "health", "description": "For probes and load balancers; they need no key."},
]
# Matched in this order, so the busiest come first.
_ROUTERS = (
    *(search.direct, detections.direct, detections.router, detections.last, tracks.router),
    *(link.direct, link.router, index.router, index.admin, index.health, page.router),
)


def create_app(
    config: ServeConfig,
    *,
    api_keys: Keys | None = None,
    open_snapshot: Callable[..., Snapshot] = Snapshot.open,
    on_failure: Callable[[OnepassError], None] = lambda error: logger.error("%s", error),
    startup_wait_s: float = 0.0,
) -> FastAPI:
    """The application that serves an index; it opens the index when it starts.

    Args:
        config: the version that the index's CURRENT names is served, also after that changes;
            host, port and logging are the server's.
        api_keys: requests under /v1 must send one of these; None reads ``config.api_key_file``,
            which is read again when it changes.
        open_snapshot: opens the current version of an index folder; takes ``check`` as
            ``Snapshot.open`` does, and ``pairs`` where ``config.images`` has some.
        on_failure: called if the index cannot be opened; the application keeps answering 503,
            so the caller decides whether to end it.
        startup_wait_s: seconds to wait for the index before the application counts as started,
            for a server that sends requests to it from that moment.

    Raises:
        InputError: the key file is not valid.
    """
    keys = None
    if api_keys is not None or config.api_key_file is not None:
        keys = KeyFile(config.api_key_file, api_keys)
    service = Service(config, open_snapshot=open_snapshot, on_failure=on_failure)
    app = FastAPI(
        title="onepass",
        summary="Nearest detections and tracks from one pass over the images.",
        version=_version(),
        lifespan=lambda _: service.running(startup_wait_s),
        exception_handlers=HANDLERS,
        openapi_tags=_TAGS,
        redirect_slashes=False,
        openapi_url=None,  # FastAPI's own routes write the document at each request, and its page
        docs_url=None,  # runs a script of another host; see api.routes.page
        redoc_url=None,
    )
    app.state.service = service
    app.state.body_limiter = CapacityLimiter(1)
    # The last one added handles a request first.
    app.add_middleware(RequestLimits, limits=config.limits, metrics=service.metrics)
    if keys is not None:
        wrong_keys = config.limits.wrong_keys
        app.add_middleware(KeyCheck, keys=keys, wrong_keys=wrong_keys, metrics=service.metrics)
    app.add_middleware(
        OriginCheck, host=config.host, allowed=config.allowed_host, metrics=service.metrics
    )
    app.add_middleware(Observe, metrics=service.metrics)
    app.add_middleware(SecurityHeaders)
    for router in _ROUTERS:
        # Not include_router: it matches each path twice, which slows a search by id noticeably.
        app.router.routes += router.routes
    declare_keys(app)
    return app


def _version() -> str:
    try:
        return version("onepass")
    except PackageNotFoundError:  # a plain checkout, as 'ray job submit' sends it
        return "0"
