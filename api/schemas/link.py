"""Frames of live cameras and how they were linked."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from api.schemas import MAX_DETECTIONS
from api.schemas.common import Box, CameraTime, StrictModel, Vector, examples
from api.schemas.detections import DETECTION
from api.schemas.tracks import COSTS, LinkCost

MAX_FRAME = 2**53  # JSON readers that use doubles hold larger numbers inexactly
MAX_SIDE = 1_000_000  # pixels

Pixel = Annotated[float, Field(ge=-MAX_SIDE, le=MAX_SIDE, allow_inf_nan=False)]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
Sequence = Annotated[
    str,
    Field(min_length=1, max_length=500, description="Camera and session; tracks never leave it."),
]

_BOX = DETECTION["box"]
_LINK: dict[str, Any] = COSTS | {
    "detection_id": "trap-4/57/0",
    "track_id": "trap-4/2022-06-19:00012",
    "position": 1,
    "previous_detection_id": "trap-4/56/0",
    "cost_distance": 0.002,
    "duplicate_of": None,
    "label": None,
    "label_score": None,
}


class LiveDetection(StrictModel):
    """A detection of the new frame."""

    detection_id: str | None = Field(
        None, min_length=1, max_length=500, description="Default: request_id/0, /1 and so on."
    )
    box: tuple[Pixel, Pixel, Pixel, Pixel] = Field(
        description="x1, y1, x2, y2 in pixels, of the image that `box_frame` says."
    )
    score: float | None = Field(
        None,
        allow_inf_nan=False,
        description="The detector's score; without one a detection is strong (see strong_score).",
    )
    vector: Vector = None
    image: str | None = Field(
        None, description="The crop of the box, as base64 of JPEG, PNG, WebP, TIFF, GIF or BMP."
    )

    @property
    def content(self) -> str:
        """Which of ``vector`` and ``image`` it has."""
        present = [name for name in ("vector", "image") if getattr(self, name) is not None]
        return " and ".join(present) or "nothing"


class LinkRequest(StrictModel):
    """A new frame's detections; each with a vector, each with a crop, or one `image` for all."""

    model_config = examples(
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
        description="Must be later than the last frame of the sequence; null: one step after it.",
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
    allow_jump: bool = Field(
        False,
        description="The number or time is right although it is far ahead of the last one: more than "
        "100,000 frames or 30 days further than the time since then explains.",
    )
    image: str | None = Field(
        None,
        description="The whole frame, encoded as base64: boxes are cut out of it as extraction "
        "cuts them.",
    )
    image_width: Side | None = Field(None, description="In pixels; not with `image`.")
    image_height: Side | None = Field(None, description="In pixels; not with `image`.")
    box_frame: Literal["upright", "stored"] = Field(
        "upright",
        description="Of which image the boxes are: as it is shown, turned by EXIF, or of the pixels as "
        "the file stores them. `stored` needs `image`, which says how it is turned.",
    )
    detections: Annotated[list[LiveDetection], Field(fail_fast=True)] = Field(
        max_length=MAX_DETECTIONS, description="May be empty; then every track misses this frame."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        size = (self.image_width, self.image_height)
        if self.image is None and None in size:
            raise ValueError("give image_width and image_height: they are the unit of distance")
        if self.image is not None and size != (None, None):
            raise ValueError("image says how large it is; leave image_width and image_height out")
        if self.image is None and self.box_frame == "stored":
            raise ValueError(
                "box_frame 'stored' needs the frame's image, which says how it is turned"
            )
        contents = [detection.content for detection in self.detections]
        expected = (
            "nothing" if self.image is not None else "vector" if "vector" in contents else "image"
        )
        for number, detection in enumerate(self.detections):
            if contents[number] != expected:
                raise ValueError(
                    f"detection {number} has {contents[number]}; give the frame's image, or a "
                    "vector of every detection, or an image of every detection"
                )
            x1, y1, x2, y2 = detection.box
            if x2 <= x1 or y2 <= y1:
                raise ValueError(
                    f"detection {number}: box {list(detection.box)} has no area; it is x1, y1, x2, "
                    "y2"
                )
        duplicates = [name for name, count in Counter(self.detection_ids).items() if count > 1]
        if duplicates:
            raise ValueError(f"detection_id {duplicates[0][:100]!r} is given twice in this frame")
        return self

    @property
    def detection_ids(self) -> list[str]:
        """Id of every detection; ``request_id/number`` where none was given."""
        return [
            detection.detection_id or f"{self.request_id}/{number}"
            for number, detection in enumerate(self.detections)
        ]


class Link(LinkCost):
    """The link of one detection; costs are null where its track starts."""

    model_config = examples(_LINK)

    detection_id: str
    track_id: str | None = Field(description="null: a weak detection that extends no track.")
    position: int | None = Field(description="Position in the track; 0 is its first detection.")
    duplicate_of: str | None = Field(
        None,
        description="The detection of this frame that this one repeats, and whose track it has: the "
        "same box again, or one a few pixels apart; null: none.",
    )
    label: str | None = Field(description="The class; null where a vector was sent.")
    label_score: float | None = Field(description="The model's probability of that class.")


class LinkAnswer(BaseModel):
    """A linked frame. The header `Idempotent-Replayed: true` says it was linked before."""

    model_config = examples(
        {
            "sequence": "trap-4/2022-06-19",
            "frame": 57,
            "request_id": "trap-4/57",
            "restarted": None,
            "camera_move": None,
            "tracks_open": 3,
            "detections": [_LINK],
        }
    )

    sequence: str
    frame: int
    request_id: str
    restarted: str | None = Field(
        description="Why no earlier track is continued, such as other link options, another model, "
        "or a gap in time far beyond the rhythm of the sequence; null: nothing was in the way."
    )
    camera_move: tuple[float, float] | None = Field(
        None,
        description="Pixels to the right and downwards by which the picture moved since the last "
        "frame, because the camera did: most detections moved alike. It was taken out before "
        "linking. null: it did not, or too few detections could tell.",
    )
    tracks_open: int = Field(description="Tracks that the next frame may continue.")
    detections: list[Link] = Field(description="In the order of the request.")


class OpenTrack(BaseModel):
    """A track that the next frame may continue."""

    track_id: str
    length: int = Field(description="Number of detections.")
    detection_id: str = Field(description="Its last detection.")
    frame: int = Field(description="Frame of its last detection.")
    box: Box


class OpenSequence(BaseModel):
    """The last frame of a sequence, its open tracks, and what its state takes."""

    model_config = examples(
        {
            "sequence": "trap-4/2022-06-19",
            "frame": 57,
            "timestamp": "2022-06-20T00:29:59",
            "restarts": None,
            "tracks_started": 13,
            "bytes": 52_310,
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
    )

    sequence: str
    frame: int = Field(description="The last frame; the next must be later.")
    timestamp: CameraTime | None = Field(description="When it was taken, if that is known.")
    restarts: str | None = Field(
        description="Why the next frame would close all tracks; null: it would not."
    )
    tracks_started: int
    bytes: int = Field(description="Size of its state, with the answers that are kept.")
    tracks: list[OpenTrack]
