"""What every family promises, checked on one model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import nn

from common.errors import ModelError
from pipelines.model_info import ModelRequest
from pipelines.models.base import Backbone, Loaded, relative_difference
from pipelines.models.registry import load_backbone
from pipelines.models.timm_family import TimmBackbone

TOLERANCE = 1e-4  # of the largest logit, float32


@dataclass
class Finding:
    """What one model turned out to be; ``problems`` is empty where it keeps all promises."""

    spec: str
    size: int = 0
    dim: int = 0
    error: float = math.nan
    levels: tuple[int, ...] = ()  # reductions
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check(spec: str, loaded: Loaded | None = None) -> Finding:
    """Hold the model of ``spec`` (random weights) to the contract on two random images."""
    loaded = loaded or load_backbone(ModelRequest(spec=spec))
    backbone, size = loaded.backbone, loaded.preprocess.input_size[0]
    _wake(backbone.model)
    found = Finding(spec, size, levels=tuple(level.reduction for level in backbone.levels))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 3, *loaded.preprocess.input_size, generator=generator)
    x[1] = 0.5 * x[1] + torch.tensor((1.0, 0.0, -1.0))[:, None, None]  # of another colour
    with torch.inference_mode():
        feature_map = _check_pass(backbone, x, found)
        if backbone.levels:
            _check_levels(backbone, x[:1], feature_map[:1], found)
    return found


def _wake(model: nn.Module) -> None:
    """Undo starting values that make a test of random weights prove nothing.

    A classifier of zeros agrees with everything, and where each block starts scaled to
    almost nothing (cait) all images look alike.
    """
    generator = torch.Generator().manual_seed(2)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not parameter.any():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=generator))
        elif parameter.ndim == 1 and 0 < parameter.abs().max() < 1e-3:
            parameter.fill_(0.1)


def _check_pass(backbone: Backbone, x: torch.Tensor, found: Finding) -> torch.Tensor:
    one = backbone.one_pass(x)
    if _apart(one.embedding) <= 1e-5:
        # Untrained batch norms let the signal die in a deep network (convmixer).
        _calibrate(backbone.model, x)
        one = backbone.one_pass(x)
    whole = backbone.model(x)
    _require(found, one.logits.shape == whole.shape, f"logits are {tuple(one.logits.shape)}")
    found.dim, found.error = one.embedding.shape[1], relative_difference(one.logits, whole)
    _require(found, found.error <= TOLERANCE, f"logits differ by {found.error:.1e}")
    _require(found, float(whole.std()) > 0, "the logits are all the same, which proves nothing")
    expected = declared_dim(backbone)
    _require(found, found.dim == expected, f"D is {found.dim}, declared are {expected}")
    _require(found, _apart(one.embedding) > 1e-5, "two images have one embedding")
    half = backbone.one_pass(x[:1], dtype=torch.bfloat16)
    fine = half.logits.isfinite().all() and half.embedding.isfinite().all()
    _require(found, bool(fine), "bfloat16 gives no finite answer")
    _note_structure(backbone, one.feature_map, found)
    try:
        mean = backbone.mean(one.feature_map)
    except ModelError as error:
        found.notes.append(f"no map_mean: {str(error).partition(': ')[2]}")
        return one.feature_map
    channels = backbone.model.num_features if isinstance(backbone, TimmBackbone) else None
    width = channels or one.feature_map.shape[1 if one.feature_map.ndim == 4 else 2]
    good = mean.shape == (2, width) and bool(mean.isfinite().all())
    _require(found, good, f"map_mean is {tuple(mean.shape)}, the map has {width} channels")
    return one.feature_map


def _apart(embedding: torch.Tensor) -> float:
    return relative_difference(embedding[:1], embedding[1:])


def _calibrate(model: nn.Module, x: torch.Tensor) -> None:
    """Give every batch norm the statistics of ``x``."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    model(x)
    for norm in norms:
        norm.eval()


def _check_levels(backbone: Backbone, x: torch.Tensor, plain: torch.Tensor, found: Finding) -> None:
    # Not in timm's order, and the last level twice, once by its negative index.
    backwards = list(reversed(range(len(backbone.levels))))
    final, (again, *levels) = backbone.features_and_levels(x, [-1, *backwards])
    _require(found, relative_difference(final, plain) <= TOLERANCE, "levels change the last map")
    _require(found, torch.equal(again, levels[0]), "level -1 is not the last one")
    for index, level in zip(backwards, levels, strict=True):
        known = backbone.levels[index]
        place = f"level {index} {known.name}"
        if level.ndim != 4:
            found.problems.append(f"{place} is {tuple(level.shape)}")
            continue
        channels = level.shape[1]
        _require(found, channels == known.channels, f"{place} has {channels} channels")
        # Convolutions without padding lose some cells at the edge.
        off = math.log2(x.shape[2] / level.shape[2] / known.reduction)
        grid = f"{x.shape[2]} pixels make {level.shape[2]} cells"
        _require(found, abs(off) < 0.5, f"{place} has no reduction {known.reduction}: {grid}")


def declared_dim(backbone: Backbone) -> int:
    """D as the network itself says it, by another way than the backbone came to it."""
    model = backbone.model
    if isinstance(backbone, TimmBackbone):
        return int(getattr(model, "head_hidden_size", None) or model.num_features)
    last = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]
    return last.in_features if isinstance(last, nn.Linear) else last.in_channels


def _note_structure(backbone: Backbone, feature_map: torch.Tensor, found: Finding) -> None:
    if isinstance(backbone, TimmBackbone):
        if backbone.classifier is None:
            found.notes.append("logits by forward_head over the map, not over D alone")
        if feature_map.ndim == 3 and feature_map.shape[1] == 1:
            found.notes.append("its map is the class token alone")
    if not backbone.levels:
        found.notes.append("no pyramid")


def _require(found: Finding, holds: bool, problem: str) -> None:
    if not holds:
        found.problems.append(problem)
