"""What the board counts, and what is left of it when one dies and another takes its place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from common.errors import WorkError
from pipelines.progress.counters import MOST_DEATHS, Block, Board, Counts, Stopwatch, attempt

ROWS = pa.table({"row_id": [40, 41], "error": pa.array([None, "not an image: x"], pa.string())})


def test_a_block_that_ends_its_processes_is_counted_until_it_is_through() -> None:
    board = Board()
    assert [board.begun("forward", 40) for _ in range(3)] == [1, 2, 3]  # none of them ended
    assert board.begun("forward", 80) == 1  # another block
    assert board.begun("decode", 40) == 1  # another stage
    board.raised("forward", 40, "RuntimeError: once")  # its process lives
    assert board.begun("forward", 40) == 1
    board.block(Stopwatch("forward").block(ROWS))
    assert board.begun("forward", 40) == 1
    assert board.snapshot().counts.raised == 1


def test_a_block_that_kills_is_given_up_and_an_error_is_no_death() -> None:
    board = Board()
    for _ in range(2 * MOST_DEATHS):  # which the process survives
        with pytest.raises(RuntimeError), attempt(board, "forward", ROWS):
            raise RuntimeError("once")
    counts = board.snapshot().counts
    assert (counts.raised, counts.last_error) == (2 * MOST_DEATHS, "RuntimeError: once")
    for _ in range(MOST_DEATHS):
        attempt(board, "forward", ROWS).__enter__()  # and never leaves
    with pytest.raises(WorkError), attempt(board, "forward", ROWS):
        pass
    with attempt(board, "forward", ROWS.slice(0, 0)):  # no rows, nothing to count
        pass


def test_the_board_knows_what_was_done_again() -> None:
    board = Board()
    first = Block("forward", "n:1", 0.0, 1.0, 10, 0, 0, {"missing file": 2})
    other = first._replace(first_row=10, errors={})
    for each in (first, first, other, first._replace(stage="write", errors={})):
        board.block(each)
    counts, blocks, _ = board.snapshot()
    assert (counts.failed, counts.again, counts.written) == (2, 1, 10)
    assert [each.again for each in blocks] == [False, True, False, False]
    assert board.snapshot().blocks == []


def test_threads_share_a_board() -> None:
    board = Board()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: [board.decoded(1) for _ in range(5000)], range(8)))
    assert board.snapshot().counts.decoded == 8 * 5000


def test_a_lost_board_is_added_to_its_successor() -> None:
    first, second = Board(), Board()
    for board, rows in ((first, 5), (second, 7)):
        board.decoded(rows)
        board.answered(rows)
        board.block(Block("write", "here:1", 0.0, 1.0, rows, rows, 0, {}))
    first.raised("forward", 0, "RuntimeError: once")
    before, after = first.snapshot().counts, second.snapshot().counts
    both = before.plus(after)
    assert (both.decoded, both.answered, both.written, both.raised) == (12, 12, 12, 1)
    assert (both.first_answer, both.first_rows) == (before.first_answer, 5)
    assert both.last_answer == after.last_answer
    assert both.last_error == "RuntimeError: once"
    assert Counts().plus(after) == after
