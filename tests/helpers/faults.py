"""Faults by name, done to a cluster of ``tests/helpers/ray_cluster.py`` and the extraction that runs on it.

Faults from outside kill or stop a process that is found by its title. Faults at a point inside
(``model raises``, ``file half written``, …) are left as files for ``tests/helpers/fault_points``, and happen
when a process gets to that point.
"""

from __future__ import annotations

import contextlib
import random
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from pipelines.progress.counters import Counters
from tests.helpers.processes import ROOT, signal_to
from tests.helpers.ray_cluster import Cluster

# How Ray titles the processes of an extraction's actors.
ACTOR_TITLE = "ray::MapWorker("
PROGRESS_TITLE = f"ray::{Counters.__name__}"
FAULT_POINTS = ROOT / "tests" / "helpers" / "fault_points"
STOPPED_SECONDS = 4.0  # less than a node may be silent
FILLED_SECONDS = 4.0
CLOCK_SECONDS = 3600.0

# Faults at a point inside, as POINT@ACTION.
INSIDE = {
    "model raises": "forward@raise",
    "model kills its process": "forward@kill",
    "writer killed: pending checkpoint": "pending@kill",
    "writer killed: half a file": "write@half",
    "writer killed: file, no commit": "data@kill",
    "writer killed: after the commit": "committed@kill",
    "disk full, once": "write@full",
}
OUTSIDE = (
    "forward actor killed",
    "worker killed",
    "progress actor killed",
    "node killed, another joins",
    "node killed",
    "driver killed",
    "actor stopped for 4 s",
    "object store filled",
    "clock jumps by an hour",
)
KINDS = (*OUTSIDE, *INSIDE)


class Faults:
    """Causes faults, and records which have happened.

    Args:
        nodes: the cluster; its processes have the variables of ``environment``.
        folder: where files for faults inside are left.
        dice: chooses processes and nodes.
    """

    def __init__(self, nodes: Cluster, folder: Path, dice: random.Random) -> None:
        self._nodes, self._folder, self._dice = nodes, folder, dice
        self._left: dict[str, str] = {}  # file name to kind
        self._number = 0
        self._filler: subprocess.Popen[str] | None = None

    def do(self, kind: str, driver: subprocess.Popen[bytes]) -> bool:
        """Cause a fault now, or prepare one inside; False where there is no such process."""
        if kind in INSIDE:
            self._number += 1
            name = f"{INSIDE[kind]}@{self._number}"
            self._left[name] = kind
            (self._folder / name).touch()
            return True
        if kind == "forward actor killed":
            return self._kill(ACTOR_TITLE)
        if kind == "worker killed":
            return self._kill("ray::Write", "ray::Read", "ray::IDLE")
        if kind == "progress actor killed":
            return self._kill(PROGRESS_TITLE)
        if kind.startswith("node killed"):
            node = self._dice.choice(self._nodes.nodes)
            self._nodes.remove(node)
            if "joins" in kind:
                self._nodes.add(node.cpus)
            return True
        if kind == "driver killed":
            driver.send_signal(signal.SIGKILL)
            return True
        if kind.startswith("actor stopped"):
            return self._stop()
        if kind == "object store filled":
            self.fill(FILLED_SECONDS)
            return True
        jump = self._dice.choice((-CLOCK_SECONDS, CLOCK_SECONDS))
        (self._folder / "clock").write_text(str(jump))
        return True

    def happened(self) -> list[str]:
        """Kinds of the faults inside that have happened since the last call."""
        names = [name for name in self._left if not (self._folder / name).exists()]
        return [self._left.pop(name) for name in names]

    def clear(self) -> None:
        """Remove faults that have not happened and correct the clock."""
        for name in ("clock", *self._left):
            (self._folder / name).unlink(missing_ok=True)
        self._left = {}

    def fill(self, seconds: float) -> None:
        """Keep objects of 1.5 times the size of all object stores."""
        if self._filler is None or self._filler.poll() is not None:
            raise RuntimeError("call this inside ``with faults.filler(…)``")
        assert self._filler.stdin
        print(seconds, file=self._filler.stdin, flush=True)

    @contextlib.contextmanager
    def filler(self, command: list[str], env: dict[str, str], log: Path) -> Iterator[None]:
        """Another driver on the cluster, for ``fill``."""
        with log.open("ab") as stream:
            self._filler = subprocess.Popen(
                command, env=env, stdin=subprocess.PIPE, stdout=stream, stderr=stream, text=True
            )
        try:
            yield
        finally:
            self._filler.kill()
            self._filler.wait()

    def _find(self, *titles: str) -> int | None:
        for title in titles:
            deadline = time.monotonic() + 3
            while time.monotonic() < deadline:
                if pids := self._nodes.pids(title):
                    return self._dice.choice(pids)
                time.sleep(0.02)
        return None

    def _kill(self, *titles: str) -> bool:
        pid = self._find(*titles)
        return pid is not None and signal_to(pid, signal.SIGKILL)

    def _stop(self) -> bool:
        pid = self._find(ACTOR_TITLE)
        if pid is None or not signal_to(pid, signal.SIGSTOP):
            return False
        threading.Timer(STOPPED_SECONDS, signal_to, (pid, signal.SIGCONT)).start()
        return True


def environment(folder: Path) -> dict[str, str]:
    """The variables with which a process finds the faults in ``folder``."""
    return {"FAULTS": str(folder), "PYTHONPATH": str(FAULT_POINTS)}
