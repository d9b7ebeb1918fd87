"""ASGI middleware: request ids, the access log and metrics."""

from __future__ import annotations

import logging
import re
from random import Random
from time import perf_counter

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.errors import INTERNAL, error_response, get_header
from api.http.logs import ACCESS
from api.http.metrics import Metrics

SNAPSHOT = "onepass.snapshot"  # key of the scope for the version that answered
CLIENT_LEFT = 499  # status of a request whose client closed the connection, as nginx has it
UNMATCHED = "-"  # route of a request that matched none

access = logging.getLogger(ACCESS)
logger = logging.getLogger("onepass.api")

_VALID_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")  # nothing that could start a new log line
# Ids need not be secret, and the system's randomness is a call that releases the GIL.
_random = Random()  # noqa: S311 - for ids of requests, no secrets


class Observe:
    """X-Request-ID, the access log, latency and count by route.

    This is the outermost layer, so an unexpected error anywhere below is answered here: 500 without
    details, which are in the log under the same request id.
    """

    def __init__(self, app: ASGIApp, *, metrics: Metrics) -> None:
        self.app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; record it when it is done."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = perf_counter()
        request_id = get_header(scope, b"x-request-id").decode("latin-1")
        if not _VALID_ID.fullmatch(request_id):
            request_id = f"{_random.getrandbits(64):016x}"
        header = (b"x-request-id", request_id.encode())
        status = 0  # no answer was started

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], header]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            status = status or CLIENT_LEFT
        except Exception:  # the boundary of a request: whatever fails, the client gets an answer
            logger.exception(
                "a request failed unexpectedly",
                extra={"fields": {"request_id": request_id, "path": scope["path"]}},
            )
            if status:  # its head is sent: only closing the connection can still signal an error
                raise
            await error_response(500, "internal", INTERNAL)(scope, receive, send_with_id)
        finally:
            self._record(scope, request_id, status, perf_counter() - started)

    def _record(self, scope: Scope, request_id: str, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path_format", UNMATCHED)
        method = scope["method"] if route != UNMATCHED else UNMATCHED  # clients invent methods
        self._metrics.record_request(method, route, status, seconds)
        level = logging.ERROR if status >= 500 or not status else logging.INFO
        if access.isEnabledFor(level):
            record = access.makeRecord(  # info() would walk the stack for the caller's line
                access.name, level, __file__, 0, "request", (), None
            )
            record.fields = {
                "request_id": request_id,
                "method": scope["method"],
                "route": route,
                "status": status,
                "ms": round(seconds * 1000, 2),
                "snapshot": scope.get(SNAPSHOT),
            }
            access.handle(record)
