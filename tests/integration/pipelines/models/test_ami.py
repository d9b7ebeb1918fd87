"""The AMI classifiers against networks built here the way their authors build them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from common.errors import ModelError
from pipelines.model_info import ModelRequest
from pipelines.models.ami import HALF, IMAGENET
from pipelines.models.registry import examine, load_backbone

CLASSES = ("Noctua", "Agrotis", "Xestia")


class Reference(nn.Module):
    """ResNet-50 without its last two children, pooled, under a classifier without bias."""

    def __init__(self) -> None:
        super().__init__()
        layers = list(torchvision.models.resnet50(weights=None).children())[:-2]
        self.backbone = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(output_size=(1, 1))
        self.classifier = nn.Linear(2048, len(CLASSES), bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.flatten(self.avgpool(self.backbone(x)), 1)
        return self.classifier(x)


def lowres() -> nn.Module:
    model = torchvision.models.resnet50(weights=None)
    model.fc = nn.Linear(model.fc.in_features, len(CLASSES))
    return model


def from_timm(name: str) -> Callable[[], nn.Module]:
    return lambda: timm.create_model(name, pretrained=False, num_classes=len(CLASSES))


# Spec: how it is built, the name of its last layer, input size, mean and std.
REFERENCES = {
    "resnet50": (Reference, "classifier", 300, IMAGENET),
    "resnet50-turing": (Reference, "classifier", 300, HALF),
    "resnet50-lowres": (lowres, "fc", 128, IMAGENET),
    "resnet50-timm": (from_timm("resnet50"), "fc", 300, IMAGENET),
    "efficientnet": (from_timm("tf_efficientnetv2_b3"), "classifier", 300, HALF),
    "convnext-order": (from_timm("convnext_tiny"), "head.fc", 128, IMAGENET),
}
LAYOUTS = ("plain", "model_state_dict", "state_dict")


def saved(model: nn.Module, layout: str, file: Path) -> None:
    state = model.state_dict()
    if layout == "model_state_dict":  # of a model trained on several GPUs
        torch.save(
            {"model_state_dict": {f"module.{k}": v for k, v in state.items()}, "epoch": 3}, file
        )
    else:
        torch.save(state if layout == "plain" else {"state_dict": state}, file)


@pytest.mark.parametrize(
    ("name", "layout"),
    # Each layout and each network; not each pair, which would prove nothing more.
    [(name, LAYOUTS[number % 3]) for number, name in enumerate(REFERENCES)],
)
def test_answers_are_the_references(tmp_path: Path, name: str, layout: str) -> None:
    make, last, size, norm = REFERENCES[name]
    torch.manual_seed(5)
    reference = make().eval()
    saved(reference, layout, tmp_path / "w.pth")
    (tmp_path / "map.json").write_text(json.dumps({"Xestia": 2, "Noctua": 0, "Agrotis": 1}))
    request = ModelRequest(
        spec=f"ami:{name}",
        checkpoint=str(tmp_path / "w.pth"),
        labels=str(tmp_path / "map.json"),
    )
    loaded = load_backbone(request)

    assert loaded.labels == CLASSES
    how = loaded.preprocess
    assert (how.input_size, how.resize, how.interpolation) == ((size, size), "squash", "bilinear")
    assert (how.mean, how.std) == norm

    inputs: list[torch.Tensor] = []
    reference.get_submodule(last).register_forward_hook(
        lambda _m, given, _o: inputs.append(given[0])
    )
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        outputs = loaded.backbone.one_pass(x, pyramid=(-1,))
        expected = reference(x)
    for ours, theirs in ((outputs.logits, expected), (outputs.embedding, inputs[0])):
        assert ours.shape == theirs.shape
        assert (ours - theirs).abs().max() <= 1e-5 * theirs.abs().max()
    assert outputs.pyramid[0].shape[1] == loaded.backbone.levels[-1].channels


def test_without_a_checkpoint_labels_decide(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("\n".join(CLASSES))
    request = ModelRequest(spec="ami:resnet50-lowres", labels=str(tmp_path / "names.txt"))
    one, two = examine(request), examine(request)
    assert one.num_classes == 3
    assert one.weights_sha256 == two.weights_sha256
    assert examine(ModelRequest(spec="ami:resnet50-lowres")).num_classes == 2


def test_models_of_2024_take_another_size() -> None:
    request = ModelRequest(spec="ami:resnet50-timm", input_size=128)
    assert load_backbone(request).preprocess.input_size == (128, 128)


def test_checkpoint_of_another_kind_is_one_line(tmp_path: Path) -> None:
    torch.save(lowres().state_dict(), tmp_path / "w.pth")
    with pytest.raises(ModelError, match="is not a checkpoint of ami:resnet50: ") as caught:
        load_backbone(ModelRequest(spec="ami:resnet50", checkpoint=str(tmp_path / "w.pth")))
    assert "\n" not in str(caught.value)
