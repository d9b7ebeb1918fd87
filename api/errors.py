"""One JSON shape for every error: ``{"error": {"code", "message"}}``.

A client switches on ``code`` and shows ``message``. Errors raised below the API may name
folders of the server's disk, so none of their text is passed on: routes word their own
answers, and what nobody foresaw is a plain 500 whose traceback goes to the server's log.
"""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from api.schemas import ErrorAnswer, ErrorBody

# Worded here and not by http.HTTPStatus, whose phrases change with the version of Python.
_CODES = {400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_MEANINGS = {
    404: "There is no such thing here.",
    413: "The body is over the server's limit.",
    422: "The request does not fit; the message says where.",
    503: "Not ready, or not able on this machine.",
}
_NAMED = 3  # problems of one request that are spelled out; the rest are counted


class ApiError(Exception):
    """An answer other than success, worded for the client."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


def error_response(
    status: int, code: str, message: str, headers: dict[str, str] | None = None
) -> JSONResponse:
    """The one shape of an error."""
    answer = ErrorAnswer(error=ErrorBody(code=code, message=message))
    return JSONResponse(answer.model_dump(), status, headers)


def error_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route declares for the OpenAPI document: these statuses answer in the one shape."""
    return {status: {"model": ErrorAnswer, "description": _MEANINGS[status]} for status in statuses}


def install(app: FastAPI) -> None:
    """Make ``app`` answer every error in the one shape."""
    app.add_exception_handler(ApiError, _deliberate)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(Exception, _unexpected)


async def _deliberate(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error_response(error.status, error.code, error.message)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = _CODES.get(error.status_code, "http_error")
    message = str(error.detail)
    if error.status_code == 404:
        message = f"there is no {request.url.path!r} here; see /docs for what there is"
    elif error.status_code == 405:
        message = f"{request.method} is not allowed on {request.url.path!r}; see /docs"
    return error_response(error.status_code, code, message, dict(error.headers or {}))


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    problems = error.errors()
    parts = []
    for item in problems[:_NAMED]:  # a vector of a million words has a million problems
        # loc is ("body", "k"): where it was sent, then the field; a JSON error has a byte offset.
        at = ".".join(str(part) for part in item["loc"])
        reason = item["msg"].removeprefix("Value error, ")
        detail = item.get("ctx", {}).get("error")
        if item["type"] == "json_invalid":
            reason = f"not JSON: {detail}"
        parts.append(f"{at}: {reason}")
    if len(problems) > _NAMED:
        parts.append(f"and {len(problems) - _NAMED} more")
    return error_response(422, "invalid_request", "; ".join(parts))


async def _unexpected(_: Request, __: Exception) -> JSONResponse:
    # Starlette raises the error again once this is sent, and the server logs its traceback.
    return error_response(500, "internal", "the server failed to answer; its log has the traceback")
