"""``extract --dry-run``: a sample of the run's images is measured, and the run estimated from it.

The sample goes through the same executor into a folder beside the run, which is removed again. So
start-up, shared cores and the store that is written to are measured, not guessed. The estimate is
start-up as measured, the rows at the sample's steady rate, and finishing in proportion.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from common.errors import work_error
from common.json_models import JsonModel
from common.moved import Pairs
from common.sampling import spread
from common.storage import is_remote, make_folder, remove_folder
from pipelines.config import ExtractConfig, Progress
from pipelines.execution.base import Executor, Job, open_executor
from pipelines.execution.blocks import block_rows, cut_plan, write_blocks
from pipelines.execution.checkpoints import committed_rows
from pipelines.extract import prepare
from pipelines.model_info import EngineName, Precision
from pipelines.outputs.finish import data_files, describe_run
from pipelines.outputs.hdf5 import write_hdf5
from pipelines.progress.counters import STAGES, Block, ProgressSnapshot
from pipelines.request import Request, earlier_request
from pipelines.run import Limit, SessionInfo
from pipelines.sources.contents import append_hashes
from pipelines.sources.unreadable import check_readable

SAMPLE_SECONDS = 10.0  # of each actor's work, about
_BLOCKS = (5, 40)  # of the sample, for each actor, at least and at most
_LEAST_ROWS = 32  # of a block of the sample: what goes to a CPU at once
_GUESS = 0.05  # seconds a row where nothing is known yet


class Forecast(JsonModel):
    """What a run is estimated to take, and what was measured for it."""

    rows: int  # to answer; ``resumed_rows`` are done already
    resumed_rows: int
    model: str
    precision: Precision
    engine: EngineName
    notes: tuple[str, ...]
    nodes: tuple[dict[str, Any], ...]  # node, host, cpus and gpus of each
    actors: int
    gpus: float
    # Rows a second that stages could do, by their name; those that share processes together.
    rates: dict[str, float]
    rate: float  # rows a second once everything runs: the lowest of ``rates``
    limit: Limit  # the stage that sets the rate, or "start-up" where most time is not work
    seconds: float  # from beginning to manifest
    start_seconds: float  # until everything runs
    finish_seconds: float  # after the last answer
    built_seconds: float  # spent now on an engine that the run only loads
    block_rows: int
    files: int  # Parquet files, one a block
    file_bytes: int
    sample_rows: int
    sample_seconds: float  # this dry run's own


def dry_run(
    config: ExtractConfig,
    out: Path,
    *,
    pairs: Pairs = (),
    report: Callable[[Progress], None] = lambda _: None,
) -> Forecast | None:
    """Estimate what ``extract`` with the same arguments takes; leaves nothing in or beside ``out``.

    Args:
        config, out, pairs, report: as ``extract`` takes them.

    Returns:
        None where ``out`` is finished already.

    Raises:
        InputError: source, model or ``out`` do not fit.
        StalledError: no row of the sample moved for ``config.stall_seconds``.
        WorkError: the sample could not be answered, as not one of its images can be read.
    """
    started = time.time()
    plan, command = prepare(config, report, pairs)
    planned = command.rows
    earlier = earlier_request(out, command.config, command.inputs, pairs=pairs, rows=plan.unordered)
    if (out / "manifest.json").is_file():
        return None
    before = committed_rows(out) if earlier else 0
    report(Progress("starting", 0, planned))
    with open_executor(replace(command, earlier=earlier, timed=True)) as executor:
        joined = time.time() - started
        resolved = executor.resolve()
        start = max(joined, time.time() - started - resolved.building - resolved.timing)
        request, slots = resolved.request, executor.slots
        whole = block_rows(request, planned, slots)
        sample = _sample(plan.table, request, whole, executor, resolved.seconds_a_row)
        sample = [append_hashes(block, plan.images) for block in sample]
        check_readable(replace(plan, table=pa.concat_tables(sample)), command.config.source)
        sampled = sum(block.num_rows for block in sample)
        with _folder_beside(out) as folder:
            write_blocks(folder / "plan", sample)
            job = Job(
                folder=folder, root=plan.root, request=request, planned=sampled, pairs=plan.pairs
            )
            blocks, passed = _answer(job, executor, report)
            # What is done once, such as starting processes, is in the first time only.
            once, again = _finish(job, executor), _finish(job, executor)
            stored = sum(file.stat().st_size for file in data_files(folder))
        nodes = tuple(executor.nodes())
    rates, limit = stage_rates(blocks)
    rate = min(rates.values())
    start += max(0.0, passed - sampled / rate)
    work = (planned - before) / rate
    files = -(-planned // whole)
    # Checking is mostly of files, HDF5 of rows.
    times = planned / sampled if config.hdf5 else files / len(sample)
    finish = max(0.0, once - again) + again * times
    seconds = start + work + finish
    actors = min(slots.actors, files)
    return Forecast(
        rows=planned - before,
        resumed_rows=before,
        model=request.facts.request.spec,
        precision=request.precision,
        engine=request.engine,
        notes=request.notes,
        nodes=nodes,
        actors=actors,
        gpus=actors * slots.gpus_per_actor,
        rates=rates,
        rate=rate,
        limit="start-up" if work < seconds / 2 else limit,
        seconds=seconds,
        start_seconds=start,
        finish_seconds=finish,
        built_seconds=resolved.building,
        block_rows=whole,
        files=files,
        file_bytes=round(stored / sampled * planned),
        sample_rows=sampled,
        sample_seconds=time.time() - started,
    )


def _sample(
    table: pa.Table,
    request: Request,
    whole: int,
    executor: Executor,
    seconds_a_row: float | None,
) -> list[pa.Table]:
    """Blocks from all over the plan, some for each actor; all of a small plan."""
    slots, (few, many) = executor.slots, _BLOCKS
    each = SAMPLE_SECONDS / (seconds_a_row or _GUESS)  # rows of an actor
    rows = min(whole, max(_LEAST_ROWS, int(each / few)))
    wanted = slots.actors * max(few, min(many, round(each / rows)))
    if slots.gpus_per_actor:  # every core that decodes must be at work
        wanted = max(wanted, few * int(sum(node["cpus"] for node in executor.nodes())))
    if wanted * rows >= table.num_rows:
        chosen: Sequence[tuple[int, int]] = cut_plan(table, request, whole)
    else:
        chosen = spread(cut_plan(table, request, rows), wanted)
    blocks, first = [], 0
    column = table.column_names.index("row_id")
    for begin, end in chosen:
        ids = pa.array(range(first, first + end - begin), table.schema.field(column).type)
        blocks.append(table.slice(begin, end - begin).set_column(column, "row_id", ids))
        first += end - begin
    return blocks


@contextmanager
def _folder_beside(out: Path) -> Iterator[Path]:
    """A folder on the store that the run will be on; gone at the end."""
    base = out.parent
    if not is_remote(out):
        base = next(folder for folder in out.absolute().parents if folder.exists())
    folder = base / f".{out.name}.dry-run-{os.getpid()}"
    make_folder(folder)
    try:
        yield folder
    finally:
        remove_folder(folder)


def _answer(
    job: Job, executor: Executor, report: Callable[[Progress], None]
) -> tuple[list[Block], float]:
    """Answer the sample; its blocks, and the seconds that all of it took."""
    blocks: list[Block] = []

    def on_snapshot(snapshot: ProgressSnapshot, _: int) -> None:
        blocks.extend(snapshot.blocks)
        report(Progress("measuring", snapshot.counts.answered, job.planned, snapshot.counts.failed))

    began = time.time()
    executor.answer(job, on_snapshot)
    return blocks, time.time() - began


def _finish(job: Job, executor: Executor) -> float:
    """Finish the sample as a run is finished; the seconds that it took."""
    began, rows, then = time.time(), job.planned, "nothing was changed"
    if job.config.hdf5:
        try:
            write_hdf5(job.folder, job.request, executor.tasks("the sample's HDF5", then=then))
        except OSError as error:  # of this process's own; those of others are WorkErrors
            raise work_error("the sample's HDF5", error, then=then) from error
    session = SessionInfo(rows=rows, actors=executor.slots.actors, gpus=0, rows_a_second=None)
    describe_run(job.folder, job.root, job.request, planned=rows, seconds=0.0, session=session)
    return time.time() - began


def stage_rates(blocks: Sequence[Block]) -> tuple[dict[str, float], Limit]:
    """Rows a second that stages could do, and the stage that the slowest of them is busiest with.

    Stages that share processes take turns, so they have one rate, under both names.

    Raises:
        ValueError: there are no blocks.
    """
    groups: dict[str, list[Block]] = {}
    for stage in STAGES[1:]:
        own = [block for block in blocks if block.stage == stage]
        lanes = {block.lane for block in own}
        shared = [name for name, has in groups.items() if lanes & {b.lane for b in has}]
        joined = [block for name in shared for block in groups.pop(name)]
        if own:
            groups[" + ".join([*shared, stage])] = joined + own
    rates = {name: _steady_rate(group) for name, group in groups.items()}
    slowest, names = groups[min(rates, key=rates.__getitem__)], get_args(Limit)
    spent = {name: sum(block.seconds for block in slowest if block.stage == name) for name in names}
    return rates, max(spent, key=spent.__getitem__)


def _steady_rate(blocks: Sequence[Block]) -> float:
    """Rows a second while at least one process is at work, without its warm-up and its end."""
    begins = np.array([block.began for block in blocks])
    seconds = np.maximum([block.seconds for block in blocks], 1e-9)
    ends, rows = begins + seconds, np.array([block.rows for block in blocks])
    stages = len({block.stage for block in blocks})
    edge = stages * len({block.lane for block in blocks})  # each process's first and last
    if len(blocks) > 2 * edge and np.sort(ends)[edge - 1] < np.sort(begins)[-edge]:
        window = np.sort(ends)[edge - 1], np.sort(begins)[-edge]
        begins, ends = np.clip(begins, *window), np.clip(ends, *window)
    answered = float((rows * (ends - begins) / seconds).sum()) / stages
    order = np.argsort(begins)
    latest = np.maximum.accumulate(ends[order])  # end of all that began before
    idle = np.maximum(0.0, begins[order][1:] - latest[:-1]).sum()
    return answered / max(1e-9, float(latest[-1] - begins[order][0] - idle))
