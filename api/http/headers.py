"""Headers of an ASGI request."""

from __future__ import annotations

from starlette.types import Scope


def get_header(scope: Scope, name: bytes) -> bytes | None:
    """The first value of a header, whose ``name`` is in lower case; None if it is missing."""
    return next((value for key, value in scope["headers"] if key == name), None)
