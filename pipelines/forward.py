"""The forward stage: an actor that holds a model and turns pixels into both answers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines.decode import PIXELS
from pipelines.detections import TOPK_TYPE, result_fields
from pipelines.engine import Answers, Engine, top_classes
from pipelines.facts import ModelFacts, Precision
from pipelines.records import Record


class ForwardOptions(Record):
    """What a forward actor needs to know, resolved once by the driver."""

    facts: ModelFacts
    precision: Precision
    top_k: int
    logits: bool


class ForwardActor:
    """Pixels to class and embedding: the one pass."""

    def __init__(self, options: ForwardOptions, board: Any) -> None:
        torch.set_num_threads(1)  # one actor a core beats one actor with all cores twofold
        self._options = options
        self._board = board
        self._engine = Engine(options.facts, options.precision)
        self._audit_settled = options.precision == "fp32"

    def __call__(self, rows: pa.Table) -> pa.Table:
        facts = self._options.facts
        height, width = facts.preprocess.input_size
        packed = rows[PIXELS].combine_chunks()
        size = height * width * 3
        raw = np.frombuffer(packed.buffers()[1], dtype=np.uint8)
        pixels = raw[packed.offset * size : (packed.offset + len(packed)) * size]
        good = np.asarray(rows["error"].is_null())
        answers = self._answer(pixels.reshape(len(packed), height, width, 3)[good])
        finite = np.isfinite(answers.pooled).all(1) & np.isfinite(answers.logits).all(1)
        errors = rows["error"].to_pylist()
        for row in np.flatnonzero(good)[~finite]:
            errors[row] = f"not finite: the network overflowed in {self._options.precision}"
        good[good] = finite
        columns = self._columns(Answers(*(part[finite] for part in answers)), good)
        columns["error"] = pa.array(errors, pa.string())
        self._board.answered.remote(rows.num_rows)
        table = rows.drop_columns([PIXELS, "error"])
        for field in result_fields(
            facts.feature_dim, facts.num_classes if self._options.logits else None
        ):
            table = table.append_column(field, columns[field.name])
        return table

    def _answer(self, pixels: np.ndarray) -> Answers:
        if len(pixels):
            if not self._audit_settled:
                self._settle_audit(pixels)
            return self._engine(pixels)
        facts = self._options.facts
        return Answers(
            np.empty((0, facts.feature_dim), np.float32),
            np.empty((0, facts.num_classes), np.float32),
        )

    def _settle_audit(self, pixels: np.ndarray) -> None:
        import ray

        self._audit_settled = True
        if ray.get(self._board.claim_audit.remote()):
            self._board.audited.remote(self._engine.audit(pixels))

    def _columns(self, answers: Answers, good: np.ndarray) -> dict[str, Any]:
        """Arrow columns of ``len(good)`` rows; row i has no answer where ``good[i]`` is False."""
        index, score = top_classes(answers.logits, self._options.top_k)
        count, width = index.shape
        names = self._engine.labels
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
        place = pa.array(np.where(good, np.cumsum(good) - 1, 0), mask=~good)
        columns = {
            "label": labels.take(best),
            "label_index": pa.array(index[:, 0]),
            "score": pa.array(score[:, 0]),
            "topk": pa.ListArray.from_arrays(offsets, entries).cast(TOPK_TYPE),
        }
        return {name: values.take(place) for name, values in columns.items()} | {
            "embedding": _fixed(answers.pooled, good),
            "logits": _fixed(answers.logits, good),
        }


def _fixed(values: np.ndarray, good: np.ndarray) -> pa.Array:
    """``len(good)`` fixed-size lists, NaN where ``good`` is False.

    Not null: Arrow writes null fixed-size lists to Parquet but cannot read them back
    (apache/arrow#35692).
    """
    full = np.full((len(good), values.shape[1]), np.nan, dtype=np.float32)
    full[good] = values
    return pa.FixedSizeListArray.from_arrays(pa.array(full.reshape(-1)), full.shape[1])
