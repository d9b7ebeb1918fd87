"""Resolve a command once: what its models are, their precision and their engine.

This happens where the forward actors or lanes will run, with a few images of the run. The outcome
is stored with the run, so that a session that continues it does the same.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from common.errors import ModelError, WorkError
from common.storage import to_path
from pipelines.engines.candidates import Candidates, compute_threads
from pipelines.engines.choose import choose
from pipelines.engines.engine import this_device
from pipelines.engines.forward import Engines
from pipelines.engines.precision import check_format
from pipelines.engines.unresolved import Resolved, Unresolved
from pipelines.images.decode import PIXELS, decode_rows
from pipelines.model_info import GateRequest, Outputs
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
    sample, root = unresolved.sample, to_path(unresolved.root)
    if earlier is not None:
        sample = sample.slice(0, 0)  # only the models are compared, nothing is measured
    wanted = [(config.model_request, config.outputs)]
    gate_request = config.gate_request
    if gate_request:
        wanted.append((gate_request.model, Outputs()))
    networks = [Candidates(*model, sample, root, engine_lanes) for model in wanted]
    if earlier is not None:
        _check_unchanged(earlier, networks)
        return Resolution(Resolved(earlier), networks)
    gate = _gate_info(gate_request, networks[1]) if gate_request else None
    was_built = networks[0].is_built("fp32", "openvino")
    request = choose(unresolved, networks, gate, lanes)
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
    decode_rows(rows, to_path(unresolved.root), {PIXELS: request.facts.preprocess})
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
        if old != network.facts:
            raise WorkError(
                f"the model is not what this run was started with: {old.request.spec} has weights "
                f"{network.facts.weights_sha256[:12]} now, {old.weights_sha256[:12]} then; restore "
                "the package versions or start a new run"
            )


def _gate_info(request: GateRequest, gate: Candidates) -> GateInfo:
    names = gate.labels
    if names is None or request.label not in names:
        known = ", ".join(names[:5]) + (", …" if len(names) > 5 else "") if names else "no labels"
        raise ModelError(
            f"`gate_label={request.label!r}`: {request.model.spec} has {known}; give one of its "
            "labels, or its names with `gate_labels`"
        )
    return GateInfo(
        asked=request, facts=gate.facts, labels=names, label_index=names.index(request.label)
    )
