"""What several routes share: access to the service, answering searches, parameters."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError

from api.http.errors import get_header
from api.http.middleware import SNAPSHOT
from api.schemas.search import SearchOptions
from api.service.answers import SearchResults
from api.service.batching import Search
from api.service.checks import Vectors, check_search
from api.service.served_index import ServedIndex
from api.service.service import Service
from index.search.filters import Filter

MAX_PAGE = 1000
MAX_OFFSET = 2**31 - 1  # Arrow cannot slice at larger offsets

Limit = Annotated[int, Query(ge=1, le=MAX_PAGE)]
Offset = Annotated[int, Query(ge=0, le=MAX_OFFSET)]


def service_of(request: Request) -> Service:
    """The service of this application."""
    service: Service = request.app.state.service
    return service


def served_index_of(request: Request) -> ServedIndex:
    """The index served now, noted for the log.

    Raises:
        ApiError: 503, none yet.
    """
    served = service_of(request).watcher.served_index()
    request.scope[SNAPSHOT] = served.version
    return served


# FastAPI calls a function that is not async in a thread, which costs more than these do.
async def _service(request: Request) -> Service:
    return service_of(request)


async def _served_index(request: Request) -> ServedIndex:
    return served_index_of(request)


ServiceDep = Annotated[Service, Depends(_service)]
ServedIndexDep = Annotated[ServedIndex, Depends(_served_index)]


async def answer_search(
    request: Request,
    queries: Sequence[str | Vectors],
    options: SearchOptions,
    write: Callable[[SearchResults, int], bytes],
) -> Response:
    """Answer a search, and note for the log which snapshot did.

    Args:
        request: the request to answer.
        queries: Q ids of detections or checked vectors [D].
        options: of the search.
        write: makes the answer's bytes, see ``Search``.

    Raises:
        ApiError: 422, the server's limits; and as of ``Batcher.search``.
    """
    service = service_of(request)
    check_search(service.limits, options, len(queries), served_index_of(request).dim)
    filter_ = None
    if options.where is not None or options.ids is not None:
        ids = None if options.ids is None else frozenset(options.ids)
        filter_ = Filter(where=options.where, ids=ids)
    answer = await service.batcher.search(
        Search(list(queries), options.k, write, filter_, options.exact, options.include_features)
    )
    request.scope[SNAPSHOT] = answer.snapshot
    return Response(answer.body, media_type="application/json")


class DirectRoute(APIRoute):
    """A route that reads its body and answers by itself, declared like any other.

    FastAPI resolves dependencies, parses and validates step by step for any signature; that costs
    more than the search behind ``/v1/search``. The function of such a route takes the request and
    one pydantic model, and returns a response. Path, body, answers and errors are in the OpenAPI
    document as usual, because FastAPI still reads the signature.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What FastAPI calls for each request."""
        endpoint = self.endpoint
        assert self.body_field is not None
        model = self.body_field.field_info.annotation
        assert isinstance(model, type)
        assert issubclass(model, BaseModel)

        async def handle(request: Request) -> Response:
            content_type = get_header(request.scope, b"content-type").decode("latin-1")
            if "json" not in content_type:
                message = f"send application/json, not {content_type or 'no content type'}"
                raise RequestValidationError(
                    [{"loc": ("body",), "type": "content_type", "msg": message}]
                )
            try:
                body = model.model_validate_json(await request.body())
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
