"""What the routes for browsing answer with."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from api.schemas.search import Detection

_DETECTION: dict[str, Any] = Detection.model_config["json_schema_extra"]["examples"][0]  # type: ignore[index,assignment]


class DetectionPage(BaseModel):
    """A page of the detections that fit, in the order of the index."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "snapshot": "v0001",
                    "total": 1,
                    "limit": 50,
                    "offset": 0,
                    "detections": [_DETECTION],
                }
            ]
        }
    )

    snapshot: str = Field(description="The version of the index that answered.")
    total: int = Field(description="How many fit, in all pages.")
    limit: int
    offset: int
    detections: list[Detection]


class Facet(BaseModel):
    """One value of a column."""

    value: str
    rows: int = Field(description="How many detections have it.")


class Facets(BaseModel):
    """The values of a column, most frequent first; rows without a value are not counted."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "snapshot": "v0001",
                    "column": "label",
                    "total": 1,
                    "limit": 100,
                    "values": [{"value": "Noctua pronuba", "rows": 412}],
                }
            ]
        }
    )

    snapshot: str = Field(description="The version of the index that answered.")
    column: str
    total: int = Field(description="How many distinct values there are.")
    limit: int
    values: list[Facet]
