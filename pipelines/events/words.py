"""What a session took, for people; and how sizes and times are said."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.console import say

if TYPE_CHECKING:
    from pipelines.events.profile import SessionProfile
    from pipelines.run import SessionFacts

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def where_the_time_went(session: SessionFacts, seconds: float) -> str:
    """One line about a session that took ``seconds``."""
    lanes = "lane" if session.executor == "local" else "actor"
    told = [f"executor {session.executor}, {count(session.actors, lanes)}"]
    if session.start_seconds is not None and session.work_seconds is not None:
        finish = seconds - session.start_seconds - session.work_seconds
        told.append(
            f"{session.start_seconds:.0f} s to start, {session.work_seconds:.0f} s of work, "
            f"{finish:.0f} s to finish"
        )
    busy = {stage.name: stage.seconds for stage in session.stages}
    told.append("busy " + ", ".join(f"{name} {busy[name]:.0f} s" for name in busy))
    if session.waited is not None:
        told.append(f"{lanes}s waited {session.waited:.0%}")
    if again := sum(stage.again for stage in session.stages if stage.name == "forward"):
        told.append(f"{count(again, 'block')} answered again")
    if session.limit is not None:
        told.append(f"the limit was {session.limit}")
    return "; ".join(told)


def say_profile(told: SessionProfile) -> None:
    """One session of a run, stage by stage."""
    say(
        f"session {told.session}: {told.outcome}, {told.rows} rows in {duration(told.seconds)} on "
        f"{told.host}"
        + (f", {told.rows_a_second:.0f}/s while at work" if told.rows_a_second else "")
    )
    if told.error:
        say(f"  {told.error}")
    if told.start_seconds is not None and told.work_seconds is not None:
        finish = told.seconds - told.start_seconds - told.work_seconds
        say(
            f"  time      {duration(told.start_seconds)} to start, {duration(told.work_seconds)} of "
            f"work, {duration(finish)} to finish; the limit was {told.limit}"
        )
    for stage in told.stages:
        if not stage.rows:
            say(
                f"  {stage.name:<9} {count(stage.processes, 'actor')}, "
                f"{stage.seconds / stage.processes:.1f} s each"
            )
            continue
        each = 1000 * stage.seconds / stage.rows
        again = f", {stage.again} of them again" if stage.again else ""
        say(
            f"  {stage.name:<9} {stage.rows} rows in {count(stage.blocks, 'block')}{again}, busy "
            f"{duration(stage.seconds)} in {count(stage.processes, 'process')}, {each:.2f} ms a "
            f"row, {size(stage.memory)} at most"
        )
    if told.waited is not None:
        say(f"  waiting   forward actors waited {told.waited:.0%} of the time between their blocks")
    for kind, rows in told.errors.items():
        say(f"  error     {rows} x {kind}")


def duration(seconds: float) -> str:
    """As people say it: 8.2 s, 4 min 10 s, 3 h 20 min."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(given: float) -> str:
    """Bytes as people say them."""
    for unit, name in _UNITS:
        if given >= unit:
            return f"{given / unit:.1f} {name}"
    return f"{given:.0f} bytes"


def count(number: float, name: str) -> str:
    """A number and what it counts, in the plural where that is right."""
    many = "es" if name.endswith("s") else "s"
    return f"{number:g} {name}" + ("" if number == 1 else many)
