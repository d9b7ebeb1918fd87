"""Rows a second out of a sample's blocks, held against sums made by hand."""

from __future__ import annotations

import pytest

from pipelines.dry_run import stage_rates
from pipelines.progress.counters import Block


def block(stage: str, lane: str, began: float, seconds: float, first_row: int) -> Block:
    return Block(stage, lane, began, seconds, 100, first_row, 10**6, {})


def test_lanes_that_do_all_have_one_rate_without_warm_up_and_end() -> None:
    """Two lanes, 0.6 s a block; each one's first takes 2 s more, and one ends long before the other."""
    blocks = []
    for lane, begun, count in (("n:1", 105.0, 12), ("n:2", 106.0, 8)):
        at = begun
        for number in range(count):
            slow = 2.0 if number == 0 else 0.0
            blocks.append(block("decode", lane, at, 0.2, number))
            blocks.append(block("forward", lane, at + 0.2, 0.35 + slow, number))
            blocks.append(block("write", lane, at + 0.55 + slow, 0.05, number))
            at += 0.6 + slow
    rates, limit = stage_rates(blocks)
    assert rates == {"decode + forward + write": pytest.approx(2 * 100 / 0.6, rel=0.05)}
    assert limit == "forward"


def test_processes_of_their_own_are_not_slowed_by_waiting_for_each_other() -> None:
    # Four decode for 3 s and stand still until a GPU is ready; two of its calls overlap.
    decode = [
        block("decode", f"n:{n % 4}", n // 4 + 10.0 * (n >= 12), 0.9, 100 * n) for n in range(24)
    ]
    forward = [block("forward", "n:9", 10 + 0.1 * n, 0.2, 100 * n) for n in range(24)]
    write = [block("write", "n:2", 14.0, 0.1, 0)]  # by a process that decoded before
    rates, limit = stage_rates(decode + forward)
    assert rates["decode"] == pytest.approx(4 * 100 / 0.9)
    assert rates["forward"] == pytest.approx(1000, rel=0.1)
    assert limit == "decode"
    assert set(stage_rates(decode + forward + write)[0]) == {"decode + write", "forward"}


def test_a_sample_of_one_block_is_better_than_none() -> None:
    blocks = [block("decode", "n:1", 3, 1, 0), block("forward", "n:1", 4, 3, 0)]
    assert stage_rates(blocks) == ({"decode + forward": pytest.approx(25)}, "forward")
    with pytest.raises(ValueError):  # noqa: PT011  of any wording
        stage_rates([])
