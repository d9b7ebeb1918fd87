"""What the command left open, resolved once: what the model is, its precision, its engine.

Resolved where the forward actors or lanes will run, with a few images of the run: a format is
proved on them before ``auto`` takes it, and an engine is built only where the rows repay it. The
outcome is stored with the run, so that a session that continues it does the same.

What this machine knows of the model already (``pipelines/models/cache.py``) is not found out again:
where that is all, the network is not even built.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from common.errors import ModelError, WorkError
from common.storage import to_path
from pipelines.engines import compiled, openvino
from pipelines.engines.batching import DEFAULT_ROWS
from pipelines.engines.engine import Engine, this_device
from pipelines.engines.forward import Engines
from pipelines.engines.precision import check_format, compare, fast_formats, is_harmless
from pipelines.engines.unresolved import Resolved, Unresolved
from pipelines.images.decode import PIXELS, decode_rows, unpack
from pipelines.model_info import (
    EngineName,
    GateRequest,
    ModelInfo,
    ModelRequest,
    Outputs,
    Precision,
    PrecisionAudit,
)
from pipelines.models.base import Loaded
from pipelines.models.cache import Choice, KnownModel, ModelCache
from pipelines.models.registry import describe, load_backbone
from pipelines.request import GateInfo, Request

_TIMED_ROWS = 8
# As many take a core long enough to tell; a GPU with few rows does little but wait for its orders.
_FORWARD_ROWS = {"cpu": _TIMED_ROWS, "cuda": 256}
_BATCH_ROWS = {"cpu": DEFAULT_ROWS, "cuda": 256}


class _EngineOption(NamedTuple):
    """What an engine promised on the networks measured in ``benchmarks/engines.py``."""

    gain: float  # at least so many times eager
    build_seconds: float


_OFFERS: dict[str, dict[EngineName, _EngineOption]] = {
    "cpu": {"openvino": _EngineOption(1.5, 8.0), "compile": _EngineOption(1.4, 60.0)},
    "cuda": {"compile": _EngineOption(1.4, 90.0)},
}
_LOAD_SECONDS = 1.0  # of an engine that is built already
_LATER_RUNS = 8  # that share what it costs to build one, because it is kept on this machine


class Candidate:
    """One network of the run: what is known of it, and what is found out as it is asked for.

    Args:
        request: which network.
        outputs: the maps that are kept of it.
        sample: rows of the plan, to judge it by.
        root: relative image names start here.
        lanes: threads that will call its engines at a time.
    """

    def __init__(
        self,
        request: ModelRequest,
        outputs: Outputs,
        sample: pa.Table,
        root: Path,
        lanes: int = 1,
    ) -> None:
        self._request, self._outputs = request, outputs
        self._sample, self._root, self._lanes = sample, root, lanes
        self._cache = ModelCache(request, outputs)
        self._known = self._cache.read()
        self._engines: dict[tuple[Precision, EngineName], Engine] = {}
        self._spent: dict[tuple[Precision, EngineName], float] = {}
        self._audits = dict(self._known.audits) if self._known else {}
        self._seconds = dict(self._known.seconds) if self._known else {}
        self._load_seconds = self._known.load_seconds if self._known else 0.0
        self._choices = dict(self._known.choices) if self._known else {}

    @cached_property
    def loaded(self) -> Loaded:
        """The network, built.

        Raises:
            ModelError: it cannot be.
        """
        began = time.perf_counter()
        loaded = load_backbone(self._request)
        self._load_seconds = time.perf_counter() - began
        return loaded

    @cached_property
    def facts(self) -> ModelInfo:
        if self._known is not None:
            return self._known.facts
        return describe(self.loaded, self._request, self._outputs)

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        return self._known.labels if self._known is not None else self.loaded.labels

    @cached_property
    def has_classes(self) -> bool:
        """False: it is an encoder, whose "logits" are its features once more."""
        if self._known is not None:
            return self._known.has_classes
        own = getattr(self.loaded.backbone.model, "num_classes", None)
        return own != 0 or self.loaded.head is not None

    @cached_property
    def pixels(self) -> np.ndarray:
        """The sample's images that can be read, as the network wants them."""
        how = self.facts.preprocess
        rows = decode_rows(self._sample, self._root, {PIXELS: how})
        readable: np.ndarray = unpack(rows, PIXELS, how)[np.asarray(rows["error"].is_null())]
        return readable

    def engine(self, precision: Precision, engine: EngineName) -> Engine:
        """The engine, loaded once, and built where this machine has not yet.

        Raises:
            ModelError: it cannot execute the network.
        """
        key = precision, engine
        if key not in self._engines:
            began = time.perf_counter()
            self._engines[key] = self.load(precision, engine, _BATCH_ROWS[this_device().type])
            self._spent[key] = time.perf_counter() - began
        return self._engines[key]

    def load(
        self,
        precision: Precision,
        engine: EngineName,
        batch_rows: int | None,
        memory_share: float = 1.0,
    ) -> Engine:
        """A new engine, as ``Engine`` takes the arguments; the network is built only if it must be."""
        built = engine != "eager" and self.is_built(precision, engine)
        return Engine(
            self.facts,
            precision,
            engine,
            batch_rows=batch_rows,
            memory_share=memory_share,
            lanes=self._lanes,
            loaded=None if built else self.loaded,
        )

    def is_built(self, precision: Precision, engine: EngineName) -> bool:
        """Whether this machine keeps the engine."""
        if engine == "openvino":
            return openvino.is_installed() and openvino.is_cached(self.facts)
        return engine == "compile" and compiled.is_cached(self.facts, precision, this_device())

    def building(self, precision: Precision, engine: EngineName) -> float:
        """How many seconds longer it took to build the engine than it takes to load it again."""
        key = precision, engine
        if engine == "eager" or key not in self._spent:
            return 0.0
        began = time.perf_counter()
        self.load(precision, engine, _BATCH_ROWS[this_device().type])
        return max(0.0, self._spent[key] - (time.perf_counter() - began))

    def start_seconds(self, precision: Precision, engine: EngineName) -> float:
        """What it still costs to have the engine ready, shared with later runs where it is kept."""
        network = 0.0 if "loaded" in self.__dict__ else self._load_seconds
        if engine == "eager":
            return network
        if self.is_built(precision, engine):
            return _LOAD_SECONDS
        return network + _OFFERS[this_device().type][engine].build_seconds / _LATER_RUNS

    def seconds_a_row(self, precision: Precision, engine: EngineName) -> float:
        """Of the device, with all of PyTorch's threads."""
        loaded = self.engine(precision, engine)
        count = _FORWARD_ROWS[this_device().type]
        few = np.resize(self.pixels, (count, *self.pixels.shape[1:]))  # the sample, over and over
        loaded(few)  # the first call pays for its kernels, and of other sizes than this for others
        began = time.perf_counter()
        loaded(few)
        return (time.perf_counter() - began) / len(few)

    def eager_seconds(self, precision: Precision) -> float:
        """Of one row, on one core or the GPU."""
        if precision not in self._seconds:
            self._seconds[precision] = self.seconds_a_row(precision, "eager") * _threads()
        return self._seconds[precision]

    @cached_property
    def _exact(self) -> tuple[np.ndarray, np.ndarray]:
        found = self.engine("fp32", "eager")(self.pixels)
        return found.embedding, found.logits

    def refusal(self, precision: Precision, engine: EngineName | Literal["auto"]) -> str | None:
        """Why ``auto`` was seen not to take a format; None where it was not, or was never tried."""
        for name, audit in self._audits.items():
            tried, _, by = name.partition(" ")
            if tried == precision and engine in ("auto", by) and not self._accepts(audit):
                return self._refused(precision, audit)
        return None

    def judge(self, precision: Precision, audit: PrecisionAudit | None) -> str | None:
        """Why ``auto`` does not take the format; None where it does."""
        if audit is None or self._accepts(audit):
            return None
        return self._refused(precision, audit)

    def _refused(self, precision: Precision, audit: PrecisionAudit) -> str:
        return (
            f"{precision} moves the embeddings of {self._request.spec} to cosine "
            f"{audit.cosine_mean:.4f} of exact, enough to change classes; "
            f"--precision {precision} trades that for speed"
        )

    def audit(self, precision: Precision, engine: EngineName) -> PrecisionAudit | None:
        """How far the answers are from exact; None where they are, or there is no image.

        Of another engine in float32 what an earlier run found out is told: it rounds alike on any
        image. Half precision is measured on this run's own.
        """
        if (precision, engine) == ("fp32", "eager") or not len(self.pixels):
            return None
        name = f"{precision} {engine}"
        if precision != "fp32" or name not in self._audits:
            found = self.engine(precision, engine)(self.pixels)
            self._audits[name] = compare(found.embedding, found.logits, *self._exact)
        return self._audits[name]

    def _accepts(self, audit: PrecisionAudit) -> bool:
        untrained = self.facts.weights.startswith("random") and self.facts.head is None
        return is_harmless(audit, classes_matter=self.has_classes and not untrained)

    def keep_choice(self, request: Request, *, found_built: bool) -> None:
        """Keep what was chosen, where it suits the next command whatever its rows are.

        That is float32, in eager where that was asked for, or in an OpenVINO network that was
        found built (``found_built``), which costs a second to load at most. Half precision is
        judged on each run's images, and building repays itself by their number.
        """
        config, engine = request.config, request.engine
        if request.precision != "fp32":
            return
        kept = engine == "openvino" and found_built and request.audit is not None
        if kept or config.engine == engine == "eager":
            self._choices[f"{config.precision} {config.engine}"] = Choice(
                engine=engine,
                built=openvino.cache_name(self.facts) if kept else None,
                audit=request.audit,
                notes=request.notes,
            )

    def remember(self) -> None:
        """Keep what was found out for the next command."""
        known = KnownModel(
            facts=self.facts,
            labels=self.labels,
            has_classes=self.has_classes,
            load_seconds=self._load_seconds,
            seconds=self._seconds,
            audits=self._audits,
            choices=self._choices,
        )
        if known != self._known:
            self._cache.write(known)


class Resolution(NamedTuple):
    """What was resolved, and the networks as they are loaded here."""

    resolved: Resolved
    model: Candidate
    gate: Candidate | None

    def engines(self, batch_rows: int | None, *, calls_in_flight: int = 1) -> Engines:
        """The run's engines in this process; what resolving has loaded is not loaded again.

        Args:
            batch_rows: images that go to the device at once; None: what suits it.
            calls_in_flight: of each engine, which share a GPU's memory.
        """
        request = self.resolved.request
        how = request.precision, request.engine
        networks = [self.model] if self.gate is None else [self.model, self.gate]
        if this_device().type == "cpu" and batch_rows is None:
            loaded = [network.engine(*how) for network in networks]
        else:
            share = 1 / (calls_in_flight * len(networks))
            loaded = [network.load(*how, batch_rows, share) for network in networks]
        return Engines(*loaded)


def resolve(unresolved: Unresolved, *, lanes: int, engine_lanes: int = 1) -> Resolution:
    """Resolve a command for its rows on ``lanes`` actors or lanes like this process.

    Images of the sample that cannot be read are passed over.

    Args:
        unresolved: the command and a sample of its rows.
        lanes: how many will work side by side.
        engine_lanes: threads of this process that will call the engines at a time.

    Raises:
        InputError: model, labels, precision or engine do not fit.
        WorkError: an unfinished run was started with another model.
    """
    config, earlier, device = unresolved.config, unresolved.earlier, this_device()
    if config.precision != "auto":
        check_format(config.precision, device)
    sample, root = unresolved.sample, to_path(unresolved.root)
    if earlier is not None:
        sample = sample.slice(0, 0)  # it is resolved; only the models are held against it
    asked_gate = config.gate_request
    model = Candidate(config.model_request, config.outputs, sample, root, engine_lanes)
    gate = (
        Candidate(asked_gate.model, Outputs(), sample, root, engine_lanes) if asked_gate else None
    )
    models = [model] if gate is None else [model, gate]
    if earlier is not None:
        request = _same(earlier, model, gate)
        return Resolution(Resolved(request), model, gate)
    gate_facts = _gate_facts(asked_gate, gate) if asked_gate and gate else None
    found_built = model.is_built("fp32", "openvino")
    request = _choose(unresolved, models, gate_facts, lanes)
    if gate is None:
        model.keep_choice(request, found_built=found_built)
    for each in models:
        each.remember()
    resolved = _timed(unresolved, request, models) if unresolved.timed else Resolved(request)
    return Resolution(resolved, model, gate)


def _choose(
    unresolved: Unresolved, models: list[Candidate], gate: GateInfo | None, lanes: int
) -> Request:
    config, model = unresolved.config, models[0]
    formats = fast_formats(this_device()) if config.precision == "auto" else [config.precision]
    refused: list[str] = []
    for precision, finer in zip(formats, [*formats[1:], None], strict=True):
        said = None
        if finer is not None:
            said = _first(each.refusal(precision, config.engine) for each in models)
        if said is None:
            engine, notes = _choose_engine(config.engine, models, precision, unresolved.rows, lanes)
            audits = [each.audit(precision, engine) for each in models]
            if finer is None:
                break
            pairs = zip(models, audits, strict=True)
            said = _first(each.judge(precision, audit) for each, audit in pairs)
            if said is None:
                break
        refused.append(f"precision {finer}: {said}")
    bare = [each.facts.request.spec for each in models if not each.has_classes]
    notes += refused
    return Request(
        config=config,
        inputs=unresolved.inputs,
        facts=model.facts,
        labels=model.labels,
        gate=gate,
        precision=precision,
        engine=engine,
        audit=audits[0],
        notes=(*notes, *(f"{spec} has no classifier: its classes mean nothing" for spec in bare)),
    )


def _first(said: Iterable[str | None]) -> str | None:
    return next((each for each in said if each is not None), None)


def _timed(unresolved: Unresolved, request: Request, models: list[Candidate]) -> Resolved:
    """What resolving tells of time."""
    if not len(models[0].pixels):
        return Resolved(request)
    how, asked = (request.precision, request.engine), time.perf_counter()
    building = sum(model.building(*how) for model in models)
    began = time.perf_counter()
    few = unresolved.sample.slice(0, _TIMED_ROWS)
    decode_rows(few, to_path(unresolved.root), {PIXELS: request.facts.preprocess})
    decoding = (time.perf_counter() - began) / few.num_rows
    forward = sum(model.seconds_a_row(*how) for model in models) * _threads()
    if this_device().type == "cpu":
        forward += decoding
    return Resolved(request, forward, building, time.perf_counter() - asked)


def _threads() -> int:
    """Threads that a call computes with, where an actor or a lane has one."""
    return torch.get_num_threads() if this_device().type == "cpu" else 1


def _same(earlier: Request, model: Candidate, gate: Candidate | None) -> Request:
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


def _choose_engine(
    asked: EngineName | Literal["auto"],
    models: list[Candidate],
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
    work = rows * sum(model.eager_seconds(precision) for model in models) / lanes
    eager = sum(model.start_seconds(precision, "eager") for model in models)
    worth = {
        name: work * (1 - 1 / offer.gain)
        + eager
        - sum(model.start_seconds(precision, name) for model in models)
        for name, offer in _OFFERS[this_device().type].items()
        if name != "openvino" or openvino.is_installed()
    }
    notes: list[str] = []
    for name in sorted(worth, key=worth.__getitem__, reverse=True):
        if worth[name] <= 0:
            break
        why = (
            "is kept on this machine and answers faster"
            if all(model.is_built(precision, name) for model in models)
            else f"{work:.0f} s of eager work repay building it, with later runs that find it built"
        )
        try:
            for model in models:
                model.engine(precision, name)
        except ModelError as error:
            notes.append(f"engine {name} passed over: {error}")
            continue
        return name, [*notes, f"engine {name}: {why}"]
    return "eager", [*notes, f"engine eager: {work:.0f} s of work do not repay building another"]


def _gate_facts(asked: GateRequest, gate: Candidate) -> GateInfo:
    names = gate.labels
    if names is None or asked.label not in names:
        known = ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "no labels"
        raise ModelError(
            f"--gate-label {asked.label}: {asked.model.spec} has {known}; give one of its "
            "labels, or its names with --gate-labels"
        )
    return GateInfo(
        asked=asked, facts=gate.facts, labels=names, label_index=names.index(asked.label)
    )
