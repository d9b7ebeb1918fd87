"""Lists and descriptions of models, against counts done by hand."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import timm

from common.errors import ModelError
from pipelines.model_info import ModelRequest
from pipelines.models.base import weights_sha256
from pipelines.models.describe import FAMILIES, describe_model, matching_specs
from pipelines.models.registry import load_backbone
from tests.helpers.commands import here

VIT_TOKENS, VIT_WIDTH, VIT_HEADS, VIT_BLOCKS = 197, 192, 3, 12


def test_resnet18() -> None:
    description = describe_model(ModelRequest(spec="timm:resnet18"), depth=1)
    assert description.parameters == 11_689_512
    assert description.multiply_adds == 1_814_073_344
    assert (description.feature_dim, description.num_classes, description.labelled) == (
        512,
        1000,
        False,
    )
    assert description.weights == "random (seed 0)"
    assert [level.index for level in description.levels] == [0, 1, 2, 3, 4]
    assert [level.reduction for level in description.levels] == [2, 4, 8, 16, 32]
    assert [level.channels for level in description.levels] == [64, 64, 128, 256, 512]
    whole, *children = description.layers
    assert (whole.name, whole.type, whole.output_shape) == ("", "ResNet", (1, 1000))
    assert sum(layer.parameters for layer in children) == whole.parameters == 11_689_512
    by_name = {layer.name: layer for layer in children}
    assert by_name["layer3"].output_shape == (1, 256, 14, 14)
    assert by_name["fc"].parameters == 512 * 1000 + 1000


def test_layers_are_named_as_in_the_state_dict() -> None:
    description = describe_model(ModelRequest(spec="timm:resnet18"), depth=3)
    modules = dict(timm.create_model("resnet18").named_modules())
    assert {layer.name for layer in description.layers} <= modules.keys()
    block = next(layer for layer in description.layers if layer.name == "layer2.0.conv1")
    assert block.type == "Conv2d"
    assert block.output_shape == (1, 128, 28, 28)
    assert block.parameters == 64 * 128 * 9
    names = [layer.name for layer in description.layers]
    assert len(names) == len(set(names))


def test_multiply_adds_of_a_transformer_count_every_token_and_the_attention() -> None:
    description = describe_model(ModelRequest(spec="timm:vit_tiny_patch16_224"), depth=1)
    n, d = VIT_TOKENS, VIT_WIDTH
    linear = n * d * 3 * d + n * d * d + 2 * n * d * 4 * d
    attention = 2 * VIT_HEADS * n * n * (d // VIT_HEADS)
    patches = (n - 1) * 16 * 16 * 3 * d
    assert description.multiply_adds == patches + VIT_BLOCKS * (linear + attention) + d * 1000
    # The class token and the positions belong to no child.
    children = sum(layer.parameters for layer in description.layers[1:])
    assert description.parameters - children == d + n * d


def test_multiply_adds_follow_the_input_size() -> None:
    usual = describe_model(ModelRequest(spec="timm:convnext_atto", input_size=64), depth=1)
    twice = describe_model(ModelRequest(spec="timm:convnext_atto", input_size=128), depth=1)
    head = usual.feature_dim * usual.num_classes  # once an image, at any size
    assert twice.multiply_adds - head == 4 * (usual.multiply_adds - head)
    assert twice.parameters == usual.parameters
    assert twice.preprocess.input_size == (128, 128)


def test_describing_leaves_the_model_as_it_was() -> None:
    """Weights are described, not moved: the hash is that of a model nobody described."""
    description = describe_model(ModelRequest(spec="tiny"))
    loaded = load_backbone(ModelRequest(spec="tiny"))
    assert description.weights_sha256 == weights_sha256(loaded.backbone.model)


def test_describe_json_of_tiny() -> None:
    done = here("models", "describe", "tiny", "--depth", 1, "--input-size", 64, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["spec"], document["weights"]) == ("tiny", "made by code")
    assert document["preprocess"] == {
        "input_size": [64, 64],
        "resize": "squash",
        "crop_pct": 1.0,
        "interpolation": "bilinear",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    }
    assert [layer["name"] for layer in document["layers"]] == ["", "body", "head"]
    assert document["layers"][1]["output_shape"] == [1, 32, 8, 8]
    assert document["layers"][2]["parameters"] == 330


def test_describe_for_people() -> None:
    done = here("models", "describe", "timm:resnet18", "--depth", 1)
    assert done.returncode == 0, done.stderr
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "multiply-adds 1,814 million an image" in lines
    assert "(all) ResNet 1 x 1000 11,689,512" in lines
    assert "maxpool MaxPool2d 1 x 64 x 56 x 56 -" in lines


def test_list_of_families_needs_no_torch() -> None:
    script = (
        "import sys, onepass.cli.main\n"
        "sys.argv = ['onepass', 'models', 'list']\n"
        "try:\n    onepass.cli.main.main()\n"
        "except SystemExit as ended:\n    assert ended.code == 0\n"
        "assert not {'torch', 'timm'} & sys.modules.keys()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    families = [line.split()[0] for line in done.stdout.splitlines()[:-1]]
    assert families == [family.spec for family in FAMILIES]


def test_matching_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("built a model"))
    description = matching_specs("resnet18")
    assert {"timm:resnet18", "timm:resnet18d", "torchvision:resnet18"} <= set(description)
    assert matching_specs("tiny")[0] == "tiny"
    assert "timm:convnext_tiny" in matching_specs("TINY")


def test_matching_by_glob_fits_the_whole_name() -> None:
    assert matching_specs("timm:resnet18*") == ("timm:resnet18", "timm:resnet18d")
    assert matching_specs("lite?") == ("lite0", "lite1", "lite2")
    assert "torchvision:resnet18" in matching_specs("resnet1*")
    assert "timm:seresnet18" not in matching_specs("resnet1*")


def test_list_json() -> None:
    document = json.loads(here("models", "list", "lite0", "--json").stdout)
    assert document["pattern"] == "lite0"
    assert document["models"][0] == "lite0"
    assert "timm:tf_efficientnet_lite0" in document["models"]
    families = json.loads(here("models", "list", "--json").stdout)["families"]
    assert {"spec", "what"} == families[0].keys()


def test_no_match_names_similar_ones() -> None:
    with pytest.raises(ModelError, match=r"did you mean .*resn"):
        matching_specs("resnet19")
    with pytest.raises(ModelError):
        matching_specs("@@@@")
