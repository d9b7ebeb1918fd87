"""Which tasks wait for which resources of a cluster, in one line for an error message."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_ANSWER_SECONDS = 5.0
_NODES_SHOWN = 4


def waiting_tasks() -> str:
    """Which requests Ray cannot place, and what is free on which node, by Ray's scheduler.

    It reads the control store and not the dashboard, which a Ray that is started here does not
    have. It never raises: its text is a part of the message of another error.
    """
    try:
        from ray._private.worker import global_worker
        from ray.core.generated.autoscaler_pb2 import GetClusterResourceStateReply

        reply = GetClusterResourceStateReply()
        client = global_worker.gcs_client
        reply.ParseFromString(client.get_cluster_resource_state(timeout_s=_ANSWER_SECONDS))
    except Exception as error:  # Ray's private interface; the other error must be raised
        return f"Ray does not say what waits ({type(error).__name__})"
    return describe_waiting(reply.cluster_resource_state)


def describe_waiting(state: Any) -> str:
    """Ray's ``ClusterResourceState`` in one line."""
    waiting = [
        f"{request.count} x {_amounts(request.request.resources_bundle)}"
        for request in state.pending_resource_requests
    ]
    requested = {
        name
        for request in state.pending_resource_requests
        for name in request.request.resources_bundle
    }
    nodes = [
        f"{_free(node, requested)} on {node.node_ip_address}"
        for node in state.node_states
        if node.total_resources.get("CPU", 0) or node.total_resources.get("GPU", 0)
    ]
    more = len(nodes) - _NODES_SHOWN
    free = "; ".join(nodes[:_NODES_SHOWN]) + (f"; and {more} nodes more" if more > 0 else "")
    requests = (
        f"waiting for resources: {', '.join(waiting)}" if waiting else "no task waits for resources"
    )
    return f"{requests}; free: {free or 'no node'}"


def _amounts(bundle: Mapping[str, float]) -> str:
    return " + ".join(f"{bundle[name]:g} {name}" for name in sorted(bundle)) or "nothing"


def _free(node: Any, requested: set[str]) -> str:
    """Free and total CPUs, GPUs and other requested resources of a node."""
    names = sorted({"CPU", *requested} | ({"GPU"} & set(node.total_resources)))
    return ", ".join(
        f"{node.available_resources.get(name, 0):g} of {node.total_resources.get(name, 0):g} {name}"
        for name in names
    )
