"""The command ``clips``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import InputError
from common.progress import ProgressBar
from onepass.cli.console import ExecutorOption, Json, echo, local_path, print_json, to_path

if TYPE_CHECKING:
    from pipelines.outputs.clips.write import Outcome

app = typer.Typer()

_NAMED = 10  # clips left out that are printed; the manifest has all


@app.command()
def clips(
    run: Annotated[
        Path,
        typer.Argument(
            parser=to_path, help="A finished run of videos, or of frames with their columns."
        ),
    ],
    out: Annotated[
        Path, typer.Option(parser=local_path, help="The folder; the same command continues it.")
    ],
    scales: Annotated[
        str,
        typer.Option(
            help="Speeds whose mean is stored, as 1.0,0.85,1.15; 1.0: frames as they are."
        ),
    ] = "1.0",
    limit: Annotated[
        int | None, typer.Option(min=1, help="Clips at most, spread evenly over the run.")
    ] = None,
    executor: ExecutorOption = "auto",
    as_json: Json = False,
) -> None:
    """Embeddings of a run's videos as one HDF5 file a split, one clip a row.

    A clip with a frame that failed is left out and named. The network is not run again.

    Example: onepass clips runs/videos --out features --scales 1.0,0.85,1.15
    """
    from pipelines.outputs.clips.write import make_clips  # late: start-up time

    with ProgressBar(resumes=True) as bar:
        outcome = make_clips(
            run,
            out,
            scales=_numbers(scales),
            limit=limit,
            executor=executor,
            report=bar.callback("clips"),
        )
    if as_json:
        print_json(
            {
                "out": str(out),
                "already_finished": outcome.already_finished,
                "resumed_clips": outcome.resumed_clips,
                **outcome.manifest.model_dump(mode="json", exclude={"files"}),
            }
        )
        return
    _print_outcome(out, outcome)


def _print_outcome(out: Path, outcome: Outcome) -> None:
    from pipelines.outputs.clips.folder import file_stem  # late: start-up time

    manifest = outcome.manifest
    written = sum(manifest.clips.values())
    if outcome.already_finished:
        echo(f"{out} is finished already: {written} clips; nothing to do")
        return
    files = {
        split: out / f"{file_stem(split, manifest.request.scales)}.h5" for split in manifest.clips
    }
    for split, count in manifest.clips.items():
        if count:
            shape = f"{count} clip{'' if count == 1 else 's'}, {manifest.max_frames} frames, {manifest.feature_dim}-d"
            echo(f"{files[split]}: {shape}")
        else:
            echo(f"split {split}: every clip has an error; no file was written")
    if outcome.resumed_clips:
        echo(f"  {outcome.resumed_clips} clips were there from before")
    for clip in manifest.left_out[:_NAMED]:
        echo(f"left out: {clip.id}: {clip.error}")
    if len(manifest.left_out) > _NAMED:
        more = len(manifest.left_out) - _NAMED
        echo(f"and {more} more, in {out / 'manifest.json'}")
    first = next(split for split, count in manifest.clips.items() if count)
    example = files["train" if manifest.clips.get("train") else first]
    echo(f"next: onepass probe train {example} --labels category --out head.pt")


def _numbers(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--scales {text}: give numbers, as 1.0,0.85,1.15") from None
