"""The one configuration of a detection: options of ``onepass detect``, and what its folder says it was made with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from cluster.executors import ExecutorChoice
from common.json_models import JsonModel, option
from pipelines.config import RUN, SOURCE, File, as_text

DETECTOR = "Detector"

# How it is executed, not what is found: the same folder may be continued with others.
EXECUTION = frozenset({"executor", "address"})


class DetectConfig(JsonModel):
    """All that ``detect`` is asked for; frozen, and checked when it is made."""

    source: Annotated[str, BeforeValidator(as_text)] = Field(
        description="A folder of images or videos, a manifest (.parquet, .csv, .tsv, .jsonl) with a column "
        "'image', or a database's URL. Boxes that it has are not used: every image is looked at once."
    )
    detector: str = Field(
        description="ami:2021, ami:2023 or ami:mobilenet-2023, the detectors of the AMI data companion; "
        "or torchvision:NAME, such as torchvision:fasterrcnn_resnet50_fpn_v2.",
        json_schema_extra={"panel": DETECTOR},
    )
    checkpoint: File = Field(
        description="The detector's weights, of torch.save or safetensors.",
        json_schema_extra={"panel": DETECTOR},
    )
    labels: File | None = option(
        DETECTOR,
        "Names of its classes without the background, one a line; their number is that of the "
        "checkpoint. An ami: detector has one, 'object'.",
    )
    score: float | None = option(
        DETECTOR,
        "Boxes of a lower score are left out; if not given, that of the preset (ami:2021 0.99, ami:2023 "
        "0.8, ami:mobilenet-2023 0.5), and 0.5 for torchvision.",
        ge=0,
        le=1,
    )
    max_boxes: int = option(
        DETECTOR, "Most boxes of an image: those of the highest scores.", 500, ge=1
    )
    kind: Literal["images", "video"] = option(
        SOURCE, "images, or video: videos and other clips, frame by frame.", "images"
    )
    frames: int | None = option(
        SOURCE,
        "kind video: frames of each, spread evenly over it; 0: every frame; 64 if not given.",
        ge=0,
    )
    limit: int | None = option(SOURCE, "So many images or videos only, for trying out.", ge=1)
    where: str | None = option(
        SOURCE, "Only rows that match, in SQL over the source's columns: \"camera = 'a'\"."
    )
    executor: ExecutorChoice = option(
        RUN, "local: in this process; ray: on a cluster; auto: on one where one is named.", "auto"
    )
    address: str | None = option(RUN, "A Ray cluster to work on, if not that of RAY_ADDRESS.")

    @model_validator(mode="after")
    def _consistent(self) -> DetectConfig:
        if self.frames is not None and self.kind != "video":
            raise ValueError(f"`frames={self.frames}` is for videos; set `kind='video'`")
        return self


class DetectorInfo(JsonModel):
    """What a folder says of the detector that made it."""

    spec: str
    weights_sha256: str
    labels: tuple[str, ...]  # of its classes, without the background
    score: float  # boxes of a lower one were left out
    max_boxes: int  # of an image
