"""The command of this room: ``extract``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cluster.console import Bar, Json, absolute, print_json, say, warn
from cluster.errors import InputError
from pipelines import clips_cli, models_cli, probe_cli

if TYPE_CHECKING:
    from pipelines.extract import Outcome, Progress
    from pipelines.facts import GateRequest, Outputs
    from pipelines.run import Run

_NAMED = 10  # failed videos

app = typer.Typer()
app.add_typer(clips_cli.app)
app.add_typer(probe_cli.app, name="probe")
app.add_typer(models_cli.app, name="models")


@app.command()
def extract(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder of images; a manifest (.parquet, .csv, .jsonl) with a column 'image' "
            "and, if you have boxes, x1 y1 x2 y2 in pixels; or a folder of videos."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(
            help="lite0 (EfficientNet-Lite0, ImageNet classes, no download), timm:NAME, "
            "torchvision:NAME, ami:NAME, or tiny (for trying things out); see onepass models."
        ),
    ],
    out: Annotated[Path, typer.Option(help="The run folder; the same command continues it.")],
    kind: Annotated[
        Literal["images", "video"],
        typer.Option(
            "--source",
            help="video: SPLIT/CATEGORY/… of videos, folders of images, or .pt tensors; frames "
            "are squashed to 256 pixels unless you say otherwise.",
        ),
    ] = "images",
    frames: Annotated[
        int | None,
        typer.Option(
            min=0, help="Of each video, evenly spread; 64 if not given, 0 for every frame."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="So many images or videos only, for trying out.")
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option(help="Your weights for the model (a state dict).")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Class names: one a line, or JSON {name: index}.")
    ] = None,
    pretrained: Annotated[bool, typer.Option(help="Fetch the model's own weights.")] = False,
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="The network untrained, to compare with.")
    ] = False,
    head: Annotated[
        str | None,
        typer.Option(help="Classes by this head (onepass probe train), not by the model's own."),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            help="What to keep of the pass: pooled (always), map (unpooled), pyramid (levels)."
        ),
    ] = "pooled",
    feature_indices: Annotated[
        str | None,
        typer.Option(help="Levels of the pyramid, as 2,4; see onepass models describe."),
    ] = None,
    feature_point: Annotated[
        Literal["penultimate", "map_mean"],
        typer.Option(help="Where the embedding is taken; map_mean: the average of the map."),
    ] = "penultimate",
    output_stride: Annotated[
        int | None, typer.Option(help="Input pixels a cell of the last map, where it can be set.")
    ] = None,
    gate: Annotated[
        str | None, typer.Option(help="A model that decides first which rows get a class.")
    ] = None,
    gate_label: Annotated[str | None, typer.Option(help="The gate's class that passes.")] = None,
    gate_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="The least score that passes.")
    ] = 0.5,
    gate_checkpoint: Annotated[str | None, typer.Option(help="The gate's weights.")] = None,
    gate_labels: Annotated[str | None, typer.Option(help="The gate's class names.")] = None,
    embed_with: Annotated[
        Literal["model", "gate"],
        typer.Option(
            help="Whose embedding every row gets. gate: the model runs only on rows that pass."
        ),
    ] = "model",
    hdf5: Annotated[bool, typer.Option("--hdf5", help="Also write features.h5.")] = False,
    logits: Annotated[bool, typer.Option("--logits", help="Also keep all logits.")] = False,
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="auto: half where the hardware is faster in it and classes survive it."),
    ] = "auto",
    engine: Annotated[
        Literal["auto", "eager", "compile", "openvino"],
        typer.Option(help="auto: another than eager where the rows repay building it."),
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
    batch_rows: Annotated[
        int | None, typer.Option(min=1, help="Images a forward pass, if not what suits the device.")
    ] = None,
    gpus_per_actor: Annotated[
        float, typer.Option(min=0.05, max=1, help="0.5 puts two actors on a GPU.")
    ] = 1.0,
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
    from pipelines.facts import ModelRequest, Reading

    if frames is not None and kind != "video":
        raise InputError(f"--frames {frames} is of videos; add --source video")
    request = ModelRequest(
        spec=model,
        checkpoint=absolute(checkpoint),
        labels=absolute(labels),
        pretrained=pretrained,
        random_weights=random_weights,
        head=absolute(head),
        input_size=input_size,
        mean=_three(mean, "--mean"),
        std=_three(std, "--std"),
        interpolation=interpolation,
        resize=resize,
        feature_point=feature_point,
        output_stride=output_stride,
    )
    chosen = Options(
        precision=precision,
        engine=engine,
        outputs=_outputs(features, feature_indices, logits=logits),
        reading=Reading(kind=kind, frames=frames, limit=limit),
        gate=_gate(gate, gate_label, gate_threshold, gate_checkpoint, gate_labels, embed_with),
        gpus_per_actor=gpus_per_actor,
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
                "source_notes": outcome.source_notes,
                **({"failed_videos": outcome.run.failed_sequences()} if kind == "video" else {}),
                **manifest.model_dump(mode="json", exclude={"files"}),
            }
        )
        return
    _say_extracted(outcome, videos=kind == "video")


def _say_extracted(outcome: Outcome, *, videos: bool) -> None:
    run, manifest = outcome.run, outcome.run.manifest
    rows = manifest.rows
    if outcome.already_finished:
        say(f"{run.path} is finished already: {rows.written} rows; nothing to do")
        return
    own = manifest.model.request
    if manifest.model.weights.startswith("random") and not (own.random_weights or own.head):
        warn(
            f"{manifest.model.request.spec} has random weights: classes and embeddings mean "
            "nothing; give --checkpoint FILE or --pretrained"
        )
    if outcome.skipped_files:
        kinds = ", ".join(f"{n} {suffix}" for suffix, n in sorted(outcome.skipped_files.items()))
        warn(f"other files were left out: {kinds}")
    for note in outcome.source_notes:
        warn(note)
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
        f"  {model.request.spec}, {manifest.engine} {manifest.precision}: {model.num_classes} classes, "
        f"{model.feature_dim}-d embeddings"
        + (f", cosine to fp32 {audit.cosine_mean:.4f}" if audit else "")
    )
    classifier = manifest.classifier or model
    if classifier.head is not None:
        say(f"  {classifier.num_classes} classes by head {classifier.request.head}")
    for known in classifier.maps:
        say(f"  {known.name}: {' x '.join(map(str, known.shape))} a row")
    if manifest.gate is not None:
        say(f"  {rows.refused} rows did not pass the gate: an embedding and no class")
    for note in manifest.notes:
        say(f"  {note}")
    for kind, count in sorted(manifest.errors.items(), key=lambda item: -item[1]):
        say(f"  {count} x {kind}")
    if videos:
        _say_failed_videos(run)
        say(f"next: onepass clips {run.path} --out FOLDER   or: onepass index build {run.path}")
        return
    say(f"next: onepass index build {run.path} --out INDEX   or: onepass link {run.path}")


def _say_failed_videos(run: Run) -> None:
    failed = run.failed_sequences()
    for rows, error in list(failed.values())[:_NAMED]:
        say(f"  {error}" + (f" (and {rows - 1} frames more)" if rows > 1 else ""))
    if len(failed) > _NAMED:
        say(f"  and {len(failed) - _NAMED} videos more; filter the run's rows on 'error'")


def shown_on(bar: Bar) -> Callable[[Progress], None]:
    """What an extraction reports, as stages of ``bar``."""
    return lambda progress: bar.update(progress.stage, progress.done, progress.planned)


def _outputs(features: str, indices: str | None, *, logits: bool) -> Outputs:
    from pipelines.facts import Outputs

    kinds = {kind.strip() for kind in features.split(",")}
    unknown = kinds - {"pooled", "map", "pyramid"}
    if unknown:
        raise InputError(
            f"--features {features}: {sorted(unknown)[0]!r} is unknown; choose from pooled, map, "
            "pyramid, with commas"
        )
    if ("pyramid" in kinds) != (indices is not None):
        raise InputError(
            "--features pyramid and --feature-indices 2,4 go together; the levels are listed by "
            "onepass models describe"
        )
    try:
        levels = tuple(int(part) for part in indices.split(",")) if indices else ()
    except ValueError:
        raise InputError(f"--feature-indices {indices}: give whole numbers, as 2,4") from None
    if len(set(levels)) != len(levels):
        raise InputError(f"--feature-indices {indices}: each level once")
    return Outputs(logits=logits, map="map" in kinds, pyramid=levels)


def _gate(
    spec: str | None,
    label: str | None,
    threshold: float,
    checkpoint: str | None,
    labels: str | None,
    embed: Literal["model", "gate"],
) -> GateRequest | None:
    from pipelines.facts import GateRequest, ModelRequest

    if spec is None:
        if label or checkpoint or labels or embed == "gate":
            raise InputError(
                "--gate-label, --gate-checkpoint, --gate-labels and --embed-with gate need --gate SPEC"
            )
        return None
    if label is None:
        raise InputError(f"--gate {spec}: say which of its classes passes, with --gate-label")
    model = ModelRequest(spec=spec, checkpoint=absolute(checkpoint), labels=absolute(labels))
    return GateRequest(model=model, label=label, threshold=threshold, embed=embed)


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
