"""Engines: the models' own answers, any number of rows, memory that runs out, the cache."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InputError, ModelError
from pipelines.engines import engine as module
from pipelines.engines import openvino
from pipelines.engines.cache import cache_folder, cached
from pipelines.engines.candidates import compare, is_harmless
from pipelines.engines.engine import Engine, find_batch_rows, in_batches, is_out_of_memory
from pipelines.engines.resolve import check_format, fast_formats
from pipelines.model_info import ModelInfo, Outputs, PrecisionAudit
from pipelines.models.network import Network
from pipelines.models.registry import examine
from tests.helpers.tiny import TINY, check_engine, reference_answers


@pytest.fixture(scope="module")
def facts() -> ModelInfo:
    return examine(TINY, Outputs(map=True))


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (70, 32, 32, 3), dtype=np.uint8)


def test_eager_gives_the_models_own_answers(facts: ModelInfo, pixels: np.ndarray) -> None:
    check_engine(facts, pixels, "eager")


def test_engine_refuses_other_weights(facts: ModelInfo) -> None:
    with pytest.raises(ModelError, match="weights here hash to"):
        Engine(facts.model_copy(update={"weights_sha256": "f" * 64}), "fp32")


def test_openvino_that_is_not_installed_is_one_line(
    facts: ModelInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openvino, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"not installed; run: pip install 'onepass\[openvino\]'"):
        Engine(facts, "fp32", "openvino")


def test_no_rows_have_no_answers(facts: ModelInfo) -> None:
    answers = Engine(facts, "fp32")(np.empty((0, 32, 32, 3), np.uint8))
    assert (answers.embedding.shape, answers.logits.shape) == ((0, 32), (0, 10))
    assert answers.maps[0].shape == (0, 32, 4, 4)


class Small(Network):
    """A device with room for five images."""

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if len(pixels) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(pixels)


def test_out_of_memory_halves_the_batch_and_goes_on(
    facts: ModelInfo, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Network", Small)
    run = Engine(facts, "fp32", batch_rows=32)
    batches: list[int] = []
    answers = run(pixels, done=batches.append)
    assert np.allclose(answers.logits, reference_answers(pixels)[1], atol=1e-5)
    assert sum(batches) == 70
    assert max(batches) == 3  # 24 (a third of 70), 12 and 6 did not fit
    batches.clear()
    run(pixels, done=batches.append)
    assert batches[0] == 3  # what did not fit once is not tried again


def test_a_row_that_does_not_fit_alone_is_an_error() -> None:
    def call(start: int, stop: int) -> None:
        raise torch.OutOfMemoryError("not even one")

    with pytest.raises(torch.OutOfMemoryError):
        in_batches(call, 8, 8)


def test_batches_are_of_one_size() -> None:
    def call(start: int, stop: int) -> tuple[int, int]:
        return start, stop

    assert in_batches(call, 520, 512)[0] == [(0, 260), (260, 520)]
    assert in_batches(call, 7, 3)[0] == [(0, 3), (3, 5), (5, 7)]
    assert in_batches(call, 64, 32)[0] == [(0, 32), (32, 64)]
    for total, rows in ((1, 1), (70, 32), (1000, 7)):
        parts = in_batches(call, total, rows)[0]
        assert [at for part in parts for at in range(*part)] == list(range(total))
        sizes = [stop - start for start, stop in parts]
        assert max(sizes) <= rows
        assert max(sizes) - min(sizes) <= 1
        assert len(parts) == -(-total // rows)


def test_pixels_that_may_not_be_written_are_answered(facts: ModelInfo, pixels: np.ndarray) -> None:
    locked = pixels[:3].copy()
    locked.flags.writeable = False  # as Arrow's memory is
    run = Engine(facts, "fp32")
    assert np.array_equal(run(locked).logits, run(pixels[:3]).logits)


def test_other_errors_are_not_memory() -> None:
    calls: list[int] = []

    def call(start: int, stop: int) -> None:
        calls.append(stop - start)
        raise ValueError("wrong")

    with pytest.raises(ValueError, match="wrong"):
        in_batches(call, 8, 8)
    assert calls == [8]
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    )
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


class Card:
    """A GPU of ``room`` bytes on which an image takes ``image`` bytes."""

    def __init__(self, room: int, image: int, *, fastest: int = 10**9) -> None:
        self.room, self.image, self.fastest = room, image, fastest
        self.tried: list[int] = []
        self.now = 0.0

    def run(self, rows: int) -> None:
        if rows * self.image > self.room:
            raise torch.OutOfMemoryError("full")
        self.tried.append(rows)
        self.now += max(1.0, rows / self.fastest)  # a batch takes a second up to its fastest

    def free(self) -> int:
        return self.room

    def peak_of(self, call: Callable[[], object]) -> int:
        call()
        return self.tried[-1] * self.image


@pytest.mark.parametrize(
    ("card", "rows"),
    [
        (Card(10**6, 1), 1024),  # room for everything: as many as are allowed
        (Card(1000, 2), 256),  # takes 512 of the 800 bytes allowed; twice that does not fit
        (Card(1000, 60), 16),  # not even the first 32 fit
        (Card(10**6, 1, fastest=64), 64),  # more is not faster
    ],
)
def test_batch_is_found_by_trial(card: Card, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.engines.engine.time.perf_counter", lambda: card.now)
    assert find_batch_rows(card.run, card) == rows


def test_a_build_that_fails_leaves_nothing(own_cache: Path) -> None:
    def fail(draft: Path) -> None:
        draft.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        cached("broken.pt2", fail)
    assert not [file for file in cache_folder().iterdir() if "broken.pt2" in file.name]


def test_a_cache_that_cannot_be_written_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ModelError, match=r"which cannot be written .*; set XDG_CACHE_HOME"):
        cached("any.pt2", lambda draft: None)


def test_two_that_want_one_engine_build_it_once(own_cache: Path) -> None:
    built: list[int] = []
    together = threading.Barrier(2)

    def build(draft: Path) -> None:
        built.append(1)
        draft.write_text("done")

    def want() -> None:
        together.wait(10)
        assert cached("shared.pt2", build).read_text() == "done"

    threads = [threading.Thread(target=want) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert built == [1]


def test_formats_that_the_hardware_has() -> None:
    cpu = torch.device("cpu")
    can = torch.cpu.get_capabilities()
    half = can.get("amx_bf16") or can.get("avx512_bf16")
    assert fast_formats(cpu) == (["bf16", "fp32"] if half else ["fp32"])
    with pytest.raises(InputError, match="fp16"):
        check_format("fp16", cpu)


def test_audit_measures_what_rounding_did() -> None:
    rng = np.random.default_rng(2)
    embedding, logits = rng.standard_normal((20, 16)), rng.standard_normal((20, 4))
    other = logits.copy()
    other[0] = np.roll(other[0], 1)
    audit = compare(embedding, other, embedding, logits)
    assert audit.top1_agreement == pytest.approx(0.95)
    assert audit.cosine_min == pytest.approx(1)
    turned = embedding.copy()
    turned[3] = -turned[3]
    audit = compare(turned, logits, embedding, logits)
    assert audit.cosine_min == pytest.approx(-1)
    assert audit.cosine_mean == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("cosine", "classes", "expected"),
    [(0.99995, True, True), (0.9995, True, False), (0.9995, False, True), (0.99, False, False)],
)
def test_auto_wants_more_where_there_are_classes(
    cosine: float, classes: bool, expected: bool
) -> None:
    audit = PrecisionAudit(rows=64, cosine_mean=cosine, cosine_min=0.9, top1_agreement=1.0)
    assert is_harmless(audit, classes_matter=classes) is expected
