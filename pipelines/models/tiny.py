"""``tiny``: a small deterministic network, for trying Ray, the index and the API in seconds.

Its weights come from NumPy's PCG64 stream, so they are the same on every machine and with every
version of torch. Its classes mean nothing; its embeddings separate textures and colours, which is
enough to try search and tracking.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from pipelines.model_info import ModelRequest, Preprocess
from pipelines.models.base import Backbone, Loaded

FEATURES = 32
CLASSES = 10


class TinyNet(nn.Module):
    """Three strided convolutions, average pool, linear head."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, FEATURES, 3, stride=2, padding=1),
            nn.ReLU(),
        )
        self.head = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.head(self.body(x).mean((2, 3)))
        return logits


class TinyBackbone(Backbone):
    model: TinyNet

    def features(self, x: torch.Tensor) -> torch.Tensor:
        feature_map: torch.Tensor = self.model.body(x)
        return feature_map

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        return feature_map.mean((2, 3))

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model.head(pooled)
        return logits


def load(request: ModelRequest, num_classes: int | None = None) -> Loaded:
    """Build the network with its one set of weights, whatever the arguments."""
    model = TinyNet()
    stream = np.random.Generator(np.random.PCG64(20))
    for parameter in model.parameters():
        fan_in = parameter[0].numel() if parameter.ndim > 1 else parameter.numel()
        values = stream.standard_normal(tuple(parameter.shape)) * np.sqrt(2 / fan_in)
        parameter.data.copy_(torch.from_numpy(values))
    return Loaded(
        TinyBackbone(model),
        Preprocess(input_size=(32, 32), resize="squash", mean=(0.5,) * 3, std=(0.25,) * 3),
        tuple(f"tiny {index}" for index in range(CLASSES)),
        "made by code",
    )
