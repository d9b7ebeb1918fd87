"""The former extractor beside the one pass, on networks of every make."""

from __future__ import annotations

import pytest

from pipelines.model_info import ModelRequest
from pipelines.models.compare import compare
from tests.helpers.pictures import photo_folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(photo_folder(tmp_path_factory.mktemp("photos"), 3, width=80, height=60))


def test_a_network_with_layers_after_pooling(photos: str) -> None:
    comparison = compare(ModelRequest(spec="torchvision:mobilenet_v3_small", input_size=64), photos)
    assert comparison.verdict == "other_point"
    assert (comparison.old_dim, comparison.new.dim) == (576, 1024)
    assert comparison.other is not None
    assert (comparison.other.point, comparison.other.dim, comparison.other.equal) == (
        "map_mean",
        576,
        True,
    )


def test_vit_loses_class_token_and_positions(photos: str) -> None:
    """The children run one after the other, but they are not the network."""
    comparison = compare(ModelRequest(spec="timm:vit_tiny_patch16_224"), photos, limit=2)
    assert comparison.verdict == "different"
    assert (comparison.old_shape, comparison.old_dim, comparison.new.dim) == (
        (196, 192),
        196 * 192,
        192,
    )
    assert not comparison.old_is_map
    assert comparison.sum_share_min is not None
    assert comparison.sum_share_min < 1e-3  # a layer norm's output sums to zero


def test_children_that_do_not_compose(photos: str) -> None:
    comparison = compare(ModelRequest(spec="timm:xcit_nano_12_p16_224"), photos, limit=1)
    assert comparison.verdict == "not_runnable"
    assert comparison.old_error is not None
    assert "\n" not in comparison.old_error
    assert (comparison.rows, comparison.old_dim, comparison.sum_share_min) == (0, None, None)
    assert comparison.new.dim == 128
