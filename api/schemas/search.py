"""What goes over the wire: requests, answers and their examples.

No field holds a path of the server's disk: an image is given by its file name alone, and
its pixels by a route of its own.
"""

from __future__ import annotations

import base64
import binascii
from datetime import datetime
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, model_validator

from pipelines.model_info import Preprocess

MAX_K = 1000
MAX_BATCH = 256
MAX_IDS = 10_000
DEFAULT_K = 10
COLUMNS = (
    "run row_id detection_id image x1 y1 x2 y2 sequence timestamp frame label label_index score"
)
WHERE = (
    "Only rows that fit: a condition as behind WHERE in DuckDB's SQL, over the columns "
    f"{COLUMNS}. As: sequence = 'trap-4' AND score >= 0.5"
)

K = Annotated[int, Field(ge=1, le=MAX_K, description="How many hits are wanted.")]
Box = tuple[float, float, float, float]
# A camera does not say in which time zone it is, and "date-time" means a time with a zone.
CameraTime = Annotated[
    datetime, WithJsonSchema({"type": "string", "examples": ["2022-06-20T00:29:59"]})
]

_DETECTION: dict[str, Any] = {
    "detection_id": "20220620002959-2",
    "label": "Noctua pronuba",
    "label_score": 0.93,
    "image": "20220620002959.jpg",
    "box": [831.0, 402.5, 1012.0, 588.0],
    "sequence": "trap-4/2022-06-19",
    "frame": 57,
    "timestamp": "2022-06-20T00:29:59",
}
_HIT: dict[str, Any] = {"rank": 1, "score": 0.9871} | _DETECTION
_STEP: dict[str, Any] = {
    "position": 1,
    "detection_id": _DETECTION["detection_id"],
    "frame": _DETECTION["frame"],
    "previous_detection_id": "20220620002949-1",
    "cost": 0.146,
    "cost_feature": 0.021,
    "cost_iou": 0.083,
    "cost_area": 0.034,
    "cost_distance": 0.008,
    "margin": 0.31,
    "detection": _DETECTION,
}
_TRACK: dict[str, Any] = {
    "run": 0,
    "track_id": "trap-4/2022-06-19:00012",
    "sequence": "trap-4/2022-06-19",
    "length": 9,
    "first_frame": 56,
    "last_frame": 64,
}


def _example(*values: dict[str, Any]) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": list(values)})


class ErrorBody(BaseModel):
    """Why there is no answer."""

    code: str = Field(description="Stable; switch on it.")
    message: str = Field(description="One line for people: what was wrong and what to do.")


class ErrorAnswer(BaseModel):
    """Every error of this service."""

    model_config = _example(
        {"error": {"code": "detection_not_found", "message": "no detection 'x' in this snapshot"}}
    )

    error: ErrorBody


class SearchOptions(BaseModel):
    """What is wanted of a search, whatever the query."""

    k: K = DEFAULT_K
    where: str | None = Field(None, description=WHERE)
    ids: list[str] | None = Field(
        None,
        min_length=1,
        max_length=MAX_IDS,
        description="Only these detections; those that are not in the index are passed over.",
    )
    include_features: bool = Field(False, description="Return each hit's vector as well.")
    exact: bool = Field(
        False, description="Compare with every vector instead of asking the approximate index."
    )


class Query(BaseModel):
    """A query: exactly one of `detection_id` and `vector`."""

    model_config = ConfigDict(extra="forbid")

    detection_id: str | None = Field(
        None, description="A detection of this index; it is left out of its own hits."
    )
    vector: list[float] | str | None = Field(
        None,
        description="A raw embedding of the index's model: a list of numbers, or the base64 of "
        "little-endian float32.",
    )

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        given = [name for name in ("detection_id", "vector") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of detection_id and vector, not {' and '.join(given) or 'none'}"
            )
        return self


class SearchRequest(Query, SearchOptions):
    """One query and what is wanted of it."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"detection_id": "20220620002959-2", "k": 5},
                {"detection_id": "20220620002959-2", "where": "label = 'Noctua pronuba'"},
                {"vector": [0.12, 0.0, 1.74], "k": 5, "exact": True},
                {"vector": "j8L1PQAAAACkcN8/", "include_features": True},
            ]
        },
    )


class BatchRequest(SearchOptions):
    """Many queries at once, all with the same wishes: exactly one of `queries` and `vectors`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"queries": [{"detection_id": "20220620002959-2"}, {"vector": [0.12, 0.0, 1.74]}]},
                {"vectors": "j8L1PQAAAACkcN8/AAAAAI/C9T2kcN8/", "k": 5},
            ]
        },
    )

    queries: list[Query] | None = Field(None, min_length=1, max_length=MAX_BATCH)
    vectors: str | None = Field(
        None,
        description="The base64 of little-endian float32, one vector after the other; their "
        f"number follows from the index's dimension and is at most {MAX_BATCH}.",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [name for name in ("queries", "vectors") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"give exactly one of queries and vectors, not {' and '.join(given) or 'none'}"
            )
        return self


def read_bytes(text: str, what: str) -> bytes:
    """What is behind base64.

    Raises:
        ValueError: it is not base64.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{what} is text but not base64") from None


def read_floats(text: str, what: str) -> NDArray[np.float32]:
    """The numbers behind base64 of little-endian float32.

    Raises:
        ValueError: not base64, or not a whole number of float32.
    """
    data = read_bytes(text, what)
    if len(data) % 4:
        raise ValueError(f"{what}'s base64 holds {len(data)} bytes, not a multiple of 4")
    return np.frombuffer(data, dtype="<f4").astype(np.float32, copy=False)


def read_vector(vector: list[float] | str, what: str = "the vector") -> NDArray[np.float32]:
    """A query vector, [D].

    Raises:
        ValueError: it is no base64 of float32.
    """
    if isinstance(vector, str):
        return read_floats(vector, what)
    with np.errstate(over="ignore"):  # becomes inf, which is refused with a message
        return np.array(vector, dtype=np.float64).astype(np.float32)


class Detection(BaseModel):
    """A region of an image, or the whole image when `box` is null."""

    model_config = _example(_DETECTION)

    detection_id: str
    label: str | None = Field(description="The class the model gave it.")
    label_score: float | None = Field(description="The model's probability for that class.")
    image: str = Field(description="File name only; the pixels: /v1/detections/{id}/image.")
    box: Box | None = Field(
        description="x1, y1, x2, y2 in pixels of the upright image; null: all of it."
    )
    sequence: str | None = Field(description="Images of one camera and session, in order.")
    frame: int | None = Field(description="The image's place in its sequence.")
    timestamp: CameraTime | None = Field(description="When it was taken, in the camera's time.")


class Hit(Detection):
    """A detection near the query."""

    model_config = _example(_HIT)

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

    model_config = _example(
        {"snapshot": "v0001", "metric": "cosine", "k": 1, "hits": [_HIT | {"features": None}]}
    )

    snapshot: str = Field(description="The version of the index that answered.")
    metric: str = Field(description="cosine, ip, l1 or l2; says how to read `score`.")
    k: int
    hits: list[Hit]


class BatchHits(BaseModel):
    """The hits of one query, nearest first."""

    hits: list[Hit]


class BatchAnswer(BaseModel):
    """Hits of every query, in the order they were given; all from one snapshot."""

    model_config = _example(
        {
            "snapshot": "v0001",
            "metric": "cosine",
            "k": 1,
            "results": [{"hits": [_HIT | {"features": None}]}],
        }
    )

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
    """What the model says of the uploaded image; from the same pass as its vector."""

    label: str | None
    score: float
    topk: list[ClassScore]


class ImageSearchAnswer(SearchAnswer):
    """The uploaded image's class and the detections nearest to it."""

    model_config = _example(
        {
            "query": {
                "label": "Noctua pronuba",
                "score": 0.93,
                "topk": [{"label": "Noctua pronuba", "label_index": 17, "score": 0.93}],
            },
            "snapshot": "v0001",
            "metric": "cosine",
            "k": 1,
            "hits": [_HIT | {"features": None}],
        }
    )

    query: UploadedQuery


class Track(BaseModel):
    """One individual through its sequence."""

    model_config = _example(_TRACK)

    run: int = Field(description="Its run's place in /v1/index's `runs`.")
    track_id: str = Field(description="Unique within its run.")
    sequence: str | None
    length: int = Field(description="Number of detections.")
    first_frame: int
    last_frame: int


class TrackList(BaseModel):
    """A page of tracks, ordered by run, sequence, first frame and id."""

    model_config = _example({"total": 1, "limit": 100, "offset": 0, "tracks": [_TRACK]})

    total: int = Field(description="How many there are in all pages.")
    limit: int
    offset: int
    tracks: list[Track]


class LinkCost(BaseModel):
    """The link to the detection before, and what it cost; all null where a track starts."""

    previous_detection_id: str | None = Field(description="The one that it continues.")
    cost: float | None = Field(description="The weighted sum of the four terms.")
    cost_feature: float | None = Field(description="1 - cosine of the embeddings.")
    cost_iou: float | None = Field(description="1 - intersection over union of the boxes.")
    cost_area: float | None = Field(description="1 - smaller area / larger area.")
    cost_distance: float | None = Field(description="Distance of centres / image diagonal.")
    margin: float | None = Field(
        description="How much dearer the next best choice for either end was; small: doubtful."
    )


class TrackStep(LinkCost):
    """A detection of a track, and what the link to the one before it cost (null on the first)."""

    model_config = _example(_STEP)

    position: int = Field(description="0 is the track's first.")
    detection_id: str
    frame: int
    detection: Detection | None = Field(description="null: not in the snapshot being served.")


class TrackDetail(Track):
    """A track and its detections in order."""

    model_config = _example(_TRACK | {"length": 1, "detections": [_STEP]})

    detections: list[TrackStep]


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
    versions: list[str] = Field(description="Versions that stand in the index, oldest first.")
    since: datetime = Field(description="When this server began to serve this version (UTC).")
    metric: str = Field(description="cosine, ip, l1 or l2.")
    factory: str = Field(description="FAISS factory string.")
    rows: int
    dim: int
    recall: Recall
    fingerprint: str = Field(description="Hash of all that decides an embedding's value.")
    runs: list[str] = Field(description="Names of the run folders it was built from.")
    model: ModelSummary


class Reloaded(BaseModel):
    """What a look at the index's current version led to."""

    model_config = _example({"reloaded": True, "version": "v0002", "before": "v0001"})

    reloaded: bool = Field(description="false: the version being served is the current one.")
    version: str = Field(description="The version being served now.")
    before: str | None = Field(description="The version that was served until now.")


class Health(BaseModel):
    """Alive or ready."""

    model_config = _example({"status": "ok"})

    status: str
