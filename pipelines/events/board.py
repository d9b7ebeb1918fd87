"""The board: where the stages of a running extraction report what they did.

A Ray actor of its own, so that reporting never blocks a stage, and a module of its own, so
that its process need not import torch. Nothing depends on it but what is shown and told.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections import Counter
from collections.abc import Iterable
from functools import cache
from typing import Any, NamedTuple

import pyarrow as pa

from cluster.errors import WorkError, first_line

MOST_DEATHS = 4
STAGES = ("load", "decode", "forward", "write")  # load: an actor's model, no rows
_MOST_KEPT = 50_000  # blocks that wait to be fetched; a driver that is gone fetches none


class Block(NamedTuple):
    """One block through one stage."""

    stage: str
    lane: str  # the process: "NODE:PID"
    began: float  # seconds since the epoch, by the lane's own clock
    seconds: float
    rows: int
    first_row: int  # row_id; tells the same block, done again
    memory: int  # resident bytes of the process
    errors: dict[str, int]  # error kind to rows
    again: bool = False  # this stage had done it before: an actor or a node was lost


class Tally(NamedTuple):
    """What the board knows: rows through each stage, and when answers came."""

    decoded: int = 0
    answered: int = 0
    first_answer: float | None = None
    first_rows: int = 0  # that the first answer was of
    last_answer: float | None = None
    written: int = 0
    failed: int = 0  # answered with an error
    again: int = 0  # blocks that a stage did once more
    raised: int = 0  # times that a stage raised an error over a block
    said: str = ""  # by the last of those errors

    def plus(self, later: Tally) -> Tally:
        """Both, where a board was lost and ``later`` is what its successor counted."""
        return Tally(
            decoded=self.decoded + later.decoded,
            answered=self.answered + later.answered,
            first_answer=self.first_answer or later.first_answer,
            first_rows=self.first_rows or later.first_rows,
            last_answer=later.last_answer or self.last_answer,
            written=self.written + later.written,
            failed=self.failed + later.failed,
            again=self.again + later.again,
            raised=self.raised + later.raised,
            said=later.said or self.said,
        )


class Look(NamedTuple):
    """One look at the board: the tally, and the blocks since the last look."""

    tally: Tally
    blocks: list[Block]
    board: int = 0  # tells a board from the one that stood there before it died


class Board:
    """Where stages report. A Ray actor of its own, so that reporting never blocks them."""

    def __init__(self) -> None:
        self._tally = Tally()
        self._seen: set[tuple[str, int]] = set()
        self._begun = Counter[tuple[str, int]]()
        self._blocks: list[Block] = []
        self._metrics = _Metrics()

    def decoded(self, rows: int) -> None:
        self._tally = self._tally._replace(decoded=self._tally.decoded + rows)
        self._metrics.moved("decode", rows, self._tally)

    def answered(self, rows: int) -> None:
        now, before = time.time(), self._tally
        self._tally = before._replace(
            answered=before.answered + rows,
            first_answer=before.first_answer or now,
            first_rows=before.first_rows or rows,
            last_answer=now,
        )
        self._metrics.moved("forward", rows, self._tally)

    def block(self, block: Block) -> None:
        """Hear of a block that left a stage."""
        key = block.stage, block.first_row
        self._begun.pop(key, None)
        again = key in self._seen
        if block.rows:
            self._seen.add(key)
        tally = self._tally
        self._tally = tally._replace(again=tally.again + again)
        if not again:
            written = block.rows if block.stage == "write" else 0
            self._tally = self._tally._replace(
                written=tally.written + written,
                failed=tally.failed + sum(block.errors.values()),
            )
        if block.stage == "write":
            self._metrics.moved("write", block.rows, self._tally)
        self._metrics.block(block, again)
        if len(self._blocks) < _MOST_KEPT:
            self._blocks.append(block._replace(again=again))

    def begun(self, stage: str, first_row: int) -> int:
        """How many times ``stage`` has begun with this block and not ended, this time included."""
        self._begun[stage, first_row] += 1
        return self._begun[stage, first_row]

    def raised(self, stage: str, first_row: int, said: str) -> None:
        """Hear of an error that a stage raised over a block; it may be tried again."""
        self._begun.pop((stage, first_row), None)  # its process lives
        self._tally = self._tally._replace(raised=self._tally.raised + 1, said=said)

    def look(self) -> Look:
        blocks, self._blocks = self._blocks, []
        return Look(self._tally, blocks, os.getpid())


class Attempt:
    """A stage's work on one block: with ``board`` told if it fails, and ended if it kills.

    A process that dies takes its block to another one. A block that ends one process after the
    other would do so for ever, and look busy.

    Raises:
        WorkError: on entry, this block has ended ``MOST_DEATHS`` processes.
    """

    def __init__(self, board: Any, stage: str, rows: pa.Table) -> None:
        self._board, self._stage = board, stage
        self._first = rows["row_id"][0].as_py() if rows.num_rows else None
        self._last = rows["row_id"][-1].as_py() if rows.num_rows else None

    def __enter__(self) -> None:
        import ray
        from ray.exceptions import GetTimeoutError, RayActorError

        if self._first is None:
            return
        try:
            begun = ray.get(self._board.begun.remote(self._stage, self._first), timeout=10)
        except (GetTimeoutError, RayActorError):  # a board that is lost counts nothing
            return
        if begun > MOST_DEATHS:
            raise WorkError(
                f"{MOST_DEATHS} processes died in {self._stage}, one after the other, over rows "
                f"{self._first} to {self._last}: their memory ran out, or an image of these or "
                "the network crashes them"
            )

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and self._first is not None:
            said = f"{type(error).__name__}: {first_line(error)}"
            self._board.raised.remote(self._stage, self._first, said)


class Stopwatch:
    """The time a stage takes for a block, from here to ``block``."""

    def __init__(self, stage: str) -> None:
        self._stage = stage
        self._at, self._began = time.time(), time.perf_counter()

    def block(self, rows: pa.Table | None) -> Block:
        """The block that this stage is through with, which is not empty; None: of no rows."""
        # Only the stage that decides a row's error tells it.
        told = rows["error"].to_pylist() if rows and self._stage == "forward" else []
        return Block(
            stage=self._stage,
            lane=_lane(),
            began=self._at,
            seconds=time.perf_counter() - self._began,
            rows=rows.num_rows if rows else 0,
            first_row=rows["row_id"][0].as_py() if rows else -1,
            memory=resident(),
            errors=error_kinds(told),
        )


def error_kinds(errors: Iterable[str | None]) -> dict[str, int]:
    """Rows by the kind of their error, which is what stands before the colon."""
    return dict(Counter(text.split(":", 1)[0] for text in errors if text is not None))


@cache
def _lane() -> str:
    import ray

    node = ray.get_runtime_context().get_node_id()[:8] if ray.is_initialized() else "here"
    return f"{node}:{os.getpid()}"


def resident() -> int:
    """Bytes of memory that this process holds now; its peak where the system tells no more."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123  several times a second
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


class _Metrics:
    """The same for Ray's dashboard and its Prometheus endpoint."""

    def __init__(self) -> None:
        import ray

        self._on = ray.is_initialized()
        if not self._on:
            return
        from ray.util import metrics

        self._rows: Any = metrics.Counter(
            "onepass_rows", "Rows through a stage of extraction.", tag_keys=("stage",)
        )
        self._seconds: Any = metrics.Counter(
            "onepass_busy_seconds", "Seconds a stage's processes were busy.", tag_keys=("stage",)
        )
        self._errors: Any = metrics.Counter(
            "onepass_row_errors", "Rows answered with an error.", tag_keys=("kind",)
        )
        self._again: Any = metrics.Counter(
            "onepass_blocks_again", "Blocks a stage did once more.", tag_keys=("stage",)
        )
        self._waiting: Any = metrics.Gauge(
            "onepass_rows_waiting", "Rows that wait for a stage.", tag_keys=("stage",)
        )

    def moved(self, stage: str, rows: int, tally: Tally) -> None:
        if not self._on or not rows:
            return
        self._rows.inc(rows, {"stage": stage})
        self._waiting.set(max(0, tally.decoded - tally.answered), {"stage": "forward"})
        self._waiting.set(max(0, tally.answered - tally.written), {"stage": "write"})

    def block(self, block: Block, again: bool) -> None:
        if not self._on:
            return
        self._seconds.inc(max(block.seconds, 1e-9), {"stage": block.stage})
        for kind, rows in block.errors.items():
            self._errors.inc(rows, {"kind": kind})
        if again:
            self._again.inc(1, {"stage": block.stage})
