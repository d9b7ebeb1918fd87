"""A route that reads its body and answers by itself, declared like any other.

FastAPI works out dependencies, parses and validates step by step for whatever a function may
ask; that costs more than the search behind ``/v1/search``. The function of such a route takes
the request and one model, and gives a response. Path, body, answers and errors stand in the
OpenAPI document as always, because FastAPI still reads its signature.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError


class DirectRoute(APIRoute):
    """Give the function ``(request, body)``; ``body`` must be a pydantic model."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What FastAPI calls for each request."""
        answer = self.endpoint
        assert self.body_field is not None
        model = self.body_field.field_info.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)
        parse = model.model_validate_json

        async def handle(request: Request) -> Response:
            kind = next((v for name, v in request.scope["headers"] if name == b"content-type"), b"")
            if b"json" not in kind:
                said = kind.decode("latin-1") or "no content type"
                raise RequestValidationError(
                    [
                        {
                            "loc": ("body",),
                            "type": "kind",
                            "msg": f"send application/json, not {said}",
                        }
                    ]
                )
            try:
                asked = parse(await request.body())
            except ValidationError as error:
                raise RequestValidationError(
                    [
                        {**item, "loc": ("body", *item["loc"])}
                        for item in error.errors(include_url=False, include_input=False)
                    ]
                ) from None
            response: Response = await answer(request, asked)
            return response

        return handle
