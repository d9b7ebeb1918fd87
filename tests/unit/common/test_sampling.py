"""Even samples and even parts."""

from __future__ import annotations

import pytest

from common.sampling import even_parts, evenly, spread


@pytest.mark.parametrize(
    ("total", "limit", "parts"),
    [
        (0, 16, [(0, 0)]),  # one of no rows
        (1, 16, [(0, 1)]),
        (16, 16, [(0, 16)]),
        (17, 16, [(0, 8), (8, 17)]),
        (10, 4, [(0, 3), (3, 6), (6, 10)]),
        (3, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_parts_of_known_lengths(total: int, limit: int, parts: list[tuple[int, int]]) -> None:
    assert even_parts(total, limit) == parts


def test_parts_are_few_and_nearly_equal() -> None:
    for total in range(1, 200):
        for limit in range(1, 40):
            parts = even_parts(total, limit)
            assert [row for part in parts for row in range(*part)] == list(range(total))
            lengths = [end - begin for begin, end in parts]
            assert max(lengths) <= limit
            assert max(lengths) - min(lengths) <= 1
            assert len(parts) == -(-total // limit)


def test_positions_run_from_the_first_to_the_last() -> None:
    assert evenly(10, 4) == [0, 3, 6, 9]
    assert evenly(3, 3) == [0, 1, 2]
    assert spread("abcdefghij", 4) == ["a", "d", "g", "j"]
    assert spread("abc", 3) == spread("abc", None) == "abc"
