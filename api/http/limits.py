"""Limits of requests: how many are answered at once, and how much and how long their bodies are.

They hold on every server, also behind Ray Serve's proxy; ``connections`` has those of this process's own.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.config import Limits
from api.http.errors import ApiError, get_header
from api.http.metrics import Metrics

PROBES = frozenset({"/livez", "/readyz", "/metrics"})  # answered however busy the server is
# Smaller bodies are not counted: uvicorn reads as much of every request before anyone asks for it.
_SMALL_BYTES = 65_536


class RequestLimits:
    """ASGI middleware: answers 503 to requests beyond those answered at once.

    And 413 to a body that is too large, 503 to one for which there is no room beside the others,
    408 to one that does not arrive in time. A declared length is refused unread; a body that comes
    in chunks is counted as it arrives, so neither fills the server's memory or disk.

    Args:
        app: gets the other requests.
        limits: of the server.
        metrics: counts what is refused.
    """

    def __init__(self, app: ASGIApp, *, limits: Limits, metrics: Metrics) -> None:
        self.app = app
        self.limits = limits
        self.bodies_bytes = 0  # of all requests
        self._metrics = metrics
        self._requests = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a bounded ``receive``."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        self._requests += 1
        body = _Body(self, receive)
        try:
            try:
                self._admit(scope, body)
            except ApiError as error:
                await error.response()(scope, receive, send)
                return
            await self.app(scope, body.receive, send)
        finally:
            self._requests -= 1
            self.bodies_bytes -= body.reserved

    def refuse(self, status: int, code: str, message: str, reason: str) -> ApiError:
        """The error to raise, which is counted as ``reason``."""
        self._metrics.rejected.labels(reason).inc()
        # The rest of a late body is not waited for.
        headers = {"connection": "close"} if status == 408 else {"retry-after": "1"}
        return ApiError(status, code, message, headers=None if status == 413 else headers)

    def _admit(self, scope: Scope, body: _Body) -> None:
        limit = self.limits.requests
        if self._requests > limit:
            message = f"{limit} requests are being answered, the limit; try again in a second"
            raise self.refuse(503, "too_busy", message, "requests")
        declared = get_header(scope, b"content-length")
        if declared.isdigit():  # uvicorn itself limits the body to this length
            body.grow(int(declared))


class _Body:
    """The body of one request, as it arrives.

    Attributes:
        reserved: bytes of ``RequestLimits.bodies_bytes`` that are this one's.
    """

    def __init__(self, all_requests: RequestLimits, receive: Receive) -> None:
        self._all = all_requests
        self._limits = all_requests.limits
        self._receive = receive
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + self._limits.body_seconds
        self._received = 0
        self._is_complete = False
        self.reserved = 0

    async def receive(self) -> Message:
        """The next part.

        Raises:
            ApiError: 408, 413 or 503; FastAPI passes it out of its parsing unchanged.
        """
        if self._is_complete:  # what is awaited now is the end of the connection
            return await self._receive()
        limits = self._limits
        until = min(self._until, self._loop.time() + limits.stalled_seconds)
        try:
            async with asyncio.timeout_at(until):
                part = await self._receive()
        except TimeoutError:
            message = (
                f"the body did not arrive: {limits.stalled_seconds:g} s without a byte, or "
                f"{limits.body_seconds:g} s in all, are the limit"
            )
            raise self._all.refuse(408, "body_timeout", message, "slow_body") from None
        self._is_complete = not part.get("more_body", False)
        self._received += len(part.get("body", b""))
        self.grow(self._received)
        return part

    def grow(self, size: int) -> None:
        """Make room for a body of this size.

        Raises:
            ApiError: 413, it is too large; 503, there is no room for it now.
        """
        if size > self._limits.body_bytes:
            message = f"the body is over this server's limit of {self._limits.body_bytes} bytes"
            raise self._all.refuse(413, "too_large", message, "body")
        if size <= max(self.reserved, _SMALL_BYTES):
            return
        others = self._all.bodies_bytes - self.reserved
        if others and others + size > self._limits.bodies_bytes:
            message = (
                f"{others} bytes of other requests are under way, and this server takes "
                f"{self._limits.bodies_bytes} at once; try again in a second"
            )
            raise self._all.refuse(503, "too_busy", message, "bodies")
        self._all.bodies_bytes = others + size
        self.reserved = size
