"""Counters in a Ray actor: as stages reach them, and as the driver sees them.

An actor of its own, so that reporting never blocks a stage; its process must not import torch.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.progress.counters import Block, Counters, Counts, ProgressSnapshot

_ANSWER_SECONDS = 10.0


class RemoteCounters:
    """A ``Reporter`` to the actor. It travels to workers, and is theirs there."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor
        self._lane: str | None = None

    def __reduce__(self) -> tuple[type[RemoteCounters], tuple[Any]]:
        return RemoteCounters, (self._actor,)

    @property
    def lane(self) -> str:
        """This process: ``NODE:PID``."""
        if self._lane is None:
            self._lane = f"{ray.get_runtime_context().get_node_id()[:8]}:{os.getpid()}"
        return self._lane

    def decoded(self, rows: int) -> None:
        self._actor.decoded.remote(rows)

    def answered(self, rows: int) -> None:
        self._actor.answered.remote(rows)

    def block(self, block: Block) -> None:
        self._actor.block.remote(block)

    def begun(self, stage: str, first_row: int) -> int:
        """As ``Counters.begun``; 0 where the actor is lost, which counts nothing."""
        try:
            times: int = ray.get(
                self._actor.begun.remote(stage, first_row), timeout=_ANSWER_SECONDS
            )
        except (GetTimeoutError, RayActorError):
            return 0
        return times

    def raised(self, stage: str, first_row: int, error: str) -> None:
        """An error over a block, as ``Reporter.raised`` says.

        Args:
            stage, first_row, error: as there.
        """
        self._actor.raised.remote(stage, first_row, error)


class ProgressActor:
    """The actor as the driver sees it: near by, replaced if it dies, and added up over that.

    What a lost actor had not passed on is lost: files and checkpoints do not depend on it.
    """

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self._actor: Any = (
            ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Counters)
        ).remote()
        self.reporter = RemoteCounters(self._actor)
        self._before, self._last = Counts(), ProgressSnapshot(Counts(), [])

    def snapshot(self) -> ProgressSnapshot:
        """The progress; the last counts where the actor is lost or too busy to answer."""
        try:
            snapshot: ProgressSnapshot = ray.get(
                self._actor.snapshot.remote(), timeout=_ANSWER_SECONDS
            )
        except (GetTimeoutError, RayActorError):
            snapshot = self._last._replace(blocks=[])
        if snapshot.process != self._last.process:
            self._before = self._before.plus(self._last.counts)
        self._last = snapshot
        return snapshot._replace(counts=self._before.plus(snapshot.counts))

    def close(self) -> None:
        """End the actor: Ray keeps one whose handle was sent to workers."""
        ray.kill(self._actor)
