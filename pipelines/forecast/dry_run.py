"""``extract --dry-run``: who would do what where, how fast, and for how long.

A sample of the run's own images goes through the very pipeline, on its executor, into a folder
beside the run that is removed again. So start-up, placement, cores that are shared and the
store that is written to are measured and not guessed; ``forecast`` makes a run's hours of them.
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cluster.errors import failed
from cluster.storage import is_remote, make_folder, remove_folder
from pipelines.events.board import Block, Look
from pipelines.events.measures import Limit
from pipelines.execution.base import Executor, Job, Watcher
from pipelines.execution.blocks import block_rows, cut_plan, write_blocks
from pipelines.execution.checkpoints import committed_rows
from pipelines.extract import Options, Progress, opened
from pipelines.facts import EngineName, ModelRequest, Precision
from pipelines.finish import FILES_HERE, data_files, describe_run
from pipelines.forecast.formula import Costs, Lanes, Pace, costs_of, pace
from pipelines.hdf5 import write_hdf5
from pipelines.prepare import prepare
from pipelines.records import Record
from pipelines.request import Request, earlier_request
from pipelines.run import SessionFacts

SAMPLE_SECONDS = 10.0  # of each actor's work, about
_BLOCKS = (5, 40)  # of the sample, for each actor, at least and at most
_LEAST_ROWS = 32  # of a block of the sample: what goes to a CPU at once
_GUESS = 0.05  # seconds a row where nothing is known yet


class NodePlan(Record):
    """A node, and what of the sample it did."""

    node: str
    host: str
    cpus: float
    gpus: float
    actors: int
    decoding: int  # processes that decoded; the actors themselves where there is no GPU


class Forecast(Record):
    """What the run would be, and the measurements it is told from."""

    rows: int  # to answer; ``resumed_rows`` are done already
    resumed_rows: int
    model: str
    precision: Precision
    engine: EngineName
    notes: tuple[str, ...]
    nodes: tuple[NodePlan, ...]
    lanes: Lanes
    gpus: float
    costs: Costs
    pace: Pace
    limit: Limit  # what most of the time goes into: the pace's limit, or "start-up"
    seconds: float  # from beginning to manifest
    start_seconds: float  # until the actors are at full speed
    finish_seconds: float  # after the last answer
    built_seconds: float  # spent now on an engine that the run only loads
    block_rows: int
    files: int  # Parquet files, one a block; as many HDF5 shards and plan files beside them
    file_bytes: int
    checkpoint_bytes: int  # while the run is at work
    sample_rows: int
    sample_seconds: float  # this dry run's own
    load: float | None  # of this machine before, in processes; None where the work is elsewhere


def dry_run(
    source: str,
    model: ModelRequest,
    out: Path,
    options: Options | None = None,
    *,
    report: Callable[[Progress], None] = lambda _: None,
) -> Forecast | None:
    """Say what ``extract`` of the same arguments would come to; nothing stays in or beside ``out``.

    Returns:
        None where ``out`` is finished already.

    Raises:
        InputError: source, model or ``out`` do not fit.
        StalledError: no row of the sample moved for ``options.stall_seconds``.
        WorkError: the sample could not be answered.
    """
    options = options or Options()
    started, load = time.time(), _load(options)
    plan, command = prepare(source, model, options, report)
    earlier = earlier_request(out, command)
    if (out / "manifest.json").is_file():
        return None
    before = committed_rows(out) if earlier else 0
    report(Progress("starting", 0, plan.table.num_rows))
    with opened(command, plan, earlier, options, timed=True) as executor:
        joined = time.time() - started
        resolved = executor.resolve()
        starting = max(joined, time.time() - started - resolved.building - resolved.timing)
        rows = plan.table.num_rows
        whole = block_rows(resolved.request, rows, executor.slots)
        blocks = _sample(plan.table, resolved.request, whole, executor, resolved.seconds_a_row)
        with _folder_beside(out) as folder:
            sample = _Sample(folder, plan.root, resolved.request, blocks, options, executor, report)
            sample.run()
            return sample.forecast(
                rows=rows - before,
                before=before,
                whole=whole,
                starting=starting,
                built=resolved.building,
                started=started,
                load=load,
            )


def _sample(
    table: pa.Table,
    request: Request,
    whole: int,
    executor: Executor,
    seconds_a_row: float | None,
) -> list[pa.Table]:
    """Blocks from all over the plan, some for each actor; all of a small plan."""
    slots = executor.slots
    few, many = _BLOCKS
    rows = round(SAMPLE_SECONDS / few / (seconds_a_row or _GUESS))
    rows = min(whole, max(_LEAST_ROWS, rows // _LEAST_ROWS * _LEAST_ROWS))
    each = SAMPLE_SECONDS / (rows * (seconds_a_row or _GUESS))
    wanted = slots.actors * max(few, min(many, round(each)))
    if slots.gpus_per_actor:  # all who decode must be at work
        wanted = max(wanted, few * _at_once(executor))
    cuts = cut_plan(table, request, rows)
    if wanted * rows >= table.num_rows:
        chosen = cut_plan(table, request, whole)
    else:
        chosen = [
            cuts[at] for at in np.linspace(0, len(cuts) - 1, min(wanted, len(cuts))).astype(int)
        ]
    blocks, first = [], 0
    at = table.column_names.index("row_id")
    for begin, end in chosen:
        ids = pa.array(range(first, first + end - begin), table.schema.field(at).type)
        blocks.append(table.slice(begin, end - begin).set_column(at, "row_id", ids))
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


class _Sample:
    """The sample on its way, and what is learned from it."""

    def __init__(
        self,
        folder: Path,
        root: Path,
        request: Request,
        blocks: list[pa.Table],
        options: Options,
        executor: Executor,
        report: Callable[[Progress], None],
    ) -> None:
        self._folder = folder
        self._root = root
        self._request = request
        self._options = options
        self._executor = executor
        self._report = report
        self._rows = sum(block.num_rows for block in blocks)
        self._seen: list[Block] = []
        began = time.time()
        write_blocks(folder / "plan", blocks)
        self._parts = len(blocks)
        self._plan_seconds = time.time() - began

    def run(self) -> None:
        """Answer the sample, and finish it as a run is finished."""
        job = Job(
            folder=self._folder,
            root=self._root,
            request=self._request,
            planned=self._rows,
            batch_rows=self._options.batch_rows,
            gpus_per_actor=self._options.gpus_per_actor,
            stall_seconds=self._options.stall_seconds,
        )

        def looked(look: Look, _: int) -> None:
            self._seen += look.blocks
            self._report(Progress("measuring", look.tally.answered, self._rows, look.tally.failed))

        began = time.time()
        self._executor.answer(job, Watcher(looked))
        self._costs = costs_of(self._seen, began, time.time())
        self._hdf5 = (0.0, 0.0)
        if self._options.hdf5:
            first, second = self._write_hdf5(), self._write_hdf5()
            self._hdf5 = (max(0.0, first - second), second / self._rows)
        began = time.time()
        facts = SessionFacts(
            rows=self._rows, actors=self._executor.slots.actors, gpus=0, rows_a_second=None
        )
        describe_run(
            self._folder,
            self._root,
            self._request,
            planned=self._rows,
            seconds=0.0,
            session=facts,
        )
        self._checking = time.time() - began

    def _write_hdf5(self) -> float:
        began = time.time()
        try:
            place = self._executor.tasks("the sample's HDF5", then="nothing was changed")
            write_hdf5(self._folder, self._request, place)
        except Exception as error:
            raise failed("the sample's HDF5", error, then="nothing was changed") from error
        return time.time() - began

    def forecast(
        self,
        *,
        rows: int,
        before: int,
        whole: int,
        starting: float,
        built: float,
        started: float,
        load: float | None,
    ) -> Forecast:
        """The run's own numbers, from the sample's."""
        slots, request = self._executor.slots, self._request
        files = -(-(rows + before) // whole)
        lanes = Lanes(
            actors=min(slots.actors, files),
            decoders=_at_once(self._executor),
            writers=_writers(self._executor),
        )
        coming = pace(self._costs, lanes, rows, whole)
        stored = data_files(self._folder)
        size = sum(file.stat().st_size for file in stored) / self._rows * (rows + before)
        start = starting + self._plan_seconds * files / self._parts
        checking = self._checking / self._parts * files + size * _seconds_to_hash()
        if 2 * files > FILES_HERE:  # many are gone through by tasks
            checking /= lanes.actors
        once, each = self._hdf5
        finish = checking + once + each * (rows + before)
        ready = sum(self._costs.ready) / len(self._costs.ready)
        seconds = start + coming.seconds + finish
        working = coming.seconds - ready - self._costs.last
        return Forecast(
            rows=rows,
            resumed_rows=before,
            model=request.facts.request.spec,
            precision=request.precision,
            engine=request.engine,
            notes=request.notes,
            nodes=tuple(self._places()),
            lanes=lanes,
            gpus=lanes.actors * slots.gpus_per_actor,
            costs=self._costs,
            pace=coming,
            limit="start-up" if working < seconds / 2 else coming.limit,
            seconds=seconds,
            start_seconds=start + ready,
            finish_seconds=finish + self._costs.last,
            built_seconds=built,
            block_rows=whole,
            files=files,
            file_bytes=round(size),
            checkpoint_bytes=files * _checkpoint_bytes(whole),
            sample_rows=self._rows,
            sample_seconds=time.time() - started,
            load=load,
        )

    def _places(self) -> Iterator[NodePlan]:
        def processes(stage: str) -> Counter[str]:
            lanes = {block.lane for block in self._seen if block.stage == stage}
            return Counter(lane.partition(":")[0] for lane in lanes)

        actors, decoding = processes("load"), processes("decode")
        for node in self._executor.nodes():
            name = node["node"]
            yield NodePlan(actors=actors[name], decoding=decoding[name], **node)


def _load(options: Options) -> float | None:
    """Processes that want a core of this machine already, where the work will be on it."""
    if options.address or os.environ.get("RAY_ADDRESS"):
        return None
    return os.getloadavg()[0]


def _at_once(executor: Executor) -> int:
    """Decoding tasks that find a place beside the actors and have a core, one left for writing."""
    slots, cpus = executor.slots, _cpus(executor)
    left = cpus - slots.actors * slots.cpus_per_actor
    return max(1, min(int(cpus), int(left / slots.cpus_to_decode)) - 1)


def _writers(executor: Executor) -> int:
    """Writing tasks that find a place at a time, where nothing else does."""
    slots = executor.slots
    left = _cpus(executor) - slots.actors * slots.cpus_per_actor
    return max(1, int(left / slots.cpus_per_task))


def _cpus(executor: Executor) -> float:
    return sum(float(node["cpus"]) for node in executor.nodes())


def _seconds_to_hash() -> float:
    """Seconds a byte, on one core of this machine."""
    data = bytes(2**24)
    began = time.perf_counter()
    hashlib.sha256(data).digest()
    return (time.perf_counter() - began) / len(data)


def _checkpoint_bytes(rows: int) -> int:
    """Bytes of Ray's checkpoint of one block, which holds its row ids."""
    sink = io.BytesIO()
    pq.write_table(pa.table({"row_id": pa.array(range(rows), pa.int64())}), sink)
    return len(sink.getvalue())
