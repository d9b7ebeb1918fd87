"""The command ``extract``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import InputError
from common.json_models import configure
from common.moved import read_pairs
from common.progress import ProgressBar
from onepass.cli.config_options import with_config
from onepass.cli.console import Images, Json, echo, print_json, to_path, warn
from onepass.cli.flags import with_flags
from onepass.cli.format import count, duration, where_the_time_went
from pipelines.config import ExtractConfig

if TYPE_CHECKING:
    from pipelines.dry_run import Forecast
    from pipelines.extract import Outcome
    from pipelines.run import Run
    from pipelines.session import UpdateSummary

_NAMED = 10  # failed videos
SOURCE = ExtractConfig.model_fields["source"].description

Out = Annotated[
    Path, typer.Option(parser=to_path, help="The run folder; the same command continues it.")
]

app = typer.Typer()


@app.command()
@with_config(ExtractConfig, leave_out={"source", "from_run"})
def extract(
    source: Annotated[str, typer.Argument(help=SOURCE)],
    *,
    out: Out,
    options: dict[str, Any],
    update: Annotated[
        bool,
        typer.Option(
            "--update",
            help="Where the source has grown or changed since: answer only images that are new or "
            "changed. Ids stay; rows of images that are gone are kept and named.",
        ),
    ] = False,
    images: Images = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say how fast, how long and how large the run would be, from a sample that is "
            "measured now; nothing is kept.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Class and embedding of every image or box, in one forward pass.

    An image that cannot be read becomes a row with an error, never a missing row. Runs in this
    process, or on the Ray cluster of RAY_ADDRESS where that is set.

    Example: onepass extract photos/ --model lite0 --out runs/first --hdf5
    """
    config = configure(ExtractConfig, source=source, **options)
    if dry_run and update:
        raise InputError("`update=True` and `dry_run=True`: give one of them")
    if dry_run:
        _dry_run(config, out, images, as_json=as_json)
        return
    # late: torch and Arrow take seconds
    from onepass.runs import check_answered, report_to
    from pipelines.extract import extract as extract_source

    with ProgressBar(resumes=True) as bar:
        outcome = extract_source(
            config,
            out,
            update=update,
            pairs=read_pairs(images),
            report=report_to(bar.update, config.executor, config.address),
        )
    if as_json:
        _print_json(outcome, out, config)
    else:
        print_extracted(outcome)
    check_answered(outcome.run)
    if not as_json:
        _print_next(outcome, config)
    if outcome.unread:
        raise typer.Exit(1)  # rows are missing


def _print_next(outcome: Outcome, config: ExtractConfig) -> None:
    run = outcome.run
    if outcome.already_finished:
        return
    if config.kind == "video":
        _print_failed_videos(run)
        echo(f"next: onepass clips {run.path} --out FOLDER   or: onepass index build {run.path}")
        return
    echo(f"next: onepass index build {run.path} --out INDEX   or: onepass link {run.path}")


def _print_json(outcome: Outcome, out: Path, config: ExtractConfig) -> None:
    videos = {"failed_videos": outcome.run.failed_sequences()} if config.kind == "video" else {}
    print_json(
        {
            "run": str(out),
            "already_finished": outcome.already_finished,
            "resumed_rows": outcome.resumed_rows,
            "first_answer_seconds": outcome.first_answer_seconds,
            "skipped_files": outcome.skipped_files,
            "source_notes": outcome.source_notes,
            "unread": outcome.unread,
            **({"update": asdict(outcome.update)} if outcome.update else {}),
            **videos,
            **outcome.run.manifest.model_dump(mode="json", exclude={"files"}),
        }
    )


def _dry_run(config: ExtractConfig, out: Path, images: list[str] | None, *, as_json: bool) -> None:
    # late: torch takes seconds
    from onepass.runs import report_to
    from pipelines.dry_run import dry_run

    with ProgressBar(resumes=False) as bar:
        forecast = dry_run(
            config,
            out,
            pairs=read_pairs(images),
            report=report_to(bar.update, config.executor, config.address),
        )
    if as_json:
        values = None if forecast is None else forecast.model_dump(mode="json")
        print_json({"run": str(out), "already_finished": forecast is None, "forecast": values})
    elif forecast is None:
        echo(f"{out} is finished already; nothing would be done")
    else:
        _print_forecast(str(out), forecast)


def _print_forecast(run: str, forecast: Forecast) -> None:
    before = f", {forecast.resumed_rows} more are done" if forecast.resumed_rows else ""
    echo(
        f"{run} would answer {forecast.rows} rows{before}, with {forecast.model}, {forecast.engine} "
        f"{forecast.precision}, in about {duration(forecast.seconds)}; nothing was kept"
    )
    on = f" on {count(forecast.gpus, 'GPU')}" if forecast.gpus else ""
    echo(f"  actors     {forecast.actors}{on}")
    for node in forecast.nodes:
        cpus, gpus = count(node["cpus"], "CPU slot"), count(node["gpus"], "GPU")
        echo(f"  node       {node['host']} {node['node']}: {cpus}, {gpus}")
    rates = ", ".join(f"{name} {rate:.0f}" for name, rate in forecast.rates.items())
    echo(
        f"  speed      {forecast.rate:.0f} images/s at work ({rates}); the limit is {forecast.limit}"
    )
    working = forecast.seconds - forecast.start_seconds - forecast.finish_seconds
    echo(
        f"  time       {duration(forecast.start_seconds)} to start, {duration(working)} of work, "
        f"{duration(forecast.finish_seconds)} to finish"
    )
    echo(
        f"  files      {forecast.files} Parquet files of some {forecast.block_rows} rows, "
        f"{forecast.file_bytes / 1e6:,.1f} MB"
    )
    echo(
        f"  based on   {forecast.sample_rows} rows of the source, measured in "
        f"{duration(forecast.sample_seconds)}: start-up, the rows at their speed, finishing in proportion"
    )
    for note in forecast.notes:
        echo(f"  {with_flags(note)}")
    if forecast.built_seconds > 1:
        echo(f"  the engine was built just now, in {duration(forecast.built_seconds)}, and is kept")


def print_extracted(outcome: Outcome) -> None:
    """What an extraction came to, for people."""
    from onepass.runs import warnings_of  # late: Arrow takes half a second

    run, manifest = outcome.run, outcome.run.manifest
    rows = manifest.rows
    if outcome.update is not None:
        _print_update(outcome, outcome.update)
        return
    for text in warnings_of(outcome):
        warn(text)
    if outcome.already_finished:
        echo(f"{run.path} is finished already: {rows.written} rows; nothing to do")
        return
    audit, model = manifest.precision_audit, manifest.model
    again = f", {outcome.resumed_rows} of them from before" if outcome.resumed_rows else ""
    echo(
        f"{run.path}: {rows.written} rows{again}, {rows.failed} with errors, in "
        f"{manifest.seconds:.1f} s ({(rows.written - outcome.resumed_rows) / manifest.seconds:.0f} "
        f"images/s with start-up)"
    )
    echo(
        f"  {model.request.spec}, {manifest.engine} {manifest.precision}: {model.num_classes} classes, "
        f"{model.feature_dim}-d embeddings"
        + (f", cosine to fp32 {audit.cosine_mean:.4f}" if audit else "")
    )
    classifier = manifest.classifier or model
    if model.weights.startswith(f"{model.request.checkpoint} "):  # which of the file's
        echo(f"  weights {model.weights}")
    if classifier.head is not None:
        echo(f"  {classifier.num_classes} classes by head {classifier.request.head}")
    if manifest.session is not None and manifest.session.stages:
        echo(f"  {where_the_time_went(manifest.session, manifest.seconds)}")
    for known in classifier.maps:
        echo(f"  {known.name}: {' x '.join(map(str, known.shape))} a row")
    if manifest.gate is not None:
        echo(f"  {rows.refused} rows did not pass the gate: an embedding and no class")
    for note in manifest.notes:
        echo(f"  {with_flags(note)}")
    for kind, failed in sorted(manifest.errors.items(), key=lambda item: -item[1]):
        echo(f"  {failed} x {kind}")


def _print_update(outcome: Outcome, update: UpdateSummary) -> None:
    """What an update came to, for people."""
    from onepass.runs import first_names, warnings_of  # late: Arrow takes half a second

    for text in warnings_of(outcome):
        warn(text)
    rows = outcome.run.manifest.rows
    if not update.answered:
        echo(f"{outcome.run.path} is up to date: {rows.written} rows; nothing to answer")
        return
    echo(
        f"{outcome.run.path}: {update.answered} rows answered in "
        f"{outcome.run.manifest.seconds:.1f} s, {rows.written} rows in all, {rows.failed} with errors"
    )
    for what, names in (("new", update.new), ("changed", update.changed)):
        if names:
            echo(f"  {count(len(names), f'{what} image')}: {first_names(names)}")


def _print_failed_videos(run: Run) -> None:
    failed = run.failed_sequences()
    for rows, error in list(failed.values())[:_NAMED]:
        echo(f"  {error}" + (f" (and {rows - 1} frames more)" if rows > 1 else ""))
    if len(failed) > _NAMED:
        echo(f"  and {len(failed) - _NAMED} videos more; filter the run's rows on 'error'")
