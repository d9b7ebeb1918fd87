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
    found = compare(ModelRequest(spec="torchvision:mobilenet_v3_small", input_size=64), photos)
    assert found.verdict == "other_point"
    assert (found.old_dim, found.new.dim) == (576, 1024)
    assert found.other is not None
    assert (found.other.point, found.other.dim, found.other.equal) == ("map_mean", 576, True)


def test_vit_loses_class_token_and_positions(photos: str) -> None:
    """The children run one after the other, but they are not the network."""
    found = compare(ModelRequest(spec="timm:vit_tiny_patch16_224"), photos, limit=2)
    assert found.verdict == "different"
    assert (found.old_shape, found.old_dim, found.new.dim) == ((196, 192), 196 * 192, 192)
    assert not found.old_is_map
    assert found.sum_share_min is not None
    assert found.sum_share_min < 1e-3  # a layer norm's output sums to zero


def test_children_that_do_not_compose(photos: str) -> None:
    found = compare(ModelRequest(spec="timm:xcit_nano_12_p16_224"), photos, limit=1)
    assert found.verdict == "not_runnable"
    assert found.old_error is not None
    assert "\n" not in found.old_error
    assert (found.rows, found.old_dim, found.sum_share_min) == (0, None, None)
    assert found.new.dim == 128
