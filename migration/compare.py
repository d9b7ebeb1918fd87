"""Compare two finished runs over the same detections: the report of a migration."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

import numpy as np

from common.errors import WorkError
from common.json_models import drop_drafts, sha256_file, write_json
from index.config import Metric
from migration.align import Rows, align_runs
from migration.labels import compare_labels
from migration.links import compare_links, has_tracks
from migration.report import (
    ComparedRun,
    Costs,
    Counts,
    MigrationReport,
    NewFailure,
    RunCost,
    Threshold,
)
from migration.spaces import compare_spaces
from migration.verdict import Limits, judge
from pipelines.run import Run, RunManifest

FOLDER, REPORT, PAGE = "migration", "report.json", "report.html"
_FIRST_FAILURES = 20  # that the report lists
_HOUR, _MILLION = 3600.0, 1e6


def compare_runs(
    old: Run,
    new: Run,
    *,
    limits: Limits,
    metric: Metric = "cosine",
    queries: int = 2000,
    progress: Callable[[str, int, int], None] = lambda stage, done, total: None,
) -> MigrationReport:
    """Compare two runs, judge the changes, and write ``migration/report.json`` in the new one.

    Args:
        old: the run that was migrated.
        new: the run that it was migrated to.
        limits: what the migration must meet.
        metric: how vectors are compared for neighbours.
        queries: maximum number of detections whose neighbours are compared.
        progress: called with (name of the stage, done, in all).

    Raises:
        RunError: the two do not hold the same detections.
        WorkError: the report cannot be written.
    """
    old_rows, new_rows = align_runs(old, new)
    folder = new.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        drop_drafts(folder)
        counts = _counts(old_rows, new_rows)
        labels = compare_labels(old_rows, new_rows)
        neighbours, drift, without_direction = compare_spaces(
            old_rows,
            new_rows,
            metric=metric,
            queries=queries,
            progress=lambda done, total: progress("neighbours", done, total),
        )
        links, threshold = compare_links(
            old_rows,
            new_rows,
            folder,
            progress=lambda done, total: progress("link", done, total),
        )
        verdict = judge(
            limits,
            {
                "max_new_failures": (counts.newly_failed, None),
                "min_label_agreement": (labels.agreement, labels.reason),
                "min_overlap": (neighbours.overlap, neighbours.reason),
                "max_changed_links": (links.changed, links.reason),
            },
        )
        report = MigrationReport(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            then=_compared_run(old),
            now=_compared_run(new),
            counts=counts,
            labels=labels,
            neighbours=neighbours,
            drift=drift,
            links=links,
            threshold=threshold,
            costs=Costs(then=run_cost(old.manifest), now=run_cost(new.manifest)),
            verdict=verdict,
            notes=_notes(old, new, without_direction, threshold),
        )
        write_json(folder / REPORT, report)
    except OSError as error:
        raise WorkError(
            f"{folder} cannot be written: {error.strerror or error}; the run is complete, and the "
            "same command writes the report again"
        ) from error
    return report


def _compared_run(run: Run) -> ComparedRun:
    manifest = run.manifest
    return ComparedRun(
        run=str(run.path.resolve()),
        spec=manifest.model.request.spec,
        weights=manifest.model.weights,
        fingerprint=manifest.fingerprint,
        manifest_sha256=sha256_file(run.path / "manifest.json"),
        dim=manifest.model.feature_dim,
        classes=(manifest.classifier or manifest.model).num_classes,
        precision=manifest.precision,
        engine=manifest.engine,
    )


def _counts(old: Rows, new: Rows) -> Counts:
    failed = np.flatnonzero(old.embedded & ~new.embedded)
    first = new.table.select(["detection_id", "error"]).take(failed[:_FIRST_FAILURES]).to_pylist()
    return Counts(
        rows=len(old.embedded),
        failed_then=int((~old.embedded).sum()),
        failed_now=int((~new.embedded).sum()),
        newly_failed=len(failed),
        newly_fine=int((~old.embedded & new.embedded).sum()),
        first_failures=tuple(NewFailure(**row) for row in first),
    )


def run_cost(manifest: RunManifest) -> RunCost:
    """Throughput and hours of the session that finished a run."""
    session = manifest.session
    if session is None or not session.rows:
        before = "the run was made before its session was recorded"
        reason = before if session is None else "an earlier session had finished every row"
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


def _notes(old: Run, new: Run, without_direction: int, threshold: Threshold) -> tuple[str, ...]:
    """What limits the meaning of the numbers."""
    notes = [
        f"{run.manifest.model.request.spec} of {run.path} has random weights: its classes and "
        "neighbours mean nothing"
        for run in (old, new)
        if run.manifest.model.weights.startswith("random")
    ]
    if old.manifest.fingerprint == new.manifest.fingerprint:
        notes.append(
            "both runs have one model fingerprint: only rounding and images that changed can differ"
        )
    if without_direction:
        notes.append(
            f"{without_direction} rows have an embedding of zeros in one of the runs, which "
            "has no neighbours; they are left out of neighbours and drift"
        )
    heads = sorted(head.name for head in (old.path / "heads").glob("*") if head.is_dir())
    if heads:
        notes.append(
            f"{', '.join(heads)} of {old.path / 'heads'} were trained on the old model's features; "
            "train them again on the new run: onepass probe train"
        )
    if has_tracks(old.path) and threshold.suggested is not None:
        notes.append(
            f"the tracks of {new.path} are made with the old run's options; with the threshold of "
            f"the new space: onepass link {new.path} --max-cost {threshold.suggested:.3f}"
        )
    return tuple(notes)
