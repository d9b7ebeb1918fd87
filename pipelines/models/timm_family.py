"""``timm:NAME``: any classifier that timm can build, split by timm's own methods.

Which parts are used follows from the model's structure, once, when it is built:

===========================  ============================================================
the classifier is            logits are
===========================  ============================================================
one layer (nearly always)    that layer over the pooled features
a 1x1 convolution            the same, over the pooled features as a 1x1 map
anything else: one a branch  timm's whole ``forward_head`` over the feature map: the body
(distilled, crossvit), with  still runs once, but the logits do not follow from ``pooled``
pooling inside (sequencer),
or with a second one (volo)
===========================  ============================================================
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import timm
import timm.data
import torch
from huggingface_hub import constants as hub
from torch import nn

from common.errors import ModelError, first_line
from common.network import check_port
from pipelines.model_info import ModelRequest, Preprocess
from pipelines.models.base import (
    Backbone,
    Level,
    Loaded,
    fetch_error,
    fixed_seed,
    unknown_model,
)
from pipelines.models.checkpoint import load_state, read_checkpoint
from pipelines.models.timm_sizes import resize, trained_size

_RESIZE = {"center": "crop", "squash": "squash", "border": "pad"}


class TimmBackbone(Backbone):
    """timm's ``forward_features``, ``forward_head(pre_logits=True)`` and classifier.

    A few networks end in several maps (coat, crossvit, efficientvim). Their feature map is
    ``[B, N]``, the maps flattened one after another.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        if not (hasattr(model, "get_classifier") and hasattr(model, "forward_head")):
            raise ModelError(
                f"{type(model).__name__} has no classifier to separate; choose another model"
            )
        self.classifier = _one_layer(model)
        self.levels = _levels(model)
        self._shapes: tuple[torch.Size, ...] = ()  # of several maps, each without B

    def features(self, x: torch.Tensor) -> torch.Tensor:
        return self._packed(self.model.forward_features(x))  # type: ignore[operator]

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.model.forward_head(  # type: ignore[operator]
            self._unpacked(feature_map), pre_logits=True
        )
        return pooled

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        if self.classifier is None:
            raise NotImplementedError("several classifiers: use classify(feature_map, pooled)")
        if isinstance(self.classifier, nn.Conv2d):
            pooled = pooled[:, :, None, None]
        logits: torch.Tensor = self.classifier(pooled)
        return logits.flatten(1)

    def classify(self, feature_map: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        if self.classifier is not None:
            return self.head(pooled)
        logits: torch.Tensor = self.model.forward_head(  # type: ignore[operator]
            self._unpacked(feature_map)
        )
        return logits

    def mean(self, feature_map: torch.Tensor) -> torch.Tensor:
        if self._shapes:
            raise ModelError(
                f"`feature_point='map_mean'`: {type(self.model).__name__} ends in "
                f"{len(self._shapes)} maps of different sizes; use penultimate"
            )
        if feature_map.ndim == 3:  # [B, N, D], or [B, D, N]
            if self._channels_first(feature_map):
                return feature_map.mean(2)
            return feature_map[:, _prefix_tokens(self.model, feature_map.shape[1]) :].mean(1)
        return feature_map.mean((2, 3) if self._channels_first(feature_map) else (1, 2))

    def features_and_levels(
        self, x: torch.Tensor, indices: Sequence[int]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        # timm gives each level once and from the shallowest, whatever the requested order.
        positions = [index % len(self.levels) for index in indices]
        ascending = sorted(set(positions))
        final, levels = self.model.forward_intermediates(  # type: ignore[operator]
            x, indices=ascending, output_fmt="NCHW"
        )
        by_position = dict(zip(ascending, levels, strict=True))
        return self._packed(final), tuple(by_position[position] for position in positions)

    def _channels_first(self, feature_map: torch.Tensor) -> bool:
        """Whether channels come before positions."""
        layout = getattr(self.model, "output_fmt", None)
        if layout is not None:
            return str(layout).endswith(("NCHW", "NCL"))
        channels = self.model.num_features
        if feature_map.ndim == 3:
            return feature_map.shape[2] != channels and feature_map.shape[1] == channels
        return feature_map.shape[1] == channels or feature_map.shape[3] != channels

    def _packed(self, features: Any) -> torch.Tensor:
        if isinstance(features, torch.Tensor):
            return features
        # The shapes depend on the input's size alone, which all images of a run share.
        self._shapes = tuple(part.shape[1:] for part in features)
        return torch.cat([part.flatten(1) for part in features], dim=1)

    def _unpacked(self, feature_map: torch.Tensor) -> Any:
        if not self._shapes:
            return feature_map
        sizes = [math.prod(shape) for shape in self._shapes]
        parts = feature_map.split(sizes, dim=1)  # type: ignore[no-untyped-call]
        return [part.unflatten(1, shape) for part, shape in zip(parts, self._shapes, strict=True)]


def _one_layer(model: nn.Module) -> nn.Module | None:
    """The classifier, if it is the only step from pooled features to logits."""
    classifier = model.get_classifier()  # type: ignore[operator]
    alone = (
        isinstance(classifier, nn.Module)
        and not isinstance(classifier, nn.ModuleList)
        and not hasattr(classifier, "global_pool")
        and getattr(model, "aux_head", None) is None
    )
    return classifier if alone else None


def _prefix_tokens(model: nn.Module, tokens: int) -> int:
    """Number of tokens before those of the patches (class token, registers)."""
    prefix: int | None = getattr(model, "num_prefix_tokens", None)
    if prefix is None:
        # volo does not say how many; pit's last map is its class token alone.
        prefix = int(getattr(model, "cls_token", None) is not None)
    return prefix if prefix < tokens else 0


def _levels(model: nn.Module) -> tuple[Level, ...]:
    """timm's own list of levels, where the model can also output them."""
    info = getattr(model, "feature_info", None)
    if info is None or not hasattr(model, "forward_intermediates"):
        return ()
    levels = list(getattr(info, "info", info))
    modules = [level["module"] for level in levels]
    return tuple(
        # Names become columns, so a missing or repeated one gets the level's index.
        Level(
            module if module and modules.count(module) == 1 else f"{module or 'level'}.{index}",
            level["num_chs"],
            level["reduction"],
        )
        for index, (module, level) in enumerate(zip(modules, levels, strict=True))
    )


def load(request: ModelRequest, num_classes: int | None = None) -> Loaded:
    """Build a network with the checkpoint's weights, the hub's, or random ones (seed 0).

    Args:
        request: the model.
        num_classes: default: the checkpoint's, else timm's.

    Raises:
        ModelError: unknown name, a checkpoint that does not fit, no way to the hub, or a
            network without that output stride.
    """
    spec, checkpoint, pretrained = request.spec, request.checkpoint, request.pretrained
    name = spec.partition(":")[2]
    if not timm.is_model(name):
        raise unknown_model(
            spec, "timm has no such model", timm.list_models(), "see timm.list_models()"
        )
    options: dict[str, Any] = {}
    if request.output_stride is not None and _must_dilate(name, request.output_stride):
        options["output_stride"] = request.output_stride
    weights = "timm hub" if pretrained else "random (seed 0)"
    if num_classes is not None:
        options["num_classes"] = num_classes
    if checkpoint:
        skeleton = _skeleton(name)
        own = skeleton.num_classes
        if not own:  # an encoder, which may have been trained with a classifier
            skeleton = _skeleton(name, num_classes=2)
        state, weights = read_checkpoint(checkpoint, skeleton.state_dict(), request.weights)
        options.setdefault("num_classes", _classes_in(skeleton, state) or own)
        if side := trained_size(skeleton, state):
            options["img_size"] = side
    model = _create(name, pretrained=pretrained, **options)
    if checkpoint:
        load_state(model, state, file=checkpoint, spec=spec)
    config = timm.data.resolve_model_data_config(model)
    if "img_size" in options:
        config["input_size"] = (3, options["img_size"], options["img_size"])
    if request.input_size is not None:
        resize(model, request.input_size, spec)
    labels = _imagenet_labels(model) if pretrained else None
    return Loaded(TimmBackbone(model), preprocess_of(config), labels, weights)


def _create(name: str, *, pretrained: bool, **options: Any) -> nn.Module:
    if pretrained and not _hub_answers():
        # Without this the hub's client retries for most of a minute; its cache still works.
        hub.HF_HUB_OFFLINE = True
    with fixed_seed():
        try:
            model: nn.Module = timm.create_model(name, pretrained=pretrained, **options)
        except Exception as error:  # any network's own code, or the hub's client
            if pretrained:
                raise fetch_error(f"timm:{name}", "the hub", error) from None
            raise ModelError(
                f"`model='timm:{name}'` cannot be built: {first_line(error)}"
            ) from None
    return model


def _must_dilate(name: str, output_stride: int) -> bool:
    """Whether the network must be built with another stride than its own, if it takes this one."""
    own = _levels(_skeleton(name))
    if own and own[-1].reduction == output_stride:
        return False
    try:
        dilated = _levels(_skeleton(name, output_stride=output_stride))
    except Exception:  # any network's own code, given a stride that it may not know
        dilated = ()
    if not dilated or dilated[-1].reduction != output_stride:
        fixed = f" of {own[-1].reduction}" if own else ""
        raise ModelError(
            f"`output_stride={output_stride}`: timm:{name} has a fixed stride{fixed} or does "
            "not know this one; leave it out, or take a network that dilates (8, 16 or 32)"
        )
    return True


def _skeleton(name: str, **options: Any) -> nn.Module:
    """The network without weights, to read its structure."""
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, **options)
    return model


def _hub_answers() -> bool:
    try:
        check_port(urlsplit(hub.ENDPOINT).hostname or "", 443)
    except OSError:
        return False
    return True


def _classes_in(skeleton: nn.Module, state: dict[str, torch.Tensor]) -> int | None:
    """Number of classes of a checkpoint: the rows of the classifier's last matrix, if it is there."""
    classifier = skeleton.get_classifier()  # type: ignore[operator]
    first = classifier[0] if isinstance(classifier, tuple | nn.ModuleList) else classifier
    for path, module in skeleton.named_modules():
        if module is first:
            # The classifier may be several layers (norm and linear); its last matrix decides.
            inside = [f"{path}.{name}" for name, p in module.named_parameters() if p.ndim in (2, 4)]
            if inside and inside[-1] in state:
                return int(state[inside[-1]].shape[0])
    return None


def preprocess_of(config: dict[str, Any]) -> Preprocess:
    """timm's data configuration as ``Preprocess``."""
    interpolation = config["interpolation"]
    return Preprocess(
        input_size=tuple(config["input_size"][1:]),
        resize=_RESIZE.get(config["crop_mode"], "crop"),  # type: ignore[arg-type]
        crop_pct=config["crop_pct"],
        interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _imagenet_labels(model: nn.Module) -> tuple[str, ...] | None:
    subset = timm.data.infer_imagenet_subset(model)
    if subset is None:
        return None
    info = timm.data.ImageNetInfo(subset)
    return tuple(info.index_to_description(i) for i in range(info.num_classes()))
