"""Heads with random weights, their answers computed in NumPy, and stored features to compare."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipelines.embeddings import matrix
from pipelines.model_info import HeadInfo, ModelInfo
from pipelines.models.head import Head, save_head
from pipelines.run import Run


def make_head(
    facts: ModelInfo,
    file: Path,
    like: np.ndarray,
    *,
    classes: int,
    hidden: tuple[int, ...] = (),
    seed: int = 3,
) -> Head:
    """A head for a model's features, or for its maps, stored as ``file``.

    ``like``: some of these features ``[N, D]``, or maps ``[N, ...]``; the head standardises by
    them and its outputs average 0 over them, so that it tells them apart.
    """
    wants = HeadInfo(
        features="pooled" if like.ndim == 2 else "map",
        shape=like.shape[1:],
        hidden=hidden,
        dropout=0.5,  # takes no part in answers
        classes=tuple(f"kind {number}" for number in range(classes)),
        spec=facts.request.spec,
        fingerprint=facts.fingerprint,
    )
    head = Head(wants)
    stream = torch.Generator().manual_seed(seed)
    flat = torch.from_numpy(like.reshape(len(like), -1))
    spread = flat.std(0, correction=0)
    with torch.no_grad():
        for tensor in head.parameters():
            tensor.copy_(torch.randn(tensor.shape, generator=stream) / tensor.shape[-1] ** 0.5)
        head.mean.copy_(flat.mean(0))
        head.scale.copy_(torch.where(spread > 0, 1 / spread, 1))
        head.eval()
        head.layers[-1].bias.sub_(head.outputs(flat).mean(0))
    save_head(head, file)
    return head


def stored_values(run: Run, column: str) -> np.ndarray:
    """A column of lists of a run as ``[N, D]``."""
    return matrix(run.to_arrow([column])[column].combine_chunks())


def expected_logits(head: Head, features: np.ndarray) -> np.ndarray:
    """Logits ``[N, C]`` of ``features`` ``[N, ...]``, in float64."""
    state = {name: tensor.double().numpy() for name, tensor in head.state_dict().items()}
    x = features.reshape(len(features), -1).astype(np.float64)
    x = (x - state["mean"]) * state["scale"]
    weights = [state[name] for name in state if name.endswith("weight")]
    biases = [state[name] for name in state if name.endswith("bias")]
    for number, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        x = x @ weight.T + bias
        if number < len(weights) - 1:
            x = np.maximum(x, 0)
    if len(head.facts.classes) == 2:  # one output: the log odds of the second class
        x = np.concatenate([np.zeros_like(x), x], axis=1)
    return np.asarray(x)
