"""Search by a detection, by a vector, by many of them, or by an uploaded image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import anyio
from fastapi import Form, Request, Response, UploadFile
from pydantic import Field

from api.http.errors import error_responses
from api.http.keys import v1_router
from api.http.routing import DirectRoute
from api.routes.common import answer_search, served_index_of, service_of
from api.schemas.search import (
    BatchAnswer,
    BatchRequest,
    ImageSearchAnswer,
    SearchAnswer,
    SearchOptions,
    SearchRequest,
)
from api.schemas.search import Query as SearchQuery
from api.service.answers import batch_body, search_body
from api.service.checks import Vectors, check_search, check_vectors, read_vector, read_vectors
from api.service.queries import Query
from index.search.examples import Examples

direct = v1_router("/search", "search", "search", DirectRoute)


class ImageForm(SearchOptions):
    """An image and the options of a search with it."""

    image: UploadFile = Field(description="JPEG, PNG, WebP, TIFF, GIF or BMP.")


@direct.post(
    "",
    summary="Nearest detections to a detection, a vector or examples",
    response_model=SearchAnswer,
    responses=error_responses(400, 404, 408, 413, 422, 429, 503),
)
async def search(request: Request, body: SearchRequest) -> Response:
    """Give exactly one of `detection_id`, `vector` and `positive`.

    A detection is never among its own hits, nor is an example. Only rows that match `where` and
    `ids` can be hits; where fewer than `k` rows match, all of them are.
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
    responses=error_responses(400, 404, 408, 413, 422, 429, 503),
)
async def search_batch(request: Request, body: BatchRequest) -> Response:
    """Many times faster than as many single searches, and all from one snapshot.

    A query that cannot be answered refuses the whole batch; the message says which.
    """
    if body.queries is None:
        vectors = read_vectors(body.vectors or "", served_index_of(request).dim)
        queries: Sequence[Query] = list(vectors)  # of [dim] each
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


@direct.post(
    "/image",
    summary="Class of an uploaded image and the detections nearest to it",
    response_model=ImageSearchAnswer,
    responses=error_responses(400, 404, 408, 413, 422, 429, 503),
)
async def search_image(
    request: Request, body: Annotated[ImageForm, Form(media_type="multipart/form-data")]
) -> Response:
    """The image goes through the same single pass as extraction: one forward, both answers."""
    service, served = service_of(request), served_index_of(request)
    check_search(service.limits, body, 1, served.dim)  # before the model is used
    with service.uploads.slot():
        # Its bytes are read in its turn: until then, a large one is in a file.
        (embedded,) = await anyio.to_thread.run_sync(
            lambda: served.embedder.embed_images([body.image.file.read()], service.decoder),
            limiter=service.uploads.limiter,
        )
    upload = {"label": embedded.label, "score": embedded.score, "topk": embedded.topk}
    return await answer_search(
        request,
        [check_vectors(embedded.embedding)],
        body,
        lambda results, query: search_body(results, query, body.k, upload=upload),
    )


def _read_query(query: SearchQuery, prefix: str = "") -> Query:
    if query.detection_id is not None:
        return query.detection_id
    if query.positive is None:
        return read_vector(query.vector, prefix)
    return Examples(
        _read_examples(query.positive, f"{prefix}positive example"),
        _read_examples(query.negative or [], f"{prefix}negative example"),
    )


def _read_examples(examples: list[str | list[float]], prefix: str) -> list[str | Vectors]:
    return [
        example if isinstance(example, str) else read_vector(example, f"{prefix} {number}: ")
        for number, example in enumerate(examples)
    ]
