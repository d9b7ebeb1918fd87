"""One pass of the stages, watched: what the board hears is passed on, and a standstill ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError, StalledError, WorkError, failed
from cluster.session import Slots, nodes, present_slots
from cluster.waiting import what_waits
from pipelines.events.board import Board, Look, Tally
from pipelines.execution.ray_stages import run_stages
from pipelines.request import Request

POLL_SECONDS = 0.25
# Nothing moves, a node is gone and an actor has no place: then others are given its work.
_QUIET_SECONDS = 15.0
_END_SECONDS = 30.0  # for Ray Data to let go of a pass
_LAST_WORDS = 3.0  # seconds that reports may be on their way after the stages have ended


@dataclass(frozen=True)
class Watched:
    """What a pass is run on, and how long it may stand still."""

    folder: Path  # holds plan/; gets detections/ and checkpoint/
    root: Path
    rows: int  # that this pass must answer
    slots: Slots
    stall_seconds: float
    gpus_per_actor: float = 1.0  # that was asked for, where there are GPUs


class NodesLostError(WorkError):
    """A pass ended because nodes did; another one can go on with those that are left."""


def run_pass(
    work: Watched, request: Request, batch_rows: int | None, seen: Callable[[Look], None]
) -> Tally:
    """Run the Ray Data pipeline to its end; ``seen`` is told what happened, some times a second.

    Raises:
        StalledError: no row moved for ``work.stall_seconds``.
        NodesLostError: nodes were lost, and the pass with them.
        WorkError: a stage failed.
    """
    from pipelines.execution.ray_internals import Loop, View
    from pipelines.forward import ForwardOptions

    options = ForwardOptions(
        request=request,
        batch_rows=batch_rows,
        memory_share=work.slots.gpus_per_actor / work.slots.calls_in_flight,
    )
    board = _Board()
    view = Loop.view = View()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            run_stages(work.folder, work.root, options, work.slots, board.actor)
        except BaseException as error:
            failure.append(error)

    there = _alive()
    # Ray's own call cannot be interrupted, so it gets a thread and this one watches.
    thread = threading.Thread(target=run, daemon=True, name="extract")
    thread.start()
    tally, moved_at, last = Tally(), time.monotonic(), (0, 0, 0)
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        tally = board.look(seen)
        now = (tally.decoded, tally.answered, tally.written)
        quiet = time.monotonic() - moved_at
        if now != last:
            last, moved_at = now, time.monotonic()
        elif quiet > work.stall_seconds:
            raise StalledError(_standstill(work, tally, there))
        elif (
            quiet > _QUIET_SECONDS
            and there - _alive()
            and view.has_no_room()
            and slots_left(work.slots, work.gpus_per_actor)
        ):
            view.stop.set()
            thread.join(_END_SECONDS)
            if thread.is_alive():
                raise StalledError(_standstill(work, tally, there))
    if failure:
        wrapped = failed("extraction", failure[0])
        if there - _alive():
            raise NodesLostError(str(wrapped)) from failure[0]
        raise wrapped
    deadline = time.monotonic() + _LAST_WORDS
    tally = board.look(seen)
    while tally.written < work.rows and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        tally = board.look(seen)
    return tally


def slots_left(before: Slots, gpus_per_actor: float) -> Slots | None:
    """The slots of the nodes that are left; None where these cannot do the work."""
    try:
        slots = present_slots(gpus_per_actor)
    except ClusterError:
        return None
    # What was settled for a GPU is not what a CPU would do.
    return None if before.gpus_per_actor and not slots.gpus_per_actor else slots


class _Board:
    """The board as the driver sees it: near by, replaced if it dies, and added up over that.

    What a lost board had not told yet is lost: files and checkpoints do not depend on it.
    """

    def __init__(self) -> None:
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        self.actor: Any = (
            ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=here)(Board)
        ).remote()
        self._before, self._last = Tally(), Look(Tally(), [])

    def look(self, seen: Callable[[Look], None]) -> Tally:
        """The tally; the last one where the board is lost or too busy to answer."""
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        try:
            look: Look = ray.get(self.actor.look.remote(), timeout=10)
        except (GetTimeoutError, RayActorError):
            look = self._last._replace(blocks=[])
        if look.board != self._last.board:
            self._before = self._before.plus(self._last.tally)
        self._last = look
        look = look._replace(tally=self._before.plus(look.tally))
        seen(look)
        return look.tally


def _alive() -> set[str]:
    return {each["node"] for each in nodes()}


def _standstill(work: Watched, tally: Tally, there: set[str]) -> str:
    """What waits for what, in one line."""
    slots = work.slots
    asks = f"{slots.cpus_per_actor:g} CPU"
    if slots.gpus_per_actor:
        asks += f" and {slots.gpus_per_actor:g} GPU"
    ago = "never" if tally.last_answer is None else f"{time.time() - tally.last_answer:.0f} s ago"
    lost = sorted(there - _alive())
    return (
        f"no row moved for {work.stall_seconds:g} s: {tally.decoded} decoded, "
        f"{tally.answered} answered, {tally.written} written of {work.rows}, last answer {ago}; "
        f"{_waiting(work, tally)}; {slots.actors} actors want {asks} each; {what_waits()}; "
        + (f"nodes lost since the start: {', '.join(lost)}; " if lost else "")
        + "what is written is kept, give the same command again on a larger cluster"
    )


def _waiting(work: Watched, tally: Tally) -> str:
    if tally.decoded == 0:
        return "nothing began: plan files, actors or slots are waited for"
    if tally.answered < tally.decoded:
        return f"{tally.decoded - tally.answered} rows wait for forward actors"
    if tally.answered < work.rows:
        return "forward actors wait for decoding"
    if tally.written < work.rows:
        return f"{tally.answered - tally.written} rows wait to be written"
    return "all is written, and Ray does not end"
