"""Contract 3 where it costs little: one line for what does not fit, facts of a small network."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from common import network
from common.errors import ModelError
from pipelines.model_info import ModelRequest, Outputs
from pipelines.models.labels import read_labels
from pipelines.models.registry import examine, load_backbone, load_verified


def test_tiny_is_the_same_everywhere() -> None:
    found = examine(ModelRequest(spec="tiny")).weights_sha256
    assert found == "6867d5949facd5fa2896824326fb6ec74d6ebbc04e54e6c6b9c883c808e64eda"


def test_other_weights_are_refused() -> None:
    facts = examine(ModelRequest(spec="tiny")).model_copy(update={"weights_sha256": "f" * 64})
    with pytest.raises(ModelError, match="weights here hash to"):
        load_verified(facts)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("resnet50", "timm:resnet50, torchvision:resnet50"),
        ("torchvision:resnet5O", "resnet50"),
        ("timm:resnet5O", "resnet50"),
        ("ami:resnet50-touring", "resnet50-turing"),
        ("torchvision:fasterrcnn_resnet50_fpn", ""),
        ("nosuch:thing", ""),
    ],
)
def test_an_unknown_model_has_similar_ones_named(spec: str, hint: str) -> None:
    with pytest.raises(ModelError, match=f"`model='{spec}'`.*{hint}"):
        examine(ModelRequest(spec=spec))


@pytest.mark.parametrize(
    ("given", "parameter"),
    [
        ({"spec": "ami:resnet50", "pretrained": True}, "pretrained"),
        ({"spec": "tiny", "checkpoint": "w.pth"}, "checkpoint"),
        ({"spec": "torchvision:resnet18", "checkpoint": "/no/w.pth"}, "checkpoint"),
        ({"spec": "timm:resnet18", "checkpoint": "/no/w.pth"}, "checkpoint"),
        ({"spec": "tiny", "labels": "/no/names.txt"}, "labels"),
        ({"spec": "torchvision:resnet18", "output_stride": 16}, "output_stride"),
        ({"spec": "tiny", "output_stride": 16}, "output_stride"),
        ({"spec": "timm:vit_tiny_patch16_224", "output_stride": 8}, "output_stride"),
        ({"spec": "timm:resnet18", "output_stride": 5}, "output_stride"),
    ],
)
def test_what_does_not_fit_is_one_line(given: dict, parameter: str) -> None:
    with pytest.raises(ModelError, match=f"`{parameter}") as caught:
        examine(ModelRequest(**given))
    assert "\n" not in str(caught.value)


def test_checkpoint_of_another_architecture(tmp_path: Path) -> None:
    torch.save({"conv.weight": torch.zeros(3, 3)}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"w\.pth"):
        examine(ModelRequest(spec="timm:resnet18", checkpoint=str(tmp_path / "w.pth")))


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
    with pytest.raises(ModelError):
        examine(ModelRequest(spec="tiny", labels=str(tmp_path / "three.txt")))
    (tmp_path / "map.json").write_text(json.dumps({"moth": 1, "fly": 0}))
    assert read_labels(str(tmp_path / "map.json")) == ("fly", "moth")
    (tmp_path / "gap.json").write_text(json.dumps({"moth": 2, "fly": 0}))
    with pytest.raises(ModelError):
        read_labels(str(tmp_path / "gap.json"))


def test_overrides_reach_the_facts() -> None:
    request = ModelRequest(spec="tiny", input_size=48, resize="pad", mean=(0, 0, 0), std=(1, 1, 1))
    preprocess = examine(request).preprocess
    assert preprocess.input_size == (48, 48)
    assert (preprocess.resize, preprocess.mean, preprocess.std) == ("pad", (0, 0, 0), (1, 1, 1))


def test_fingerprint_follows_what_decides_an_embedding() -> None:
    plain = examine(ModelRequest(spec="tiny"))
    bigger = examine(ModelRequest(spec="tiny", input_size=48))
    assert plain.fingerprint != bigger.fingerprint
    assert plain.fingerprint == plain.model_copy(update={"labels_sha256": "x"}).fingerprint


def test_a_level_is_kept_once_however_it_is_counted() -> None:
    """-1 is the last level: two columns of one name would be a run that nothing can read."""
    request = ModelRequest(spec="timm:test_resnet", random_weights=True)
    last = len(load_backbone(request).backbone.levels) - 1
    assert len(examine(request, Outputs(pyramid=(0, -1))).maps) == 2
    with pytest.raises(ModelError, match="feature_indices"):
        examine(request, Outputs(pyramid=(last, -1)))
