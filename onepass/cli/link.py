"""The command ``link``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common.errors import InputError
from common.progress import ProgressBar
from onepass.cli.console import ExecutorOption, Json, echo, local_path, print_json, warn

if TYPE_CHECKING:
    from tracks.association.options import LinkOptions

_NOTED = 5  # sequences that look wrong; --json and the manifest have all

Weight = Annotated[float | None, typer.Option(min=0, help="Weight of this term of the cost.")]

app = typer.Typer()


@app.command()
def link(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(parser=local_path, help="A finished run.")],
    out: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="Where the tracks go, if not into RUN/tracks."),
    ] = None,
    preset: Annotated[
        Literal["default", "ami", "antenna"],
        typer.Option(help="ami, antenna: the old greedy rules at 1.0 and 0.2, for comparison."),
    ] = "default",
    options: Annotated[
        Path | None,
        typer.Option(
            parser=local_path, help="Options that onepass tracks tune wrote, as a preset."
        ),
    ] = None,
    max_cost: Annotated[float | None, typer.Option(help="Dearest link allowed.")] = None,
    max_gap_frames: Annotated[
        int | None, typer.Option(min=0, help="Frames a track may be missing.")
    ] = None,
    max_gap_seconds: Annotated[
        float | None, typer.Option(min=0, help="Seconds between two detections of a track.")
    ] = None,
    feature_weight: Weight = None,
    iou_weight: Weight = None,
    area_weight: Weight = None,
    distance_weight: Weight = None,
    appearance: Annotated[
        Literal["average", "gallery"] | None,
        typer.Option(
            help="What a track is compared by: the average of its embeddings, or the "
            "best match among its last ones."
        ),
    ] = None,
    appearance_memory: Annotated[
        float | None, typer.Option(help="Share of the old average kept at each link, 0 to 1.")
    ] = None,
    gallery_size: Annotated[
        int | None, typer.Option(min=1, help="Embeddings of a track that the gallery holds.")
    ] = None,
    motion_gate: Annotated[
        float | None,
        typer.Option(
            help="How far from where its track was heading a detection may lie, in "
            "diagonals of its box a frame."
        ),
    ] = None,
    strong_score: Annotated[
        float | None,
        typer.Option(help="Detections that score less may extend tracks and not start them."),
    ] = None,
    score_column: Annotated[
        str, typer.Option(help="The detector's score, a column of the run; for --strong-score.")
    ] = "detector_score",
    executor: ExecutorOption = "auto",
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster to link sequences on, side by side; local starts one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Link detections into tracks, one individual each, sequence by sequence.

    What a pair costs: w_feature (1 - cosine) + w_iou (1 - IoU) + w_area (1 - smaller / larger
    area) + w_distance (distance / image diagonal). Look at the links that were nearly others with
    onepass tracks review, and fit the weights to your own labels with onepass tracks tune.

    Example: onepass link runs/first --max-gap-frames 3
    """
    from dataclasses import asdict, fields, replace

    from tracks.association.options import PRESETS, LinkOptions
    from tracks.link import link_run

    if options is not None and preset != "default":
        raise InputError(f"--options {options} and --preset {preset}: give one of them")
    given = {one.name: context.params.get(one.name) for one in fields(LinkOptions)}
    chosen = replace(
        PRESETS[preset] if options is None else read_options(options),
        **{name: value for name, value in given.items() if value is not None},
    )
    with ProgressBar(resumes=False) as bar:
        summary = link_run(
            run,
            out=out,
            options=chosen,
            score_column=None if chosen.strong_score is None else score_column,
            executor=executor,
            address=address,
            progress=bar.callback("link"),
        )
    if as_json:
        print_json(asdict(summary))
        return
    for note in summary.notes[:_NOTED]:
        warn(note)
    if len(summary.notes) > _NOTED:
        warn(f"and {len(summary.notes) - _NOTED} more of this kind; --json lists them")
    echo(
        f"{out or run / 'tracks'}: {summary.tracks} tracks of {summary.detections} detections in "
        f"{summary.sequences} sequences, {summary.linked} links"
        + (f", {summary.weak} weak ones in no track" if summary.weak else "")
        + (f", {summary.left_out} left out (errors)" if summary.left_out else "")
    )


def read_options(file: Path, given: str = "--options") -> LinkOptions:
    """Link options from a file of JSON, that the command line's ``given`` names.

    Raises:
        InputError: it cannot be read, or says something that is no option.
    """
    import json

    from tracks.association.options import LinkOptions

    try:
        return LinkOptions(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{given} {file} cannot be read as link options: {error}") from None
