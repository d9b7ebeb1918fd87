"""The command ``migrate``: a run with another model, what that changes, and its index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.json_models import configure
from common.moved import read_pairs
from common.progress import ProgressBar
from migration.verdict import Limits
from onepass.cli.config_options import with_config
from onepass.cli.console import Images, Json, echo, local_path, print_json, to_path, warn
from onepass.cli.extract import Out, print_extracted
from onepass.cli.flags import with_flags
from pipelines.config import READING, ExtractConfig

if TYPE_CHECKING:
    from migration.report import MigrationReport

app = typer.Typer()

_MAX_CHANGES = 3  # of class, that are printed
_EXIT_MISSED = 1


@app.command()
@with_config(Limits, parameter="limits")
@with_config(ExtractConfig, leave_out={*READING, "id_prefix"})
def migrate(
    run: Annotated[
        Path,
        typer.Argument(parser=local_path, help="The finished run to migrate; it is only read."),
    ],
    *,
    out: Out,
    options: dict[str, Any],
    index: Annotated[
        Path | None,
        typer.Option(
            parser=to_path,
            help="An index of this run alone: a version of the new run is built in it, and served "
            "when the verdict is passed.",
        ),
    ] = None,
    limits: dict[str, Any],
    queries: Annotated[
        int, typer.Option(min=1, help="Maximum number of detections whose neighbours are compared.")
    ] = 2000,
    images: Images = None,
    as_json: Json = False,
) -> None:
    """Extract every detection of a run with another model, and judge whether to serve it.

    Ids, order and columns stay. The same command continues an unfinished run, and writes the
    report of a finished one again: OUT/migration/report.json and report.html. Exit code 0: no
    limit was missed; 1: one was.

    Example: onepass migrate runs/first --model lite1 --out runs/second --index photos.index
    """
    # late: torch and FAISS take seconds
    from migration.migrate import run_migration
    from onepass.runs import report_to

    config = configure(ExtractConfig, source=str(run), from_run=True, **options)
    with ProgressBar(resumes=True) as bar:
        migration = run_migration(
            config,
            out,
            index=index,
            limits=configure(Limits, **limits),
            queries=queries,
            pairs=read_pairs(images),
            report=report_to(bar.update, config.executor, config.address),
            progress=bar.update,
        )
    report, passed = migration.report, migration.passed
    if migration.page_missing:
        warn(migration.page_missing)
    if as_json:
        built = migration.version and {
            "index": str(index),
            "version": migration.version,
            "promoted": passed,
        }
        print_json({**report.model_dump(mode="json"), "index": built})
    else:
        if not migration.outcome.already_finished:
            print_extracted(migration.outcome)
        _print_report(report)
        echo(f"report: {migration.page or migration.run.path / 'migration' / 'report.json'}")
        if migration.version and passed:
            back = f"onepass index rollback {index}"
            echo(f"{index} serves {migration.version} now; back: {back}")
        elif migration.version:
            echo(
                f"{index} serves the same version as before; {migration.version} is built, and "
                f"'onepass index promote {index} {migration.version}' serves it"
            )
    if not passed:
        for check in report.verdict.limits:
            if check.outcome == "missed":
                echo(f"missed: {with_flags(check.says)}", err=True)
        raise typer.Exit(_EXIT_MISSED)


def _print_report(report: MigrationReport) -> None:
    old, new = report.then, report.now
    echo(f"{old.spec} of {old.run} -> {new.spec} of {new.run}")
    for note in report.notes:
        warn(note)
    counts = report.counts
    echo(
        f"  rows         {counts.rows}; {counts.failed_now} failed, {counts.newly_failed} of them "
        f"only now, and {counts.newly_fine} that had failed succeeded"
    )
    for check in report.verdict.limits:
        echo(f"  {check.outcome:<14} {with_flags(check.says)}")
    changes = report.labels.changes
    if changes:
        first = changes[:_MAX_CHANGES]
        shown = "; ".join(f"{each.rows} x {each.then} -> {each.now}" for each in first)
        echo(f"  changed      {shown}{'; …' if len(changes) > _MAX_CHANGES else ''}")
    drift = report.drift
    echo(f"  drift        {drift.reason or f'mean cosine {drift.mean:.3f} of old to new'}")
    threshold = report.threshold
    if threshold.suggested is not None:
        echo(f"  threshold    max_cost {threshold.max_cost:g} becomes {threshold.suggested:.3f}")
    cost = report.costs.now
    if cost.reason is None:
        echo(
            f"  cost         {cost.images_a_second:.0f} images/s, {cost.unit_hours_a_million:.1f} "
            f"{cost.unit}-hours a million rows"
        )
    echo(f"verdict: {'passed' if report.verdict.passed else 'missed'}")
