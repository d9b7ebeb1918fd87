"""Detections, pages of them, and the values of their columns."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from api.schemas.common import Box, CameraTime, examples

DETECTION: dict[str, Any] = {
    "detection_id": "20220620002959-2",
    "label": "Noctua pronuba",
    "label_score": 0.93,
    "image": "20220620002959.jpg",
    "box": [831.0, 402.5, 1012.0, 588.0],
    "sequence": "trap-4/2022-06-19",
    "frame": 57,
    "timestamp": "2022-06-20T00:29:59",
}


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


class DetectionPage(BaseModel):
    """A page of the detections that match, in the order of the index."""

    model_config = examples(
        {"snapshot": "v0001", "total": 1, "limit": 50, "offset": 0, "detections": [DETECTION]}
    )

    snapshot: str = Field(description="The version of the index that answered.")
    total: int = Field(description="Number of matching detections in all pages.")
    limit: int
    offset: int
    detections: list[Detection]


class Facet(BaseModel):
    """One value of a column."""

    value: str
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
