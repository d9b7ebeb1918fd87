"""JSON bodies as models, in a bounded time and memory whatever they hold.

Validation stops at the first wrong element of a list (see ``api.schemas``). What is left is reading
the JSON, which takes some fifty times the bytes of an empty list, for example: so values are counted
before, and one large body is read at a time, in a thread.
"""

from __future__ import annotations

from typing import Any, TypeVar

import anyio
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json

from api.http.errors import ApiError, get_header

MAX_VALUES = 2_000_000  # of one body: a thousand examples of 2,000 numbers
MAX_PARTS = 500_000  # lists, objects and fields of one body
_LARGE = 100_000  # bytes that take a millisecond, which a search waits for without noticing

Model = TypeVar("Model", bound=BaseModel)


async def read_body(request: Request, model: type[Model], limiter: anyio.CapacityLimiter) -> Model:
    """The JSON body of a request.

    Args:
        request: with a body that was not read.
        model: of the body.
        limiter: admits one large body at a time.

    Raises:
        ApiError: 413, it holds too many values.
        RequestValidationError: it is not declared to be JSON, is none, or does not fit the model.
    """
    content_type = get_header(request.scope, b"content-type").decode("latin-1")
    if not _is_json(content_type):
        message = f"send application/json, not {content_type[:100] or 'no content type'}"
        raise invalid("body", message)
    # Not request.body(), which is kept as long as the request.
    body = b"".join([part async for part in request.stream()])
    if len(body) <= _LARGE:
        return _parse(body, model)
    return await anyio.to_thread.run_sync(_parse, body, model, limiter=limiter)


def invalid(location: str, message: str) -> RequestValidationError:
    """422 for a part of a request."""
    return RequestValidationError([{"loc": (location,), "type": "refused", "msg": message}])


def validate(location: str, model: type[Model], content: Any) -> Model:
    """A part of a request as its model.

    Raises:
        RequestValidationError: it does not fit, with its place in the request.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
    # Outside of the handler: pydantic's error holds the whole content, and would be kept with this.
    del content
    raise RequestValidationError([{**item, "loc": (location, *item["loc"])} for item in problems])


def _is_json(content_type: str) -> bool:
    # The type itself, not its parameters: a page of another site may send text/plain;x=json.
    name = content_type.partition(";")[0].strip().lower()
    return name == "application/json" or (
        name.startswith("application/") and name.endswith("+json")
    )


def _parse(body: bytes, model: type[Model]) -> Model:
    # What is within texts is counted as well; the limits are far above what a request needs.
    values, parts = body.count(b","), sum(map(body.count, (b"[", b"{", b":")))
    if values > MAX_VALUES or parts > MAX_PARTS:
        raise ApiError(
            413,
            "too_large",
            f"the body holds some {values} values, and {parts} lists, objects and fields; this "
            f"server reads up to {MAX_VALUES} and {MAX_PARTS}: send fewer, or vectors as base64",
        )
    try:
        content = from_json(body)
    except ValueError as error:
        raise invalid("body", f"not JSON: {error}") from None
    return validate("body", model, content)
