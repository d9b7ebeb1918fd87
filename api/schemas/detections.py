"""Detections, pages of them, and the values of their columns."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field

from api.schemas import MAX_COLUMNS, MAX_IDS, MAX_OFFSET, MAX_PAGE
from api.schemas.common import Box, CameraTime, StrictModel, Value, examples
from index.config import Direction

DETECTION: dict[str, Any] = {
    "detection_id": "20220620002959-2",
    "label": "Noctua pronuba",
    "label_score": 0.93,
    "image": "20220620002959.jpg",
    "box": [831.0, 402.5, 1012.0, 588.0],
    "sequence": "trap-4/2022-06-19",
    "frame": 57,
    "timestamp": "2022-06-20T00:29:59",
    "payload": {"camera": "north"},
    "vector": None,
}
COLUMN = (
    "Any column of the rows: detection_id, image, sequence, timestamp, frame, label, score, x1 and "
    "so on, or one of your own."
)
WHERE = (
    "Only rows that match this condition, written as after WHERE in DuckDB's SQL, over the columns "
    "run row_id detection_id image x1 y1 x2 y2 sequence timestamp frame label label_index score and "
    "your own. Example: sequence = 'trap-4' AND score >= 0.5"
)

Where = Annotated[str | None, Field(description=WHERE)]
IdList = Annotated[list[str], Field(max_length=MAX_IDS, fail_fast=True)]
Ids = Annotated[
    IdList | None,
    Field(
        description="Only these detections, none for an empty list (in a query or form: `ids=`); "
        "those that are not in the index are named in unknown_ids.",
    ),
]
WithPayload = Annotated[
    bool | Annotated[list[str], Field(max_length=MAX_COLUMNS, fail_fast=True)],
    Field(description="Return your own columns as payload: true, false, or the names of some."),
]
WithVector = Annotated[bool, Field(description="Return each detection's vector as well.")]
UnknownIds = Annotated[
    list[str], Field(description="Those of `ids` that are not in this snapshot, sorted.")
]
VECTOR = (
    "As the index holds it: of length 1 in L2 for cosine, in L1 for ip, l1 and l2; null unless "
    "with_vector."
)


class Detection(BaseModel):
    """A region of an image, or the whole image when `box` is null."""

    model_config = examples(DETECTION)

    detection_id: str
    label: str | None = Field(description="The class that the model predicts.")
    label_score: float | None = Field(description="The model's probability of that class.")
    image: str | None = Field(
        description="File name only; /v1/detections/{id}/image answers with the pixels. null: the "
        "vector was made elsewhere, and nobody said from which image."
    )
    box: Box | None = Field(
        description="x1, y1, x2, y2 in pixels of the upright image; null: the whole image."
    )
    sequence: str | None = Field(description="Images of one camera and session, in order.")
    frame: int | None = Field(description="Position of the image in its sequence.")
    timestamp: CameraTime | None = Field(description="When it was taken, in the camera's time.")
    payload: dict[str, Any] | None = Field(
        default={}, description="The values of your own columns; null where not asked for."
    )
    vector: list[float] | None = Field(None, description=VECTOR)


class DetectionParams(BaseModel):
    """What to show of a detection."""

    with_payload: WithPayload = True
    with_vector: WithVector = False


class FetchRequest(StrictModel, DetectionParams):
    """Detections by their ids."""

    model_config = examples(
        {"ids": ["20220620002959-2"], "with_vector": True},
        {"ids": ["20220620002959-2"], "with_payload": ["camera"]},
    )

    ids: IdList


class FetchAnswer(BaseModel):
    """The detections that are in the index, in the order of the request."""

    model_config = examples({"snapshot": "v0001", "unknown_ids": [], "detections": [DETECTION]})

    snapshot: str = Field(description="The version of the index that answered.")
    unknown_ids: list[str] = Field(description="Ids that are not in this snapshot, in order.")
    detections: list[Detection]


class BrowseParams(DetectionParams):
    """Which detections to list, in which order."""

    where: Where = None
    ids: Ids = None
    order_by: str | None = Field(
        None, description=f"{COLUMN} Rows without a value come last. Default: as in the index."
    )
    direction: Direction = Field("asc", description="Of order_by: ascending or descending.")
    limit: int = Field(50, ge=1, le=MAX_PAGE)
    offset: int = Field(0, ge=0, le=MAX_OFFSET)


class DetectionPage(BaseModel):
    """A page of the detections that match, in the order of the index or of `order_by`."""

    model_config = examples(
        {
            "snapshot": "v0001",
            "total": 1,
            "limit": 50,
            "offset": 0,
            "unknown_ids": [],
            "detections": [DETECTION],
        }
    )

    snapshot: str = Field(description="The version of the index that answered.")
    total: int = Field(description="Number of matching detections in all pages.")
    limit: int
    offset: int
    unknown_ids: UnknownIds
    detections: list[Detection]


class Facet(BaseModel):
    """One value of a column."""

    value: Value = Field(description="Of image: the file name only.")
    rows: int = Field(description="Number of detections with this value.")


class Facets(BaseModel):
    """The values of a column, most frequent first; rows without a value are not counted."""

    model_config = examples(
        {
            "snapshot": "v0001",
            "column": "label",
            "total": 1,
            "limit": 100,
            "values": [{"value": "Noctua pronuba", "rows": 412}],
        }
    )

    snapshot: str = Field(description="The version of the index that answered.")
    column: str
    total: int = Field(description="Number of distinct values.")
    limit: int
    values: list[Facet]
