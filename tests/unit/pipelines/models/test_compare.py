"""The former extractor beside the one pass: each verdict on a network that earns it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

import pipelines.models.compare as module
from common.errors import SourceError
from pipelines.images.formats import decode
from pipelines.images.pixels import read, resize
from pipelines.model_info import FeaturePoint, ModelRequest, Preprocess
from pipelines.models.base import Backbone, Loaded
from pipelines.models.compare import FormerExtractor, compare, divide_by_sum, normalise
from pipelines.models.registry import load_backbone
from tests.helpers.commands import here
from tests.helpers.pictures import BAD_ERRORS, BAD_FILES, bad_folder, photo_folder

TINY = ModelRequest(spec="tiny")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(photo_folder(tmp_path_factory.mktemp("photos"), 3, width=80, height=60))


class LateNet(nn.Module):
    """Body, pool, and something between the pool and the classifier."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 5, stride=4), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.last = nn.Sequential(nn.Flatten(), between, nn.Linear(8, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(self.pool(self.body(x)))
        return logits


class LateBackbone(Backbone):
    model: LateNet

    def features(self, x: torch.Tensor) -> torch.Tensor:
        feature_map: torch.Tensor = self.model.body(x)
        return feature_map

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        pooled: torch.Tensor = self.model.last[1](feature_map.mean((2, 3)))
        return pooled

    def head(self, pooled: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.model.last[2](pooled)
        return logits


class Plus(nn.Module):
    """Adds a number: the same dimension, other directions."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.number


def given(monkeypatch: pytest.MonkeyPatch, model: LateNet) -> Loaded:
    """Make every request load ``model``."""
    how = Preprocess(input_size=(48, 48), resize="squash", mean=(0.5,) * 3, std=(0.25,) * 3)
    loaded = Loaded(LateBackbone(model), how, None, "made by the test")
    monkeypatch.setattr(module, "load_backbone", lambda request: loaded)
    return loaded


def seeded(between: nn.Module) -> LateNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return LateNet(between)


def test_resnet_is_identical(photos: str) -> None:
    comparison = compare(ModelRequest(spec="timm:resnet18", input_size=64), photos)
    assert comparison.verdict == "identical"
    assert (comparison.rows, comparison.errors) == (3, ())
    assert (comparison.old_dim, comparison.old_shape, comparison.new.dim) == (512, (512,), 512)
    assert comparison.new.max_abs is not None
    assert comparison.new.max_abs <= 1e-7
    assert comparison.new.cosine_min == pytest.approx(1, abs=1e-6)
    assert comparison.other is not None
    assert comparison.other.equal  # pooling is all that follows the map
    assert comparison.sum_share_min == pytest.approx(1)  # after a ReLU nothing is negative
    assert comparison.negative_sums == 0


def test_a_norm_after_pooling_makes_it_map_mean(
    photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(monkeypatch, seeded(nn.LayerNorm(8)))
    comparison = compare(TINY, photos)
    assert comparison.verdict == "other_point"
    assert (comparison.old_dim, comparison.new.dim) == (8, 8)
    assert not comparison.new.equal
    assert comparison.other is not None
    assert comparison.other.equal
    kept = compare(TINY.model_copy(update={"feature_point": "map_mean"}), photos)
    assert kept.verdict == "identical"
    assert kept.new == comparison.other
    assert "--feature-point map_mean" in kept.says


def test_differences_are_those_computed_by_hand(
    photos: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = given(monkeypatch, seeded(Plus(0.5)))
    comparison = compare(TINY, photos)
    files = sorted(Path(photos).rglob("*.jpg"))
    pixels = torch.stack([resize(decode(read(file)).pixels, loaded.preprocess) for file in files])
    means = loaded.backbone.features(normalise(pixels, loaded.preprocess)).mean((2, 3))
    old = means.numpy().astype(np.float64)
    new = old + 0.5
    old, new = old / old.sum(1, keepdims=True), new / new.sum(1, keepdims=True)
    apart = np.abs(old - new).max(1)
    cosine = (old * new).sum(1) / np.linalg.norm(old, axis=1) / np.linalg.norm(new, axis=1)
    assert comparison.verdict == "other_point"
    assert comparison.new.max_abs == pytest.approx(apart.max(), rel=1e-4)
    assert comparison.new.relative == pytest.approx((apart / np.abs(old).max(1)).max(), rel=1e-4)
    assert comparison.new.cosine_mean == pytest.approx(cosine.mean(), rel=1e-5)
    assert comparison.new.cosine_min == pytest.approx(cosine.min(), rel=1e-5)


def test_an_unpooled_map_can_be_averaged(photos: str) -> None:
    """What the verdict advises for stored maps gives the vectors it promises."""
    comparison = compare(TINY, photos)
    assert comparison.verdict == "different"
    assert (comparison.old_dim, comparison.old_shape, comparison.new.dim) == (512, (32, 4, 4), 32)
    assert comparison.old_is_map
    assert comparison.new.relative is None
    loaded = load_backbone(TINY)
    pixels = resize(decode(read(next(Path(photos).rglob("*.jpg")))).pixels, loaded.preprocess)
    x = normalise(pixels[None], loaded.preprocess)
    with torch.inference_mode():
        stored = divide_by_sum(FormerExtractor(loaded.backbone.model)(x).flatten(1))  # type: ignore[union-attr]
        mean = loaded.backbone.one_pass(x, point="map_mean").embedding
    averaged = stored.reshape(1, 32, 4, 4).mean((2, 3))
    assert torch.allclose(divide_by_sum(averaged), divide_by_sum(mean), atol=1e-7)


def test_convnext_gives_its_map_with_sums_near_zero(photos: str) -> None:
    comparison = compare(ModelRequest(spec="timm:convnext_atto", input_size=64), photos)
    assert comparison.verdict == "different"
    assert comparison.old_shape == (320, 2, 2)
    assert comparison.old_is_map
    assert comparison.sum_share_min is not None
    assert comparison.sum_share_min < 0.2
    assert comparison.warnings[0].startswith("timm:convnext_atto has random weights")


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3)), "the model has one child"),
        (nn.Sequential(nn.Linear(7, 4), nn.ReLU()), "RuntimeError: mat1 and mat2"),
        (nn.Sequential(nn.ModuleList([nn.ReLU()]), nn.ReLU()), "NotImplementedError: "),
        (nn.Sequential(nn.Flatten(0), nn.ReLU()), "2 images give (384,), not a row each"),
    ],
    ids=["one child", "shapes", "a list", "no rows"],
)
def test_reasons_for_failing(model: nn.Module, reason: str) -> None:
    old = FormerExtractor(model)
    assert old(torch.zeros(2, 3, 8, 8)) is None
    assert old.error is not None
    assert reason in old.error
    assert "\n" not in old.error


def test_divided_by_sum() -> None:
    rows = torch.tensor([[1.0, -1.0, 2.0], [1.0, -3.0, 1.0], [0.0, 0.0, 0.0], [1.0, -1.0, 0.0]])
    expected = [[0.5, -0.5, 1.0], [-1.0, 3.0, -1.0], [0.0, 0.0, 0.0], [1.0, -1.0, 0.0]]
    assert divide_by_sum(rows).tolist() == expected


def test_sums_below_zero_are_counted(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(nn.Identity())
    model.body[1] = nn.Identity()
    conv = model.body[0]
    assert isinstance(conv, nn.Conv2d)
    conv.weight.data.zero_()
    assert conv.bias is not None
    conv.bias.data.copy_(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.1]))
    given(monkeypatch, model)
    comparison = compare(TINY, photos)
    assert comparison.verdict == "identical"
    assert comparison.sum_share_min == pytest.approx(0.1 / 8.1, rel=1e-3)
    assert comparison.negative_sums == 3
    assert [line.split(":")[0] for line in comparison.warnings] == [
        "3 of 3 old vectors have a sum below zero"
    ]
    conv.bias.data[7] = -0.9
    comparison = compare(TINY, photos)
    assert comparison.negative_sums == 0
    assert "only 1.3e-02 of the sum of its absolute values" in comparison.warnings[0]


def test_bad_rows_are_named_and_left_out(tmp_path: Path) -> None:
    folder = bad_folder(tmp_path / "bad")
    comparison = compare(TINY, str(folder / "rows.csv"))
    kinds = [error.split(":")[0] for error in comparison.errors]
    assert {kind: kinds.count(kind) for kind in kinds} == BAD_ERRORS
    assert comparison.rows == len(BAD_FILES) + 5 - sum(BAD_ERRORS.values())
    assert any(error.endswith("[gone.jpg]") for error in comparison.errors)


def test_rows_are_spread_over_the_source_and_batches(tmp_path: Path) -> None:
    folder = photo_folder(tmp_path, 36, width=40, height=30)
    last = sorted(folder.rglob("*.jpg"))[-1]
    last.write_bytes(b"")
    reported: list[tuple[int, int]] = []
    comparison = compare(TINY, str(folder), limit=2, report=lambda *at: reported.append(at))
    assert comparison.rows == 1
    assert comparison.errors == (f"empty file: {last.name} has 0 bytes [night1/{last.name}]",)
    assert reported == [(2, 2)]
    whole = compare(TINY, str(folder), limit=100)
    assert (whole.rows, len(whole.errors)) == (35, 1)  # a bad last row does not drop its batch


def test_rows_that_overflow_are_left_out(photos: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = given(monkeypatch, seeded(nn.Identity()))
    whole = loaded.backbone.features

    def overflowing(x: torch.Tensor) -> torch.Tensor:
        feature_map = whole(x)
        if len(x) == 3:  # the pictures, not the identity check
            feature_map[1] = torch.inf
        return feature_map

    monkeypatch.setattr(loaded.backbone, "features", overflowing)
    comparison = compare(TINY, photos)
    assert comparison.rows == 2
    assert [error.split(":")[0] for error in comparison.errors] == ["not finite"]
    assert comparison.verdict == "identical"


def test_sources_that_cannot_be_compared(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(SourceError, match=r"\[a.jpg\]"):
        compare(TINY, str(tmp_path))
    with pytest.raises(SourceError):  # before the model is looked at
        compare(ModelRequest(spec="no-such-model"), "gone")


@pytest.mark.parametrize("point", get_args(FeaturePoint))
def test_json_document(photos: str, point: FeaturePoint) -> None:
    done = here("models", "compare", "tiny", "--source", photos, "--feature-point", point, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["verdict"] == "different"
    assert document["request"]["feature_point"] == document["new"]["point"] == point
    assert (document["rows"], document["old_dim"], document["old_shape"]) == (3, 512, [32, 4, 4])
    assert document["new"]["dim"] == document["other"]["dim"] == 32
    assert document["warnings"] == []


def test_words_for_people(photos: str) -> None:
    done = here("models", "compare", "timm:resnet18", "--input-size", 64, "--source", photos)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout.splitlines()[0] == f"timm:resnet18, weights random (seed 0): 3 rows of {photos}"
    )
    assert done.stdout.splitlines()[-1] == "identical: stored vectors can be kept"
    assert "warning: timm:resnet18 has random weights" in done.stderr
