"""The choice where work runs: in this process and its children, or on Ray."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Literal

ExecutorName = Literal["local", "ray"]
ExecutorChoice = Literal["auto", "local", "ray"]


def choose_executor(choice: ExecutorChoice, address: str | None = None) -> ExecutorName:
    """The executor that ``choice`` means for this process.

    ``auto`` is Ray where a cluster is named (``address`` or ``RAY_ADDRESS``), inside a Ray job, in
    a process that has joined Ray, and on a machine with two or more GPUs; else this process.
    """
    if choice != "auto":
        return choice
    in_job = os.environ.get("RAY_ADDRESS") or os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR")
    return "ray" if address or in_job or has_joined_ray() or local_gpus() > 1 else "local"


def executor_line(choice: ExecutorChoice, address: str | None = None) -> str:
    """Where the work runs, as text: "in this process", "on Ray HOST:PORT"."""
    name = choose_executor(choice, address)
    if name == "local":
        return "in this process"
    return f"on Ray {address or os.environ.get('RAY_ADDRESS') or 'of this machine'}"


def local_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def local_gpus() -> int:
    """GPUs that this process may use; their driver is not called, which takes seconds."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return sum(
        bool(re.fullmatch(r"nvidia\d+", entry.name)) for entry in Path("/dev").glob("nvidia*")
    )


def has_joined_ray() -> bool:
    """Whether this process has a Ray session already."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())
