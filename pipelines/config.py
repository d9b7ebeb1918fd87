"""How an extraction runs, and what it reports while it does."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from cluster.executors import ExecutorChoice
from pipelines.model_info import GateRequest, Outputs, Reading


@dataclass(frozen=True)
class Options:
    """How to run; none of it changes what a row's answer is, except by rounding."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    engine: Literal["auto", "eager", "compile", "openvino"] = "auto"
    outputs: Outputs = field(default_factory=Outputs)
    gate: GateRequest | None = None
    reading: Reading = field(default_factory=Reading)
    top_k: int = 5
    hdf5: bool = False
    batch_rows: int | None = None  # images a forward pass; None: what suits the device
    gpus_per_actor: float = 1.0
    stall_seconds: float = 300.0
    executor: ExecutorChoice = "auto"
    address: str | None = None  # of a Ray cluster


@dataclass(frozen=True)
class Progress:
    """One look at a running extraction, for whoever draws the progress bar."""

    stage: Literal["planning", "waiting", "starting", "measuring", "extracting", "hdf5", "checking"]
    done: int
    planned: int
    failed: int = 0  # of those done in this session, with an error
