"""API keys for everything under /v1.

Probes, metrics, the documentation and the page stay open: they show nothing of the data, and
what polls them seldom can keep a secret. A key is never logged and never sent back.
"""

from __future__ import annotations

import hmac
import logging
import stat
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.errors import error_response, error_responses, get_header
from api.http.metrics import Metrics
from api.http.routing import StrictRoute
from common.errors import InputError

HEADER = "X-API-Key"
GUARDED = "/v1/"

_SCHEME = {
    "type": "apiKey",
    "in": "header",
    "name": HEADER,
    "description": "Required if the server was started with --api-key-file.",
}

logger = logging.getLogger("onepass.api")


def read_keys(file: Path) -> frozenset[bytes]:
    """Read keys from a file: one a line; empty lines and lines that start with # are skipped.

    Raises:
        InputError: it cannot be read, or holds no key, or characters that no header can carry.
    """
    option = f"`api_key_file={str(file)!r}`"
    try:
        lines = file.read_bytes().splitlines()
        mode = file.stat().st_mode
    except OSError as error:
        raise InputError(
            f"{option} cannot be read: {error.strerror}; give a file with one key a line"
        ) from None
    keys = [line.strip() for line in lines]
    keys = [key for key in keys if key and not key.startswith(b"#")]
    if not keys:
        raise InputError(
            f"{option} holds no key; write one a line, or leave it out to serve everybody"
        )
    for number, line in enumerate(lines, start=1):
        if not line.strip().startswith(b"#") and any(not 32 < c < 127 for c in line.strip()):
            raise InputError(f"{option}, line {number}: a key is printable ASCII without blanks")
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning("the key file can be read by others: chmod 600 %s", file)
    return frozenset(keys)


class KeyCheck:
    """ASGI middleware: answers 401 to requests under ``/v1`` without a valid key.

    Args:
        app: gets the requests with one.
        keys: the valid ones.
        metrics: counts the others.
    """

    def __init__(self, app: ASGIApp, *, keys: frozenset[bytes], metrics: Metrics) -> None:
        self.app = app
        self._keys = keys
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it before its body is read."""
        # Anywhere in the path: a proxy or Ray Serve may put a prefix before it.
        if scope["type"] != "http" or GUARDED not in scope["path"]:
            await self.app(scope, receive, send)
            return
        key = get_header(scope, HEADER.lower().encode())
        if self._is_valid(key):
            await self.app(scope, receive, send)
            return
        self._metrics.rejected.labels("key").inc()
        problem = f"no {HEADER} header" if not key else f"the {HEADER} is not valid here"
        message = f"{problem}; send a key of this server in the header {HEADER}"
        response = error_response(
            401, "unauthorised", message, {"www-authenticate": f'ApiKey header="{HEADER}"'}
        )
        await response(scope, receive, send)

    def _is_valid(self, key: bytes) -> bool:
        valid = False
        for (
            valid_key
        ) in self._keys:  # compares with all, so that the time does not depend on the key
            valid |= hmac.compare_digest(valid_key, key)
        return valid


def v1_router(path: str, tag: str, route_class: type[APIRoute] = StrictRoute) -> APIRouter:
    """A router below ``/v1``, where ``KeyCheck`` looks for a key before a body is read.

    Its routes refuse parameters that they do not know; probes, metrics, documentation and page
    ignore them, because load balancers and browsers add some of their own.

    Args:
        path: below ``/v1``.
        tag: of its routes.
        route_class: of its routes.
    """
    return APIRouter(
        prefix="/v1" + path,
        tags=[tag],
        responses=error_responses(400, 401, 403, 422, 429, 431, 503),
        route_class=route_class,
    )


def declare_keys(app: FastAPI) -> None:
    """Say in the OpenAPI document of ``app`` what needs a key.

    Not by a ``Security`` dependency, which FastAPI would call again at each request.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = generate()
            document["components"]["securitySchemes"] = {"ApiKey": _SCHEME}
            for path, operations in document["paths"].items():
                if path.startswith(GUARDED):
                    for operation in operations.values():
                        operation["security"] = [{"ApiKey": []}]
        return app.openapi_schema or generate()

    app.openapi = openapi  # type: ignore[method-assign]
