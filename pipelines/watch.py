"""One pass of the stages, watched: what the board hears is passed on, and a standstill ends it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import StalledError, failed
from cluster.session import Slots
from pipelines.board import Board, Look, Tally
from pipelines.request import Request
from pipelines.stages import run_stages

POLL_SECONDS = 0.25
_LAST_WORDS = 3.0  # seconds that reports may be on their way after the stages have ended


@dataclass(frozen=True)
class Watched:
    """What a pass is run on, and how long it may stand still."""

    folder: Path  # holds plan/; gets detections/ and checkpoint/
    root: Path
    rows: int  # that this pass must answer
    slots: Slots
    stall_seconds: float


def run_pass(
    work: Watched, request: Request, batch_rows: int | None, seen: Callable[[Look], None]
) -> Tally:
    """Run the Ray Data pipeline to its end; ``seen`` is told what happened, some times a second.

    Raises:
        StalledError: no row moved for ``work.stall_seconds``.
        WorkError: a stage failed.
    """
    import ray

    from pipelines.forward import ForwardOptions

    options = ForwardOptions(
        request=request,
        batch_rows=batch_rows,
        memory_share=work.slots.gpus_per_actor / work.slots.calls_in_flight,
    )
    board = ray.remote(num_cpus=0)(Board).remote()
    failure: list[BaseException] = []

    def run() -> None:
        try:
            run_stages(work.folder, work.root, options, work.slots, board)
        except BaseException as error:
            failure.append(error)

    nodes = _alive()
    # Ray's own call cannot be interrupted, so it gets a thread and this one watches.
    thread = threading.Thread(target=run, daemon=True, name="extract")
    thread.start()
    tally, moved_at, last = Tally(), time.monotonic(), (0, 0, 0)
    while thread.is_alive():
        thread.join(POLL_SECONDS)
        tally = _look(board, tally, seen)
        now = (tally.decoded, tally.answered, tally.written)
        if now != last:
            last, moved_at = now, time.monotonic()
        elif time.monotonic() - moved_at > work.stall_seconds:
            raise StalledError(_standstill(work, tally, nodes))
    if failure:
        raise failed("extraction", failure[0])
    deadline = time.monotonic() + _LAST_WORDS
    tally = _look(board, tally, seen)
    while tally.written < work.rows and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        tally = _look(board, tally, seen)
    return tally


def _look(board: Any, last: Tally, seen: Callable[[Look], None]) -> Tally:
    """The board's tally; the last one where the board is lost or too busy to answer.

    Losing it costs the progress display only: files and checkpoints do not depend on it.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayActorError

    try:
        look: Look = ray.get(board.look.remote(), timeout=60)
    except (GetTimeoutError, RayActorError):
        look = Look(last, [])
    seen(look)
    return look.tally


def _alive() -> set[str]:
    import ray

    return {node["NodeID"][:8] for node in ray.nodes() if node["Alive"]}


def _standstill(work: Watched, tally: Tally, nodes: set[str]) -> str:
    """What waits for what, in one line."""
    import ray

    free, total = ray.available_resources(), ray.cluster_resources()
    slots = work.slots
    asks = f"{slots.cpus_per_actor:g} CPU"
    if slots.gpus_per_actor:
        asks += f" and {slots.gpus_per_actor:g} GPU"
    slots_free = f"{free.get('CPU', 0):g} of {total.get('CPU', 0):g} CPU slots free"
    if total.get("GPU"):
        slots_free += f", {free.get('GPU', 0):g} of {total['GPU']:g} GPUs"
    ago = "never" if tally.last_answer is None else f"{time.time() - tally.last_answer:.0f} s ago"
    lost = sorted(nodes - _alive())
    return (
        f"no row moved for {work.stall_seconds:g} s: {tally.decoded} decoded, "
        f"{tally.answered} answered, {tally.written} written of {work.rows}, last answer {ago}; "
        f"{_waiting(work, tally)}; {slots_free} ({slots.actors} actors want {asks} each); "
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
