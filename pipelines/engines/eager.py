"""Plain PyTorch: nothing to build, the reference for the other engines."""

from __future__ import annotations

import torch

from pipelines.engines.base import Executor, NetworkMaker


def load(make: NetworkMaker, *, device: torch.device) -> Executor:
    """Put the network on ``device``, channels last."""
    network = make().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    executor: Executor = network
    return executor
