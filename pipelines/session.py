"""One session of work on a run: answer what is not committed, write HDF5, check, describe.

The manifest is written last, so that a run either is finished or says it is not.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from common.errors import first_line, work_error
from common.json_models import drop_drafts
from common.storage import list_folder, remove_folder
from pipelines.config import Progress
from pipelines.execution.base import Executor, Job
from pipelines.execution.blocks import OPEN
from pipelines.execution.checkpoints import reconcile
from pipelines.outputs.finish import describe_run
from pipelines.outputs.hdf5 import write_hdf5
from pipelines.progress.counters import Counts, ProgressSnapshot
from pipelines.progress.event_log import EventLog
from pipelines.run import Run, SessionInfo
from pipelines.sources.plan import Plan

CONTINUES = "what is written is kept, the same command continues"


@dataclass(frozen=True)
class UpdateSummary:
    """What an update found, with names of images in the order of their rows.

    Attributes:
        new: images with rows that the run did not have.
        changed: images whose content has changed, or that can be read only now.
        vanished: images with rows that are not in the source any more, or that cannot be read any
            more; these rows are kept as they were answered.
        renumbered: rows that were there before and have another frame or sequence now.
        answered: rows that were answered: of new and changed images.
    """

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    renumbered: int = 0
    answered: int = 0


@dataclass
class Outcome:
    """What ``extract`` did."""

    run: Run
    already_finished: bool = False
    resumed_rows: int = 0  # rows that an earlier session had committed
    skipped_files: dict[str, int] = field(default_factory=dict)
    source_notes: tuple[str, ...] = ()
    unread: int = 0  # folders and files of the source that could not be read
    first_answer_seconds: float | None = None
    events_lost: str | None = None  # why the events file is not whole
    counts: Counts = field(default_factory=Counts)  # of this session
    update: UpdateSummary | None = None  # of ``extract`` with ``update``


def remove_work_files(out: Path) -> None:
    """Remove from a finished run what only an unfinished one has; also after a kill amid that."""
    for leftover in ("checkpoint", OPEN):
        remove_folder(out / leftover)
    drop_drafts(out)


class Session:
    """One session's work on a run, once its request is there.

    Args:
        job: the run's plan.
        plan: that it is of.
        executor: to answer it.
        report: called with the progress.
        check: raises an error where another session has taken the run over.
        started: of the session, in seconds since the epoch.
        began: the same by the clock that durations are of: the other one may be set meanwhile.
        log: folder of the events; None: the job's.
    """

    def __init__(
        self,
        job: Job,
        plan: Plan,
        executor: Executor,
        report: Callable[[Progress], None],
        check: Callable[[], None],
        started: float,
        began: float,
        log: Path | None = None,
    ) -> None:
        self._job, self._plan, self._executor = job, plan, executor
        self._report, self._check = report, check
        self._started, self._began = started, began
        self._before = reconcile(job.folder).committed
        self._log = EventLog(log or job.folder)

    def run(self) -> Outcome:
        """Do the work.

        Raises:
            StalledError: no row moved for ``stall_seconds``.
            WorkError: the work failed; another session continues it.
        """
        self._log.add("session", **self._begin())
        try:
            counts = self._answer()
            self._write_hdf5()
            self._finish(counts)
        except BaseException as error:  # also Ctrl-C: the log says how a session ended
            self._end(type(error).__name__, error=first_line(error))
            raise
        self._end("finished")
        first = counts.first_answer
        return Outcome(
            Run.open(self._job.folder),
            resumed_rows=self._before,
            skipped_files=self._plan.skipped,
            unread=self._plan.unread,
            source_notes=self._plan.notes,
            first_answer_seconds=None if first is None else first - self._started,
            events_lost=self._log.lost,
            counts=counts,
        )

    def _answer(self) -> Counts:
        self._log.add("phase", name="extracting")
        planned, last = self._job.planned, Counts()

        def on_snapshot(snapshot: ProgressSnapshot, before: int) -> None:
            nonlocal last
            self._check()
            self._log.snapshot(snapshot)
            if snapshot.counts[:2] != last[:2]:
                last = snapshot.counts
                done = min(before + last.answered, planned)  # some are answered twice
                self._report(Progress("extracting", done, planned, last.failed))

        return self._executor.answer(self._job, on_snapshot, self._log.add)

    def _write_hdf5(self) -> None:
        config = self._job.config
        if not config.hdf5:
            return
        self._phase("hdf5")
        tasks = self._executor.tasks("hdf5", then=CONTINUES)
        try:
            write_hdf5(
                self._job.folder, self._job.request, tasks, stall_seconds=config.stall_seconds
            )
        except OSError as error:  # of this process's own; those of others are WorkErrors
            raise work_error("extraction", error) from error

    def _finish(self, counts: Counts) -> None:
        self._phase("checking")
        job = self._job
        manifest = describe_run(
            job.folder,
            job.root,
            job.request,
            pairs=job.pairs,
            planned=job.planned,
            seconds=self._seconds(),
            session=self._describe(counts),
            tasks=lambda: self._executor.tasks("checking", then=CONTINUES),
            done=lambda rows: self._report(Progress("checking", rows, job.planned)),
        )
        # Counting and hashing are part of it.
        manifest = manifest.model_copy(update={"seconds": self._seconds()})
        self._check()
        manifest.write(job.folder)
        remove_work_files(job.folder)

    def _describe(self, counts: Counts) -> SessionInfo:
        actors = self._actors()
        return SessionInfo(
            executor=self._executor.name,
            rows=self._job.planned - self._before,
            actors=actors,
            gpus=actors * self._executor.slots.gpus_per_actor,
            rows_a_second=counts.rows_a_second,
            **self._log.measures.session(self._started, self._seconds()),
        )

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _blocks(self) -> int:
        return len(list_folder(self._job.folder / "plan", "*.parquet"))

    def _actors(self) -> int:
        return min(self._executor.slots.actors, self._blocks())

    def _phase(self, name: Literal["hdf5", "checking"]) -> None:
        self._log.add("phase", name=name)
        self._report(Progress(name, 0, self._job.planned))

    def _begin(self) -> dict[str, Any]:
        """What the log's first line of a session holds."""
        request = self._job.request
        return {
            "started": round(self._started, 3),
            "host": platform.node(),
            "process": os.getpid(),
            "planned": self._job.planned,
            "before": self._before,
            "blocks": self._blocks(),
            "model": request.facts.request.spec,
            "precision": request.precision,
            "engine": request.engine,
            "executor": self._executor.name,
            "slots": asdict(self._executor.slots),
            "actors": self._actors(),
            "nodes": self._executor.nodes(),
        }

    def _end(self, outcome: str, **facts: Any) -> None:
        measures = self._log.measures
        self._log.add(
            "end",
            outcome=outcome,
            seconds=round(self._seconds(), 3),
            stages=[stage.model_dump() for stage in measures.stages],
            errors=measures.errors,
            waited=measures.waited,
            **facts,
        )
