"""What goes over the wire when a camera's frames are linked as they come."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.schemas.search import Box, CameraTime, LinkCost

MAX_DETECTIONS = 1000
MAX_FRAME = 2**53  # what JSON's readers hold exactly
MAX_SIDE = 1_000_000  # pixels

Pixel = Annotated[float, Field(ge=-MAX_SIDE, le=MAX_SIDE, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Sequence = Annotated[
    str,
    Field(min_length=1, max_length=500, description="Camera and session; tracks never leave it."),
]

_BOX: list[Any] = [831.0, 402.5, 1012.0, 588.0]
_LINK: dict[str, Any] = {
    "detection_id": "trap-4/57/0",
    "track_id": "trap-4/2022-06-19:00012",
    "position": 1,
    "previous_detection_id": "trap-4/56/0",
    "cost": 0.146,
    "cost_feature": 0.021,
    "cost_iou": 0.083,
    "cost_area": 0.034,
    "cost_distance": 0.002,
    "margin": 0.31,
    "label": None,
    "label_score": None,
}


class LiveDetection(BaseModel):
    """A detection of the new frame."""

    model_config = ConfigDict(extra="forbid")

    detection_id: str | None = Field(
        None, min_length=1, max_length=500, description="Default: request_id/0, /1 and so on."
    )
    box: tuple[Pixel, Pixel, Pixel, Pixel] = Field(
        description="x1, y1, x2, y2 in pixels of the upright image."
    )
    score: float | None = Field(
        None,
        allow_inf_nan=False,
        description="The detector's; without one a detection is strong (see strong_score).",
    )
    vector: list[float] | str | None = Field(
        None,
        description="A raw embedding of the index's model: a list of numbers, or the base64 of "
        "little-endian float32.",
    )
    image: str | None = Field(
        None, description="What the box holds, as base64 of JPEG, PNG, WebP, TIFF, GIF or BMP."
    )

    @property
    def way(self) -> str:
        """What it brings to be compared by."""
        given = [name for name in ("vector", "image") if getattr(self, name) is not None]
        return " and ".join(given) or "nothing"


class LinkRequest(BaseModel):
    """A new frame's detections; each with a vector, each with a crop, or one `image` for all."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "request_id": "trap-4/57",
                    "sequence": "trap-4/2022-06-19",
                    "frame": 57,
                    "timestamp": "2022-06-20T00:29:59",
                    "image_width": 4096,
                    "image_height": 2160,
                    "detections": [{"box": _BOX, "vector": "j8L1PQAAAACkcN8/"}],
                },
                {
                    "request_id": "trap-4/58",
                    "sequence": "trap-4/2022-06-19",
                    "image_width": 4096,
                    "image_height": 2160,
                    "detections": [],
                },
            ]
        },
    )

    request_id: str = Field(
        min_length=1,
        max_length=200,
        description="Names this frame within its sequence. The same request sent again is answered "
        "with the same bytes and linked once.",
    )
    sequence: Sequence
    frame: int | None = Field(
        None,
        ge=0,
        le=MAX_FRAME,
        description="Later than the sequence's last one; null: one step after it.",
    )
    frame_step: int = Field(
        1,
        ge=1,
        le=MAX_SIDE,
        description="How far apart neighbouring frames are numbered; gaps are counted in it.",
    )
    timestamp: CameraTime | None = Field(
        None, description="When it was taken; needed where the server has max_gap_seconds."
    )
    image: str | None = Field(
        None,
        description="The whole frame, encoded as base64: boxes are cut out of it as extraction "
        "cuts them.",
    )
    image_width: Side | None = Field(None, description="In pixels; not with `image`.")
    image_height: Side | None = Field(None, description="In pixels; not with `image`.")
    detections: list[LiveDetection] = Field(
        max_length=MAX_DETECTIONS,
        description="May be empty: a frame with nothing in it is one that every track missed.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        size = (self.image_width, self.image_height)
        if self.image is None and None in size:
            raise ValueError("give image_width and image_height: they are the unit of distance")
        if self.image is not None and size != (None, None):
            raise ValueError("image says how large it is; leave image_width and image_height out")
        ways = [one.way for one in self.detections]
        wanted = "nothing" if self.image is not None else "vector" if "vector" in ways else "image"
        for number, one in enumerate(self.detections):
            if one.way != wanted:
                raise ValueError(
                    f"detection {number} brings {one.way}; give the frame's image, or else a "
                    "vector of every detection, or an image of every detection"
                )
            x1, y1, x2, y2 = one.box
            if x2 <= x1 or y2 <= y1:
                raise ValueError(
                    f"detection {number}: box {list(one.box)} has no area; it is x1, y1, x2, y2"
                )
        names = self.detection_ids
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"detection_id {twice[:100]!r} stands twice in this frame")
        return self

    @property
    def detection_ids(self) -> list[str]:
        """Of every detection, those made up for it included."""
        return [
            one.detection_id or f"{self.request_id}/{number}"
            for number, one in enumerate(self.detections)
        ]


class Link(LinkCost):
    """What became of a detection; costs are null where its track starts."""

    model_config = ConfigDict(json_schema_extra={"examples": [_LINK]})

    detection_id: str
    track_id: str | None = Field(description="null: a weak detection that no track took.")
    position: int | None = Field(description="In the track; 0 is its first.")
    label: str | None = Field(description="The class; null where a vector was sent.")
    label_score: float | None = Field(description="The model's probability for that class.")


class LinkAnswer(BaseModel):
    """A frame, linked. The header `Idempotent-Replayed: true` says it was linked before."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sequence": "trap-4/2022-06-19",
                    "frame": 57,
                    "request_id": "trap-4/57",
                    "restarted": None,
                    "tracks_open": 3,
                    "detections": [_LINK],
                }
            ]
        }
    )

    sequence: str
    frame: int
    request_id: str
    restarted: str | None = Field(
        description="Why no track of before could go on, such as other link options or another "
        "model; null: they could."
    )
    tracks_open: int = Field(description="Tracks that the next frame may continue.")
    detections: list[Link] = Field(description="In the order in which they were sent.")


class OpenTrack(BaseModel):
    """A track that the next frame may continue."""

    track_id: str
    length: int = Field(description="Number of detections.")
    detection_id: str = Field(description="Its last.")
    frame: int = Field(description="Of its last detection.")
    box: Box


class OpenSequence(BaseModel):
    """Where a sequence stands."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "sequence": "trap-4/2022-06-19",
                    "frame": 57,
                    "timestamp": "2022-06-20T00:29:59",
                    "restarts": None,
                    "tracks_started": 13,
                    "tracks": [
                        {
                            "track_id": "trap-4/2022-06-19:00012",
                            "length": 2,
                            "detection_id": "trap-4/57/0",
                            "frame": 57,
                            "box": _BOX,
                        }
                    ],
                }
            ]
        }
    )

    sequence: str
    frame: int = Field(description="The last one; the next must be later.")
    timestamp: CameraTime | None = Field(description="When that was taken, if it was said.")
    restarts: str | None = Field(
        description="Why the next frame would start all tracks anew; null: it would not."
    )
    tracks_started: int
    tracks: list[OpenTrack]
