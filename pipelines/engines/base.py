"""What an engine is: a callable over uint8 batches, and how one is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch

from common.errors import ModelError, first_line
from pipelines.models.network import Network


class Executor(Protocol):
    """uint8 ``[B, H, W, 3]`` on its device to ``Network.forward``'s answers, any ``B >= 1``.

    May be called from two threads at a time.
    """

    def __call__(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]: ...


def refusal(engine: str, done: str, error: Exception) -> ModelError:
    """What to raise where an engine's builder does not take a network."""
    return ModelError(
        f"--engine {engine}: this network cannot be {done} ({type(error).__name__}: "
        f"{first_line(error)}); use --engine eager"
    )


# Building a network costs seconds and an engine that finds its work cached needs none.
NetworkMaker = Callable[[], Network]
