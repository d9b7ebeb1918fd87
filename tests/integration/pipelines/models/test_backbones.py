"""Contract 3: presets, checkpoints of every layout, and golden values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from common.errors import ModelError
from pipelines.engines.candidates import compare
from pipelines.engines.embed import Embedder
from pipelines.engines.engine import Engine
from pipelines.model_info import ModelRequest, Outputs
from pipelines.models import torchvision_family
from pipelines.models.base import check_levels, relative_difference
from pipelines.models.registry import examine, load_backbone
from tests.helpers.pictures import drawn, encoded

GOLDEN = Path(__file__).parent / "golden_lite0.json"


@pytest.mark.parametrize(
    ("spec", "dim", "classes"), [("tiny", 32, 10), ("lite0", 1280, 1000), ("lite1", 1280, 1000)]
)
def test_one_pass_of_presets_is_the_models_own_answer(spec: str, dim: int, classes: int) -> None:
    """Families are in ``tests/conformance``."""
    loaded = load_backbone(ModelRequest(spec=spec))
    x = torch.randn(2, 3, *loaded.preprocess.input_size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        outputs = loaded.backbone.one_pass(x)
        assert outputs.embedding.shape == (2, dim)
        assert outputs.logits.shape == (2, classes)
        assert relative_difference(outputs.logits, loaded.backbone.model(x)) <= 1e-5
        assert outputs.embedding.std() > 0


def test_lite0_golden() -> None:
    """One image drawn by code, against committed values; tolerance 1e-3 of the largest."""
    golden = json.loads(GOLDEN.read_text())
    facts = examine(ModelRequest(spec="lite0"))
    answer = Embedder.load(facts).embed_bytes(encoded(drawn(11), "PNG"))
    embedding = np.array(golden["embedding"], dtype=np.float32)
    assert answer.label == golden["label"]
    assert answer.score == pytest.approx(golden["score"], abs=1e-3)
    assert np.abs(answer.embedding - embedding).max() <= 1e-3 * np.abs(embedding).max()


def test_lite_sizes() -> None:
    """A larger network of the family has its own size, crop and weights, none of them lite0's."""
    small, large = (examine(ModelRequest(spec=spec)) for spec in ("lite0", "lite1"))
    assert small.preprocess.crop_pct == 0.875
    assert large.preprocess.input_size == (240, 240)
    assert large.preprocess.crop_pct == pytest.approx(0.8824, abs=1e-4)
    assert large.weights_sha256 != small.weights_sha256
    assert large.labels_sha256 == small.labels_sha256


def test_half_precision_is_audited() -> None:
    facts = examine(ModelRequest(spec="lite0"))
    batch = np.stack([np.asarray(drawn(n, width=224, height=224)) for n in range(8)])
    half, exact = (Engine(facts, precision)(batch) for precision in ("bf16", "fp32"))  # type: ignore[arg-type]
    audit = compare(half.embedding, half.logits, exact.embedding, exact.logits)
    assert audit.rows == 8
    assert 0.97 < audit.cosine_min <= audit.cosine_mean < 1.0
    assert 0.5 <= audit.top1_agreement <= 1.0


def test_a_checkpoint_decides_the_number_of_classes(tmp_path: Path) -> None:
    torch.manual_seed(3)
    state = timm.create_model("resnet18", num_classes=7).state_dict()
    torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}}, tmp_path / "w.pth")
    request = ModelRequest(spec="timm:resnet18", checkpoint=str(tmp_path / "w.pth"))
    assert examine(request).num_classes == 7
    weights = load_backbone(request).backbone.model.state_dict()
    assert torch.equal(weights["fc.weight"], state["fc.weight"])


@pytest.mark.parametrize("name", ["googlenet", "densenet121", "mnasnet0_5", "vit_b_32"])
def test_torchvision_checkpoints_of_all_ages(tmp_path: Path, name: str) -> None:
    """As torchvision's own files are: auxiliary heads, older names, no batch counters."""
    state = torchvision_family.build(name, num_classes=7).state_dict()
    for key in list(state):
        if key.endswith("num_batches_tracked"):
            del state[key]
    old = {
        key.replace("norm1.", "norm.1.")
        .replace("conv2.", "conv.2." if name == "densenet121" else "conv2.")
        .replace(".mlp.0.", ".mlp.linear_1.")
        .replace(".mlp.3.", ".mlp.linear_2."): tensor + 0.25
        for key, tensor in state.items()
    }
    if name == "googlenet":
        old["aux1.fc2.weight"] = torch.zeros(1000, 4)
    torch.save(old, tmp_path / "w.pth")
    spec = f"torchvision:{name}"
    loaded = load_backbone(ModelRequest(spec=spec, checkpoint=str(tmp_path / "w.pth")))
    own = loaded.backbone.model.state_dict()
    assert all(torch.equal(own[key], tensor + 0.25) for key, tensor in state.items())
    assert own[[key for key in own if key.endswith("weight")][-1]].shape[0] == 7


def test_torchvision_brings_its_preprocessing() -> None:
    how = load_backbone(ModelRequest(spec="torchvision:efficientnet_v2_s")).preprocess
    assert (how.input_size, how.resize, how.crop_pct) == ((384, 384), "crop", 1.0)
    how = load_backbone(ModelRequest(spec="torchvision:alexnet")).preprocess
    assert (how.input_size, how.interpolation) == ((224, 224), "bilinear")
    assert how.crop_pct == pytest.approx(224 / 256)


def test_levels_of_a_pyramid() -> None:
    for spec in ("timm:resnet18", "torchvision:resnet18"):
        backbone = load_backbone(ModelRequest(spec=spec)).backbone
        assert [level.reduction for level in backbone.levels] == [2, 4, 8, 16, 32]
        assert backbone.levels[-1].name == "layer4"
        x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        found = backbone.one_pass(x, pyramid=(-1, 1))  # in the order asked for
        assert [tuple(level.shape) for level in found.pyramid] == [(1, 512, 2, 2), (1, 64, 16, 16)]
        assert torch.equal(found.pyramid[0], found.feature_map)
        with pytest.raises(ModelError, match=r"5.* has the levels 0 "):
            check_levels(backbone, (5,), spec)


def test_output_stride_makes_a_finer_map() -> None:
    request = ModelRequest(spec="timm:resnet18", output_stride=16, input_size=64)
    (kept,) = examine(request, Outputs(map=True)).maps
    assert (kept.shape, kept.reduction) == ((512, 4, 4), 16)


def test_lite0_untrained() -> None:
    request = ModelRequest(spec="lite0", random_weights=True)
    before = torch.get_rng_state()
    found = examine(request)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(77)  # the weights follow their own seed
    assert examine(request) == found
    # timm's own network of that name, drawn from the same seed.
    assert (
        found.weights_sha256
        == examine(ModelRequest(spec="timm:tf_efficientnet_lite0")).weights_sha256
    )
    assert found.weights == "random (seed 0)"
    assert found.labels_sha256 is None
    trained = examine(ModelRequest(spec="lite0"))
    assert found.preprocess == trained.preprocess
    assert (found.num_classes, found.feature_dim) == (1000, 1280)
    assert found.weights_sha256 != trained.weights_sha256
    assert found.fingerprint != trained.fingerprint
    assert trained.labels_sha256 is not None
