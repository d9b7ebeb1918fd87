"""One Ray session, with CPU slots laid out so that nothing can starve.

Ray schedules by logical CPUs. An extraction keeps its forward actors for its whole life,
and on a resume Ray's checkpoint filter needs one whole CPU beside them; where the actors
hold every CPU the job waits for ever in silence. ``Slots`` therefore never gives the
actors everything: it leaves one CPU for the filter and a share for reading and writing,
and leaves them in one piece: what is free is of no use where it lies in crumbs on many nodes.
How many cores really work is decided by torch's threads, not by these numbers.

A Ray that we start asks for a token of its own (``cluster/token.py``) and has an object store of
a size that was chosen (``store_bytes``).
"""

from __future__ import annotations

import logging
import math
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from textwrap import shorten
from typing import Any

from cluster.executors import local_cores
from cluster.token import forget, own_token, token_refusal
from common.errors import ClusterError, StalledError

MIN_CPUS = 2
_STORE_BYTES_A_SLOT = 512 * 2**20  # eight blocks of Ray Data, which are 64 MiB here
_STORE_SHARE = 0.3  # of free memory, as Ray's own
_STORE_LEAST = 80 * 10**6  # Ray refuses less than 75 MiB
_FILTER_CPUS = 1.0
_KNOCK_SECONDS = 5.0
_SHOWN = 160  # characters of a message of Ray's
# A raylet insists on its agents. These only wait for it to end, and have no ports to be told of.
_NO_AGENTS = (
    "--dashboard_agent_command=cat",
    "--runtime_env_agent_command=cat",
    "--metrics_agent_port=-1",
    "--metrics_export_port=-1",
    "--dashboard_agent_listen_port=-1",
    "--runtime_env_agent_port=1",  # asked only for environments of workers, which ours do not have
)
_IDLE = "worker processes have been started"  # Ray ends those that have nothing to do


@dataclass(frozen=True)
class Slots:
    """How many forward actors, and what each actor and each task asks Ray for."""

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
        """What a decode task asks for.

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

    One actor a GPU (more where an actor asks for a part of one), or one single-threaded
    actor a core where there is none. ``cores`` is given where it is known to be fewer than
    the logical CPUs. Ray chooses the node of each actor, so the shares hold for any choice: of
    ``nodes`` that each had less than x free, all together would have less than ``nodes * x``.

    Raises:
        ClusterError: fewer than ``MIN_CPUS`` logical CPUs, or nodes too small.
    """
    if cpus < MIN_CPUS:
        raise ClusterError(
            f"the cluster has {cpus:g} logical CPUs, extraction needs {MIN_CPUS}; "
            "start Ray with --num-cpus=2 or more (slots, not cores)"
        )
    # A fraction never spans two GPUs, so each GPU holds a whole number of actors.
    per_gpu = int(1 / gpus_per_actor + 1e-9)
    actors = int(gpus) * per_gpu if gpus >= 1 else min(int(cpus), cores or int(cpus))
    task = min(1.0, max(0.25, cpus / 16))  # for reading, decoding and writing
    fits = [
        (cpus - nodes * _FILTER_CPUS) / actors,  # the filter beside the actors
        (cpus - _FILTER_CPUS - task - nodes * task) / actors,  # two tasks beside both
    ]
    if gpus < 1:  # ``cpus_to_decode``: a reading task is as large as an actor
        fits.append((cpus - _FILTER_CPUS - task) / (actors + nodes))
    share = min(1.0, int(min(fits) * 100) / 100)
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


@contextmanager
def session(address: str | None = None, *, gpus_per_actor: float = 1.0) -> Iterator[Slots]:
    """Join the cluster at ``address`` or ``RAY_ADDRESS``, or start a local one.

    A session that this call started is ended by it; one that was already there is left.

    Raises:
        ClusterError: the address does not answer, the token is wrong, or it is too small.
    """
    # A thread that is left in a Ray call when the session ends must not start another Ray.
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    import ray

    joined_already = ray.is_initialized()
    address = address or os.environ.get("RAY_ADDRESS")
    if not joined_already:
        _start(address)
    try:
        ours = not joined_already and not address
        yield available_slots(gpus_per_actor, cores=local_cores() if ours else None)
    except (KeyboardInterrupt, StalledError):
        # A thread still works inside Ray, and ending Ray under it can end this process
        # without a word. Ray's processes watch ours and end when it does.
        joined_already = True
        raise
    finally:
        if not joined_already:
            ray.shutdown()
            forget()


def store_bytes(slots: int, *, memory: int, shm: int | None) -> int:
    """How large to make the object store of a Ray that we start.

    Ray would take 30 % of the free memory whatever the work. Ours holds blocks of at most
    64 MiB on their way from one stage to the next and small results; vectors and features go
    through files. Eight blocks a slot are more than are ever on their way, and what is beyond
    that is spilled to disk and not lost. Memory taken here counts as the container's.

    Args:
        slots: logical CPUs.
        memory: free bytes, of the container where there is one.
        shm: free bytes of /dev/shm, None where there is none. A container has 64 MiB by default;
            Ray then keeps its objects in files of its temporary folder, which is slower.
    """
    wanted = int(min(slots * _STORE_BYTES_A_SLOT, memory * _STORE_SHARE))
    if shm is not None and wanted > shm * 0.95 and shm >= wanted / 4:
        wanted = int(shm * 0.95)  # a smaller one in memory before a larger one on disk
    return max(_STORE_LEAST, wanted)


def available_slots(gpus_per_actor: float, *, cores: int | None = None) -> Slots:
    """The slots of the cluster that was joined, as large as it is now.

    Raises:
        ClusterError: it is too small.
    """
    import ray

    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return plan_slots(
        sum(node.get("CPU", 0) for node in alive),
        sum(node.get("GPU", 0) for node in alive),
        cores=cores,
        gpus_per_actor=gpus_per_actor,
        nodes=sum("CPU" in node for node in alive),
    )


def nodes() -> list[dict[str, Any]]:
    """The living nodes of the cluster that was joined: id, host, logical CPUs and GPUs."""
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


def cpus_each(parts: int) -> float:
    """What each of ``parts`` actors that live long may ask for, so that all find a place.

    Every node is taken for as small as the smallest, and takes the same number of them.
    """
    import ray

    nodes = [
        node["Resources"]["CPU"]
        for node in ray.nodes()
        if node["Alive"] and "CPU" in node["Resources"]
    ]
    share = min(nodes) / math.ceil(parts / len(nodes))
    # One machine was given more slots than it has cores.
    share = min(share, local_cores()) if len(nodes) == 1 else share
    return float(int(share)) if share >= 1 else int(share * 100) / 100


def print_status() -> None:
    """Have what a raylet says of the cluster shown on stderr, a line each.

    Ray itself takes stdout, where answers go, and pages; its log files have them.
    """
    from ray._private import worker

    def tell(data: dict[str, Any], ignore_prefix: bool) -> None:
        for message in data["lines"]:
            if _IDLE not in message:
                said = shorten(message.strip().split("\n")[0], _SHOWN, placeholder=" …")
                sys.stderr.write(f"ray: {said}\n")

    worker.print_to_stdstream = tell


def _start(address: str | None) -> None:
    import ray

    print_status()
    # Ray's core warns on stderr about its own actors; its log files keep everything else.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray has workers give way to everything else, and on a busy machine they then hardly run.
    os.environ.setdefault("RAY_worker_niceness", "0")
    # A worker's stack trace is for --debug; what a user needs is raised and shown in one line.
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address:
            forget()  # the token of an earlier Ray of this process
            _check_ray_port(address)
            with _without_output():
                ray.init(address=address, **quiet)
        else:
            # Two slots more than cores, for the filter and for tasks that mostly wait.
            slots = local_cores() + 2
            with own_token(), _without_output(), _bare():
                # "local": Ray would else join any cluster it finds running on this machine.
                ray.init(
                    "local",
                    num_cpus=slots,
                    object_store_memory=_store_here(slots),
                    include_dashboard=False,
                    **quiet,
                )
    except Exception as error:  # Ray's own, and a bare one where a start takes over 30 s
        text = str(getattr(error, "message", error)).splitlines() or [type(error).__name__]
        if not address:
            raise ClusterError(
                f"Ray could not be started on this machine: {text[0]}; a machine that is very "
                "busy or short of memory or disk does that: look, and try again"
            ) from None
        raise ClusterError(
            f"Ray at {address} could not be reached: {text[0]}; "
            "check the address, that 'ray start' runs there, RAY_AUTH_MODE=token, and that "
            "RAY_AUTH_TOKEN_PATH is a file with its token"
        ) from None


@contextmanager
def _bare() -> Iterator[None]:
    """Have Ray start its control store, its raylet and workers, and nothing else.

    An autoscaler, an API server, a log monitor and two agents serve clusters and dashboards. Here
    they cost six seconds of a core, and the raylet waits for its agents before it lets anyone in.
    """
    from ray._private import parameter, services

    params, start, api = parameter.RayParams, services.start_ray_process, services.start_api_server

    def without_agents(command: list[str], kind: str, *args: Any, **how: Any) -> Any:
        if kind == "raylet":  # of a flag that is given twice, the last one counts
            command = [*command, *_NO_AGENTS]
        return start(command, kind, *args, **how)

    parameter.RayParams = partial(params, no_monitor=True, include_log_monitor=False)
    services.start_ray_process = without_agents
    services.start_api_server = lambda *_, **__: ("", None)
    try:
        yield
    finally:
        parameter.RayParams, services.start_ray_process = params, start
        services.start_api_server = api


def _store_here(slots: int) -> int:
    from ray._private.utils import estimate_available_memory

    shm = None
    if os.path.isdir("/dev/shm"):  # noqa: PTH112, S108 - Ray's own place for objects
        found = os.statvfs("/dev/shm")  # noqa: S108
        shm = found.f_bsize * found.f_bavail
    return store_bytes(slots, memory=estimate_available_memory(), shm=shm)


@contextmanager
def _without_output() -> Iterator[None]:
    """Keep file descriptor 2 quiet: Ray's core announces its own log level there."""
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(sink, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(sink)


def _check_ray_port(address: str) -> None:
    """Fail in seconds where nothing listens or the token is refused; Ray itself takes minutes."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        check_port(host.strip("[]"), int(port))
        if why := token_refusal(address):
            raise ConnectionRefusedError(why)


def check_port(host: str, port: int) -> None:
    """Raise ``OSError`` within seconds where nothing listens."""
    socket.create_connection((host, port), timeout=_KNOCK_SECONDS).close()
