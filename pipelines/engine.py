"""The network on a device, in a precision: uint8 batches in, both answers out.

Everything that runs a model goes through ``Engine``: the actors of an extraction, a query
by image, an upload to the API. That is why their embeddings agree.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch

from cluster.errors import ModelError
from pipelines.backbones import load_backbone
from pipelines.backbones.base import weights_sha256
from pipelines.facts import ModelFacts, Precision, PrecisionAudit
from pipelines.precision import AUDIT_ROWS, DTYPES, compare


class Answers(NamedTuple):
    """Float32 results of one batch: embeddings ``[B, D]`` and logits ``[B, C]``."""

    pooled: np.ndarray
    logits: np.ndarray


class Engine:
    """A loaded model that answers batches.

    Args:
        facts: what the run's model is; weights that turn out otherwise are refused.
        precision: number format of weights and activations.

    Raises:
        ModelError: the weights here are not those the run was planned with.
    """

    def __init__(self, facts: ModelFacts, precision: Precision) -> None:
        loaded = load_backbone(facts.request)
        found = weights_sha256(loaded.backbone.model)
        if found != facts.weights_sha256:
            raise ModelError(
                f"{facts.request.spec}: weights here hash to {found[:12]}, the run was made with "
                f"{facts.weights_sha256[:12]}; use the same files and package versions everywhere"
            )
        self.facts = facts
        self.labels = loaded.labels
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._dtype = DTYPES[precision]
        self._backbone = loaded.backbone
        self._backbone.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        how = facts.preprocess
        # One value a number of the flattened image, because broadcasting three channels over
        # interleaved pixels is three times slower. Pixels are 0..255, so these are scaled.
        pixels = how.input_size[0] * how.input_size[1]
        mean, std = (torch.tensor(v, dtype=torch.float32) * 255 for v in (how.mean, how.std))
        self._mean = mean.repeat(pixels).to(self.device)
        self._scale = (1 / std).repeat(pixels).to(self.device)
        # Weights stay float32 until the first batch, which an audit computes in both.
        self._converted = False

    def __call__(self, pixels: np.ndarray) -> Answers:
        """Answer a batch of upright RGB images, uint8 ``[B, H, W, 3]``."""
        if not self._converted:
            self._backbone.model.to(self._dtype)
            self._converted = True
        return self._run(pixels, self._dtype)

    def audit(self, pixels: np.ndarray) -> PrecisionAudit:
        """Answer the first rows of ``pixels`` in float32 and in the engine's precision.

        Only before the first batch: the float32 weights are gone after it.
        """
        assert not self._converted
        head = pixels[:AUDIT_ROWS]
        exact = self._run(head, torch.float32)
        return compare(*self(head), *exact)

    @torch.inference_mode()
    def _run(self, pixels: np.ndarray, dtype: torch.dtype) -> Answers:
        raw = torch.from_numpy(pixels).to(self.device, non_blocking=True)
        flat = raw.flatten(1).to(torch.float32).sub_(self._mean).mul_(self._scale).to(dtype)
        # [B, H, W, 3] seen as [B, 3, H, W] is channels_last already: no copy.
        x = flat.view(raw.shape).permute(0, 3, 1, 2)
        pooled, logits = self._backbone.one_pass(x)
        return Answers(pooled.float().cpu().numpy(), logits.float().cpu().numpy())


def softmax(logits: np.ndarray) -> np.ndarray:
    """Row-wise softmax of ``[B, C]``, float32."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True), dtype=np.float32)


def top_classes(logits: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices and softmax scores of the ``k`` best classes, best first; ``[B, k]`` each."""
    scores = softmax(logits)
    k = min(k, scores.shape[1])
    if not len(scores):
        return np.empty((0, k), np.int32), np.empty((0, k), np.float32)
    few = np.argpartition(-scores, k - 1, axis=1)[:, :k]  # a full sort costs ten times as much
    order = np.argsort(-np.take_along_axis(scores, few, axis=1), axis=1, kind="stable")
    best = np.take_along_axis(few, order, axis=1)
    return best.astype(np.int32), np.take_along_axis(scores, best, axis=1)
