"""``timm:NAME``: any classifier that timm can build, taken apart by timm's own methods."""

from __future__ import annotations

import socket
from difflib import get_close_matches
from typing import Any
from urllib.parse import urlsplit

import timm
import timm.data
import torch
from huggingface_hub import constants as hub
from torch import nn

from cluster.errors import ModelError
from pipelines.backbones.base import Backbone, Loaded, load_state, read_checkpoint
from pipelines.facts import Preprocess

_RESIZE = {"center": "crop", "squash": "squash", "border": "pad"}


class TimmBackbone(Backbone):
    """timm's ``forward_features``, ``forward_head(pre_logits=True)`` and classifier."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        classifier = model.get_classifier()  # type: ignore[operator]
        if not isinstance(classifier, nn.Module):
            raise ModelError("the model has no single classifier layer to separate")
        self._classifier = classifier

    def features(self, x: torch.Tensor) -> torch.Tensor:
        feature_map: torch.Tensor = self.model.forward_features(x)  # type: ignore[operator]
        return feature_map

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.model.forward_head(  # type: ignore[operator]
            feature_map, pre_logits=True
        )
        return pooled

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self._classifier(pooled)
        return logits


def load(name: str, *, checkpoint: str | None, pretrained: bool, num_classes: int | None) -> Loaded:
    """Build ``name`` with the checkpoint's weights, the hub's, or random ones (seed 0).

    ``num_classes`` is that of the labels, where there are any; a checkpoint's own count wins.

    Raises:
        ModelError: unknown name, a checkpoint that does not fit, or no way to the hub.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ModelError(f"--model timm:{name}: timm has no such model; {hint}")
    state = read_checkpoint(checkpoint) if checkpoint else None
    model = _create(name, pretrained=pretrained, num_classes=num_classes, state=state)
    if checkpoint and state is not None:
        load_state(model, state, file=checkpoint, spec=f"timm:{name}")
    weights = checkpoint or ("timm hub" if pretrained else "random (seed 0)")
    config = timm.data.resolve_model_data_config(model)
    labels = _imagenet_labels(config, model) if pretrained else None
    return Loaded(TimmBackbone(model), preprocess_of(config), labels, weights)


def _create(
    name: str, *, pretrained: bool, num_classes: int | None, state: dict[str, Any] | None
) -> nn.Module:
    if pretrained and not _hub_answers():
        # Without this the hub's client retries for most of a minute; its cache still works.
        hub.HF_HUB_OFFLINE = True
    keywords: dict[str, Any] = {}
    if num_classes is not None:
        keywords["num_classes"] = num_classes
    elif state is not None:
        keywords["num_classes"] = _classes_in(name, state)
    # Every actor that builds the model must come to the same weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            model: nn.Module = timm.create_model(name, pretrained=pretrained, **keywords)
        except Exception as error:
            if not pretrained:
                raise ModelError(
                    f"--model timm:{name} cannot be built: {str(error).splitlines()[0]}"
                ) from None
            raise ModelError(
                f"--pretrained: the weights of timm:{name} could not be fetched from the hub "
                f"({type(error).__name__}); on a machine without it give --checkpoint FILE, "
                "or --model lite0 for weights from a Python package"
            ) from None
    return model


def _hub_answers() -> bool:
    host = urlsplit(hub.ENDPOINT).hostname or ""
    try:
        socket.create_connection((host, 443), timeout=5).close()
    except OSError:
        return False
    return True


def _classes_in(name: str, state: dict[str, Any]) -> int:
    """Number of classes a checkpoint was made for, by the name of timm's classifier."""
    with torch.device("meta"):
        bare = timm.create_model(name)
    classifier = bare.get_classifier()
    for path, module in bare.named_modules():
        if module is classifier and f"{path}.weight" in state:
            return int(state[f"{path}.weight"].shape[0])
    return int(bare.num_classes)


def preprocess_of(config: dict[str, Any]) -> Preprocess:
    """timm's data configuration in our words."""
    interpolation = config["interpolation"]
    return Preprocess(
        input_size=tuple(config["input_size"][1:]),
        resize=_RESIZE.get(config["crop_mode"], "crop"),  # type: ignore[arg-type]
        crop_pct=config["crop_pct"],
        interpolation=interpolation if interpolation in ("bilinear", "bicubic") else "bicubic",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _imagenet_labels(config: dict[str, Any], model: nn.Module) -> tuple[str, ...] | None:
    subset = timm.data.infer_imagenet_subset(model)
    if subset is None:
        return None
    info = timm.data.ImageNetInfo(subset)
    return tuple(info.index_to_description(i) for i in range(info.num_classes()))
