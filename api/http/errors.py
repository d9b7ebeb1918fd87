"""One JSON shape for every error: ``{"error": {"code", "message"}}``.

A client switches on ``code`` and shows ``message``. Errors raised below the API may name
folders of the server's disk, so their text is not passed on (except a filter's, which names
none): routes word their own answers, and an unexpected error is a plain 500 whose traceback
goes to the server's log.
"""

from __future__ import annotations

from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import Scope

from api.schemas.common import ErrorAnswer
from common.errors import FileAccessError, UnavailableError

_MEANINGS = {
    400: "The body cannot be read as what its content type says; or the server has no such name.",
    401: "No API key, or one that this server does not know.",
    403: "A page of another site sent it.",
    404: "Not found.",
    408: "The body did not arrive in time.",
    409: "It conflicts with an earlier request; the message says how.",
    413: "The body is over the server's limit.",
    422: "The request is not valid; the message says where.",
    429: "Too many requests are waiting, or too many keys were wrong; try again after Retry-After seconds.",
    431: "The head of the request has too many bytes or headers.",
    503: "Not ready, not possible on this machine, or too busy; then try again after Retry-After seconds.",
}
_SHOWN_PROBLEMS = 3  # of one request; the rest are counted
INTERNAL = "the server failed to answer; its log has the traceback under this X-Request-ID"


class ApiError(HTTPException):
    """An answer other than success, worded for the client.

    Args:
        status: HTTP status.
        code: stable identifier.
        message: for people.
        headers: of the answer.
    """

    def __init__(
        self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(status, message, headers)
        self.code = code

    def response(self) -> Response:
        """The answer."""
        return error_response(self.status_code, self.code, self.detail, dict(self.headers or {}))


def get_header(scope: Scope, name: bytes) -> bytes:
    """The first value of a header, empty without it; in a third of the time of Starlette's."""
    return next((value for key, value in scope["headers"] if key == name), b"")


def too_busy(message: str) -> ApiError:
    """429 with the seconds to wait before trying again."""
    return ApiError(429, "too_busy", message, headers={"retry-after": "1"})


def error_response(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> Response:
    """An error as JSON, its message on one line.

    Args:
        status: HTTP status.
        code: stable identifier.
        message: for people; characters that are not UTF-8 are escaped.
        headers: of the answer.
    """
    # A request may contain half a surrogate pair, which is not UTF-8, or line breaks.
    line = " ".join(message.encode("utf-8", "backslashreplace").decode().split())
    body = orjson.dumps({"error": {"code": code, "message": line}})
    return Response(body, status, headers, media_type="application/json")


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares for the OpenAPI document: errors with these statuses."""
    return {status: {"model": ErrorAnswer, "description": _MEANINGS[status]} for status in statuses}


async def _answer_unavailable(_: Request, __: UnavailableError | FileAccessError) -> Response:
    message = "a part of the index does not answer; try again in a few seconds"
    return error_response(503, "unavailable", message, {"retry-after": "5"})


async def _answer_http_error(request: Request, error: HTTPException) -> Response:
    if isinstance(error, ApiError):
        return error.response()
    status, code, message = error.status_code, "http_error", str(error.detail)
    if status == 404:
        code, message = "not_found", f"there is no {request.url.path!r} here; see /docs"
    elif status == 405:
        code = "method_not_allowed"
        message = f"{request.method} is not allowed on {request.url.path!r}; see /docs"
    elif status == 400:
        code = "bad_request"
    return error_response(status, code, message, dict(error.headers or {}))


async def _answer_invalid(_: Request, error: RequestValidationError) -> Response:
    problems = error.errors()
    parts = []
    for item in problems[:_SHOWN_PROBLEMS]:
        # loc is ("body", "k"): part of the request, then field; a JSON error has a byte offset.
        location = ".".join(str(part) for part in item["loc"])
        reason = item["msg"].removeprefix("Value error, ")
        parts.append(f"{location}: {reason}")
    if len(problems) > _SHOWN_PROBLEMS:
        parts.append(f"and {len(problems) - _SHOWN_PROBLEMS} more")
    return error_response(422, "invalid_request", "; ".join(parts))


# Every expected error in the one shape; the middleware ``Observe`` answers all others.
HANDLERS: dict[int | type[Exception], Any] = {
    UnavailableError: _answer_unavailable,
    FileAccessError: _answer_unavailable,
    HTTPException: _answer_http_error,
    RequestValidationError: _answer_invalid,
}
