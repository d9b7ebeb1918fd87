"""The executor in this process: threads, called lanes, that decode, forward and write; no Ray.

Decoders, resizing and engines release Python's lock while they compute, so on CPUs a lane a core keeps
the cores busy, and all lanes share one copy of the weights. On a GPU lanes decode, and two threads feed
the engine with what they decoded: one copies while the other computes.

A lane decodes a few of its block's images, has them answered, and so on, and writes the answers as one
file, which appears whole and is its own commit. So memory is that of a few images and one block's
answers a lane, and a process that is killed loses the blocks that were open.
"""

from __future__ import annotations

import platform
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from cluster.executors import ExecutorName, local_cores
from cluster.slots import Slots
from cluster.tasks import Tasks
from common.errors import StalledError, first_line, work_error
from common.json_models import write_atomic
from common.parquet import parquet_bytes
from common.storage import make_folder
from pipelines.engines.engine import DEFAULT_ROWS
from pipelines.engines.forward import Engines, Forward, pixel_columns
from pipelines.engines.resolve import Resolution, resolve
from pipelines.engines.unresolved import Resolved, Unresolved
from pipelines.execution.base import Job, ignore, no_row_moved
from pipelines.execution.blocks import RETRIES, OpenBlocks, with_crashes
from pipelines.execution.checkpoints import Part, drop_repeats, reconcile, remaining
from pipelines.images.decode import decode_batches
from pipelines.progress.counters import Counters, Counts, ProgressSnapshot, Stopwatch

POLL_SECONDS = 0.1
CALLS_IN_FLIGHT = 2  # of a GPU's engine: one copies while the other computes
_DECODING_LANES = 2  # more than cores, where a GPU forwards: some always wait for it
_STOP_SECONDS = 5.0  # for lanes to end after Ctrl-C or an error
_GPU_ROWS = 256  # decoded at a time for a GPU


class LocalExecutor:
    """``Executor`` on this machine's cores, or on them and its GPU."""

    name: ExecutorName = "local"

    def __init__(self, unresolved: Unresolved) -> None:
        on_gpu = unresolved.config.engine != "openvino" and torch.cuda.is_available()
        self.slots = Slots(
            actors=1 if on_gpu else local_cores(),
            cpus_per_actor=1.0,
            gpus_per_actor=1.0 if on_gpu else 0.0,
            cpus_per_task=1.0,
        )
        self._unresolved = unresolved
        self._resolution: Resolution | None = None

    def resolve(self) -> Resolved:
        # On CPUs each lane calls the engine; on a GPU it is one engine, however many call it.
        callers = self.slots.actors
        self._resolution = resolve(self._unresolved, lanes=callers, engine_lanes=callers)
        return self._resolution.resolved

    def nodes(self) -> list[dict[str, Any]]:
        gpus = self.slots.actors * self.slots.gpus_per_actor
        return [
            {"node": "here", "host": platform.node(), "cpus": float(local_cores()), "gpus": gpus}
        ]

    def tasks(self, name: str, *, then: str) -> Tasks:
        return Tasks(name, 0, then=then)

    def answer(
        self,
        job: Job,
        on_snapshot: Callable[[ProgressSnapshot, int], None] = ignore,
        on_event: Callable[..., None] = ignore,
    ) -> Counts:
        """Answer the plan, as ``Executor.answer`` promises.

        Args:
            job, on_snapshot, on_event: as there.
        """
        assert self._resolution is not None, "resolve comes first"
        reconcile(job.folder)
        parts = remaining(job.folder, job.planned)
        counts = Counts()
        if parts:
            engines = self._resolution.engines(
                job.config.batch_rows, calls_in_flight=CALLS_IN_FLIGHT
            )
            lanes = local_cores() + (_DECODING_LANES if engines.model.on_gpu else 0)
            before = job.planned - sum(part.rows for part in parts)
            counts = Lanes(job, engines, lanes).run(
                parts, lambda snapshot: on_snapshot(snapshot, before)
            )
        # Writers of a Ray whose driver died may have ended only now.
        if reconcile(job.folder).committed > job.planned:
            drop_repeats(job.folder)
        return counts


class _Stopped(BaseException):
    """The job has ended, and this lane with it."""


class Lanes:
    """Threads that answer parts of a plan, a part at a time each.

    Args:
        job: whose parts.
        engines: shared by all lanes.
        count: lanes.
    """

    def __init__(self, job: Job, engines: Engines, count: int) -> None:
        self._job = job
        self._count = count
        self._on_gpu = engines.model.on_gpu
        self._inputs = pixel_columns(job.request)
        self._open = OpenBlocks(job.folder)
        self._counters = Counters()
        self._forward = Forward(job.request, engines, self._counters)
        self._parts = deque[Part]()  # that no lane has taken
        # Batches for the GPU's threads; of each lane at most one.
        self._feed = queue.SimpleQueue[tuple[pa.Table, Future[pa.Table]]]()
        self._stop = threading.Event()
        self._failure: list[BaseException] = []

    def run(self, parts: Sequence[Part], on_snapshot: Callable[[ProgressSnapshot], None]) -> Counts:
        """Answer and write parts of the plan.

        Args:
            parts: that are not committed yet.
            on_snapshot: called with the progress, some times a second.

        Raises:
            StalledError: no row moved for ``job.config.stall_seconds``.
            WorkError: a part failed, each time it was tried.
        """
        make_folder(self._job.folder / "detections")
        self._parts.extend(parts)
        lanes = [
            threading.Thread(target=self._lane, args=(f"here:{at}",), daemon=True)
            for at in range(min(self._count, len(parts)))
        ]
        feeders = [
            threading.Thread(target=self._answer_fed, args=(f"here:gpu-{at}",), daemon=True)
            for at in range(CALLS_IN_FLIGHT if self._on_gpu else 0)
        ]
        threads = [*lanes, *feeders]
        torch_threads = torch.get_num_threads()  # one number for the process, which lanes set
        for thread in threads:
            thread.start()
        try:
            counts = self._watch(lanes, sum(part.rows for part in parts), on_snapshot)
        finally:
            self._stop.set()
            torch.set_num_threads(torch_threads)
            deadline = time.monotonic() + _STOP_SECONDS
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
        if self._failure:
            raise work_error("extraction", self._failure[0])
        return counts._replace(passes=1)

    def _watch(
        self,
        lanes: list[threading.Thread],
        rows: int,
        on_snapshot: Callable[[ProgressSnapshot], None],
    ) -> Counts:
        moved_at, last = time.monotonic(), Counts()
        while True:
            working = any(lane.is_alive() for lane in lanes) and not self._failure
            snapshot = self._counters.snapshot()
            on_snapshot(snapshot)
            counts = snapshot.counts
            if counts != last:
                moved_at, last = time.monotonic(), counts
            elif time.monotonic() - moved_at > self._job.config.stall_seconds:
                raise StalledError(
                    f"{no_row_moved(counts, rows, self._job.config.stall_seconds)}; an image or the "
                    "network does not end; what is written is kept, the same command continues"
                )
            if not working:
                return counts
            self._stop.wait(POLL_SECONDS)

    def _lane(self, lane: str) -> None:
        try:
            torch.set_num_threads(1)  # a lane a core beats one lane with all cores twofold
            self._counters.block(Stopwatch("load", lane).block(None))  # from now on it waits
            while not self._stop.is_set():
                try:
                    part = self._parts.popleft()
                except IndexError:
                    return
                with self._open.working_on(part.name) as died:
                    self._answer(part, lane, died=died)
        except _Stopped:
            pass
        except BaseException as error:  # of a thread: raised where it is joined
            self._failure.append(error)
            self._stop.set()

    def _answer(self, part: Part, lane: str, *, died: bool) -> None:
        rows = part.read()
        if died:
            rows = with_crashes(rows, self._job.images)
        first = rows["row_id"][0].as_py()
        for tried in range(RETRIES + 1):
            try:
                answered = self._decode_and_forward(rows, lane)
                watch = Stopwatch("write", lane)
                write_part(answered, self._job.folder / "detections" / f"{part.name}.parquet")
                self._counters.block(watch.block(answered))
                return
            except Exception as error:  # anything that the network or a store raises is tried again
                message = f"{type(error).__name__}: {first_line(error)}"
                self._counters.raised("forward", first, message)
                if tried == RETRIES:
                    raise

    def _decode_and_forward(self, rows: pa.Table, lane: str) -> pa.Table:
        most = _GPU_ROWS if self._on_gpu else DEFAULT_ROWS
        answered: list[pa.Table | Future[pa.Table]] = []
        decode, answer = Stopwatch("decode", lane), Stopwatch("forward", lane)
        answer.pause()
        with closing(
            decode_batches(
                rows,
                self._job.images,
                self._inputs,
                most,
                damaged=self._job.request.config.damaged,
                done=self._counters.decoded,
            )
        ) as batches:
            for batch in batches:
                decode.pause()
                if self._stop.is_set():
                    raise _Stopped
                if self._on_gpu:
                    answered.append(self._fed(batch, answered))
                else:
                    answer.resume()
                    answered.append(self._forward.answer(batch))
                    answer.pause()
                decode.resume()
        decoded = decode.block(rows)
        self._counters.block(decoded)
        table = pa.concat_tables(
            each if isinstance(each, pa.Table) else self._result(each) for each in answered
        )
        if not self._on_gpu:
            # Reported as if all decoding had come first: what counts is how long each took.
            began = decoded.began + decoded.seconds
            self._counters.block(answer.block(table)._replace(began=began))
        return table

    def _fed(
        self, batch: pa.Table, answered: list[pa.Table | Future[pa.Table]]
    ) -> Future[pa.Table]:
        """Hand a batch to the GPU's threads; of a lane, one waits there and one is decoded."""
        if answered and isinstance(answered[-1], Future):
            self._result(answered[-1])
        future: Future[pa.Table] = Future()
        self._feed.put((batch, future))
        return future

    def _result(self, future: Future[pa.Table]) -> pa.Table:
        while not self._stop.is_set():
            try:
                return future.result(POLL_SECONDS)
            except TimeoutError:
                if future.done():  # the network's own
                    raise
        raise _Stopped

    def _answer_fed(self, lane: str) -> None:
        """One of the threads that keep a GPU busy."""
        while not self._stop.is_set():
            try:
                batch, future = self._feed.get(timeout=POLL_SECONDS)
            except queue.Empty:
                continue
            watch = Stopwatch("forward", lane)
            try:
                table = self._forward.answer(batch)
                self._counters.block(watch.block(table))
                future.set_result(table)
            except BaseException as error:  # of a thread: raised by the lane that waits for it
                future.set_exception(error)


def write_part(answered: pa.Table, file: Path) -> None:
    """Write a block's rows, whole or not at all: this is its commit.

    Raises:
        OSError: the disk or the store refused; nothing is left behind.
    """
    write_atomic(file, parquet_bytes(answered, compression="zstd").to_pybytes())
