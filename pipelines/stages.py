"""What runs inside Ray: decode tasks, forward actors, and the board they report to.

Decoding is a function of a block of plan rows; the forward pass is an actor that holds a
model. Between them travel uint8 pixels in one fixed-size binary column, which Arrow and
NumPy share without a copy.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from pipelines.detections import BOX, TOPK_TYPE, result_fields
from pipelines.engine import Answers, Engine, top_classes
from pipelines.images import Decoded, ImageError, cut, decode, fit, read
from pipelines.run import ModelFacts, Precision, PrecisionAudit, Preprocess, Record

PIXELS = "pixels"


class Tally(NamedTuple):
    """What the board knows: rows through each stage, and when the first answer came."""

    decoded: int = 0
    answered: int = 0
    first_answer: float | None = None
    audit: PrecisionAudit | None = None


class Board:
    """Where stages report. A Ray actor of its own, so that reporting never blocks them."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._audit_given = False

    def claim_audit(self) -> bool:
        """True for the first actor that asks: one audit a session is enough."""
        first = not self._audit_given
        self._audit_given = True
        return first

    def decoded(self, rows: int) -> None:
        self._tally = self._tally._replace(decoded=self._tally.decoded + rows)

    def answered(self, rows: int) -> None:
        self._tally = self._tally._replace(
            answered=self._tally.answered + rows,
            first_answer=self._tally.first_answer or time.time(),
        )

    def audited(self, audit: PrecisionAudit) -> None:
        self._tally = self._tally._replace(audit=audit)

    def tally(self) -> Tally:
        return self._tally


class DecodeBlock:
    """Plan rows to pixels; an image with several boxes is decoded once.

    Rows of one image stand together in the plan, so remembering the last image is enough.
    Whatever is wrong with an image or a box becomes the row's ``error``.
    """

    def __init__(self, root: str, preprocess: Preprocess, board: Any) -> None:
        self._root = Path(root)
        self._preprocess = preprocess
        self._board = board

    def __call__(self, rows: pa.Table) -> pa.Table:
        torch.set_num_threads(1)
        height, width = self._preprocess.input_size
        size = height * width * 3
        buffer = np.zeros((rows.num_rows, size), dtype=np.uint8)
        errors: list[str | None] = []
        taken: list[Any] = []
        for number, (image, result) in enumerate(self._images(rows)):
            decoded, box = result
            taken.append(decoded.taken if isinstance(decoded, Decoded) else None)
            try:
                if isinstance(decoded, ImageError):
                    raise decoded
                pixels = fit(cut(decoded.pixels, box), self._preprocess)
            except ImageError as error:
                errors.append(f"{error} [{image}]")
                continue
            buffer[number] = pixels.permute(1, 2, 0).reshape(-1).numpy()
            errors.append(None)
        if self._board is not None:
            self._board.decoded.remote(rows.num_rows)
        stamps = rows["timestamp"].combine_chunks()
        stamps = pa.compute.coalesce(stamps, pa.array(taken, stamps.type))
        column = pa.Array.from_buffers(
            pa.binary(size), rows.num_rows, [None, pa.py_buffer(buffer)]
        )
        at = rows.column_names.index("timestamp")
        return (
            rows.set_column(at, "timestamp", stamps)
            .append_column("error", pa.array(errors, pa.string()))
            .append_column(PIXELS, column)
        )

    def _images(
        self, rows: pa.Table
    ) -> Iterator[tuple[str, tuple[Decoded | ImageError, tuple[float | None, ...]]]]:
        last: str | None = None
        decoded: Decoded | ImageError | None = None
        boxes = zip(*(rows[name].to_pylist() for name in BOX), strict=True)
        for image, box in zip(rows["image"].to_pylist(), boxes, strict=True):
            if image != last or decoded is None:
                try:
                    decoded = decode(read(self._root / image))
                except ImageError as error:
                    decoded = error
                last = image
            yield image, (decoded, box)


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
        """Arrow columns of ``len(good)`` rows; row i is null where ``good[i]`` is False."""
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
            "embedding": _fixed(answers.pooled),
            "logits": _fixed(answers.logits),
        }
        return {name: values.take(place) for name, values in columns.items()}


def _fixed(values: np.ndarray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
