"""The text about waiting tasks and free resources."""

from __future__ import annotations

from ray.core.generated.autoscaler_pb2 import ClusterResourceState

from cluster.waiting import describe_waiting, waiting_tasks


def cluster(*nodes: dict[str, tuple[float, float]]) -> ClusterResourceState:
    """Nodes of (free, total) by name."""
    state = ClusterResourceState()
    for number, resources in enumerate(nodes):
        node = state.node_states.add(node_ip_address=f"10.0.0.{number}")
        for name, (free, total) in resources.items():
            node.available_resources[name] = free
            node.total_resources[name] = total
    return state


def test_requests_and_what_is_free_on_each_node() -> None:
    state = cluster(
        {"CPU": (0.5, 4), "memory": (1e9, 2e9)},
        {"CPU": (0.75, 8), "GPU": (0, 1)},
        {"memory": (1, 1)},
    )
    for count, bundle in ((3, {"CPU": 1.0}), (1, {"GPU": 1.0, "CPU": 0.25})):
        request = state.pending_resource_requests.add(count=count)
        request.request.resources_bundle.update(bundle)
    assert describe_waiting(state) == (
        "waiting for resources: 3 x 1 CPU, 1 x 0.25 CPU + 1 GPU; free: 0.5 of 4 CPU, 0 of 0 GPU on "
        "10.0.0.0; 0.75 of 8 CPU, 0 of 1 GPU on 10.0.0.1"
    )


def test_many_nodes_are_not_all_listed() -> None:
    text = describe_waiting(cluster(*[{"CPU": (1, 2)}] * 9))
    assert text.startswith("no task waits for resources; free: 1 of 2 CPU on 10.0.0.0; ")
    assert text.endswith("on 10.0.0.3; and 5 nodes more")
    assert describe_waiting(cluster()) == "no task waits for resources; free: no node"


def test_without_ray_it_does_not_raise() -> None:
    assert waiting_tasks().startswith(("Ray does not say what waits (", "no task waits", "waiting"))
