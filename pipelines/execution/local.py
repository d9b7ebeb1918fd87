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

from cluster.executors import ExecutorName, local_cores, local_gpus
from cluster.session import Slots
from cluster.tasks import Tasks
from pipelines.execution.base import Answered, Job, Watcher
from pipelines.execution.checkpoints import drop_repeats, reconcile, remaining
from pipelines.execution.unresolved import Resolved, Unresolved

if TYPE_CHECKING:
    from pipelines.execution.resolve import Resolution

_DECODING_LANES = 2  # more than cores, where a GPU forwards: some always wait for it


class LocalExecutor:
    """``Executor`` on this machine's cores, or on them and its GPU.

    Args:
        unresolved: the command.
        lanes: threads that decode; on CPUs they forward as well.
        gpu: whether engines are on a GPU.
    """

    name: ExecutorName = "local"

    def __init__(self, unresolved: Unresolved, lanes: int, *, gpu: bool) -> None:
        self.slots = Slots(
            actors=1 if gpu else lanes,
            cpus_per_actor=1.0,
            gpus_per_actor=1.0 if gpu else 0.0,
            cpus_per_task=1.0,
        )
        self._lanes = lanes
        self._unresolved = unresolved
        self._resolution: Resolution | None = None

    def resolve(self) -> Resolved:
        from pipelines.execution.resolve import resolve

        # Threads that will call an engine at a time.
        callers = 1 if self.slots.gpus_per_actor else self._lanes
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

    def answer(self, job: Job, watcher: Watcher) -> Answered:
        from pipelines.execution.lanes import CALLS_IN_FLIGHT, Lanes

        assert self._resolution is not None, "resolve comes first"
        before = reconcile(job.folder).committed
        parts = remaining(job.folder, job.planned)
        answered = Answered()
        if parts:
            engines = self._resolution.engines(job.batch_rows, calls_in_flight=CALLS_IN_FLIGHT)
            tally = Lanes(job, engines, self._lanes).run(
                parts, job.planned - before, lambda look: watcher.looked(look, before)
            )
            answered = Answered(tally=tally, passes=1, raised=tally.raised, said=tally.said)
        # Writers of a Ray whose driver died may have ended only now.
        if reconcile(job.folder).committed > job.planned:
            drop_repeats(job.folder)
        return answered


@contextmanager
def open_local(unresolved: Unresolved) -> Iterator[LocalExecutor]:
    """This process as an executor."""
    gpu = local_gpus() > 0
    lanes = local_cores() + _DECODING_LANES if gpu else local_cores()
    yield LocalExecutor(unresolved, lanes, gpu=gpu)
