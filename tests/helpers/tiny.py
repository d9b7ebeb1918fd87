"""What ``tiny`` answers, from its own module and NumPy; engines held to it, heads included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from pipelines.engines.candidates import compare
from pipelines.engines.engine import Engine
from pipelines.model_info import EngineName, ModelInfo, ModelRequest
from pipelines.models.registry import examine, load_backbone
from tests.helpers.heads import expected_logits, make_head

TINY = ModelRequest(spec="tiny")


def _normalised(pixels: np.ndarray) -> torch.Tensor:
    preprocess = load_backbone(TINY).preprocess
    x = (pixels / 255 - np.array(preprocess.mean)) / np.array(preprocess.std)
    return torch.from_numpy(x.transpose(0, 3, 1, 2).astype(np.float32))


def reference_answers(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings and logits of ``tiny`` from its own module, normalised in NumPy."""
    model, tensor = load_backbone(TINY).backbone.model, _normalised(pixels)
    with torch.inference_mode():
        return model.body(tensor).mean((2, 3)).numpy(), model(tensor).numpy()


def reference_map(pixels: np.ndarray) -> np.ndarray:
    """The last map of ``tiny`` from its own module, the pixels normalised in NumPy."""
    with torch.inference_mode():
        answers: np.ndarray = load_backbone(TINY).backbone.model.body(_normalised(pixels)).numpy()
    return answers


def with_head(file: Path, request: ModelRequest = TINY) -> ModelRequest:
    return request.model_copy(update={"head": str(file)})


def close(answers: np.ndarray, expected: np.ndarray) -> bool:
    """Within 1e-5 of the largest value."""
    return bool(np.abs(answers - expected).max() <= 1e-5 * np.abs(expected).max())


def check_engine(facts: ModelInfo, pixels: np.ndarray, engine: EngineName) -> None:
    """Hold an engine to the answers of the model itself, to 70 images and to parts of them."""
    embedding, logits = reference_answers(pixels)
    run = Engine(facts, "fp32", engine, batch_rows=32)
    for rows in (1, 3, 70):  # fewer than a batch, and two batches and a rest
        answers = run(pixels[:rows])
        assert np.abs(answers.embedding - embedding[:rows]).max() <= 1e-5 * np.abs(embedding).max()
        assert np.abs(answers.logits - logits[:rows]).max() <= 1e-5 * np.abs(logits).max()
        # The kept map is the one that was pooled.
        assert np.allclose(answers.maps[0].mean((2, 3)), answers.embedding, atol=1e-5)
    half = Engine(facts, "bf16", engine)(pixels)
    assert compare(half.embedding, half.logits, embedding, logits).cosine_min > 0.999


def check_head(
    facts: ModelInfo,
    pixels: np.ndarray,
    file: Path,
    engine: EngineName,
    classes: int,
    features: str,
    hidden: tuple[int, ...],
) -> None:
    """Hold an engine to the answers that a head, stored as ``file``, gives to 40 images."""
    grid = reference_map(pixels)
    wanted = grid if features == "map" else grid.mean((2, 3))
    head = make_head(facts, file, wanted, classes=classes, hidden=hidden)
    headed = examine(with_head(file))
    assert headed.maps == ()  # a head of the map keeps none
    expected = expected_logits(head, wanted)
    assert len(np.unique(expected.argmax(1))) > 1  # it tells the pictures apart
    answers = Engine(headed, "fp32", engine)(pixels)
    assert answers.logits.shape == (40, classes)
    assert close(answers.logits, expected)
    assert close(answers.embedding, grid.mean((2, 3)))
    if engine == "eager":
        assert np.array_equal(answers.embedding, Engine(facts, "fp32")(pixels).embedding)


HEADS = [(5, "pooled", (8,)), (2, "pooled", ()), (3, "map", ()), (2, "map", (8, 4))]
