"""Boxes of images of several sizes are compared at one."""

from __future__ import annotations

import numpy as np
import pytest

from tracks.geometry import Geometry, scale_factors


def geometry(*sizes: tuple[int, int]) -> Geometry:
    """A detection in each of some images, in the same place of the view."""
    boxes = np.array([(0.1 * w, 0.2 * h, 0.3 * w, 0.5 * h) for w, h in sizes])
    counts = {size: sizes.count(size) for size in dict.fromkeys(sizes)}
    ordered = tuple(sorted(counts.items(), key=lambda item: -item[1]))
    return Geometry(boxes, np.array(sizes, float), 0, ordered)


def test_one_view_in_two_sizes() -> None:
    common = geometry((1920, 1080), (960, 540), (1920, 1080)).in_common_frame()
    assert common.boxes == pytest.approx(np.array([[192, 216, 576, 540]] * 3))
    assert common.diagonals == pytest.approx(np.hypot(1920, 1080))
    (line,) = common.warnings("x")
    assert "2 sizes" in line
    assert "1920x1080" in line
    assert "column" not in line


def test_sizes_that_were_rounded_are_of_one_shape() -> None:
    common = geometry((4096, 2160), (4096, 2160), (160, 84), (333, 176)).in_common_frame()
    assert common.boxes == pytest.approx(np.array([common.boxes[0]] * 4))


@pytest.mark.parametrize("other", [(1080, 1920), (1440, 1080), (1080, 1080)])
def test_another_shape_is_another_view(other: tuple[int, int]) -> None:
    given = geometry((1920, 1080), (1920, 1080), other, (960, 540))
    common = given.in_common_frame()
    assert common.boxes[2].tolist() == given.boxes[2].tolist()
    assert common.sizes[2].tolist() == list(other)
    assert common.boxes[3] == pytest.approx(common.boxes[0])
    (line,) = common.warnings("x")
    assert "3 sizes" in line
    assert f"1 images have another shape, such as {other[0]}x{other[1]}" in line
    assert "column 'sequence'" in line


def test_one_size_is_left_alone() -> None:
    given = geometry((1920, 1080), (1920, 1080))
    assert given.in_common_frame() is given
    assert given.warnings("x") == []


def test_factors_as_a_loop_has_them() -> None:
    sizes = np.array([(640, 480), (320, 240), (480, 640), (1000, 750), (640, 360)], float)
    factors = scale_factors(sizes, np.array([640.0, 480.0]))
    for (width, height), (x, y) in zip(sizes, factors, strict=True):
        if abs(width / height / (640 / 480) - 1) <= 0.02:
            assert (x, y) == (640 / width, 480 / height)
        else:
            assert np.isnan([x, y]).all()
