"""How a cluster's logical CPUs and GPUs are shared, so that nothing can starve.

Ray schedules by logical CPUs. An extraction keeps its forward actors for its whole life, and on a
resume Ray's checkpoint filter needs one whole CPU beside them; where the actors hold every CPU the
job waits for ever in silence. ``Slots`` therefore never gives the actors everything: it leaves one
CPU for the filter and a share for reading and writing, and leaves them in one piece: free CPUs are
of no use where they are fractions on many nodes. How many cores really work is decided by torch's
threads, not by these numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from cluster.executors import local_cores
from common.errors import ClusterError

_MIN_CPUS = 2
_FILTER_CPUS = 1.0


@dataclass(frozen=True)
class Slots:
    """How many forward actors, and what each actor and each task requests from Ray."""

    actors: int
    cpus_per_actor: float
    gpus_per_actor: float
    cpus_per_task: float

    @property
    def calls_in_flight(self) -> int:
        """Calls an actor works on at a time: on a GPU one copies while the other computes."""
        return 2 if self.gpus_per_actor else 1

    @property
    def cpus_to_decode(self) -> float:
        """What a decode task requests.

        The same as an actor where there is no GPU: Ray then runs both in the actor's
        process. The cores are shared either way, pixels need not be copied between
        processes, and no process is started only to import torch and decode.
        """
        return self.cpus_per_task if self.gpus_per_actor else self.cpus_per_actor


def plan_slots(
    cpus: float,
    gpus: float,
    *,
    cores: int | None = None,
    nodes: int = 1,
    gpus_per_actor: float = 1.0,
) -> Slots:
    """Share a cluster's logical CPUs and GPUs.

    One actor per GPU (more where an actor requests a fraction of one), or one single-threaded
    actor per core where there is none. Ray chooses the node of each actor, so the shares hold for
    any choice: if each node had less than x free, all together would have less than ``nodes * x``.

    Args:
        cpus: logical CPUs of all nodes.
        gpus: GPUs of all nodes.
        cores: of the machine, where they are known to be fewer than ``cpus``.
        nodes: nodes that have CPUs.
        gpus_per_actor: GPUs that an actor requests, at most 1.

    Raises:
        ClusterError: fewer than 2 logical CPUs, or nodes too small.
    """
    if cpus < _MIN_CPUS:
        raise ClusterError(
            f"the cluster has {cpus:g} logical CPUs, extraction needs {_MIN_CPUS}; "
            "start Ray with --num-cpus=2 or more (slots, not cores)"
        )
    # A fraction never spans two GPUs, so each GPU holds a whole number of actors.
    per_gpu = int(1 / gpus_per_actor + 1e-9)
    actors = int(gpus) * per_gpu if gpus >= 1 else min(int(cpus), cores or int(cpus))
    task = min(1.0, max(0.25, cpus / 16))  # for reading, decoding and writing
    limits = [
        (cpus - nodes * _FILTER_CPUS) / actors,  # the filter beside the actors
        (cpus - _FILTER_CPUS - task - nodes * task) / actors,  # two tasks beside both
    ]
    if gpus < 1:  # ``cpus_to_decode``: a reading task is as large as an actor
        limits.append((cpus - _FILTER_CPUS - task) / (actors + nodes))
    share = min(1.0, int(min(limits) * 100) / 100)
    if share <= 0:
        raise ClusterError(
            f"the cluster has {cpus:g} logical CPUs on {nodes} nodes, too few on each; "
            "start every node with --num-cpus=2 or more (slots, not cores)"
        )
    return Slots(
        actors=actors,
        cpus_per_actor=share,
        gpus_per_actor=gpus_per_actor if gpus >= 1 else 0.0,
        cpus_per_task=task,
    )


def available_slots(gpus_per_actor: float, *, cores: int | None = None) -> Slots:
    """``plan_slots`` for the cluster that this process has joined, as large as it is now.

    Raises:
        ClusterError: it is too small.
    """
    alive = nodes()
    return plan_slots(
        sum(node["cpus"] for node in alive),
        sum(node["gpus"] for node in alive),
        cores=cores,
        gpus_per_actor=gpus_per_actor,
        nodes=sum(node["cpus"] > 0 for node in alive),
    )


def nodes() -> list[dict[str, Any]]:
    """The living nodes of the cluster that this process has joined.

    Returns:
        For each node ``node`` (its id, shortened), ``host``, and logical ``cpus`` and ``gpus``.
    """
    import ray

    return [
        {
            "node": node["NodeID"][:8],
            "host": node["NodeManagerHostname"],
            "cpus": node["Resources"].get("CPU", 0.0),
            "gpus": node["Resources"].get("GPU", 0.0),
        }
        for node in ray.nodes()
        if node["Alive"]
    ]


def cpus_each(actors: int) -> float:
    """Logical CPUs that each of ``actors`` may request so that Ray can place all of them.

    Every node is taken to be as small as the smallest, and to hold the same number of actors.
    """
    cpus = [node["cpus"] for node in nodes() if node["cpus"]]
    share = min(cpus) / math.ceil(actors / len(cpus))
    # A Ray of one machine may have more slots than the machine has cores.
    share = min(share, local_cores()) if len(cpus) == 1 else share
    return float(int(share)) if share >= 1 else int(share * 100) / 100
