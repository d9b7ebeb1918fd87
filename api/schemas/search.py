"""Searches: queries with their options, and the hits."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, Field, model_validator

from api.schemas import MAX_BATCH, MAX_EXAMPLES, MAX_K, MAX_OFFSET
from api.schemas.common import Numbers, StrictModel, Value, Vector, examples
from api.schemas.detections import (
    COLUMN,
    DETECTION,
    Detection,
    Ids,
    UnknownIds,
    Where,
    WithPayload,
    WithVector,
)

DEFAULT_K = 10

K = Annotated[int, Field(ge=1, le=MAX_K, description="Number of hits; of groups with group_by.")]
Example = str | Numbers
Examples = Annotated[list[Example], Field(fail_fast=True)]

_HIT: dict[str, Any] = {"rank": 1, "score": 0.9871, "group": None} | DETECTION
_ANSWER: dict[str, Any] = {"snapshot": "v0001", "metric": "cosine", "k": 1, "unknown_ids": []}
_HITS: dict[str, Any] = {"hits": [_HIT | {"features": None}]}


class SearchOptions(BaseModel):
    """Options of a search that do not depend on the kind of query."""

    k: K = DEFAULT_K
    offset: int = Field(
        0, ge=0, le=MAX_OFFSET, description="Nearest hits to leave out; of groups with group_by."
    )
    score_threshold: float | None = Field(
        None,
        allow_inf_nan=False,
        description="Only hits at least as near: the lowest score for cosine and ip, the largest "
        "distance for l1 and l2.",
    )
    where: Where = None
    ids: Ids = None
    group_by: str | None = Field(
        None,
        description="Find k groups, nearest first, of rows with the same value: track, or a "
        f"column. {COLUMN} A row without a value is a group of its own; an image is one file.",
    )
    group_size: int = Field(1, ge=1, le=MAX_K, description="Most hits of each group.")
    with_payload: WithPayload = True
    with_vector: WithVector = False
    include_features: bool = Field(
        default=False, description="The older name of with_vector: gives `features`."
    )
    exact: bool = Field(
        default=False,
        description="Compare with every vector instead of using the approximate index.",
    )


class Query(StrictModel):
    """A query: exactly one of `detection_id`, `vector` and `positive`."""

    detection_id: str | None = Field(
        None, description="A detection of this index; it is not among its own hits."
    )
    vector: Vector = None
    positive: Examples | None = Field(
        None,
        min_length=1,
        max_length=MAX_EXAMPLES,
        description="Examples of what to find: ids (text) and vectors (numbers), mixed; none of "
        "these detections is a hit. The query is the mean of the normalised examples.",
    )
    negative: Examples | None = Field(
        None,
        max_length=MAX_EXAMPLES,
        description="With positive: examples of what to avoid. The query is mean(positive) + "
        "(mean(positive) - mean(negative)).",
    )

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        _check_one(self, "detection_id", "vector", "positive")
        if self.negative is not None and self.positive is None:
            raise ValueError("negative needs positive: give at least one example of what to find")
        return self


class SearchRequest(Query, SearchOptions):
    """One query and its options."""

    model_config = examples(
        {"detection_id": "20220620002959-2", "k": 5},
        {"detection_id": "20220620002959-2", "where": "label = 'Noctua pronuba'"},
        {"vector": [0.12, 0.0, 1.74], "k": 5, "exact": True},
        {"vector": "j8L1PQAAAACkcN8/", "with_vector": True},
        {"positive": ["20220620002959-2", "20220620003009-1"], "negative": ["20220620002949-7"]},
        {"detection_id": "20220620002959-2", "group_by": "sequence", "score_threshold": 0.8},
    )


class BatchRequest(StrictModel, SearchOptions):
    """Many queries at once, all with the same options: exactly one of `queries` and `vectors`."""

    model_config = examples(
        {"queries": [{"detection_id": "20220620002959-2"}, {"vector": [0.12, 0.0, 1.74]}]},
        {"vectors": "j8L1PQAAAACkcN8/AAAAAI/C9T2kcN8/", "k": 5},
    )

    queries: Annotated[list[Query], Field(fail_fast=True)] | None = Field(
        None, min_length=1, max_length=MAX_BATCH
    )
    vectors: str | None = Field(
        None,
        description="The base64 of little-endian float32, one vector after the other; their "
        f"number follows from the index's dimension and is at most {MAX_BATCH}.",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        _check_one(self, "queries", "vectors")
        return self


def _check_one(request: BaseModel, *names: str) -> None:
    present = [name for name in names if getattr(request, name) is not None]
    if len(present) != 1:
        choices = f"{', '.join(names[:-1])} and {names[-1]}"
        raise ValueError(f"give exactly one of {choices}, not {' and '.join(present) or 'none'}")


class Hit(Detection):
    """A detection near the query."""

    model_config = examples(_HIT)

    rank: int = Field(description="1 is the nearest; with group_by, the place in this answer.")
    score: float = Field(
        description="cosine: 1 is the same direction, higher is nearer. ip: the inner product of "
        "L1-normalised vectors, higher is nearer. l1, l2: the distance between L1-normalised "
        "vectors, lower is nearer."
    )
    features: list[float] | None = Field(
        None,
        description="The same as `vector`; null unless include_features.",
    )
    group: Value = Field(
        None,
        description="With group_by: the value that the hits of one group share; of image, the file "
        "name only. Hits of one group come together, the nearest group first.",
    )


class SearchAnswer(BaseModel):
    """The nearest detections, nearest first; fewer than `k` if the index holds fewer."""

    model_config = examples(_ANSWER | _HITS)

    snapshot: str = Field(description="The version of the index that answered.")
    metric: str = Field(description="cosine, ip, l1 or l2; says how to read `score`.")
    k: int
    unknown_ids: UnknownIds
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
    unknown_ids: UnknownIds
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
