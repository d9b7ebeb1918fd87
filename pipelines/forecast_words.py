"""What a run would take, and what it took, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.console import say, warn
from cluster.session import local_cores

if TYPE_CHECKING:
    from pipelines.dry_run import Forecast
    from pipelines.profile import SessionProfile
    from pipelines.run import SessionFacts

_UNITS = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def say_forecast(run: str, coming: Forecast) -> None:
    """The plan of a run that has not begun."""
    pace, costs, lanes = coming.pace, coming.costs, coming.lanes
    before = f", {coming.resumed_rows} more are done" if coming.resumed_rows else ""
    say(
        f"{run} would answer {coming.rows} rows{before}, with {coming.model}, {coming.engine} "
        f"{coming.precision}, in about {duration(coming.seconds)}; nothing was kept"
    )
    own = ", which decode for themselves" if costs.fused else ""
    on = f" on {_count(coming.gpus, 'GPU')}" if coming.gpus else ""
    say(f"  who        {_count(lanes.actors, 'forward actor')}{on}{own}")
    if not costs.fused:
        room = "where there is room on nodes without a GPU"
        say(f"             {_count(lanes.decoders, 'decoding task')} at a time, {room}")
    for node in coming.nodes:
        did = [_count(node.actors, "actor")] if node.actors else []
        did += [f"decoding in {node.decoding}"] if node.decoding and not costs.fused else []
        say(
            f"  where      {node.host} {node.node}: {_count(node.cpus, 'CPU slot')}, "
            f"{_count(node.gpus, 'GPU')}: {', '.join(did) or 'nothing'}"
        )
    say(f"  speed      {pace.rate:.0f} images/s once all run; the limit is {pace.limit}")
    say(
        f"             decode {1000 * costs.decode:.2f} ms an image, forward "
        f"{1000 * costs.forward:.2f}, write {1000 * costs.write:.2f}, all lanes at work"
    )
    if not costs.fused:
        say(
            f"             decode can do {pace.decode_rate:.0f} images/s, forward "
            f"{pace.forward_rate:.0f}"
        )
    if pace.cores_missing:
        say(
            f"             {_count(pace.cores_missing, 'core')} more would have to decode to feed the "
            "GPUs"
        )
    working = coming.seconds - coming.start_seconds - coming.finish_seconds
    say(
        f"  time       {duration(coming.start_seconds)} until all are at full speed, "
        f"{duration(working)} of work, {duration(coming.finish_seconds)} to finish"
    )
    say(
        f"  files      {coming.files} Parquet files of some {coming.block_rows} rows, "
        f"{size(coming.file_bytes)}; a checkpoint of {size(coming.checkpoint_bytes)} meanwhile"
    )
    say(
        f"  measured   on {coming.sample_rows} rows of the source, in "
        f"{duration(coming.sample_seconds)}"
    )
    for note in coming.notes:
        say(f"  {note}")
    if coming.load is not None and coming.load > local_cores() / 2:
        warn(
            f"this machine was busy already (load {coming.load:.1f} on "
            f"{_count(local_cores(), 'core')}): all this holds while it is as busy"
        )
    if coming.built_seconds > 1:
        say(f"  the engine was built just now, in {duration(coming.built_seconds)}, and is kept")


def where_the_time_went(session: SessionFacts, seconds: float) -> str:
    """One line about a session that took ``seconds``."""
    told = []
    if session.start_seconds is not None and session.work_seconds is not None:
        finish = seconds - session.start_seconds - session.work_seconds
        told.append(
            f"{session.start_seconds:.0f} s to start, {session.work_seconds:.0f} s of work, "
            f"{finish:.0f} s to finish"
        )
    busy = {stage.name: stage.seconds for stage in session.stages}
    told.append("busy " + ", ".join(f"{name} {busy[name]:.0f} s" for name in busy))
    if session.waited is not None:
        told.append(f"actors waited {session.waited:.0%}")
    if again := sum(stage.again for stage in session.stages if stage.name == "forward"):
        told.append(f"{_count(again, 'block')} answered again")
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
                f"  {stage.name:<9} {_count(stage.processes, 'actor')}, "
                f"{stage.seconds / stage.processes:.1f} s each"
            )
            continue
        each = 1000 * stage.seconds / stage.rows
        again = f", {stage.again} of them again" if stage.again else ""
        say(
            f"  {stage.name:<9} {stage.rows} rows in {_count(stage.blocks, 'block')}{again}, busy "
            f"{duration(stage.seconds)} in {_count(stage.processes, 'process')}, {each:.2f} ms a "
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


def size(count: float) -> str:
    """Bytes as people say them."""
    for unit, name in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{count:.0f} bytes"


def _count(number: float, name: str) -> str:
    many = "es" if name.endswith("s") else "s"
    return f"{number:g} {name}" + ("" if number == 1 else many)
