"""Search by a detection, by a vector, or by an uploaded image."""

from __future__ import annotations

from typing import Annotated

import anyio
from fastapi import APIRouter, File, Form, UploadFile
from fastapi.concurrency import run_in_threadpool

from api.errors import ApiError, error_responses
from api.routes.common import ForwardTurn, Held, search_answer
from api.schemas import (
    DEFAULT_K,
    MAX_K,
    ClassScore,
    ImageSearchAnswer,
    SearchAnswer,
    SearchRequest,
    UploadedQuery,
    read_vector,
)

router = APIRouter(prefix="/v1/search", tags=["search"])


@router.post(
    "",
    summary="Nearest detections to a detection or a vector",
    responses=error_responses(404, 413, 422, 503),
)
def search(held: Held, query: SearchRequest) -> SearchAnswer:
    """Give exactly one of `detection_id` and `vector`.

    A detection is never among its own hits.
    """
    if query.detection_id is not None:
        row = held.row_of(query.detection_id)
        hits = held.neighbours(row, query.k, exact=query.exact)
    else:
        assert query.vector is not None
        try:
            vector = read_vector(query.vector)
        except ValueError as error:
            raise ApiError(422, "invalid_vector", str(error)) from None
        hits = held.search(vector, query.k, exact=query.exact)
    return search_answer(held, hits, query.k, include_features=query.include_features)


@router.post(
    "/image",
    summary="Class of an uploaded image and the detections nearest to it",
    responses=error_responses(413, 422, 503),
)
async def search_image(
    held: Held,
    turn: ForwardTurn,
    image: Annotated[UploadFile, File(description="JPEG, PNG, WebP, TIFF, GIF or BMP.")],
    k: Annotated[int, Form(ge=1, le=MAX_K)] = DEFAULT_K,
    include_features: Annotated[bool, Form()] = False,
    exact: Annotated[bool, Form()] = False,
) -> ImageSearchAnswer:
    """The image goes through the same single pass as extraction: one forward, both answers."""
    data = await image.read()
    embedded = await anyio.to_thread.run_sync(held.embed, data, limiter=turn)
    query = UploadedQuery(
        label=embedded.label,
        score=embedded.score,
        topk=[ClassScore(**entry) for entry in embedded.topk],
    )

    def nearest() -> SearchAnswer:
        hits = held.search(embedded.embedding, k, exact=exact)
        return search_answer(held, hits, k, include_features=include_features)

    found = await run_in_threadpool(nearest)
    return ImageSearchAnswer(
        query=query, snapshot=found.snapshot, metric=found.metric, k=found.k, hits=found.hits
    )
