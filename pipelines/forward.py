"""The forward stage: an actor that holds the models and turns pixels into all answers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from pipelines.decode import GATE_PIXELS, PIXELS, unpack
from pipelines.detections import TOPK_TYPE, result_fields
from pipelines.engines.engine import Answers, Engine
from pipelines.events.board import Attempt, Stopwatch
from pipelines.facts import ModelFacts, Preprocess
from pipelines.records import Record
from pipelines.request import GateFacts, Request
from pipelines.scores import softmax, top_classes


class ForwardOptions(Record):
    """What a forward actor needs to know, resolved once by the driver."""

    request: Request
    batch_rows: int | None
    memory_share: float  # of one GPU, for each call in flight


class _Answered(NamedTuple):
    """Answers of all N rows of a block, NaN where there are none."""

    answers: Answers
    classed: np.ndarray  # bool [N]: has a class, no gate having refused it
    gate_score: np.ndarray | None  # float32 [N], of the gate's best class
    gate_index: np.ndarray | None


class ForwardActor:
    """Pixels to class, embedding and maps: the one pass."""

    def __init__(self, options: ForwardOptions, board: Any) -> None:
        request, watch = options.request, Stopwatch("load")
        if not torch.cuda.is_available():
            torch.set_num_threads(1)  # one actor a core beats one actor with all cores twofold
        self._request = request
        self._board = board
        self._engine = self._load(options, request.facts)
        self._gate = (
            (request.gate, self._load(options, request.gate.facts)) if request.gate else None
        )
        board.block.remote(watch.block(None))

    @staticmethod
    def _load(options: ForwardOptions, facts: ModelFacts) -> Engine:
        request = options.request
        return Engine(
            facts,
            request.precision,
            request.engine,
            batch_rows=options.batch_rows,
            memory_share=options.memory_share / (2 if request.gate else 1),
        )

    def __call__(self, rows: pa.Table) -> pa.Table:
        with Attempt(self._board, "forward", rows):
            return self.answer(rows)

    def answer(self, rows: pa.Table) -> pa.Table:
        """Plan rows with pixels to rows of the run."""
        request, watch = self._request, Stopwatch("forward")
        good = np.asarray(rows["error"].is_null())
        pixels = unpack(rows, PIXELS, request.facts.preprocess)
        if self._gate is not None:
            answered = self._cascade(*self._gate, rows, pixels, good)
        else:
            found = self._engine(_only(pixels, good), done=self._report)
            answered = _Answered(_spread(found, good), good, None, None)
        finite = np.isfinite(answered.answers.embedding).all(1)
        finite &= np.isfinite(answered.answers.logits).all(1) | ~answered.classed
        if answered.gate_score is not None:  # an overflow is no refusal
            finite &= np.isfinite(answered.gate_score)
        errors = rows["error"].to_pylist()
        for row in np.flatnonzero(good & ~finite):
            errors[row] = f"not finite: the network overflowed in {request.precision}"
        columns = self._columns(answered, good & finite)
        columns["error"] = pa.array(errors, pa.string())
        self._report(int((~good).sum()))
        table = rows.drop_columns(
            [n for n in (PIXELS, GATE_PIXELS, "error") if n in rows.schema.names]
        )
        for field in run_fields(request):
            table = table.append_column(field, columns[field.name])
        if table.num_rows:
            self._board.block.remote(watch.block(table))
        return table

    def _report(self, rows: int) -> None:
        if rows:
            self._board.answered.remote(rows)

    def _cascade(
        self, gate: GateFacts, engine: Engine, rows: pa.Table, pixels: np.ndarray, good: np.ndarray
    ) -> _Answered:
        """The gate on every good row; then the model, on all of them or on those that pass."""
        pixels_of_gate = unpack(rows, gate_column(self._request), gate.facts.preprocess)
        asked = gate.asked
        said = _spread(engine(_only(pixels_of_gate, good)), good)
        scores = softmax(said.logits)
        passes = good & (scores[:, gate.label_index] >= asked.threshold)
        runs = good if asked.embed == "model" else passes
        found = self._engine(_only(pixels, runs), done=self._report)
        self._report(int((good & ~runs).sum()))
        answers = _spread(found, runs)
        if asked.embed == "gate":
            answers = answers._replace(embedding=said.embedding)
        best = np.where(good, np.nan_to_num(scores).argmax(1), 0)
        return _Answered(answers, passes, scores[np.arange(len(best)), best], best)

    def _columns(self, answered: _Answered, good: np.ndarray) -> dict[str, Any]:
        """Arrow columns of all rows; no class where the gate or an error took it."""
        request, answers = self._request, answered.answers
        classed = answered.classed & good
        index, score = top_classes(answers.logits[classed], request.command.top_k)
        columns = _class_columns(index, score, classed, request.labels)
        columns["embedding"] = _fixed(answers.embedding, ~good)
        if request.command.outputs.logits:
            columns["logits"] = _fixed(answers.logits, ~good)
        for known, values in zip(request.facts.maps, answers.maps, strict=True):
            columns[known.name] = _fixed(values, ~good)
        if request.gate is not None and answered.gate_index is not None:
            names = np.array(request.gate.labels, dtype=object)[answered.gate_index]
            columns["gate_label"] = pa.array(names, pa.string(), mask=~good)
            columns["gate_score"] = pa.array(answered.gate_score, pa.float32(), mask=~good)
        return columns


def run_fields(request: Request) -> list[pa.Field]:
    """The columns that this run adds to its plan."""
    return result_fields(
        request.embeds.feature_dim,
        num_classes=request.facts.num_classes if request.command.outputs.logits else None,
        maps={known.name: math.prod(known.shape) for known in request.facts.maps},
        gate=request.gate is not None,
    )


def pixel_columns(request: Request) -> dict[str, Preprocess]:
    """What decode must make: the model's input, and the gate's where that is another."""
    inputs = {PIXELS: request.facts.preprocess}
    if request.gate is not None:
        inputs[gate_column(request)] = request.gate.facts.preprocess
    return inputs


def gate_column(request: Request) -> str:
    """The gate's pixel column: the model's own where both want the same pixels."""
    assert request.gate is not None
    own, gate = request.facts.preprocess, request.gate.facts.preprocess
    # Normalisation happens on the device; only padding takes its colour from it before.
    same = own if own.resize == "pad" else own.model_copy(update={"mean": gate.mean})
    return PIXELS if same.model_copy(update={"std": gate.std}) == gate else GATE_PIXELS


def _only(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The rows ``where``; no copy where that is all."""
    return pixels if where.all() else pixels[where]


def _spread(found: Answers, where: np.ndarray) -> Answers:
    """Answers of the rows ``where`` among NaN for the others; no copy where that is all."""
    if where.all():
        return found

    def spread(values: np.ndarray) -> np.ndarray:
        full = np.full((len(where), *values.shape[1:]), np.nan, dtype=np.float32)
        full[where] = values
        return full

    return Answers(spread(found.embedding), spread(found.logits), tuple(map(spread, found.maps)))


def _class_columns(
    index: np.ndarray, score: np.ndarray, where: np.ndarray, names: Sequence[str] | None
) -> dict[str, Any]:
    """Label columns of ``len(where)`` rows from ``[K, k]`` best classes of the K rows ``where``."""
    count, width = index.shape
    flat = index.reshape(-1)
    labels = (
        pa.array(np.array(names, dtype=object)[flat], pa.string())
        if names
        else pa.nulls(len(flat), pa.string())
    )
    entries = pa.StructArray.from_arrays(
        [labels, pa.array(flat), pa.array(score.reshape(-1))], fields=list(TOPK_TYPE.value_type)
    )
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * width)
    best = pa.array(np.arange(count) * width)
    columns = {
        "label": labels.take(best),
        "label_index": pa.array(index[:, 0]),
        "score": pa.array(score[:, 0]),
        "topk": pa.ListArray.from_arrays(offsets, entries).cast(TOPK_TYPE),
    }
    place = pa.array(np.where(where, np.cumsum(where) - 1, 0), mask=~where)
    return {name: values.take(place) for name, values in columns.items()}


def _fixed(values: np.ndarray, blank: np.ndarray) -> pa.Array:
    """Fixed-size lists ``[N, …]``, NaN where ``blank``.

    Not null: Arrow writes null fixed-size lists to Parquet but cannot read them back
    (apache/arrow#35692).
    """
    flat = values.reshape(len(values), -1)
    if blank.any():
        flat = np.where(blank[:, None], np.float32(np.nan), flat)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
