"""What the stages of a session took, added up block by block, and which of them was the limit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pipelines.events.board import STAGES, Block
from pipelines.records import Record

Limit = Literal["start-up", "decode", "forward", "write", "waiting"]


class StageFacts(Record):
    """One stage of one session; blocks done again are in all but ``rows``."""

    name: str
    rows: int
    blocks: int
    again: int  # blocks done once more, after an actor or a node was lost
    processes: int
    seconds: float  # busy, all processes together
    memory: int  # resident bytes of its largest process


@dataclass
class _Lane:
    """One process: when it began, ended, and was busy in between."""

    began: float
    ended: float
    busy: float = 0.0
    decoding: float = 0.0
    forwarding: float = 0.0


@dataclass
class _Stage:
    rows: int = 0
    blocks: int = 0
    again: int = 0
    seconds: float = 0.0
    memory: int = 0
    lanes: set[str] = field(default_factory=set)


class Measures:
    """The blocks of a session, added up; memory does not grow with their number."""

    def __init__(self) -> None:
        self._stages = {name: _Stage() for name in STAGES}
        self._lanes: dict[str, _Lane] = {}
        self.errors: dict[str, int] = {}
        self.first_began: float | None = None
        self.last_ended: float | None = None

    def add(self, block: Block) -> None:
        stage, ended = self._stages[block.stage], block.began + block.seconds
        stage.rows += 0 if block.again else block.rows
        stage.blocks += 1
        stage.again += block.again
        stage.seconds += block.seconds
        stage.memory = max(stage.memory, block.memory)
        stage.lanes.add(block.lane)
        if not block.again:
            for kind, rows in block.errors.items():
                self.errors[kind] = self.errors.get(kind, 0) + rows
        if block.stage == "write":
            return
        if block.stage == "load":  # from now on the actor waits for blocks
            self._lanes[block.lane] = _Lane(ended, ended)
            return
        lane = self._lanes.setdefault(block.lane, _Lane(block.began, block.began))
        # Blocks come in the order of their ends; two calls of an actor may overlap.
        lane.busy += max(0.0, ended - max(block.began, lane.ended))
        lane.ended = max(lane.ended, ended)
        if block.stage == "decode":
            lane.decoding += block.seconds
        else:
            lane.forwarding += block.seconds
            self.last_ended = max(self.last_ended or ended, ended)
        self.first_began = min(self.first_began or block.began, block.began)

    @property
    def stages(self) -> tuple[StageFacts, ...]:
        """Each stage that did something, in their order."""
        return tuple(
            StageFacts(
                name=name,
                rows=stage.rows,
                blocks=stage.blocks,
                again=stage.again,
                processes=len(stage.lanes),
                seconds=round(stage.seconds, 3),
                memory=stage.memory,
            )
            for name, stage in self._stages.items()
            if stage.blocks
        )

    @property
    def work_seconds(self) -> float | None:
        """From the beginning of the first block to the last answer."""
        if self.first_began is None or self.last_ended is None:
            return None
        return self.last_ended - self.first_began

    def _forward_lanes(self) -> list[_Lane]:
        return [lane for lane in self._lanes.values() if lane.forwarding]

    @property
    def waited(self) -> float | None:
        """Share of their time that forward actors waited, from their model's loading to their last block.

        Handing blocks on counts as waiting. None before the first answer.
        """
        lanes = self._forward_lanes()
        span = sum(lane.ended - lane.began for lane in lanes)
        return 1 - sum(lane.busy for lane in lanes) / span if span > 0 else None

    def limit(self, seconds: float) -> Limit | None:
        """What a session of ``seconds`` spent most of its time on; None where nothing was done."""
        if self.work_seconds is None or self.waited is None:
            return None
        if self.work_seconds < seconds / 2:
            return "start-up"
        lanes = self._forward_lanes()
        decoding = sum(lane.decoding for lane in lanes)
        forwarding = sum(lane.forwarding for lane in lanes)
        if decoding:  # one process does both
            if self.waited > 0.5:
                return "waiting"
            return "decode" if decoding > forwarding else "forward"
        if self.waited < 0.3:
            return "forward"
        decode, write = self._stages["decode"], self._stages["write"]
        each = [stage.seconds / max(1, len(stage.lanes)) for stage in (decode, write)]
        return "decode" if each[0] >= each[1] else "write"
