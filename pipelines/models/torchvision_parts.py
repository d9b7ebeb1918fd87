"""torchvision's classifiers, each split as a row of one table says.

torchvision has no common interface for that, but every network is a chain: steps that keep a map
(the body), steps that make it one vector (the pool), and a classifier whose last layer gives the
class scores. Everything before that last layer makes the embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import nn

from common.errors import ModelError
from pipelines.models.base import Backbone, Level

Step = Callable[[torch.Tensor], torch.Tensor]


class Parts(NamedTuple):
    """Paths inside a network, in the order they run; ``a.*`` means all of ``a``'s children.

    A word that is no child of the network is an operation of ``_OPERATIONS``.
    """

    body: str
    pool: str
    head: str


_OPERATIONS: dict[str, Step] = {
    "flatten": lambda x: x.flatten(1),
    "mean": lambda x: x.mean((2, 3)),
    "relu": torch.relu,
}
_RESNET = "conv1 bn1 relu maxpool layer1 layer2 layer3 layer4"
_GOOGLENET = (
    "conv1 maxpool1 conv2 conv3 maxpool2 inception3a inception3b maxpool3 inception4a "
    "inception4b inception4c inception4d inception4e maxpool4 inception5a inception5b"
)
_INCEPTION = (
    "Conv2d_1a_3x3 Conv2d_2a_3x3 Conv2d_2b_3x3 maxpool1 Conv2d_3b_1x1 Conv2d_4a_3x3 maxpool2 "
    "Mixed_5b Mixed_5c Mixed_5d Mixed_6a Mixed_6b Mixed_6c Mixed_6d Mixed_6e "
    "Mixed_7a Mixed_7b Mixed_7c"
)
_PARTS = {
    "AlexNet": Parts("features.*", "avgpool flatten", "classifier"),
    "ConvNeXt": Parts("features.*", "avgpool", "classifier"),
    "DenseNet": Parts("features.* relu", "mean", "classifier"),
    "EfficientNet": Parts("features.*", "avgpool flatten", "classifier"),
    "GoogLeNet": Parts(_GOOGLENET, "avgpool flatten", "fc"),
    "Inception3": Parts(_INCEPTION, "avgpool flatten", "fc"),
    "MNASNet": Parts("layers.*", "mean", "classifier"),
    "MaxVit": Parts("stem blocks.*", "", "classifier"),
    "MobileNetV2": Parts("features.*", "mean", "classifier"),
    "MobileNetV3": Parts("features.*", "avgpool flatten", "classifier"),
    "RegNet": Parts("stem trunk_output.*", "avgpool flatten", "fc"),
    "ResNet": Parts(_RESNET, "avgpool flatten", "fc"),
    "ShuffleNetV2": Parts("conv1 maxpool stage2 stage3 stage4 conv5", "mean", "fc"),
    "SqueezeNet": Parts("features.*", "mean", "classifier"),
    "SwinTransformer": Parts("features.* norm", "avgpool flatten", "head"),
    "VGG": Parts("features.*", "avgpool flatten", "classifier"),
    "VisionTransformer": Parts("encoder", "", "heads"),
}
# Pixels a side of the image that measures the levels. Too few for networks that lose cells at
# each edge, and MaxVit takes no other size than its own.
_PROBE = 64
_PROBES = {"AlexNet": 224, "Inception3": 299, "MaxVit": 224}


class ChainBackbone(Backbone):
    """A network that is a chain of steps, split as ``parts`` says."""

    def __init__(self, model: nn.Module, parts: Parts, *, probe: int = _PROBE) -> None:
        super().__init__(model)
        self._body = [
            (name, step) for word in parts.body.split() for name, step in _at(model, word)
        ]
        classifier = model.get_submodule(parts.head)
        layers = list(classifier) if isinstance(classifier, nn.Sequential) else [classifier]
        self._pool = [step for word in parts.pool.split() for _, step in _at(model, word)]
        self._pool += layers[:-1]
        self._classifier = layers[-1]
        self.levels = self._measure(probe)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self.features_and_levels(x, ())[0]

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        for step in self._pool:
            feature_map = step(feature_map)
        return feature_map

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._classifier(pooled)
        return logits

    def features_and_levels(
        self, x: torch.Tensor, indices: Sequence[int]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        wanted = [self.levels[index].name for index in indices]
        kept = {}
        x = self._prepare(x)
        for name, step in self._body:
            x = step(x)
            if name in wanted:
                kept[name] = self._nchw(x)
        return self._nchw(x), tuple(kept[name] for name in wanted)

    def _prepare(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def _nchw(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def _measure(self, probe: int) -> tuple[Level, ...]:
        """The last step at each resolution, measured because torchvision does not state it.

        Reductions are powers of two; with convolutions without padding, nearly so.
        """
        levels = {}
        with torch.inference_mode():
            x = self._prepare(torch.zeros(1, 3, probe, probe))
            for name, step in self._body:
                x = step(x)
                grid = self._nchw(x)
                reduction = 2 ** round(math.log2(probe / grid.shape[2]))
                levels[reduction] = Level(name, grid.shape[1], reduction)
        return tuple(levels.values())


class _Inception(ChainBackbone):
    """GoogLeNet and Inception v3 renormalise their input first, as their weights expect."""

    def _prepare(self, x: torch.Tensor) -> torch.Tensor:
        prepared: torch.Tensor = self.model._transform_input(x)  # type: ignore[operator]
        return prepared


class _SqueezeNet(ChainBackbone):
    """Class scores are a convolution's and pass a ReLU before they are averaged.

    The average cannot be moved across a ReLU, so they do not follow from averaged features:
    the embedding is the map's average, and the classifier runs over the map.
    """

    def __init__(self, model: nn.Module, parts: Parts, *, probe: int) -> None:
        super().__init__(model, parts, probe=probe)
        self._pool = [_OPERATIONS["mean"]]

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError("scores come from the map: use classify(feature_map, pooled)")

    def classify(self, feature_map: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model.classifier(feature_map)  # type: ignore[operator]
        return logits.flatten(1)


class _Swin(ChainBackbone):
    """Its steps pass on ``[B, H, W, C]``."""

    def _nchw(self, x: torch.Tensor) -> torch.Tensor:
        return x.permute(0, 3, 1, 2)


class _ViT(ChainBackbone):
    """The map is tokens ``[B, 1 + N, D]``, the class token first; there is no pyramid."""

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        return super().pool(feature_map[:, 0])

    def mean(self, feature_map: torch.Tensor) -> torch.Tensor:
        return feature_map[:, 1:].mean(1)

    def _prepare(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.model._process_input(x)  # type: ignore[operator]
        first = self.model.class_token.expand(tokens.shape[0], -1, -1)  # type: ignore[operator]
        return torch.cat((first, tokens), dim=1)

    def _measure(self, probe: int) -> tuple[Level, ...]:
        return ()


_BACKBONES: dict[str, type[ChainBackbone]] = {
    "GoogLeNet": _Inception,
    "Inception3": _Inception,
    "SqueezeNet": _SqueezeNet,
    "SwinTransformer": _Swin,
    "VisionTransformer": _ViT,
}


def take_apart(model: nn.Module) -> ChainBackbone:
    """The backbone of one of torchvision's networks, by its class.

    Raises:
        ModelError: a class that is not in the table.
    """
    kind = type(model).__name__
    if kind not in _PARTS:
        raise ModelError(f"torchvision's {kind} is not supported; supported are {sorted(_PARTS)}")
    backbone = _BACKBONES.get(kind, ChainBackbone)
    return backbone(model, _PARTS[kind], probe=_PROBES.get(kind, _PROBE))


def _at(model: nn.Module, word: str) -> list[tuple[str, Step]]:
    path = word.removesuffix(".*")
    if path.partition(".")[0] not in dict(model.named_children()):
        return [(word, _OPERATIONS[word])]
    module = model.get_submodule(path)
    if path == word:
        return [(word, module)]
    return [(f"{path}.{name}", child) for name, child in module.named_children()]
