"""What Ray keeps private, touched in this file only: writing, the loop of a pass, helper actors, exit."""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import pyarrow as pa
import ray
from ray.data._internal import stats
from ray.data._internal.cluster_autoscaler import rate_based_cluster_autoscaler
from ray.data._internal.datasource.parquet_datasink import ParquetDatasink
from ray.data._internal.execution.execution_callback import ExecutionCallback
from ray.data._internal.execution.operators import actor_pool_map_operator

from pipelines.progress.counters import Reporter, Stopwatch, guard_block

_EVERY_SECONDS = 1.0


def leave_at_exit() -> None:
    """Have this worker end without Ray's C++ exit handler, which sometimes waits for itself.

    In Ray 2.60 it destroys its core worker while a message is still to be published; one in some
    twenty actors then stayed for ever, with its memory, after its cluster had gone. A process that is
    no worker of Ray is left alone: its exit code is its own.
    """
    if ray._private.worker.global_worker.mode != ray.WORKER_MODE:
        return

    def leave() -> None:
        ray.shutdown()
        os._exit(0)

    atexit.register(leave)


class LoopView:
    """The loop of one pass: which actors wait for a place. ``stop`` ends it from another thread.

    Ray Data gives a lost actor's blocks to its successor alone. Where no node that is left can hold
    one, it waits for ever while the other actors have nothing to do.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.waiting: list[dict[str, float]] = []  # what each actor without a place asks for
        self._updated = 0.0

    def step(self, executor: Any) -> None:
        if self.stop.is_set():
            raise InterruptedError("the pass was ended")
        if time.monotonic() - self._updated < _EVERY_SECONDS:
            return
        self._updated = time.monotonic()
        waiting = []
        for operator in executor._topology:
            for pool in operator.get_autoscaling_actor_pools():
                asks = pool.per_actor_resource_usage()
                missing = pool.num_pending_actors() + pool.num_restarting_actors()
                waiting += [{"CPU": asks.cpu or 0.0, "GPU": asks.gpu or 0.0}] * missing
        self.waiting = waiting

    def has_no_room(self) -> bool:
        """Whether an actor waits that no living node can hold as things are."""
        free = ray._private.state.available_resources_per_node()
        return any(
            not any(
                all(node.get(kind, 0.0) >= amount for kind, amount in asks.items())
                for node in free.values()
            )
            for asks in self.waiting
        )


class TimedParquet(ParquetDatasink):  # type: ignore[misc]
    """What ``Dataset.write_parquet`` writes with; Ray's files and checkpoints stay its own."""

    def __init__(self, path: str, reporter: Reporter, **options: Any) -> None:
        super().__init__(path, **options)
        self._reporter = reporter

    def write(self, blocks: Iterable[pa.Table], ctx: Any) -> None:
        # Where an earlier session wrote all rows of a block, Ray passes on one without columns.
        kept = [block for block in blocks if block.num_rows]
        if not kept:
            return
        rows = pa.concat_tables([block.select(["row_id"]) for block in kept])
        watch = Stopwatch("write", self._reporter.lane)
        with guard_block(self._reporter, "write", rows):
            super().write(kept, ctx)
        self._reporter.block(watch.block(rows))


class Loop(ExecutionCallback):  # type: ignore[misc]
    """Ray Data calls it at every turn. It travels by name to workers, and so holds nothing."""

    view: LoopView | None = None

    def on_execution_step(self, executor: Any) -> None:
        if Loop.view is not None:
            Loop.view.step(executor)


@contextmanager
def without_helper_actors() -> Iterator[None]:
    """Have Ray Data do without its three helper actors, in a Ray of our own.

    They tell a dashboard how a pass goes, share a cluster among passes and say on which node an
    actor is. Each is a process that takes a core for over a second, and no block is read before
    the second has answered.
    """
    with ExitStack() as replaced:
        for module, name, instead in (
            (stats, "get_or_create_stats_actor", _NoOpActor),
            (rate_based_cluster_autoscaler, "DefaultAutoscalingCoordinator", _WholeCluster),
            (actor_pool_map_operator, "get_or_create_actor_location_tracker", _NoOpActor),
            (actor_pool_map_operator, "get_actor_locations", lambda actors: {}),
        ):
            replaced.enter_context(patch.object(module, name, instead))
        yield


class _NoOpActor:
    """An actor whose methods may be called and do nothing."""

    def __getattr__(self, name: str) -> _NoOpActor:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def remote(self, *_: Any, **__: Any) -> None:
        return None


class _WholeCluster:
    """Gives a pass all there is."""

    def __init__(self, **_: Any) -> None:
        self._all = {"all": ray.cluster_resources()}

    def request_resources(self, **_: Any) -> None:
        return None

    def cancel_request(self) -> None:
        return None

    def get_reserved_resources(self) -> dict[str, dict[str, float]]:
        return self._all
