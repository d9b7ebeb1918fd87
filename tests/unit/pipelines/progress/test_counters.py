"""What the counters counts, and what is left of it when one dies and another takes its place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from common.errors import WorkError
from pipelines.progress.counters import MOST_DEATHS, Block, Counters, Counts, Stopwatch, guard_block

ROWS = pa.table({"row_id": [40, 41], "error": pa.array([None, "not an image: x"], pa.string())})


def test_a_block_that_ends_its_processes_is_counted_until_it_is_through() -> None:
    counters = Counters()
    assert [counters.begun("forward", 40) for _ in range(3)] == [1, 2, 3]  # none of them ended
    assert counters.begun("forward", 80) == 1  # another block
    assert counters.begun("decode", 40) == 1  # another stage
    counters.raised("forward", 40, "RuntimeError: once")  # its process lives
    assert counters.begun("forward", 40) == 1
    counters.block(Stopwatch("forward").block(ROWS))
    assert counters.begun("forward", 40) == 1
    assert counters.snapshot().counts.raised == 1


def test_a_block_that_kills_is_given_up_and_an_error_is_no_death() -> None:
    counters = Counters()
    for _ in range(2 * MOST_DEATHS):  # which the process survives
        with pytest.raises(RuntimeError), guard_block(counters, "forward", ROWS):
            raise RuntimeError("once")
    counts = counters.snapshot().counts
    assert (counts.raised, counts.last_error) == (2 * MOST_DEATHS, "RuntimeError: once")
    for _ in range(MOST_DEATHS):
        guard_block(counters, "forward", ROWS).__enter__()  # and never leaves
    with pytest.raises(WorkError), guard_block(counters, "forward", ROWS):
        pass
    with guard_block(counters, "forward", ROWS.slice(0, 0)):  # no rows, nothing to count
        pass


def test_counters_knows_what_was_done_again() -> None:
    counters = Counters()
    first = Block("forward", "n:1", 0.0, 1.0, 10, 0, 0, {"missing file": 2})
    other = first._replace(first_row=10, errors={})
    for each in (first, first, other, first._replace(stage="write", errors={})):
        counters.block(each)
    counts, blocks, _ = counters.snapshot()
    assert (counts.failed, counts.again, counts.written) == (2, 1, 10)
    assert [each.again for each in blocks] == [False, True, False, False]
    assert counters.snapshot().blocks == []


def test_threads_share_counters() -> None:
    counters = Counters()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: [counters.decoded(1) for _ in range(5000)], range(8)))
    assert counters.snapshot().counts.decoded == 8 * 5000


def test_a_lost_actor_is_added_to_its_successor() -> None:
    first, second = Counters(), Counters()
    for counters, rows in ((first, 5), (second, 7)):
        counters.decoded(rows)
        counters.answered(rows)
        counters.block(Block("write", "here:1", 0.0, 1.0, rows, rows, 0, {}))
    first.raised("forward", 0, "RuntimeError: once")
    before, after = first.snapshot().counts, second.snapshot().counts
    both = before.plus(after)
    assert (both.decoded, both.answered, both.written, both.raised) == (12, 12, 12, 1)
    assert (both.first_answer, both.first_rows) == (before.first_answer, 5)
    assert both.last_answer == after.last_answer
    assert both.last_error == "RuntimeError: once"
    assert Counts().plus(after) == after
