"""The commands of ``onepass database``: compare a run with an AMI database, and write it back."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.progress import ProgressBar
from onepass.cli.console import Json, echo, local_path, print_json, warn

if TYPE_CHECKING:
    from ami.compare import Comparison
    from ami.write_back import WriteSummary

app = typer.Typer(no_args_is_help=True, help="Compare a run with an AMI database; write it back.")

Run = Annotated[
    Path, typer.Argument(parser=local_path, help="A run that was extracted from the database.")
]
Url = Annotated[
    str,
    typer.Argument(
        help="sqlite:///path/ami.db or postgresql+psycopg://user@host/name; a password is best "
        "kept in PGPASSWORD or ~/.pgpass."
    ),
]


@app.command()
def compare(run: Run, url: Url, as_json: Json = False) -> None:
    """Compare the features in the database (cnn_features) with the run's embeddings.

    Example: onepass database compare runs/first sqlite:///ami.db
    """
    from ami.compare import TOLERANCE, compare_database  # late: SQLAlchemy is an extra

    with ProgressBar(resumes=False) as bar:
        comparison = compare_database(run, url, progress=bar.callback("compare"))
    if as_json:
        print_json(asdict(comparison))
        return
    _show_comparison(run, comparison, TOLERANCE)


def _show_comparison(run: Path, result: Comparison, tolerance: float) -> None:
    unusable = sum(detections.count for detections in result.unusable.values())
    with_features = result.compared + sum(result.other_dims.values()) + unusable
    echo(
        f"{result.database}: {with_features} of {result.rows} detections of {run} have features, "
        f"{result.missing} have none"
    )
    if result.failed:
        echo(f"  {result.failed} have an error in the run and were not looked at")
    if result.gone.count:
        warn(f"{result.gone.count} are gone from the database: {result.gone}")
    if result.moved.count:
        warn(f"{result.moved.count} have another image or box by now: {result.moved}")
    for reason, detections in result.unusable.items():
        echo(f"  {detections.count} cannot be used, {reason}: {detections}")
    for dim, count in result.other_dims.items():
        echo(f"  {count} cannot be compared: {dim} and {result.dim} numbers")
    if result.cosine is not None:
        quantiles = ", ".join(f"{name} {value:.4f}" for name, value in result.cosine.items())
        echo(f"  {result.compared} compared, cosine: {quantiles}")
        echo(
            f"  {result.equal} equal: once each is divided by its sum, no number differs by more "
            f"than {tolerance:g} of the largest"
        )


@app.command()
def write(
    run: Run,
    url: Url,
    write_back: Annotated[
        bool, typer.Option("--write-back", help="Write; without it, only count the changes.")
    ] = False,
    features: Annotated[bool, typer.Option(help="Write cnn_features.")] = True,
    tracks: Annotated[
        bool,
        typer.Option(
            help="Write sequence_id, sequence_frame, sequence_previous_id, sequence_previous_cost."
        ),
    ] = True,
    labels: Annotated[
        bool,
        typer.Option(
            help="Write specific_label, specific_label_score, and the model's name as model_name."
        ),
    ] = False,
    label_nonmoths: Annotated[
        bool,
        typer.Option(
            "--label-nonmoths",
            help="With --labels: also where binary_label says that it is not a moth.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a run's features and tracks into the database it was extracted from.

    Labels are written with --labels. Without --write-back nothing is written: counts and some
    values before and after are shown. Keep a copy of the database; there is no way back but that.

    Example: onepass database write runs/first sqlite:///ami.db --write-back
    """
    from ami.write_back import write_database  # late: SQLAlchemy is an extra

    with ProgressBar(resumes=True) as bar:
        summary = write_database(
            run,
            url,
            features=features,
            tracks=tracks,
            labels=labels,
            label_nonmoths=label_nonmoths,
            write_back=write_back,
            progress=bar.callback("write"),
        )
    if as_json:
        print_json(asdict(summary))
        return
    _show_written(run, summary)


def _show_written(run: Path, summary: WriteSummary) -> None:
    verb = "were updated" if summary.wrote else "would be updated"
    echo(f"{summary.database}: {summary.updated} of {summary.rows} detections of {run} {verb}")
    for name, counts in summary.columns.items():
        parts = [
            f"{counts.filled} set",
            f"{counts.changed} changed from another value",
            f"{counts.equal} equal already",
        ]
        parts += [f"{counts.cleared} emptied"] if counts.cleared else []
        parts += [f"{counts.kept} left as they are"] if counts.kept else []
        echo(f"  {name:<23} {', '.join(parts)}")
    if summary.failed:
        echo(f"  {summary.failed} have an error in the run and stay as they are")
    if "specific_label" not in summary.columns:
        echo("  labels stay as they are; --labels writes them")
    if summary.nonmoths.count:
        echo(
            f"  {summary.nonmoths.count} are not a moth by their binary_label and keep their label; "
            f"--label-nonmoths writes it: {summary.nonmoths}"
        )
    if summary.others:
        echo(f"  {summary.others} of the database are not in the run and stay as they are")
    if summary.gone.count:
        warn(f"{summary.gone.count} of the run are gone from the database: {summary.gone}")
    if summary.moved.count:
        warn(
            f"{summary.moved.count} have another image or box by now and stay as they are: {summary.moved}"
        )
    if not summary.wrote and summary.updated:
        _show_examples(summary)
        echo("dry run: nothing was written; add --write-back to write")


def _show_examples(summary: WriteSummary) -> None:
    """Some values before and after."""
    width = max(len(example.detection) for example in summary.examples)
    echo(f"{len(summary.examples)} of the values, before -> after:")
    for example in summary.examples:
        before, after = (_shown(value) for value in (example.before, example.after))
        echo(f"  {example.detection:<{width}}  {example.column:<23} {before} -> {after}")


def _shown(value: str | float | None) -> str:
    if value is None:
        return "empty"
    return f"{value:g}" if isinstance(value, float) else str(value)
