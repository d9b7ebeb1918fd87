"""What a run would take, for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.console import say, warn
from cluster.executors import local_cores
from pipelines.events.words import count, duration, size

if TYPE_CHECKING:
    from pipelines.forecast.dry_run import Forecast


def say_forecast(run: str, coming: Forecast) -> None:
    """The plan of a run that has not begun."""
    pace, costs, lanes = coming.pace, coming.costs, coming.lanes
    before = f", {coming.resumed_rows} more are done" if coming.resumed_rows else ""
    say(
        f"{run} would answer {coming.rows} rows{before}, with {coming.model}, {coming.engine} "
        f"{coming.precision}, in about {duration(coming.seconds)}; nothing was kept"
    )
    own = ", which decode for themselves" if costs.fused else ""
    on = f" on {count(coming.gpus, 'GPU')}" if coming.gpus else ""
    say(f"  who        {count(lanes.actors, 'forward actor')}{on}{own}")
    if not costs.fused:
        room = "where there is room on nodes without a GPU"
        say(f"             {count(lanes.decoders, 'decoding task')} at a time, {room}")
    for node in coming.nodes:
        did = [count(node.actors, "actor")] if node.actors else []
        did += [f"decoding in {node.decoding}"] if node.decoding and not costs.fused else []
        say(
            f"  where      {node.host} {node.node}: {count(node.cpus, 'CPU slot')}, "
            f"{count(node.gpus, 'GPU')}: {', '.join(did) or 'nothing'}"
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
            f"             {count(pace.cores_missing, 'core')} more would have to decode to feed the "
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
            f"{count(local_cores(), 'core')}): all this holds while it is as busy"
        )
    if coming.built_seconds > 1:
        say(f"  the engine was built just now, in {duration(coming.built_seconds)}, and is kept")
