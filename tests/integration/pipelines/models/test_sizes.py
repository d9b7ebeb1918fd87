"""Transformers at other input sizes than their own, compared with what timm and torchvision make of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from common.errors import ModelError
from pipelines.model_info import ModelRequest, Outputs
from pipelines.models.base import relative_difference
from pipelines.models.registry import describe, examine, load_backbone
from pipelines.models.torchvision_family import build

CLASSES = 5


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """These networks are too small for a second to help."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def weights(tmp_path: Path) -> Callable[..., Path]:
    """Saves a network of timm with random weights."""

    def save(name: str, **options: Any) -> Path:
        torch.manual_seed(3)
        network = timm.create_model(name, num_classes=CLASSES, **options)
        file = tmp_path / f"{name}.pth"
        torch.save({"state_dict": network.state_dict()}, file)
        return file

    return save


def assert_answers(request: ModelRequest, reference: nn.Module, size: int) -> None:
    """The one pass gives the logits of another network on a random image."""
    loaded = load_backbone(request)
    assert describe(loaded, request, Outputs()).preprocess.input_size == (size, size)
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected = reference.eval()(x)
        logits = loaded.backbone.one_pass(x).logits
    assert expected.shape == (1, CLASSES)
    assert relative_difference(logits, expected) <= 1e-5


def filtered(network: nn.Module, file: Path) -> nn.Module:
    """The network with weights as timm adapts those that it publishes to a network's size."""
    module = sys.modules[type(network).__module__]
    state = torch.load(file, weights_only=True)["state_dict"]
    network.load_state_dict(module.checkpoint_filter_fn(state, network))  # type: ignore[attr-defined]
    return network


@pytest.mark.parametrize("size", [112, 160, 256])
@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "eva02_tiny_patch14_224"]
)
def test_any_size_as_timms_dynamic_one(weights: Callable[..., Path], name: str, size: int) -> None:
    if size % 14 and "patch14" in name:
        size += 14 - size % 14
    file = weights(name)
    reference = timm.create_model(
        name, num_classes=CLASSES, checkpoint_path=str(file), dynamic_img_size=True
    )
    request = ModelRequest(spec=f"timm:{name}", checkpoint=str(file), input_size=size)
    assert_answers(request, reference, size)


@pytest.mark.filterwarnings("ignore::UserWarning:timm.layers.interpolate")
@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("swin_tiny_patch4_window7_224", 128, {"window_size": 4}),  # the same share of the image
        ("test_maxvit", 128, {}),
        ("test_coatnet", 128, {}),
        ("test_vit_relpos", 128, {}),
    ],
)
def test_relative_positions_as_timm_resamples_its_own(
    weights: Callable[..., Path], name: str, size: int, options: dict[str, Any]
) -> None:
    file = weights(name)
    reference = timm.create_model(name, num_classes=CLASSES, img_size=size, **options)
    request = ModelRequest(spec=f"timm:{name}", checkpoint=str(file), input_size=size)
    assert_answers(request, filtered(reference, file), size)


@pytest.mark.parametrize("size", [None, 112, 160])
def test_a_checkpoint_that_was_trained_at_another_size(
    weights: Callable[..., Path], size: int | None
) -> None:
    file = weights("vit_tiny_patch16_224", img_size=192)
    reference = timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=CLASSES,
        img_size=192,
        checkpoint_path=str(file),
        dynamic_img_size=True,
    )
    request = ModelRequest(spec="timm:vit_tiny_patch16_224", checkpoint=str(file), input_size=size)
    assert_answers(request, reference, size or 192)


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        ("timm:vit_tiny_patch16_224", 100),
        ("timm:test_vit", 100),
        ("timm:eva02_tiny_patch14_224", 225),
        ("timm:swin_tiny_patch4_window7_224", 226),
        ("timm:test_maxvit", 100),
        ("torchvision:vit_b_32", 100),
        ("timm:mixer_s32_224", 96),
    ],
)
def test_sizes_that_do_not_fit_are_one_line(spec: str, size: int) -> None:
    with pytest.raises(ModelError, match=str(size)) as caught:
        examine(ModelRequest(spec=spec, input_size=size))
    assert "\n" not in str(caught.value)


def test_a_network_that_takes_any_size_keeps_its_weights() -> None:
    """So that runs which were made before at such a size are of the same model."""
    for name in ("test_resnet", "test_vit"):  # the second resamples in each pass
        own, other = (
            examine(ModelRequest(spec=f"timm:{name}", input_size=size)) for size in (None, 192)
        )
        assert own.weights_sha256 == other.weights_sha256


def test_torchvisions_vit(tmp_path: Path) -> None:
    network = build("vit_b_32", num_classes=CLASSES)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    reference = build("vit_b_32", num_classes=CLASSES, image_size=96)
    resample = torchvision.models.vision_transformer.interpolate_embeddings
    reference.load_state_dict(resample(96, 32, network.state_dict()))
    request = ModelRequest(
        spec="torchvision:vit_b_32", checkpoint=str(tmp_path / "w.pth"), input_size=96
    )
    assert_answers(request, reference, 96)
