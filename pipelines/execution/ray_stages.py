"""The stages on Ray Data: read the plan, decode, forward, write Parquet with a checkpoint."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.data.checkpoint import CheckpointConfig

from cluster.slots import Slots
from common.moved import ImageRoot
from common.parquet import WRITE_OPTIONS, read_parquet
from common.storage import arrow, list_folder, to_path
from pipelines.execution.base import Job
from pipelines.execution.blocks import BLOCK_BYTES, RETRIES
from pipelines.execution.ray_internals import Loop, TimedParquet, leave_at_exit
from pipelines.progress.counters import Reporter, Stopwatch, guard_block
from pipelines.request import Request


class PlanFiles(Datasource):  # type: ignore[misc]
    """The plan's files, each read as one block.

    Ray's own reader first has workers look at the files, and a worker that ran a task becomes no
    actor: each forward actor then waits for a process that is only starting.
    """

    def __init__(self, files: list[Path]) -> None:
        super().__init__()
        self._files = [str(file.absolute()) for file in files]

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
        unknown = BlockMetadata(num_rows=None, size_bytes=None, exec_stats=None, input_files=None)
        return [ReadTask(partial(_read, file), unknown) for file in self._files]


def _read(file: str) -> Iterable[pa.Table]:
    return [read_parquet(to_path(file), partitioning=None)]


class DecodeStage:
    """Decodes a block on one core, in a process that need not have begun with torch.

    Args:
        root: where the images are.
        request: of the run.
        reporter: gets reports.
    """

    def __init__(self, root: ImageRoot, request: Request, reporter: Reporter) -> None:
        self._root = root
        self._request = request
        self._reporter = reporter

    def __call__(self, rows: pa.Table) -> pa.Table:
        import torch  # late, with all that imports it: seconds, in the processes that decode

        from pipelines.engines.forward import pixel_columns  # late: it imports torch
        from pipelines.images.decode import decode_rows  # late: it imports torch

        torch.set_num_threads(1)
        reporter, watch = self._reporter, Stopwatch("decode", self._reporter.lane)
        inputs = pixel_columns(self._request)
        with guard_block(reporter, "decode", rows):
            decoded = decode_rows(
                rows,
                self._root,
                inputs,
                damaged=self._request.config.damaged,
                done=reporter.decoded,
            )
        if rows.num_rows:
            reporter.block(watch.block(decoded))
        return decoded


class ForwardStage:
    """An actor that holds the models and answers decoded blocks.

    Args:
        request: of the run.
        memory_share: of a GPU, for each call in flight.
        reporter: gets reports.
    """

    def __init__(self, request: Request, memory_share: float, reporter: Reporter) -> None:
        import torch  # late, with all that imports it: the driver needs none

        from pipelines.engines.forward import Forward, load_engines  # late: it imports torch

        leave_at_exit()
        watch = Stopwatch("load", reporter.lane)
        if not torch.cuda.is_available():
            torch.set_num_threads(1)  # one actor a core beats one actor with all cores twofold
        engines = load_engines(
            request, batch_rows=request.config.batch_rows, memory_share=memory_share
        )
        self._forward = Forward(request, engines, reporter)
        self._reporter = reporter
        reporter.block(watch.block(None))

    def __call__(self, rows: pa.Table) -> pa.Table:
        watch = Stopwatch("forward", self._reporter.lane)
        with guard_block(self._reporter, "forward", rows):
            answered = self._forward.answer(rows)
        if rows.num_rows:
            self._reporter.block(watch.block(answered))
        return answered


def run_stages(job: Job, slots: Slots, reporter: Reporter) -> None:
    """Answer every planned row of which the run has no checkpoint yet.

    Args:
        job: the run's plan.
        slots: actors and tasks.
        reporter: gets the reports of all stages.
    """
    out, request = job.folder, job.request
    context = DataContext.get_current()
    # Ray Data logs every failure with its tracebacks; ours is one line, --debug has the rest.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context.enable_progress_bars = False
    context.target_max_block_size = 2 * BLOCK_BYTES
    context.issue_detectors_config.detectors = []
    # An error that comes once in a thousand blocks is no end, one that comes every time soon is.
    # Processes that die are replaced without end; ``guard_block`` sees to blocks that end them.
    context.retried_map_errors = True
    context.max_map_retries = RETRIES
    context.raise_original_map_exception = True  # Ray's own wrapping loses the message
    context.max_consecutive_actor_init_deaths = RETRIES
    context.custom_execution_callback_classes = [Loop]
    system, _ = arrow(out)
    checkpoint = CheckpointConfig(
        id_column="row_id",
        checkpoint_path=arrow(out / "checkpoint")[1],
        override_filesystem=system,
        # Deleted by us, and only after the manifest: until then it is the only record.
        delete_checkpoint_on_success=False,
    )
    checkpoint.checkpoint_actor_pool_max_size = 1  # the slots hold one whole CPU for it
    context.checkpoint_config = checkpoint
    plan_files = list_folder(out / "plan", "*.parquet")
    actors = min(slots.actors, len(plan_files))
    rows = ray.data.read_datasource(
        PlanFiles(plan_files),
        override_num_blocks=len(plan_files),
        num_cpus=slots.cpus_to_decode,
    )
    decoded = rows.map_batches(
        DecodeStage(job.images, request, reporter),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=slots.cpus_to_decode,
    )
    # ``map_batches`` insists on a number of rows for GPUs and would cut each block there: a
    # batch, and a rest that takes nearly as long. A whole block: the engine knows how many fit
    # on its device.
    answered = decoded.map_batches_internal(
        ForwardStage,
        fn_constructor_args=(
            request,
            slots.gpus_per_actor / slots.calls_in_flight,
            reporter,
        ),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            size=actors,
            max_concurrent_calls_per_actor=slots.calls_in_flight,
            # Else Ray lets calls in and still runs them one after the other.
            enable_true_multi_threading=slots.calls_in_flight > 1,
        ),
        num_cpus=slots.cpus_per_actor,
        num_gpus=slots.gpus_per_actor or None,
    )
    answered.write_datasink(
        TimedParquet(
            arrow(out / "detections")[1],
            reporter,
            filesystem=system,
            arrow_parquet_args={"compression": "zstd", **WRITE_OPTIONS},
        ),
        ray_remote_args={"num_cpus": slots.cpus_per_task},
        concurrency=actors,  # Ray would start a process for each block that waits
    )
    context.checkpoint_config = None  # the context is the process's, the checkpoint ours
