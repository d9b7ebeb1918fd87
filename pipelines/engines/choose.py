"""The decision: which precision and which engine a run uses.

``auto`` takes a precision only after an audit on images of the run, and an engine is built only
where the rows repay it.
"""

from __future__ import annotations

from typing import Literal

from common.errors import ModelError
from pipelines.engines import openvino
from pipelines.engines.candidates import ESTIMATES, Candidates
from pipelines.engines.engine import this_device
from pipelines.engines.precision import fast_formats
from pipelines.engines.unresolved import Unresolved
from pipelines.model_info import EngineName, Precision
from pipelines.request import GateInfo, Request


def choose(
    unresolved: Unresolved, networks: list[Candidates], gate: GateInfo | None, lanes: int
) -> Request:
    """Choose precision and engine, and build the engine where it is not yet.

    Args:
        unresolved: the command.
        networks: the model and, where there is one, the gate; all run in the same way.
        gate: of the command.
        lanes: how many will work side by side.

    Raises:
        ModelError: an engine that was asked for by name cannot execute a network.
    """
    config, model = unresolved.config, networks[0]
    formats = fast_formats(this_device()) if config.precision == "auto" else [config.precision]
    rejected: list[str] = []
    for precision, fallback in zip(formats, [*formats[1:], None], strict=True):
        rejection = None
        if fallback is not None:
            known = (network.known_rejection(precision, config.engine) for network in networks)
            rejection = next(filter(None, known), None)
        if rejection is None:
            engine, notes = choose_engine(
                config.engine, networks, precision, unresolved.rows, lanes
            )
            audits = [network.audit(precision, engine) for network in networks]
            if fallback is None:
                break
            pairs = zip(networks, audits, strict=True)
            rejections = (network.rejection(precision, audit) for network, audit in pairs)
            rejection = next(filter(None, rejections), None)
            if rejection is None:
                break
        rejected.append(f"precision {fallback}: {rejection}")
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


def choose_engine(
    requested: EngineName | Literal["auto"],
    networks: list[Candidates],
    precision: Precision,
    rows: int,
    lanes: int,
) -> tuple[EngineName, list[str]]:
    """Choose an engine and load it, so that actors find it built.

    Args:
        requested: by the command.
        networks: all that run in it.
        precision: what they compute in.
        rows: planned.
        lanes: how many share them.

    Returns:
        The engine, and notes on why it was chosen.
    """
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
