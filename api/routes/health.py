"""Liveness, readiness and metrics: for probes, load balancers and Prometheus."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from api.http.errors import ApiError, error_responses
from api.http.metrics import Metrics
from api.routes.common import ServiceDep
from api.schemas.common import Health

router = APIRouter()


@router.get("/livez", summary="The process answers", tags=["health"])
async def livez() -> Health:
    """Says ok from the moment the server listens, also while the index is being opened."""
    return Health(status="ok")


@router.get(
    "/readyz",
    summary="The index is open and a search of it has answered",
    tags=["health"],
    responses=error_responses(503),
)
async def readyz(service: ServiceDep) -> Health:
    """503 until then, and again as soon as the server is asked to stop."""
    if service.draining:
        raise ApiError(503, "stopping", "this server is stopping; use another")
    service.served_index()
    return Health(status="ok")


@router.get(
    "/metrics",
    summary="Counters for Prometheus",
    tags=["health"],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
)
async def metrics(request: Request) -> Response:
    """Requests and their latency by route, queue, batches, snapshot, reloads."""
    counters: Metrics = request.app.state.metrics
    return Response(counters.text(), media_type=CONTENT_TYPE_LATEST)
