"""``torchvision:NAME``: torchvision's classifiers, each taken apart by a row of one table.

torchvision has no common interface for that, but every network is a chain: steps that keep
a map (the body), steps that make it one vector (the pool), and a classifier whose last
layer gives the class scores. Everything before that last layer makes the embedding.
"""

from __future__ import annotations

import math
import re
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import torch
import torchvision
from torch import nn

from cluster.errors import ModelError
from pipelines.backbones.base import Backbone, Level, Loaded, load_state, read_checkpoint
from pipelines.facts import Preprocess

Step = Callable[[torch.Tensor], torch.Tensor]


class Parts(NamedTuple):
    """Paths inside a network, in the order they run; ``a.*`` stands for all of ``a``'s children.

    A word that is no attribute of the network is an operation of ``_OPERATIONS``.
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
# Enough to tell the levels apart; two networks take no other size than their own.
_PROBE = 64
_PROBES = {"Inception3": 299, "MaxVit": 224}


class ChainBackbone(Backbone):
    """A network that is a chain of steps, taken apart as ``parts`` says."""

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
        """The last step at each resolution, measured: torchvision nowhere writes it down.

        Resolutions are powers of two; convolutions without padding come close to one.
        """
        found = {}
        with torch.inference_mode():
            x = self._prepare(torch.zeros(1, 3, probe, probe))
            for name, step in self._body:
                x = step(x)
                grid = self._nchw(x)
                reduction = 2 ** round(math.log2(probe / grid.shape[2]))
                found[reduction] = Level(name, grid.shape[1], reduction)
        return tuple(found.values())


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
    """Steps hand on ``[B, H, W, C]``."""

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


def names() -> list[str]:
    """All classifiers that torchvision can build."""
    return list(torchvision.models.list_models(module=torchvision.models))


def load(
    name: str,
    *,
    checkpoint: str | None = None,
    pretrained: bool = False,
    num_classes: int | None = None,
) -> Loaded:
    """Build ``name`` with the checkpoint's weights, torchvision's, or random ones (seed 0).

    ``num_classes`` is that of the labels, where there are any; a checkpoint's own count wins.

    Raises:
        ModelError: unknown name, a checkpoint that does not fit, or no way to the weights.
    """
    if name not in names():
        near = get_close_matches(name, names(), n=3)
        hint = (
            f"did you mean {', '.join(near)}?" if near else "see torchvision.models.list_models()"
        )
        raise ModelError(f"--model torchvision:{name}: torchvision has no such model; {hint}")
    known = torchvision.models.get_model_weights(name).DEFAULT
    transforms = known.transforms()
    if checkpoint:
        state, weights = read_checkpoint(checkpoint), checkpoint
    elif pretrained:
        state, weights = _fetch(name, known), f"torchvision {known.name}"
    else:
        state, weights = None, "random (seed 0)"
    count = num_classes if state is None else _classes_in(state)
    model = build(name, num_classes=count, image_size=transforms.crop_size[0])
    if state is not None:
        load_state(model, updated(state, model), file=weights, spec=f"torchvision:{name}")
    labels = tuple(known.meta["categories"]) if pretrained else None
    return Loaded(take_apart(model), _preprocess_of(transforms), labels, weights)


def build(name: str, *, num_classes: int | None = None, image_size: int = 224) -> nn.Module:
    """One of torchvision's networks with random weights, the same in every process."""
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        # Auxiliary heads serve training alone. torchvision's weights, and all that were tuned
        # from them, renormalise ImageNet's normalisation to 0.5 / 0.5 inside the network.
        options |= {"aux_logits": False, "init_weights": False, "transform_input": True}
    if name.startswith("vit_"):
        options["image_size"] = image_size  # its position embedding is of one size
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def updated(state: dict[str, Any], model: nn.Module) -> dict[str, Any]:
    """A checkpoint in the names of the present torchvision, without auxiliary heads.

    torchvision renames old checkpoints by the version that their metadata states, which
    reading them as plain tensors loses.
    """
    new: OrderedDict[str, Any] = OrderedDict()
    for key, tensor in state.items():
        if key.startswith(("AuxLogits.", "aux1.", "aux2.")):
            continue
        key = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
        key = re.sub(r"\.mlp\.linear_1\.", ".mlp.0.", key)
        new[re.sub(r"\.mlp\.linear_2\.", ".mlp.3.", key)] = tensor
    own = model.state_dict()
    for key, tensor in own.items():
        # Checkpoints older than this counter lack it; it plays no part in inference.
        if key.endswith("num_batches_tracked"):
            new.setdefault(key, tensor)
    new._metadata = own._metadata  # type: ignore[attr-defined]
    return new


def _classes_in(state: dict[str, Any]) -> int | None:
    """Rows of the last matrix under a classifier's name, auxiliary heads aside."""
    rows = [
        len(tensor)
        for key, tensor in state.items()
        if key.startswith(("classifier.", "fc.", "head.", "heads."))
        and key.endswith("weight")
        and tensor.ndim in (2, 4)
    ]
    return rows[-1] if rows else None


def _fetch(name: str, known: Any) -> dict[str, Any]:
    """torchvision's own weights, from its cache or its server.

    Raises:
        ModelError: neither has them.
    """
    url = urlsplit(known.url)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url.path).name
    try:
        if not cached.is_file():
            # The download itself has no timeout.
            socket.create_connection((url.hostname or "", 443), timeout=5).close()
        state: dict[str, Any] = known.get_state_dict(progress=False, check_hash=True)
    except Exception as error:
        raise ModelError(
            f"--pretrained: the weights of torchvision:{name} could not be fetched from "
            f"{url.hostname} ({type(error).__name__}); on a machine without it give "
            "--checkpoint FILE, or --model lite0 for weights from a Python package"
        ) from None
    return state


def _preprocess_of(transforms: Any) -> Preprocess:
    """A weights enum's own transforms in our words."""
    size = transforms.crop_size[0]
    return Preprocess(
        input_size=(size, size),
        resize="crop",
        crop_pct=size / transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
