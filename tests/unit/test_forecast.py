"""From a sample's blocks to costs, and from costs to seconds: held against sums made by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipelines.events.board import Block
from pipelines.events.words import duration, size
from pipelines.forecast.formula import Costs, Lanes, costs_of, makespan, pace

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import _pipeline_sim as simulator

CPU = Costs(
    fused=True, decode=0.002, forward=0.008, write=0.0001, hand_over=0.1, ready=(10, 12), last=0.5
)
GPU = Costs(
    fused=False, decode=0.003, forward=0.0002, write=0.0001, hand_over=0, ready=(20,), last=1
)
LANES = Lanes(actors=2, decoders=8, writers=4)


def block(stage: str, lane: str, began: float, seconds: float, rows: int, first_row: int) -> Block:
    return Block(stage, lane, began, seconds, rows, first_row, 10**6, {})


def test_lanes_that_decode_for_themselves() -> None:
    # Ten blocks of 0.1 + 100 * 0.010 = 1.1 s: the lane ready at 10 s takes six, the other four.
    coming = pace(CPU, LANES, 1000, 100)
    assert coming.seconds == pytest.approx(10 + 6 * 1.1 + 0.5)
    assert coming.rate == pytest.approx(2 / 0.011)
    assert (coming.limit, coming.cores_missing) == ("forward", 0)
    # One row more is an eleventh block of 0.11 s, for the lane that is free at 16.4 s.
    assert pace(CPU, LANES, 1001, 100).seconds == pytest.approx(16.6 + 0.5)
    assert pace(CPU, LANES, 100, 100).seconds == pytest.approx(10 + 1.1 + 0.5)
    assert pace(CPU.model_copy(update={"decode": 0.02}), LANES, 1000, 100).limit == "decode"


def test_a_long_pass_is_told_without_simulating_it() -> None:
    rows = 100 * 50_000
    simulated = pace(CPU, LANES, rows, 100).seconds
    assert pace(CPU, LANES, rows + 200, 100).seconds == pytest.approx(simulated, abs=2)


def test_decoding_that_cannot_feed_a_gpu_says_how_many_cores_are_missing() -> None:
    one = Lanes(actors=1, decoders=8, writers=4)
    coming = pace(GPU, one, 80_000, 400)
    assert coming.forward_rate == pytest.approx(5000)
    assert coming.decode_rate == pytest.approx(8 / 0.003)
    assert (coming.limit, coming.rate) == ("decode", coming.decode_rate)
    assert coming.cores_missing == 7  # 5000/s want 15 cores at 3 ms an image
    assert coming.seconds == pytest.approx(20 + 80_000 * 0.003 / 8 + 400 * 0.0002 / 2 + 1)
    fed = pace(GPU, one.model_copy(update={"decoders": 15}), 80_000, 400)
    assert (fed.limit, fed.cores_missing) == ("forward", 0)
    assert pace(GPU, Lanes(actors=2, decoders=8, writers=4), 1000, 400).cores_missing == 22


def test_writing_may_be_the_limit() -> None:
    slow = CPU.model_copy(update={"write": 0.1})
    coming = pace(slow, LANES, 1000, 100)
    assert (coming.limit, coming.rate) == ("write", pytest.approx(40))
    assert coming.seconds == pytest.approx(11 + 1000 / 40 + 0.5)


def test_whoever_is_free_takes_the_next_block() -> None:
    assert makespan([0, 0], [4, 3, 3]) == 6
    assert makespan([0, 5], [1, 1, 1]) == 3
    assert makespan([2], []) == 0


def fused_blocks() -> list[Block]:
    """Two lanes, begun at 105 and 106 s, 2 and 3 ms an image, 0.05 s between blocks.

    What each does first takes 2 s longer, and when the second has ended the first is faster.
    """
    found: list[Block] = []
    row = 0
    for lane, begun, count in (("n:1", 105.0, 8), ("n:2", 106.0, 4)):
        at = begun
        for number in range(count):
            slow, half = (2.0 if number == 0 else 0.0), (0.5 if number > 5 else 1.0)
            found.append(block("decode", lane, at, 0.2 * half, 100, row))
            found.append(block("forward", lane, at + 0.2 * half, 0.3 * half + slow, 100, row))
            found.append(block("write", "n:3", at + 1, 1.0 if not row else 0.01, 100, row))
            at += 0.5 * half + slow + 0.05
            row += 100
    return found


def test_costs_of_lanes_that_decode_for_themselves() -> None:
    blocks = fused_blocks()
    ended = max(b.began + b.seconds for b in blocks if b.stage == "forward")
    costs = costs_of(blocks, 100.0, ended + 1.5)
    assert costs.fused
    assert costs.decode == pytest.approx(0.002)
    assert costs.forward == pytest.approx(0.003)
    assert costs.write == pytest.approx(0.0001)  # without the writer's first, of 1 s
    assert costs.hand_over == pytest.approx(0.05)
    assert costs.last == pytest.approx(1.5)
    # 5 and 6 s, 2 s more for what is done first, and no hand-over before it.
    assert costs.ready == pytest.approx((5 + 2 - 0.05, 6 + 2 - 0.05))
    again = pace(costs, LANES, 1200, 100)
    assert again.seconds == pytest.approx(ended - 100 + 1.5, abs=0.6)


def test_costs_of_stages_of_their_own_count_overlapping_calls_once() -> None:
    decode = [block("decode", f"n:{n % 4}", n // 4, 0.9, 300, 300 * n) for n in range(12)]
    # Two calls at a time: each takes 0.2 s, and one ends every 0.1 s.
    forward = [block("forward", "n:9", 10 + 0.1 * n, 0.2, 300, 300 * n) for n in range(12)]
    costs = costs_of(decode + forward, 0.0, 12.0)
    assert not costs.fused
    assert costs.decode == pytest.approx(0.003)
    assert costs.forward == pytest.approx(1.1 / 3000)  # ten blocks from 10.2 to 11.3
    assert costs.ready == pytest.approx((10.2 - 300 * costs.forward,))


def test_a_sample_of_one_block_is_better_than_none() -> None:
    one = [block("decode", "n:1", 3, 1, 10, 0), block("forward", "n:1", 4, 2, 10, 0)]
    costs = costs_of(one, 0, 7)
    assert (costs.decode, costs.forward, costs.last) == (0.1, 0.2, 1)
    assert costs.ready == pytest.approx((3,))
    with pytest.raises(ValueError, match="nothing was answered"):
        costs_of([], 0, 1)


def test_numbers_as_people_say_them() -> None:
    assert [duration(s) for s in (0.04, 9.94, 42.4, 150, 7261)] == [
        *("0.0 s", "9.9 s", "42 s", "2 min 30 s", "2 h 1 min")
    ]
    assert [size(n) for n in (12, 1234, 5.1e6, 2e12)] == ["12 bytes", "1.2 kB", "5.1 MB", "2.0 TB"]


@pytest.mark.parametrize(
    ("rows", "block_rows", "actors"), [(3000, 375, 2), (20_000, 512, 8), (1000, 16, 3)]
)
def test_the_formula_is_the_simulator_on_cores(rows: int, block_rows: int, actors: int) -> None:
    costs = CPU.model_copy(update={"ready": (20.0,), "last": 0.0, "write": 0.0})
    told = pace(costs, Lanes(actors=actors, decoders=1, writers=4), rows, block_rows)
    forward = costs.forward + costs.hand_over / block_rows  # the simulator knows rows only
    seen = simulator.simulate(
        rows,
        block_rows,
        simulator.Costs(start=20.0, decode_row=costs.decode, forward_row=forward, write_row=0.0),
        simulator.Cluster(nodes=1, cores=actors, lanes=actors),
    )
    assert told.seconds == pytest.approx(seen.seconds, rel=0.01)
    assert told.rate == pytest.approx(seen.rows_a_second, rel=0.01)


@pytest.mark.parametrize(
    ("decode", "forward", "cores", "actors"),
    [(0.003, 0.0002, 8, 1), (0.0014, 0.0005, 16, 2), (0.002, 0.001, 4, 1)],
)
def test_the_formula_is_the_simulator_on_gpus(
    decode: float, forward: float, cores: int, actors: int
) -> None:
    first = 20.0 + 400 * decode  # the first block is decoded before anything is answered
    costs = GPU.model_copy(
        update={"decode": decode, "forward": forward, "write": 0, "ready": (first,), "last": 0}
    )
    told = pace(costs, Lanes(actors=actors, decoders=cores, writers=4), 200_000, 400)
    seen = simulator.simulate(
        200_000,
        400,
        simulator.Costs(start=20.0, decode_row=decode, forward_row=forward, write_row=0.0),
        simulator.Cluster(nodes=1, cores=cores, lanes=actors, gpu=True),
    )
    assert told.seconds == pytest.approx(seen.seconds, rel=0.01)
    assert told.rate == pytest.approx(seen.rows_a_second, rel=0.01)
    assert told.limit == {"cores": "decode", "GPU": "forward"}[seen.limit]
