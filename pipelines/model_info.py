"""What a model was asked to be, and what it turned out to be: plain records, no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from common.json_models import JsonModel, sha256_json

Precision = Literal["fp32", "bf16", "fp16"]
EngineName = Literal["eager", "compile", "openvino"]
FeaturePoint = Literal["penultimate", "map_mean"]
WeightsChoice = Literal["ema", "raw"]


class Preprocess(JsonModel):
    """How an image becomes network input; sizes in pixels, mean and std on a 0..1 scale."""

    input_size: tuple[int, int]  # height, width
    resize: Literal["squash", "crop", "pad"] = "crop"
    crop_pct: float = 1.0  # "crop" only: the input is this share of the resized short side
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


class ModelRequest(JsonModel):
    """Everything a user can say about the model; enough to build it again elsewhere."""

    spec: str
    checkpoint: str | None = None
    labels: str | None = None
    pretrained: bool = False
    input_size: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Literal["bilinear", "bicubic"] | None = None
    resize: Literal["squash", "crop", "pad"] | None = None
    # map_mean: the average of the unpooled map, what older extractors stored.
    feature_point: FeaturePoint = "penultimate"
    output_stride: int | None = None  # input pixels a cell of the last map
    head: str | None = None  # a classifier trained on stored features, in place of its own
    random_weights: bool = False  # the network untrained, to compare with
    # Of a checkpoint that holds both: the moving average, or the weights that it is of.
    weights: WeightsChoice | None = None


class GateRequest(JsonModel):
    """A model that decides, before the species model, which rows get a class.

    Every row gets an embedding: the model's own, for which it runs on every row; or the
    gate's, and then the model runs only where the gate lets it.
    """

    model: ModelRequest
    label: str  # rows of this class pass
    threshold: float  # with at least this score
    embed: Literal["model", "gate"]


class Outputs(JsonModel):
    """What a run keeps of each pass beside class and embedding."""

    logits: bool = False
    map: bool = False  # the unpooled feature map
    pyramid: tuple[int, ...] = ()  # levels of the network, by index; -1 is the last


class MapInfo(JsonModel):
    """One kept feature map: a Parquet column and an HDF5 dataset, float32 ``[N, *shape]``."""

    name: str  # "feature_map", or "pyramid/" and the level's name
    level: int | None  # index into the pyramid; None for the unpooled map
    shape: tuple[int, ...]  # of one image: (C, H, W), or as the network has it
    reduction: int | None  # input pixels a cell; None where the map is no grid


class HeadInfo(JsonModel):
    """A classifier trained on a model's stored features, and the features it wants."""

    features: Literal["pooled", "map"]
    shape: tuple[int, ...]  # of one row's features: (D,), or the map's, which is flattened
    hidden: tuple[int, ...]  # widths of hidden layers; none: a linear head
    dropout: float
    classes: tuple[str, ...]  # at least two
    spec: str  # the model whose features these are, for people
    fingerprint: str  # of that model; features of another mean nothing to this head


class ModelInfo(JsonModel):
    """What a built model turned out to be."""

    request: ModelRequest
    weights: str  # where they came from, for people
    weights_sha256: str
    labels_sha256: str | None
    num_classes: int
    feature_dim: int
    feature_kind: Literal["pooled", "map_mean"] = "pooled"
    preprocess: Preprocess
    maps: tuple[MapInfo, ...] = ()  # in the order the network gives them
    head: HeadInfo | None = None  # whose classes these are, if not the model's own
    head_sha256: str | None = None

    def located(self, find: Callable[[str], str]) -> ModelInfo:
        """The same, with the files of its request where they are now.

        Args:
            find: where a file is, given where it was.
        """
        files = {name: getattr(self.request, name) for name in ("checkpoint", "labels", "head")}
        found = {name: find(file) for name, file in files.items() if file is not None}
        return self.model_copy(update={"request": self.request.model_copy(update=found)})

    @property
    def fingerprint(self) -> str:
        """Hash of what decides an embedding's value; runs that differ never share an index.

        Precision and engine are left out: they move a value by rounding only, and the run's
        audit says by how much. Labels are left out: they name classes.
        """
        decisive = self.model_dump(include={"weights_sha256", "feature_kind", "preprocess"})
        if self.request.output_stride is not None:
            decisive["output_stride"] = self.request.output_stride
        return sha256_json(decisive | {"spec": self.request.spec})

    @property
    def answers_sha256(self) -> str:
        """Hash of all that decides what the network computes, kept maps and head included."""
        decisive: dict[str, Any] = {
            "fingerprint": self.fingerprint,
            "maps": self.model_dump()["maps"],
        }
        if self.head_sha256 is not None:
            decisive["head"] = self.head_sha256
        return sha256_json(decisive)


class PrecisionAudit(JsonModel):
    """Some rows of the run, computed in the run's engine and precision and in exact float32."""

    rows: int
    cosine_mean: float
    cosine_min: float
    top1_agreement: float
