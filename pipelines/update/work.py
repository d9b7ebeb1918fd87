"""An update from beginning to end: compare, answer, commit; continued wherever it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from cluster.tasks import Tasks
from common.json_models import read_json, write_hashed
from pipelines.config import Progress
from pipelines.engines.unresolved import Unresolved
from pipelines.execution.base import Executor, Job, open_executor
from pipelines.progress.counters import Counts
from pipelines.request import Request
from pipelines.run import Run
from pipelines.session import CONTINUES, Outcome, Session, UpdateSummary
from pipelines.sources.plan import Plan
from pipelines.update.changes import Changes, find_changes
from pipelines.update.commit import Staged, commit, remove_leftovers, stage, staged_update


class Update:
    """One update of a finished run.

    Args:
        out: the run folder.
        plan: of the source as it is now, with ``image_hash``.
        command: what is asked for.
        request: of the run.
        report: called with the progress.
        check: raises an error where another session has taken the run over.
        times: ``started`` and ``began`` of the command, as ``Session`` takes them.
    """

    def __init__(
        self,
        out: Path,
        plan: Plan,
        command: Unresolved,
        request: Request,
        report: Callable[[Progress], None],
        check: Callable[[], None],
        times: tuple[float, float],
    ) -> None:
        self._out, self._plan, self._command = out, plan, command
        now = {"inputs": command.inputs, "path": str(out)}
        self._request = request.model_copy(update=now)
        self._report, self._check = report, check
        self._times = times

    def run(self, before: Outcome | None = None) -> Outcome:
        """Bring the run up to date.

        Args:
            before: of the session that finished the run just now, if one did.

        Raises:
            RunError: the source has other columns than the run, or none of its rows.
            StalledError, WorkError: as ``Session`` raises them; the same command continues.
        """
        run, outcome = Run.open(self._out), before
        resumed = UpdateSummary()
        staged = staged_update(run)
        if staged is not None:
            resumed = staged.summary
            outcome = self._finish(staged)
            run = Run.open(self._out)
        changes = find_changes(self._plan, run)
        if changes.differs:
            outcome = self._finish(self._stage(run, changes), outcome)
        remove_leftovers(self._out, Run.open(self._out).manifest)
        if read_json(self._out / "request.json", Request).inputs != self._request.inputs:
            write_hashed(self._out / "request.json", self._request)
        summary = _sum(resumed, changes.summary)
        outcome = outcome or Outcome(run, True)
        notes = (*self._plan.notes, *changes.notes)
        return replace(
            outcome,
            run=Run.open(self._out),
            skipped_files=self._plan.skipped,
            unread=self._plan.unread,
            source_notes=notes,
            update=summary,
        )

    def _stage(self, run: Run, changes: Changes) -> Staged:
        # HDF5 is of the whole run, and written when the answers are part of it.
        config = self._request.config.model_copy(update={"hdf5": False})
        return stage(run, changes, self._request.model_copy(update={"config": config}))

    def _finish(self, staged: Staged, before: Outcome | None = None) -> Outcome:
        """Answer what is left of an update, and commit it."""
        rows = len(staged.answered)
        request = read_json(staged.folder / "request.json", Request)
        if not rows:
            self._commit(staged, request, None, None)
            return before or Outcome(staged.run)
        self._report(Progress("starting", 0, rows))
        with open_executor(replace(self._command, earlier=request)) as executor:
            executor.resolve()
            outcome = self._answer(staged, request, executor)
            self._commit(staged, request, outcome, executor)
        return outcome

    def _answer(self, staged: Staged, request: Request, executor: Executor) -> Outcome:
        if (staged.folder / "manifest.json").is_file():
            return Outcome(Run.open(staged.folder), counts=Counts())
        staged.cut(request, executor.slots)
        plan = self._plan
        job = Job(staged.folder, plan.root, request, len(staged.answered), plan.pairs)
        return Session(
            *(job, plan, executor, self._report, self._check, *self._times),
            log=self._out,
        ).run()

    def _commit(
        self,
        staged: Staged,
        request: Request,
        answered: Outcome | None,
        executor: Executor | None,
    ) -> None:
        self._report(Progress("checking", 0, staged.after.num_rows))

        def tasks(name: str) -> Tasks:
            return executor.tasks(name, then=CONTINUES) if executor else Tasks(name)

        commit(
            staged,
            request.model_copy(update={"config": self._request.config}),
            self._plan.images,
            seconds=lambda: time.monotonic() - self._times[1],
            session=answered.run.manifest.session if answered else None,
            tasks=tasks,
            check=self._check,
            done=lambda rows: self._report(Progress("checking", rows, staged.after.num_rows)),
        )


def _sum(first: UpdateSummary, then: UpdateSummary) -> UpdateSummary:
    """What two updates, one after the other, come to."""
    return UpdateSummary(
        new=(*first.new, *then.new),
        changed=(*first.changed, *then.changed),
        vanished=then.vanished,
        renumbered=first.renumbered + then.renumbered,
        answered=first.answered + then.answered,
    )
