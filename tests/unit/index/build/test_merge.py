"""Which segments an ``add`` merges: few stay, and little is copied."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from index.build import merge
from index.build.merge import first_merged


def add_all(sizes: list[int], new: list[int], base: int) -> tuple[list[int], int]:
    """Segments after adds of ``new`` rows each, and how many rows were written in all."""
    written = 0
    for rows in new:
        first = first_merged(sizes, rows, base=base, dim=8)
        sizes = [*sizes[:first], sum(sizes[first:]) + rows]
        written += sizes[-1]
    return sizes, written


@pytest.mark.parametrize("seed", range(5))
def test_segments_and_copies_grow_with_the_logarithm(seed: int) -> None:
    random = np.random.default_rng(seed)
    for new in ([50] * 1000, random.integers(1, 1000, 1000).tolist(), list(range(1000, 0, -1))):
        sizes, written = add_all([10_000], new, 1)
        assert sizes[0] == 10_000
        assert sum(sizes) == 10_000 + sum(new)
        assert all(one >= 2 * two for one, two in pairwise(sizes[1:]))
        levels = math.log(sum(new) / min(new), 2)
        assert len(sizes) <= 2 + levels
        assert written <= sum(new) * (1 + math.log(sum(new) / min(new), 1.5))


def test_segments_of_the_build_and_large_ones_are_left_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert first_merged([5, 5, 5], 100, base=3, dim=8) == 3
    assert first_merged([5, 5, 5], 100, base=2, dim=8) == 2
    assert first_merged([5], 1, base=2, dim=8) == 1
    assert first_merged([100, 0, 0], 10, base=1, dim=8) == 1
    assert first_merged([9] + [50] * 300, 50, base=1, dim=8) == 1
    monkeypatch.setattr(merge, "MAX_MERGED_VALUES", 8 * 120)
    assert first_merged([9, 50, 50, 50], 50, base=1, dim=8) == 3
