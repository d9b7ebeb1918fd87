"""The options of ``extract`` and ``link`` as keywords, for editors and type checkers.

The configurations are the source: tests hold that names and types here are theirs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypedDict

from cluster.executors import ExecutorChoice
from pipelines.config import Feature


class ModelOptions(TypedDict, total=False):
    """Keywords of ``extract`` and ``migrate``; ``ExtractConfig`` describes them."""

    checkpoint: str | Path | None
    weights: Literal["ema", "raw"] | None
    labels: str | Path | None
    pretrained: bool
    random_weights: bool
    head: str | Path | None
    input_size: int | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    interpolation: Literal["bilinear", "bicubic"] | None
    resize: Literal["squash", "crop", "pad"] | None
    feature_point: Literal["penultimate", "map_mean"]
    output_stride: int | None
    gate: str | None
    gate_label: str | None
    gate_threshold: float
    gate_checkpoint: str | Path | None
    gate_weights: Literal["ema", "raw"] | None
    gate_labels: str | Path | None
    embed_with: Literal["model", "gate"]
    features: Sequence[Feature]
    feature_indices: Sequence[int]
    top_k: int
    logits: bool
    hdf5: bool
    precision: Literal["auto", "fp32", "bf16", "fp16"]
    engine: Literal["auto", "eager", "compile", "openvino"]
    executor: ExecutorChoice
    address: str | None
    batch_rows: int | None
    gpus_per_actor: float
    stall_seconds: float


class ExtractOptions(ModelOptions, total=False):
    """Keywords of ``extract``."""

    kind: Literal["images", "video"]
    frames: int | None
    limit: int | None
    where: str | None
    boxes: Literal["xyxy", "xywh", "cxcywh"] | None
    box_units: Literal["pixels", "normalised"] | None
    box_frame: Literal["stored", "upright"] | None
    damaged: Literal["error", "keep"]
    id_prefix: str | None


class LinkKeywords(TypedDict, total=False):
    """Keywords of ``link``; ``LinkOptions`` describes them."""

    method: Literal["online", "offline"]
    feature_weight: float
    iou_weight: float
    area_weight: float
    distance_weight: float
    max_cost: float
    max_gap_frames: int | None
    max_gap_seconds: float | None
    appearance: Literal["average", "gallery"]
    appearance_memory: float
    gallery_size: int
    motion_gate: float | None
    strong_score: float | None
    individuals: int | None
    camera_moves: bool
    assignment: Literal["optimal", "greedy", "cheapest"]


class DetectOptions(TypedDict, total=False):
    """Keywords of ``detect``; ``DetectConfig`` describes them."""

    labels: str | Path | None
    score: float | None
    max_boxes: int
    kind: Literal["images", "video"]
    frames: int | None
    limit: int | None
    where: str | None
    executor: ExecutorChoice
    address: str | None
