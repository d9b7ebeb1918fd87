"""The stages on Ray Data: read the plan, decode, forward, write Parquet with a checkpoint.

A plan file is one block, cut between images, so that an image is decoded once and every
actor finds work soon.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from cluster.session import Slots
from cluster.storage import arrow, listed, make_folder, remove_folder, write_parquet
from pipelines.request import Request

if TYPE_CHECKING:
    from pipelines.forward import ForwardOptions

BLOCK_BYTES = 64 * 2**20  # of what a block holds most of: pixels, or kept maps
BLOCK_ROWS = 512
RETRIES = 2  # of a block whose stage raised an error, in the same process


def write_plan(folder: Path, table: pa.Table, request: Request, slots: Slots) -> None:
    """Write the plan in files of one block each."""
    cuts = cut_plan(table, request, block_rows(request, table.num_rows, slots))
    write_blocks(folder, [table.slice(begin, end - begin) for begin, end in cuts])


def cut_plan(table: pa.Table, request: Request, rows: int) -> list[tuple[int, int]]:
    """Where blocks of at least ``rows`` rows begin and end.

    Cut only between images, and where they fit in a block between videos: a video that is
    cut is decoded up to the cut twice.
    """
    most = _most_rows(request)
    images = _starts(table["image"])
    videos = _starts(table["sequence"]) if request.command.reading.kind == "video" else images
    cuts: list[tuple[int, int]] = []
    begin = 0
    while begin < table.num_rows:
        end = _next(videos, begin + rows, table.num_rows)
        if end - begin > max(most, rows):
            end = _next(images, begin + rows, table.num_rows)
        cuts.append((begin, end))
        begin = end
    return cuts


def write_blocks(folder: Path, blocks: Sequence[pa.Table]) -> None:
    """Write each of ``blocks`` as a plan file; what stood in ``folder`` goes."""
    remove_folder(folder)
    make_folder(folder)
    for number, block in enumerate(blocks):
        write_parquet(block, folder / f"part-{number:05d}.parquet")


def _starts(column: pa.ChunkedArray) -> np.ndarray:
    """Rows where another value begins."""
    codes = column.combine_chunks().dictionary_encode().indices.to_numpy()
    return np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])


def _next(starts: np.ndarray, least: int, total: int) -> int:
    later = starts[np.searchsorted(starts, least) :]
    return int(later[0]) if len(later) else total


def block_rows(request: Request, planned: int, slots: Slots) -> int:
    """Rows of a block: what fits in its bytes, and fewer where actors would stay idle."""
    return min(_most_rows(request), max(16, -(-planned // (4 * slots.actors))))


def _most_rows(request: Request) -> int:
    height, width = request.facts.preprocess.input_size
    kept = sum(4 * math.prod(known.shape) for known in request.facts.maps)
    return min(BLOCK_ROWS, max(1, BLOCK_BYTES // max(height * width * 3, kept)))


def run_stages(out: Path, root: Path, options: ForwardOptions, slots: Slots, board: Any) -> None:
    """Answer every row of ``out/plan`` that ``out/checkpoint`` does not hold yet."""
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    from pipelines.decode import DecodeBlock
    from pipelines.execution.ray_internals import Loop
    from pipelines.execution.ray_sink import TimedParquet
    from pipelines.forward import ForwardActor, pixel_columns

    context = DataContext.get_current()
    # Ray Data logs every failure with its tracebacks; ours is one line, --debug has the rest.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context.enable_progress_bars = False
    context.target_max_block_size = 2 * BLOCK_BYTES
    # The newer reader packs small files into one block: one busy actor, the others idle.
    context.use_datasource_v2 = False
    context.issue_detectors_config.detectors = []
    # An error that comes once in a thousand blocks is no end, one that comes every time soon is.
    # Processes that die are replaced without end; ``Attempt`` sees to blocks that end them.
    context.retried_map_errors = True
    context.max_map_retries = RETRIES
    context.raise_original_map_exception = True  # Ray's own wrapping loses what was said
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
    plan_files = [arrow(file)[1] for file in listed(out / "plan", "*.parquet")]
    rows = ray.data.read_parquet(
        plan_files,
        filesystem=system,
        override_num_blocks=len(plan_files),
        num_cpus=slots.cpus_to_decode,
    )
    decoded = rows.map_batches(
        DecodeBlock(str(root), pixel_columns(options.request), board),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=slots.cpus_to_decode,
    )
    # ``map_batches`` insists on a number of rows for GPUs and would cut each block there: a
    # batch, and a rest that takes nearly as long. A whole block: the engine knows how many fit
    # on its device.
    answered = decoded.map_batches_internal(
        ForwardActor,
        fn_constructor_args=(options, board),
        batch_size=None,
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ActorPoolStrategy(
            size=min(slots.actors, len(plan_files)),
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
            board,
            filesystem=system,
            arrow_parquet_args={"compression": "zstd"},
        ),
        ray_remote_args={"num_cpus": slots.cpus_per_task},
    )
    context.checkpoint_config = None  # the context is the process's, the checkpoint ours
