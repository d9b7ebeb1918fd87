"""Migrations in Python: ``migrate``, a run again by another model, with a verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from common.json_models import configure
from migration.migrate import Migration, run_migration
from migration.verdict import Limits
from onepass.arguments import read_path, read_run, show_progress, warn
from onepass.runs import report_to, warnings_of
from pipelines.config import ExtractConfig
from pipelines.run import Run

if TYPE_CHECKING:
    from typing import Unpack

    from onepass.options import ModelOptions


def migrate(
    run: Run | str | Path,
    model: str,
    out: str | Path,
    *,
    index: str | Path | None = None,
    min_label_agreement: float = 0.8,
    min_overlap: float = 0.4,
    max_new_failures: int = 0,
    max_changed_links: float = 0.3,
    queries: int = 2000,
    progress: bool = True,
    **options: Unpack[ModelOptions],
) -> Migration:
    """Extract every detection of a run with another model, and judge whether to serve it.

    Ids, order and columns stay. The same call continues an unfinished run.

    Args:
        run: a finished run, opened or by its folder; it is only read. ``open_run`` takes
            ``images`` that were moved.
        model: the other model.
        out: folder of the new run.
        index: an index of this run alone: a version of the new run is built in it, and served
            where every limit is met.
        min_label_agreement: share of rows that must keep their class, 0 to 1.
        min_overlap: mean share of the ten nearest that both spaces must share, 0 to 1.
        max_new_failures: rows that may fail with the new model only.
        max_changed_links: share of links that only one of the runs may have, 0 to 1.
        queries: detections whose neighbours are compared, at most.
        progress: show a bar.
        options: fields of ``ExtractConfig``.

    Returns:
        The new run with its report.

    Raises:
        InputError: the run, the model, ``out`` or ``index`` does not fit.
        WorkError: the work failed; the same call continues it.

    Example:
        >>> migration = onepass.migrate(
        ...     "runs/first", "tiny", "runs/second", resize="pad", progress=False
        ... )
        >>> migration.passed, migration.report.counts.rows
        (True, 12)
    """
    old = read_run("run", run)
    config = configure(ExtractConfig, source=str(old.path), model=model, from_run=True, **options)
    limits = configure(
        Limits,
        min_label_agreement=min_label_agreement,
        min_overlap=min_overlap,
        max_new_failures=max_new_failures,
        max_changed_links=max_changed_links,
    )
    folder = read_path("out", out)
    with show_progress(progress) as update:
        migration = run_migration(
            config,
            folder,
            index=None if index is None else read_path("index", index),
            limits=limits,
            queries=queries,
            pairs=old.pairs,
            report=report_to(update, config.executor, config.address),
            progress=update,
        )
    missing = [migration.page_missing] if migration.page_missing else []
    warn([*warnings_of(migration.outcome), *migration.report.notes, *missing])
    run_as_given = Run(folder, migration.run.manifest)  # by the path that was given
    return replace(migration, outcome=replace(migration.outcome, run=run_as_given))
