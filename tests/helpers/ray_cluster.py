"""A Ray cluster of several nodes on this machine,.

A node is killed as if its machine lost power: SIGKILL to its raylet and all that the raylet started.
Only processes that were started here are ended.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tests.helpers.processes import ROOT, process_tree, signal_to, start_time, title_of

# How soon Ray notices a dead node: by default some 15 s, which is long for a test.
HEALTH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 5000,
    "health_check_failure_threshold": 4,
}
STORE_BYTES = 200 * 2**20


class Node:
    """One node and its processes."""

    def __init__(self, ray_node: Any, cpus: int) -> None:
        self._ray_node = ray_node
        self.cpus = cpus

    def pids(self, title: str = "") -> list[int]:
        """Its living processes whose title contains ``title``, oldest first."""
        return sorted(pid for pid in self._processes() if title in title_of(pid))

    def kill(self, *, wait_seconds: float = 30) -> None:
        """As if the machine had lost its power."""
        started = self._processes()
        deadline = time.monotonic() + wait_seconds
        while left := [pid for pid, then in started.items() if start_time(pid) == then]:
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes {left} do not die")
            for pid in left:
                signal_to(pid, signal.SIGKILL)
            time.sleep(0.02)
        for process in self._popen():
            process.wait()

    def _popen(self) -> list[subprocess.Popen[bytes]]:
        return [info.process for infos in self._ray_node.all_processes.values() for info in infos]

    def _processes(self) -> dict[int, str]:
        processes: dict[int, str] = {}
        for process in self._popen():
            if process.poll() is None:
                processes |= process_tree(process.pid)
        return processes


class Cluster:
    """A head without slots, where the driver runs, and worker nodes; made by ``cluster``."""

    def __init__(self, folder: Path, env: Mapping[str, str], store_bytes: int) -> None:
        from ray.cluster_utils import Cluster as RayCluster

        # Where workers import from: a checkout need not be installed.
        paths = [*filter(None, [env.get("PYTHONPATH")]), str(ROOT)]
        self._env = {
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            **env,
            "PYTHONPATH": os.pathsep.join(paths),
        }
        self._store = store_bytes
        self._ray = RayCluster(shutdown_at_exit=False)
        self.nodes: list[Node] = []
        logging.getLogger("ray").setLevel(logging.ERROR)
        # It would tell every other Ray program of this machine to join this cluster.
        with patch("ray._private.utils.write_ray_address"):
            self.head = self._start(
                0,
                _system_config=HEALTH,
                temp_dir=str(folder),
                include_dashboard=False,
                dashboard_port=_free_port(),
            )
        self.address: str = self._ray.address

    @property
    def env(self) -> dict[str, str]:
        """The environment of a driver that joins."""
        return {**self._env, "RAY_ADDRESS": self.address}

    def add(self, cpus: int, *, cores: Sequence[int] | None = None) -> Node:
        """Start a worker node of ``cpus`` slots that runs on ``cores`` only."""
        all_cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores or all_cores)
        try:
            node = self._start(cpus)
        finally:
            os.sched_setaffinity(0, all_cores)
        self.nodes.append(node)
        return node

    def remove(self, node: Node) -> None:
        """Kill a worker node; ``wait_for`` waits until the others have noticed."""
        node.kill()
        self.nodes.remove(node)

    def wait_for(self, nodes: int, seconds: float = 90) -> None:
        """Wait until so many worker nodes are alive, and no other."""
        deadline = time.monotonic() + seconds
        while (alive := len(self._ray.global_state._live_node_ids()) - 1) != nodes:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{alive} worker nodes live after {seconds:g} s, not {nodes}")
            time.sleep(0.1)

    def pids(self, title: str) -> list[int]:
        """Living processes of all nodes whose title contains ``title``, oldest first."""
        return sorted(pid for node in [self.head, *self.nodes] for pid in node.pids(title))

    def kill(self) -> None:
        for node in [*self.nodes, self.head]:
            node.kill()
        self._ray.global_state.disconnect()

    def _start(self, cpus: int, **more: Any) -> Node:
        options = {"num_cpus": cpus, "object_store_memory": self._store, **more}
        with _environment(self._env):
            return Node(self._ray.add_node(wait=True, **options), cpus)


@contextlib.contextmanager
def cluster(
    *cpus: int,
    env: Mapping[str, str] | None = None,
    store_bytes: int = STORE_BYTES,
    cores: Sequence[Sequence[int]] | None = None,
) -> Iterator[Cluster]:
    """A cluster that lasts as long as the block.

    Args:
        cpus: slots of each worker node.
        env: added to the environment of every process of the cluster.
        store_bytes: of each node's object store.
        cores: that each worker node may run on; None: all of this machine.
    """
    # Ray's sockets need a short path; those of pytest's folders are too long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        started = Cluster(Path(folder), env or {}, store_bytes)
        try:
            for number, slots in enumerate(cpus):
                started.add(slots, cores=cores[number] if cores else None)
            yield started
        finally:
            started.kill()


@contextlib.contextmanager
def _environment(more: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(more)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
