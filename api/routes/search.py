"""Search by a detection, by a vector, by many of them, or by an uploaded image."""

from __future__ import annotations

from typing import Annotated, Any

import anyio
import numpy as np
from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from numpy.typing import NDArray

from api.http.errors import ApiError, error_responses
from api.routes.common import answer_search, get_limits, get_served_index, make_filter
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
    SearchRequest,
)
from api.schemas.vectors import read_floats, read_vector
from api.service.answers import batch_body, search_body
from api.service.batching import Search
from api.service.line import BoundedQueue
from api.service.vectors import check_vectors

router = APIRouter(prefix="/v1/search", tags=["search"])
# Read and answered without FastAPI's own steps in between; see DirectRoute.
direct = APIRouter(prefix="/v1/search", tags=["search"], route_class=DirectRoute)


@direct.post(
    "",
    summary="Nearest detections to a detection or a vector",
    response_model=SearchAnswer,
    responses=error_responses(400, 404, 413, 422, 429, 503),
)
async def search(request: Request, asked: SearchRequest) -> Response:
    """Give exactly one of `detection_id` and `vector`.

    A detection is never among its own hits. `where` and `ids` say which rows may be hits; where
    fewer than `k` rows fit, all of them are.
    """
    k, dim, limits = asked.k, get_served_index(request).snapshot.manifest.dim, get_limits(request)
    limits.check_k(k)
    limits.check_ids(asked.ids)
    limits.check_size(1, k, dim, include_features=asked.include_features)
    return await answer_search(
        request,
        Search(
            [_query(asked, "")],
            k,
            lambda found, place: search_body(found, place, k),
            chosen=make_filter(asked.where, asked.ids),
            exact=asked.exact,
            include_features=asked.include_features,
        ),
    )


@direct.post(
    "/batch",
    summary="Nearest detections to each of many queries",
    response_model=BatchAnswer,
    responses=error_responses(400, 404, 413, 422, 429, 503),
)
async def search_batch(request: Request, asked: BatchRequest) -> Response:
    """Many times faster than as many single searches, and all from one snapshot.

    A query that cannot be answered refuses the whole batch; the message says which.
    """
    k, dim, limits = asked.k, get_served_index(request).snapshot.manifest.dim, get_limits(request)
    limits.check_k(k)
    limits.check_ids(asked.ids)
    queries: list[str | NDArray[np.float32]]
    if asked.queries is not None:
        count = len(asked.queries)
    else:
        vectors = _many(asked.vectors or "", dim)
        count = len(vectors)
    limits.check_size(count, k, dim, include_features=asked.include_features)
    if asked.queries is not None:
        queries = [_query(query, f"query {number}: ") for number, query in enumerate(asked.queries)]
    else:
        queries = list(check_vectors(vectors))
    return await answer_search(
        request,
        Search(
            queries,
            k,
            lambda found, place: batch_body(found, place, count, k),
            chosen=make_filter(asked.where, asked.ids),
            exact=asked.exact,
            include_features=asked.include_features,
        ),
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
    held, limits = get_served_index(request), get_limits(request)
    uploads: BoundedQueue = request.app.state.uploads
    limits.check_k(k)
    limits.check_size(1, k, held.snapshot.manifest.dim, include_features=include_features)
    with uploads.slot():
        data = await image.read()
        embedded = await anyio.to_thread.run_sync(
            lambda: held.embed(data, max_pixels=limits.pixels), limiter=uploads.limiter
        )
    upload: dict[str, Any] = {
        "label": embedded.label,
        "score": embedded.score,
        "topk": embedded.topk,
    }
    return await answer_search(
        request,
        Search(
            [check_vectors(embedded.embedding)],
            k,
            lambda found, place: search_body(found, place, k, upload=upload),
            chosen=make_filter(where),
            exact=exact,
            include_features=include_features,
        ),
    )


def _query(query: Query, at: str) -> str | NDArray[np.float32]:
    if query.detection_id is not None:
        return query.detection_id
    assert query.vector is not None
    try:
        return check_vectors(read_vector(query.vector), at)
    except ValueError as error:
        raise ApiError(422, "invalid_vector", f"{at}{error}") from None


def _many(text: str, dim: int) -> NDArray[np.float32]:
    """The vectors of a batch, [Q, dim]."""
    try:
        numbers = read_floats(text, "vectors")
    except ValueError as error:
        raise ApiError(422, "invalid_vector", str(error)) from None
    if not len(numbers) or len(numbers) % dim:
        raise ApiError(
            422,
            "invalid_vector",
            f"vectors holds {len(numbers)} numbers; this index has {dim} a vector, so give a "
            f"multiple of {dim}",
        )
    return numbers.reshape(-1, dim)
