"""``onepass extract``: plan, one pass on Ray Data, Parquet, HDF5, manifest.

The order of writing is the contract: ``request.json`` and the plan first, so that a rerun
knows what it continues; Parquet through Ray Data's two-phase checkpoint, so that no row is
lost or written twice; the manifest last, so that a run either is finished or says it is not.
"""

from __future__ import annotations

import logging
import platform
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cluster.errors import StalledError, VerifyError, WorkError
from cluster.session import Slots, session
from pipelines.facts import ModelRequest, PrecisionAudit
from pipelines.hdf5 import write_hdf5
from pipelines.records import sha256_file, write_atomic
from pipelines.request import Command, Request, claim, fingerprint_inputs
from pipelines.run import RowCounts, Run, RunManifest
from pipelines.source import Plan, read_source

if TYPE_CHECKING:
    from pipelines.board import Tally

BLOCK_BYTES = 64 * 2**20  # pixels of one block in the object store
BLOCK_ROWS = 512
POLL_SECONDS = 0.25


@dataclass(frozen=True)
class Options:
    """How to run; none of it changes what a row's answer is, except by rounding."""

    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    top_k: int = 5
    logits: bool = False
    hdf5: bool = False
    batch_rows: int = 32
    stall_seconds: float = 300.0
    address: str | None = None


@dataclass(frozen=True)
class Progress:
    """One look at a running extraction, for whoever draws the progress bar."""

    stage: Literal["starting", "extracting", "hdf5", "checking"]
    done: int
    planned: int


@dataclass
class Outcome:
    """What ``extract`` did."""

    run: Run
    already_finished: bool = False
    resumed_rows: int = 0  # rows that an earlier session had committed
    skipped_files: dict[str, int] = field(default_factory=dict)
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
    plan = read_source(source)
    command = Command(
        source=str(Path(source).resolve()),
        model=model,
        inputs=fingerprint_inputs(plan.table, model),
        precision=options.precision,
        top_k=options.top_k,
        logits=options.logits,
        hdf5=options.hdf5,
    )
    with claim(out, command) as earlier:
        if (out / "manifest.json").is_file():
            return Outcome(Run.open(out), already_finished=True, skipped_files=plan.skipped)
        report(Progress("starting", 0, plan.table.num_rows))
        # Loading the model takes a core for seconds and starting Ray mostly waits: do both.
        with (
            _Background(lambda: _resolve(command, earlier)) as resolving,
            session(options.address) as slots,
        ):
            request = resolving.result()
            if earlier is None:
                _write_plan(out, plan.table, request, slots)
            work = _Work(out, plan, request, options, slots, report)
            return work.run(started)


def _resolve(command: Command, earlier: Request | None) -> Request:
    """Load the model once and settle what the command left open."""
    from pipelines.backbones import examine
    from pipelines.precision import choose

    facts = examine(command.model)
    if earlier is None:
        return Request(command=command, facts=facts, precision=choose(command.precision))
    if facts != earlier.facts:
        raise WorkError(
            f"the model is not what this run was started with: weights {facts.weights_sha256[:12]} "
            f"now, {earlier.facts.weights_sha256[:12]} then; restore the package versions or "
            "start a new run"
        )
    return earlier


class _Background:
    """One call on another thread, its error raised where the result is asked for."""

    def __init__(self, call: Callable[[], Request]) -> None:
        self._pool = ThreadPoolExecutor(1)
        self.result = self._pool.submit(call).result

    def __enter__(self) -> _Background:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)


def _write_plan(out: Path, table: pa.Table, request: Request, slots: Slots) -> None:
    """Write the plan in files of one block each, cut only between images."""
    height, width = request.facts.preprocess.input_size
    rows = min(BLOCK_ROWS, max(1, BLOCK_BYTES // (height * width * 3)))
    # A small plan is cut finer: every actor must find work, and soon.
    rows = min(rows, max(16, -(-table.num_rows // (4 * slots.actors))))
    folder = out / "plan"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    codes = table["image"].combine_chunks().dictionary_encode().indices.to_numpy()
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    begin, number = 0, 0
    while begin < table.num_rows:
        later = starts[starts >= min(begin + rows, table.num_rows)]
        end = int(later[0]) if len(later) else table.num_rows
        pq.write_table(table.slice(begin, end - begin), folder / f"part-{number:05d}.parquet")
        begin, number = end, number + 1
    # Last: a plan without a request is of a session that died while planning.
    write_atomic(out / "request.json", request.model_dump_json(indent=2).encode())


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
    ) -> None:
        self._out = out.resolve()
        self._plan = plan
        self._request = request
        self._options = options
        self._slots = slots
        self._report = report
        self._planned = plan.table.num_rows

    def run(self, started: float) -> Outcome:
        before = committed_rows(self._out)
        tally = self._pass(before) if before < self._planned else None
        if self._options.hdf5:
            self._report(Progress("hdf5", 0, self._planned))
            try:
                write_hdf5(self._out, self._request.facts, cpus_per_task=self._slots.cpus_per_task)
            except Exception as error:
                raise _as_work_error(error) from error
        self._report(Progress("checking", self._planned, self._planned))
        manifest = self._manifest(tally, time.time() - started)
        write_atomic(self._out / "manifest.json", manifest.model_dump_json(indent=2).encode())
        shutil.rmtree(self._out / "checkpoint", ignore_errors=True)
        first = tally.first_answer if tally else None
        return Outcome(
            Run.open(self._out),
            resumed_rows=before,
            skipped_files=self._plan.skipped,
            first_answer_seconds=None if first is None else first - started,
        )

    def _pass(self, before: int) -> Tally:
        """Run the Ray Data pipeline to its end, watching that it moves."""
        import ray

        from pipelines.board import Board, Tally

        board = ray.remote(num_cpus=0)(Board).remote()
        failure: list[BaseException] = []

        def work() -> None:
            try:
                self._pipeline(board)
            except BaseException as error:
                failure.append(error)

        # Ray's own call cannot be interrupted, so it gets a thread and this one watches.
        thread = threading.Thread(target=work, daemon=True, name="extract")
        thread.start()
        tally, moved_at, last = Tally(), time.monotonic(), (0, 0, 0)
        while thread.is_alive():
            thread.join(POLL_SECONDS)
            tally = _look(board, tally)
            now = (tally.decoded, tally.answered, len(_data_files(self._out)))
            if now != last:
                last, moved_at = now, time.monotonic()
                self._report(Progress("extracting", before + tally.answered, self._planned))
            elif time.monotonic() - moved_at > self._options.stall_seconds:
                raise StalledError(self._stall_message(tally))
        if failure:
            raise _as_work_error(failure[0])
        tally = _look(board, tally)
        if tally.audit is not None:
            write_atomic(self._out / "audit.json", tally.audit.model_dump_json().encode())
        return tally

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

    def _pipeline(self, board: Any) -> None:
        import ray
        from ray.data import ActorPoolStrategy, DataContext
        from ray.data.checkpoint import CheckpointConfig

        from pipelines.decode import DecodeBlock
        from pipelines.forward import ForwardActor, ForwardOptions

        context = DataContext.get_current()
        # Ray Data logs every failure with its tracebacks; ours is one line, --debug has the rest.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
        context.enable_progress_bars = False
        context.target_max_block_size = 2 * BLOCK_BYTES
        # The newer reader packs small files into one block: one busy actor, the others idle.
        context.use_datasource_v2 = False
        context.issue_detectors_config.detectors = []
        checkpoint = CheckpointConfig(
            id_column="row_id",
            checkpoint_path=str(self._out / "checkpoint"),
            # Deleted by us, and only after the manifest: until then it is the only record.
            delete_checkpoint_on_success=False,
        )
        checkpoint.checkpoint_actor_pool_max_size = 1  # the slots hold one whole CPU for it
        context.checkpoint_config = checkpoint
        slots, request = self._slots, self._request
        plan_files = sorted(str(file) for file in (self._out / "plan").glob("*.parquet"))
        rows = ray.data.read_parquet(
            plan_files,
            override_num_blocks=len(plan_files),
            num_cpus=slots.cpus_to_decode,
        )
        decoded = rows.map_batches(
            DecodeBlock(str(self._plan.root), request.facts.preprocess, board),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=slots.cpus_to_decode,
        )
        answered = decoded.map_batches(
            ForwardActor,
            fn_constructor_args=(
                ForwardOptions(
                    facts=request.facts,
                    precision=request.precision,
                    top_k=request.command.top_k,
                    logits=request.command.logits,
                ),
                board,
            ),
            batch_size=self._options.batch_rows,
            batch_format="pyarrow",
            zero_copy_batch=True,
            compute=ActorPoolStrategy(size=min(slots.actors, len(plan_files))),
            num_cpus=slots.cpus_per_actor,
            num_gpus=slots.gpus_per_actor or None,
        )
        answered.write_parquet(
            str(self._out / "detections"),
            ray_remote_args={"num_cpus": slots.cpus_per_task},
            compression="zstd",
        )
        context.checkpoint_config = None  # the context is the process's, the checkpoint ours

    def _manifest(self, tally: Tally | None, seconds: float) -> RunManifest:
        """Check that every planned row stands once, then describe the run."""
        request, errors = self._request, Counter[str]()
        seen = np.zeros(self._planned, dtype=np.int64)
        for file in _data_files(self._out):
            table = pq.read_table(file, columns=["row_id", "error"])
            np.add.at(seen, table["row_id"].to_numpy(), 1)
            for text in pc.drop_null(table["error"]).to_pylist():
                errors[text.split(":", 1)[0]] += 1
        if not (seen == 1).all():
            raise VerifyError(
                f"{self._out}: {int((seen == 0).sum())} planned rows are missing and "
                f"{int((seen > 1).sum())} stand twice; keep the folder and report this"
            )
        stored = [*_data_files(self._out), *sorted((self._out / "plan").glob("*.parquet"))]
        if self._options.hdf5:
            stored += [*sorted((self._out / "hdf5").glob("*.h5")), self._out / "features.h5"]
        with ThreadPoolExecutor(4) as pool:
            hashes = list(pool.map(sha256_file, stored))
        names = [file.relative_to(self._out).as_posix() for file in stored]
        return RunManifest(
            source=request.command.source,
            root=str(self._plan.root),
            model=request.facts,
            fingerprint=request.facts.fingerprint,
            precision=request.precision,
            precision_audit=_read_audit(self._out),
            rows=RowCounts(
                planned=self._planned, written=int(seen.sum()), failed=sum(errors.values())
            ),
            errors=dict(errors),
            versions=_versions(),
            seconds=seconds,
            files=dict(zip(names, hashes, strict=True)),
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


def _data_files(out: Path) -> list[Path]:
    return sorted((out / "detections").glob("*.parquet"))


def committed_rows(out: Path) -> int:
    """Rows that earlier sessions committed; pending checkpoints are not counted."""
    files = [f for f in (out / "checkpoint").glob("*.parquet") if ".pending." not in f.name]
    return sum(pq.ParquetFile(file).metadata.num_rows for file in files)


def _read_audit(out: Path) -> PrecisionAudit | None:
    file = out / "audit.json"
    return PrecisionAudit.model_validate_json(file.read_bytes()) if file.is_file() else None


def _as_work_error(error: BaseException) -> BaseException:
    """One line out of Ray's nested traceback, the full one kept as the cause."""
    inner = error
    while (cause := getattr(inner, "cause", None) or inner.__cause__) is not None:
        inner = cause
    # Ray appends advice to a message, in an OSError even as its file name.
    said = inner.strerror if isinstance(inner, OSError) and inner.strerror else str(inner)
    text = said.strip().splitlines()
    wrapped = WorkError(
        f"extraction failed: {type(inner).__name__}: {text[0] if text else 'no message'}; "
        "what is written is kept, the same command continues (--debug shows where)"
    )
    wrapped.__cause__ = error
    return wrapped


def _versions() -> dict[str, str]:
    names = ("onepass", "ray", "torch", "torchvision", "timm", "pyarrow", "numpy")
    return {"python": platform.python_version()} | {name: version(name) for name in names}
