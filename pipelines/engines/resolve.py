"""Resolve a command once: what its models are, their precision and their engine.

This happens where the forward actors or lanes will run, with a few images of the run. The outcome
is stored with the run, so that a session that continues it does the same.
"""

from __future__ import annotations

import time
from typing import Literal, NamedTuple

import torch

from common.errors import InputError, ModelError, WorkError
from pipelines.engines import openvino
from pipelines.engines.candidates import ESTIMATES, Candidates, compute_threads
from pipelines.engines.engine import this_device
from pipelines.engines.forward import Engines
from pipelines.engines.unresolved import Resolved, Unresolved
from pipelines.images.decode import PIXELS, decode_rows
from pipelines.model_info import EngineName, GateRequest, Outputs, Precision
from pipelines.request import GateInfo, Request

_DECODED_ROWS = 8  # to time decoding with


class Resolution(NamedTuple):
    """What was resolved, and the networks as they are loaded here: the model, then the gate."""

    resolved: Resolved
    networks: list[Candidates]

    def engines(self, batch_rows: int | None, *, calls_in_flight: int = 1) -> Engines:
        """The run's engines in this process; what resolving has loaded is not loaded again.

        Args:
            batch_rows: images that go to the device at once; None: what suits it.
            calls_in_flight: of each engine, which share a GPU's memory.
        """
        request = self.resolved.request
        candidate = request.precision, request.engine
        if this_device().type == "cpu" and batch_rows is None:
            loaded = [network.engine(*candidate) for network in self.networks]
        else:
            share = 1 / (calls_in_flight * len(self.networks))
            loaded = [network.load(*candidate, batch_rows, share) for network in self.networks]
        return Engines(*loaded)


def resolve(unresolved: Unresolved, *, lanes: int, engine_lanes: int = 1) -> Resolution:
    """Resolve a command for its rows on ``lanes`` actors or lanes like this process.

    Images of the sample that cannot be read are ignored.

    Args:
        unresolved: the command and a sample of its rows.
        lanes: how many will work side by side.
        engine_lanes: threads of this process that will call the engines at a time.

    Raises:
        InputError: model, labels, precision or engine do not fit.
        WorkError: an unfinished run was started with another model.
    """
    config, earlier = unresolved.config, unresolved.earlier
    if config.precision != "auto":
        check_format(config.precision, this_device())
    sample, root = unresolved.sample, unresolved.images
    if earlier is not None:
        sample = sample.slice(0, 0)  # only the models are compared, nothing is measured
    wanted = [(config.model_request, config.outputs)]
    gate_request = config.gate_request
    if gate_request:
        wanted.append((gate_request.model, Outputs()))
    networks = [Candidates(*model, sample, root, engine_lanes) for model in wanted]
    if earlier is not None:
        _check_unchanged(earlier, networks)
        # Of the same content, but the files may lie elsewhere now.
        facts, *of_gate = (network.facts for network in networks)
        gate = earlier.gate and earlier.gate.model_copy(update={"facts": of_gate[0]})
        earlier = earlier.model_copy(update={"facts": facts, "gate": gate})
        return Resolution(Resolved(earlier), networks)
    gate = _gate_info(gate_request, networks[1]) if gate_request else None
    was_built = networks[0].is_built("fp32", "openvino")
    request = _choose(unresolved, networks, gate, lanes)
    for network in networks:
        network.save(None if gate else request, was_built=was_built)
    resolved = _timed(unresolved, request, networks) if unresolved.timed else Resolved(request)
    return Resolution(resolved, networks)


def _timed(unresolved: Unresolved, request: Request, networks: list[Candidates]) -> Resolved:
    """The request with measured times, where there is an image to measure with."""
    if not len(networks[0].pixels):
        return Resolved(request)
    started = time.perf_counter()
    candidate = request.precision, request.engine
    building = sum(network.build_seconds(*candidate) for network in networks)
    began = time.perf_counter()
    rows = unresolved.sample.slice(0, _DECODED_ROWS)
    decode_rows(rows, unresolved.images, {PIXELS: request.facts.preprocess})
    decoding = (time.perf_counter() - began) / rows.num_rows
    forward = sum(network.seconds_per_row(*candidate) for network in networks) * compute_threads()
    if this_device().type == "cpu":
        forward += decoding
    return Resolved(request, forward, building, time.perf_counter() - started)


def _check_unchanged(earlier: Request, networks: list[Candidates]) -> None:
    """Refuse models that are not those the run was started with."""
    stored = [earlier.facts] + ([earlier.gate.facts] if earlier.gate else [])
    for old, network in zip(stored, networks, strict=True):
        if old.head_sha256 != network.facts.head_sha256:
            raise WorkError(
                "the model is not what this run was started with: "
                f"`head={old.request.head!r}` is another file now; restore it or start a new run"
            )
        elsewhere = {"request": network.facts.request, "weights": network.facts.weights}
        if old.model_copy(update=elsewhere) != network.facts:
            raise WorkError(
                f"the model is not what this run was started with: {old.request.spec} has weights "
                f"{network.facts.weights_sha256[:12]} now, {old.weights_sha256[:12]} then; restore "
                "the package versions or start a new run"
            )


def _gate_info(request: GateRequest, gate: Candidates) -> GateInfo:
    names = gate.labels
    if names is None or request.label not in names:
        some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "no labels"
        raise ModelError(
            f"`gate_label={request.label!r}`: {request.model.spec} has {some}; give one of its "
            "labels, or its names with `gate_labels`"
        )
    return GateInfo(facts=gate.facts, labels=names, label_index=names.index(request.label))


def _choose(
    unresolved: Unresolved, networks: list[Candidates], gate: GateInfo | None, lanes: int
) -> Request:
    """Choose precision and engine of the model and the gate, and build it where it is not yet.

    ``auto`` takes a precision only after an audit on images of the run, and an engine is built only
    where the rows repay it.
    """
    config, model = unresolved.config, networks[0]
    formats = fast_formats(this_device()) if config.precision == "auto" else [config.precision]
    rejected: list[str] = []
    for number, precision in enumerate(formats, 1):
        is_last = number == len(formats)
        rejections = (network.earlier_rejection(precision, config.engine) for network in networks)
        rejection = None if is_last else next(filter(None, rejections), None)
        if rejection is None:
            engine, notes = _choose_engine(
                config.engine, networks, precision, unresolved.rows, lanes
            )
            audits = [network.audit(precision, engine) for network in networks]
            rejections = (
                network.rejection(precision, audit)
                for network, audit in zip(networks, audits, strict=True)
            )
            rejection = None if is_last else next(filter(None, rejections), None)
        if rejection is None:
            break
        rejected.append(f"precision {formats[number]}: {rejection}")
    encoders = [network.facts.request.spec for network in networks if not network.has_classes]
    warnings = [f"{spec} has no classifier: its classes mean nothing" for spec in encoders]
    return Request(
        config=config,
        inputs=unresolved.inputs,
        facts=model.facts,
        labels=model.labels,
        gate=gate,
        precision=precision,
        engine=engine,
        audit=audits[0],
        notes=(*notes, *rejected, *warnings),
    )


def _choose_engine(
    requested: EngineName | Literal["auto"],
    networks: list[Candidates],
    precision: Precision,
    rows: int,
    lanes: int,
) -> tuple[EngineName, list[str]]:
    """Choose an engine and load it, so that actors find it built; with notes on why."""
    if requested != "auto":
        for network in networks:
            network.engine(precision, requested)
        return requested, []
    if not len(networks[0].pixels):
        return "eager", []
    work = rows * sum(network.eager_seconds(precision) for network in networks) / lanes
    eager = sum(network.startup_seconds(precision, "eager") for network in networks)
    saved = {
        name: work * (1 - 1 / estimate.speedup)
        + eager
        - sum(network.startup_seconds(precision, name) for network in networks)
        for name, estimate in ESTIMATES[this_device().type].items()
        if name != "openvino" or openvino.is_installed()
    }
    notes: list[str] = []
    for name in sorted(saved, key=saved.__getitem__, reverse=True):
        if saved[name] <= 0:
            break
        reason = (
            "is kept on this machine and answers faster"
            if all(network.is_built(precision, name) for network in networks)
            else f"{work:.0f} s of eager work repay building it, with later runs that find it built"
        )
        try:
            for network in networks:
                network.engine(precision, name)
        except ModelError as error:
            notes.append(f"engine {name} passed over: {error}")
            continue
        return name, [*notes, f"engine {name}: {reason}"]
    return "eager", [*notes, f"engine eager: {work:.0f} s of work do not repay building another"]


def fast_formats(device: torch.device) -> list[Precision]:
    """Formats that ``device`` multiplies natively, in the order to try them; float32 last.

    GPUs are as fast in fp16 as in bf16. fp16 keeps three bits more and overflows sooner, so it is
    for networks for which bf16 is too coarse.
    """
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return ["bf16", "fp16", "fp32"]
        return ["fp16", "fp32"]
    can = torch.cpu.get_capabilities()
    return ["bf16", "fp32"] if can.get("amx_bf16") or can.get("avx512_bf16") else ["fp32"]


def check_format(precision: Precision, device: torch.device) -> None:
    """Refuse a format that the device has no fast path for.

    Raises:
        InputError: fp16 asked for without a GPU.
    """
    if precision == "fp16" and device.type != "cuda":
        raise InputError("`precision='fp16'` needs a GPU; on this machine use auto, bf16 or fp32")
