"""The networks of detectors, built without weights, and their weights out of a checkpoint.

All are of torchvision's detection package: uint8 images become RGB from 0 to 1, which the network resizes and
normalises itself, and boxes come back in pixels of the image that was given. Class 0 is the background.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn
from torchvision.models import detection, get_model, list_models
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone

from common.errors import ModelError
from pipelines.models.checkpoint import State, load_state, read_checkpoint
from pipelines.models.labels import read_labels

AMI, TORCHVISION = "ami:", "torchvision:"
_ONE_CLASS = ("object",)
_PREDICTOR = (
    "roi_heads.box_predictor.cls_score.weight"  # a row for each class of a Faster or Mask R-CNN
)

# Of classes with the background, boxes at most, and the score that boxes must have.
Builder = Callable[[int, int, float], nn.Module]
_ROUNDING = 1e-6  # networks keep boxes above a score, here those at it are kept too


@dataclass(frozen=True)
class Preset:
    """A detector of the AMI data companion."""

    build: Builder
    score: float  # boxes of a lower one are left out


@dataclass(frozen=True)
class Network:
    """A detector's network, ready to be called."""

    module: nn.Module
    labels: tuple[str, ...]  # of classes 1 and above
    score: float  # boxes of a lower one are left out


def load_network(
    spec: str, *, checkpoint: str, labels: str | None, max_boxes: int, score: float | None
) -> Network:
    """Build a network and load its weights.

    Args:
        spec: ``ami:PRESET`` or ``torchvision:NAME``.
        checkpoint: file of the weights.
        labels: file of the names of its classes, without the background.
        max_boxes: most boxes of an image.
        score: boxes of a lower one are left out; None: that of the preset, or 0.5.

    Raises:
        ModelError: no such network, or weights or labels do not fit it.
    """
    if spec.startswith(AMI):
        preset = AMI_PRESETS.get(spec.removeprefix(AMI))
        if preset is None:
            raise ModelError(f"`detector={spec!r}`: choose from {_known_ami()}")
        if labels is not None:
            raise ModelError(f"`labels={labels!r}`: {spec} has one class; leave it out")
        score = preset.score if score is None else score
        module = preset.build(2, max_boxes, score)
        state = _state(checkpoint, module)
        return Network(_loaded(module, state, checkpoint, spec), _ONE_CLASS, score)
    if not spec.startswith(TORCHVISION):
        raise ModelError(
            f"`detector={spec!r}`: give {_known_ami()}, or torchvision:NAME, such as "
            "torchvision:fasterrcnn_resnet50_fpn_v2"
        )
    build, score = _torchvision(spec), 0.5 if score is None else score
    names = None if labels is None else read_labels(labels)
    # The checkpoint's own number of classes, where the network has a place that tells it.
    probe = build(2, max_boxes, score)
    state = _state(checkpoint, probe)
    told = state.get(_PREDICTOR)
    if told is not None and _PREDICTOR in probe.state_dict():
        classes = len(told)
    elif names is not None:
        classes = len(names) + 1
    else:
        raise ModelError(f"{spec}: its checkpoint does not tell its classes; give `labels`")
    if names is not None and len(names) != classes - 1:
        raise ModelError(
            f"`labels={labels!r}` has {len(names)} names, and {checkpoint} {classes - 1} classes "
            "beside the background"
        )
    module = probe if classes == 2 else build(classes, max_boxes, score)
    names = names or tuple(f"class {number}" for number in range(1, classes))
    return Network(_loaded(module, state, checkpoint, spec), names, score)


def _state(file: str, module: nn.Module) -> State:
    return read_checkpoint(file, module.state_dict().keys()).state


def _loaded(module: nn.Module, state: State, file: str, spec: str) -> nn.Module:
    load_state(module, state, file=file, spec=spec)
    return module.eval().requires_grad_(False)


def _torchvision(spec: str) -> Builder:
    name = spec.removeprefix(TORCHVISION)
    known = [each for each in list_models(module=detection) if "keypoint" not in each]
    if name not in known:
        raise ModelError(f"`detector={spec!r}`: torchvision has {', '.join(known)}")

    def build(classes: int, max_boxes: int, score: float) -> nn.Module:
        prefix = "box_" if "rcnn" in name else ""
        limits = {
            f"{prefix}detections_per_img": max_boxes,
            f"{prefix}score_thresh": score - _ROUNDING,
        }
        network: nn.Module = get_model(
            name, weights=None, weights_backbone=None, num_classes=classes, **limits
        )
        return network

    return build


def _resnet50(classes: int, max_boxes: int, score: float) -> nn.Module:
    network: nn.Module = detection.fasterrcnn_resnet50_fpn(
        weights=None,
        weights_backbone=None,
        num_classes=classes,
        box_detections_per_img=max_boxes,
        box_score_thresh=score - _ROUNDING,
    )
    return network


def _mobilenet(classes: int, max_boxes: int, score: float) -> nn.Module:
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=6
    )
    anchors = AnchorGenerator(((64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3)
    network: nn.Module = detection.FasterRCNN(
        backbone,
        classes,
        rpn_anchor_generator=anchors,
        rpn_score_thresh=0.05,
        box_detections_per_img=max_boxes,
        box_score_thresh=score - _ROUNDING,
    )
    return network


# As the companion makes them; its 2021 preset replaces the predictor of the same network.
AMI_PRESETS = {
    "2021": Preset(_resnet50, 0.99),
    "2023": Preset(_resnet50, 0.80),
    "mobilenet-2023": Preset(_mobilenet, 0.50),
}


def _known_ami() -> str:
    return ", ".join(f"{AMI}{name}" for name in AMI_PRESETS)
