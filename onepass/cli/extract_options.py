"""What ``extract`` and ``migrate`` are asked alike: the model, what to keep, how to run.

One declaration of each option. ``with_options`` puts them into a command's own, so that the
command takes one ``Asked`` where it would take twenty-five parameters.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

from common.errors import InputError
from onepass.cli.console import ExecutorOption, absolute, to_path

if TYPE_CHECKING:
    from pipelines.config import Options
    from pipelines.model_info import GateRequest, ModelRequest, Outputs, Reading


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The options as they were typed."""

    model: Annotated[
        str,
        typer.Option(
            help="lite0 (EfficientNet-Lite0, ImageNet classes, no download), timm:NAME, "
            "torchvision:NAME, ami:NAME, or tiny (for trying things out); see onepass models."
        ),
    ]
    out: Annotated[
        Path,
        typer.Option(parser=to_path, help="The run folder; the same command continues it."),
    ]
    checkpoint: Annotated[
        str | None, typer.Option(help="Your weights for the model (a state dict).")
    ] = None
    labels: Annotated[
        str | None, typer.Option(help="Class names: one a line, or JSON {name: index}.")
    ] = None
    pretrained: Annotated[bool, typer.Option(help="Fetch the model's own weights.")] = False
    random_weights: Annotated[
        bool, typer.Option("--random-weights", help="The network untrained, to compare with.")
    ] = False
    head: Annotated[
        str | None,
        typer.Option(help="Classes by this head (onepass probe train), not by the model's own."),
    ] = None
    features: Annotated[
        str,
        typer.Option(
            help="What to keep of the pass: pooled (always), map (unpooled), pyramid (levels)."
        ),
    ] = "pooled"
    feature_indices: Annotated[
        str | None,
        typer.Option(help="Levels of the pyramid, as 2,4; see onepass models describe."),
    ] = None
    feature_point: Annotated[
        Literal["penultimate", "map_mean"],
        typer.Option(help="Where the embedding is taken; map_mean: the average of the map."),
    ] = "penultimate"
    output_stride: Annotated[
        int | None, typer.Option(help="Input pixels a cell of the last map, where it can be set.")
    ] = None
    gate: Annotated[
        str | None, typer.Option(help="A model that decides first which rows get a class.")
    ] = None
    gate_label: Annotated[str | None, typer.Option(help="The gate's class that passes.")] = None
    gate_threshold: Annotated[
        float, typer.Option(min=0, max=1, help="The least score that passes.")
    ] = 0.5
    gate_checkpoint: Annotated[str | None, typer.Option(help="The gate's weights.")] = None
    gate_labels: Annotated[str | None, typer.Option(help="The gate's class names.")] = None
    embed_with: Annotated[
        Literal["model", "gate"],
        typer.Option(
            help="Whose embedding every row gets. gate: the model runs only on rows that pass."
        ),
    ] = "model"
    hdf5: Annotated[bool, typer.Option("--hdf5", help="Also write features.h5.")] = False
    logits: Annotated[bool, typer.Option("--logits", help="Also keep all logits.")] = False
    precision: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(help="auto: half where the hardware is faster in it and classes survive it."),
    ] = "auto"
    engine: Annotated[
        Literal["auto", "eager", "compile", "openvino"],
        typer.Option(help="auto: another than eager where the rows repay building it."),
    ] = "auto"
    input_size: Annotated[int | None, typer.Option(help="Pixels a side, if not the model's.")] = (
        None
    )
    mean: Annotated[str | None, typer.Option(help="Three numbers 0..1, as 0.5,0.5,0.5.")] = None
    std: Annotated[str | None, typer.Option(help="Three numbers 0..1, as 0.5,0.5,0.5.")] = None
    interpolation: Annotated[Literal["bilinear", "bicubic"] | None, typer.Option()] = None
    resize: Annotated[
        Literal["squash", "crop", "pad"] | None,
        typer.Option(help="squash ignores the aspect ratio, crop keeps the centre, pad fits in."),
    ] = None
    batch_rows: Annotated[
        int | None, typer.Option(min=1, help="Images a forward pass, if not what suits the device.")
    ] = None
    gpus_per_actor: Annotated[
        float, typer.Option(min=0.05, max=1, help="0.5 puts two actors on a GPU.")
    ] = 1.0
    executor: ExecutorOption = "auto"
    stall_seconds: Annotated[
        float, typer.Option(min=1, help="Give up, loudly, when no row moves for this long.")
    ] = 300

    def request(self) -> ModelRequest:
        """The model that was asked for.

        Raises:
            InputError: ``mean`` or ``std`` is no three numbers.
        """
        from pipelines.model_info import ModelRequest

        return ModelRequest(
            spec=self.model,
            checkpoint=absolute(self.checkpoint),
            labels=absolute(self.labels),
            pretrained=self.pretrained,
            random_weights=self.random_weights,
            head=absolute(self.head),
            input_size=self.input_size,
            mean=_three(self.mean, "--mean"),
            std=_three(self.std, "--std"),
            interpolation=self.interpolation,
            resize=self.resize,
            feature_point=self.feature_point,
            output_stride=self.output_stride,
        )

    def options(self, reading: Reading | None = None) -> Options:
        """How to run.

        Raises:
            InputError: options of features or of the gate do not go together.
        """
        from pipelines.config import Options
        from pipelines.model_info import Reading

        return Options(
            precision=self.precision,
            engine=self.engine,
            outputs=self._outputs(),
            reading=reading or Reading(),
            gate=self._gate(),
            gpus_per_actor=self.gpus_per_actor,
            hdf5=self.hdf5,
            batch_rows=self.batch_rows,
            executor=self.executor,
            stall_seconds=self.stall_seconds,
        )

    def _outputs(self) -> Outputs:
        from pipelines.model_info import Outputs

        kinds = {kind.strip() for kind in self.features.split(",")}
        unknown = kinds - {"pooled", "map", "pyramid"}
        if unknown:
            raise InputError(
                f"--features {self.features}: {sorted(unknown)[0]!r} is unknown; choose from "
                "pooled, map, pyramid, with commas"
            )
        indices = self.feature_indices
        if ("pyramid" in kinds) != (indices is not None):
            raise InputError(
                "--features pyramid and --feature-indices 2,4 go together; the levels are listed "
                "by onepass models describe"
            )
        try:
            levels = tuple(int(part) for part in indices.split(",")) if indices else ()
        except ValueError:
            raise InputError(f"--feature-indices {indices}: give whole numbers, as 2,4") from None
        if len(set(levels)) != len(levels):
            raise InputError(f"--feature-indices {indices}: each level once")
        return Outputs(logits=self.logits, map="map" in kinds, pyramid=levels)

    def _gate(self) -> GateRequest | None:
        from pipelines.model_info import GateRequest, ModelRequest

        if self.gate is None:
            others = self.gate_label or self.gate_checkpoint or self.gate_labels
            if others or self.embed_with == "gate":
                raise InputError(
                    "--gate-label, --gate-checkpoint, --gate-labels and --embed-with gate need "
                    "--gate SPEC"
                )
            return None
        if self.gate_label is None:
            raise InputError(
                f"--gate {self.gate}: say which of its classes passes, with --gate-label"
            )
        model = ModelRequest(
            spec=self.gate,
            checkpoint=absolute(self.gate_checkpoint),
            labels=absolute(self.gate_labels),
        )
        return GateRequest(
            model=model, label=self.gate_label, threshold=self.gate_threshold, embed=self.embed_with
        )


def with_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give ``command(…, asked: Asked, …)`` the options of ``Asked`` in place of ``asked``."""
    names = {field.name for field in fields(Asked)}
    own = inspect.signature(command, eval_str=True).parameters
    kinds = get_type_hints(Asked, include_extras=True)
    shared = [
        parameter.replace(annotation=kinds[parameter.name])
        for parameter in inspect.signature(Asked).parameters.values()
    ]

    @functools.wraps(command)
    def told(**given: Any) -> None:
        asked = Asked(**{name: given.pop(name) for name in names})
        command(asked=asked, **given)

    parameters: list[inspect.Parameter] = []
    for parameter in own.values():
        found = shared if parameter.name == "asked" else [parameter]
        parameters += [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in found]
    told.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    told.__annotations__ = {}  # Typer resolves these as well; the signature has them all
    return told


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
