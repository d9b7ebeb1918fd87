"""Rights: what a key may do, and which of them a route needs.

A router below ``/v1`` has one right for its routes. It stands in the OpenAPI document as the role
of the route's security requirement, and ``routing`` compares it with those of the request's key.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

from fastapi import APIRouter
from starlette.types import Scope

from api.http.errors import ApiError

Right = Literal["search", "link", "admin"]
RIGHTS: tuple[Right, ...] = get_args(Right)
SCHEME = "ApiKey"  # name of the security scheme in the OpenAPI document
_OF_KEY = "onepass.rights"  # key of the scope for the rights of the request's key


class GuardedRouter(APIRouter):
    """A router whose routes need a right.

    Args:
        right: search: read everything but live cameras; link: send frames of live cameras, and
            read their tracks; admin: change what is served.
        options: of the router.
    """

    def __init__(self, right: Right, **options: Any) -> None:
        super().__init__(**options)
        self._right = right

    def add_api_route(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        """Add a route that needs the router's right."""
        extra = options.pop("openapi_extra", None) or {}
        extra = {"security": [{SCHEME: [self._right]}], **extra}
        super().add_api_route(path, endpoint, openapi_extra=extra, **options)


def right_of(openapi_extra: dict[str, Any] | None) -> str:
    """The right that a route declares in the OpenAPI document.

    Raises:
        TypeError: it declares none, so nobody has decided who may use it.
    """
    try:
        (requirement,) = (openapi_extra or {})["security"]
        (right,) = requirement[SCHEME]
    except (KeyError, ValueError):
        raise TypeError("a route below /v1 needs a GuardedRouter, which declares a right") from None
    return str(right)


def set_rights(scope: Scope, rights: frozenset[Right]) -> None:
    """Note the rights of the key that a request was sent with."""
    scope[_OF_KEY] = rights


def check_right(scope: Scope, right: str) -> None:
    """Check that the key of a request has a right; without keys everybody has all.

    Raises:
        ApiError: 403, it has not.
    """
    rights = scope.get(_OF_KEY)
    if rights is not None and right not in rights:
        raise ApiError(
            403,
            "forbidden",
            f"this key has the right to {' and '.join(sorted(rights))}, and {scope['method']} "
            f"{scope['path'][:100]} needs {right}; add it to the key's line in the server's key file",
        )
