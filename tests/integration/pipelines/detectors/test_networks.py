"""Detectors give the boxes of the networks they are, written here anew as their users have them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import mobilenet_backbone
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor

from common.errors import InputError, ModelError
from pipelines.detected.config import DetectConfig
from pipelines.detectors.blocks import as_stored
from pipelines.detectors.detector import Detector
from pipelines.images.header import ImageHeader
from tests.helpers.detectors import NAME, calibrated, of_classes, photo, reference


def companion_2021() -> torch.nn.Module:
    model = torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, box_detections_per_img=500
    )
    features = model.roi_heads.box_predictor.cls_score.in_features
    model.roi_heads.box_predictor = FastRCNNPredictor(features, 2)
    return model


def companion_2023() -> torch.nn.Module:
    return torchvision.models.detection.fasterrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=2, box_detections_per_img=500
    )


def companion_mobilenet() -> torch.nn.Module:
    backbone = mobilenet_backbone(
        backbone_name="mobilenet_v3_large", weights=None, fpn=True, trainable_layers=6
    )
    sizes, aspects = ((64, 128, 256, 512),) * 3, ((0.5, 1.0, 2.0),) * 3
    return FasterRCNN(
        backbone,
        num_classes=2,
        rpn_anchor_generator=AnchorGenerator(sizes, aspects),
        rpn_score_thresh=0.05,
        box_detections_per_img=500,
    )


@pytest.mark.parametrize(
    ("spec", "build", "wrapped", "usual"),
    [
        ("ami:2021", companion_2021, True, 0.99),
        ("ami:2023", companion_2023, False, 0.80),
        ("ami:mobilenet-2023", companion_mobilenet, True, 0.50),
    ],
)
def test_a_companions_checkpoint_gives_its_boxes(
    spec: str, build: Callable[[], Any], wrapped: bool, usual: float, tmp_path: Path
) -> None:
    torch.manual_seed(1)
    model = calibrated(build())
    state = model.state_dict()
    torch.save({"model_state_dict": state} if wrapped else state, tmp_path / "a.pth")
    config = DetectConfig(source="x", detector=spec, checkpoint=str(tmp_path / "a.pth"))
    assert Detector(config).info.score == usual
    image = photo(size=(240, 40))  # wide ones are small for the network
    everything = reference(model, image, 0.0)
    score = float(np.median(everything["scores"]))
    expected = reference(model, image, score)
    assert 0 < len(expected["boxes"]) < len(everything["boxes"])
    found = Detector(config.model_copy(update={"score": score}))(
        torch.from_numpy(np.array(image)).permute(2, 0, 1)
    )
    assert found.corners == pytest.approx(expected["boxes"], abs=1e-4)
    assert found.score == pytest.approx(expected["scores"], abs=1e-6)
    assert set(found.label) == {"object"}


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_looked_at_as_it_is_stored(orientation: int, tmp_path: Path) -> None:
    from common.moved import ImageRoot
    from pipelines.images.header import read_header
    from pipelines.images.reader import read_image

    exif = Image.Exif()
    exif[0x0112] = orientation
    photo(size=(31, 17)).save(tmp_path / "a.png", exif=exif)
    header = read_header(ImageRoot(tmp_path), "a.png")
    assert header == ImageHeader(31, 17, orientation)
    stored = as_stored(read_image(tmp_path, "a.png").pixels, header)
    with Image.open(tmp_path / "a.png") as plain:
        assert np.array_equal(stored.permute(1, 2, 0).numpy(), np.array(plain))


def test_a_torchvision_checkpoint_tells_its_classes(tmp_path: Path) -> None:
    model = calibrated(of_classes(4))
    torch.save(model.state_dict(), tmp_path / "a.pth")
    (tmp_path / "names.txt").write_text("ant\nbee\nmoth\n")
    config = DetectConfig(
        source="x",
        detector=f"torchvision:{NAME}",
        checkpoint=str(tmp_path / "a.pth"),
        labels=str(tmp_path / "names.txt"),
        score=0.1,
        max_boxes=7,
    )
    pixels = torch.from_numpy(np.array(photo(3))).permute(2, 0, 1)
    found = Detector(config)(pixels)
    expected = reference(model, photo(3), 0.1)
    order = np.argsort(-expected["scores"], kind="stable")[:7]
    assert len(found.score) == 7
    assert found.corners == pytest.approx(expected["boxes"][order], abs=1e-4)
    names = ["ant", "bee", "moth"]
    assert found.label == [names[number - 1] for number in expected["labels"][order]]
    without = Detector(config.model_copy(update={"labels": None}))(pixels)
    assert without.label == [f"class {names.index(name) + 1}" for name in found.label]


def test_what_does_not_fit_is_said_before_any_work(tmp_path: Path) -> None:
    torch.save(of_classes(3).state_dict(), tmp_path / "a.pth")
    torch.save(of_classes(3, "ssdlite320_mobilenet_v3_large").state_dict(), tmp_path / "ssd.pth")
    (tmp_path / "one.txt").write_text("ant\n")
    base = {"source": "x", "checkpoint": str(tmp_path / "a.pth")}
    wrong = [
        {"detector": "ami:2020"},
        {"detector": "yolo"},
        {"detector": "torchvision:nothing"},
        {"detector": f"torchvision:{NAME}", "checkpoint": str(tmp_path / "gone.pth")},
        {"detector": f"torchvision:{NAME}", "labels": str(tmp_path / "one.txt")},
        {"detector": "ami:2023"},
        {"detector": "ami:2023", "labels": str(tmp_path / "one.txt")},
        {
            "detector": "torchvision:ssdlite320_mobilenet_v3_large",
            "checkpoint": str(tmp_path / "ssd.pth"),
        },
    ]
    for each in wrong:
        with pytest.raises((ModelError, InputError)):
            Detector(DetectConfig(**(base | each)))
