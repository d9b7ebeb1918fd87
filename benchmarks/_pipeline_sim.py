"""The pipeline as events: blocks of rows that wait for a driver, a core, a GPU lane, a core again.

What a formula of rates leaves out is here: the start, the tail in which lanes run out of blocks, the
one driver that every block passes, queues that are full, and nodes that are taken away. SimPy keeps
the clock.

A block is planned (driver), decoded and answered, and written. Without GPUs one lane does the first
two on one core; with them decoders on any core fill a bounded queue that GPU lanes empty.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import simpy


@dataclass(frozen=True)
class Costs:
    """Measured seconds; of a core, of a GPU lane, or of the driver."""

    start: float  # until every lane is ready
    decode_row: float
    forward_row: float  # of one lane: a core, or an actor's share of a GPU
    write_row: float
    write_block: float = 0.0
    driver_block: float = 0.0  # scheduling, one block at a time, wherever the lanes are
    finish_row: float = 0.0  # counting, hashing and the manifest, after the last block
    finish_file: float = 0.0


@dataclass(frozen=True)
class Cluster:
    """What the work runs on; ``cores`` and ``lanes`` are a node's."""

    nodes: int
    cores: int
    lanes: int  # forward actors; on GPUs, or on cores where there is none
    gpu: bool = False
    same_machine: bool = False  # the nodes share ``cores``: several Rays on one machine
    lost_every_hours: float = math.inf  # how long a node lives, on average
    replaced_after: float = 300.0  # seconds until another is there and ready


@dataclass
class Result:
    """What a simulated run did."""

    seconds: float
    rows_a_second: float  # between the first and the last lane's last full block
    limit: str  # what was busiest
    busy: dict[str, float]  # share of the time between start and finish that each was busy
    blocks: int
    lost_nodes: int = 0
    again: int = 0  # blocks that were begun and lost with their node
    ends: list[float] = field(default_factory=list, repr=False)  # when each block was written


class _Run:
    def __init__(
        self, rows: int, block_rows: int, costs: Costs, cluster: Cluster, seed: int
    ) -> None:
        self.costs, self.cluster = costs, cluster
        self.env = simpy.Environment()
        self.random = random.Random(seed)
        self.driver = simpy.Resource(self.env, 1)
        machines = 1 if cluster.same_machine else cluster.nodes
        self.machines = [simpy.Resource(self.env, cluster.cores) for _ in range(machines)]
        self.decoded = simpy.Store(self.env, capacity=2 * cluster.lanes * cluster.nodes)
        self.waiting = [
            min(block_rows, rows - at) for at in range(0, rows, block_rows)
        ]  # rows of blocks that nobody has begun
        self.blocks = len(self.waiting)
        self.rows = rows
        self.done = self.env.event()
        self.worked = {"cores": 0.0, "GPU": 0.0, "driver": 0.0}
        self.ends: list[tuple[float, int]] = []
        self.again = self.lost = 0
        self.back = [costs.start] * cluster.nodes  # when each node can work (again)
        self.working: dict[int, set[simpy.Process]] = {n: set() for n in range(cluster.nodes)}

    def cores_of(self, node: int) -> simpy.Resource:
        return self.machines[node % len(self.machines)]

    def on(
        self, kind: str, resource: simpy.Resource | None, seconds: float
    ) -> Generator[Any, Any, None]:
        """Work for ``seconds`` on ``resource``; None: one that the caller holds already."""
        if resource is None:
            yield self.env.timeout(seconds)
        else:
            with resource.request() as turn:
                yield turn
                yield self.env.timeout(seconds)
        self.worked[kind] += seconds

    def lane(self, node: int) -> Generator[Any, Any, None]:
        """A forward actor: with a GPU it takes decoded blocks, else it decodes itself."""
        while not self.done.triggered:
            if self.env.now < self.back[node]:
                yield self.env.timeout(self.back[node] - self.env.now)
                continue
            if self.cluster.gpu:
                rows = yield self.decoded.get()
            elif self.waiting:
                rows = self.waiting.pop()
            else:  # a lost node may bring blocks back
                yield self.env.timeout(1.0)
                continue
            me = self.env.active_process
            self.working[node].add(me)
            try:
                if self.cluster.gpu:
                    yield from self.on("GPU", None, rows * self.costs.forward_row)
                else:
                    yield from self.on("driver", self.driver, self.costs.driver_block)
                    work = rows * (self.costs.decode_row + self.costs.forward_row)
                    yield from self.on("cores", self.cores_of(node), work)
            except simpy.Interrupt:
                self.waiting.append(rows)
                self.again += 1
                continue
            finally:
                self.working[node].discard(me)
            self.env.process(self.write(node, rows))

    def decoder(self, node: int) -> Generator[Any, Any, None]:
        """A core that decodes for GPUs, wherever they are."""
        while not self.done.triggered:
            if self.env.now < self.back[node]:
                yield self.env.timeout(self.back[node] - self.env.now)
            elif not self.waiting:
                yield self.env.timeout(1.0)
            else:
                rows = self.waiting.pop()
                yield from self.on("driver", self.driver, self.costs.driver_block)
                yield from self.on("cores", self.cores_of(node), rows * self.costs.decode_row)
                yield self.decoded.put(rows)

    def write(self, node: int, rows: int) -> Generator[Any, Any, None]:
        seconds = self.costs.write_block + rows * self.costs.write_row
        yield from self.on("cores", self.cores_of(node), seconds)
        self.ends.append((self.env.now, rows))
        if len(self.ends) == self.blocks:
            self.done.succeed()

    def fate(self, node: int) -> Generator[Any, Any, None]:
        """Takes the node away now and then, with the blocks that its lanes hold."""
        while True:
            yield self.env.timeout(
                self.random.expovariate(1 / (3600 * self.cluster.lost_every_hours))
            )
            self.lost += 1
            self.back[node] = self.env.now + self.cluster.replaced_after + self.costs.start
            for lane in list(self.working[node]):
                lane.interrupt()

    def go(self) -> Result:
        for node in range(self.cluster.nodes):
            for _ in range(self.cluster.lanes):
                self.env.process(self.lane(node))
            if self.cluster.gpu:
                for _ in range(self.cluster.cores):
                    self.env.process(self.decoder(node))
            if math.isfinite(self.cluster.lost_every_hours):
                self.env.process(self.fate(node))
        self.env.run(until=self.done)
        finish = self.rows * self.costs.finish_row + self.blocks * self.costs.finish_file
        working = self.env.now - self.costs.start
        machines = len(self.machines)
        there = {
            "cores": self.cluster.cores * machines,
            "GPU": self.cluster.lanes * self.cluster.nodes,
            "driver": 1,
        }
        busy = {
            name: worked / (working * there[name]) for name, worked in self.worked.items() if worked
        }
        return Result(
            seconds=self.env.now + finish,
            rows_a_second=_steady(self.ends, self.cluster.lanes * self.cluster.nodes, working),
            limit=max(busy, key=busy.__getitem__),
            busy=busy,
            blocks=self.blocks,
            lost_nodes=self.lost,
            again=self.again,
            ends=[end for end, _ in self.ends],
        )


def _steady(ends: list[tuple[float, int]], lanes: int, working: float) -> float:
    """Rows a second from the first round of blocks to the last full one."""
    first, last = lanes - 1, len(ends) - 1 - lanes
    if last <= first or ends[last][0] == ends[first][0]:
        return sum(rows for _, rows in ends) / working
    rows = sum(rows for _, rows in ends[first + 1 : last + 1])
    return rows / (ends[last][0] - ends[first][0])


def simulate(
    rows: int, block_rows: int, costs: Costs, cluster: Cluster, *, seed: int = 0
) -> Result:
    """Run ``rows`` rows in blocks of ``block_rows`` through the pipeline, on paper."""
    return _Run(rows, block_rows, costs, cluster, seed).go()
