"""Contract 3: every family in one conformance suite, and golden values."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from cluster import session
from cluster.errors import ModelError
from pipelines.backbones import (
    examine,
    load_backbone,
    load_verified,
    read_labels,
    torchvision_family,
)
from pipelines.backbones.base import check_levels
from pipelines.embed import Embedder
from pipelines.engines.engine import Engine
from pipelines.facts import ModelRequest, Outputs
from pipelines.precision import compare
from tests.pictures import drawn, encoded

GOLDEN = Path(__file__).parent / "golden_lite0.json"

SPECS = [
    ("tiny", 32, 10),
    ("lite0", 1280, 1000),
    ("lite1", 1280, 1000),
    ("timm:resnet50", 2048, 1000),
    ("timm:tf_efficientnet_lite0", 1280, 1000),
    ("timm:convnext_tiny", 768, 1000),
    ("timm:vit_tiny_patch16_224", 192, 1000),
    ("torchvision:resnet18", 512, 1000),
    ("torchvision:mobilenet_v3_small", 1024, 1000),
    ("ami:resnet50-lowres", 2048, 2),
]


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize(("spec", "dim", "classes"), SPECS)
def test_one_pass_is_the_models_own_answer(spec: str, dim: int, classes: int) -> None:
    loaded = load_backbone(ModelRequest(spec=spec))
    x = torch.randn(2, 3, *loaded.preprocess.input_size, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = loaded.backbone.one_pass(x)
        pooled, logits = found.embedding, found.logits
        assert pooled.shape == (2, dim)
        assert logits.shape == (2, classes)
        assert relative(logits, loaded.backbone.model(x)) <= 1e-5
        if spec.startswith("timm:"):
            model = loaded.backbone.model
            own = model.forward_head(model.forward_features(x), pre_logits=True)  # type: ignore[operator]
            assert relative(pooled, own) <= 1e-5
        assert pooled.std() > 0


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


def test_weights_are_the_same_each_time() -> None:
    for spec in ("tiny", "timm:resnet18"):
        one, two = (examine(ModelRequest(spec=spec)) for _ in range(2))
        assert one.weights_sha256 == two.weights_sha256


def test_tiny_is_the_same_everywhere() -> None:
    found = examine(ModelRequest(spec="tiny")).weights_sha256
    assert found == "6867d5949facd5fa2896824326fb6ec74d6ebbc04e54e6c6b9c883c808e64eda"


def test_other_weights_are_refused() -> None:
    facts = examine(ModelRequest(spec="tiny")).model_copy(update={"weights_sha256": "f" * 64})
    with pytest.raises(ModelError, match="weights here hash to"):
        load_verified(facts)


def test_half_precision_is_audited() -> None:
    facts = examine(ModelRequest(spec="lite0"))
    batch = np.stack([np.asarray(drawn(n, width=224, height=224)) for n in range(8)])
    half, exact = (Engine(facts, precision)(batch) for precision in ("bf16", "fp32"))  # type: ignore[arg-type]
    audit = compare(half.embedding, half.logits, exact.embedding, exact.logits)
    assert audit.rows == 8
    assert 0.97 < audit.cosine_min <= audit.cosine_mean < 1.0
    assert 0.5 <= audit.top1_agreement <= 1.0


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"spec": "resnet50"}, "did you mean timm:resnet50, torchvision:resnet50"),
        (
            {"spec": "nosuch:thing"},
            "unknown model; known are lite0, lite1, lite2, tiny, timm:NAME, torchvision:",
        ),
        ({"spec": "torchvision:resnet5O"}, "did you mean resnet50"),
        ({"spec": "torchvision:fasterrcnn_resnet50_fpn"}, "torchvision has no such model"),
        ({"spec": "ami:resnet50-touring"}, "did you mean resnet50-turing"),
        ({"spec": "ami:resnet50", "pretrained": True}, "no public weights to fetch"),
        ({"spec": "torchvision:resnet18", "checkpoint": "/no/w.pth"}, "no such file"),
        ({"spec": "torchvision:resnet18", "output_stride": 16}, "has a fixed stride"),
        ({"spec": "tiny", "output_stride": 16}, "has a fixed stride"),
        ({"spec": "timm:vit_tiny_patch16_224", "output_stride": 8}, "has a fixed stride of 16"),
        ({"spec": "timm:resnet18", "output_stride": 5}, "has a fixed stride of 32 or does not"),
        ({"spec": "timm:resnet5O"}, "timm has no such model; did you mean"),
        ({"spec": "tiny", "checkpoint": "w.pth"}, "--checkpoint does not go with --model tiny"),
        ({"spec": "timm:resnet18", "checkpoint": "/no/w.pth"}, "no such file"),
        ({"spec": "tiny", "labels": "/no/names.txt"}, "no such file"),
    ],
)
def test_what_does_not_fit_is_one_line(request_: dict, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        examine(ModelRequest(**request_))
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"
    torch.save({"conv.weight": torch.zeros(3, 3)}, file)
    with pytest.raises(ModelError, match="is not a checkpoint of timm:resnet18"):
        examine(ModelRequest(spec="timm:resnet18", checkpoint=str(file)))


@pytest.mark.parametrize("wrap", ["plain", "state_dict", "model_state_dict", "module"])
def test_checkpoint_layouts(tmp_path: Path, wrap: str) -> None:
    import timm

    torch.manual_seed(3)
    state = timm.create_model("resnet18", num_classes=7).state_dict()
    expected = state["fc.weight"].clone()
    data = {f"module.{k}": v for k, v in state.items()} if wrap == "module" else state
    torch.save(data if wrap in ("plain", "module") else {wrap: data}, tmp_path / "w.pth")
    request = ModelRequest(spec="timm:resnet18", checkpoint=str(tmp_path / "w.pth"))
    assert examine(request).num_classes == 7
    assert torch.equal(load_backbone(request).backbone.model.state_dict()["fc.weight"], expected)


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


def test_torchvision_weights_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(session.socket, "create_connection", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"could not be fetched from download[.]pytorch") as caught:
        load_backbone(ModelRequest(spec="torchvision:resnet18", pretrained=True))
    assert "--checkpoint FILE" in str(caught.value)
    assert "\n" not in str(caught.value)


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
        with pytest.raises(ModelError, match=r"--feature-indices 5: .* has the levels 0 "):
            check_levels(backbone, (5,), spec)


def test_output_stride_makes_a_finer_map() -> None:
    request = ModelRequest(spec="timm:resnet18", output_stride=16, input_size=64)
    (kept,) = examine(request, Outputs(map=True)).maps
    assert (kept.shape, kept.reduction) == ((512, 4, 4), 16)


def test_labels_must_be_one_a_class(tmp_path: Path) -> None:
    (tmp_path / "three.txt").write_text("a\nb\nc\n")
    with pytest.raises(ModelError, match="has 3 names, tiny has 10 classes"):
        examine(ModelRequest(spec="tiny", labels=str(tmp_path / "three.txt")))
    (tmp_path / "map.json").write_text(json.dumps({"moth": 1, "fly": 0}))
    assert read_labels(str(tmp_path / "map.json")) == ("fly", "moth")
    (tmp_path / "gap.json").write_text(json.dumps({"moth": 2, "fly": 0}))
    with pytest.raises(ModelError, match="without a gap"):
        read_labels(str(tmp_path / "gap.json"))


def test_overrides_reach_the_facts() -> None:
    request = ModelRequest(spec="tiny", input_size=48, resize="pad", mean=(0, 0, 0), std=(1, 1, 1))
    how = examine(request).preprocess
    assert how.input_size == (48, 48)
    assert (how.resize, how.mean, how.std) == ("pad", (0, 0, 0), (1, 1, 1))


def test_fingerprint_follows_what_decides_an_embedding() -> None:
    plain = examine(ModelRequest(spec="tiny"))
    bigger = examine(ModelRequest(spec="tiny", input_size=48))
    assert plain.fingerprint != bigger.fingerprint
    assert plain.fingerprint == plain.model_copy(update={"labels_sha256": "x"}).fingerprint


def test_a_size_that_a_network_does_not_take() -> None:
    request = ModelRequest(spec="timm:vit_tiny_patch16_224", input_size=256)
    with pytest.raises(ModelError, match=r"256x256 image: .*; give the --input-size it is made"):
        examine(request)
