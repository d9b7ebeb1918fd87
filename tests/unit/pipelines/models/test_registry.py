"""Contract 3 where it costs little: one line for what does not fit, facts of a small network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from common import network
from common.errors import ModelError
from pipelines.model_info import ModelRequest
from pipelines.models.registry import examine, load_backbone, load_verified, read_labels


def test_tiny_is_the_same_everywhere() -> None:
    found = examine(ModelRequest(spec="tiny")).weights_sha256
    assert found == "6867d5949facd5fa2896824326fb6ec74d6ebbc04e54e6c6b9c883c808e64eda"


def test_other_weights_are_refused() -> None:
    facts = examine(ModelRequest(spec="tiny")).model_copy(update={"weights_sha256": "f" * 64})
    with pytest.raises(ModelError, match="weights here hash to"):
        load_verified(facts)


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
        ({"spec": "tiny", "checkpoint": "w.pth"}, "does not go with .*tiny"),
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


def test_torchvision_weights_out_of_reach(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(network.socket, "create_connection", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ModelError, match=r"could not be fetched from download[.]pytorch") as caught:
        load_backbone(ModelRequest(spec="torchvision:resnet18", pretrained=True))
    assert "\n" not in str(caught.value)


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
