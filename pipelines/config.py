"""The one configuration of an extraction, and what it reports while it runs.

The fields of ``ExtractConfig`` are the options of ``onepass extract``, the parameters of
``onepass.extract``, what stands in ``request.json``, and what the manifest says.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from cluster.executors import ExecutorChoice
from common.json_models import JsonModel, option
from pipelines.model_info import GateRequest, ModelRequest, Outputs, WeightsChoice

Feature = Literal["pooled", "map", "pyramid"]
FEATURES: tuple[Feature, ...] = get_args(Feature)

OnDamage = Literal["error", "keep"]

VIDEO_SIDE = 256  # pixels of a frame's side, squashed: what clip features are usually made from

# How a run is executed, not what its rows are: the same run may be continued with others.
EXECUTION = frozenset({"batch_rows", "gpus_per_actor", "executor", "address", "stall_seconds"})

# How a source is read: what is made again of a run's rows takes it from the run.
READING = frozenset(
    {"source", "kind", "frames", "limit", "where", "damaged", "from_run"}
    | {"boxes", "box_units", "box_frame"}
)


def _absolute(file: Any) -> Any:
    """An absolute path without links, which is valid in other processes and working folders."""
    return str(Path(file).resolve()) if isinstance(file, str | Path) and str(file) else file


def as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _parts(value: Any) -> Any:
    """Values in one text, separated by commas, as the command line gives them."""
    if value is None:
        return ()
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _three(value: Any) -> Any:
    """Three numbers, or their text."""
    try:
        first, second, third = map(float, _parts(value))
    except (TypeError, ValueError):
        raise ValueError("give three numbers, as 0.5,0.5,0.5") from None
    return first, second, third


File = Annotated[str, BeforeValidator(_absolute)]


def _in_order(features: tuple[Feature, ...]) -> tuple[Feature, ...]:
    """The same features in one order, pooled among them: however they were given, they are equal."""
    return tuple(name for name in FEATURES if name == "pooled" or name in features)


Three = Annotated[tuple[float, float, float], BeforeValidator(_three)]
SOURCE, MODEL, GATE, KEEP, RUN = "Source", "Model", "Gate", "What is kept", "How it runs"


class ExtractConfig(JsonModel):
    """All that ``extract`` is asked for; frozen, and checked when it is made."""

    source: Annotated[str, BeforeValidator(as_text)] = Field(
        description="A folder of images; a manifest (.parquet, .csv, .tsv, .jsonl) with a column 'image' "
        "and, if you have boxes, x1 y1 x2 y2 in pixels; a file of MegaDetector, COCO, Label Studio, "
        "CVAT, MOTChallenge or Camtrap DP; a folder of videos; or an AMI database, as "
        "sqlite:///ami.db or postgresql+psycopg://user@host/name (its password is best kept in "
        "PGPASSWORD or ~/.pgpass)."
    )
    kind: Literal["images", "video"] = option(
        SOURCE,
        "video: SPLIT/CATEGORY/… of videos, folders of images, or .pt tensors; frames are squashed "
        "to 256 pixels unless you say otherwise.",
        "images",
    )
    frames: int | None = option(
        SOURCE, "Of each video, evenly spread; 64 if not given, 0 for every frame.", ge=0
    )
    limit: int | None = option(SOURCE, "So many images or videos only, for trying out.", ge=1)
    where: str | None = option(
        SOURCE,
        "Only rows that match, in SQL over the source's columns, as for query --where: "
        "\"binary_label = 'moth'\". Of a database also deployment and night.",
    )
    boxes: Literal["xyxy", "xywh", "cxcywh"] | None = option(
        SOURCE,
        "What the four numbers of a manifest's boxes are, if its columns' names do not say it: "
        "corners, left top and size, or centre and size.",
    )
    box_units: Literal["pixels", "normalised"] | None = option(
        SOURCE,
        "Of a manifest's boxes; normalised: shares, 0 to 1, of the image's width and height.",
    )
    box_frame: Literal["stored", "upright"] | None = option(
        SOURCE,
        "Of which image the boxes are: of the pixels as the file stores them, or turned by EXIF, as "
        "people see it. Without it: upright of manifests, stored of AMI databases; see the guide.",
    )
    damaged: OnDamage = option(
        SOURCE,
        "keep: as much of a damaged image as its decoder gives, and the column image_damage says "
        "what is wrong; else its rows are errors.",
        "error",
    )
    id_prefix: str | None = option(
        SOURCE,
        "Put before every id, so that sources which name their rows alike, as two AMI databases do, "
        "can share an index.",
    )
    # The source is a run: its rows again, read as they were read then.
    from_run: bool = False

    model: str = Field(
        description="lite0 (EfficientNet-Lite0, ImageNet classes, no download), timm:NAME, "
        "torchvision:NAME, ami:NAME, or tiny (for trying things out); see onepass models.",
    )
    checkpoint: File | None = option(
        MODEL, "Your weights for the model: a file of torch.save or safetensors."
    )
    weights: WeightsChoice | None = option(
        MODEL,
        "Of a checkpoint that holds both: ema, the moving average, or raw, the weights that it is "
        "of; ema where there is one, as timm does, if not given.",
    )
    labels: File | None = option(MODEL, "Class names: one a line, or JSON {name: index}.")
    pretrained: bool = option(MODEL, "Fetch the model's own weights.", False)
    random_weights: bool = option(MODEL, "The network untrained, to compare with.", False)
    head: File | None = option(
        MODEL, "Classes by this head (onepass probe train), not by the model's own."
    )
    input_size: int | None = option(MODEL, "Pixels a side, if not the model's.", ge=1)
    mean: Three | None = option(MODEL, "Three numbers 0..1, as 0.5,0.5,0.5.")
    std: Three | None = option(MODEL, "Three numbers 0..1, as 0.5,0.5,0.5.")
    interpolation: Literal["bilinear", "bicubic"] | None = option(
        MODEL, "How images are resized, if not as the model wants it."
    )
    resize: Literal["squash", "crop", "pad"] | None = option(
        MODEL, "squash ignores the aspect ratio, crop keeps the centre, pad fits in."
    )
    feature_point: Literal["penultimate", "map_mean"] = option(
        MODEL, "Where the embedding is taken; map_mean: the average of the map.", "penultimate"
    )
    output_stride: int | None = option(
        MODEL, "Input pixels a cell of the last map, where it can be set.", ge=1
    )

    gate: str | None = option(GATE, "A model that decides first which rows get a class.")
    gate_label: str | None = option(GATE, "The gate's class that passes.")
    gate_threshold: float = option(GATE, "The least score that passes.", 0.5, ge=0, le=1)
    gate_checkpoint: File | None = option(GATE, "The gate's weights.")
    gate_weights: WeightsChoice | None = option(GATE, "Of the gate's checkpoint, as `weights`.")
    gate_labels: File | None = option(GATE, "The gate's class names.")
    embed_with: Literal["model", "gate"] = option(
        GATE,
        "Whose embedding every row gets. gate: the model runs only on rows that pass.",
        "model",
    )

    features: Annotated[tuple[Feature, ...], BeforeValidator(_parts), AfterValidator(_in_order)] = (
        option(
            KEEP,
            "What to keep of the pass: pooled (always), map (unpooled), pyramid (levels).",
            ("pooled",),
        )
    )
    feature_indices: Annotated[tuple[int, ...], BeforeValidator(_parts)] = option(
        KEEP, "Levels of the pyramid, as 2,4; see onepass models describe.", ()
    )
    top_k: int = option(KEEP, "Best classes of each row to keep.", 5, ge=1)
    logits: bool = option(KEEP, "Also keep all logits.", False)
    hdf5: bool = option(KEEP, "Also write features.h5.", False)

    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        RUN, "auto: half where the hardware is faster in it and classes survive it.", "auto"
    )
    engine: Literal["auto", "eager", "compile", "openvino"] = option(
        RUN, "auto: another than eager where the rows repay building it.", "auto"
    )
    executor: ExecutorChoice = option(
        RUN,
        "local: this process. ray: the cluster of RAY_ADDRESS, or a Ray of its own. auto: ray with "
        "a cluster, in a Ray job, or with two GPUs or more; else local.",
        "auto",
    )
    address: str | None = option(RUN, "A Ray cluster to work on, if not that of RAY_ADDRESS.")
    batch_rows: int | None = option(
        RUN, "Images a forward pass, if not what suits the device.", ge=1
    )
    gpus_per_actor: float = option(RUN, "0.5 puts two actors on a GPU.", 1.0, ge=0.05, le=1)
    stall_seconds: float = option(
        RUN, "Give up, with an error, when no row moves for this long.", 300.0, ge=1
    )

    @model_validator(mode="after")
    def _consistent(self) -> ExtractConfig:
        if self.frames is not None and self.kind != "video":
            raise ValueError(f"`frames={self.frames}` is for videos; set `kind='video'`")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"`std={_joined(self.std)}`: each must be above 0")
        if ("pyramid" in self.features) != bool(self.feature_indices):
            raise ValueError(
                "`features='pyramid'` and `feature_indices='2,4'` go together; the levels are "
                "listed by onepass models describe"
            )
        if len(set(self.feature_indices)) != len(self.feature_indices):
            raise ValueError(f"`feature_indices={_joined(self.feature_indices)}`: each level once")
        for checkpoint, weights in (("checkpoint", "weights"), ("gate_checkpoint", "gate_weights")):
            if getattr(self, weights) and not getattr(self, checkpoint):
                raise ValueError(
                    f"`{weights}={getattr(self, weights)!r}` is of a `{checkpoint}`; give that as well"
                )
        others = self.gate_label or self.gate_checkpoint or self.gate_labels
        if self.gate is None and (others or self.embed_with == "gate"):
            raise ValueError(
                "`gate_label`, `gate_checkpoint`, `gate_labels` and `embed_with='gate'` need "
                "`gate`, the model that decides"
            )
        if self.gate is not None and self.gate_label is None:
            raise ValueError(
                f"`gate={self.gate!r}`: say which of its classes passes, with `gate_label`"
            )
        return self

    def for_source(self) -> ExtractConfig:
        """The same with what follows from the kind of source: frames of videos are squashed."""
        if self.kind != "video":
            return self
        defaults = {"input_size": VIDEO_SIDE, "resize": "squash"}
        return self.model_copy(
            update={name: value for name, value in defaults.items() if getattr(self, name) is None}
        )

    @property
    def model_request(self) -> ModelRequest:
        """The model, with all that changes what it answers."""
        own = {name: getattr(self, name) for name in ModelRequest.model_fields if name != "spec"}
        return ModelRequest(spec=self.model, **own)

    @property
    def gate_request(self) -> GateRequest | None:
        """The model that decides first which rows get a class."""
        if self.gate is None or self.gate_label is None:
            return None
        return GateRequest(
            model=ModelRequest(
                spec=self.gate,
                checkpoint=self.gate_checkpoint,
                weights=self.gate_weights,
                labels=self.gate_labels,
            ),
            label=self.gate_label,
            threshold=self.gate_threshold,
            embed=self.embed_with,
        )

    @property
    def outputs(self) -> Outputs:
        """What is kept of each pass beside class and embedding."""
        return Outputs(logits=self.logits, map="map" in self.features, pyramid=self.feature_indices)

    def decisive(self) -> dict[str, Any]:
        """What decides the rows of a run; a run is continued only with the same."""
        unused = () if self.gate is not None else ("gate_threshold",)
        return self.model_dump(exclude={*EXECUTION, *unused})


def _joined(values: Sequence[float]) -> str:
    return repr(",".join(f"{value:g}" for value in values))


@dataclass(frozen=True)
class Progress:
    """How far an extraction is, for a progress bar."""

    stage: Literal["planning", "waiting", "starting", "measuring", "extracting", "hdf5", "checking"]
    done: int
    planned: int
    failed: int = 0  # of those done in this session, with an error
