"""The head: a classifier over stored features, and the one file it is kept in.

The file holds tensors and one JSON text, so that reading it runs no code.
"""

from __future__ import annotations

import hashlib
import io
import math
from itertools import pairwise
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from common.errors import ModelError, first_line
from common.json_models import write_atomic
from common.untrusted import read_tensors
from pipelines.model_info import HeadInfo

FORMAT = 1


class Head(nn.Module):
    """Standardise, flatten, and classify with linear layers and ReLU between them.

    Two classes share one output, the log odds of the second; ``forward`` gives two logits all the
    same, so that every head is used alike.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, facts: HeadInfo) -> None:
        super().__init__()
        self.facts = facts
        width = math.prod(facts.shape)
        outputs = 1 if len(facts.classes) == 2 else len(facts.classes)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        layers: list[nn.Module] = []
        for before, after in pairwise((width, *facts.hidden)):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(facts.dropout)]
        if not facts.hidden:
            layers.append(nn.Dropout(facts.dropout))
        layers.append(nn.Linear(facts.hidden[-1] if facts.hidden else width, outputs))
        self.layers = nn.Sequential(*layers)

    def outputs(self, features: torch.Tensor) -> torch.Tensor:
        """The last layer's output: ``[B, C]`` logits, or ``[B, 1]`` log odds where C is 2."""
        outputs: torch.Tensor = self.layers((features.flatten(1) - self.mean) * self.scale)
        return outputs

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features ``[B, *shape]``, float32, to logits ``[B, C]``."""
        outputs = self.outputs(features)
        if outputs.shape[1] == 1:
            return torch.cat([torch.zeros_like(outputs), outputs], dim=1)
        return outputs


def save_head(head: Head, file: Path) -> None:
    """Write ``head`` atomically."""
    sink = io.BytesIO()
    state = {name: tensor.detach().cpu() for name, tensor in head.state_dict().items()}
    torch.save(
        {"onepass_head": FORMAT, "facts": head.facts.model_dump_json(), "state": state}, sink
    )
    write_atomic(file, sink.getvalue())


def load_head(file: str | Path) -> Head:
    """Read a head for inference.

    Raises:
        ModelError: missing, or not a head that this version writes.
    """
    given = f"`head={str(file)!r}`"
    try:
        data = read_tensors(file)
    except FileNotFoundError:
        raise ModelError(f"{given}: no such file; make one with 'onepass probe train'") from None
    except ValueError as error:
        raise ModelError(f"{given} cannot be read: {error}") from None
    if not isinstance(data, dict) or data.get("onepass_head") != FORMAT:
        raise ModelError(f"{given} is not a head; make one with 'onepass probe train'")
    try:
        facts = HeadInfo.model_validate_json(data["facts"])
        with torch.device("meta"):  # sizes that it declares take no memory before they are compared
            declared = {name: tensor.shape for name, tensor in Head(facts).state_dict().items()}
        stored = {name: tensor.shape for name, tensor in data["state"].items()}
        if stored != declared:
            raise ModelError(f"{given} is damaged: its weights are not of the sizes that it states")
        head = Head(facts)
        head.load_state_dict(data["state"])
    except (ValidationError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{given} is damaged: {first_line(error)}") from None
    return head.eval().requires_grad_(False)


def head_sha256(head: Head) -> str:
    """Hash of a head's facts and weights."""
    digest = hashlib.sha256(head.facts.model_dump_json().encode())
    for name, tensor in sorted(head.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
