"""A route that reads its body and answers by itself, declared like any other.

FastAPI resolves dependencies, parses and validates step by step for any signature; that costs
more than the search behind ``/v1/search``. The function of such a route takes the request and one
model, and returns a response. Path, body, answers and errors are in the OpenAPI document as usual,
because FastAPI still reads the signature.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from api.http.headers import get_header


class DirectRoute(APIRoute):
    """A route whose function takes ``(request, body)``; ``body`` must be a pydantic model."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What FastAPI calls for each request."""
        endpoint = self.endpoint
        assert self.body_field is not None
        model = self.body_field.field_info.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        parse = model.model_validate_json

        async def handle(request: Request) -> Response:
            content_type = get_header(request.scope, b"content-type") or b""
            if b"json" not in content_type:
                sent = content_type.decode("latin-1") or "no content type"
                message = f"send application/json, not {sent}"
                raise RequestValidationError(
                    [{"loc": ("body",), "type": "content_type", "msg": message}]
                )
            try:
                body = parse(await request.body())
            except ValidationError as error:
                raise RequestValidationError(
                    [
                        {**item, "loc": ("body", *item["loc"])}
                        for item in error.errors(include_url=False, include_input=False)
                    ]
                ) from None
            response: Response = await endpoint(request, body)
            return response

        return handle
