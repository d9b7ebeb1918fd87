"""What is being served, reloading it, and probes of the server."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import PurePath
from typing import Annotated

import anyio
from fastapi import APIRouter, Query, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.http.errors import ApiError, error_responses
from api.http.keys import v1_router
from api.routes.common import Limit, ServedIndexDep, ServiceDep, filter_of
from api.schemas.common import Health
from api.schemas.detections import COLUMN, WHERE, Facet, Facets
from api.schemas.index import IndexSummary, ModelSummary, Recall, Reloaded
from api.service.answers import shown_value
from common.errors import ColumnError, FilterError, LinkStateError, OnepassError, StorageError
from index.search.snapshot import list_versions

logger = logging.getLogger("onepass.api")

router = v1_router("/index", "index", "search")
admin = v1_router("/index", "index", "admin")
health = APIRouter(tags=["health"], responses=error_responses(400, 431))


@router.get("", summary="The snapshot and the model behind it", responses=error_responses(503))
def index(served: ServedIndexDep, service: ServiceDep) -> IndexSummary:
    """Two services with one `fingerprint` give comparable embeddings."""
    manifest = served.snapshot.manifest
    model = None
    if manifest.model is not None:
        fields = manifest.model.model_dump() | {"spec": manifest.model.request.spec}
        model = ModelSummary.model_validate(fields)
    try:
        versions = list_versions(service.watcher.index)
    except StorageError as error:
        logger.error("index: %s", error)
        raise ApiError(503, "store_unavailable", service.watcher.without_paths(error)) from None
    assert service.watcher.since is not None
    return IndexSummary(
        version=manifest.version,
        versions=versions,
        since=service.watcher.since,
        integrity=service.watcher.integrity,
        metric=manifest.metric,
        factory=manifest.factory,
        rows=manifest.rows,
        dim=manifest.dim,
        recall=Recall.model_validate(manifest.recall, from_attributes=True),
        fingerprint=manifest.fingerprint,
        runs=[PurePath(run.path).name for run in manifest.runs],
        model=model,
        columns={field.name: str(field.type) for field in served.snapshot.schema},
        own_columns=served.own_columns,
    )


@router.get(
    "/facets",
    summary="The values of a column and the number of detections with each",
    responses=error_responses(422, 503),
)
def index_facets(
    served: ServedIndexDep,
    column: Annotated[str, Query(description=COLUMN)],
    where: Annotated[str | None, Query(description=f"Count these only. {WHERE}")] = None,
    limit: Limit = 100,
) -> Facets:
    """Most frequent first, equally frequent ones ascending."""
    try:
        total, counts = served.counted_values(column, filter_of(where, None), limit)
    except FilterError as error:
        raise ApiError(422, "invalid_filter", str(error)) from None
    except ColumnError as error:
        raise ApiError(422, "invalid_column", str(error)) from None
    return Facets(
        snapshot=served.version,
        column=column,
        total=total,
        limit=limit,
        values=[Facet(value=shown_value(column, value), rows=rows) for value, rows in counts],
    )


@admin.post(
    "/reload", summary="Serve the version that CURRENT names, now", responses=error_responses(503)
)
async def reload(service: ServiceDep) -> Reloaded:
    """The server does so by itself within a second or two; this waits until it has.

    A version that does not open is a 503 that says why, and the earlier one is still served.
    """
    try:
        return await service.watcher.reload()
    except OnepassError as error:
        logger.error("reload: %s", error)
        raise ApiError(503, "reload_failed", service.watcher.without_paths(error)) from None


@health.get("/livez", summary="The process answers")
async def livez() -> Health:
    """Says ok from the moment the server listens, also while the index is being opened."""
    return Health(status="ok")


@health.get(
    "/readyz",
    summary="The index is open, a search of it has answered, and live frames can be linked",
    responses=error_responses(503),
)
async def readyz(service: ServiceDep) -> Health:
    """503 until then, where the files of the index turn out to be damaged, as long as the state of live
    linking cannot be written, and from the moment that the server is asked to stop.
    """
    if service.draining:
        raise ApiError(503, "stopping", "this server is stopping; use another")
    service.watcher.served_index()
    try:
        await anyio.to_thread.run_sync(service.check_link_state)
    except LinkStateError as error:
        logger.error("%s", error)
        raise ApiError(503, "link_unavailable", service.watcher.without_paths(error)) from None
    return Health(status="ok")


@health.get(
    "/metrics",
    summary="Counters for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}, "description": "Prometheus' text format."}},
)
async def metrics(service: ServiceDep) -> Response:
    """Requests and their latency by route, queue, batches, snapshot, reloads, live linking."""
    with suppress(LinkStateError):  # /readyz says so; the last figures stay
        usage = await anyio.to_thread.run_sync(service.live.store.usage)
        service.metrics.link_sequences.set(usage.sequences)
        service.metrics.link_bytes.set(usage.bytes)
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
