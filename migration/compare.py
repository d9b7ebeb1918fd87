"""Compare two finished runs over the same detections, and judge: the report of a migration."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from common.errors import WorkError
from common.json_models import sha256_file, write_atomic
from index.metrics import Metric
from migration.costs import run_cost
from migration.labels import compare_labels
from migration.links import compare_links, has_tracks
from migration.report import (
    ComparedRun,
    Costs,
    Counts,
    Limits,
    MigrationReport,
    NewFailure,
    Threshold,
)
from migration.rows import Rows, align_runs
from migration.spaces import Spaces, compare_spaces
from migration.verdict import judge
from pipelines.run import Run

FOLDER, REPORT, PAGE = "migration", "report.json", "report.html"
_FIRST = 20  # new failures that the report names

Progress = Callable[[str, int, int], None]


def compare_runs(
    old: Run,
    new: Run,
    *,
    limits: Limits,
    metric: Metric = "cosine",
    queries: int = 2000,
    progress: Progress = lambda stage, done, total: None,
) -> MigrationReport:
    """Measure what changes from ``old`` to ``new``, judge it, write ``new/migration/report.json``.

    Args:
        old: the run that was migrated.
        new: what it was migrated to.
        limits: what must be kept.
        metric: what nearness means where neighbours are compared.
        queries: detections at most whose neighbours are compared.
        progress: called with a stage's name, what of it is done, and all there is to do.

    Raises:
        RunError: the two do not hold the same detections.
        WorkError: the report cannot be written.
    """
    then, now = align_runs(old, new)
    folder = new.path / FOLDER
    try:
        folder.mkdir(exist_ok=True)
        counts = _counts(then, now)
        labels = compare_labels(then, now)
        spaces = compare_spaces(
            then,
            now,
            metric=metric,
            queries=queries,
            progress=lambda done, total: progress("neighbours", done, total),
        )
        links, threshold = compare_links(
            then, now, folder, progress=lambda done, total: progress("link", done, total)
        )
        report = MigrationReport(
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            then=_compared_run(old),
            now=_compared_run(new),
            counts=counts,
            labels=labels,
            neighbours=spaces.neighbours,
            drift=spaces.drift,
            links=links,
            threshold=threshold,
            costs=Costs(then=run_cost(old.manifest), now=run_cost(new.manifest)),
            verdict=judge(limits, counts, labels, spaces.neighbours, links),
            notes=_notes(old, new, spaces, threshold),
        )
        write_atomic(folder / REPORT, report.model_dump_json(indent=2).encode())
    except OSError as error:
        raise WorkError(
            f"{folder} cannot be written: {error.strerror or error}; the run is whole, the same "
            "command makes the report again"
        ) from error
    return report


def _compared_run(run: Run) -> ComparedRun:
    manifest = run.manifest
    classifier = manifest.classifier or manifest.model
    return ComparedRun(
        run=str(run.path.resolve()),
        spec=manifest.model.request.spec,
        weights=manifest.model.weights,
        fingerprint=manifest.fingerprint,
        manifest_sha256=sha256_file(run.path / "manifest.json"),
        dim=manifest.model.feature_dim,
        classes=classifier.num_classes,
        precision=manifest.precision,
        engine=manifest.engine,
    )


def _counts(then: Rows, now: Rows) -> Counts:
    failed = np.flatnonzero(then.embedded & ~now.embedded)
    few = now.table.select(["detection_id", "error"]).take(failed[:_FIRST]).to_pylist()
    return Counts(
        rows=len(then.embedded),
        failed_then=int((~then.embedded).sum()),
        failed_now=int((~now.embedded).sum()),
        newly_failed=len(failed),
        newly_fine=int((~then.embedded & now.embedded).sum()),
        first_failures=tuple(NewFailure(**one) for one in few),
    )


def _notes(old: Run, new: Run, spaces: Spaces, threshold: Threshold) -> tuple[str, ...]:
    """What people should know before they believe the numbers."""
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
    if spaces.without_direction:
        notes.append(
            f"{spaces.without_direction} rows have an embedding of zeros in one of the runs, which "
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


def page_path(folder: Path) -> Path:
    """Where the page of the run ``folder`` stands."""
    return folder / FOLDER / PAGE
