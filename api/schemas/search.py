"""Searches: queries with their options, and the hits."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.schemas import MAX_BATCH, MAX_IDS, MAX_K
from api.schemas.common import Vector, examples
from api.schemas.detections import DETECTION, Detection

DEFAULT_K = 10
COLUMNS = (
    "run row_id detection_id image x1 y1 x2 y2 sequence timestamp frame label label_index score"
)
WHERE = (
    "Only rows that match this condition, written as after WHERE in DuckDB's SQL, over the columns "
    f"{COLUMNS}. Example: sequence = 'trap-4' AND score >= 0.5"
)

K = Annotated[int, Field(ge=1, le=MAX_K, description="Number of hits.")]

_HIT: dict[str, Any] = {"rank": 1, "score": 0.9871} | DETECTION
_ANSWER: dict[str, Any] = {"snapshot": "v0001", "metric": "cosine", "k": 1}
_HITS: dict[str, Any] = {"hits": [_HIT | {"features": None}]}


class SearchOptions(BaseModel):
    """Options of a search that do not depend on the kind of query."""

    k: K = DEFAULT_K
    where: str | None = Field(default=None, description=WHERE)
    ids: list[str] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_IDS,
        description="Only these detections; ids that are not in the index are ignored.",
    )
    include_features: bool = Field(default=False, description="Return each hit's vector as well.")
    exact: bool = Field(
        default=False,
        description="Compare with every vector instead of using the approximate index.",
    )


class Query(BaseModel):
    """A query: exactly one of `detection_id` and `vector`."""

    model_config = ConfigDict(extra="forbid")

    detection_id: str | None = Field(
        None, description="A detection of this index; it is not among its own hits."
    )
    vector: Vector = None

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        _check_one(self, "detection_id", "vector")
        return self


class SearchRequest(Query, SearchOptions):
    """One query and its options."""

    model_config = examples(
        {"detection_id": "20220620002959-2", "k": 5},
        {"detection_id": "20220620002959-2", "where": "label = 'Noctua pronuba'"},
        {"vector": [0.12, 0.0, 1.74], "k": 5, "exact": True},
        {"vector": "j8L1PQAAAACkcN8/", "include_features": True},
        extra="forbid",
    )


class BatchRequest(SearchOptions):
    """Many queries at once, all with the same options: exactly one of `queries` and `vectors`."""

    model_config = examples(
        {"queries": [{"detection_id": "20220620002959-2"}, {"vector": [0.12, 0.0, 1.74]}]},
        {"vectors": "j8L1PQAAAACkcN8/AAAAAI/C9T2kcN8/", "k": 5},
        extra="forbid",
    )

    queries: list[Query] | None = Field(None, min_length=1, max_length=MAX_BATCH)
    vectors: str | None = Field(
        None,
        description="The base64 of little-endian float32, one vector after the other; their "
        f"number follows from the index's dimension and is at most {MAX_BATCH}.",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        _check_one(self, "queries", "vectors")
        return self


def _check_one(request: BaseModel, first: str, second: str) -> None:
    present = [name for name in (first, second) if getattr(request, name) is not None]
    if len(present) != 1:
        raise ValueError(
            f"give exactly one of {first} and {second}, not {' and '.join(present) or 'none'}"
        )


class Hit(Detection):
    """A detection near the query."""

    model_config = examples(_HIT)

    rank: int = Field(description="1 is the nearest.")
    score: float = Field(
        description="cosine: 1 is the same direction, higher is nearer. ip: the inner product of "
        "L1-normalised vectors, higher is nearer. l1, l2: the distance between L1-normalised "
        "vectors, lower is nearer."
    )
    features: list[float] | None = Field(
        None,
        description="The hit's vector as the index holds it: of length 1 in L2 for cosine, in L1 "
        "for ip, l1 and l2; null unless include_features.",
    )


class SearchAnswer(BaseModel):
    """The nearest detections, nearest first; fewer than `k` if the index holds fewer."""

    model_config = examples(_ANSWER | _HITS)

    snapshot: str = Field(description="The version of the index that answered.")
    metric: str = Field(description="cosine, ip, l1 or l2; says how to read `score`.")
    k: int
    hits: list[Hit]


class BatchHits(BaseModel):
    """The hits of one query, nearest first."""

    hits: list[Hit]


class BatchAnswer(BaseModel):
    """Hits of every query, in the order of the queries; all from one snapshot."""

    model_config = examples(_ANSWER | {"results": [_HITS]})

    snapshot: str = Field(description="The version of the index that answered.")
    metric: str
    k: int
    results: list[BatchHits]


class ClassScore(BaseModel):
    """One class and its probability."""

    label: str | None
    label_index: int
    score: float


class UploadedQuery(BaseModel):
    """The model's prediction for the uploaded image; from the same pass as its vector."""

    label: str | None
    score: float
    topk: list[ClassScore]


class ImageSearchAnswer(SearchAnswer):
    """The uploaded image's class and the detections nearest to it."""

    model_config = examples(
        {
            "query": {
                "label": "Noctua pronuba",
                "score": 0.93,
                "topk": [{"label": "Noctua pronuba", "label_index": 17, "score": 0.93}],
            }
        }
        | _ANSWER
        | _HITS
    )

    query: UploadedQuery
