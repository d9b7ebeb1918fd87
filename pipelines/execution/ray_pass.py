"""One pass of the stages, supervised: progress is passed on, and a standstill ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from cluster.slots import Slots, available_slots, nodes
from cluster.waiting import waiting_tasks
from common.errors import ClusterError, StalledError, WorkError, work_error
from pipelines.execution.base import Job, no_row_moved
from pipelines.execution.ray_internals import Loop, LoopView
from pipelines.execution.ray_progress import ProgressActor
from pipelines.execution.ray_stages import run_stages
from pipelines.progress.counters import Counts, ProgressSnapshot

POLL_SECONDS = 0.25
# Nothing moves, a node is gone and an actor has no place: then others are given its work.
_QUIET_SECONDS = 15.0
_END_SECONDS = 30.0  # for Ray Data to let go of a pass
_REPORT_SECONDS = 3.0  # seconds that reports may be on their way after the stages have ended


class NodesLostError(WorkError):
    """A pass ended because nodes did; another one can go on with those that are left."""


def run_pass(
    job: Job, slots: Slots, before: int, on_snapshot: Callable[[ProgressSnapshot, int], None]
) -> Counts:
    """Run the Ray Data pipeline to its end.

    Args:
        job: what is to be answered.
        slots: actors and tasks.
        before: rows of the job that are committed.
        on_snapshot: called with the progress and ``before``, some times a second.

    Raises:
        StalledError: no row moved for ``job.config.stall_seconds``.
        NodesLostError: nodes were lost, and the pass with them.
        WorkError: a stage failed.
    """
    progress, rows = ProgressActor(), job.planned - before
    view = Loop.view = LoopView()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            run_stages(job, slots, progress.reporter)
        except BaseException as error:  # of a thread: raised where it is joined
            failure.append(error)

    def snapshot() -> Counts:
        latest = progress.snapshot()
        on_snapshot(latest, before)
        return latest.counts

    nodes_before = _living_nodes()
    # Ray's own call cannot be interrupted, so it gets a thread and this one watches.
    thread = threading.Thread(target=run, daemon=True, name="extract")
    thread.start()
    counts, moved_at, last = Counts(), time.monotonic(), (0, 0, 0)
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        counts = snapshot()
        now = (counts.decoded, counts.answered, counts.written)
        quiet = time.monotonic() - moved_at
        if now != last:
            last, moved_at = now, time.monotonic()
        elif quiet > job.config.stall_seconds:
            raise StalledError(_standstill(job, slots, rows, counts, nodes_before))
        elif (
            quiet > _QUIET_SECONDS
            and nodes_before - _living_nodes()
            and view.has_no_room()
            and slots_left(slots, job.config.gpus_per_actor)
        ):
            view.stop.set()
            thread.join(_END_SECONDS)
            if thread.is_alive():
                raise StalledError(_standstill(job, slots, rows, counts, nodes_before))
    if failure:
        progress.close()
        wrapped = work_error("extraction", failure[0])
        if nodes_before - _living_nodes():
            raise NodesLostError(str(wrapped)) from failure[0]
        raise wrapped
    deadline = time.monotonic() + _REPORT_SECONDS
    counts = snapshot()
    while counts.written < rows and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        counts = snapshot()
    progress.close()
    return counts


def slots_left(before: Slots, gpus_per_actor: float) -> Slots | None:
    """The slots of the nodes that are left; None where these cannot do the work."""
    try:
        slots = available_slots(gpus_per_actor)
    except ClusterError:
        return None
    # What was resolved for a GPU is not what a CPU would do.
    return None if before.gpus_per_actor and not slots.gpus_per_actor else slots


def _living_nodes() -> set[str]:
    return {each["node"] for each in nodes()}


def _standstill(job: Job, slots: Slots, rows: int, counts: Counts, nodes_before: set[str]) -> str:
    """What waits for what, in one line."""
    asks = f"{slots.cpus_per_actor:g} CPU"
    if slots.gpus_per_actor:
        asks += f" and {slots.gpus_per_actor:g} GPU"
    lost = sorted(nodes_before - _living_nodes())
    return (
        f"{no_row_moved(counts, rows, job.config.stall_seconds)}; {_waiting(rows, counts)}; "
        f"{slots.actors} actors want {asks} each; {waiting_tasks()}; "
        + (f"nodes lost since the start: {', '.join(lost)}; " if lost else "")
        + "what is written is kept, give the same command again on a larger cluster"
    )


def _waiting(rows: int, counts: Counts) -> str:
    if counts.decoded == 0:
        return "nothing began: plan files, actors or slots are waited for"
    if counts.answered < counts.decoded:
        return f"{counts.decoded - counts.answered} rows wait for forward actors"
    if counts.answered < rows:
        return "forward actors wait for decoding"
    if counts.written < rows:
        return f"{counts.answered - counts.written} rows wait to be written"
    return "all is written, and Ray does not end"
