"""The commands ``models list``, ``models describe`` and ``models compare``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from common.json_models import configure
from common.progress import ProgressBar
from onepass.cli.config_options import with_config
from onepass.cli.console import Json, echo, print_json, warn
from pipelines.config import ExtractConfig
from pipelines.model_info import ModelRequest

if TYPE_CHECKING:
    from pipelines.models.compare import Comparison, Difference
    from pipelines.models.describe import Description

app = typer.Typer(
    no_args_is_help=True, help="List models, describe one, or compare it with the old extractor."
)

Spec = Annotated[
    str, typer.Argument(help="The model, as for extract --model; see 'onepass models list'.")
]
_OPTIONS = {"checkpoint", "weights", "labels", "pretrained", "input_size"}
_OTHERS = ExtractConfig.model_fields.keys() - _OPTIONS

_ERRORS_NAMED = 5


@app.command("list")
def list_models(
    pattern: Annotated[
        str | None, typer.Argument(help="Part of a name, or a glob: resnet, 'timm:convnext*'.")
    ] = None,
    as_json: Json = False,
) -> None:
    """The families of models; with a pattern, every model that matches it.

    Example: onepass models list resnet50
    """
    from pipelines.models.describe import FAMILIES, matching_specs  # late: start-up time

    if pattern is None:
        if as_json:
            print_json({"families": [family._asdict() for family in FAMILIES]})
            return
        for family in FAMILIES:
            echo(f"{family.spec:<18}{family.what}")
        echo("next: onepass models list PATTERN   or: onepass models describe SPEC")
        return
    specs = matching_specs(pattern)
    if as_json:
        print_json({"pattern": pattern, "models": specs})
        return
    for spec in specs:
        echo(spec)


@app.command()
@with_config(ExtractConfig, leave_out=_OTHERS)
def describe(
    spec: Spec,
    *,
    options: dict[str, Any],
    depth: Annotated[int, typer.Option(min=1, help="Depth of the listed layers.")] = 2,
    as_json: Json = False,
) -> None:
    """A model's input and outputs, its pyramid, and its layers.

    Example: onepass models describe timm:resnet18 --depth 1
    """
    from pipelines.models.describe import describe_model  # late: start-up time

    description = describe_model(_request(spec, options), depth=depth)
    if as_json:
        print_json(description.model_dump(mode="json"))
        return
    _print_description(description)


@app.command()
@with_config(ExtractConfig, leave_out=_OTHERS - {"feature_point"})
def compare(
    spec: Spec,
    source: Annotated[
        str, typer.Option(help="Your images: a folder or a manifest, as for extract.")
    ],
    *,
    options: dict[str, Any],
    limit: Annotated[int, typer.Option(min=1, help="Rows to compare, spread evenly.")] = 64,
    as_json: Json = False,
) -> None:
    """Whether vectors stored by the old extractor can be kept.

    The old extractor is all children of the model but the last, flattened, each vector divided
    by its sum. It and the one pass run on the same crops, in float32.

    Example: onepass models compare timm:resnet50 --checkpoint F --source photos/
    """
    from pipelines.models.compare import compare as run_compare  # late: start-up time

    request = _request(spec, options)
    with ProgressBar(resumes=False) as bar:
        comparison = run_compare(request, source, limit=limit, report=bar.callback("compare"))
    for line in comparison.warnings:
        warn(line)
    if as_json:
        print_json(comparison.model_dump(mode="json") | {"warnings": comparison.warnings})
        return
    _print_comparison(comparison)


def _request(spec: str, options: dict[str, Any]) -> ModelRequest:
    return configure(ExtractConfig, source="", model=spec, **options).model_request


def _print_description(description: Description) -> None:
    preprocess = description.preprocess
    height, width = preprocess.input_size
    crop_pct = f", crop_pct {preprocess.crop_pct:.4g}" if preprocess.resize == "crop" else ""
    names = "with names" if description.labelled else "without names"
    facts = {
        "model": description.spec,
        "weights": description.weights,
        "input": f"{height} x {width}, {preprocess.resize}{crop_pct}, {preprocess.interpolation}",
        "mean": " ".join(f"{value:g}" for value in preprocess.mean),
        "std": " ".join(f"{value:g}" for value in preprocess.std),
        "classes": f"{description.num_classes}, {names}",
        "embedding": f"{description.feature_dim}-d",
        "parameters": f"{description.parameters / 1e6:.2f} million",
        "multiply-adds": f"{description.multiply_adds / 1e6:,.0f} million an image",
    }
    for name, value in facts.items():
        echo(f"{name:<15}{value}")
    echo("")
    if description.levels:
        _print_table(
            ("level", "name", "channels", "reduction"),
            [
                (str(level.index), level.name, str(level.channels), str(level.reduction))
                for level in description.levels
            ],
        )
    else:
        echo("no pyramid")
    echo("")
    rows = []
    for layer in description.layers:
        indent = "  " * (layer.name.count(".") + bool(layer.name))
        own = layer.name.rpartition(".")[2]
        shape = " x ".join(map(str, layer.output_shape)) or "-"
        parameters = f"{layer.parameters:,}" if layer.parameters else "-"
        rows.append((f"{indent}{own or '(all)'}", layer.type, shape, parameters))
    _print_table(("layer", "type", "output", "parameters"), rows)


def _print_comparison(comparison: Comparison) -> None:
    echo(
        f"{comparison.request.spec}, weights {comparison.weights}: {comparison.rows} rows of {comparison.source}"
    )
    if comparison.errors:
        echo(f"  left out       {len(comparison.errors)} rows")
        for line in comparison.errors[:_ERRORS_NAMED]:
            echo(f"    {line}")
        if len(comparison.errors) > _ERRORS_NAMED:
            echo(f"    and {len(comparison.errors) - _ERRORS_NAMED} more")
    if comparison.old_error is not None:
        echo(f"  old extractor  fails: {comparison.old_error}")
    elif comparison.old_shape is not None:
        flattened = (
            f", {list(comparison.old_shape)} flattened" if len(comparison.old_shape) > 1 else ""
        )
        echo(f"  old extractor  {comparison.old_dim}-d{flattened}")
    echo(f"  {comparison.new.point:<15}{_differences(comparison.new)}")
    if comparison.other is not None:
        echo(f"  {comparison.other.point:<15}{_differences(comparison.other)}")
    if comparison.sum_share_min is not None:
        echo(f"  sums           |sum| is at least {comparison.sum_share_min:.3g} of the sum of |x|")
    echo(comparison.says)


def _differences(difference: Difference) -> str:
    if difference.relative is None:
        return f"{difference.dim}-d"
    return (
        f"{difference.dim}-d, largest difference {difference.max_abs:.2g} ({difference.relative:.2g} of the "
        f"vector's largest value), cosine mean {difference.cosine_mean:.6f}, min {difference.cosine_min:.6f}"
    )


def _print_table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Columns of minimal width, two spaces apart."""
    table = [header, *rows]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
