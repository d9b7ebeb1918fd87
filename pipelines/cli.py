"""The command of this room: ``extract``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster.console import Bar, Json, print_json, say, warn
from cluster.errors import InputError

if TYPE_CHECKING:
    from pipelines.extract import Outcome, Progress
app = typer.Typer()


@app.command()
def extract(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of images, or a manifest (.parquet, .csv, .jsonl) with a column "
            "'image' and, if you have boxes, x1 y1 x2 y2 in pixels."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="lite0 (EfficientNet-Lite0, ImageNet classes, no download), timm:NAME, or "
            "tiny (for trying things out)."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The run folder; the same command continues it.")],
    checkpoint: Annotated[
        str | None, typer.Option(help="Weights for timm:NAME (a state dict).")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Class names: one a line, or JSON {name: index}.")
    ] = None,
    pretrained: Annotated[bool, typer.Option(help="Fetch timm:NAME's weights.")] = False,
    hdf5: Annotated[bool, typer.Option("--hdf5", help="Also write features.h5.")] = False,
    logits: Annotated[bool, typer.Option("--logits", help="Also keep all logits.")] = False,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="auto: half precision only where the hardware is faster in it."),
    ] = "auto",
    input_size: Annotated[
        int | None, typer.Option(help="Pixels a side, if not the model's.")
    ] = None,
    mean: Annotated[str | None, typer.Option(help="Three numbers 0..1, as 0.5,0.5,0.5.")] = None,
    std: Annotated[str | None, typer.Option(help="Three numbers 0..1, as 0.5,0.5,0.5.")] = None,
    interpolation: Annotated[Literal["bilinear", "bicubic"] | None, typer.Option()] = None,
    resize: Annotated[
        Literal["squash", "crop", "pad"] | None,
        typer.Option(help="squash ignores the aspect ratio, crop keeps the centre, pad fits in."),
    ] = None,
    batch_rows: Annotated[int, typer.Option(min=1, help="Images a forward pass.")] = 32,
    stall_seconds: Annotated[
        float, typer.Option(min=1, help="Give up, loudly, when no row moves for this long.")
    ] = 300,
    as_json: Json = False,
) -> None:
    """Class and embedding of every image or box, in one forward pass.

    An image that cannot be read becomes a row with an error, never a missing row. Runs on
    the cluster of RAY_ADDRESS where that is set, else on this machine.

    Example: onepass extract photos/ --model lite0 --out runs/first --hdf5
    """
    from pipelines.extract import Options
    from pipelines.extract import extract as run_extract
    from pipelines.facts import ModelRequest

    request = ModelRequest(
        spec=model,
        checkpoint=str(Path(checkpoint).resolve()) if checkpoint else None,
        labels=str(Path(labels).resolve()) if labels else None,
        pretrained=pretrained,
        input_size=input_size,
        mean=_three(mean, "--mean"),
        std=_three(std, "--std"),
        interpolation=interpolation,
        resize=resize,
    )
    chosen = Options(
        precision=precision,
        logits=logits,
        hdf5=hdf5,
        batch_rows=batch_rows,
        stall_seconds=stall_seconds,
    )
    with Bar() as bar:
        outcome = run_extract(source, request, out, chosen, report=shown_on(bar))
    manifest = outcome.run.manifest
    if as_json:
        print_json(
            {
                "run": str(out),
                "already_finished": outcome.already_finished,
                "resumed_rows": outcome.resumed_rows,
                "first_answer_seconds": outcome.first_answer_seconds,
                "skipped_files": outcome.skipped_files,
                **manifest.model_dump(mode="json", exclude={"files"}),
            }
        )
        return
    _say_extracted(outcome)


def _say_extracted(outcome: Outcome) -> None:
    run, manifest = outcome.run, outcome.run.manifest
    rows = manifest.rows
    if outcome.already_finished:
        say(f"{run.path} is finished already: {rows.written} rows; nothing to do")
        return
    if manifest.model.weights.startswith("random"):
        warn(
            f"{manifest.model.request.spec} has random weights: classes and embeddings mean "
            "nothing; give --checkpoint FILE or --pretrained"
        )
    if outcome.skipped_files:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in sorted(outcome.skipped_files.items()))
        warn(f"files that are not images were left out: {kinds}")
    audit = manifest.precision_audit
    if audit is not None and audit.cosine_min < 0.99:
        warn(
            f"{manifest.precision} moves embeddings (cosine to fp32 {audit.cosine_min:.3f} at "
            "worst); --precision fp32 is slower and exact"
        )
    again = f", {outcome.resumed_rows} of them from before" if outcome.resumed_rows else ""
    model = manifest.model
    say(
        f"{run.path}: {rows.written} rows{again}, {rows.failed} with errors, in "
        f"{manifest.seconds:.1f} s ({(rows.written - outcome.resumed_rows) / manifest.seconds:.0f} "
        f"images/s with start-up)"
    )
    say(
        f"  {model.request.spec}, {manifest.precision}: {model.num_classes} classes, "
        f"{model.feature_dim}-d embeddings"
        + (f", cosine to fp32 {audit.cosine_mean:.4f}" if audit else "")
    )
    for kind, count in sorted(manifest.errors.items(), key=lambda item: -item[1]):
        say(f"  {count} x {kind}")
    say(f"next: onepass index build {run.path} --out INDEX   or: onepass link {run.path}")


def shown_on(bar: Bar) -> Callable[[Progress], None]:
    """What an extraction reports, as stages of ``bar``."""
    return lambda progress: bar.update(progress.stage, progress.done, progress.planned)


def _three(text: str | None, option: str) -> tuple[float, float, float] | None:
    if text is None:
        return None
    try:
        a, b, c = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} {text}: give three numbers, as 0.5,0.5,0.5") from None
    if option == "--std" and min(a, b, c) <= 0:
        raise InputError(f"--std {text}: each must be above 0")
    return a, b, c
