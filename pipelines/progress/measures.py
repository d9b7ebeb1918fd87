"""What the stages of a session took, added up block by block, and which of them was the limit."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from pipelines.progress.counters import STAGES, Block
from pipelines.run import Limit, StageFacts


@dataclass
class _Work:
    """What one process did in one stage."""

    began: float
    ended: float
    rows: int = 0
    blocks: int = 0
    again: int = 0
    seconds: float = 0.0
    busy: float = 0.0  # seconds with at least one block: calls of an actor may overlap
    memory: int = 0


class Measures:
    """The blocks of a session, added up; memory does not grow with their number."""

    def __init__(self) -> None:
        self._work: dict[str, dict[str, _Work]] = {stage: {} for stage in STAGES}
        self.errors = Counter[str]()  # error kind to rows

    def add(self, block: Block) -> None:
        """Add a block; they come in the order of their ends."""
        ended = block.began + block.seconds
        work = self._work[block.stage].setdefault(block.lane, _Work(block.began, block.began))
        work.busy += max(0.0, ended - max(block.began, work.ended))
        work.began, work.ended = min(work.began, block.began), max(work.ended, ended)
        work.blocks += 1
        work.again += block.again
        work.seconds += block.seconds
        work.memory = max(work.memory, block.memory)
        if not block.again:
            work.rows += block.rows
            self.errors.update(block.errors)

    @property
    def stages(self) -> tuple[StageFacts, ...]:
        """Each stage that did something, in their order."""
        return tuple(
            StageFacts(
                name=name,
                rows=sum(each.rows for each in work.values()),
                blocks=sum(each.blocks for each in work.values()),
                again=sum(each.again for each in work.values()),
                processes=len(work),
                seconds=round(sum(each.seconds for each in work.values()), 3),
                memory=max(each.memory for each in work.values()),
            )
            for name, work in self._work.items()
            if work
        )

    @property
    def waited(self) -> float | None:
        """Share of their time that forward actors waited, from their model's loading to their last block.

        Handing blocks on counts as waiting. None before the first answer.
        """
        busy = span = 0.0
        for lane in self._work["forward"]:
            own = [self._work[stage][lane] for stage in STAGES[:3] if lane in self._work[stage]]
            if loaded := self._work["load"].get(lane):
                own.remove(loaded)
            busy += sum(each.busy for each in own)
            span += max(each.ended for each in own)
            span -= loaded.ended if loaded else min(each.began for each in own)
        return 1 - busy / span if span > 0 else None

    def session(self, started: float, seconds: float) -> dict[str, Any]:
        """The fields of ``SessionFacts`` that follow from the blocks.

        Args:
            started: of the session, in seconds since the epoch.
            seconds: that it took.
        """
        _, decode, forward, _ = (list(work.values()) for work in self._work.values())
        began = min((each.began for each in decode + forward), default=None)
        work = None
        if began is not None and forward:
            work = max(each.ended for each in forward) - began
        return {
            "stages": self.stages,
            "start_seconds": None if began is None else began - started,
            "work_seconds": work,  # from the beginning of the first block to the last answer
            "waited": self.waited,
            "limit": None if work is None else self._limit(work, seconds),
        }

    def _limit(self, work_seconds: float, seconds: float) -> Limit | None:
        """What a session of ``seconds`` spent most of its time on; None where nothing was done."""
        waited = self.waited
        if waited is None:
            return None
        if work_seconds < seconds / 2:
            return "start-up"
        decode, forward, write = (self._work[stage] for stage in STAGES[1:])
        own = sum(each.seconds for lane, each in decode.items() if lane in forward)
        if own:  # actors decode for themselves
            if waited > 0.5:
                return "waiting"
            return "decode" if own > sum(each.seconds for each in forward.values()) else "forward"
        if waited < 0.3:
            return "forward"
        decoding, writing = (
            sum(each.seconds for each in work.values()) / max(1, len(work))
            for work in (decode, write)
        )
        return "decode" if decoding >= writing else "write"
