"""Tracks and the links between their detections."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from api.schemas.common import examples
from api.schemas.detections import DETECTION, Detection

COSTS = {
    "cost": 0.146,
    "cost_feature": 0.021,
    "cost_iou": 0.083,
    "cost_area": 0.034,
    "margin": 0.31,
}
_STEP: dict[str, Any] = COSTS | {
    "position": 1,
    "detection_id": DETECTION["detection_id"],
    "frame": DETECTION["frame"],
    "previous_detection_id": "20220620002949-1",
    "cost_distance": 0.008,
    "detection": DETECTION,
}
_TRACK: dict[str, Any] = {
    "run": 0,
    "track_id": "trap-4/2022-06-19:00012",
    "sequence": "trap-4/2022-06-19",
    "length": 9,
    "first_frame": 56,
    "last_frame": 64,
}


class Track(BaseModel):
    """One individual through its sequence."""

    model_config = examples(_TRACK)

    run: int = Field(description="Position of its run in `runs` of /v1/index.")
    track_id: str = Field(description="Unique within its run.")
    sequence: str | None
    length: int = Field(description="Number of detections.")
    first_frame: int
    last_frame: int


class TrackList(BaseModel):
    """A page of tracks, ordered by run, sequence, first frame and id."""

    model_config = examples({"total": 1, "limit": 100, "offset": 0, "tracks": [_TRACK]})

    total: int = Field(description="Number of tracks in all pages.")
    limit: int
    offset: int
    tracks: list[Track]


class LinkCost(BaseModel):
    """The link to the previous detection and its cost; all null where a track starts."""

    previous_detection_id: str | None = Field(description="The detection before it in the track.")
    cost: float | None = Field(description="The weighted sum of the four terms.")
    cost_feature: float | None = Field(description="1 - cosine of the embeddings.")
    cost_iou: float | None = Field(description="1 - intersection over union of the boxes.")
    cost_area: float | None = Field(description="1 - smaller area / larger area.")
    cost_distance: float | None = Field(description="Distance of centres / image diagonal.")
    margin: float | None = Field(
        description="How much more the next best choice of either end would cost; small: doubtful."
    )


class TrackStep(LinkCost):
    """A detection of a track and the cost of the link to the one before it (null on the first)."""

    model_config = examples(_STEP)

    position: int = Field(description="Position in the track; 0 is its first detection.")
    detection_id: str
    frame: int
    detection: Detection | None = Field(description="null: not in the snapshot being served.")


class TrackDetail(Track):
    """A track and its detections in order."""

    model_config = examples(_TRACK | {"length": 1, "detections": [_STEP]})

    detections: list[TrackStep]
