"""Every request gets a name, a line in the log and its place in the metrics.

This is the outermost layer, so what fails anywhere below is answered here: 500 without a
word of what happened, which the log tells under the same request id.
"""

from __future__ import annotations

import logging
import re
from random import Random
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.errors import INTERNAL, error_response
from api.http.logs import ACCESS
from api.http.metrics import Metrics

SNAPSHOT = "onepass.snapshot"  # key of the scope under which a route says which one answered
UNMATCHED = "-"  # the route of a request that reached none

access = logging.getLogger(ACCESS)
logger = logging.getLogger("onepass.api")

_SANE = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")  # nothing that could start a line of its own
# A name, not a secret: the system's own randomness is a call that lets go of the interpreter.
_chance = Random()  # noqa: S311


class Observe:
    """ASGI middleware: X-Request-ID, the access log, latency and count by route."""

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; write it down when it is done."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = perf_counter()
        given = next((v for name, v in scope["headers"] if name == b"x-request-id"), b"")
        name = given if given and _SANE.fullmatch(given) else b"%016x" % _chance.getrandbits(64)
        status = 0  # no answer was begun

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", name)]
            await send(message)

        try:
            await self.app(scope, receive, named)
        except Exception:
            logger.exception(
                "a request failed unexpectedly",
                extra={"fields": {"request_id": name.decode(), "path": scope["path"]}},
            )
            if status:  # its head is out: only breaking the connection can still say so
                raise
            await error_response(500, "internal", INTERNAL)(scope, receive, named)
        finally:
            self._write_down(scope, name, status, perf_counter() - began)

    def _write_down(self, scope: Scope, name: bytes, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", UNMATCHED)
        method = scope["method"] if route != UNMATCHED else UNMATCHED  # clients invent methods
        self._metrics.record_request(method, route, status, seconds)
        level = logging.ERROR if status >= 500 or not status else logging.INFO
        if access.isEnabledFor(level):
            record = access.makeRecord(  # not info(): that walks the stack for the caller's line
                access.name, level, __file__, 0, "request", (), None
            )
            record.fields = {
                "request_id": name.decode(),
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 2),
                "snapshot": scope.get(SNAPSHOT),
            }
            access.handle(record)
