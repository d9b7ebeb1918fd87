"""Durations, counts, and where the time of a session went, as text."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.run import SessionInfo


def where_the_time_went(session: SessionInfo, seconds: float) -> str:
    """One line about a session that took ``seconds``."""
    lanes = "lane" if session.executor == "local" else "actor"
    parts = [f"executor {session.executor}, {count(session.actors, lanes)}"]
    if session.start_seconds is not None and session.work_seconds is not None:
        finish = seconds - session.start_seconds - session.work_seconds
        parts.append(
            f"{session.start_seconds:.0f} s to start, {session.work_seconds:.0f} s of work, "
            f"{finish:.0f} s to finish"
        )
    parts.append("busy " + ", ".join(f"{s.name} {s.seconds:.0f} s" for s in session.stages))
    if session.waited is not None:
        parts.append(f"{lanes}s waited {session.waited:.0%}")
    if again := sum(stage.again for stage in session.stages if stage.name == "forward"):
        parts.append(f"{count(again, 'block')} answered again")
    if session.limit is not None:
        parts.append(f"the limit was {session.limit}")
    return "; ".join(parts)


def duration(seconds: float) -> str:
    """Seconds for people: 8.2 s, 83.9 s, 0:04:10, 3:20:00."""
    if seconds < 120:
        return f"{round(seconds, 2):.3g} s"
    return str(timedelta(seconds=round(seconds)))


def count(number: float, name: str) -> str:
    """A number and what it counts, in the plural where that is right."""
    return f"{number:g} {name}" + ("" if number == 1 else "s")
