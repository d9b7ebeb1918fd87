"""Time per image of a run: throughput and hours of its last session."""

from __future__ import annotations

from migration.report import RunCost
from pipelines.run import RunManifest

_HOUR = 3600.0
_MILLION = 1e6


def run_cost(manifest: RunManifest) -> RunCost:
    """The cost of a finished run."""
    session = manifest.session
    reason = None
    if session is None:
        reason = "the run was made before its session was recorded"
    elif not session.rows:
        reason = "an earlier session had finished every row"
    if session is None or reason is not None:
        return RunCost(reason=reason, seconds=manifest.seconds)
    whole = session.rows / manifest.seconds
    rate = session.rows_a_second or whole
    units = session.gpus or float(session.actors)
    hours = _MILLION / rate / _HOUR
    return RunCost(
        seconds=manifest.seconds,
        rows=session.rows,
        images_a_second=rate,
        with_start_up=whole,
        unit="GPU" if session.gpus else "core",
        units=units,
        unit_hours=units * manifest.seconds / _HOUR,
        hours_a_million=hours,
        unit_hours_a_million=units * hours,
    )
