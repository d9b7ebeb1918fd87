"""API keys: who may ask for anything under /v1.

Probes, metrics, the documentation and the page stay open: they tell nothing of the data, and
what polls them seldom has a place for a secret. A key is never logged and never answered.
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
from api.http.metrics import Metrics
from common.errors import InputError

HEADER = "X-API-Key"
GUARDED = "/v1/"

logger = logging.getLogger("onepass.api")


def read_keys(file: Path) -> frozenset[bytes]:
    """Keys of a file: one a line; empty lines and lines that start with # are left out.

    Raises:
        InputError: it cannot be read, or holds no key, or something no header can carry.
    """
    try:
        lines = file.read_bytes().splitlines()
        mode = file.stat().st_mode
    except OSError as error:
        raise InputError(
            f"--api-key-file {file} cannot be read: {error.strerror}; give a file with one key a line"
        ) from None
    keys = [line.strip() for line in lines]
    keys = [key for key in keys if key and not key.startswith(b"#")]
    if not keys:
        raise InputError(
            f"--api-key-file {file} holds no key; write one a line, or leave the option out to "
            "serve everybody"
        )
    for number, line in enumerate(lines, start=1):
        if not line.strip().startswith(b"#") and any(not 32 < c < 127 for c in line.strip()):
            raise InputError(
                f"--api-key-file {file}, line {number}: a key is printable ASCII without blanks"
            )
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning("the key file can be read by others: chmod 600 %s", file)
    return frozenset(keys)


class KeyCheck:
    """ASGI middleware: 401 to what is under ``/v1`` and carries none of ``keys``."""

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
        given = next((v for name, v in scope["headers"] if name == b"x-api-key"), None)
        if given is not None and self._knows(given):
            await self.app(scope, receive, send)
            return
        self._metrics.record_rejection("key")
        what = f"no {HEADER} header" if given is None else f"the {HEADER} is not known here"
        message = f"{what}; send a key of this server's --api-key-file in the header {HEADER}"
        refusal = error_response(
            401, "unauthorised", message, {"www-authenticate": f'ApiKey header="{HEADER}"'}
        )
        await refusal(scope, receive, send)

    def _knows(self, given: bytes) -> bool:
        known = False
        for key in self._keys:  # all of them, so that the time says nothing of which
            known |= hmac.compare_digest(key, given)
        return known


def declare(app: FastAPI) -> None:
    """Say in the OpenAPI document of ``app`` what needs a key."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = plain()
            document["components"]["securitySchemes"] = {
                "ApiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": HEADER,
                    "description": "Asked for where the server was started with --api-key-file.",
                }
            }
            shape = {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}
            refusal = {
                "description": error_responses(401)[401]["description"],
                "content": {"application/json": shape},
            }
            for path, operations in document["paths"].items():
                if path.startswith(GUARDED):
                    for operation in operations.values():
                        operation["security"] = [{"ApiKey": []}]
                        operation["responses"]["401"] = refusal
        return app.openapi_schema or plain()

    app.openapi = openapi  # type: ignore[method-assign]
