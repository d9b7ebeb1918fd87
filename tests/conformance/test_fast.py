"""The contract on a small model of every kind; ``python -m tests.conformance`` goes over all."""

from __future__ import annotations

import pytest
import torch

from pipelines.model_info import ModelRequest
from pipelines.models.ami import KINDS
from pipelines.models.registry import load_backbone
from pipelines.models.torchvision_parts import ChainBackbone
from tests.conformance.suite import check

SPECS = {
    "timm:resnet50": 2048,
    "timm:tf_efficientnet_lite0": 1280,
    "timm:convnext_tiny": 768,
    "timm:vit_tiny_patch16_224": 192,
    "timm:swin_tiny_patch4_window7_224": 768,  # channels last
    "timm:deit_tiny_distilled_patch16_224": 192,  # two classifiers
    "timm:mobilenetv3_large_100": 1280,  # a convolution between pool and classifier
    "timm:levit_128s": 384,  # two classifiers, each with a norm
    "timm:volo_d1_224": 384,  # a second classifier over all tokens
    "timm:crossvit_tiny_240": 288,  # two maps, two classifiers
    "timm:dla46x_c": 256,  # a convolution for a classifier
    "torchvision:mobilenet_v3_large": 1280,
    "torchvision:resnet50": 2048,
    "torchvision:resnet101": 2048,
    "torchvision:efficientnet_v2_s": 1280,
    "torchvision:efficientnet_v2_m": 1280,
    "torchvision:squeezenet1_1": 512,
    "torchvision:vit_b_32": 768,
    "torchvision:maxvit_t": 512,
    "torchvision:swin_t": 768,
    "torchvision:googlenet": 1024,
    "torchvision:densenet121": 1024,
}
# Convolutions alone, so they can be checked on less than their 384 and 480 pixels.
SMALLER = {"torchvision:efficientnet_v2_s": 192, "torchvision:efficientnet_v2_m": 192}
AMI_DIMS = dict(zip(KINDS, (2048, 2048, 2048, 2048, 1536, 768), strict=True))


@pytest.mark.parametrize("spec", [*SPECS, *(f"ami:{name}" for name in KINDS)])
def test_model_keeps_the_contract(spec: str) -> None:
    found = check(spec, load_backbone(ModelRequest(spec=spec, input_size=SMALLER.get(spec))))
    assert found.problems == []
    assert found.dim == (SPECS | {f"ami:{name}": dim for name, dim in AMI_DIMS.items()})[spec]


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "densenet121", "mobilenet_v3_small"])
def test_levels_are_what_their_modules_give(name: str) -> None:
    backbone = load_backbone(ModelRequest(spec=f"torchvision:{name}")).backbone
    assert isinstance(backbone, ChainBackbone)
    heard: dict[str, torch.Tensor] = {}
    for level in backbone.levels:
        if level.name in dict(backbone.model.named_modules()):
            backbone.model.get_submodule(level.name).register_forward_hook(
                lambda _module, _input, output, key=level.name: heard.update({key: output.clone()})
            )
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        backbone.model(x)
        expected = dict(heard)
        _, levels = backbone.features_and_levels(x, range(len(backbone.levels)))
    for known, level in zip(backbone.levels, levels, strict=True):
        if known.name in expected and known.name != "relu":  # a module used many times
            torch.testing.assert_close(level, expected[known.name])
