"""The forward stage: loaded models that turn pixels into all result columns of a row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from common.sampling import even_parts
from pipelines.detections import IMAGE_DAMAGE, TOPK_TYPE, result_fields
from pipelines.engines.engine import DEFAULT_ROWS, Answers, Engine
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
        batch_rows: images that go to the device at once; None: suited to it.
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
    has_class: np.ndarray  # bool [N]; False where a gate refused the row
    gate_score: np.ndarray | None  # float32 [N], of the gate's best class
    gate_index: np.ndarray | None


class Forward:
    """Pixels to class, embedding and maps: the one pass. Threads may share it.

    Args:
        request: of the run.
        engines: that it needs.
        reporter: is told of each batch of rows that is answered.
    """

    def __init__(self, request: Request, engines: Engines, reporter: Reporter) -> None:
        self._request = request
        self._reporter = reporter
        self._engine = engines.model
        self._gate = (request.gate, engines.gate) if request.gate and engines.gate else None

    def answer(self, rows: pa.Table) -> pa.Table:
        """Plan rows with pixels to rows of the run.

        On a CPU the parts have the same lengths in every executor, because some libraries compute
        a few rows differently from many, and the same rows must give the same bits.
        """
        most = rows.num_rows if self._engine.on_gpu else DEFAULT_ROWS
        parts = even_parts(rows.num_rows, most or 1)
        return pa.concat_tables(self._answer(rows.slice(a, b - a)) for a, b in parts)

    def _answer(self, rows: pa.Table) -> pa.Table:
        request = self._request
        good = np.asarray(rows["error"].is_null())
        pixels = unpack(rows, PIXELS, request.facts.preprocess)
        if self._gate is not None:
            block = self._cascade(*self._gate, rows, pixels, good)
        else:
            answers = self._engine(_select(pixels, good), done=self._report)
            block = _BlockAnswers(_scatter(answers, good), good, None, None)
        finite = np.isfinite(block.answers.embedding).all(1)
        finite &= np.isfinite(block.answers.logits).all(1) | ~block.has_class
        if block.gate_score is not None:  # an overflow of the gate is an error, not a refusal
            finite &= np.isfinite(block.gate_score)
        errors = rows["error"].to_pylist()
        for row in np.flatnonzero(good & ~finite):
            errors[row] = f"not finite: the network overflowed in {request.precision}"
        columns = self._columns(block, good & finite)
        columns["error"] = pa.array(errors, pa.string())
        if request.config.damaged == "keep":
            columns[IMAGE_DAMAGE] = rows[IMAGE_DAMAGE]
        self._report(int((~good).sum()))
        table = rows.drop_columns(
            [n for n in (PIXELS, GATE_PIXELS, IMAGE_DAMAGE, "error") if n in rows.schema.names]
        )
        for field in run_fields(request):
            table = table.append_column(field, columns[field.name])
        return table

    def _report(self, rows: int) -> None:
        if rows:
            self._reporter.answered(rows)

    def _cascade(
        self, gate: GateInfo, engine: Engine, rows: pa.Table, pixels: np.ndarray, good: np.ndarray
    ) -> _BlockAnswers:
        """The gate on every good row; then the model, on all of them or on those that pass."""
        gate_pixels = unpack(rows, gate_column(self._request), gate.facts.preprocess)
        gate_answers = _scatter(engine(_select(gate_pixels, good)), good)
        scores = softmax(gate_answers.logits)
        config = self._request.config
        passes = good & (scores[:, gate.label_index] >= config.gate_threshold)
        runs = good if config.embed_with == "model" else passes
        answers = _scatter(self._engine(_select(pixels, runs), done=self._report), runs)
        self._report(int((good & ~runs).sum()))
        if config.embed_with == "gate":
            answers = answers._replace(embedding=gate_answers.embedding)
        best = np.where(good, np.nan_to_num(scores).argmax(1), 0)
        return _BlockAnswers(answers, passes, scores[np.arange(len(best)), best], best)

    def _columns(self, block: _BlockAnswers, good: np.ndarray) -> dict[str, Any]:
        """Arrow columns of all rows; no class where a gate refused the row or it has an error."""
        request, answers = self._request, block.answers
        has_class = block.has_class & good
        index, score = top_classes(answers.logits[has_class], request.config.top_k)
        columns = _class_columns(index, score, has_class, request.labels)
        columns["embedding"] = _fixed_size_lists(answers.embedding, ~good)
        if request.config.logits:
            columns["logits"] = _fixed_size_lists(answers.logits, ~good)
        for info, values in zip(request.facts.maps, answers.maps, strict=True):
            columns[info.name] = _fixed_size_lists(values, ~good)
        if request.gate is not None and block.gate_index is not None:
            names = np.array(request.gate.labels, dtype=object)[block.gate_index]
            columns["gate_label"] = pa.array(names, pa.string(), mask=~good)
            columns["gate_score"] = pa.array(block.gate_score, pa.float32(), mask=~good)
        return columns


def run_fields(request: Request) -> list[pa.Field]:
    """The columns that this run adds to its plan."""
    return result_fields(
        request.embeds.feature_dim,
        num_classes=request.facts.num_classes if request.config.logits else None,
        maps={info.name: math.prod(info.shape) for info in request.facts.maps},
        gate=request.gate is not None,
        damage=request.config.damaged == "keep",
    )


def pixel_columns(request: Request) -> dict[str, Preprocess]:
    """The pixel columns to decode: the model's input, and the gate's where it differs."""
    inputs = {PIXELS: request.facts.preprocess}
    if request.gate is not None:
        inputs[gate_column(request)] = request.gate.facts.preprocess
    return inputs


def gate_column(request: Request) -> str:
    """The gate's pixel column: the model's own where both take the same pixels."""
    assert request.gate is not None
    own, gate = request.facts.preprocess, request.gate.facts.preprocess
    # Normalisation happens on the device; before it only padding depends on the mean.
    same = own if own.resize == "pad" else own.model_copy(update={"mean": gate.mean})
    return PIXELS if same.model_copy(update={"std": gate.std}) == gate else GATE_PIXELS


def _select(pixels: np.ndarray, where: np.ndarray) -> np.ndarray:
    """The rows ``where``; no copy where all are."""
    return pixels if where.all() else pixels[where]


def _scatter(answers: Answers, where: np.ndarray) -> Answers:
    """Answers of the rows ``where``, with NaN for the others; no copy where all are."""
    if where.all():
        return answers

    def spread(values: np.ndarray) -> np.ndarray:
        full = np.full((len(where), *values.shape[1:]), np.nan, dtype=np.float32)
        full[where] = values
        return full

    maps = tuple(map(spread, answers.maps))
    return Answers(spread(answers.embedding), spread(answers.logits), maps)


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
    index_of_row = pa.array(np.where(where, np.cumsum(where) - 1, 0), mask=~where)
    return {name: values.take(index_of_row) for name, values in columns.items()}


def _fixed_size_lists(values: np.ndarray, blank: np.ndarray) -> pa.Array:
    """Fixed-size lists ``[N, …]``, NaN where ``blank``.

    Not null: Arrow writes null fixed-size lists to Parquet but cannot read them back
    (apache/arrow#35692).
    """
    flat = values.reshape(len(values), math.prod(values.shape[1:]))  # -1 takes no empty array
    if blank.any():
        flat = np.where(blank[:, None], np.float32(np.nan), flat)
    return pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
