"""The one configuration of an index build.

The fields of ``IndexConfig`` are the options of ``onepass index build``, what the manifest of a
version keeps as its ``options``, and what ``compact`` builds with again.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from common.json_models import JsonModel

Metric = Literal["cosine", "ip", "l1", "l2"]
Direction = Literal["asc", "desc"]  # of an order


class IndexConfig(JsonModel):
    """How the vectors of an index are compared and searched; frozen, and checked when it is made."""

    metric: Metric = Field(
        default="cosine",
        description="Between L1-normalised embeddings: cosine, inner product, L1 or L2 distance.",
    )
    factory: str = Field(
        default="auto",
        description="auto, Flat, HNSW32, PCA256,IVF1024,SQ8, or any FAISS factory string.",
    )
    recall: float = Field(default=0.95, gt=0, le=1, description="recall@10 to tune the search for.")
    shards: int = Field(
        default=1, ge=1, description="Segments that 'onepass serve --ray' searches in parallel."
    )
