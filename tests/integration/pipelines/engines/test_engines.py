"""Engines that are built: the same answers as the model itself, built once, heads within."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.engines import compiled, openvino
from pipelines.engines import engine as module
from pipelines.engines.engine import Engine
from pipelines.model_info import EngineName, ModelInfo, Outputs
from pipelines.models.base import Loaded
from pipelines.models.registry import examine
from tests.helpers.heads import expected_logits, make_head
from tests.helpers.pictures import drawn
from tests.helpers.tiny import (
    HEADS,
    TINY,
    check_engine,
    check_head,
    close,
    reference_map,
    with_head,
)


@pytest.fixture(scope="module")
def facts() -> ModelInfo:
    return examine(TINY, Outputs(map=True))


@pytest.fixture(scope="module")
def bare() -> ModelInfo:
    """Of tiny that keeps nothing."""
    return examine(TINY)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pictures() -> np.ndarray:
    """Images that a head can tell apart."""
    return np.stack([np.asarray(drawn(n, width=32, height=32)) for n in range(40)])


@pytest.mark.parametrize("engine", ["openvino", "compile"])
def test_every_engine_gives_the_models_own_answers(
    own_cache: Path, facts: ModelInfo, pixels: np.ndarray, engine: EngineName
) -> None:
    check_engine(facts, pixels, engine)


@pytest.mark.parametrize("engine", ["openvino", "compile"])
def test_what_is_built_is_not_built_again(
    own_cache: Path,
    facts: ModelInfo,
    pixels: np.ndarray,
    engine: EngineName,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = Engine(facts, "fp32", engine)(pixels[:2])

    def never(of: ModelInfo) -> Loaded:
        raise AssertionError("a built engine needs no network")

    monkeypatch.setattr(module, "load_verified", never)
    again = Engine(facts, "fp32", engine)(pixels[:2])
    assert np.array_equal(first.logits, again.logits)
    is_cached: dict[EngineName, Callable[[ModelInfo], bool]] = {
        "openvino": openvino.is_cached,
        "compile": lambda of: compiled.is_cached(of, "fp32", torch.device("cpu")),
    }
    assert is_cached[engine](facts)
    assert not is_cached[engine](facts.model_copy(update={"weights_sha256": "0" * 64}))


def test_two_threads_get_their_own_answers(
    own_cache: Path, facts: ModelInfo, pixels: np.ndarray
) -> None:
    run = Engine(facts, "fp32", "openvino", batch_rows=4)
    expected = run(pixels).logits
    answers: dict[int, np.ndarray] = {}

    def answer(number: int) -> None:
        mine = pixels[number::2]
        answers[number] = np.stack([run(mine).logits for _ in range(5)])

    threads = [threading.Thread(target=answer, args=(number,)) for number in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for number in (0, 1):
        assert np.allclose(answers[number], expected[number::2], atol=1e-5)


@pytest.mark.parametrize(("classes", "features", "hidden"), HEADS)
def test_the_head_answers_in_the_pass(
    own_cache: Path,
    bare: ModelInfo,
    pictures: np.ndarray,
    tmp_path: Path,
    classes: int,
    features: str,
    hidden: tuple[int, ...],
) -> None:
    check_head(bare, pictures, tmp_path / "h.pt", "openvino", classes, features, hidden)


def test_a_compiled_network_has_the_head_in_it(
    own_cache: Path, bare: ModelInfo, pictures: np.ndarray, tmp_path: Path
) -> None:
    grid = reference_map(pictures)
    head = make_head(bare, tmp_path / "h.pt", grid, classes=2, hidden=(8,))
    run = Engine(examine(with_head(tmp_path / "h.pt")), "fp32", "compile")
    expected = expected_logits(head, grid)
    for rows in (1, 40):
        answers = run(pictures[:rows])
        assert answers.logits.shape == (rows, 2)
        assert np.abs(answers.logits - expected[:rows]).max() <= 1e-5 * np.abs(expected).max()
        assert close(answers.embedding, grid[:rows].mean((2, 3)))
