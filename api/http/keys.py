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

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.errors import error_response, error_responses
from api.http.headers import get_header
from api.http.metrics import Metrics
from common.errors import InputError

HEADER = "X-API-Key"
GUARDED = "/v1/"

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
    """ASGI middleware: answers 401 to requests under ``/v1`` without one of ``keys``."""

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
        key = get_header(scope, b"x-api-key")
        if key is not None and self._is_valid(key):
            await self.app(scope, receive, send)
            return
        self._metrics.record_rejection("key")
        problem = f"no {HEADER} header" if key is None else f"the {HEADER} is not valid here"
        message = f"{problem}; send a key of this server in the header {HEADER}"
        response = error_response(
            401, "unauthorised", message, {"www-authenticate": f'ApiKey header="{HEADER}"'}
        )
        await response(scope, receive, send)

    def _is_valid(self, key: bytes) -> bool:
        valid = False
        for own in self._keys:  # compares with all, so that the time does not depend on the key
            valid |= hmac.compare_digest(own, key)
        return valid


def declare(app: FastAPI) -> None:
    """Declare in the OpenAPI document of ``app`` what needs a key."""
    openapi_without_keys = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = openapi_without_keys()
            document["components"]["securitySchemes"] = {
                "ApiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": HEADER,
                    "description": "Required if the server was started with --api-key-file.",
                }
            }
            body = {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}
            unauthorised = {
                "description": error_responses(401)[401]["description"],
                "content": {"application/json": body},
            }
            for path, operations in document["paths"].items():
                if path.startswith(GUARDED):
                    for operation in operations.values():
                        operation["security"] = [{"ApiKey": []}]
                        operation["responses"]["401"] = unauthorised
        return app.openapi_schema or openapi_without_keys()

    app.openapi = openapi  # type: ignore[method-assign]
