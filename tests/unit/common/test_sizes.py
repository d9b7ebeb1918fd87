"""Sizes as people write them."""

from __future__ import annotations

import pytest

from common.errors import InputError
from common.sizes import parse_size


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ("2GB", 2 * 2**30),
        (" 1.5 gb ", 3 * 2**29),
        ("512MB", 2**29),
        ("64", 64),
        (7, 7),
        (None, None),
    ],
)
def test_sizes_are_bytes(size: str | int | None, expected: int | None) -> None:
    assert parse_size(size) == expected


@pytest.mark.parametrize("size", ["", "GB", "-1GB", "nan", "2 cows", "1e9"])
def test_other_texts_are_refused(size: str) -> None:
    with pytest.raises(InputError, match="memory"):
        parse_size(size)
