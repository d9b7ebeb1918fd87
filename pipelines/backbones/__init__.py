"""Models by spec: ``lite0``, ``tiny``, ``timm:NAME``. One file a family, one contract.

``examine`` builds a model once, checks the one-pass identity and returns the facts that go
into the manifest; ``load_backbone`` builds it again wherever it runs.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from cluster.errors import ModelError
from pipelines.backbones import lite0, timm_family, tiny
from pipelines.backbones.base import Loaded, Pass, check_one_pass, weights_sha256
from pipelines.facts import MapFacts, ModelFacts, ModelRequest, Outputs, Preprocess

SPECS = "lite0, tiny, timm:NAME"


def examine(request: ModelRequest, outputs: Outputs | None = None) -> ModelFacts:
    """Build what ``request`` describes and say what it is.

    Raises:
        ModelError: unknown spec, weights or labels that do not fit, bad preprocessing, or
            ``outputs`` that the network does not have.
    """
    return describe(load_backbone(request), request, outputs or Outputs())


def describe(loaded: Loaded, request: ModelRequest, outputs: Outputs) -> ModelFacts:
    """Say what a model that is loaded already is.

    Raises:
        ModelError: labels that do not fit, bad preprocessing, unknown outputs.
    """
    found = check_one_pass(loaded.backbone, loaded.preprocess, request, outputs)
    num_classes = found.logits.shape[1]
    labels = loaded.labels
    if labels is not None and len(labels) != num_classes:
        raise ModelError(
            f"--labels {request.labels} has {len(labels)} names, {request.spec} has "
            f"{num_classes} classes; give one name a class"
        )
    return ModelFacts(
        request=request,
        weights=loaded.weights,
        weights_sha256=weights_sha256(loaded.backbone.model),
        labels_sha256=_labels_sha256(labels),
        num_classes=num_classes,
        feature_dim=found.embedding.shape[1],
        feature_kind="pooled" if request.feature_point == "penultimate" else "map_mean",
        preprocess=loaded.preprocess,
        maps=_map_facts(loaded, found, outputs),
    )


def _map_facts(loaded: Loaded, found: Pass, outputs: Outputs) -> tuple[MapFacts, ...]:
    maps = []
    if outputs.map:
        shape = tuple(found.feature_map.shape[1:])
        # The last grid's cells; tokens and channels-last maps are no [C, H, W].
        reduction = loaded.preprocess.input_size[0] // shape[1] if len(shape) == 3 else None
        maps.append(MapFacts(name="feature_map", shape=shape, reduction=reduction))
    for index, level in zip(outputs.pyramid, found.pyramid, strict=True):
        known = loaded.backbone.levels[index]
        maps.append(
            MapFacts(
                name="pyramid/" + known.name.replace(".", "_"),
                shape=tuple(level.shape[1:]),
                reduction=known.reduction,
            )
        )
    return tuple(maps)


def load_backbone(request: ModelRequest) -> Loaded:
    """Build the model with the user's labels and preprocessing, without checking them.

    Raises:
        ModelError: unknown spec, or weights that do not fit.
    """
    labels = read_labels(request.labels) if request.labels else None
    loaded = _load_spec(request, None if labels is None else len(labels))
    return replace(
        loaded,
        preprocess=_override(loaded.preprocess, request),
        labels=labels or loaded.labels,
    )


def _load_spec(request: ModelRequest, label_count: int | None) -> Loaded:
    family, _, name = request.spec.partition(":")
    if family == "timm" and name:
        # With a checkpoint its own class count decides, and labels are held against it.
        return timm_family.load(
            name,
            checkpoint=request.checkpoint,
            pretrained=request.pretrained,
            num_classes=None if request.checkpoint or request.pretrained else label_count,
        )
    if request.spec in ("lite0", "tiny"):
        for option, value in (
            ("--checkpoint", request.checkpoint),
            ("--pretrained", request.pretrained),
        ):
            if value:
                raise ModelError(
                    f"{option} does not go with --model {request.spec}, which brings its own "
                    "weights; use timm:NAME"
                )
        return lite0.load() if request.spec == "lite0" else tiny.load()
    raise ModelError(f"--model {request.spec}: unknown model; known are {SPECS}")


def _override(own: Preprocess, request: ModelRequest) -> Preprocess:
    changes: dict[str, Any] = {
        name: value
        for name in ("mean", "std", "interpolation", "resize")
        if (value := getattr(request, name)) is not None
    }
    if request.input_size is not None:
        changes["input_size"] = (request.input_size, request.input_size)
    return own.model_copy(update=changes)


def read_labels(file: str) -> tuple[str, ...]:
    """Read class names: one a line, or a JSON list, or a JSON map ``{name: index}``.

    Raises:
        ModelError: missing, empty, or indices that do not run from 0 without a gap.
    """
    path = Path(file)
    if not path.is_file():
        raise ModelError(f"--labels {file}: no such file")
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ModelError(f"--labels {file} is not JSON: {error}") from None
        if isinstance(data, dict):
            if sorted(data.values()) != list(range(len(data))):
                raise ModelError(f"--labels {file}: the indices must run from 0 without a gap")
            data = sorted(data, key=data.__getitem__)
        names = tuple(str(name) for name in data)
    else:
        names = tuple(line.strip() for line in text.rstrip("\n").split("\n"))
    if not any(names):
        raise ModelError(f"--labels {file} has no names")
    return names


def _labels_sha256(labels: tuple[str, ...] | None) -> str | None:
    return None if labels is None else hashlib.sha256("\n".join(labels).encode()).hexdigest()
