"""``RUN/events.jsonl``: what happened in a run and when, one JSON object a line, for machines.

::

    {"event": "session", "session": 1, "at": …, "planned": …, "before": …, "actors": …, …}
    {"event": "phase", "session": 1, "at": …, "name": "extracting"}
    {"event": "block", "session": 1, "at": …, "stage": "decode", "lane": "NODE:PID", "seconds": …, …}
    {"event": "look", "session": 1, "at": …, "decoded": …, "answered": …, "written": …, …}
    {"event": "end", "session": 1, "at": …, "outcome": "finished", "stages": …}

Every session adds its own. Nothing reads it but people and ``inspect --profile``: losing it
costs nothing. It is written whole each time, because object stores cannot append, so a long
session keeps every second block, then every fourth, … ; the counts in ``look`` and ``end``
are of all blocks.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from cluster.errors import RunError
from pipelines.events.board import Block, Look, Tally, resident
from pipelines.events.measures import Measures
from pipelines.records import write_atomic

NAME = "events.jsonl"
MOST_BLOCKS = 20_000  # lines of a session: some 4 MB
_MOST_LOOKS = 2_000
_LOOK_SECONDS = 2.0
_STILL_SECONDS = 30.0  # where nothing has moved
_WRITE_SECONDS = 10.0
_WRITE_SHARE = 0.02  # of the time, at most, goes into writing

Line = dict[str, Any]


class _Thinned:
    """Some of many lines, evenly: at most ``most``."""

    def __init__(self, most: int) -> None:
        self.lines: list[Line] = []
        self._most, self._stride, self._seen = most, 1, 0

    def add(self, line: Line) -> None:
        if self._seen % self._stride == 0:
            self.lines.append(line)
        self._seen += 1
        if len(self.lines) > self._most:
            self.lines = self.lines[::2]
            self._stride *= 2


class EventLog:
    """One session's part of a run's events; ``measures`` adds up all its blocks.

    The first line is written when the session is: before that a run folder may come to nothing.
    """

    def __init__(self, run: Path) -> None:
        self._file = run / NAME
        self._earlier = self._file.read_text() if self._file.is_file() else ""
        last = self._earlier.rstrip().rpartition("\n")[2]
        self.session = 1 + (json.loads(last)["session"] if last else 0)
        self.measures = Measures()
        self.lost: str | None = None  # why nothing more is written
        self._lines: list[Line] = []
        self._blocks = _Thinned(MOST_BLOCKS)
        self._looks = _Thinned(_MOST_LOOKS)
        self._looked = self._wrote = 0.0
        self._told: Tally | None = None
        self._pause = _WRITE_SECONDS

    def add(self, event: str, *, at: float | None = None, **facts: Any) -> None:
        """Add an event, and write."""
        self._lines.append(self._line(event, at or time.time(), facts))
        self.write()

    def look(self, look: Look, **facts: Any) -> None:
        """Add what the board knows; ``facts`` of the driver beside it."""
        for block in look.blocks:
            self.measures.add(block)
            self._blocks.add(self._line("block", block.began, _block_facts(block)))
        now = time.monotonic()
        pause = _LOOK_SECONDS if look.tally != self._told else _STILL_SECONDS
        if now - self._looked > pause:
            self._looked, self._told = now, look.tally
            self._looks.add(self._line("look", time.time(), {**_tally_facts(look.tally), **facts}))
        if now - self._wrote > self._pause:
            self.write()

    def write(self) -> None:
        """Write the file; a store that refuses costs the events, not the run."""
        if self.lost is not None:
            return
        began = time.monotonic()
        # Sorting keeps this order where two are of the same moment.
        lines = [*self._lines[:1], *self._blocks.lines, *self._looks.lines, *self._lines[1:]]
        lines.sort(key=lambda line: float(line["at"]))
        text = "".join(json.dumps(line) + "\n" for line in lines)
        try:
            write_atomic(self._file, (self._earlier + text).encode())
        except OSError as error:
            self.lost = f"{self._file} could not be written: {error.strerror or error}"
        self._wrote = time.monotonic()
        self._pause = max(_WRITE_SECONDS, (self._wrote - began) / _WRITE_SHARE)

    def _line(self, event: str, at: float, facts: Line) -> Line:
        return {"event": event, "session": self.session, "at": round(at, 3), **facts}


def _block_facts(block: Block) -> Line:
    told = {**block._asdict(), "seconds": round(block.seconds, 4)}
    del told["began"]
    for name in ("errors", "again"):  # most blocks have neither
        if not told[name]:
            del told[name]
    return told


def _tally_facts(tally: Tally) -> Line:
    told = ("decoded", "answered", "written", "failed", "again", "raised", "said")
    return {**{name: getattr(tally, name) for name in told}, "driver_memory": resident()}


def read_events(run: Path) -> list[Line]:
    """The lines of a run's events, sessions in turn.

    Raises:
        RunError: the run has none, or a line of it is damaged.
    """
    file = run / NAME
    if not file.is_file():
        raise RunError(f"{run} has no {NAME}: it was made before events were recorded")
    lines: list[Line] = []
    for number, text in enumerate(file.read_text().splitlines(), 1):
        try:
            line = json.loads(text)
            lines.append({"event": str(line["event"]), "session": int(line["session"]), **line})
        except (ValueError, KeyError, TypeError):
            raise RunError(
                f"{file}, line {number} is damaged; delete the file, the run needs it not"
            ) from None
    return lines
