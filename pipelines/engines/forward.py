"""The forward stage: loaded models that turn pixels into all answers of a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from common.sampling import even_parts
from pipelines.detections import TOPK_TYPE, result_fields
from pipelines.engines.batching import DEFAULT_ROWS
from pipelines.engines.engine import Answers, Engine
from pipelines.images.decode import GATE_PIXELS, PIXELS, unpack
from pipelines.model_info import ModelInfo, Preprocess
from pipelines.models.scores import softmax, top_classes
from pipelines.progress.counters import Reporter
from pipelines.request import GateInfo, Request


class Engines(NamedTuple):
    """The networks of a run, loaded."""

    model: Engine
    gate: Engine | None = None


def load_engines(
    request: Request, *, batch_rows: int | None = None, memory_share: float = 1.0, lanes: int = 1
) -> Engines:
    """Load what ``request`` needs on this process's device.

    Args:
        request: of the run.
        batch_rows: images that go to the device at once; None: what suits it.
        memory_share: share of the GPU's memory for each call in flight.
        lanes: threads that will call the engines at a time.

    Raises:
        ModelError: weights here are not those of the run, or the engine refuses the network.
    """

    def load(facts: ModelInfo) -> Engine:
        return Engine(
            facts,
            request.precision,
            request.engine,
            batch_rows=batch_rows,
            memory_share=memory_share / (2 if request.gate else 1),
            lanes=lanes,
        )

    return Engines(load(request.facts), load(request.gate.facts) if request.gate else None)


class _BlockAnswers(NamedTuple):
    """Answers of all N rows of a block, NaN where there are none."""

    answers: Answers
    classed: np.ndarray  # bool [N]: has a class, no gate having refused it
    gate_score: np.ndarray | None  # float32 [N], of the gate's best class
    gate_index: np.ndarray | None


class Forward:
    """Pixels to class, embedding and maps: the one pass. Threads may share it."""

    def __init__(self, request: Request, engines: Engines, board: Reporter) -> None:
        self._request = request
        self._board = board
        self._engine = engines.model
        self._gate = (request.gate, engines.gate) if request.gate and engines.gate else None

    def answer(self, rows: pa.Table) -> pa.Table:
        """Plan rows with pixels to rows of the run.

        On a CPU they go through in parts of the same lengths whoever calls, because some libraries
        compute a few rows otherwise than many: the same rows give the same bits.
        """
        most = rows.num_rows if self._engine.on_gpu else DEFAULT_ROWS
        parts = even_parts(rows.num_rows, most or 1)
        return pa.concat_tables(self._answer(rows.slice(a, b - a)) for a, b in parts)

    def _answer(self, rows: pa.Table) -> pa.Table:
        request = self._request
        good = np.asarray(rows["error"].is_null())
        pixels = unpack(rows, PIXELS, request.facts.preprocess)
        if self._gate is not None:
            answered = self._cascade(*self._gate, rows, pixels, good)
        else:
            found = self._engine(_select(pixels, good), done=self._report)
            answered = _BlockAnswers(_scatter(found, good), good, None, None)
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
        return table

    def _report(self, rows: int) -> None:
        if rows:
            self._board.answered(rows)

    def _cascade(
        self, gate: GateInfo, engine: Engine, rows: pa.Table, pixels: np.ndarray, good: np.ndarray
    ) -> _BlockAnswers:
        """The gate on every good row; then the model, on all of them or on those that pass."""
        pixels_of_gate = unpack(rows, gate_column(self._request), gate.facts.preprocess)
        asked = gate.asked
        said = _scatter(engine(_select(pixels_of_gate, good)), good)
        scores = softmax(said.logits)
        passes = good & (scores[:, gate.label_index] >= asked.threshold)
        runs = good if asked.embed == "model" else passes
        found = self._engine(_select(pixels, runs), done=self._report)
        self._report(int((good & ~runs).sum()))
        answers = _scatter(found, runs)
        if asked.embed == "gate":
            answers = answers._replace(embedding=said.embedding)
        best = np.where(good, np.nan_to_num(scores).argmax(1), 0)
        return _BlockAnswers(answers, passes, scores[np.arange(len(best)), best], best)

    def _columns(self, answered: _BlockAnswers, good: np.ndarray) -> dict[str, Any]:
        """Arrow columns of all rows; no class where the gate or an error took it."""
        request, answers = self._request, answered.answers
        classed = answered.classed & good
        index, score = top_classes(answers.logits[classed], request.command.top_k)
        columns = _class_columns(index, score, classed, request.labels)
        columns["embedding"] = _fixed_size_lists(answers.embedding, ~good)
        if request.command.outputs.logits:
            columns["logits"] = _fixed_size_lists(answers.logits, ~good)
        for known, values in zip(request.facts.maps, answers.maps, strict=True):
            columns[known.name] = _fixed_size_lists(values, ~good)
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


def _select(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The rows ``where``; no copy where that is all."""
    return pixels if where.all() else pixels[where]


def _scatter(found: Answers, where: np.ndarray) -> Answers:
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


def _fixed_size_lists(values: np.ndarray, blank: np.ndarray) -> pa.Array:
    """Fixed-size lists ``[N, …]``, NaN where ``blank``.

    Not null: Arrow writes null fixed-size lists to Parquet but cannot read them back
    (apache/arrow#35692).
    """
    flat = values.reshape(len(values), math.prod(values.shape[1:]))  # -1 takes no empty array
    if blank.any():
        flat = np.where(blank[:, None], np.float32(np.nan), flat)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
