"""List the models, and describe one of them without a run."""

from __future__ import annotations

from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from common.errors import ModelError
from common.json_models import JsonModel
from pipelines.model_info import ModelRequest, Outputs, Preprocess

if TYPE_CHECKING:
    from torchinfo.layer_info import LayerInfo

    from pipelines.models.base import Loaded


class Family(NamedTuple):
    """One way to write ``--model``."""

    spec: str
    what: str


FAMILIES = (
    Family("lite0", "EfficientNet-Lite0 with ImageNet classes, weights from a Python package"),
    Family("lite1", "the next larger one, 240 pixels; likewise, onepass[lite1]"),
    Family("lite2", "and the next, 260 pixels; likewise, onepass[lite2]"),
    Family("tiny", "a small fixed network, for trying things out; its classes mean nothing"),
    Family("timm:NAME", "any classifier of timm, with --checkpoint FILE or --pretrained"),
    Family("torchvision:NAME", "any classifier of torchvision, the same way"),
    Family("ami:NAME", "the six AMI insect classifiers, with --checkpoint FILE --labels FILE"),
)


class LevelInfo(JsonModel):
    """One level of the pyramid, as ``--feature-indices`` counts them."""

    index: int
    name: str
    channels: int
    reduction: int  # input pixels a cell


class Layer(JsonModel):
    """One module of the network, with everything inside it."""

    name: str  # dotted, as in the state dict; empty for the whole network
    type: str
    output_shape: tuple[int, ...]  # for a batch of one image
    parameters: int


class Description(JsonModel):
    """What a model is, for people and for scripts."""

    spec: str
    weights: str
    weights_sha256: str
    preprocess: Preprocess
    num_classes: int
    labelled: bool  # the classes have names
    feature_dim: int
    parameters: int
    multiply_adds: int  # of convolutions, linear layers and attention, for one image
    levels: tuple[LevelInfo, ...]
    layers: tuple[Layer, ...]


def matching_specs(pattern: str) -> tuple[str, ...]:
    """The specs that match a glob or contain ``pattern``; no model is built.

    Raises:
        ModelError: none matches.
    """
    from pipelines.models.registry import all_specs  # late: torch takes seconds

    wanted = pattern.lower()
    specs = all_specs()
    if any(sign in wanted for sign in "*?["):
        matches = [s for s in specs if any(fnmatchcase(p, wanted) for p in (s, s.split(":")[-1]))]
    else:
        matches = [s for s in specs if wanted in s]
    if not matches:
        names = {spec.split(":")[-1]: spec for spec in specs}
        similar = [names[name] for name in get_close_matches(wanted.split(":")[-1], names, n=3)]
        hint = f"did you mean {', '.join(similar)}?" if similar else "run: onepass models list"
        raise ModelError(f"{pattern}: no model of that name; {hint}")
    return tuple(matches)


def describe_model(request: ModelRequest, *, depth: int = 2) -> Description:
    """Build the model, check its one pass, and describe it layer by layer.

    Args:
        request: the model.
        depth: of nested ``layers``; 1 is the network's children.

    Raises:
        ModelError: unknown spec, or weights or labels that do not fit.
    """
    from pipelines.models.registry import describe, load_backbone  # late: torch takes seconds

    loaded = load_backbone(request)
    facts = describe(loaded, request, Outputs())
    layers, multiply_adds = _summary(loaded, depth)
    return Description(
        spec=request.spec,
        weights=facts.weights,
        weights_sha256=facts.weights_sha256,
        preprocess=facts.preprocess,
        num_classes=facts.num_classes,
        labelled=loaded.labels is not None,
        feature_dim=facts.feature_dim,
        parameters=sum(weight.numel() for weight in loaded.backbone.model.parameters()),
        multiply_adds=multiply_adds,
        levels=tuple(
            LevelInfo(index=index, **level._asdict())
            for index, level in enumerate(loaded.backbone.levels)
        ),
        layers=layers,
    )


def _summary(loaded: Loaded, depth: int) -> tuple[tuple[Layer, ...], int]:
    """torchinfo's layers and the multiply-adds, from one forward pass.

    torchinfo's own multiply-adds are not used: it counts a linear layer once per image and not
    once per token, and omits attention, so that of a ViT it counts a 36th. torch's counter sees
    the operations themselves; attention only where it is not one fused kernel.
    """
    import torch
    import torchinfo
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    x = torch.zeros((1, 3, *loaded.preprocess.input_size))
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), sdpa_kernel(SDPBackend.MATH), counter:
        result = torchinfo.summary(
            loaded.backbone.model, input_data=x, device="cpu", verbose=0, mode="eval"
        )
    layers = tuple(
        Layer(
            name=_dotted(layer),
            type=layer.class_name,
            output_shape=_shape(layer.output_size),
            parameters=layer.num_params,
        )
        for layer in result.summary_list
        # A module that runs twice is one module.
        if layer.depth <= depth and not layer.is_recursive
    )
    return layers, counter.get_total_flops() // 2


def _dotted(layer: LayerInfo) -> str:
    parts: list[str] = []
    current: LayerInfo | None = layer
    while current is not None and current.depth > 0:
        parts.append(current.var_name)
        current = current.parent_info
    return ".".join(reversed(parts))


def _shape(size: list[Any]) -> tuple[int, ...]:
    while size and isinstance(size[0], list):  # a layer with several outputs: its first
        size = size[0]
    return tuple(size)
