"""Models by spec: a preset or ``FAMILY:NAME``.

``examine`` builds a model once, checks the one-pass identity and returns the facts for the
manifest; ``load_backbone`` builds it again wherever it runs.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from common.errors import ModelError
from pipelines.model_info import MapInfo, ModelInfo, ModelRequest, Outputs, Preprocess
from pipelines.models.base import Loaded, Pass, check_one_pass, weights_sha256
from pipelines.models.head import Head, head_sha256, load_head
from pipelines.models.labels import read_labels

# Preset or family to the module beside this one that builds it.
_PRESETS = {"lite0": "lite", "lite1": "lite", "lite2": "lite", "tiny": "tiny"}
_FAMILIES = {"timm": "timm_family", "torchvision": "torchvision_family", "ami": "ami"}


def examine(request: ModelRequest, outputs: Outputs | None = None) -> ModelInfo:
    """Build a model and return its facts.

    Raises:
        ModelError: unknown spec, weights or labels that do not fit, bad preprocessing, or
            ``outputs`` that the network does not have.
    """
    return describe(load_backbone(request), request, outputs or Outputs())


def describe(loaded: Loaded, request: ModelRequest, outputs: Outputs) -> ModelInfo:
    """The facts of a loaded model.

    Args:
        loaded: the model.
        request: which it was loaded by.
        outputs: the maps that are kept of it.

    Raises:
        ModelError: labels or head that do not fit, bad preprocessing, unknown outputs.
    """
    outcome = check_one_pass(loaded.backbone, loaded.preprocess, request, outputs)
    labels, head = loaded.labels, loaded.head
    num_classes = outcome.logits.shape[1] if head is None else len(head.facts.classes)
    if labels is not None and len(labels) != num_classes:
        raise ModelError(
            f"`labels={request.labels!r}` has {len(labels)} names, {request.spec} has "
            f"{num_classes} classes; give one name for each class"
        )
    info = ModelInfo(
        request=request,
        weights=loaded.weights,
        weights_sha256=weights_sha256(loaded.backbone.model),
        labels_sha256=_labels_sha256(labels),
        num_classes=num_classes,
        feature_dim=outcome.embedding.shape[1],
        feature_kind="pooled" if request.feature_point == "penultimate" else "map_mean",
        preprocess=loaded.preprocess,
        maps=_map_infos(loaded, outcome, outputs),
    )
    return info if head is None else _with_head(info, head, outcome)


def _with_head(info: ModelInfo, head: Head, outcome: Pass) -> ModelInfo:
    """Add a head, if it was trained on this model's features."""
    wants, file, spec = head.facts, info.request.head, info.request.spec
    if wants.fingerprint != info.fingerprint:
        raise ModelError(
            f"`head={file!r}` was trained on features of {wants.spec} (fingerprint "
            f"{wants.fingerprint[:12]}), this model's are {spec} ({info.fingerprint[:12]}); "
            "use the same `model`, `checkpoint`, `weights` and preprocessing"
        )
    features = outcome.embedding if wants.features == "pooled" else outcome.feature_map
    shape = tuple(features.shape[1:])
    if wants.shape != shape:
        raise ModelError(
            f"`head={file!r}` wants {wants.features} features of {_sides(wants.shape)}, {spec} "
            f"gives {_sides(shape)}; train the head again with 'onepass probe train'"
        )
    return info.model_copy(update={"head": wants, "head_sha256": head_sha256(head)})


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _map_infos(loaded: Loaded, outcome: Pass, outputs: Outputs) -> tuple[MapInfo, ...]:
    maps = []
    if outputs.map:
        shape = tuple(outcome.feature_map.shape[1:])
        # The last grid's cells; tokens and channels-last maps are no [C, H, W].
        reduction = loaded.preprocess.input_size[0] // shape[1] if len(shape) == 3 else None
        maps.append(MapInfo(name="feature_map", level=None, shape=shape, reduction=reduction))
    for index, level in zip(outputs.pyramid, outcome.pyramid, strict=True):
        info = loaded.backbone.levels[index]
        maps.append(
            MapInfo(
                name="pyramid/" + info.name.replace(".", "_"),
                level=index,
                shape=tuple(level.shape[1:]),
                reduction=info.reduction,
            )
        )
    for kept in maps:
        same = [other.level for other in maps if other.name == kept.name]
        if len(same) > 1:
            levels = " and ".join(map(str, same))
            raise ModelError(f"`feature_indices`: {levels} are the same level; give each once")
    return tuple(maps)


def load_backbone(request: ModelRequest) -> Loaded:
    """Build the model with the user's head, labels and preprocessing, without checking them.

    Raises:
        ModelError: unknown spec, weights that do not fit, or files that cannot be read.
    """
    if request.head and request.labels:
        raise ModelError(
            f"`labels={request.labels!r}` does not go with `head={request.head!r}`, which brings "
            "its own class names; leave `labels` out"
        )
    # Small files first: building a network to refuse one of them costs seconds.
    head = load_head(request.head) if request.head else None
    labels = read_labels(request.labels) if request.labels else None
    loaded = _load_spec(request, None if labels is None else len(labels))
    if head is not None:
        labels = head.facts.classes
    return replace(
        loaded,
        preprocess=_with_overrides(loaded.preprocess, request),
        labels=labels or loaded.labels,
        head=head,
    )


def load_verified(facts: ModelInfo) -> Loaded:
    """Build the model of a run.

    Raises:
        ModelError: weights or head here are not those the run was planned with.
    """
    loaded = load_backbone(facts.request)
    digest = weights_sha256(loaded.backbone.model)
    if digest != facts.weights_sha256 and facts.request.checkpoint and not facts.request.weights:
        # Version 0.1.0 took the weights themselves where a checkpoint also had their average.
        with suppress(ModelError):
            loaded = load_backbone(facts.request.model_copy(update={"weights": "raw"}))
            digest = weights_sha256(loaded.backbone.model)
    if digest != facts.weights_sha256:
        raise ModelError(
            f"{facts.request.spec}: weights here hash to {digest[:12]}, the run was made with "
            f"{facts.weights_sha256[:12]}; use the same files and package versions everywhere"
        )
    if loaded.head is not None and facts.head_sha256 is not None:
        digest = head_sha256(loaded.head)
        if digest != facts.head_sha256:
            raise ModelError(
                f"`head={facts.request.head!r}` hashes to {digest[:12]} here, the run was made "
                f"with {facts.head_sha256[:12]}; use the same file everywhere"
            )
    return loaded


def _load_spec(request: ModelRequest, label_count: int | None) -> Loaded:
    spec = request.spec
    family, _, name = spec.partition(":")
    if request.random_weights and (request.checkpoint or request.pretrained):
        other = f"checkpoint={request.checkpoint!r}" if request.checkpoint else "pretrained=True"
        raise ModelError(
            f"`random_weights=True` does not go with `{other}`: it is the network untrained; "
            "leave out one of the two"
        )
    module = _PRESETS.get(spec) or (_FAMILIES.get(family) if name else None)
    if module is None:
        known = ", ".join([*_PRESETS, *(f"{family}:NAME" for family in _FAMILIES)])
        raise ModelError(f"`model={spec!r}`: unknown model; known are {known}{_near(spec)}")
    if request.output_stride is not None and family != "timm":
        raise ModelError(
            f"`output_stride={request.output_stride}`: {spec} has a fixed stride; leave it out, "
            "or use timm:NAME"
        )
    given = [option for option in ("checkpoint", "pretrained") if getattr(request, option)]
    if spec in _PRESETS and given:
        raise ModelError(
            f"`{given[0]}` does not go with `model={spec!r}`, which brings its own weights; use "
            "timm:NAME"
        )
    # With given weights their class count decides, and the labels are compared with it.
    count = None if given else label_count
    # late: libraries of families take seconds, and an actor with a built engine needs none of them
    loaded: Loaded = import_module(f"pipelines.models.{module}").load(request, count)
    return loaded


def all_specs() -> list[str]:
    """The specs of all models, presets first; no model is built."""
    import timm

    from pipelines.models import ami, torchvision_family  # late: their libraries take seconds

    return [
        *_PRESETS,
        *(f"timm:{name}" for name in timm.list_models()),
        *(f"torchvision:{name}" for name in torchvision_family.names()),
        *(f"ami:{name}" for name in ami.KINDS),
    ]


def _near(spec: str) -> str:
    """A hint at models of the same or a similar name, in any family."""
    specs = all_specs()
    name = spec.rpartition(":")[2]
    same_name = [other for other in specs if name and other.rpartition(":")[2] == name]
    similar = same_name or get_close_matches(spec, specs, n=3)
    return f"; did you mean {', '.join(similar)}?" if similar else ""


def _with_overrides(own: Preprocess, request: ModelRequest) -> Preprocess:
    changes: dict[str, Any] = {
        name: value
        for name in ("mean", "std", "interpolation", "resize")
        if (value := getattr(request, name)) is not None
    }
    if request.input_size is not None:
        changes["input_size"] = (request.input_size, request.input_size)
    return own.model_copy(update=changes)


def _labels_sha256(labels: tuple[str, ...] | None) -> str | None:
    return None if labels is None else hashlib.sha256("\n".join(labels).encode()).hexdigest()
