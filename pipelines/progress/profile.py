"""Where the time of a run went, out of its events: its sessions in numbers, and as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common.errors import RunError, first_line
from common.extras import optional
from common.json_models import write_atomic
from pipelines.progress.counters import STAGES, Block
from pipelines.progress.event_log import NAME, Line, Measures, read_events
from pipelines.run import SessionInfo, StageFacts

BINS = 160
COLOURS = {"load": "#b39ddb", "decode": "#e39a2d", "forward": "#1f62c4", "write": "#4c9f70"}


class SessionProfile(SessionInfo):
    """One session, as its events tell it; its ``rows`` are answered, none counted twice."""

    session: int
    host: str
    model: str
    outcome: str  # "finished", an error's name, or "killed": its end is missing
    error: str | None
    seconds: float
    errors: dict[str, int]  # error kind to rows


class Session(NamedTuple):
    """A session and its blocks: of a long one some, evenly."""

    profile: SessionProfile
    began: float  # seconds since the epoch
    blocks: list[Block]


def sessions_of(run: Path) -> list[Session]:
    """The sessions of ``run``, finished or not, from its events.

    Raises:
        RunError: it has none, or they are damaged.
    """
    lines = read_events(run)
    if not lines:
        raise RunError(f"{run / NAME} is empty")
    numbers = sorted({line["session"] for line in lines})
    try:
        return [_session([line for line in lines if line["session"] == n]) for n in numbers]
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(
            f"{run / NAME} cannot be read: {first_line(error)}; it was written by another version "
            "or damaged"
        ) from None


def _session(lines: list[Line]) -> Session:
    first = next((line for line in lines if line["event"] == "session"), lines[0])
    end = next((line for line in lines if line["event"] == "end"), None)
    began = float(first["started"] if "started" in first else first["at"])
    last = max(line["at"] + line.get("seconds", 0) for line in lines if line is not end)
    seconds = end["seconds"] if end else last - began
    blocks = [_block(line) for line in lines if line["event"] == "block"]
    measures = Measures()
    for block in sorted(blocks, key=lambda block: block.began + block.seconds):
        measures.add(block)
    facts = measures.session(began, seconds)
    if end:  # which adds up all blocks, and not only those that were written down
        facts["stages"] = tuple(StageFacts(**stage) for stage in end["stages"])
    rows = sum(stage.rows for stage in facts["stages"] if stage.name == "forward")
    actors = first.get("actors", 0)
    profile = SessionProfile(
        session=first["session"],
        host=first.get("host", ""),
        model=first.get("model", ""),
        outcome=end["outcome"] if end else "killed",
        error=end.get("error") if end else None,
        seconds=seconds,
        errors=end["errors"] if end else measures.errors,
        executor=first.get("executor", "ray"),
        rows=rows,
        actors=actors,
        gpus=actors * first.get("slots", {}).get("gpus_per_actor", 0),
        rows_a_second=rows / facts["work_seconds"] if facts["work_seconds"] else None,
        **facts,
    )
    return Session(profile, began, blocks)


def _block(line: Line) -> Block:
    own = {name: line[name] for name in Block._fields if name in line}
    return Block(**({"errors": {}, "began": line["at"]} | own))


def draw_profile(sessions: list[Session], file: Path, *, title: str) -> None:
    """Draw rows a second and busy processes over time, sessions one after another.

    Args:
        sessions: of one run.
        file: a PNG.
        title: of the picture.

    Raises:
        InputError: matplotlib is not installed.
    """
    figure = optional("matplotlib.figure", "probe").Figure(figsize=(11, 6), layout="constrained")
    figure.suptitle(title, parse_math=False)
    above, below = figure.subplots(2, 1, sharex=True)
    begins = np.cumsum([0.0, *(session.profile.seconds for session in sessions)])
    edges = np.linspace(0, max(begins[-1], 1e-3), BINS + 1)
    rates, busy = np.zeros(BINS), {name: np.zeros(BINS) for name in STAGES}
    for session, begin in zip(sessions, begins, strict=False):
        done = sum(stage.blocks for stage in session.profile.stages)
        weight = done / max(1, len(session.blocks)) / edges[1]
        for block in session.blocks:  # counts evenly over the time that it took
            began, seconds = block.began - session.began + begin, max(block.seconds, 1e-6)
            inside = np.minimum(edges[1:], began + seconds) - np.maximum(edges[:-1], began)
            share = weight * np.maximum(0.0, inside)
            busy[block.stage] += share
            if block.stage == "forward" and not block.again:
                rates += block.rows / seconds * share
    above.stairs(rates, edges, fill=True, color=COLOURS["forward"])
    above.set_ylabel("rows answered a second")
    base = np.zeros(BINS)
    for name, values in busy.items():
        top = base + values
        below.stairs(top, edges, baseline=base, fill=True, color=COLOURS[name], label=name)
        base = top
    below.set_ylabel("processes at work")
    below.set_xlabel("seconds" + (", sessions one after another" if len(sessions) > 1 else ""))
    below.legend(loc="upper left")
    for axes in (above, below):
        for begin in begins[1:-1]:
            axes.axvline(begin, color="black", linewidth=1)
    sink = io.BytesIO()
    figure.savefig(sink, format="png", dpi=120)
    write_atomic(file, sink.getvalue())
