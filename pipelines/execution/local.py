"""The executor in this process: lanes that decode, forward and write; no Ray.

A lane is a thread. Decoders, resizing and engines release Python's lock while they compute, so on
CPUs a lane a core keeps the cores busy, and all lanes share one copy of the weights. On a GPU lanes
decode, and two threads feed the engine with what they decoded: one copies while the other computes.

A block is one part of the plan. A lane decodes a few of its images, has them answered, and so on, and
writes the answers as one file, which appears whole and is its own commit. So memory is that of a few
images and one block's answers a lane, and a process that is killed loses the blocks that were open.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cluster.executors import ExecutorName, local_cores
from cluster.slots import Slots
from cluster.tasks import Tasks
from pipelines.engines.unresolved import Resolved, Unresolved
from pipelines.execution.base import Answered, Callbacks, Job
from pipelines.execution.checkpoints import drop_repeats, reconcile, remaining

if TYPE_CHECKING:
    from pipelines.engines.resolve import Resolution

_DECODING_LANES = 2  # more than cores, where a GPU forwards: some always wait for it


class LocalExecutor:
    """``Executor`` on this machine's cores, or on them and its GPU."""

    name: ExecutorName = "local"

    def __init__(self, unresolved: Unresolved) -> None:
        self.slots = _slots(on_gpu=False)  # until PyTorch says what is there
        self._unresolved = unresolved
        self._resolution: Resolution | None = None

    def resolve(self) -> Resolved:
        import torch

        from pipelines.engines.resolve import resolve

        engine = self._unresolved.config.engine
        self.slots = _slots(on_gpu=engine != "openvino" and torch.cuda.is_available())
        # On CPUs each lane calls the engine; on a GPU it is one engine, however many call it.
        callers = self.slots.actors
        self._resolution = resolve(self._unresolved, lanes=callers, engine_lanes=callers)
        return self._resolution.resolved

    def nodes(self) -> list[dict[str, Any]]:
        slots = self.slots
        gpus = slots.actors * slots.gpus_per_actor
        return [
            {"node": "here", "host": platform.node(), "cpus": float(local_cores()), "gpus": gpus}
        ]

    def tasks(self, name: str, *, then: str) -> Tasks:
        return Tasks(name, 0, then=then)

    def answer(self, job: Job, callbacks: Callbacks) -> Answered:
        from pipelines.execution.lanes import CALLS_IN_FLIGHT, Lanes

        assert self._resolution is not None, "resolve comes first"
        reconcile(job.folder)
        parts = remaining(job.folder, job.planned)
        rows = sum(part.rows for part in parts)
        answered = Answered()
        if parts:
            engines = self._resolution.engines(
                job.config.batch_rows, calls_in_flight=CALLS_IN_FLIGHT
            )
            lanes = local_cores() + (_DECODING_LANES if engines.model.on_gpu else 0)
            counts = Lanes(job, engines, lanes).run(
                parts, rows, lambda snapshot: callbacks.on_snapshot(snapshot, job.planned - rows)
            )
            answered = Answered(
                counts=counts, passes=1, raised=counts.raised, last_error=counts.last_error
            )
        # Writers of a Ray whose driver died may have ended only now.
        if reconcile(job.folder).committed > job.planned:
            drop_repeats(job.folder)
        return answered


@contextmanager
def open_local(unresolved: Unresolved) -> Iterator[LocalExecutor]:
    """This process as an executor."""
    yield LocalExecutor(unresolved)


def _slots(*, on_gpu: bool) -> Slots:
    return Slots(
        actors=1 if on_gpu else local_cores(),
        cpus_per_actor=1.0,
        gpus_per_actor=1.0 if on_gpu else 0.0,
        cpus_per_task=1.0,
    )
