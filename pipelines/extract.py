"""``onepass extract``: plan, one pass, Parquet, HDF5, manifest.

The order of writing is the contract: ``request.json`` and the plan first, so that a rerun
knows what it continues; Parquet by an executor that loses no row and writes none twice; the
manifest last, so that a run either is finished or says it is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from common.json_models import write_hashed
from common.manifests import check_file
from common.moved import Pairs
from common.parquet import open_parquet
from common.storage import list_folder, storage_errors
from pipelines.config import ExtractConfig, Progress
from pipelines.engines.unresolved import Unresolved, sample_of
from pipelines.execution.base import Job, open_executor
from pipelines.execution.blocks import write_plan
from pipelines.models.labels import read_labels
from pipelines.request import Request, fingerprint_inputs, lock_run
from pipelines.run import Run
from pipelines.session import Outcome, Session, remove_work_files
from pipelines.sources.boxes import BoxOptions
from pipelines.sources.contents import with_hashes
from pipelines.sources.plan import Plan
from pipelines.sources.read import name_source, read_source
from pipelines.sources.taken import with_times
from pipelines.sources.unreadable import check_readable
from pipelines.update.work import Update

__all__ = ["Outcome", "extract", "prepare"]

_OTHER_ORDER = (
    "{} was planned in another order of names, as of 1, 10, 2: `update=True` numbers its frames as "
    "they are numbered now"
)


def extract(
    config: ExtractConfig,
    out: Path,
    *,
    update: bool = False,
    pairs: Pairs = (),
    report: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Extract class and embedding of every detection of a source into a run.

    The same call continues an unfinished run and leaves a finished one alone.

    Args:
        config: what to extract from what, and how.
        out: the run folder, here or in an object store.
        update: where the source differs from the run, answer what is new or changed.
        pairs: of folders of images that were moved.
        report: called with the progress, some times a second.

    Raises:
        InputError: source, model or ``out`` do not fit; nothing was written.
        StalledError: no row moved for ``config.stall_seconds``.
        FileAccessError: not one image can be read; nothing was written.
        WorkError: the work failed; the same call continues it.
    """
    started, began = time.time(), time.monotonic()
    plan, command = prepare(config, report, pairs)

    def waiting(waited: float, limit: float) -> None:
        report(Progress("waiting", int(waited), int(limit)))

    def planning(done: int, total: int) -> None:
        report(Progress("planning", done, total))

    locked = lock_run(
        out,
        command.config,
        command.inputs,
        waiting,
        update=update,
        pairs=pairs,
        rows=plan.unordered,
    )
    with locked as (earlier, check), storage_errors(out):
        if not update:
            plan = _with_order_noted(plan, command, earlier, out)
        finished = (out / "manifest.json").is_file()
        if finished:
            remove_work_files(out)
        if finished and not update:
            done = Run.open(out)
            return Outcome(done, True, 0, plan.skipped, plan.notes, plan.unread)
        if finished:
            known = (*plan.pairs, *Run.open(out, pairs).images.pairs)
            plan = replace(plan, pairs=tuple(dict.fromkeys(known)))
        if update or earlier is None:
            plan = with_hashes(plan, planning)
            check_readable(plan, command.config.source)
            plan = with_times(plan, planning)
        outcome, times = None, (started, began)
        if not finished:
            unresolved = replace(command, earlier=earlier)
            outcome = _answer(unresolved, plan, out.resolve(), report, check, times)
        if update and earlier is not None:
            work = Update(out.resolve(), plan, command, earlier, report, check, times)
            outcome = work.run(outcome)
    assert outcome is not None
    return outcome


def _with_order_noted(plan: Plan, command: Unresolved, earlier: Request | None, out: Path) -> Plan:
    if earlier is None or earlier.inputs == command.inputs:
        return plan
    return replace(plan, notes=(*plan.notes, _OTHER_ORDER.format(out)))


def _answer(
    command: Unresolved,
    plan: Plan,
    out: Path,
    report: Callable[[Progress], None],
    check: Callable[[], None],
    times: tuple[float, float],
) -> Outcome:
    """Begin a run, or go on with an unfinished one, to its end."""
    earlier = command.earlier
    planned = plan.table.num_rows if earlier is None else _planned(out, earlier)
    report(Progress("starting", 0, planned))
    with open_executor(command) as executor:
        request = executor.resolve().request
        if earlier is None:
            files = write_plan(out / "plan", plan.table, request, executor.slots)
            # Last: a plan without a request is of a session that died while planning.
            request = request.model_copy(update={"path": str(out), "plan": files})
            write_hashed(out / "request.json", request)
        job = Job(out, plan.root, request, planned, plan.pairs)
        return Session(job, plan, executor, report, check, *times).run()


def _planned(out: Path, request: Request) -> int:
    """Rows of the plan of an unfinished run, whose files are compared with the request."""
    rows = 0
    for name, sha256 in (request.plan or {}).items():
        check_file(out / "plan" / name, sha256)
    for file in list_folder(out / "plan", "*.parquet"):
        with open_parquet(file) as parquet:
            rows += int(parquet.metadata.num_rows)
    return rows


def prepare(
    config: ExtractConfig, report: Callable[[Progress], None], pairs: Pairs = ()
) -> tuple[Plan, Unresolved]:
    """Read the source, and hash what the configuration names.

    Args:
        config: what is asked for.
        report: called with the progress.
        pairs: of folders of images that were moved.

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
        boxes=BoxOptions(config.boxes, config.box_units, config.box_frame),
        from_run=config.from_run,
        pairs=pairs,
        id_prefix=config.id_prefix,
        where=config.where,
        report=lambda done, total: report(Progress("planning", done, total)),
    )
    notes: list[str] = []
    for file in filter(None, (config.labels, config.gate_labels)):
        read_labels(file, notes.append)
    plan = replace(plan, notes=(*plan.notes, *notes))
    config = config.for_source().model_copy(update={"source": name_source(config.source)})
    return plan, Unresolved(
        config=config,
        inputs=fingerprint_inputs(plan.decisive, config),
        sample=sample_of(plan.table),
        root=str(plan.root),
        rows=plan.table.num_rows,
        pairs=plan.pairs,
    )
