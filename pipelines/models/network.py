"""Pixels to every output, as one module that engines execute.

Normalisation is part of it, so that images cross every boundary as uint8 and an engine that
fuses operations can fuse that one too.
"""

from __future__ import annotations

import torch
from torch import nn

from pipelines.model_info import ModelInfo, Precision
from pipelines.models.base import Backbone
from pipelines.models.head import Head

DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


class Network(nn.Module):
    """The one pass over uint8 images.

    Args:
        backbone: the split network; stays in float32.
        facts: input size, normalisation, feature point, and the maps to keep.
        precision: what the body computes in.
        head: replaces the backbone's own classifier; in float32.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(
        self,
        backbone: Backbone,
        facts: ModelInfo,
        precision: Precision,
        head: Head | None = None,
    ) -> None:
        super().__init__()
        self.model = backbone.model  # registered, so that weights move with this module
        self.head = head
        self._backbone = backbone
        self._dtype = DTYPES[precision]
        self._point = facts.request.feature_point
        self._maps = facts.maps
        self._levels = tuple(info.level for info in facts.maps if info.level is not None)
        preprocess = facts.preprocess
        # One value for each number of the flattened image, because broadcasting three channels
        # over interleaved pixels is three times slower. Pixels are 0..255, so these are scaled.
        count = preprocess.input_size[0] * preprocess.input_size[1]
        mean, std = (
            torch.tensor(values, dtype=torch.float32) * 255
            for values in (preprocess.mean, preprocess.std)
        )
        self.register_buffer("mean", mean.repeat(count))
        self.register_buffer("scale", (1 / std).repeat(count))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Run on uint8 ``[B, H, W, 3]``.

        Returns:
            Embedding ``[B, D]``, logits ``[B, C]``, then each map of ``facts.maps``; float32.
        """
        flat = pixels.flatten(1).to(torch.float32).sub(self.mean).mul(self.scale)
        # [B, H, W, 3] seen as [B, 3, H, W] is channels_last already: no copy.
        x = flat.view(pixels.shape).permute(0, 3, 1, 2)
        outputs = self._backbone.one_pass(
            x, dtype=self._dtype, point=self._point, pyramid=self._levels
        )
        levels = iter(outputs.pyramid)
        maps = [outputs.feature_map if m.level is None else next(levels) for m in self._maps]
        logits = outputs.logits
        if self.head is not None:
            of_map = self.head.facts.features == "map"
            logits = self.head(outputs.feature_map if of_map else outputs.embedding)
        return outputs.embedding, logits, *maps
