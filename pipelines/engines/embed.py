"""Embed a few images at a time in this process: for queries, uploads and live cameras.

Decoding, resizing and engine are those of an extraction, without Ray.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch

from pipelines.engines.engine import DEFAULT_ROWS, Engine
from pipelines.images.formats import decode
from pipelines.images.pixels import crop, resize
from pipelines.model_info import ModelInfo
from pipelines.models.registry import load_verified
from pipelines.models.scores import top_classes

TOP_K = 5


@dataclass(frozen=True)
class Embedded:
    """Class and embedding of one image; ``embedding`` is raw float32 ``[D]``."""

    embedding: np.ndarray
    label: str | None
    label_index: int
    score: float
    topk: list[dict[str, Any]]


class Embedder:
    """A loaded model to embed single images; safe to share between threads."""

    def __init__(self, engine: Engine, labels: tuple[str, ...] | None) -> None:
        self._engine = engine
        self._labels = labels
        self._lock = threading.Lock()  # one forward at a time: torch uses all cores itself

    @classmethod
    def load(cls, facts: ModelInfo) -> Embedder:
        """Load the model that ``facts`` describes, in float32.

        Raises:
            ModelError: it cannot be built here, or its weights or its head differ.
        """
        loaded = load_verified(facts)
        without_maps = facts.model_copy(update={"maps": ()})
        engine = Engine(without_maps, "fp32", batch_rows=DEFAULT_ROWS, loaded=loaded)
        return cls(engine, loaded.labels)

    def embed_bytes(
        self, data: bytes, *, box: tuple[float | None, ...] = (None, None, None, None)
    ) -> Embedded:
        """Embed an encoded image, or ``box`` (x1, y1, x2, y2 in pixels) of it.

        Raises:
            ImageError: it cannot be decoded, or the box has no pixels in it.
        """
        return self.embed_regions([crop(decode(data).pixels, box)])[0]

    def embed_regions(self, regions: Iterable[torch.Tensor]) -> list[Embedded]:
        """Embed upright RGB images or parts of them, uint8 ``[3, h, w]`` each, in their order.

        They are consumed batch by batch, so that large ones need not be in memory all at once.
        """
        preprocess = self._engine.facts.preprocess
        inputs = (resize(region, preprocess).permute(1, 2, 0) for region in regions)
        results: list[Embedded] = []
        while batch := list(islice(inputs, DEFAULT_ROWS)):
            with self._lock:
                answers = self._engine(torch.stack(batch).numpy())
            indices, scores = top_classes(answers.logits, TOP_K)
            results += map(self._embedded, answers.embedding, indices, scores)
        return results

    def _embedded(self, embedding: np.ndarray, indices: np.ndarray, scores: np.ndarray) -> Embedded:
        names = self._labels
        labels = [names[index] if names else None for index in indices]
        return Embedded(
            embedding=embedding,
            label=labels[0],
            label_index=int(indices[0]),
            score=float(scores[0]),
            topk=[
                {"label": label, "label_index": int(index), "score": float(score)}
                for label, index, score in zip(labels, indices, scores, strict=True)
            ],
        )
