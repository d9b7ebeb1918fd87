"""Contract 3: the one pass.

::

    features(x)   [B, 3, H, W] -> feature map
    pool(map)     -> [B, D]     penultimate
    head(pooled)  -> [B, C]     logits

``head(pool(features(x)))`` equals the model's own ``model(x)``: one pass gives the class and the
embedding, and neither is an approximation. One conformance suite checks this identity for every
family, and ``check_one_pass`` for every model when it is loaded.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from typing import NamedTuple

import torch
from torch import nn

from common.errors import ModelError, first_line
from pipelines.model_info import FeaturePoint, ModelRequest, Outputs, Preprocess
from pipelines.models.head import Head


class Level(NamedTuple):
    """One level of a network's pyramid, as timm's ``feature_info`` describes it."""

    name: str
    channels: int
    reduction: int  # input pixels a cell


class Pass(NamedTuple):
    """All outputs of one forward pass, float32."""

    embedding: torch.Tensor  # [B, D]
    logits: torch.Tensor  # [B, C]
    feature_map: torch.Tensor  # unpooled, as the family has it
    pyramid: tuple[torch.Tensor, ...]  # [B, C, H, W] each, in the requested order


class Backbone(abc.ABC):
    """A classifier split at its penultimate layer."""

    levels: tuple[Level, ...] = ()  # of the pyramid; empty where the family has none

    def __init__(self, model: nn.Module) -> None:
        self.model = model.eval().requires_grad_(False)

    @abc.abstractmethod
    def features(self, x: torch.Tensor) -> torch.Tensor:
        """Normalised images ``[B, 3, H, W]`` to the unpooled feature map."""

    @abc.abstractmethod
    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        """Feature map to penultimate features ``[B, D]``."""

    @abc.abstractmethod
    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        """Penultimate features ``[B, D]`` to logits ``[B, C]``."""

    def classify(self, feature_map: torch.Tensor, pooled: torch.Tensor) -> torch.Tensor:
        """Logits ``[B, C]``; overridden only where they do not follow from ``pooled`` alone."""
        return self.head(pooled)

    def mean(self, feature_map: torch.Tensor) -> torch.Tensor:
        """The map's average over all positions ``[B, C]``: the feature point ``map_mean``."""
        return feature_map.mean((2, 3))

    def features_and_levels(
        self, x: torch.Tensor, indices: Sequence[int]
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """``features(x)`` and some of ``levels`` ``[B, C, H, W]``, from one forward pass."""
        raise NotImplementedError("a family with levels implements this")

    def one_pass(
        self,
        x: torch.Tensor,
        *,
        dtype: torch.dtype = torch.float32,
        point: FeaturePoint = "penultimate",
        pyramid: Sequence[int] = (),
    ) -> Pass:
        """Run the network once and keep every output.

        Args:
            x: normalised images ``[B, 3, H, W]``, float32.
            dtype: what the network's body computes in. Pooling and classifier are always float32:
                they cost little, and rounding there would change classes.
            point: where the embedding is taken.
            pyramid: indices of ``levels`` to keep.
        """
        half = dtype != torch.float32
        with torch.autocast(x.device.type, dtype if half else torch.bfloat16, enabled=half):
            if pyramid:
                feature_map, levels = self.features_and_levels(x, pyramid)
            else:
                feature_map, levels = self.features(x), ()
        feature_map = feature_map.float()
        pooled = self.pool(feature_map)
        return Pass(
            embedding=pooled if point == "penultimate" else self.mean(feature_map),
            logits=self.classify(feature_map, pooled),
            feature_map=feature_map,
            pyramid=tuple(level.float() for level in levels),
        )


@dataclass(frozen=True)
class Loaded:
    """A backbone with the preprocessing and class names of its weights."""

    backbone: Backbone
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    weights: str  # their origin, for people
    head: Head | None = None  # replaces the backbone's own classifier


def check_one_pass(
    backbone: Backbone, preprocess: Preprocess, request: ModelRequest, outputs: Outputs
) -> Pass:
    """Compare the one pass with ``model(x)`` on one random image, in float32.

    Args:
        backbone: to check.
        preprocess: for its input size.
        request: for its spec and feature point.
        outputs: for its levels.

    Returns:
        The pass, for the shapes of the model's outputs.

    Raises:
        ModelError: the parts do not give the model's own output, or it has no such levels.
    """
    spec = request.spec
    check_levels(backbone, outputs.pyramid, spec)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, 3, *preprocess.input_size), generator=generator)
    try:
        with torch.inference_mode():
            one_pass = backbone.one_pass(x, point=request.feature_point, pyramid=outputs.pyramid)
            logits = backbone.model(x)
    except (RuntimeError, AssertionError, ValueError) as error:
        height, width = preprocess.input_size
        hint = "; give another `input_size`" if request.input_size else ""
        raise ModelError(
            f"{spec} fails on a {height}x{width} image: {first_line(error).rstrip('.')}{hint}"
        ) from None
    equal = (
        isinstance(logits, torch.Tensor)
        and one_pass.embedding.ndim == 2
        and one_pass.logits.shape == logits.shape
        and relative_difference(one_pass.logits, logits) <= 1e-4
    )
    if not equal:
        raise ModelError(
            f"{spec}: its head over its pooled features does not give its own logits, "
            "so class and embedding would not come from one pass; choose another model"
        )
    return one_pass


def check_levels(backbone: Backbone, indices: Sequence[int], spec: str) -> None:
    """Check that the network has these levels.

    Args:
        backbone: the network.
        indices: of the levels; negative ones count from the last.
        spec: of the network, for the message.

    Raises:
        ModelError: it has not; names its levels.
    """
    count = len(backbone.levels)
    wrong = [index for index in indices if not -count <= index < count]
    if wrong:
        levels = ", ".join(f"{i} {level.name}" for i, level in enumerate(backbone.levels))
        raise ModelError(
            f"`feature_indices={wrong[0]}`: {spec} has "
            + (f"the levels {levels}" if levels else "no pyramid; leave pyramid out of `features`")
        )


def relative_difference(actual: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference as a share of the largest expected value."""
    scale = expected.abs().max().clamp_min(torch.finfo(torch.float32).tiny)
    return float((actual - expected).abs().max() / scale)


def unknown_model(spec: str, reason: str, names: Iterable[str], otherwise: str) -> ModelError:
    """The error for an unknown name, with similar ones.

    Args:
        spec: as ``FAMILY:NAME``.
        reason: of the refusal.
        names: of the family's models.
        otherwise: hint where none of them is similar.
    """
    similar = get_close_matches(spec.partition(":")[2], names, n=3)
    hint = f"did you mean {', '.join(similar)}?" if similar else otherwise
    return ModelError(f"`model={spec!r}`: {reason}; {hint}")


def fetch_error(spec: str, server: str, error: Exception) -> ModelError:
    """The error for ``pretrained`` weights that cannot be downloaded.

    Args:
        spec: of the model.
        server: that did not give them.
        error: what happened.
    """
    return ModelError(
        f"`pretrained=True`: the weights of {spec} could not be fetched from {server} "
        f"({type(error).__name__}); on a machine without it give a `checkpoint`, "
        "or `model='lite0'` for weights from a Python package"
    )


@contextmanager
def fixed_seed() -> Iterator[None]:
    """Weights drawn inside are the same in every process; random numbers outside go on."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def weights_sha256(model: nn.Module) -> str:
    """Hash of names, shapes, types and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
        digest.update(array.view(-1).view(torch.uint8).numpy().data if array.numel() else b"")
    return digest.hexdigest()
