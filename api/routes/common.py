"""What several routes share: access to the service, answering searches, parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated

from fastapi import Depends, Request, Response
from fastapi import Query as InQuery

from api.http.errors import ApiError
from api.http.middleware import SNAPSHOT
from api.schemas import MAX_OFFSET, MAX_PAGE
from api.schemas.detections import DetectionParams
from api.schemas.search import SearchOptions
from api.service.answers import PLAIN, SearchResults, Shown
from api.service.batching import Search
from api.service.checks import check_search
from api.service.queries import Query
from api.service.served_index import ServedIndex
from api.service.service import Service
from index.search.filters import Filter
from index.storage.columns import plain_name

Limit = Annotated[int, InQuery(ge=1, le=MAX_PAGE)]
Offset = Annotated[int, InQuery(ge=0, le=MAX_OFFSET)]


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
    queries: Sequence[Query],
    options: SearchOptions,
    write: Callable[[SearchResults, int], bytes],
) -> Response:
    """Answer a search, and note for the log which snapshot did.

    Args:
        request: the request to answer.
        queries: Q ids of detections, checked vectors [D], or examples.
        options: of the search.
        write: makes the answer's bytes, see ``Search``.

    Raises:
        ApiError: 422, the server's limits; and as of ``Batcher.search``.
    """
    service = service_of(request)
    served = served_index_of(request)
    check_search(service.limits, options, len(queries), served.dim)
    answer = await service.batcher.search(
        Search(
            list(queries),
            options.offset + options.k,
            write,
            filter=filter_of(options.where, options.ids),
            exact=options.exact,
            shown=shown_of(served, options),
            offset=options.offset,
            score_threshold=options.score_threshold,
            group_by=options.group_by,
            group_size=options.group_size,
        )
    )
    request.scope[SNAPSHOT] = answer.snapshot
    return Response(answer.body, media_type="application/json")


def filter_of(where: str | None, ids: Sequence[str] | None) -> Filter | None:
    """The rows that a request allows; None: all."""
    if where is None and ids is None:
        return None
    return Filter(where, None if ids is None else frozenset(ids))


def shown_of(served: ServedIndex, options: SearchOptions | DetectionParams) -> Shown:
    """What an answer shows of each detection.

    Raises:
        ApiError: 422 ``invalid_column``, the index has no such column of the user's own.
    """
    features = isinstance(options, SearchOptions) and options.include_features
    if options.with_payload is True and not options.with_vector and not features:
        return PLAIN
    names = options.with_payload
    if isinstance(names, bool):
        return Shown(names, options.with_vector, features)
    own = [plain_name(column) for column in served.own_columns]
    for name in names:
        if name not in own:
            raise ApiError(
                422,
                "invalid_column",
                f"with_payload: there is no column {name[:100]!r} of your own; there is "
                f"{', '.join(own) or 'none'}",
            )
    return Shown(tuple(names), options.with_vector, features)
