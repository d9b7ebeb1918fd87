"""Extractions from records of a model, a gate and outputs, as many tests have them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import migration.migrate
import pipelines.dry_run
import pipelines.extract
from cluster.executors import ExecutorChoice
from pipelines.config import ExtractConfig, Progress
from pipelines.dry_run import Forecast
from pipelines.extract import Outcome
from pipelines.model_info import GateRequest, ModelRequest, Outputs, Reading


@dataclass(frozen=True)
class Options:
    """What a configuration holds beside its source and its model."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    engine: Literal["auto", "eager", "compile", "openvino"] = "auto"
    outputs: Outputs = field(default_factory=Outputs)
    gate: GateRequest | None = None
    reading: Reading = field(default_factory=Reading)
    top_k: int = 5
    hdf5: bool = False
    batch_rows: int | None = None
    gpus_per_actor: float = 1.0
    stall_seconds: float = 300.0
    executor: ExecutorChoice = "auto"
    address: str | None = None


def config_of(source: str, model: ModelRequest, options: Options | None = None) -> ExtractConfig:
    """The configuration of these records."""
    options = options or Options()
    reading, outputs, gate = options.reading, options.outputs, options.gate
    kinds = ("map",) * outputs.map + ("pyramid",) * bool(outputs.pyramid)
    own = ("precision", "engine", "top_k", "hdf5", "batch_rows", "gpus_per_actor")
    fields = {
        name: getattr(options, name) for name in (*own, "stall_seconds", "executor", "address")
    }
    if gate is not None:
        fields |= {
            "gate": gate.model.spec,
            "gate_checkpoint": gate.model.checkpoint,
            "gate_labels": gate.model.labels,
            "gate_label": gate.label,
            "gate_threshold": gate.threshold,
            "embed_with": gate.embed,
        }
    return ExtractConfig(
        source=source,
        kind=reading.kind,
        frames=reading.frames,
        limit=reading.limit,
        from_run=reading.again,
        model=model.spec,
        **model.model_dump(exclude={"spec"}),
        features=("pooled", *kinds),
        feature_indices=outputs.pyramid,
        logits=outputs.logits,
        **fields,
    )


def extract(
    source: str,
    model: ModelRequest,
    out: Path,
    options: Options | None = None,
    *,
    report: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """``pipelines.extract.extract``."""
    return pipelines.extract.extract(config_of(source, model, options), out, report=report)


def dry_run(
    source: str,
    model: ModelRequest,
    out: Path,
    options: Options | None = None,
    *,
    report: Callable[[Progress], None] = lambda _: None,
) -> Forecast | None:
    """``pipelines.dry_run.dry_run``."""
    return pipelines.dry_run.dry_run(config_of(source, model, options), out, report=report)


def extract_again(
    run: Path,
    model: ModelRequest,
    out: Path,
    options: Options | None = None,
    *,
    report: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """``migration.migrate.extract_again``."""
    return migration.migrate.extract_again(config_of(str(run), model, options), out, report=report)
