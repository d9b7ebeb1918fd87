"""The simulator of docs/scale.md, held against pipelines that can be computed by hand."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from _pipeline_sim import Cluster, Costs, simulate

CPU = Costs(start=10, decode_row=0.003, forward_row=0.006, write_row=0.0)


def test_lanes_of_cores_share_the_blocks_evenly() -> None:
    ran = simulate(1000, 100, CPU, Cluster(nodes=1, cores=2, lanes=2))
    assert ran.seconds == pytest.approx(10 + 5 * 100 * 0.009)  # five rounds of two blocks
    assert ran.rows_a_second == pytest.approx(2 / 0.009)
    assert ran.limit == "cores"


def test_an_odd_block_leaves_a_lane_idle_at_the_end() -> None:
    ran = simulate(1100, 100, CPU, Cluster(nodes=1, cores=2, lanes=2))
    assert ran.seconds == pytest.approx(10 + 6 * 100 * 0.009)


def test_more_nodes_on_the_same_cores_are_no_faster() -> None:
    one = simulate(4000, 100, CPU, Cluster(nodes=1, cores=2, lanes=2))
    three = simulate(4000, 100, CPU, Cluster(nodes=3, cores=2, lanes=1, same_machine=True))
    assert three.seconds == pytest.approx(one.seconds, rel=0.02)
    real = simulate(4000, 100, CPU, Cluster(nodes=2, cores=2, lanes=2))
    assert real.rows_a_second == pytest.approx(2 * one.rows_a_second)


def test_a_gpu_waits_where_too_few_cores_decode_for_it() -> None:
    costs = Costs(start=0, decode_row=0.001, forward_row=1 / 8000, write_row=0.0)
    starved = simulate(100_000, 500, costs, Cluster(nodes=1, cores=4, lanes=1, gpu=True))
    assert starved.limit == "cores"
    assert starved.rows_a_second == pytest.approx(4 / 0.001, rel=0.02)
    fed = simulate(100_000, 500, costs, Cluster(nodes=1, cores=12, lanes=1, gpu=True))
    assert fed.limit == "GPU"
    assert fed.rows_a_second == pytest.approx(8000, rel=0.02)


def test_the_driver_bounds_what_any_number_of_nodes_can_do() -> None:
    costs = Costs(start=0, decode_row=0.0, forward_row=0.001, write_row=0.0, driver_block=0.01)
    ran = simulate(100_000, 100, costs, Cluster(nodes=100, cores=16, lanes=16))
    assert ran.limit == "driver"
    assert ran.rows_a_second == pytest.approx(100 / 0.01, rel=0.05)


def test_lost_nodes_cost_time_and_no_rows() -> None:
    calm = simulate(200_000, 100, CPU, Cluster(nodes=4, cores=4, lanes=4))
    spot = simulate(
        200_000, 100, CPU, Cluster(nodes=4, cores=4, lanes=4, lost_every_hours=0.02), seed=3
    )
    assert spot.lost_nodes > 0
    assert spot.again > 0
    assert spot.blocks == len(spot.ends) == 2000
    assert spot.seconds > calm.seconds
