"""``ami:NAME``: the six classifiers of the AMI camera-trap data companion.

Their checkpoints hold weights alone, so the network's layout and its preprocessing are
written down here; class names come with ``--labels``, a category map ``{name: index}``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import timm
import torch
from torch import nn

from common.errors import ModelError
from pipelines.model_info import ModelRequest, Preprocess
from pipelines.models.base import (
    Backbone,
    Loaded,
    fixed_seed,
    unknown_model,
)
from pipelines.models.checkpoint import load_state, read_checkpoint
from pipelines.models.timm_family import TimmBackbone
from pipelines.models.torchvision_family import build
from pipelines.models.torchvision_parts import ChainBackbone, Parts, take_apart

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


class Resnet50(nn.Module):
    """torchvision's ResNet-50 up to its last map, and a classifier without bias."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(*list(build("resnet50").children())[:-2])
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.classifier = nn.Linear(2048, num_classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.classifier(self.avgpool(self.backbone(x)).flatten(1))
        return logits


def _resnet50(num_classes: int) -> Backbone:
    parts = Parts("backbone.*", "avgpool flatten", "classifier")
    return ChainBackbone(Resnet50(num_classes), parts)


def _plain_resnet50(num_classes: int) -> Backbone:
    return take_apart(build("resnet50", num_classes=num_classes))


def _timm(name: str) -> Callable[[int], Backbone]:
    return lambda num_classes: TimmBackbone(timm.create_model(name, num_classes=num_classes))


class Kind(NamedTuple):
    """One row: its builder, the weight whose rows are the classes, its preprocessing."""

    make: Callable[[int], Backbone]
    last: str
    size: int
    norm: tuple[tuple[float, float, float], tuple[float, float, float]]


KINDS = {
    "resnet50": Kind(_resnet50, "classifier.weight", 300, IMAGENET),
    "resnet50-turing": Kind(_resnet50, "classifier.weight", 300, HALF),
    "resnet50-lowres": Kind(_plain_resnet50, "fc.weight", 128, IMAGENET),
    # The models of 2024 were trained at 128 pixels: --input-size 128.
    "resnet50-timm": Kind(_timm("resnet50"), "fc.weight", 300, IMAGENET),
    "efficientnet": Kind(_timm("tf_efficientnetv2_b3"), "classifier.weight", 300, HALF),
    # Trained as convnext_tiny_in22k, an older name of the same architecture.
    "convnext-order": Kind(_timm("convnext_tiny"), "head.fc.weight", 128, IMAGENET),
}


def load(request: ModelRequest, num_classes: int | None = None) -> Loaded:
    """Build a network with the checkpoint's weights, or random ones (seed 0).

    Args:
        request: its spec names one of ``KINDS``; a checkpoint's number of classes is used.
        num_classes: without a checkpoint; default 2.

    Raises:
        ModelError: unknown name, or a checkpoint that does not fit.
    """
    spec, checkpoint = request.spec, request.checkpoint
    if request.pretrained:
        raise ModelError(
            f"`pretrained=True`: {spec} has no public weights to fetch; give a `checkpoint`"
        )
    kind = KINDS.get(spec.partition(":")[2])
    if kind is None:
        raise unknown_model(spec, "no such AMI classifier", KINDS, f"known are {', '.join(KINDS)}")
    state: dict[str, torch.Tensor] = {}
    weights = "random (seed 0)"
    if checkpoint:
        with torch.device("meta"):
            names = kind.make(2).model.state_dict()
        state, weights = read_checkpoint(checkpoint, names, request.weights)
    count = len(state[kind.last]) if kind.last in state else num_classes or 2
    with fixed_seed():
        backbone = kind.make(count)
    if checkpoint:
        load_state(backbone.model, state, file=checkpoint, spec=spec)
    mean, std = kind.norm
    return Loaded(
        backbone,
        Preprocess(input_size=(kind.size, kind.size), resize="squash", mean=mean, std=std),
        None,
        weights,
    )
