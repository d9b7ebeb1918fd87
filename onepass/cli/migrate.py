"""The command ``migrate``: a run with another model, what that changes, and its index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.json_models import configure
from common.progress import ProgressBar
from onepass.cli.config_options import with_config
from onepass.cli.console import Json, echo, local_path, print_json, to_path, warn
from onepass.cli.extract import Out, print_extracted
from pipelines.config import ExtractConfig

if TYPE_CHECKING:
    from migration.report import MigrationReport

app = typer.Typer()

_MAX_CHANGES = 3  # of class, that are printed
_EXIT_MISSED = 1


@app.command()
@with_config(ExtractConfig, leave_out={"source", "kind", "frames", "limit", "from_run"})
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
    min_label_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows that keep their class.")
    ] = 0.8,
    min_overlap: Annotated[
        float,
        typer.Option(min=0, max=1, help="Mean share of the ten nearest that both spaces share."),
    ] = 0.4,
    max_new_failures: Annotated[
        int, typer.Option(min=0, help="Rows that fail with the new model only.")
    ] = 0,
    max_changed_links: Annotated[
        float, typer.Option(min=0, max=1, help="Share of links that only one of the runs has.")
    ] = 0.3,
    queries: Annotated[
        int, typer.Option(min=1, help="Maximum number of detections whose neighbours are compared.")
    ] = 2000,
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
    from migration.report import Limits
    from onepass.runs import report_to

    config = configure(ExtractConfig, source=str(run), from_run=True, **options)
    with ProgressBar(resumes=True) as bar:
        done = run_migration(
            config,
            out,
            index=index,
            limits=Limits(
                min_label_agreement=min_label_agreement,
                min_overlap=min_overlap,
                max_new_failures=max_new_failures,
                max_changed_links=max_changed_links,
            ),
            queries=queries,
            report=report_to(bar.update, config.executor, config.address),
            progress=bar.update,
        )
    report = done.report
    if as_json:
        built = done.version and {
            "index": str(index),
            "version": done.version,
            "promoted": done.passed,
        }
        print_json({**report.model_dump(mode="json"), "index": built})
    else:
        if not done.outcome.already_finished:
            print_extracted(done.outcome)
        _print_report(report)
        if done.page_missing:
            warn(done.page_missing)
        echo(f"report: {done.page or done.run.path / 'migration' / 'report.json'}")
        if done.version is not None:
            _print_index(index, done.version, promoted=done.passed)
    if not done.passed:
        for check in report.verdict.limits:
            if check.outcome == "missed":
                typer.echo(f"missed: {check.says}", err=True)
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
        echo(f"  {check.outcome:<14} {check.says}")
    changes = report.labels.changes
    if changes:
        shown = "; ".join(f"{one.rows} x {one.then} -> {one.now}" for one in changes[:_MAX_CHANGES])
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


def _print_index(index: Path | None, version: str, *, promoted: bool) -> None:
    if promoted:
        echo(f"{index} serves {version} now; back: onepass index rollback {index}")
        return
    echo(
        f"{index} serves the same version as before; {version} is built, and 'onepass index "
        f"promote {index} {version}' serves it"
    )
