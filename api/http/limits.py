"""Limits of requests and queues, and the middleware that limits bodies.

A declared length over the limit is refused unread; a body that comes in chunks without a
length is counted as it arrives, so neither can fill the server's memory or disk.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from fastapi import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.http.errors import ApiError, error_response
from api.http.headers import get_header
from api.http.metrics import Metrics
from api.schemas.link import MAX_DETECTIONS
from api.schemas.search import MAX_BATCH, MAX_IDS, MAX_K
from common.errors import InputError


@dataclass(frozen=True)
class Limits:
    """Limits of one server; each is an upper bound and at least 1.

    ``k``, ``batch``, ``ids`` and ``detections`` may be lower than the OpenAPI document says, not
    higher.

    Attributes:
        body_bytes: size of a request's body.
        pixels: width times height of an uploaded image, known before it is decoded.
        k: hits of one query.
        batch: queries of one ``/v1/search/batch``, and of single searches answered together.
        ids: detections named by ``ids``.
        hits: queries times k of one request; bounds its answer to some megabytes.
        numbers: values of all vectors in one answer with ``include_features``.
        waiting_queries: queries that wait for the index; beyond it 429.
        detections: of one frame that is linked.
        waiting_uploads: images that wait for the model, the one under way included.
        waiting_frames: frames that wait to be linked, the one under way included.
    """

    body_bytes: int = 20_000_000
    pixels: int = 60_000_000
    k: int = MAX_K
    batch: int = MAX_BATCH
    ids: int = MAX_IDS
    hits: int = 50_000
    numbers: int = 5_000_000
    waiting_queries: int = 2048
    detections: int = MAX_DETECTIONS
    waiting_uploads: int = 8
    waiting_frames: int = 64

    def __post_init__(self) -> None:
        documented = {"k": MAX_K, "batch": MAX_BATCH, "ids": MAX_IDS, "detections": MAX_DETECTIONS}
        for field in fields(self):
            value, maximum = getattr(self, field.name), documented.get(field.name)
            if value < 1 or (maximum is not None and value > maximum):
                allowed = f"1 to {maximum}" if maximum else "1 or more"
                raise InputError(f"limit {field.name} is {value}; give {allowed}")

    def check_k(self, k: int) -> None:
        """Raise ``ApiError`` for too many hits of a query."""
        if k > self.k:
            raise _over_limit(f"k is {k}; this server gives up to {self.k} hits a query")

    def check_ids(self, ids: list[str] | None) -> None:
        """Raise ``ApiError`` for too many detections in ``ids``."""
        if ids is not None and len(ids) > self.ids:
            raise _over_limit(
                f"ids names {len(ids)} detections; this server takes up to {self.ids}"
            )

    def check_detections(self, count: int) -> None:
        """Raise ``ApiError`` for too many detections in a frame."""
        if count > self.detections:
            raise _over_limit(
                f"{count} detections in a frame; this server links up to {self.detections}"
            )

    def check_size(self, queries: int, k: int, dim: int, *, include_features: bool) -> None:
        """Check that an answer fits into memory.

        Args:
            queries: number of queries in the request.
            k: hits of each.
            dim: numbers in each vector.
            include_features: whether hits include their vectors.

        Raises:
            ApiError: 422 ``over_limit``.
        """
        if queries > self.batch:
            raise _over_limit(
                f"{queries} queries in one batch; this server takes up to {self.batch}"
            )
        if queries > 1 and queries * k > self.hits:
            raise _over_limit(
                f"{queries} queries with k {k} ask for {queries * k} hits; one answer holds up to "
                f"{self.hits}: lower k or send fewer queries"
            )
        if include_features and queries * k * dim > self.numbers:
            raise _over_limit(
                f"include_features asks for {queries * k} vectors of {dim} numbers; one answer "
                f"holds up to {self.numbers} numbers: lower k or send fewer queries"
            )


def _over_limit(message: str) -> ApiError:
    return ApiError(422, "over_limit", message)


class BodyLimit:
    """ASGI middleware: answers 413 to a body of more than ``max_bytes``."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, metrics: Metrics) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a counting ``receive``."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = get_header(scope, b"content-length") or b""
        if declared.isdigit():  # uvicorn itself limits the body to this length
            if int(declared) > self.max_bytes:
                self._metrics.record_rejection("body")
                await error_response(413, "too_large", self._message)(scope, receive, send)
                return
            await self.app(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            part = await receive()
            received += len(part.get("body", b""))
            if received > self.max_bytes:
                self._metrics.record_rejection("body")
                # FastAPI passes an HTTPException out of its body parsing unchanged.
                raise HTTPException(413, self._message)
            return part

        await self.app(scope, counted, send)

    @property
    def _message(self) -> str:
        return f"the body is over this server's limit of {self.max_bytes} bytes"
