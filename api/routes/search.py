"""Search by a detection, by a vector, by many of them, or by an uploaded image."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import numpy as np
from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from numpy.typing import NDArray

from api.http.errors import error_responses
from api.routes.common import answer_search, get_limits, get_served_index
from api.routes.direct import DirectRoute
from api.schemas.search import (
    DEFAULT_K,
    MAX_K,
    WHERE,
    BatchAnswer,
    BatchRequest,
    ImageSearchAnswer,
    Query,
    SearchAnswer,
    SearchOptions,
    SearchRequest,
)
from api.schemas.vectors import read_floats, read_vector
from api.service.answers import batch_body, search_body
from api.service.queues import BoundedQueue
from api.service.vectors import check_vectors, invalid_vector

router = APIRouter(prefix="/v1/search", tags=["search"])
# Reads its body and answers without the steps of FastAPI; see DirectRoute.
direct = APIRouter(prefix="/v1/search", tags=["search"], route_class=DirectRoute)


@direct.post(
    "",
    summary="Nearest detections to a detection or a vector",
    response_model=SearchAnswer,
    responses=error_responses(400, 404, 413, 422, 429, 503),
)
async def search(request: Request, body: SearchRequest) -> Response:
    """Give exactly one of `detection_id` and `vector`.

    A detection is never among its own hits. Only rows that match `where` and `ids` can be hits;
    where fewer than `k` rows match, all of them are.
    """
    _check_options(request, body, 1)
    return await answer_search(
        request,
        [_read_query(body)],
        body,
        lambda results, query: search_body(results, query, body.k),
    )


@direct.post(
    "/batch",
    summary="Nearest detections to each of many queries",
    response_model=BatchAnswer,
    responses=error_responses(400, 404, 413, 422, 429, 503),
)
async def search_batch(request: Request, body: BatchRequest) -> Response:
    """Many times faster than as many single searches, and all from one snapshot.

    A query that cannot be answered refuses the whole batch; the message says which.
    """
    queries: list[str | NDArray[np.float32]]
    if body.queries is not None:
        _check_options(request, body, len(body.queries))
        queries = [
            _read_query(query, f"query {number}: ") for number, query in enumerate(body.queries)
        ]
    else:
        dim = get_served_index(request).snapshot.manifest.dim
        vectors = _read_vectors(body.vectors or "", dim)
        _check_options(request, body, len(vectors))
        queries = list(check_vectors(vectors))
    return await answer_search(
        request,
        queries,
        body,
        lambda results, first: batch_body(results, first, len(queries), body.k),
    )


@router.post(
    "/image",
    summary="Class of an uploaded image and the detections nearest to it",
    response_model=ImageSearchAnswer,
    responses=error_responses(400, 413, 422, 429, 503),
)
async def search_image(
    request: Request,
    image: Annotated[UploadFile, File(description="JPEG, PNG, WebP, TIFF, GIF or BMP.")],
    k: Annotated[int, Form(ge=1, le=MAX_K)] = DEFAULT_K,
    where: Annotated[str | None, Form(description=WHERE)] = None,
    include_features: Annotated[bool, Form()] = False,
    exact: Annotated[bool, Form()] = False,
) -> Response:
    """The image goes through the same single pass as extraction: one forward, both answers."""
    options = SearchOptions(k=k, where=where, include_features=include_features, exact=exact)
    _check_options(request, options, 1)
    served, max_pixels = get_served_index(request), get_limits(request).pixels
    uploads: BoundedQueue = request.app.state.uploads
    with uploads.slot():
        data = await image.read()
        embedded = await anyio.to_thread.run_sync(
            lambda: served.embed(data, max_pixels=max_pixels), limiter=uploads.limiter
        )
    upload: dict[str, Any] = {
        "label": embedded.label,
        "score": embedded.score,
        "topk": embedded.topk,
    }
    return await answer_search(
        request,
        [check_vectors(embedded.embedding)],
        options,
        lambda results, query: search_body(results, query, k, upload=upload),
    )


def _check_options(request: Request, options: SearchOptions, queries: int) -> None:
    limits, dim = get_limits(request), get_served_index(request).snapshot.manifest.dim
    limits.check_k(options.k)
    limits.check_ids(options.ids)
    limits.check_size(queries, options.k, dim, include_features=options.include_features)


def _read_query(query: Query, prefix: str = "") -> str | NDArray[np.float32]:
    if query.detection_id is not None:
        return query.detection_id
    assert query.vector is not None
    try:
        return check_vectors(read_vector(query.vector), prefix)
    except ValueError as error:
        raise invalid_vector(f"{prefix}{error}") from None


def _read_vectors(text: str, dim: int) -> NDArray[np.float32]:
    """The vectors of a batch, [Q, dim]."""
    try:
        numbers = read_floats(text, "vectors")
    except ValueError as error:
        raise invalid_vector(str(error)) from None
    if not len(numbers) or len(numbers) % dim:
        raise invalid_vector(
            f"vectors holds {len(numbers)} numbers; this index has {dim} a vector, so give a "
            f"multiple of {dim}"
        )
    return numbers.reshape(-1, dim)
