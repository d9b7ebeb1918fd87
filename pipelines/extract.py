"""``onepass extract``: plan, one pass, Parquet, HDF5, manifest.

The order of writing is the contract: ``request.json`` and the plan first, so that a rerun
knows what it continues; Parquet by an executor that loses no row and writes none twice; the
manifest last, so that a run either is finished or says it is not.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from common.errors import first_line, work_error
from common.json_models import write_json
from common.storage import list_folder, remove_folder, storage_errors
from pipelines.config import ExtractConfig, Progress
from pipelines.engines.unresolved import Unresolved, sample_of
from pipelines.execution.base import Executor, Job, open_executor
from pipelines.execution.blocks import OPEN, write_plan
from pipelines.execution.checkpoints import reconcile
from pipelines.outputs.finish import describe_run
from pipelines.outputs.hdf5 import write_hdf5
from pipelines.progress.counters import Counts, ProgressSnapshot
from pipelines.progress.event_log import EventLog
from pipelines.request import fingerprint_inputs, lock_run
from pipelines.run import Run, SessionInfo
from pipelines.sources.contents import with_hashes
from pipelines.sources.plan import Plan, name_source, read_source

CONTINUES = "what is written is kept, the same command continues"


@dataclass
class Outcome:
    """What ``extract`` did."""

    run: Run
    already_finished: bool = False
    resumed_rows: int = 0  # rows that an earlier session had committed
    skipped_files: dict[str, int] = field(default_factory=dict)
    source_notes: tuple[str, ...] = ()
    first_answer_seconds: float | None = None
    events_lost: str | None = None  # why the events file is not whole
    counts: Counts = field(default_factory=Counts)  # of this session


def extract(
    config: ExtractConfig, out: Path, *, report: Callable[[Progress], None] = lambda _: None
) -> Outcome:
    """Extract class and embedding of every detection of a source into a run.

    The same call continues an unfinished run and leaves a finished one alone.

    Args:
        config: what to extract from what, and how.
        out: the run folder, here or in an object store.
        report: called with the progress, some times a second.

    Raises:
        InputError: source, model or ``out`` do not fit; nothing was written.
        StalledError: no row moved for ``config.stall_seconds``.
        WorkError: the work failed; the same call continues it.
    """
    started, began = time.time(), time.monotonic()
    plan, command = prepare(config, report)

    def waiting(waited: float, limit: float) -> None:
        report(Progress("waiting", int(waited), int(limit)))

    def planning(done: int, total: int) -> None:
        report(Progress("planning", done, total))

    with (
        lock_run(out, command.config, command.inputs, waiting) as (earlier, check),
        storage_errors(out),
    ):
        if (out / "manifest.json").is_file():
            done = Run.open(out)
            return Outcome(done, True, skipped_files=plan.skipped, source_notes=plan.notes)
        if earlier is None:
            plan = with_hashes(plan, planning)
        table = plan.table
        report(Progress("starting", 0, table.num_rows))
        with open_executor(replace(command, earlier=earlier)) as executor:
            request = executor.resolve().request
            if earlier is None:
                write_plan(out / "plan", table, request, executor.slots)
                # Last: a plan without a request is of a session that died while planning.
                write_json(out / "request.json", request)
            job = Job(out.resolve(), plan.root, request, table.num_rows)
            return _Session(job, plan, executor, report, check, started, began).run()


def prepare(config: ExtractConfig, report: Callable[[Progress], None]) -> tuple[Plan, Unresolved]:
    """Read the source, and hash what the configuration names.

    Returns:
        The plan, and the command for an executor.

    Raises:
        InputError: source or model do not fit.
    """
    plan = read_source(
        config.source,
        kind=config.kind,
        frames=config.frames,
        limit=config.limit,
        from_run=config.from_run,
        report=lambda done, total: report(Progress("planning", done, total)),
    )
    config = config.for_source().model_copy(update={"source": name_source(config.source)})
    return plan, Unresolved(
        config=config,
        inputs=fingerprint_inputs(plan.decisive, config),
        sample=sample_of(plan.table),
        root=str(plan.root),
        rows=plan.table.num_rows,
    )


class _Session:
    """One session's work on a run, once its request is there.

    Args:
        job: the run's plan.
        plan: that it is of.
        executor: to answer it.
        report: called with the progress.
        check: raises an error where another session has taken the run over.
        started: of the session, in seconds since the epoch.
        began: the same by the clock that durations are of: the other one may be set meanwhile.
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
    ) -> None:
        self._job, self._plan, self._executor = job, plan, executor
        self._report, self._check = report, check
        self._started, self._began = started, began
        self._before = reconcile(job.folder).committed
        self._log = EventLog(job.folder)

    def run(self) -> Outcome:
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
        for leftover in ("checkpoint", OPEN):
            remove_folder(job.folder / leftover)

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
