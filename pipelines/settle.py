"""What the command left open, settled once: what the model is, its precision, its engine.

Settled where the forward actors will run, with a few images of the run: a format is proved
on them before ``auto`` takes it, and an engine is built only where the rows repay it. The
outcome is stored with the run, so that a session that continues it does the same.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from cluster.errors import ModelError, WorkError
from cluster.storage import place
from pipelines.backbones import describe, load_backbone
from pipelines.decode import PIXELS, decode_rows, unpack
from pipelines.engines import compiled, openvino
from pipelines.engines.batching import DEFAULT_ROWS
from pipelines.engines.engine import Engine, this_device
from pipelines.facts import (
    EngineName,
    GateRequest,
    ModelFacts,
    ModelRequest,
    Outputs,
    Precision,
    PrecisionAudit,
)
from pipelines.precision import check_format, compare, fast_formats, is_harmless
from pipelines.request import Command, GateFacts, Request

_TIMED_ROWS = 8
# As many take a core long enough to tell; a GPU with few rows does little but wait for its orders.
_FORWARD_ROWS = {"cpu": _TIMED_ROWS, "cuda": 256}
_BATCH_ROWS = {"cpu": DEFAULT_ROWS, "cuda": 256}


class _Offer(NamedTuple):
    """What an engine promised on the networks measured in ``benchmarks/engines.py``."""

    gain: float  # at least so many times eager
    build_seconds: float


_OFFERS: dict[str, dict[EngineName, _Offer]] = {
    "cpu": {"openvino": _Offer(1.5, 8.0), "compile": _Offer(1.4, 60.0)},
    "cuda": {"compile": _Offer(1.4, 90.0)},
}
_LOAD_SECONDS = 1.0  # of an engine that is built already


class Settled(NamedTuple):
    """A settled request, and where that was asked for what settling it told of time."""

    request: Request
    # Of one core with decoding, or of the GPU; None where not asked for or no image could be read.
    seconds_a_row: float | None = None
    building: float = 0.0  # seconds spent on engines that are built now and will be only loaded
    timing: float = 0.0  # seconds spent to tell all this


class _Model:
    """One network of the run, with the sample's pixels and its exact answers to them."""

    def __init__(
        self, request: ModelRequest, outputs: Outputs, sample: pa.Table, root: Path
    ) -> None:
        self.loaded = load_backbone(request)
        self.facts = describe(self.loaded, request, outputs)
        how = self.facts.preprocess
        rows = decode_rows(sample, root, {PIXELS: how})
        self.pixels = unpack(rows, PIXELS, how)[np.asarray(rows["error"].is_null())]
        self._engines: dict[tuple[Precision, EngineName], Engine] = {}
        self._spent: dict[tuple[Precision, EngineName], float] = {}
        self._exact = self.engine("fp32", "eager")(self.pixels)

    def engine(self, precision: Precision, engine: EngineName) -> Engine:
        """The engine, loaded once, and built where this machine has not yet.

        Raises:
            ModelError: it cannot execute the network.
        """
        key = precision, engine
        if key not in self._engines:
            began = time.perf_counter()
            self._engines[key] = self._load(precision, engine)
            self._spent[key] = time.perf_counter() - began
        return self._engines[key]

    def _load(self, precision: Precision, engine: EngineName) -> Engine:
        return Engine(
            self.facts,
            precision,
            engine,
            batch_rows=_BATCH_ROWS[this_device().type],
            loaded=self.loaded,
        )

    def building(self, precision: Precision, engine: EngineName) -> float:
        """How many seconds longer it took to build the engine than it takes to load it again."""
        key = precision, engine
        if engine == "eager" or key not in self._spent:
            return 0.0
        began = time.perf_counter()
        self._load(precision, engine)
        return max(0.0, self._spent[key] - (time.perf_counter() - began))

    def audit(self, precision: Precision, engine: EngineName) -> PrecisionAudit | None:
        """How far the answers are from exact; None where they are, or there is no image."""
        if not len(self.pixels) or (precision, engine) == ("fp32", "eager"):
            return None
        found = self.engine(precision, engine)(self.pixels)
        return compare(found.embedding, found.logits, self._exact.embedding, self._exact.logits)

    def has_no_classes(self) -> bool:
        """Whether it is an encoder, whose "logits" are its features once more."""
        own = getattr(self.loaded.backbone.model, "num_classes", None)
        return own == 0 and self.loaded.head is None

    def accepts(self, audit: PrecisionAudit) -> bool:
        untrained = self.loaded.weights.startswith("random") and self.loaded.head is None
        return is_harmless(audit, classes_matter=not (untrained or self.has_no_classes()))


def settle(
    command: Command, sample: pa.Table, root: str, *, rows: int, lanes: int, earlier: Request | None
) -> Request:
    """Settle ``command`` for ``rows`` rows on ``lanes`` actors like this process.

    ``sample`` holds some rows of the plan; images that cannot be read are passed over.

    Raises:
        InputError: model, labels, precision or engine do not fit.
        WorkError: an unfinished run was started with another model.
    """
    return _settle(command, sample, root, rows, lanes, earlier)[0]


def _settle(
    command: Command, sample: pa.Table, root: str, rows: int, lanes: int, earlier: Request | None
) -> tuple[Request, list[_Model]]:
    device = this_device()
    if command.precision != "auto":
        check_format(command.precision, device)
    if earlier is not None:
        sample = sample.slice(0, 0)  # it is settled; only the models are held against it
    model = _Model(command.model, command.outputs, sample, place(root))
    gate = _Model(command.gate.model, Outputs(), sample, place(root)) if command.gate else None
    if earlier is not None:
        return _same(earlier, model, gate), []
    gate_facts = _gate_facts(command.gate, gate) if command.gate and gate else None
    models = [model] if gate is None else [model, gate]
    bare = [each.facts.request.spec for each in models if each.has_no_classes()]
    formats = fast_formats(device) if command.precision == "auto" else [command.precision]
    refused: list[str] = []
    for precision, finer in zip(formats, [*formats[1:], None], strict=True):
        engine, notes = _settle_engine(command.engine, models, precision, rows, lanes)
        audits = [each.audit(precision, engine) for each in models]
        said = _refusal(precision, models, audits)
        if finer is None or said is None:
            break
        refused.append(f"precision {finer}: {said}")
    notes += refused
    request = Request(
        command=command,
        facts=model.facts,
        labels=model.loaded.labels,
        gate=gate_facts,
        precision=precision,
        engine=engine,
        audit=audits[0],
        notes=(*notes, *(f"{spec} has no classifier: its classes mean nothing" for spec in bare)),
    )
    return request, models


def _refusal(
    precision: Precision, models: list[_Model], audits: list[PrecisionAudit | None]
) -> str | None:
    """Why ``auto`` does not take the format; None where it does."""
    for each, audit in zip(models, audits, strict=True):
        if audit is not None and not each.accepts(audit):
            return (
                f"{precision} moves the embeddings of {each.facts.request.spec} to cosine "
                f"{audit.cosine_mean:.4f} of exact, enough to change classes; "
                f"--precision {precision} trades that for speed"
            )
    return None


def settle_here(
    command: Command,
    sample: pa.Table,
    root: str,
    *,
    rows: int,
    lanes: int,
    earlier: Request | None,
    timed: bool,
) -> Settled:
    """``settle``, and if it is to be ``timed``, what it tells of time."""
    request, models = _settle(command, sample, root, rows, lanes, earlier)
    if not timed or not models or not len(models[0].pixels):
        return Settled(request)
    how, asked = (request.precision, request.engine), time.perf_counter()
    building = sum(model.building(*how) for model in models)
    began = time.perf_counter()
    few = sample.slice(0, _TIMED_ROWS)
    decode_rows(few, place(root), {PIXELS: request.facts.preprocess})
    decoding = (time.perf_counter() - began) / few.num_rows
    forward = sum(_seconds_a_row(model, *how) for model in models)
    if this_device().type == "cpu":
        forward *= torch.get_num_threads()  # an actor has one thread
        forward += decoding
    return Settled(request, forward, building, time.perf_counter() - asked)


def settle_on_worker(*arguments: Any, **how: Any) -> Settled:
    """``settle_here`` on the cores that an actor has."""
    torch.set_num_threads(1)
    return settle_here(*arguments, **how)


def _same(earlier: Request, model: _Model, gate: _Model | None) -> Request:
    """The earlier request, if the models are still those it was started with."""
    then = [earlier.facts] + ([earlier.gate.facts] if earlier.gate else [])
    for old, now in zip(then, [model, gate] if gate else [model], strict=True):
        assert now is not None
        if old.head_sha256 != now.facts.head_sha256:
            raise WorkError(
                f"the model is not what this run was started with: --head {old.request.head} is "
                "another file now; restore it or start a new run"
            )
        if old != now.facts:
            raise WorkError(
                f"the model is not what this run was started with: {old.request.spec} has weights "
                f"{now.facts.weights_sha256[:12]} now, {old.weights_sha256[:12]} then; restore "
                "the package versions or start a new run"
            )
    return earlier


def _settle_engine(
    asked: EngineName | Literal["auto"],
    models: list[_Model],
    precision: Precision,
    rows: int,
    lanes: int,
) -> tuple[EngineName, list[str]]:
    """The engine, built so that actors find it built, and why it was chosen."""
    if asked != "auto":
        for model in models:
            model.engine(precision, asked)
        return asked, []
    if not len(models[0].pixels):
        return "eager", []
    device = this_device()
    seconds = sum(_seconds_a_row(model, precision, "eager") for model in models)
    if device.type == "cpu":
        seconds *= torch.get_num_threads()  # an actor has one thread
    work = rows * seconds / lanes
    worth = {
        name: work * (1 - 1 / offer.gain) - _build_seconds(name, offer, models, precision)
        for name, offer in _OFFERS[device.type].items()
        if name != "openvino" or openvino.is_installed()
    }
    notes: list[str] = []
    for name in sorted(worth, key=worth.__getitem__, reverse=True):
        if worth[name] <= 0:
            break
        try:
            for model in models:
                model.engine(precision, name)
        except ModelError as error:
            notes.append(f"engine {name} passed over: {error}")
            continue
        return name, [*notes, f"engine {name}: {work:.0f} s of eager work repay building it"]
    return "eager", [*notes, f"engine eager: {work:.0f} s of work do not repay building another"]


def _seconds_a_row(model: _Model, precision: Precision, name: EngineName) -> float:
    engine = model.engine(precision, name)
    count = _FORWARD_ROWS[this_device().type]
    few = np.resize(model.pixels, (count, *model.pixels.shape[1:]))  # the sample, over and over
    engine(few)  # the first call pays for its kernels, and of other sizes than this for others
    began = time.perf_counter()
    engine(few)
    return (time.perf_counter() - began) / len(few)


def _build_seconds(
    name: EngineName, offer: _Offer, models: list[_Model], precision: Precision
) -> float:
    def is_cached(facts: ModelFacts) -> bool:
        if name == "openvino":
            return openvino.is_cached(facts)
        return compiled.is_cached(facts, precision, this_device())

    return sum(_LOAD_SECONDS if is_cached(m.facts) else offer.build_seconds for m in models)


def _gate_facts(asked: GateRequest, gate: _Model) -> GateFacts:
    names = gate.loaded.labels
    if names is None or asked.label not in names:
        known = ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "no labels"
        raise ModelError(
            f"--gate-label {asked.label}: {asked.model.spec} has {known}; give one of its "
            "labels, or its names with --gate-labels"
        )
    return GateFacts(
        asked=asked, facts=gate.facts, labels=names, label_index=names.index(asked.label)
    )
