"""Slots: nothing may starve, whatever the size of the cluster and wherever Ray places the actors."""

from __future__ import annotations

import pytest

from cluster.slots import plan_slots
from common.errors import ClusterError


@pytest.mark.parametrize("nodes", [1, 2, 3, 8])
@pytest.mark.parametrize("cpus_per_node", [2, 3, 4, 16, 64, 512])
@pytest.mark.parametrize("gpus_per_node", [0, 1, 8])
def test_filter_and_two_tasks_have_room_beside_all_actors(
    nodes: int, cpus_per_node: int, gpus_per_node: int
) -> None:
    cpus, gpus = nodes * cpus_per_node, nodes * gpus_per_node
    slots = plan_slots(cpus, gpus, nodes=nodes)
    assert slots.actors == (gpus or cpus)
    assert slots.gpus_per_actor == (1.0 if gpus else 0.0)
    free = cpus - slots.actors * slots.cpus_per_actor
    assert free >= nodes  # so one node has a whole CPU for the checkpoint filter
    free -= 1
    largest = max(slots.cpus_to_decode, slots.cpus_per_task)
    assert free >= nodes * largest  # beside it, one node has room to read
    assert free - largest >= nodes * slots.cpus_per_task - 1e-9 or (
        free >= nodes * largest + slots.cpus_per_task - 1e-9  # and one to write meanwhile
    )


def test_one_actor_per_core_where_cores_are_known() -> None:
    assert plan_slots(4, 0, cores=2).actors == 2


@pytest.mark.parametrize(
    ("cpus", "nodes", "match"), [(1, 1, "has 1 logical CPUs"), (4, 4, "4 logical CPUs on 4 nodes")]
)
def test_too_small_a_cluster_is_refused(cpus: int, nodes: int, match: str) -> None:
    with pytest.raises(ClusterError, match=match):
        plan_slots(cpus, 0, nodes=nodes)
