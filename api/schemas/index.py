"""The snapshot being served, its model, and reloads."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from api.schemas.common import examples
from pipelines.model_info import Preprocess

Integrity = Literal["verifying", "verified"]
"""Whether all files of the version being served were compared with their sha256."""


class Recall(BaseModel):
    """How often the approximate index finds the true neighbours, measured when it was built."""

    k: int
    target: float
    measured: float | None = Field(description="null: too few rows to measure it.")


class ModelSummary(BaseModel):
    """The model whose embeddings the index holds."""

    spec: str
    weights_sha256: str
    num_classes: int
    feature_dim: int
    feature_kind: str
    preprocess: Preprocess


class IndexSummary(BaseModel):
    """The snapshot being served."""

    version: str
    versions: list[str] = Field(description="All versions in the index folder, oldest first.")
    since: datetime = Field(description="When this server began to serve this version (UTC).")
    integrity: Integrity = Field(
        description="verified: every file was compared with its sha256. verifying: large vectors "
        "still are; this version is served no longer if they differ."
    )
    metric: str = Field(description="cosine, ip, l1 or l2.")
    factory: str = Field(description="FAISS factory string.")
    rows: int
    dim: int
    recall: Recall
    fingerprint: str = Field(description="Hash of everything that determines an embedding.")
    runs: list[str] = Field(description="Names of the run folders it was built from.")
    model: ModelSummary | None = Field(
        description="null: the vectors were made elsewhere, and no image can be searched for."
    )
    columns: dict[str, str] = Field(
        description="Columns of the rows and their types, for where, order_by, group_by and facets."
    )
    own_columns: list[str] = Field(description="Those of them that are your own.")


class Reloaded(BaseModel):
    """The result of a reload."""

    model_config = examples({"reloaded": True, "version": "v0002", "before": "v0001"})

    reloaded: bool = Field(description="false: the current version was being served already.")
    version: str = Field(description="The version being served now.")
    before: str | None = Field(description="The version that was served until now.")
