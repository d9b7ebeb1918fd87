"""Contract 3: the one pass.

::

    features(x)   [B, 3, H, W] -> feature map
    pool(map)     -> [B, D]     penultimate
    head(pooled)  -> [B, C]     logits

``head(pool(features(x)))`` equals the model's own ``model(x)``: one pass gives the class
and the embedding, and neither is an approximation. Every family is held to that identity
by one conformance suite, and every model by ``check_one_pass`` when it is loaded.
"""

from __future__ import annotations

import abc
import hashlib
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from cluster.errors import ModelError
from pipelines.run import Preprocess


class Pass(NamedTuple):
    """Both answers of one forward pass: pooled ``[B, D]`` and logits ``[B, C]``."""

    pooled: torch.Tensor
    logits: torch.Tensor


class Backbone(abc.ABC):
    """A classifier taken apart at its penultimate layer."""

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

    def one_pass(self, x: torch.Tensor) -> Pass:
        """Run the network once and keep both answers."""
        pooled = self.pool(self.features(x))
        return Pass(pooled, self.head(pooled))


@dataclass(frozen=True)
class Loaded:
    """A backbone with all that its weights came with."""

    backbone: Backbone
    preprocess: Preprocess
    labels: tuple[str, ...] | None
    weights: str  # where they came from, for people


def check_one_pass(backbone: Backbone, preprocess: Preprocess, spec: str) -> tuple[int, int]:
    """Compare the one pass with ``model(x)`` on one random image, in float32.

    Returns:
        The feature dimension D and the number of classes C.

    Raises:
        ModelError: the model cannot be taken apart so that the parts give its own answer.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, 3, *preprocess.input_size), generator=generator)
    try:
        with torch.inference_mode():
            pooled, logits = backbone.one_pass(x)
            whole = backbone.model(x)
    except RuntimeError as error:
        raise ModelError(
            f"{spec} fails on a {preprocess.input_size} image: {str(error).splitlines()[0]}"
        ) from None
    fits = (
        isinstance(whole, torch.Tensor)
        and pooled.ndim == 2
        and logits.shape == whole.shape
        and torch.allclose(logits, whole, rtol=1e-4, atol=1e-5)
    )
    if not fits:
        raise ModelError(
            f"{spec}: its head over its pooled features does not give its own logits, "
            "so class and embedding would not come from one pass; choose another model"
        )
    return pooled.shape[1], logits.shape[1]


def load_state(model: nn.Module, state: dict[str, Any], *, file: str, spec: str) -> None:
    """Load a checkpoint strictly.

    Raises:
        ModelError: of another architecture or number of classes; names the first misfits.
    """
    own = model.state_dict()
    missing = sorted(own.keys() - state.keys())
    extra = sorted(state.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(state[name].shape)}, the model's is {tuple(own[name].shape)}"
        for name in own.keys() & state.keys()
        if state[name].shape != own[name].shape
    ]
    problems = shapes[:1]
    if missing:
        problems.append(f"{len(missing)} weights missing (first: {missing[0]})")
    if extra:
        problems.append(f"{len(extra)} unknown (first: {extra[0]})")
    if problems:
        raise ModelError(f"{file} is not a checkpoint of {spec}: {'; '.join(problems)}")
    model.load_state_dict(state)


def read_checkpoint(file: str) -> dict[str, Any]:
    """Read a state dict, unwrapping ``state_dict``/``model_state_dict`` and ``module.``.

    Raises:
        ModelError: missing, not a checkpoint, or one that holds more than tensors.
    """
    try:
        data = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelError(f"--checkpoint {file}: no such file") from None
    except Exception as error:
        raise ModelError(
            f"--checkpoint {file} cannot be read as weights: {str(error).splitlines()[0]}"
        ) from None
    for key in ("model_state_dict", "state_dict"):
        if isinstance(data, dict) and isinstance(data.get(key), dict):
            data = data[key]
    if not isinstance(data, dict) or not all(isinstance(v, torch.Tensor) for v in data.values()):
        raise ModelError(f"--checkpoint {file} holds no state dict of tensors")
    return {name.removeprefix("module."): tensor for name, tensor in data.items()}


def weights_sha256(model: nn.Module) -> str:
    """Hash of names, shapes, types and values of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        array = tensor.detach().cpu().contiguous()
        digest.update(f"{name}{tuple(array.shape)}{array.dtype}".encode())
        digest.update(array.view(-1).view(torch.uint8).numpy().data if array.numel() else b"")
    return digest.hexdigest()
