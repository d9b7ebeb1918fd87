"""Counters: where the stages of a running extraction report what they did.

On Ray they are in a process that must not import torch, so no module that this one needs may.
"""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import pyarrow as pa

from common.errors import WorkError, first_line

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


class Counts(NamedTuple):
    """Rows through each stage, and when answers came."""

    decoded: int = 0
    answered: int = 0
    first_answer: float | None = None
    first_rows: int = 0  # that the first answer was of
    last_answer: float | None = None
    written: int = 0
    failed: int = 0  # answered with an error
    again: int = 0  # blocks that a stage did once more
    raised: int = 0  # times that a stage raised an error over a block
    last_error: str = ""  # message of the last of those errors
    passes: int = 0  # over the plan; more than one: nodes were lost, and the others went on

    @property
    def rows_a_second(self) -> float | None:
        """Between the first answer and the last, without start-up; None for a single answer."""
        if self.first_answer is None or self.last_answer is None:
            return None
        rows, seconds = self.answered - self.first_rows, self.last_answer - self.first_answer
        return rows / seconds if rows and seconds > 0 else None

    def plus(self, later: Counts) -> Counts:
        """Both, where counters were lost and ``later`` is what their successors counted."""
        added = ("decoded", "answered", "written", "failed", "again", "raised")
        return later._replace(
            **{name: getattr(self, name) + getattr(later, name) for name in added},
            first_answer=self.first_answer or later.first_answer,
            first_rows=self.first_rows or later.first_rows,
            last_answer=later.last_answer or self.last_answer,
            last_error=later.last_error or self.last_error,
        )


class ProgressSnapshot(NamedTuple):
    """What was counted so far, and the blocks since the last snapshot."""

    counts: Counts
    blocks: list[Block]
    process: int = 0  # of the counters: a new one has begun to count anew


class Reporter(Protocol):
    """What a stage reports to: counters, from wherever the stage runs."""

    @property
    def lane(self) -> str:
        """Who reports, as ``Block.lane``."""
        ...

    def decoded(self, rows: int) -> None: ...

    def answered(self, rows: int) -> None: ...

    def block(self, block: Block) -> None: ...

    def begun(self, stage: str, first_row: int) -> int: ...

    def raised(self, stage: str, first_row: int, error: str) -> None:
        """An error over a block, which is then tried again.

        Args:
            stage: where it was raised.
            first_row: of the block.
            error: its message.
        """


class Counters:
    """What stages reported, counted; threads may share it. Ray's stages reach those of an actor."""

    lane = "here"

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = Counts()
        self._seen: set[tuple[str, int]] = set()
        self._begun = Counter[tuple[str, int]]()
        self._blocks: list[Block] = []

    def decoded(self, rows: int) -> None:
        with self._lock:
            self._counts = self._counts._replace(decoded=self._counts.decoded + rows)

    def answered(self, rows: int) -> None:
        with self._lock:
            now, before = time.time(), self._counts
            self._counts = before._replace(
                answered=before.answered + rows,
                first_answer=before.first_answer or now,
                first_rows=before.first_rows or rows,
                last_answer=now,
            )

    def block(self, block: Block) -> None:
        """Count a block that left a stage."""
        key = block.stage, block.first_row
        with self._lock:
            counts = self._counts
            self._begun.pop(key, None)
            again = key in self._seen
            if block.rows:
                self._seen.add(key)
            if again:
                self._counts = counts._replace(again=counts.again + 1)
            else:
                self._counts = counts._replace(
                    written=counts.written + (block.rows if block.stage == "write" else 0),
                    failed=counts.failed + sum(block.errors.values()),
                )
            if len(self._blocks) < _MOST_KEPT:
                self._blocks.append(block._replace(again=again))

    def begun(self, stage: str, first_row: int) -> int:
        """How many times ``stage`` has begun with this block and not ended, this time included."""
        with self._lock:
            self._begun[stage, first_row] += 1
            return self._begun[stage, first_row]

    def raised(self, stage: str, first_row: int, error: str) -> None:
        """Count an error that a stage raised over a block; it may be tried again.

        Args:
            stage: one of ``STAGES``.
            first_row: of the block.
            error: its type and message.
        """
        with self._lock:
            self._begun.pop((stage, first_row), None)  # its process lives
            self._counts = self._counts._replace(raised=self._counts.raised + 1, last_error=error)

    def snapshot(self) -> ProgressSnapshot:
        with self._lock:
            blocks, self._blocks = self._blocks, []
            return ProgressSnapshot(self._counts, blocks, os.getpid())


@contextmanager
def guard_block(reporter: Reporter, stage: str, rows: pa.Table) -> Iterator[None]:
    """A stage's work on one block: an error is reported, and a block that kills is given up.

    A process that dies takes its block to another one. A block that ends one process after the
    other would do so for ever, and look busy.

    Args:
        reporter: gets the reports.
        stage: one of ``STAGES``.
        rows: of the block.

    Raises:
        WorkError: on entry, this block has ended ``MOST_DEATHS`` processes.
    """
    if not rows.num_rows:
        yield
        return
    first, last = rows["row_id"][0].as_py(), rows["row_id"][-1].as_py()
    if reporter.begun(stage, first) > MOST_DEATHS:
        raise WorkError(
            f"{MOST_DEATHS} processes died in {stage}, one after the other, over rows {first} to "
            f"{last}: their memory ran out, or an image of these or the network crashes them"
        )
    try:
        yield
    except Exception as error:  # whatever it is, it is counted here and raised
        reporter.raised(stage, first, f"{type(error).__name__}: {first_line(error)}")
        raise


class Stopwatch:
    """The time a stage takes for a block, from here to ``block``, less its pauses.

    Args:
        stage: one of ``STAGES``.
        lane: who does it, as ``Block.lane``.
    """

    def __init__(self, stage: str, lane: str = "here") -> None:
        self._stage, self._lane = stage, lane
        self._at, self._spent = time.time(), 0.0
        self._running: float | None = time.perf_counter()

    def pause(self) -> None:
        if self._running is not None:
            self._spent += time.perf_counter() - self._running
            self._running = None

    def resume(self) -> None:
        self._running = time.perf_counter()

    def block(self, rows: pa.Table | None) -> Block:
        """The block that this stage is through with, which is not empty; None: of no rows."""
        self.pause()
        # Only the stage that decides a row's error counts it.
        errors = rows["error"].drop_null().to_pylist() if rows and self._stage == "forward" else []
        return Block(
            stage=self._stage,
            lane=self._lane,
            began=self._at,
            seconds=self._spent,
            rows=rows.num_rows if rows else 0,
            first_row=rows["row_id"][0].as_py() if rows else -1,
            memory=resident(),
            errors=dict(Counter(text.split(":", 1)[0] for text in errors)),
        )


def resident() -> int:
    """Bytes of memory that this process holds now; its peak where the system tells no more."""
    try:
        with open("/proc/self/statm") as file:  # noqa: PTH123  several times a second
            return int(file.read().split()[1]) * resource.getpagesize()
    except OSError:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
