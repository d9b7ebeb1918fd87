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
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cluster.executors import choose_executor
from common.errors import WorkError, first_line, work_error
from common.json_models import write_json
from common.storage import list_folder, remove_folder, storage_errors
from pipelines.config import ExtractConfig, Progress
from pipelines.engines.unresolved import Unresolved, sample_of
from pipelines.execution.base import Answered, Callbacks, Executor, Job, open_executor
from pipelines.execution.blocks import write_plan
from pipelines.execution.checkpoints import reconcile
from pipelines.execution.open_blocks import FOLDER as OPEN_BLOCKS
from pipelines.outputs.finish import describe_run
from pipelines.outputs.hdf5 import write_hdf5
from pipelines.progress.counters import Counts, ProgressSnapshot
from pipelines.progress.event_log import EventLog
from pipelines.request import Request, fingerprint_inputs, lock_run
from pipelines.run import Run, SessionInfo
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
    raised: int = 0  # errors over blocks that were then answered all the same
    last_error: str = ""  # message of the last of them
    passes: int = 1  # more than one: nodes were lost, and the others went on


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
    prepared = prepare(config, report)
    plan = prepared.plan

    def waiting(waited: float, of: float) -> None:
        report(Progress("waiting", int(waited), int(of)))

    with (
        lock_run(out, prepared.config, prepared.inputs, waiting) as (earlier, check),
        storage_errors(out),
    ):
        if (out / "manifest.json").is_file():
            done = Run.open(out)
            return Outcome(done, True, skipped_files=plan.skipped, source_notes=plan.notes)
        report(Progress("starting", 0, plan.table.num_rows))
        with open_for(prepared, earlier) as executor:
            request = executor.resolve().request
            if earlier is None:
                write_plan(out / "plan", plan.table, request, executor.slots)
                # Last: a plan without a request is of a session that died while planning.
                write_json(out / "request.json", request)
            work = _Session(out, plan, request, executor, report, check)
            return work.run(started, began)


class Prepared(NamedTuple):
    """What is known before any work is done."""

    config: ExtractConfig  # with what follows from the kind of source
    plan: Plan
    inputs: dict[str, str]  # hashes of the plan and of the files that the configuration names


def prepare(config: ExtractConfig, report: Callable[[Progress], None]) -> Prepared:
    """Read the source, and hash what the configuration names.

    Raises:
        InputError: source or model do not fit.
    """
    plan = read_source(
        config.source,
        config.reading,
        report=lambda done, total: report(Progress("planning", done, total)),
    )
    config = config.for_source().model_copy(update={"source": name_source(config.source)})
    return Prepared(config, plan, fingerprint_inputs(plan.decisive, config))


def open_for(
    prepared: Prepared, earlier: Request | None, *, timed: bool = False
) -> AbstractContextManager[Executor]:
    """Open the executor that a configuration asks for, at work on it.

    Args:
        prepared: the configuration with its plan.
        earlier: the request of the run that is continued.
        timed: whether resolving also measures time, for an estimate.
    """
    config, plan, inputs = prepared
    unresolved = Unresolved(
        config=config,
        inputs=inputs,
        sample=sample_of(plan.table),
        root=str(plan.root),
        rows=plan.table.num_rows,
        earlier=earlier,
        timed=timed,
    )
    return open_executor(choose_executor(config.executor, config.address), unresolved)


class _Session:
    """One session's work on a run, once everything is known."""

    def __init__(
        self,
        out: Path,
        plan: Plan,
        request: Request,
        executor: Executor,
        report: Callable[[Progress], None],
        check: Callable[[], None],
    ) -> None:
        self._out = out.resolve()
        self._check = check
        self._plan = plan
        self._request = request
        self._config = request.config
        self._executor = executor
        self._report = report
        self._planned = plan.table.num_rows

    def run(self, started: float, began: float) -> Outcome:
        self._began = began  # durations are by this clock: the other one may be set meanwhile
        before = reconcile(self._out).committed
        self._log = EventLog(self._out)
        self._log.add("session", **self._asked(started, before))
        try:
            outcome = self._finish(started, before)
        except BaseException as error:
            self._end(type(error).__name__, error=first_line(error))
            raise
        self._end("finished")
        return replace(outcome, events_lost=self._log.lost)

    def _finish(self, started: float, before: int) -> Outcome:
        answered = self._answer()
        counts = answered.counts
        if self._config.hdf5:
            self._phase("hdf5")
            try:
                write_hdf5(
                    self._out,
                    self._request,
                    self._executor.tasks("hdf5", then=CONTINUES),
                    stall_seconds=self._config.stall_seconds,
                )
            except WorkError:  # it says what failed already
                raise
            except Exception as error:
                raise work_error("extraction", error) from error
        self._phase("checking")
        manifest = describe_run(
            self._out,
            self._plan.root,
            self._request,
            planned=self._planned,
            seconds=self._seconds(),
            session=self._session(started, before, counts),
            tasks=lambda: self._executor.tasks("checking", then=CONTINUES),
            done=lambda rows: self._report(Progress("checking", rows, self._planned)),
        )
        # Counting and hashing are part of it.
        manifest = manifest.model_copy(update={"seconds": self._seconds()})
        self._check()
        manifest.write(self._out)
        for leftover in ("checkpoint", OPEN_BLOCKS):
            remove_folder(self._out / leftover)
        first = counts.first_answer if counts else None
        return Outcome(
            Run.open(self._out),
            resumed_rows=before,
            skipped_files=self._plan.skipped,
            source_notes=self._plan.notes,
            first_answer_seconds=None if first is None else first - started,
            raised=answered.raised,
            last_error=answered.last_error,
            passes=answered.passes,
        )

    def _session(self, started: float, before: int, counts: Counts | None) -> SessionInfo:
        actors, rate = self._actors(), None
        if counts and counts.first_answer and counts.last_answer:
            later, seconds = (
                counts.answered - counts.first_rows,
                counts.last_answer - counts.first_answer,
            )
            rate = later / seconds if later and seconds > 0 else None
        return SessionInfo(
            executor=self._executor.name,
            rows=self._planned - before,
            actors=actors,
            gpus=actors * self._executor.slots.gpus_per_actor,
            rows_a_second=rate,
            **self._log.measures.session(started, self._seconds()),
        )

    def _seconds(self) -> float:
        return time.monotonic() - self._began

    def _actors(self) -> int:
        return min(self._executor.slots.actors, len(list_folder(self._out / "plan", "*.parquet")))

    def _answer(self) -> Answered:
        job = Job(
            folder=self._out, root=self._plan.root, request=self._request, planned=self._planned
        )
        self._log.add("phase", name="extracting")
        last = Counts()

        def on_snapshot(snapshot: ProgressSnapshot, before: int) -> None:
            nonlocal last
            self._check()
            self._log.snapshot(snapshot)
            if snapshot.counts[:2] != last[:2]:
                last = snapshot.counts
                done = min(before + last.answered, self._planned)  # some are answered twice
                self._report(Progress("extracting", done, self._planned, last.failed))

        return self._executor.answer(job, Callbacks(on_snapshot, self._log.add))

    def _phase(self, name: Literal["hdf5", "checking"]) -> None:
        self._log.add("phase", name=name)
        self._report(Progress(name, 0, self._planned))

    def _asked(self, started: float, before: int) -> dict[str, Any]:
        """What a session begins with, for the events."""
        request = self._request
        return {
            "started": round(started, 3),
            "host": platform.node(),
            "process": os.getpid(),
            "planned": self._planned,
            "before": before,
            "blocks": len(list_folder(self._out / "plan", "*.parquet")),
            "model": request.facts.request.spec,
            "precision": request.precision,
            "engine": request.engine,
            "executor": self._executor.name,
            "slots": asdict(self._executor.slots),
            "actors": self._actors(),
            "nodes": self._executor.nodes(),
        }

    def _end(self, outcome: str, **facts: Any) -> None:
        seen = self._log.measures
        self._log.add(
            "end",
            outcome=outcome,
            seconds=round(self._seconds(), 3),
            stages=[stage.model_dump() for stage in seen.stages],
            errors=seen.errors,
            waited=seen.waited,
            **facts,
        )
