"""The executor contract: who answers a plan, and what it promises.

Two keep it, ``local.LocalExecutor`` in this process and ``ray_executor.RayExecutor`` on a cluster,
and one suite of tests holds both to it:

- every planned row is in exactly one file of ``detections/`` when ``answer`` returns, also where
  earlier sessions of either executor were killed at any moment;
- the same rows get the same bits from both, in the same engine and precision;
- an image that cannot be read is a row with an error; an error of the network is tried again and
  then ends the job; a standstill ends it as well;
- memory does not grow with the number of rows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from cluster.executors import ExecutorName, choose_executor
from cluster.slots import Slots
from cluster.tasks import Tasks
from common.moved import ImageRoot, Pairs
from pipelines.config import ExtractConfig
from pipelines.progress.counters import Counts, ProgressSnapshot
from pipelines.request import Request

if TYPE_CHECKING:
    from pipelines.engines.unresolved import Resolved, Unresolved


@dataclass(frozen=True)
class Job:
    """One run's plan, to be answered."""

    folder: Path  # of the run: holds plan/, gets detections/
    root: Path  # relative image names start here
    request: Request
    planned: int  # rows
    pairs: Pairs = ()  # of folders of images that were moved

    @property
    def images(self) -> ImageRoot:
        """Where the images are."""
        return ImageRoot(self.root, self.pairs)

    @property
    def config(self) -> ExtractConfig:
        """The request's own."""
        return self.request.config


def ignore(*_: object, **__: object) -> None:
    """A callback that does nothing."""


class Executor(Protocol):
    """Answers plans, for as long as a command runs; made by ``open_executor``."""

    name: ExecutorName
    slots: Slots  # lanes or actors, and what each has

    def resolve(self) -> Resolved:
        """What the command left open, where the work will run.

        Raises:
            InputError, WorkError: model, precision or engine do not fit.
        """
        ...

    def answer(
        self,
        job: Job,
        on_snapshot: Callable[[ProgressSnapshot, int], None] = ignore,
        on_event: Callable[..., None] = ignore,
    ) -> Counts:
        """Answer every planned row that is not committed yet.

        Args:
            job: the plan.
            on_snapshot: called some times a second with what happened, and the rows that were
                committed before.
            on_event: called with an event's name and its details by name.

        Returns:
            Counts of the longest of its passes; none where nothing was left to do.

        Raises:
            StalledError: no row moved for ``job.config.stall_seconds``.
            WorkError: the work failed; what is committed stays.
        """
        ...

    def tasks(self, name: str, *, then: str) -> Tasks:
        """A place for other work of the same command, as ``cluster.tasks`` describes it."""
        ...

    def nodes(self) -> list[dict[str, Any]]:
        """The machines: ``node``, ``host``, ``cpus`` and ``gpus`` of each."""
        ...


def no_row_moved(counts: Counts, rows: int, seconds: float) -> str:
    """How far a job was when it stood still.

    Args:
        counts: so far.
        rows: of the job.
        seconds: without a change.
    """
    ago = "never" if counts.last_answer is None else f"{time.time() - counts.last_answer:.0f} s ago"
    return (
        f"no row moved for {seconds:g} s: {counts.decoded} decoded, {counts.answered} answered, "
        f"{counts.written} written of {rows}, last answer {ago}"
    )


def open_executor(unresolved: Unresolved) -> AbstractContextManager[Executor]:
    """Open the executor that a configuration asks for, at work on it while the block runs.

    Raises:
        ClusterError: Ray cannot be reached or is too small.
    """
    config = unresolved.config
    if choose_executor(config.executor, config.address) == "local":
        from pipelines.execution.local import LocalExecutor  # late: it imports torch

        return nullcontext(LocalExecutor(unresolved))
    from pipelines.execution.ray_executor import open_ray  # late: it imports Ray

    return open_ray(unresolved)
