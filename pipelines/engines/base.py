"""What an engine is: a callable over uint8 batches, and how one is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from pipelines.network import Network


class Executor(Protocol):
    """uint8 ``[B, H, W, 3]`` on its device to ``Network.forward``'s answers, any ``B >= 1``.

    May be called from two threads at a time.
    """

    def __call__(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]: ...


# Building a network costs seconds and an engine that finds its work cached needs none.
NetworkMaker = Callable[[], Network]
