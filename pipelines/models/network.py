"""Pixels to every answer, as one module: the thing that engines execute.

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
        backbone: the network taken apart; stays in float32.
        facts: input size, normalisation, feature point, and which maps to give.
        precision: what the body computes in.
        head: gives the logits in place of the backbone's own classifier; in float32.
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
        self._levels = tuple(known.level for known in facts.maps if known.level is not None)
        how = facts.preprocess
        # One value a number of the flattened image, because broadcasting three channels over
        # interleaved pixels is three times slower. Pixels are 0..255, so these are scaled.
        count = how.input_size[0] * how.input_size[1]
        mean, std = (torch.tensor(v, dtype=torch.float32) * 255 for v in (how.mean, how.std))
        self.register_buffer("mean", mean.repeat(count))
        self.register_buffer("scale", (1 / std).repeat(count))

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Answer uint8 ``[B, H, W, 3]``.

        Returns:
            Embedding ``[B, D]``, logits ``[B, C]``, then each map of ``facts.maps``; float32.
        """
        flat = pixels.flatten(1).to(torch.float32).sub(self.mean).mul(self.scale)
        # [B, H, W, 3] seen as [B, 3, H, W] is channels_last already: no copy.
        x = flat.view(pixels.shape).permute(0, 3, 1, 2)
        found = self._backbone.one_pass(
            x, dtype=self._dtype, point=self._point, pyramid=self._levels
        )
        levels = iter(found.pyramid)
        maps = [found.feature_map if m.level is None else next(levels) for m in self._maps]
        logits = found.logits
        if self.head is not None:
            whole = self.head.facts.features == "map"
            logits = self.head(found.feature_map if whole else found.embedding)
        return found.embedding, logits, *maps
