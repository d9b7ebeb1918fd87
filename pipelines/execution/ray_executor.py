"""The executor on Ray: a pass of Ray Data, and another one where nodes were lost."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from cluster.children import Child
from cluster.executors import ExecutorName
from cluster.session import session
from cluster.slots import Slots, nodes
from cluster.tasks import Tasks, tasks_of_session
from cluster.waiting import waiting_tasks
from common.errors import StalledError, first_line, work_error
from pipelines.engines.unresolved import (
    Resolved,
    Unresolved,
    resolve_for_actors,
    resolved_before,
)
from pipelines.execution.base import Job, ignore
from pipelines.execution.checkpoints import adopt, drop_repeats, reconcile
from pipelines.progress.counters import Counts, ProgressSnapshot

# Passes in a row that commit nothing, before nodes that go away end the job.
MAX_FRUITLESS_PASSES = 3


class RayExecutor:
    """``Executor`` on the Ray session that this process has joined."""

    name: ExecutorName = "ray"

    def __init__(self, slots: Slots, resolving: _Resolving) -> None:
        self.slots = slots
        self._resolving = resolving

    def resolve(self) -> Resolved:
        return self._resolving.result(self.slots)

    def nodes(self) -> list[dict[str, Any]]:
        return nodes()

    def tasks(self, name: str, *, then: str) -> Tasks:
        return tasks_of_session(name, cpus=1.0, then=then)

    def answer(
        self,
        job: Job,
        on_snapshot: Callable[[ProgressSnapshot, int], None] = ignore,
        on_event: Callable[..., None] = ignore,
    ) -> Counts:
        """Answer the plan, as ``Executor.answer`` promises.

        Args:
            job, on_snapshot, on_event: as there.
        """
        # late: it imports Ray Data, for which a core works a second while workers start
        from pipelines.execution.ray_pass import NodesLostError, run_pass

        finished: list[Counts] = []
        passes = fruitless = 0
        before = reconcile(job.folder).committed
        adopt(job.folder)
        while before < job.planned and fruitless < MAX_FRUITLESS_PASSES:
            passes += 1
            try:
                finished.append(run_pass(job, self.slots, before, on_snapshot))
            except NodesLostError as error:
                if fruitless == MAX_FRUITLESS_PASSES - 1:
                    raise
                self.slots = self._wait_for_slots(job, error)
                on_event("again", why=first_line(error), nodes=nodes())
            done = reconcile(job.folder).committed
            fruitless = 0 if done > before else fruitless + 1
            before = done
        if before > job.planned:
            drop_repeats(job.folder)
        longest = max(finished, key=lambda counts: counts.answered, default=Counts())
        return longest._replace(
            passes=passes,
            raised=sum(counts.raised for counts in finished),
            last_error=next((c.last_error for c in reversed(finished) if c.last_error), ""),
        )

    def _wait_for_slots(self, job: Job, error: Exception) -> Slots:
        """The slots that are left, or that come as long as a standstill may last."""
        from pipelines.execution.ray_pass import slots_left  # late: it imports Ray Data

        deadline = time.monotonic() + job.config.stall_seconds
        while (slots := slots_left(self.slots, job.config.gpus_per_actor)) is None:
            if time.monotonic() > deadline:
                raise error
            time.sleep(1)
        return slots


@contextmanager
def open_ray(unresolved: Unresolved) -> Iterator[RayExecutor]:
    """A Ray session, and the command resolved where its forward actors will run.

    Raises:
        ClusterError: the cluster cannot be reached or is too small.
    """
    config = unresolved.config
    remote = bool(config.address or os.environ.get("RAY_ADDRESS"))
    resolving = _Resolving(unresolved, remote=remote)
    ours = not remote and not ray.is_initialized()
    with resolving, session(config.address, gpus_per_actor=config.gpus_per_actor) as slots:
        # late: it imports Ray Data, for which a core works a second while workers start on others
        from pipelines.execution.ray_internals import without_helper_actors

        with without_helper_actors() if ours else nullcontext():
            yield RayExecutor(slots, resolving)


class _Resolving:
    """``resolve``, where the forward actors will run, and never in this process.

    With a Ray of our own that is this machine. If an earlier command has measured all there, no core
    is taken from Ray's start. Else loading the model takes a core for seconds and starting Ray mostly
    waits, so a child does one while this process does the other. On a cluster it is a worker, because
    the driver's machine may have no GPU or another processor.
    """

    def __init__(self, unresolved: Unresolved, *, remote: bool) -> None:
        self._unresolved = unresolved
        self._stall_seconds = unresolved.config.stall_seconds
        self._remote = remote
        self._child: Child | None = None
        self._resolved: Resolved | None = None

    def __enter__(self) -> _Resolving:
        if not self._remote:
            self._resolved = resolved_before(self._unresolved)
        if not self._remote and self._resolved is None:
            self._child = Child()
            self._child.send(resolve_for_actors, self._unresolved)
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.close()

    def result(self, slots: Slots) -> Resolved:
        """What was resolved; its error, if it has one, is raised here.

        Raises:
            InputError, WorkError: as ``resolve`` raises them.
            StalledError: a worker did not answer for long.
        """
        if self._resolved is not None:
            return self._resolved
        if self._child is not None:
            resolved: Resolved = self._child.receive()
            return resolved
        task = ray.remote(
            num_cpus=slots.cpus_per_actor, num_gpus=slots.gpus_per_actor, max_retries=3
        )(resolve_for_actors)
        try:
            resolved = ray.get(
                task.remote(self._unresolved, slots.actors), timeout=self._stall_seconds
            )
        except RayTaskError as error:
            raise error.cause from None
        except GetTimeoutError:
            raise StalledError(
                f"no worker resolved the model within {self._stall_seconds:g} s; "
                f"{waiting_tasks()}; give the same command again, or a longer `stall_seconds`"
            ) from None
        except RayError as error:  # nodes or processes that died, more often than is tried
            raise work_error(
                "resolving the model", error, then="give the same command again"
            ) from error
        return resolved
