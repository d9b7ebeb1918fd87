"""``onepass extract``: plan, one pass on Ray Data, Parquet, HDF5, manifest.

The order of writing is the contract: ``request.json`` and the plan first, so that a rerun
knows what it continues; Parquet through Ray Data's two-phase checkpoint, so that no row is
lost or written twice; the manifest last, so that a run either is finished or says it is not.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from cluster.errors import StalledError, failed
from cluster.session import Slots, local_cores, session
from cluster.storage import listed, reaching, remove_folder
from pipelines.checkpoint import committed_rows, settle_checkpoint
from pipelines.facts import GateRequest, ModelRequest, Outputs, Reading
from pipelines.finish import describe_run
from pipelines.hdf5 import write_hdf5
from pipelines.records import write_atomic
from pipelines.request import Command, Request, claim, fingerprint_inputs
from pipelines.run import Run, SessionFacts
from pipelines.source import Plan, name_source, read_source
from pipelines.stages import run_stages, write_plan

if TYPE_CHECKING:
    from pipelines.board import Tally

POLL_SECONDS = 0.25
# Of the run's own images, to judge formats and engines by: a sixteenth, within these bounds.
SAMPLE_ROWS = (16, 64)
VIDEO_SIDE = 256  # pixels of a frame's side, squashed: what clip features are usually made from


@dataclass(frozen=True)
class Options:
    """How to run; none of it changes what a row's answer is, except by rounding."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    engine: Literal["auto", "eager", "compile", "openvino"] = "auto"
    outputs: Outputs = field(default_factory=Outputs)
    gate: GateRequest | None = None
    reading: Reading = field(default_factory=Reading)
    top_k: int = 5
    hdf5: bool = False
    batch_rows: int | None = None  # images a forward pass; None: what suits the device
    gpus_per_actor: float = 1.0
    stall_seconds: float = 300.0
    address: str | None = None


@dataclass(frozen=True)
class Progress:
    """One look at a running extraction, for whoever draws the progress bar."""

    stage: Literal["planning", "waiting", "starting", "extracting", "hdf5", "checking"]
    done: int
    planned: int


@dataclass
class Outcome:
    """What ``extract`` did."""

    run: Run
    already_finished: bool = False
    resumed_rows: int = 0  # rows that an earlier session had committed
    skipped_files: dict[str, int] = field(default_factory=dict)
    source_notes: tuple[str, ...] = ()
    first_answer_seconds: float | None = None


def extract(
    source: str,
    model: ModelRequest,
    out: Path,
    options: Options | None = None,
    *,
    report: Callable[[Progress], None] = lambda _: None,
) -> Outcome:
    """Extract class and embedding of every detection of ``source`` into the run ``out``.

    The same call continues an unfinished run and leaves a finished one alone.

    Raises:
        InputError: source, model or ``out`` do not fit; nothing was written.
        StalledError: no row moved for ``options.stall_seconds``.
        WorkError: the work failed; the same call continues it.
    """
    options = options or Options()
    started = time.time()
    reading = options.reading
    plan = read_source(
        source, reading, report=lambda done, total: report(Progress("planning", done, total))
    )
    if reading.kind == "video":
        model = _for_videos(model)
    command = Command(
        source=name_source(source),
        reading=reading,
        model=model,
        gate=options.gate,
        inputs=fingerprint_inputs(
            plan.decisive, model, options.gate.model if options.gate else None
        ),
        precision=options.precision,
        engine=options.engine,
        top_k=options.top_k,
        outputs=options.outputs,
        hdf5=options.hdf5,
    )

    def told(waited: float, of: float) -> None:
        report(Progress("waiting", int(waited), int(of)))

    with claim(out, command, told) as (earlier, check), reaching(out):
        if (out / "manifest.json").is_file():
            done = Run.open(out)
            return Outcome(done, True, skipped_files=plan.skipped, source_notes=plan.notes)
        report(Progress("starting", 0, plan.table.num_rows))
        settling = _Settling(command, plan, earlier, options)
        with settling, session(options.address, gpus_per_actor=options.gpus_per_actor) as slots:
            request = settling.result(slots)
            if earlier is None:
                write_plan(out / "plan", plan.table, request, slots)
                # Last: a plan without a request is of a session that died while planning.
                write_atomic(out / "request.json", request.model_dump_json(indent=2).encode())
            work = _Work(out, plan, request, options, slots, report, check)
            return work.run(started)


def _for_videos(model: ModelRequest) -> ModelRequest:
    """The whole frame, squashed to ``VIDEO_SIDE``, where the user wants nothing else."""
    own = {"input_size": VIDEO_SIDE, "resize": "squash"}
    return model.model_copy(
        update={name: value for name, value in own.items() if getattr(model, name) is None}
    )


class _Settling:
    """``settle``, where the forward actors will run.

    With a Ray of our own that is this machine: loading the model takes a core for seconds and
    starting Ray mostly waits, so both are done at once. On a cluster it is a worker, because
    the driver's machine may have no GPU or another processor.
    """

    def __init__(
        self, command: Command, plan: Plan, earlier: Request | None, options: Options
    ) -> None:
        self._arguments = (command, _sample(plan.table), str(plan.root))
        self._rows = plan.table.num_rows
        self._earlier = earlier
        self._options = options
        self._remote = bool(options.address or os.environ.get("RAY_ADDRESS"))
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> _Settling:
        if not self._remote:
            self._here = self._pool.submit(self._settle)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _settle(self) -> Request:
        from pipelines.engines.engine import this_device
        from pipelines.settle import settle

        on_gpu = this_device().type == "cuda"
        lanes = 1 if on_gpu else local_cores()
        return settle(*self._arguments, rows=self._rows, lanes=lanes, earlier=self._earlier)

    def result(self, slots: Slots) -> Request:
        """The settled request; its error, if it has one, is raised here.

        Raises:
            InputError, WorkError: as ``settle`` raises them.
            StalledError: a worker did not answer for ``options.stall_seconds``.
        """
        if not self._remote:
            return self._here.result()
        import ray
        from ray.exceptions import GetTimeoutError, RayTaskError

        from pipelines.settle import settle_on_worker

        task = ray.remote(
            num_cpus=slots.cpus_per_actor, num_gpus=slots.gpus_per_actor, max_retries=0
        )(settle_on_worker)
        asked = task.remote(
            *self._arguments, rows=self._rows, lanes=slots.actors, earlier=self._earlier
        )
        try:
            request: Request = ray.get(asked, timeout=self._options.stall_seconds)
        except RayTaskError as error:
            raise error.cause from None
        except GetTimeoutError:
            raise StalledError(
                f"no worker settled the model within {self._options.stall_seconds:g} s; is the "
                "cluster busy? give the same command again, or a longer --stall-seconds"
            ) from None
        return request


def _sample(plan: pa.Table) -> pa.Table:
    """A few rows from four places of the plan; neighbours share their image's decoding."""
    least, most = SAMPLE_ROWS
    each = min(most, max(least, plan.num_rows // 16)) // 4
    starts = sorted({plan.num_rows * part // 4 for part in range(4)})
    ends = [*starts[1:], plan.num_rows]
    return pa.concat_tables(
        [plan.slice(a, min(each, b - a)) for a, b in zip(starts, ends, strict=True)]
    )


class _Work:
    """One session's work on a run, once everything is known."""

    def __init__(
        self,
        out: Path,
        plan: Plan,
        request: Request,
        options: Options,
        slots: Slots,
        report: Callable[[Progress], None],
        check: Callable[[], None],
    ) -> None:
        self._out = out.resolve()
        self._check = check
        self._plan = plan
        self._request = request
        self._options = options
        self._slots = slots
        self._report = report
        self._planned = plan.table.num_rows

    def run(self, started: float) -> Outcome:
        settle_checkpoint(self._out)
        before = committed_rows(self._out)
        tally = self._pass(before) if before < self._planned else None
        if self._options.hdf5:
            self._report(Progress("hdf5", 0, self._planned))
            try:
                write_hdf5(self._out, self._request, cpus_per_task=self._slots.cpus_per_task)
            except Exception as error:
                raise failed("extraction", error) from error
        self._report(Progress("checking", 0, self._planned))
        manifest = describe_run(
            self._out,
            self._plan.root,
            self._request,
            planned=self._planned,
            seconds=time.time() - started,
            session=self._session(before, tally),
            done=lambda rows: self._report(Progress("checking", rows, self._planned)),
        )
        self._check()
        write_atomic(self._out / "manifest.json", manifest.model_dump_json(indent=2).encode())
        remove_folder(self._out / "checkpoint")
        first = tally.first_answer if tally else None
        return Outcome(
            Run.open(self._out),
            resumed_rows=before,
            skipped_files=self._plan.skipped,
            source_notes=self._plan.notes,
            first_answer_seconds=None if first is None else first - started,
        )

    def _session(self, before: int, tally: Tally | None) -> SessionFacts:
        files = len(listed(self._out / "plan", "*.parquet"))
        actors, rate = min(self._slots.actors, files), None
        if tally and tally.first_answer and tally.last_answer:
            later, seconds = (
                tally.answered - tally.first_rows,
                tally.last_answer - tally.first_answer,
            )
            rate = later / seconds if later and seconds > 0 else None
        return SessionFacts(
            rows=self._planned - before,
            actors=actors,
            gpus=actors * self._slots.gpus_per_actor,
            rows_a_second=rate,
        )

    def _pass(self, before: int) -> Tally:
        """Run the Ray Data pipeline to its end, watching that it moves."""
        import ray

        from pipelines.board import Board, Tally
        from pipelines.forward import ForwardOptions

        forward = ForwardOptions(
            request=self._request,
            batch_rows=self._options.batch_rows,
            memory_share=self._slots.gpus_per_actor / self._slots.calls_in_flight,
        )
        board = ray.remote(num_cpus=0)(Board).remote()
        failure: list[BaseException] = []

        def work() -> None:
            try:
                run_stages(self._out, self._plan.root, forward, self._planned, self._slots, board)
            except BaseException as error:
                failure.append(error)

        # Ray's own call cannot be interrupted, so it gets a thread and this one watches.
        thread = threading.Thread(target=work, daemon=True, name="extract")
        thread.start()
        tally, moved_at, last = Tally(), time.monotonic(), (0, 0)
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            self._check()
            tally = _look(board, tally)
            now = (tally.decoded, tally.answered)
            if now != last:
                last, moved_at = now, time.monotonic()
                self._report(Progress("extracting", before + tally.answered, self._planned))
            elif time.monotonic() - moved_at > self._options.stall_seconds:
                raise StalledError(self._stall_message(tally))
        if failure:
            raise failed("extraction", failure[0])
        return _look(board, tally)

    def _stall_message(self, tally: Tally) -> str:
        import ray

        free = ray.available_resources().get("CPU", 0)
        total = ray.cluster_resources().get("CPU", 0)
        return (
            f"no row moved for {self._options.stall_seconds:g} s: {tally.decoded} decoded, "
            f"{tally.answered} answered of {self._planned}; {free:g} of {total:g} CPU slots free "
            f"({self._slots.actors} actors want {self._slots.cpus_per_actor:g} each); what is "
            "written is kept, give the same command again on a larger cluster"
        )


def _look(board: Any, last: Tally) -> Tally:
    """The board's tally; the last one where the board is lost or too busy to answer.

    Losing it costs the progress display only: files and checkpoints do not depend on it.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError

    try:
        seen: Tally = ray.get(board.tally.remote(), timeout=60)
    except (GetTimeoutError, RayActorError):
        return last
    return seen
