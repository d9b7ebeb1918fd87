"""The command ``link``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from common.errors import InputError
from common.moved import read_pairs
from common.progress import ProgressBar
from onepass.cli.config_options import with_config
from onepass.cli.console import ExecutorOption, Images, Json, echo, local_path, print_json, warn
from tracks.association.options import PRESETS, LinkOptions, Preset

_NOTES_SHOWN = 5  # warnings about sequences; --json and the manifest have all

app = typer.Typer()


@app.command()
@with_config(LinkOptions, parameter="fields", preset=True)
def link(
    run: Annotated[Path, typer.Argument(parser=local_path, help="A finished run.")],
    *,
    out: Annotated[
        Path | None,
        typer.Option(parser=local_path, help="Where the tracks go, if not into RUN/tracks."),
    ] = None,
    preset: Annotated[
        Preset,
        typer.Option(
            help="default: all frames of a sequence at once. online: frame by frame. ami, antenna: the old greedy "
            "rules at 1.0 and 0.2, for comparison."
        ),
    ] = "default",
    options: Annotated[
        Path | None,
        typer.Option(
            parser=local_path, help="Options that onepass tracks tune wrote, as a preset."
        ),
    ] = None,
    fields: dict[str, Any],
    score_column: Annotated[
        str, typer.Option(help="The detector's score, a column of the run; for --strong-score.")
    ] = "detector_score",
    images: Images = None,
    executor: ExecutorOption = "auto",
    address: Annotated[
        str | None,
        typer.Option(help="A Ray cluster to link sequences on, side by side; local starts one."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Link detections into tracks, one individual each, sequence by sequence.

    All frames of a sequence are linked at once: how far its individuals move, and how alike they look,
    it shows itself. With --preset online, frame by frame, a pair costs w_feature (1 - cosine) + w_iou
    (1 - IoU) + w_area (1 - smaller / larger area) + w_distance (distance / image diagonal). Look at the
    links that were nearly others with onepass tracks review.

    Example: onepass link runs/first --max-gap-frames 3
    """
    from tracks.link import link_run  # late: SciPy and Arrow take a second

    if options is not None and preset != "default":
        raise InputError(f"--options {options} and --preset {preset}: give one of them")
    base = PRESETS[preset] if options is None else LinkOptions.read(options)
    config = base.replace(**fields)
    with ProgressBar(resumes=False) as bar:
        summary = link_run(
            run,
            out=out,
            options=config,
            score_column=None if config.strong_score is None else score_column,
            pairs=read_pairs(images),
            executor=executor,
            address=address,
            progress=bar.callback("link"),
        )
    if as_json:
        print_json(asdict(summary))
        return
    for note in summary.notes[:_NOTES_SHOWN]:
        warn(note)
    if len(summary.notes) > _NOTES_SHOWN:
        warn(f"and {len(summary.notes) - _NOTES_SHOWN} more of this kind; --json lists them")
    echo(
        f"{out or run / 'tracks'}: {summary.tracks} tracks of {summary.detections} detections in "
        f"{summary.sequences} sequences, {summary.linked} links"
        + (f", {summary.weak} weak ones in no track" if summary.weak else "")
        + (f", {summary.duplicates} duplicates" if summary.duplicates else "")
        + (f", {summary.merged} boxes of several individuals" if summary.merged else "")
        + (f", {summary.left_out} left out (errors)" if summary.left_out else "")
    )
    begun, ended = summary.entered + summary.appeared, summary.left + summary.vanished
    if begun or ended:
        echo(
            f"{begun} tracks begin after the first frame, {summary.entered} of them at the border; {ended} end "
            f"before the last one, {summary.left} at the border"
        )
