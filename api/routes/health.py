"""Alive, ready, and what is being served."""

from __future__ import annotations

from pathlib import PurePath

from fastapi import APIRouter

from api.errors import error_responses
from api.routes.common import Held
from api.schemas import Health, IndexSummary, ModelSummary, Recall

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
async def readyz(_: Held) -> Health:
    """503 until then."""
    return Health(status="ok")


@router.get(
    "/v1/index",
    summary="The snapshot and the model behind it",
    tags=["index"],
    responses=error_responses(503),
)
async def index(held: Held) -> IndexSummary:
    """Two services with one `fingerprint` give comparable embeddings."""
    manifest = held.snapshot.manifest
    model = manifest.model
    return IndexSummary(
        version=manifest.version,
        metric=manifest.metric,
        factory=manifest.factory,
        rows=manifest.rows,
        dim=manifest.dim,
        recall=Recall(
            k=manifest.recall.k, target=manifest.recall.target, measured=manifest.recall.measured
        ),
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
