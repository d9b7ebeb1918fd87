"""Search by a detection, by a vector, by many of them, or by an uploaded image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import anyio
from fastapi import File, Form, Request, Response, UploadFile

from api.http.errors import error_responses
from api.http.keys import v1_router
from api.routes.common import (
    DirectRoute,
    ServedIndexDep,
    ServiceDep,
    answer_search,
    served_index_of,
)
from api.schemas import MAX_K
from api.schemas.search import (
    DEFAULT_K,
    WHERE,
    BatchAnswer,
    BatchRequest,
    ImageSearchAnswer,
    Query,
    SearchAnswer,
    SearchOptions,
    SearchRequest,
)
from api.service.answers import batch_body, search_body
from api.service.checks import Vectors, check_search, check_vectors, read_vector, read_vectors

router = v1_router("/search", "search")
direct = v1_router("/search", "search", DirectRoute)


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
    if body.queries is None:
        vectors = read_vectors(body.vectors or "", served_index_of(request).dim)
        queries: Sequence[str | Vectors] = vectors  # type: ignore[assignment]  # of [dim] each
    else:
        queries = [
            _read_query(query, f"query {number}: ") for number, query in enumerate(body.queries)
        ]
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
    service: ServiceDep,
    served: ServedIndexDep,
    image: Annotated[UploadFile, File(description="JPEG, PNG, WebP, TIFF, GIF or BMP.")],
    k: Annotated[int, Form(ge=1, le=MAX_K)] = DEFAULT_K,
    where: Annotated[str | None, Form(description=WHERE)] = None,
    include_features: Annotated[bool, Form()] = False,
    exact: Annotated[bool, Form()] = False,
) -> Response:
    """The image goes through the same single pass as extraction: one forward, both answers."""
    options = SearchOptions(k=k, where=where, include_features=include_features, exact=exact)
    check_search(service.limits, options, 1, served.dim)  # before the model is used
    with service.uploads.slot():
        data = await image.read()
        (embedded,) = await anyio.to_thread.run_sync(
            lambda: served.embedder.embed_images([data], max_pixels=service.limits.pixels),
            limiter=service.uploads.limiter,
        )
    upload = {"label": embedded.label, "score": embedded.score, "topk": embedded.topk}
    return await answer_search(
        request,
        [check_vectors(embedded.embedding)],
        options,
        lambda results, query: search_body(results, query, k, upload=upload),
    )


def _read_query(query: Query, prefix: str = "") -> str | Vectors:
    if query.detection_id is not None:
        return query.detection_id
    return read_vector(query.vector, prefix)
