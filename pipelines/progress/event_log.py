"""``RUN/events.jsonl``: what happened in a run and when, one JSON object a line; and its sums.

::

    {"event": "session", "session": 1, "at": …, "planned": …, "before": …, "actors": …, …}
    {"event": "phase", "session": 1, "at": …, "name": "extracting"}
    {"event": "block", "session": 1, "at": …, "stage": "decode", "lane": "NODE:PID", "seconds": …, …}
    {"event": "end", "session": 1, "at": …, "outcome": "finished", "stages": …}

Every session adds its own. Nothing reads it but people and ``inspect --profile``: losing it
costs nothing. It is written whole each time, because object stores cannot append, so a long
session keeps every second block, then every fourth, … ; what ``end`` says is of all blocks.
Each line ends with ``check``, the first digits of the sha256 of the rest of it; earlier ones do not.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import RunError
from common.json_models import sha256_json, write_atomic
from pipelines.progress.counters import STAGES, Block, ProgressSnapshot
from pipelines.run import Limit, StageFacts

NAME = "events.jsonl"
MOST_BLOCKS = 20_000  # lines of a session: some 4 MB
_CHECK, _CHECK_DIGITS = "check", 16
_CHECKED = re.compile(rb': "[0-9a-f]{%d}"}$' % _CHECK_DIGITS)
_RARE = ("errors", "again")  # of a block: left out where there is nothing to say
_WRITE_SECONDS = 10.0
_WRITE_SHARE = 0.02  # of the time, at most, goes into writing

Line = dict[str, Any]


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


class EventLog:
    """One session's part of a run's events; ``measures`` adds up all its blocks.

    The first line is written when the session is: before that a run folder may come to nothing.
    """

    def __init__(self, run: Path) -> None:
        self._file = run / NAME
        self._earlier = self._file.read_text(errors="replace") if self._file.is_file() else ""
        numbers = re.findall(
            r'"session": (\d{1,9})\b', self._earlier
        )  # also of one that is damaged
        self.session = 1 + max(map(int, numbers), default=0)
        self.measures = Measures()
        self.lost: str | None = None  # why nothing more is written
        self._lines: list[Line] = []
        self._blocks: list[Line] = []
        self._seen, self._every = 0, 1  # blocks; one of how many is kept
        self._next_write = 0.0

    def add(self, event: str, **facts: Any) -> None:
        """Add an event, and write."""
        self._lines.append(self._line(event, time.time(), facts))
        self.write()

    def snapshot(self, snapshot: ProgressSnapshot) -> None:
        """Add the blocks of a snapshot."""
        for block in snapshot.blocks:
            self.measures.add(block)
            if self._seen % self._every == 0:
                self._blocks.append(self._line("block", block.began, _block_facts(block)))
            self._seen += 1
        if len(self._blocks) > MOST_BLOCKS:
            self._blocks, self._every = self._blocks[::2], 2 * self._every
        if time.monotonic() > self._next_write:
            self.write()

    def write(self) -> None:
        """Write the file; a store that refuses costs the events, not the run."""
        if self.lost is not None:
            return
        began = time.monotonic()
        # Sorting keeps this order where two are of the same moment.
        lines = [*self._lines[:1], *self._blocks, *self._lines[1:]]
        lines.sort(key=lambda line: float(line["at"]))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        try:
            write_atomic(self._file, (self._earlier + text).encode())
        except OSError as error:
            self.lost = f"{self._file} could not be written: {error.strerror or error}"
        now = time.monotonic()
        self._next_write = now + max(_WRITE_SECONDS, (now - began) / _WRITE_SHARE)

    def _line(self, event: str, at: float, facts: Line) -> Line:
        line = {"event": event, "session": self.session, "at": round(at, 3), **facts}
        return line | {_CHECK: _check(line)}


def _check(line: Line) -> str:
    # As it is read again: a tuple is a list then.
    return sha256_json(line)[:_CHECK_DIGITS]


def _block_facts(block: Block) -> Line:
    facts = {**block._asdict(), "seconds": round(block.seconds, 4)}
    del facts["began"]
    return {name: value for name, value in facts.items() if value or name not in _RARE}


def read_events(run: Path) -> list[Line]:
    """The lines of a run's events, sessions in turn; earlier versions wrote lines ``look`` too.

    Raises:
        RunError: the run has none, or they are damaged.
    """
    file = run / NAME
    if not file.is_file():
        raise RunError(f"{run} has no {NAME}: it was made before events were recorded")
    try:
        # Not splitlines(): a flipped bit makes a line feed a vertical tab, which that takes as well.
        whole = file.read_bytes().removesuffix(b"\n")
        texts = whole.split(b"\n") if whole else []
        lines = [json.loads(text) for text in texts]
        for text, line in zip(texts, lines, strict=True):
            # A line of an earlier version ends otherwise; this one may have lost the name of its check.
            if (_CHECKED.search(text) or _CHECK in line) and line.pop(_CHECK) != _check(line):
                raise ValueError
        return [line | {"session": int(line["session"]), "event": line["event"]} for line in lines]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RunError(f"{file} is damaged; delete it, the run does not need it") from None
