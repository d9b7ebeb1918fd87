"""Where the time of a run went, out of its events: numbers for people, machines and a picture.

Sessions stand one after another, without the time between them. A block counts evenly over
the time that it took.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from cluster.errors import RunError, first_line
from pipelines.events.board import STAGES, Block
from pipelines.events.log import NAME, Line, read_events
from pipelines.events.measures import Limit, Measures, StageFacts
from pipelines.records import Record

BINS = 160

Numbers = npt.NDArray[np.float64]


class SessionProfile(Record):
    """One session, as its events tell it."""

    session: int
    host: str
    model: str
    actors: int
    outcome: str  # "finished", an error's name, or "killed": it ended without a word
    error: str | None
    seconds: float
    start_seconds: float | None  # until the first block was begun
    work_seconds: float | None  # from there to the last answer
    rows: int  # answered, none counted twice
    rows_a_second: float | None  # while at work
    again: int  # blocks that were answered again
    errors: dict[str, int]  # error kind to rows
    waited: float | None  # share of their time that forward actors waited
    limit: Limit | None
    stages: tuple[StageFacts, ...]


class Curves(NamedTuple):
    """What is drawn; times are seconds at work, sessions one after another."""

    edges: Numbers  # [BINS + 1]
    rates: Numbers  # [BINS] rows answered a second
    busy: dict[str, Numbers]  # stage to [BINS], processes at work
    memory: dict[str, tuple[Numbers, Numbers]]  # whose to times and bytes
    begins: list[float]  # of each session
    idle: list[tuple[float, float]]  # starting and finishing
    troubles: list[float]  # when blocks were answered again


class Profile(NamedTuple):
    """A run's sessions and their curves."""

    sessions: list[SessionProfile]
    curves: Curves


def profile_of(run: Path) -> Profile:
    """Read the events of ``run``, finished or not.

    Raises:
        RunError: it has none, or they are damaged.
    """
    lines = read_events(run)
    numbers = sorted({line["session"] for line in lines})
    if not numbers:
        raise RunError(f"{run / NAME} is empty")
    try:
        parts = [_Part([line for line in lines if line["session"] == n]) for n in numbers]
        return Profile([part.told for part in parts], _curves(parts))
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{run / NAME} cannot be read: {first_line(error)}; it was written by another version "
            "or damaged"
        ) from None


class _Part:
    """The lines of one session."""

    def __init__(self, lines: list[Line]) -> None:
        first = next((line for line in lines if line["event"] == "session"), lines[0])
        end = next((line for line in lines if line["event"] == "end"), None)
        self.began = float(first["started"] if "started" in first else first["at"])
        self.blocks = [_block(line) for line in lines if line["event"] == "block"]
        self.looks = [line for line in lines if line["event"] == "look"]
        last = max(line["at"] + line.get("seconds", 0) for line in lines if line["event"] != "end")
        self.seconds = end["seconds"] if end else last - self.began
        self.told = self._tell(first, end)

    def _tell(self, first: Line, end: Line | None) -> SessionProfile:
        seen = Measures()
        for block in sorted(self.blocks, key=lambda block: block.began + block.seconds):
            seen.add(block)
        # The end adds up all blocks; without it there are those that were written down.
        stages = tuple(StageFacts(**s) for s in end["stages"]) if end else seen.stages
        rows = sum(stage.rows for stage in stages if stage.name == "forward")
        started = None if seen.first_began is None else seen.first_began - self.began
        return SessionProfile(
            session=first["session"],
            host=first.get("host", ""),
            model=first.get("model", ""),
            actors=first.get("actors", 0),
            outcome=end["outcome"] if end else "killed",
            error=end.get("error") if end else None,
            seconds=self.seconds,
            start_seconds=started,
            work_seconds=seen.work_seconds,
            rows=rows,
            rows_a_second=rows / seen.work_seconds if seen.work_seconds else None,
            again=sum(stage.again for stage in stages if stage.name == "forward"),
            errors=end["errors"] if end else seen.errors,
            waited=seen.waited,
            limit=seen.limit(self.seconds),
            stages=stages,
        )

    def thinned(self) -> float:
        """How many blocks there were for each that was written down."""
        there = sum(stage.blocks for stage in self.told.stages)
        return there / len(self.blocks) if self.blocks else 1.0


def _block(line: Line) -> Block:
    own = {name: line[name] for name in Block._fields if name in line}
    return Block(**({"errors": {}, "began": line["at"]} | own))


def _curves(parts: list[_Part]) -> Curves:
    begins = list(np.cumsum([0.0, *(part.seconds for part in parts)]))
    edges = np.linspace(0, max(begins[-1], 1e-3), BINS + 1)
    width = edges[1]
    rates, idle, troubles = np.zeros(BINS), [], []
    busy = {name: np.zeros(BINS) for name in STAGES}
    memory: dict[str, list[tuple[float, float]]] = {}
    for part, offset in zip(parts, begins, strict=False):
        shift, weight = offset - part.began, part.thinned()
        for block in part.blocks:
            share = _overlap(edges, block.began + shift, block.seconds)
            busy[block.stage] += weight * share / width
            if block.stage == "forward" and not block.again:
                rates += weight * block.rows * share / max(block.seconds, 1e-9) / width
            if block.stage == "forward" and block.again:
                troubles.append(block.began + shift)
            ended = block.began + block.seconds + shift
            memory.setdefault(block.stage, []).append((ended, block.memory))
        for look in part.looks:
            memory.setdefault("driver", []).append((look["at"] + shift, look["driver_memory"]))
        told = part.told
        if told.start_seconds is not None and told.work_seconds is not None:
            worked = told.start_seconds + told.work_seconds
            idle += [
                (offset, offset + told.start_seconds),
                (offset + worked, offset + part.seconds),
            ]
    return Curves(
        edges=edges,
        rates=rates,
        busy={name: values for name, values in busy.items() if values.any()},
        memory={name: _sorted(points) for name, points in memory.items()},
        begins=begins[:-1],
        idle=idle,
        troubles=troubles,
    )


def _overlap(edges: Numbers, began: float, seconds: float) -> Numbers:
    """Seconds of an interval that fall into each bin."""
    ended = began + max(seconds, 1e-9)
    inside: Numbers = np.minimum(edges[1:], ended) - np.maximum(edges[:-1], began)
    return np.maximum(0.0, inside)


def _sorted(points: list[tuple[float, float]]) -> tuple[Numbers, Numbers]:
    values: npt.NDArray[Any] = np.array(sorted(points), dtype=np.float64)
    return values[:, 0], values[:, 1]
