"""API keys for everything under /v1.

Probes, metrics, the documentation and the page stay open: they show nothing of the data, and
what polls them seldom can keep a secret. A key is never logged and never sent back.
"""

from __future__ import annotations

import codecs
import hmac
import logging
import stat
import time
from collections import Counter
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from api.http.errors import error_response, error_responses, get_header
from api.http.metrics import Metrics
from api.http.rights import RIGHTS, SCHEME, GuardedRouter, Right, set_rights
from api.http.routing import StrictRoute
from common.errors import InputError

HEADER = "X-API-Key"
GUARDED = "/v1/"
CHECK_SECONDS = 1.0  # between two looks at the key file
Keys = Mapping[bytes, frozenset[Right]]  # and what each may do

_SCHEME = {
    "type": "apiKey",
    "in": "header",
    "name": HEADER,
    "description": "Required if the server was started with --api-key-file; the roles of a route "
    "are the rights that the key needs, see --api-key-file.",
}
_SHORT = 16  # characters; a key of so many random letters is not guessed
_MAX_ADDRESSES = 10_000
_WINDOW_SECONDS = 60.0

logger = logging.getLogger("onepass.api")


def read_keys(file: Path) -> Keys:
    """Read keys from a file: one a line, and after it what the key may do; nothing there is all.

    Empty lines and lines that start with # are skipped.

    Raises:
        InputError: it cannot be read, or holds no key, or characters that no header can carry, or
            a right that there is not.
    """
    option = f"`api_key_file={str(file)!r}`"
    try:
        lines = file.read_bytes().removeprefix(codecs.BOM_UTF8).splitlines()
        mode = file.stat().st_mode
    except OSError as error:
        raise InputError(
            f"{option} cannot be read: {error.strerror}; give a file with one key a line"
        ) from None
    keys: dict[bytes, frozenset[Right]] = {}
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words or words[0].startswith(b"#"):
            continue
        key, rights = words[0], _read_rights(words[1:], f"{option}, line {number}")
        if any(not 32 < c < 127 for c in key):
            raise InputError(f"{option}, line {number}: a key is printable ASCII without blanks")
        if keys.setdefault(key, rights) != rights:
            raise InputError(f"{option}, line {number}: this key has other rights further above")
        if len(key) < _SHORT:
            logger.warning(
                "%s, line %d: so short a key is found by trying; make one by 'openssl rand -hex 32'",
                *(file, number),
            )
    if not keys:
        raise InputError(
            f"{option} holds no key; write one a line, or leave it out to serve everybody"
        )
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        logger.warning("the key file can be read by others: chmod 600 %s", file)
    return keys


def _read_rights(words: list[bytes], place: str) -> frozenset[Right]:
    names = {word.decode("latin-1") for word in words}
    rights = frozenset(right for right in RIGHTS if right in names or not names)
    if unknown := names - rights:
        raise InputError(
            f"{place}: after a key stand its rights, {', '.join(RIGHTS)}, with blanks between; "
            f"there is no right {min(unknown)[:40]!r}"
        )
    return rights


class KeyFile:
    """The keys of a file, which is read again when it has changed.

    A new file is taken when two looks have seen it the same, as it may still be written; one that
    is not valid, or is gone, leaves the keys as they are, and the log says why.

    Args:
        file: None: the keys do not change. A process that does not see it keeps its keys.
        keys: of the file; None reads it.

    Raises:
        InputError: the file is not valid.
    """

    def __init__(self, file: Path | None, keys: Keys | None = None) -> None:
        self._file = file
        self._stamp = self._seen = self._look()
        self._keys = read_keys(file) if keys is None and file is not None else dict(keys or {})
        self._next_look = time.monotonic() + CHECK_SECONDS

    def rights_of(self, key: bytes) -> frozenset[Right] | None:
        """What a key may do; None: it is not valid."""
        if self._file is not None and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + CHECK_SECONDS
            self._refresh(self._file)
        rights = None
        for valid_key, its_rights in self._keys.items():
            # compares with all, so that the time does not depend on the key
            if hmac.compare_digest(valid_key, key):
                rights = its_rights
        return rights

    def _refresh(self, file: Path) -> None:
        stamp = self._look()
        if stamp == self._stamp or stamp != self._seen:
            self._seen = stamp
            return
        self._stamp = stamp
        try:
            self._keys = read_keys(file)
        except InputError as error:
            logger.error("%s; the keys that were read before stay valid", error)
            return
        logger.info("the key file was read again: %d keys", len(self._keys))

    def _look(self) -> tuple[int, ...] | None:
        if self._file is None:
            return None
        try:
            status = self._file.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


class KeyCheck:
    """ASGI middleware: answers 401 to requests under ``/v1`` without a valid key.

    And 429 to a wrong key after some of the same address in a minute. A right one is answered all
    the same: whoever guesses may sit behind the same proxy as everybody else, who would be locked
    out at his will. So this bounds the work and the log of guessing; what makes it hopeless is a
    key of 128 random bits, and ``read_keys`` warns of short ones.

    Args:
        app: gets the requests with one.
        keys: the valid ones.
        wrong_keys: of one address in a minute that are answered with 401.
        metrics: counts the others.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyFile, wrong_keys: int, metrics: Metrics) -> None:
        self.app = app
        self._keys = keys
        self._max_wrong = wrong_keys
        self._metrics = metrics
        self._wrong: Counter[str] = Counter()  # by address, since ``_began``
        self._began = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or refuse it before its body is read."""
        # Anywhere in the path: a proxy or Ray Serve may put a prefix before it.
        if scope["type"] != "http" or GUARDED not in scope["path"]:
            await self.app(scope, receive, send)
            return
        key = get_header(scope, HEADER.lower().encode())
        rights = self._keys.rights_of(key)
        if rights is not None:
            set_rights(scope, rights)
            await self.app(scope, receive, send)
            return
        if key and (wait := self._count_wrong(scope)):
            self._metrics.rejected.labels("keys").inc()
            message = f"more than {self._max_wrong} wrong keys came from your address in a minute"
            headers = {"retry-after": str(wait), "connection": "close"}
            response = error_response(429, "too_many_wrong_keys", message, headers)
        else:
            self._metrics.rejected.labels("key").inc()
            problem = f"no {HEADER} header" if not key else f"the {HEADER} is not valid here"
            message = f"{problem}; send a key of this server in the header {HEADER}"
            headers = {"www-authenticate": f'ApiKey header="{HEADER}"'}
            response = error_response(401, "unauthorised", message, headers)
        await response(scope, receive, send)

    def _count_wrong(self, scope: Scope) -> int:
        """Count a wrong key; seconds to wait where there were too many, else 0."""
        now = time.monotonic()
        if now - self._began > _WINDOW_SECONDS:
            self._wrong.clear()
            self._began = now
        address = _network(scope["client"][0] if scope.get("client") else "")
        if address in self._wrong or len(self._wrong) < _MAX_ADDRESSES:
            self._wrong[address] += 1
        if self._wrong[address] <= self._max_wrong:
            return 0
        return 1 + int(self._began + _WINDOW_SECONDS - now)


def _network(address: str) -> str:
    """An address, or what one customer has of IPv6."""
    try:
        return str(ip_network((IPv6Address(address), 64), strict=False))
    except ValueError:
        return address


def v1_router(
    path: str, tag: str, right: Right, route_class: type[APIRoute] = StrictRoute
) -> APIRouter:
    """A router below ``/v1``, where ``KeyCheck`` looks for a key before a body is read.

    Its routes refuse parameters that they do not know; probes, metrics, documentation and page
    ignore them, because load balancers and browsers add some of their own.

    Args:
        path: below ``/v1``.
        tag: of its routes.
        right: that they need.
        route_class: of its routes.
    """
    return GuardedRouter(
        right,
        prefix="/v1" + path,
        tags=[tag],
        responses=error_responses(400, 401, 403, 422, 429, 431, 503),
        route_class=route_class,
    )


def declare_keys(app: FastAPI) -> None:
    """Say in the OpenAPI document of ``app`` how a key is sent.

    Not by a ``Security`` dependency, which FastAPI would call again at each request.
    """
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            generate()["components"]["securitySchemes"] = {SCHEME: _SCHEME}
        return app.openapi_schema or generate()

    app.openapi = openapi  # type: ignore[method-assign]
