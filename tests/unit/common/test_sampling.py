"""Even samples and even parts."""

from __future__ import annotations

from common.sampling import even_parts, evenly, spread


def test_parts_are_few_and_nearly_equal() -> None:
    assert even_parts(0, 16) == [(0, 0)]
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
