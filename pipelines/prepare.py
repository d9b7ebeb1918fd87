"""What stands before an extraction: the plan, the command, and what it leaves open, settled."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pyarrow as pa

from cluster.errors import StalledError, failed
from cluster.session import Slots, local_cores
from cluster.waiting import what_waits
from pipelines.facts import ModelRequest
from pipelines.request import Command, Request, fingerprint_inputs
from pipelines.source import Plan, name_source, read_source

if TYPE_CHECKING:
    from pipelines.extract import Options, Progress
    from pipelines.settle import Settled

# Of the run's own images, to judge formats and engines by: a sixteenth, within these bounds.
SAMPLE_ROWS = (16, 64)
VIDEO_SIDE = 256  # pixels of a frame's side, squashed: what clip features are usually made from


def prepare(
    source: str, model: ModelRequest, options: Options, report: Callable[[Progress], None]
) -> tuple[Plan, Command]:
    """Read ``source``, and put what is asked of it into a command.

    Raises:
        InputError: source or model do not fit.
    """
    from pipelines.extract import Progress

    reading = options.reading
    plan = read_source(
        source, reading, report=lambda done, total: report(Progress("planning", done, total))
    )
    if reading.kind == "video":
        model = _for_videos(model)
    return plan, Command(
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


def _for_videos(model: ModelRequest) -> ModelRequest:
    """The whole frame, squashed to ``VIDEO_SIDE``, where the user wants nothing else."""
    own = {"input_size": VIDEO_SIDE, "resize": "squash"}
    return model.model_copy(
        update={name: value for name, value in own.items() if getattr(model, name) is None}
    )


class Settling:
    """``settle``, where the forward actors will run.

    With a Ray of our own that is this machine: loading the model takes a core for seconds and
    starting Ray mostly waits, so both are done at once. On a cluster it is a worker, because
    the driver's machine may have no GPU or another processor.
    """

    def __init__(
        self,
        command: Command,
        plan: Plan,
        earlier: Request | None,
        options: Options,
        *,
        timed: bool = False,
    ) -> None:
        self._arguments = (command, sample_of(plan.table), str(plan.root))
        self._rows = plan.table.num_rows
        self._earlier = earlier
        self._options = options
        self._timed = timed
        self._remote = bool(options.address or os.environ.get("RAY_ADDRESS"))
        self._pool = ThreadPoolExecutor(1)

    def __enter__(self) -> Settling:
        if not self._remote:
            self._here = self._pool.submit(self._settle)
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _settle(self) -> Settled:
        import torch

        from pipelines.settle import settle_here

        lanes = torch.cuda.device_count() or local_cores()
        settled = settle_here(
            *self._arguments,
            rows=self._rows,
            lanes=lanes,
            earlier=self._earlier,
            timed=self._timed,
        )
        torch.cuda.empty_cache()  # this process lives on beside the actors that need it
        return settled

    def result(self, slots: Slots) -> Settled:
        """What was settled; its error, if it has one, is raised here.

        Raises:
            InputError, WorkError: as ``settle`` raises them.
            StalledError: a worker did not answer for ``options.stall_seconds``.
        """
        if not self._remote:
            return self._here.result()
        import ray
        from ray.exceptions import GetTimeoutError, RayError, RayTaskError

        from pipelines.settle import settle_on_worker

        task = ray.remote(
            num_cpus=slots.cpus_per_actor, num_gpus=slots.gpus_per_actor, max_retries=3
        )(settle_on_worker)
        asked = task.remote(
            *self._arguments,
            rows=self._rows,
            lanes=slots.actors,
            earlier=self._earlier,
            timed=self._timed,
        )
        try:
            settled: Settled = ray.get(asked, timeout=self._options.stall_seconds)
        except RayTaskError as error:
            raise error.cause from None
        except GetTimeoutError:
            raise StalledError(
                f"no worker settled the model within {self._options.stall_seconds:g} s; "
                f"{what_waits()}; give the same command again, or a longer --stall-seconds"
            ) from None
        except RayError as error:  # nodes or processes that died, more often than is tried
            raise failed("settling the model", error, then="give the same command again") from error
        return settled


def sample_of(plan: pa.Table) -> pa.Table:
    """A few rows from four places of the plan; neighbours share their image's decoding."""
    least, most = SAMPLE_ROWS
    each = min(most, max(least, plan.num_rows // 16)) // 4
    starts = sorted({plan.num_rows * part // 4 for part in range(4)})
    ends = [*starts[1:], plan.num_rows]
    return pa.concat_tables(
        [plan.slice(a, min(each, b - a)) for a, b in zip(starts, ends, strict=True)]
    )
