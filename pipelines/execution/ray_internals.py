"""A view into Ray Data's own loop: which actors wait for a place, and a way to end it.

Ray Data gives a lost actor's blocks to its successor alone. Where no node that is left can
hold one, it waits for ever while the other actors have nothing to do.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from ray.data._internal.execution.execution_callback import ExecutionCallback

_EVERY_SECONDS = 1.0


class View:
    """What is seen; one a pass. ``stop`` ends the pass from another thread."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.waiting: list[dict[str, float]] = []  # what each actor without a place asks for
        self._looked = 0.0

    def step(self, executor: Any) -> None:
        if self.stop.is_set():
            raise InterruptedError("the pass was ended")
        if time.monotonic() - self._looked < _EVERY_SECONDS:
            return
        self._looked = time.monotonic()
        found = []
        for operator in executor._topology:
            for pool in operator.get_autoscaling_actor_pools():
                asks = pool.per_actor_resource_usage()
                missing = pool.num_pending_actors() + pool.num_restarting_actors()
                found += [{"CPU": asks.cpu or 0.0, "GPU": asks.gpu or 0.0}] * missing
        self.waiting = found

    def has_no_room(self) -> bool:
        """Whether an actor waits that no living node can hold as things are."""
        import ray

        free = ray._private.state.available_resources_per_node()
        return any(
            not any(
                all(node.get(kind, 0.0) >= amount for kind, amount in asks.items())
                for node in free.values()
            )
            for asks in self.waiting
        )


class Loop(ExecutionCallback):  # type: ignore[misc]
    """Ray Data calls it at every turn. It travels by name to workers, and so holds nothing."""

    view: View | None = None

    def on_execution_step(self, executor: Any) -> None:
        if Loop.view is not None:
            Loop.view.step(executor)
