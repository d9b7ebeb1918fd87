"""The interface of an engine: a callable over uint8 batches."""

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


def build_error(engine: str, action: str, error: Exception) -> ModelError:
    """The error for a network that an engine's builder does not accept.

    Args:
        engine: as ``EngineName``.
        action: what failed, as a participle: ``compiled``, ``converted``.
        error: what the builder raised.
    """
    return ModelError(
        f"`engine={engine!r}`: this network cannot be {action} ({type(error).__name__}: "
        f"{first_line(error)}); use `engine='eager'`"
    )


# Building a network costs seconds, and an engine that is built already needs none.
NetworkMaker = Callable[[], Network]
