"""The commands ``models list``, ``models describe`` and ``models compare``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from common.progress import ProgressBar
from onepass.cli.console import Json, absolute, echo, print_json, warn

if TYPE_CHECKING:
    from pipelines.model_info import ModelRequest
    from pipelines.models.compare import Comparison, Difference
    from pipelines.models.describe import Description

app = typer.Typer(
    no_args_is_help=True, help="Which models there are, and what one of them is and gives."
)

Spec = Annotated[
    str, typer.Argument(help="The model, as for extract --model; see 'onepass models list'.")
]
Checkpoint = Annotated[str | None, typer.Option(help="Its weights (a state dict).")]
Labels = Annotated[str | None, typer.Option(help="Class names: one a line, or JSON {name: index}.")]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Fetch its weights.")]
InputSize = Annotated[int | None, typer.Option(min=1, help="Pixels a side, if not the model's.")]

_ERRORS_NAMED = 5


@app.command("list")
def list_models(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a name, or a glob: resnet, 'timm:convnext*'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The families of models; with a pattern, every model whose name it fits.

    Example: onepass models list resnet50
    """
    from pipelines.models.describe import FAMILIES, matching_specs

    if pattern is None:
        if as_json:
            print_json({"families": [family._asdict() for family in FAMILIES]})
            return
        for family in FAMILIES:
            echo(f"{family.spec:<18}{family.what}")
        echo("next: onepass models list PATTERN   or: onepass models describe SPEC")
        return
    found = matching_specs(pattern)
    if as_json:
        print_json({"pattern": pattern, "models": found})
        return
    for spec in found:
        echo(spec)


@app.command()
def describe(
    spec: Spec,
    checkpoint: Checkpoint = None,
    labels: Labels = None,
    pretrained: Pretrained = False,
    input_size: InputSize = None,
    depth: Annotated[int, typer.Option(min=1, help="How deep the list of layers goes.")] = 2,
    as_json: Json = False,
) -> None:
    """What a model takes and gives, its pyramid, and its layers.

    Example: onepass models describe timm:resnet18 --depth 1
    """
    from pipelines.models.describe import describe_model

    request = _request(spec, checkpoint, labels, pretrained=pretrained, input_size=input_size)
    found = describe_model(request, depth=depth)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    _say_description(found)


@app.command()
def compare(
    spec: Spec,
    source: Annotated[
        str, typer.Option(help="Your images: a folder or a manifest, as for extract.")
    ],
    checkpoint: Checkpoint = None,
    labels: Labels = None,
    pretrained: Pretrained = False,
    input_size: InputSize = None,
    feature_point: Annotated[
        Literal["penultimate", "map_mean"],
        typer.Option(help="What the new vectors are: the classifier's input, or the map's mean."),
    ] = "penultimate",
    limit: Annotated[int, typer.Option(min=1, help="Rows to compare, spread evenly.")] = 64,
    as_json: Json = False,
) -> None:
    """Whether vectors stored by the old extractor can be kept.

    The old extractor is all children of the model but the last, flattened, each vector divided
    by its sum. It and the one pass run on the same crops, in float32.

    Example: onepass models compare timm:resnet50 --checkpoint F --source photos/
    """
    from pipelines.models.compare import compare as run_compare

    request = _request(
        spec,
        checkpoint,
        labels,
        pretrained=pretrained,
        input_size=input_size,
        feature_point=feature_point,
    )
    with ProgressBar(resumes=False) as bar:
        found = run_compare(request, source, limit=limit, report=bar.counted("compare"))
    for line in found.warnings:
        warn(line)
    if as_json:
        print_json(found.model_dump(mode="json") | {"warnings": found.warnings})
        return
    _say_comparison(found)


def _request(
    spec: str,
    checkpoint: str | None,
    labels: str | None,
    *,
    pretrained: bool,
    input_size: int | None,
    feature_point: Literal["penultimate", "map_mean"] = "penultimate",
) -> ModelRequest:
    from pipelines.model_info import ModelRequest

    return ModelRequest(
        spec=spec,
        checkpoint=absolute(checkpoint),
        labels=absolute(labels),
        pretrained=pretrained,
        input_size=input_size,
        feature_point=feature_point,
    )


def _say_description(found: Description) -> None:
    how = found.preprocess
    height, width = how.input_size
    shrunk = f", crop_pct {how.crop_pct:.4g}" if how.resize == "crop" else ""
    named = "with names" if found.labelled else "without names"
    facts = {
        "model": found.spec,
        "weights": found.weights,
        "input": f"{height} x {width}, {how.resize}{shrunk}, {how.interpolation}",
        "mean": " ".join(f"{value:g}" for value in how.mean),
        "std": " ".join(f"{value:g}" for value in how.std),
        "classes": f"{found.num_classes}, {named}",
        "embedding": f"{found.feature_dim}-d",
        "parameters": f"{found.parameters / 1e6:.2f} million",
        "multiply-adds": f"{found.multiply_adds / 1e6:,.0f} million an image",
    }
    for name, value in facts.items():
        echo(f"{name:<15}{value}")
    echo("")
    if found.levels:
        _say_table(
            ("level", "name", "channels", "reduction"),
            [
                (str(level.index), level.name, str(level.channels), str(level.reduction))
                for level in found.levels
            ],
        )
    else:
        echo("no pyramid")
    echo("")
    rows = []
    for layer in found.layers:
        indent = "  " * (layer.name.count(".") + bool(layer.name))
        own = layer.name.rpartition(".")[2]
        shape = " x ".join(map(str, layer.output_shape)) or "-"
        parameters = f"{layer.parameters:,}" if layer.parameters else "-"
        rows.append((f"{indent}{own or '(all)'}", layer.type, shape, parameters))
    _say_table(("layer", "type", "output", "parameters"), rows)


def _say_comparison(found: Comparison) -> None:
    echo(f"{found.request.spec}, weights {found.weights}: {found.rows} rows of {found.source}")
    if found.errors:
        echo(f"  left out       {len(found.errors)} rows")
        for line in found.errors[:_ERRORS_NAMED]:
            echo(f"    {line}")
        if len(found.errors) > _ERRORS_NAMED:
            echo(f"    and {len(found.errors) - _ERRORS_NAMED} more")
    if found.old_error is not None:
        echo(f"  old extractor  fails: {found.old_error}")
    elif found.old_shape is not None:
        flattened = f", {list(found.old_shape)} flattened" if len(found.old_shape) > 1 else ""
        echo(f"  old extractor  {found.old_dim}-d{flattened}")
    echo(f"  {found.new.point:<15}{_in_words(found.new)}")
    if found.other is not None:
        echo(f"  {found.other.point:<15}{_in_words(found.other)}")
    if found.sum_share_min is not None:
        echo(f"  sums           |sum| is at least {found.sum_share_min:.3g} of the sum of |x|")
    echo(found.says)


def _in_words(found: Difference) -> str:
    if found.relative is None:
        return f"{found.dim}-d"
    return (
        f"{found.dim}-d, largest difference {found.max_abs:.2g} ({found.relative:.2g} of the "
        f"vector's largest value), cosine mean {found.cosine_mean:.6f}, min {found.cosine_min:.6f}"
    )


def _say_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns as wide as they need to be; two spaces apart."""
    table = [header, *rows]
    widths = [max(len(row[at]) for row in table) for at in range(len(header))]
    for row in table:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
