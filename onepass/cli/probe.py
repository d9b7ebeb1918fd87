"""The commands ``probe train`` and ``probe apply``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.errors import InputError
from common.json_models import configure
from common.progress import ProgressBar
from onepass.cli.config_options import with_config
from onepass.cli.console import Json, echo, local_path, print_json, to_path, warn
from pipelines.heads.config import TrainConfig

if TYPE_CHECKING:
    from pipelines.heads.apply import Applied
    from pipelines.heads.report import Score
    from pipelines.heads.train import Trained

app = typer.Typer(no_args_is_help=True, help="Train heads on stored features, and use them.")


@app.command()
@with_config(TrainConfig, leave_out={"source"})
def train(
    source: Annotated[str, typer.Argument(help=TrainConfig.model_fields["source"].description)],
    out: Annotated[Path, typer.Option(parser=local_path, help="The head's file, as head.pt.")],
    *,
    options: dict[str, Any],
    as_json: Json = False,
) -> None:
    """A new classifier from stored features, with no second pass over the images.

    scikit-learn fits it: logistic regression, or with --hidden an MLP. The validation rows select
    regularisation or epochs. Measures, baselines and pictures are written to the same folder.

    Example: onepass probe train runs/first --labels category --split-by split --out head.pt
    """
    from pipelines.heads.train import train as train_head  # late: scikit-learn takes seconds

    config = configure(TrainConfig, source=source, **options)
    with ProgressBar(resumes=False) as bar:
        trained = train_head(config, out, report=bar.update)
    if as_json:
        record = trained.record.model_dump(mode="json")
        print_json({"file": str(out), "reports": [str(f) for f in trained.reports], **record})
        return
    _print_trained(trained)


def _print_trained(trained: Trained) -> None:
    record = trained.record
    head = record.head
    for reason, count in record.left_out.items():
        warn(f"{count} rows {reason} were left out")
    shape = " x ".join(map(str, head.shape))
    layers = "linear" if not head.hidden else "hidden " + ", ".join(map(str, head.hidden))
    echo(f"{trained.file}: {len(head.classes)} classes, {layers}, on {shape} {head.features}")
    echo(f"  features of {head.spec} ({head.fingerprint[:12]})")
    for name, value in record.chosen.items():
        echo(f"  {name} {value:g}, chosen by the validation loss")
    echo(f"  {'':<17}{'part':<12}{'rows':>6}{'accuracy':>10}{'macro-F1':>10}")
    untrained = record.random_backbone
    rows: dict[str, Mapping[str, Score]] = {"head": record.measures, **record.baselines}
    for name, scores in (
        rows | ({"random backbone": untrained.scores} if untrained else {})
    ).items():
        for part, score in scores.items():
            echo(
                f"  {name:<17}{part:<12}{record.rows[part]:>6}{score.accuracy:>10.3f}"
                f"{score.macro_f1:>10.3f}"
            )
    for note in record.notes:
        echo(f"  {note}")
    echo(f"  with it: {', '.join(file.name for file in trained.reports)}")
    if not any(file.name.endswith("-validation.png") for file in trained.reports):
        echo("  no picture of validated images: a clip file does not hold them")
    echo(f"next: onepass probe apply RUN --head {trained.file}")


@app.command()
def apply(
    run: Annotated[
        Path,
        typer.Argument(parser=to_path, help="A finished run of the model the head was made for."),
    ],
    head: Annotated[
        Path, typer.Option(parser=local_path, help="The head's file, of onepass probe train.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="The folder of the answers; default RUN/heads/NAME."),
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="A column of the run to compare the answers with.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Classify a finished run with a head; the network does not run again.

    Example: onepass probe apply runs/first --head head.pt
    """
    # late: Arrow and torch take seconds
    from common.storage import is_remote
    from pipelines.heads.apply import apply_head

    if out is None and is_remote(run):
        raise InputError(f"{run} is in an object store; say where the answers go with --out FOLDER")
    with ProgressBar(resumes=False) as bar:
        applied = apply_head(run, head, out=out, labels=labels, report=bar.callback("classifying"))
    if as_json:
        print_json(
            {
                "out": str(applied.out),
                "already_done": applied.already_done,
                "measures": applied.measures and applied.measures.model_dump(mode="json"),
                "unknown_labels": applied.unknown,
                **applied.manifest.model_dump(mode="json", exclude={"files"}),
            }
        )
        return
    _print_applied(applied, labels)


def _print_applied(applied: Applied, labels: str | None) -> None:
    manifest = applied.manifest
    if applied.already_done:
        echo(f"{applied.out} is done already: {manifest.rows} rows; nothing to do")
    else:
        echo(f"{applied.out}: {manifest.rows} rows, {manifest.failed} with errors")
        if manifest.without_features:
            echo(f"  {manifest.without_features} rows did not pass the gate: no features, no class")
        for name, count in sorted(manifest.counts.items(), key=lambda item: -item[1]):
            echo(f"  {count} x {name}")
    if applied.unknown:
        names = ", ".join(f"{count} x {name}" for name, count in applied.unknown.items())
        warn(f"labels that are no class of the head were not measured: {names}")
    if (measures := applied.measures) is not None:
        echo(
            f"  against {labels!r}, {measures.rows} rows: accuracy {measures.accuracy:.3f}, "
            f"macro-F1 {measures.macro_f1:.3f}"
        )
        for name, scores in measures.classes.items():
            echo(
                f"    {name}: precision {scores.precision:.3f}, recall {scores.recall:.3f}, "
                f"{scores.support} rows"
            )
