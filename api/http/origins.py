"""What a browser may do with this service: which names it is asked by, and which pages may write.

A page of another site cannot read answers, but it can send: a form or ``text/plain`` to a server on
this machine, or to its own name, which it points here (DNS rebinding). The first is refused by
``Origin`` and ``Sec-Fetch-Site``, which pages cannot choose; the second by ``Host``. Programs send no
``Origin`` and are not concerned.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Iterable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.errors import error_response
from api.http.metrics import Metrics

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::[0-9]{1,5})?")
_SAFE = frozenset({"GET", "HEAD"})
_OWN_PAGE = frozenset({b"same-origin", b"none"})  # none: typed, or a bookmark
# Of every answer: what keeps browsers from running or framing it.
RESTRICTIONS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
)


class OriginCheck:
    """ASGI middleware: refuses names that are not this server's, and requests of other sites' pages.

    Args:
        app: gets the other requests.
        host: that the server listens on.
        allowed: other names of this server, beside ``localhost``, this machine's own and every IP
            address, which is no name that another could point here. Pages may come from these,
            also where a proxy sends another Host.
        metrics: counts what is refused.
    """

    def __init__(
        self, app: ASGIApp, *, host: str, allowed: Iterable[str], metrics: Metrics
    ) -> None:
        self.app = app
        self._allowed = frozenset(name.lower().rstrip(".") for name in allowed)
        machine = socket.gethostname().lower()
        short = machine.partition(".")[0]
        self._names = self._allowed | {"localhost", host.lower(), machine, short, f"{short}.local"}
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it before its body is read."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        hosts = [value for key, value in scope["headers"] if key == b"host"]
        for host in hosts:
            if not self._is_own(host.decode("latin-1").lower()):
                self._metrics.rejected.labels("host").inc()
                shown = host[:100].decode("latin-1")
                message = (
                    f"this server is not called {shown!r}; start it with --allowed-host and that "
                    "name, if it is one of its own"
                )
                await error_response(400, "unknown_host", message)(scope, receive, send)
                return
        if scope["method"] not in _SAFE and self._is_foreign(scope, hosts):
            self._metrics.rejected.labels("origin").inc()
            message = "a page of another site sent this; only this server's own page may"
            await error_response(403, "cross_site", message)(scope, receive, send)
            return
        await self.app(scope, receive, send)

    def _is_own(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].rstrip(".")
        return name in self._names or _is_address(name)

    def _is_foreign(self, scope: Scope, hosts: list[bytes]) -> bool:
        """Whether a browser says that a page of another site sent a request."""
        site = origin = None
        for key, value in scope["headers"]:
            if key == b"sec-fetch-site":
                site = value
            elif key == b"origin":
                origin = value.lower()
        if site is not None:
            return site not in _OWN_PAGE
        if origin is None:
            return False
        # Not the scheme: behind a proxy with TLS this server sees another one.
        sender = origin.decode("latin-1").partition("://")[2]
        own = {host.decode("latin-1").lower() for host in hosts}
        return sender not in own and sender not in self._allowed


class SecurityHeaders:
    """ASGI middleware: adds to every answer what keeps browsers from running or framing it.

    An answer that has one of these headers, as the page has its own policy, keeps it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; add the headers to its answer."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                more = [header for header in RESTRICTIONS if header[0] not in present]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True
