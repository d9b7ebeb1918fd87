"""What is being served, and reloading it."""

from __future__ import annotations

import logging
from pathlib import PurePath

from fastapi import APIRouter

from api.http.errors import ApiError, error_responses
from api.routes.common import ServedIndexDep, ServiceDep
from api.schemas.index import IndexSummary, ModelSummary, Recall, Reloaded
from common.errors import OnepassError, StorageError
from index.search.snapshot import list_versions

logger = logging.getLogger("onepass.api")

router = APIRouter(prefix="/v1/index", tags=["index"])


@router.get(
    "",
    summary="The snapshot and the model behind it",
    responses=error_responses(503),
)
def index(served: ServedIndexDep, service: ServiceDep) -> IndexSummary:
    """Two services with one `fingerprint` give comparable embeddings."""
    manifest = served.snapshot.manifest
    model = manifest.model
    assert service.since is not None
    try:
        versions = list_versions(service.index)
    except StorageError as error:
        logger.error("index: %s", error)
        raise ApiError(503, "store_unavailable", service.without_paths(error)) from None
    return IndexSummary(
        version=manifest.version,
        versions=versions,
        since=service.since,
        metric=manifest.metric,
        factory=manifest.factory,
        rows=manifest.rows,
        dim=manifest.dim,
        recall=Recall.model_validate(manifest.recall, from_attributes=True),
        fingerprint=manifest.fingerprint,
        runs=[PurePath(run.path).name for run in manifest.runs],
        model=ModelSummary(
            spec=model.request.spec,
            weights_sha256=model.weights_sha256,
            num_classes=model.num_classes,
            feature_dim=model.feature_dim,
            feature_kind=model.feature_kind,
            preprocess=model.preprocess,
        ),
    )


@router.post(
    "/reload",
    summary="Serve the version that CURRENT names, now",
    responses=error_responses(503),
)
async def reload(service: ServiceDep) -> Reloaded:
    """The server does so by itself within a second or two; this waits until it has.

    A version that does not open is a 503 that says why, and the earlier one is still served.
    """
    try:
        return await service.reload()
    except OnepassError as error:
        logger.error("reload: %s", error)
        raise ApiError(503, "reload_failed", service.without_paths(error)) from None
