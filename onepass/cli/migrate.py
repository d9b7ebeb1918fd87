"""The command ``migrate``: a run with another model, what that changes, and its index."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import InputError
from common.progress import ProgressBar
from onepass.cli.console import Json, echo, local_path, print_json, to_path, warn
from onepass.cli.extract_options import Asked, with_options

if TYPE_CHECKING:
    from index.storage.layout import SnapshotManifest
    from migration.report import MigrationReport
    from pipelines.run import Run

app = typer.Typer()

_NAMED = 3  # changes of class
_MISSED = 1  # exit code


@app.command()
@with_options
def migrate(
    run: Annotated[
        Path,
        typer.Argument(parser=local_path, help="The finished run to migrate; it is only read."),
    ],
    *,
    asked: Asked,
    index: Annotated[
        Path | None,
        typer.Option(
            parser=to_path,
            help="An index of this run alone: a version of the new run is built beside the one "
            "that is served, and served when the verdict is passed.",
        ),
    ] = None,
    min_label_agreement: Annotated[
        float, typer.Option(min=0, max=1, help="Share of rows that keep their class.")
    ] = 0.8,
    min_overlap: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the ten nearest that stay, on average.")
    ] = 0.4,
    max_new_failures: Annotated[
        int, typer.Option(min=0, help="Rows that fail now and did not.")
    ] = 0,
    max_changed_links: Annotated[
        float, typer.Option(min=0, max=1, help="Share of links that only one of the runs has.")
    ] = 0.3,
    queries: Annotated[
        int, typer.Option(min=1, help="Detections whose neighbours are compared, at most.")
    ] = 2000,
    as_json: Json = False,
) -> None:
    """Every detection of a run with another model, and whether that is safe to serve.

    Ids, order and columns stay; the same command continues, and once the run is finished only
    makes the report again: OUT/migration/report.json and report.html. Exit code 0: no limit was
    missed; 1: one was.

    Example: onepass migrate runs/first --model lite1 --out runs/second --index photos.index
    """
    from index.build.versions import promote
    from migration.beside import build_candidate, check_replaceable
    from migration.compare import compare_runs
    from migration.extract import extract_again
    from migration.report import Limits
    from onepass.cli.extract import print_extracted, show_progress
    from pipelines.run import Run

    old = Run.open(run)
    there = None if index is None else check_replaceable(index, old, asked.out)
    with ProgressBar() as bar:
        outcome = extract_again(
            run,
            asked.request(),
            asked.out,
            asked.options(),
            report=show_progress(bar, asked.executor),
        )
    new = outcome.run
    if not as_json and not outcome.already_finished:
        print_extracted(outcome)
    with ProgressBar() as bar:
        report = compare_runs(
            old,
            new,
            limits=Limits(
                min_label_agreement=min_label_agreement,
                min_overlap=min_overlap,
                max_new_failures=max_new_failures,
                max_changed_links=max_changed_links,
            ),
            metric=there.metric if there else "cosine",
            queries=queries,
            progress=bar.update,
        )
    page = _write_page(report, new)
    made: SnapshotManifest | None = None
    served = False
    if index is not None:
        with ProgressBar() as bar:
            made = build_candidate(
                index, old, new, executor=asked.executor, progress=bar.counted("index")
            )
        if report.verdict.passed:
            promote(index, made.version)
            served = True
    if as_json:
        beside = made and {"index": str(index), "version": made.version, "promoted": served}
        print_json({**report.model_dump(mode="json"), "index": beside})
    else:
        _print_report(report)
        echo(f"report: {page or new.path / 'migration' / 'report.json'}")
        if made is not None:
            _print_index(index, made, served=served)
    if not report.verdict.passed:
        for one in report.verdict.limits:
            if one.outcome == "missed":
                typer.echo(f"missed: {one.says}", err=True)
        raise typer.Exit(_MISSED)


def _write_page(report: MigrationReport, new: Run) -> Path | None:
    """Write the page; None, and a warning, where what draws its plots is not installed."""
    from common.json_models import write_atomic
    from migration.compare import page_path
    from migration.page import render

    page = page_path(new.path)
    try:
        text = render(report)
    except InputError as error:
        page.unlink(missing_ok=True)  # of an earlier report
        warn(str(error))
        return None
    write_atomic(page, text.encode())
    return page


def _print_report(report: MigrationReport) -> None:
    then, now = report.then, report.now
    echo(f"{then.spec} of {then.run} -> {now.spec} of {now.run}")
    for note in report.notes:
        warn(note)
    counts = report.counts
    echo(
        f"  rows         {counts.rows}; {counts.failed_now} failed, {counts.newly_failed} of them "
        f"new, and {counts.newly_fine} that had failed are fine"
    )
    for one in report.verdict.limits:
        echo(f"  {one.outcome:<14} {one.says}")
    changes = report.labels.changes
    if changes:
        shown = "; ".join(f"{one.rows} x {one.then} -> {one.now}" for one in changes[:_NAMED])
        echo(f"  changed      {shown}{'; …' if len(changes) > _NAMED else ''}")
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


def _print_index(index: Path | None, made: SnapshotManifest, *, served: bool) -> None:
    if served:
        echo(f"{index} serves {made.version} now; back: onepass index rollback {index}")
        return
    echo(
        f"{index} serves what it served; {made.version} stands beside it, and 'onepass index "
        f"promote {index} {made.version}' serves it all the same"
    )
