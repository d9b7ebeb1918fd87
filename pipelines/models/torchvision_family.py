"""``torchvision:NAME``: building torchvision's classifiers and reading their weights.

How each is split is in ``torchvision_parts``.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import torch
import torchvision
from torch import nn
from torchvision.models.vision_transformer import VisionTransformer, interpolate_embeddings

from common.errors import ModelError, first_line
from common.network import check_port
from pipelines.model_info import ModelRequest, Preprocess
from pipelines.models.base import (
    Loaded,
    fetch_error,
    fixed_seed,
    unknown_model,
)
from pipelines.models.checkpoint import load_state, read_checkpoint
from pipelines.models.torchvision_parts import take_apart

_POSITIONS = "encoder.pos_embedding"  # of a ViT


def names() -> list[str]:
    """All classifiers that torchvision can build."""
    return list(torchvision.models.list_models(module=torchvision.models))


def load(request: ModelRequest, num_classes: int | None = None) -> Loaded:
    """Build a network with the checkpoint's weights, torchvision's, or random ones (seed 0).

    Args:
        request: the model; a checkpoint's number of classes is used.
        num_classes: of random weights; default: torchvision's.

    Raises:
        ModelError: unknown name, a checkpoint that does not fit, or no way to the weights.
    """
    spec = request.spec
    name = spec.partition(":")[2]
    if name not in names():
        hint = "see torchvision.models.list_models()"
        raise unknown_model(spec, "torchvision has no such model", names(), hint)
    public = torchvision.models.get_model_weights(name).DEFAULT
    transforms = public.transforms()
    state: dict[str, Any] | None = None
    weights = "random (seed 0)"
    if request.checkpoint:
        with torch.device("meta"):
            own = build(name).state_dict()
        state, weights = read_checkpoint(request.checkpoint, own, request.weights)
    elif request.pretrained:
        state, weights = _fetch(spec, public), f"torchvision {public.name}"
    count = num_classes if state is None else _classes_in(state)
    side = request.input_size or transforms.crop_size[0]
    try:
        model = build(name, num_classes=count, image_size=side)
    except AssertionError as error:  # of a ViT, whose patches do not fit in
        raise ModelError(f"`input_size={side}`: {spec}: {first_line(error).rstrip('!.')}") from None
    if state is not None:
        state = rename_old_keys(state)
        if isinstance(model, VisionTransformer) and _POSITIONS in state:
            state = {**interpolate_embeddings(side, model.patch_size, OrderedDict(state))}
        load_state(model, state, file=weights, spec=spec)
    labels = tuple(public.meta["categories"]) if request.pretrained else None
    return Loaded(take_apart(model), _preprocess_of(transforms), labels, weights)


def build(name: str, *, num_classes: int | None = None, image_size: int = 224) -> nn.Module:
    """Build a network with random weights, the same in every process.

    Args:
        name: of torchvision.
        num_classes: default: torchvision's.
        image_size: pixels a side, which fixes the position embedding of a ViT.
    """
    options: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    if name in ("googlenet", "inception_v3"):
        # Auxiliary heads are for training alone. torchvision's weights, and those tuned from
        # them, renormalise ImageNet's normalisation to 0.5 / 0.5 inside the network.
        options |= {"aux_logits": False, "init_weights": False, "transform_input": True}
    if name.startswith("vit_"):
        options["image_size"] = image_size
    with fixed_seed():
        model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model


def rename_old_keys(state: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint with the key names of the installed torchvision, without auxiliary heads.

    torchvision renames keys of old checkpoints by the version in their metadata, which is lost
    when they are read as plain tensors.
    """
    new: dict[str, Any] = {}
    for key, tensor in state.items():
        if key.startswith(("AuxLogits.", "aux1.", "aux2.")):
            continue
        key = re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", key)
        key = re.sub(r"\.mlp\.linear_1\.", ".mlp.0.", key)
        new[re.sub(r"\.mlp\.linear_2\.", ".mlp.3.", key)] = tensor
    return new


def _classes_in(state: dict[str, Any]) -> int | None:
    """Rows of the last matrix under a classifier's name, without auxiliary heads."""
    rows = [
        len(tensor)
        for key, tensor in state.items()
        if key.startswith(("classifier.", "fc.", "head.", "heads."))
        and key.endswith("weight")
        and tensor.ndim in (2, 4)
    ]
    return rows[-1] if rows else None


def _fetch(spec: str, public: Any) -> dict[str, Any]:
    """torchvision's own weights, from its cache or its server."""
    url = urlsplit(public.url)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / Path(url.path).name
    try:
        if not cached.is_file():
            # The download itself has no timeout.
            check_port(url.hostname or "", 443)
        state: dict[str, Any] = public.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # whatever the download, the hash check or the unpickler raises
        raise fetch_error(spec, str(url.hostname), error) from None
    return state


def _preprocess_of(transforms: Any) -> Preprocess:
    """The transforms of torchvision's weights as ``Preprocess``."""
    size = transforms.crop_size[0]
    return Preprocess(
        input_size=(size, size),
        resize="crop",
        crop_pct=size / transforms.resize_size[0],
        interpolation=transforms.interpolation.value,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
