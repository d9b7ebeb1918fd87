"""The forward pass over a block: cascades, kept maps, numbers that are not finite."""

from __future__ import annotations

import functools
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipelines.engines.engine import Engine
from pipelines.engines.forward import Forward, load_engines, pixel_columns
from pipelines.execution.ray_stages import ForwardStage
from pipelines.images.decode import GATE_PIXELS, PIXELS, decode_rows, unpack
from pipelines.model_info import ModelRequest
from pipelines.models import registry as backbones
from pipelines.models.scores import softmax
from pipelines.progress.counters import Block, Counters
from pipelines.request import GateInfo, Request
from pipelines.sources.read import read_source
from tests.helpers.pictures import photo_folder
from tests.helpers.runs import make_config, request_of

TINY = ModelRequest(spec="tiny")
SMALL = ModelRequest(spec="timm:test_resnet")
LABEL = 4  # a class that tiny gives to some of the drawn photos and not to others
ROWS = 20


examine = functools.cache(backbones.examine)  # facts are frozen, and many tests ask for the same


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = photo_folder(tmp_path_factory.mktemp("photos"), ROWS - 1, width=160, height=120)
    (folder / "broken.jpg").write_bytes(b"no picture")
    source = read_source(str(folder))
    return SimpleNamespace(table=source.table, root=source.root)


class Counting(Counters):
    """A counters that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0
        self.blocks: list[Block] = []

    def answered(self, rows: int) -> None:
        self.rows += rows

    def block(self, block: Block) -> None:
        self.blocks.append(block)


def make_request(
    *,
    model: ModelRequest = SMALL,
    embed: Literal["model", "gate"] | None = None,
    threshold: float = 0.0,
    label: int = LABEL,
    **kept: Any,
) -> Request:
    gate = None
    if embed is not None:
        facts = examine(TINY)
        names = tuple(f"tiny {n}" for n in range(10))
        gate = GateInfo(facts=facts, labels=names, label_index=label)
        kept |= {
            "gate": "tiny",
            "gate_label": names[label],
            "gate_threshold": threshold,
            "embed_with": embed,
        }
    config = make_config(model, top_k=3, **kept)
    return request_of(config, examine(model, config.outputs), gate=gate)


def run(plan: SimpleNamespace, request: Request) -> tuple[pa.Table, pa.Table, Counting]:
    """Decoded rows, answered rows, and the counters."""
    decoded = decode_rows(plan.table, plan.root, pixel_columns(request))
    counters = Counting()
    engines = load_engines(request, batch_rows=8, memory_share=0.0)
    return decoded, Forward(request, engines, counters).answer(decoded), counters


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    array = column.combine_chunks()
    values: np.ndarray = array.flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(array), array.type.list_size)


def split_at_median(plan: SimpleNamespace) -> tuple[np.ndarray, float]:
    """tiny's score of LABEL for each good row, and a threshold that half of them reach."""
    request = make_request(model=TINY)
    decoded = decode_rows(plan.table, plan.root, pixel_columns(request))
    good = np.asarray(decoded["error"].is_null())
    answers = Engine(request.facts, "fp32")(unpack(decoded, PIXELS, request.facts.preprocess)[good])
    scores = softmax(answers.logits)[:, LABEL]
    return scores, float(np.median(scores))


@pytest.mark.parametrize("embed", ["model", "gate"])
def test_every_row_has_an_embedding_and_passing_rows_a_class(
    plan: SimpleNamespace, embed: Literal["model", "gate"]
) -> None:
    scores, threshold = split_at_median(plan)
    request = make_request(embed=embed, threshold=threshold)
    decoded, rows, counters = run(plan, request)
    good = np.asarray(decoded["error"].is_null())
    assert good.sum() == ROWS - 1
    assert counters.rows == ROWS  # every row is reported once
    passed = np.zeros(ROWS, bool)
    passed[good] = scores >= threshold
    assert 5 < passed.sum() < 15
    assert (np.asarray(rows["label_index"].is_valid()) == passed).all()
    embedding = matrix(rows["embedding"])
    assert (
        embedding.shape[1]
        == (request.facts if embed == "model" else request.gate.facts).feature_dim
    )  # type: ignore[union-attr]
    assert np.isfinite(embedding[good]).all()
    assert np.isnan(embedding[~good]).all()
    # Whoever embeds, the numbers are those of that model alone.
    alone = make_request(model=SMALL if embed == "model" else TINY)
    pixels = unpack(
        decode_rows(plan.table, plan.root, pixel_columns(alone)),
        PIXELS,
        alone.facts.preprocess,
    )
    expected = Engine(alone.facts, "fp32")(pixels[good])
    assert np.allclose(embedding[good], expected.embedding, rtol=1e-4, atol=1e-5)
    names = np.array(rows["gate_label"].to_pylist(), dtype=object)
    assert all(name is not None for name in names[good])
    assert names[~good][0] is None
    assert rows["error"].null_count == ROWS - 1


@pytest.mark.parametrize("embed", ["model", "gate"])
def test_the_stage_tells_what_it_loaded_and_each_block(
    plan: SimpleNamespace, embed: Literal["model", "gate"], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)  # of this process
    request = make_request(embed=embed)
    decoded, rows, _ = run(plan, request)
    counters = Counting()
    stage = ForwardStage(request, 0.0, counters)
    answers = stage(decoded)
    assert answers.schema == rows.schema
    assert np.array_equal(matrix(answers["embedding"]), matrix(rows["embedding"]), equal_nan=True)
    assert answers["label_index"].equals(rows["label_index"])
    assert stage(decoded.slice(0, 0)).num_rows == 0
    assert counters.rows == ROWS
    load, block = counters.blocks  # none of no rows
    assert (load.stage, load.rows) == ("load", 0)
    assert (block.stage, block.rows, block.first_row) == ("forward", ROWS, 0)
    assert block.errors == {"not an image": 1}


def test_classes_of_passing_rows_are_the_models_own(plan: SimpleNamespace) -> None:
    _, threshold = split_at_median(plan)
    _, gated, _ = run(plan, make_request(embed="gate", threshold=threshold))
    _, free, _ = run(plan, make_request())
    passed = np.asarray(gated["label_index"].is_valid())
    own = np.array(free["label_index"].to_pylist(), dtype=object)
    assert (np.array(gated["label_index"].to_pylist(), dtype=object)[passed] == own[passed]).all()


def test_two_inputs_only_where_two_are_wanted() -> None:
    same = make_request(model=TINY, embed="model")
    assert list(pixel_columns(same)) == [PIXELS]  # one decode, one resize
    assert list(pixel_columns(make_request(embed="model"))) == [PIXELS, GATE_PIXELS]


def test_kept_maps_are_those_of_the_pass(plan: SimpleNamespace) -> None:
    request = make_request(features=("map", "pyramid"), feature_indices=(1, -1), logits=True)
    decoded, rows, _ = run(plan, request)
    good = np.asarray(decoded["error"].is_null())
    pixels = unpack(decoded, PIXELS, request.facts.preprocess)[good]
    expected = Engine(request.facts, "fp32")(pixels)
    names = [info.name for info in request.facts.maps]
    assert names[0] == "feature_map"
    assert all(name.startswith("pyramid/") for name in names[1:])
    for info, values in zip(request.facts.maps, expected.maps, strict=True):
        kept = matrix(rows[info.name])
        assert np.allclose(kept[good].reshape(-1, *info.shape), values, rtol=1e-4, atol=1e-5)
        assert np.isnan(kept[~good]).all()
    assert np.allclose(matrix(rows["logits"])[good], expected.logits, rtol=1e-4, atol=1e-5)
    assert "pixels" not in rows.column_names


def test_an_overflow_of_the_gate_is_no_refusal(
    plan: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Engine.__call__

    def overflowing(self: Engine, pixels: np.ndarray, **options: Any) -> Any:
        answers = whole(self, pixels, **options)
        if self.facts.request == TINY:
            answers.logits[2] = np.inf
        return answers

    monkeypatch.setattr(Engine, "__call__", overflowing)
    with np.errstate(invalid="ignore"):
        _, rows, _ = run(plan, make_request(embed="model"))
    errors = [text for text in rows["error"].to_pylist() if text and text.startswith("not finite")]
    assert errors == ["not finite: the network overflowed in fp32"]
    assert rows["label_index"].null_count == 2  # that one and the broken image


def test_overflow_is_an_error_and_not_a_number(
    plan: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Engine.__call__

    def overflowing(self: Engine, pixels: np.ndarray, **options: Any) -> Any:
        answers = whole(self, pixels, **options)
        answers.embedding[2] = np.inf
        return answers

    monkeypatch.setattr(Engine, "__call__", overflowing)
    _, rows, _ = run(plan, make_request(logits=True))
    errors = [text for text in rows["error"].to_pylist() if text and text.startswith("not finite")]
    assert errors == ["not finite: the network overflowed in fp32"]
    assert rows["label"].null_count == ROWS  # test_resnet has no labels
    assert rows["label_index"].null_count == 2
