"""Transformers of timm at other sizes than their own: their positions are resampled, as timm does."""

from __future__ import annotations

import math
import warnings
from contextlib import suppress

import torch
from torch import nn

from common.errors import ModelError

_ERRORS = (RuntimeError, AssertionError, ValueError)  # of networks, about a size


def trained_size(skeleton: nn.Module, state: dict[str, torch.Tensor]) -> int | None:
    """The size that a checkpoint was trained at, by its positions.

    Args:
        skeleton: the network at its own size; its values are not read.
        state: the checkpoint's weights.

    Returns:
        Pixels a side; None where it is the network's own, or cannot be told.
    """
    own, given = (weights.get("pos_embed") for weights in (skeleton.state_dict(), state))
    embed = getattr(skeleton, "patch_embed", None)
    if own is None or given is None or embed is None or own.shape == given.shape:
        return None
    if given.ndim != 3 or own.ndim != 3:
        return None
    patches = given.shape[1] - (own.shape[1] - embed.num_patches)
    side = math.isqrt(max(patches, 0))
    return side * int(embed.patch_size[0]) if side and side * side == patches else None


def resize(model: nn.Module, size: int, spec: str) -> None:
    """Make a transformer of one size take another; networks that take it stay as they are.

    Args:
        model: with its weights.
        size: pixels a side.
        spec: of the network, for the message.

    Raises:
        ModelError: the size is not a multiple of the network's patches.
    """
    set_size = getattr(model, "set_input_size", None)
    if set_size is None or _takes(model, size):
        return
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", (1, 1))
    if any(size % side for side in patch):  # timm would leave the last pixels out
        raise ModelError(f"`input_size={size}`: {spec} takes multiples of {patch[0]} pixels")
    with suppress(*_ERRORS), warnings.catch_warnings():  # the check of its one pass says the error
        warnings.simplefilter("ignore")  # of torch, about the speed of timm's resampling
        set_size(img_size=(size, size))


def _takes(model: nn.Module, size: int) -> bool:
    try:
        with torch.inference_mode():
            model.eval()(torch.zeros(1, 3, size, size))
    except _ERRORS:
        return False
    return True
