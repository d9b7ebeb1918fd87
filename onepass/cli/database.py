"""The commands of ``onepass database``: hold a run against an AMI database, and write it back."""

from __future__ import annotations

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
    """Hold the features in the database (cnn_features) against the run's embeddings.

    Example: onepass database compare runs/first sqlite:///ami.db
    """
    from dataclasses import asdict

    from ami.compare import compare_database

    with ProgressBar(resumes=False) as bar:
        found = compare_database(run, url, progress=bar.counted("compare"))
    if as_json:
        print_json(asdict(found))
        return
    _show_comparison(run, found)


def _show_comparison(run: Path, found: Comparison) -> None:
    from ami.compare import TOLERANCE

    unusable = sum(some.count for some in found.unusable.values())
    other = sum(found.other_dims.values())
    old = found.compared + other + unusable
    echo(
        f"{found.database}: {old} of {found.rows} detections of {run} have features, "
        f"{found.missing} have none"
    )
    if found.failed:
        echo(f"  {found.failed} have an error in the run and were not looked at")
    if found.gone.count:
        warn(f"{found.gone.count} are gone from the database: {found.gone}")
    if found.moved.count:
        warn(f"{found.moved.count} have another image or box by now: {found.moved}")
    for why, some in found.unusable.items():
        echo(f"  {some.count} cannot be used, {why}: {some}")
    for dim, count in found.other_dims.items():
        echo(f"  {count} cannot be compared: {dim} and {found.dim} numbers")
    if found.cosine is not None:
        said = ", ".join(f"{name} {value:.4f}" for name, value in found.cosine.items())
        echo(f"  {found.compared} compared, cosine: {said}")
        echo(
            f"  {found.equal} equal: once each is divided by its sum, no number differs by more "
            f"than {TOLERANCE:g} of the largest"
        )


@app.command()
def write(
    run: Run,
    url: Url,
    write_back: Annotated[
        bool, typer.Option("--write-back", help="Write; without it, only say what would be.")
    ] = False,
    columns: Annotated[
        str, typer.Option(help="What to write, with commas: features, tracks, labels.")
    ] = "features,tracks,labels",
    as_json: Json = False,
) -> None:
    """Write a run's features, tracks and labels into the database it was extracted from.

    features: cnn_features. tracks: sequence_id, sequence_frame, sequence_previous_id and
    sequence_previous_cost. labels: specific_label and specific_label_score. Keep a copy of the
    database; there is no way back but that.

    Example: onepass database write runs/first sqlite:///ami.db --write-back
    """
    from dataclasses import asdict

    from ami.write_back import write_database

    groups = [part.strip() for part in columns.split(",")]
    with ProgressBar() as bar:
        done = write_database(
            run, url, groups=groups, write_back=write_back, progress=bar.counted("write")
        )
    if as_json:
        print_json(asdict(done))
        return
    _show_written(run, done)


def _show_written(run: Path, done: WriteSummary) -> None:
    verb = "were updated" if done.wrote else "would be updated"
    echo(f"{done.database}: {done.updated} of {done.rows} detections of {run} {verb}")
    for name, counts in done.columns.items():
        parts = [
            f"{counts.filled} set",
            f"{counts.changed} changed from another value",
            f"{counts.equal} equal already",
        ]
        parts += [f"{counts.cleared} emptied"] if counts.cleared else []
        parts += [f"{counts.kept} left: the run has none"] if counts.kept else []
        echo(f"  {name:<23} {', '.join(parts)}")
    if done.failed:
        echo(f"  {done.failed} have an error in the run and stay as they are")
    if done.others:
        echo(f"  {done.others} of the database are not in the run and stay as they are")
    if done.gone.count:
        warn(f"{done.gone.count} of the run are gone from the database: {done.gone}")
    if done.moved.count:
        warn(
            f"{done.moved.count} have another image or box by now and stay as they are: {done.moved}"
        )
    if not done.wrote and done.updated:
        echo("dry run: nothing was written; add --write-back to write")
