"""The same function over many items: here, one after another, or on Ray, side by side.

The one loop that waits for Ray tasks: it can be ended by Ctrl-C, it never waits for ever, and it
says what waited for what.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from cluster.errors import OnepassError, StalledError, failed
from cluster.waiting import what_waits

POLL_SECONDS = 0.2  # short, so that Ctrl-C ends a wait
STALL_SECONDS = 600.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class Tasks:
    """Where tasks run; made by ``tasks`` or ``tasks_of_session``."""

    def __init__(
        self,
        name: str,
        at_once: int,
        *,
        cpus: float = 1.0,
        then: str = "nothing was changed, try again",
    ) -> None:
        self._name = name
        self._at_once = at_once  # 0: here
        self._cpus = cpus
        self._then = then

    @property
    def on_ray(self) -> bool:
        """Whether they run in processes of their own."""
        return self._at_once > 0

    def run(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        done: Callable[[Result], None] = lambda _: None,
        stall_seconds: float | None = None,
    ) -> list[Result]:
        """Results in the order of the items; ``done`` hears of each as it comes.

        Args:
            function: of one item; on Ray it and the items are sent to other processes.
            items: what to do.
            done: called with each result, in the order they come.
            stall_seconds: without the end of a task; None: ``STALL_SECONDS``.

        Raises:
            StalledError: on Ray, no task ended for ``stall_seconds``.
            WorkError: a task failed; the others are cancelled.
            OSError: a task's own, as of a disk that refused.
        """
        if not self.on_ray:
            results = []
            for item in items:
                results.append(function(item))
                done(results[-1])
            return results
        return self._side_by_side(
            function, items, done, STALL_SECONDS if stall_seconds is None else stall_seconds
        )

    def _side_by_side(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        done: Callable[[Result], None],
        stall_seconds: float,
    ) -> list[Result]:
        import ray

        def one(item: Item) -> Result:  # Ray takes no partial and no builtin
            return function(item)

        task = ray.remote(num_cpus=self._cpus)(one).options(name=self._name)
        found: dict[int, Result] = {}
        running: dict[Any, int] = {}
        waiting = list(enumerate(items))[::-1]
        moved = time.monotonic()
        try:
            while waiting or running:
                while waiting and len(running) < self._at_once:
                    number, item = waiting.pop()
                    running[task.remote(item)] = number
                ready, _ = ray.wait(list(running), timeout=POLL_SECONDS)
                for reference in ready:
                    number = running.pop(reference)
                    found[number] = ray.get(reference)
                    done(found[number])
                    moved = time.monotonic()
                if time.monotonic() - moved > stall_seconds:
                    raise StalledError(
                        f"{self._name}: no task ended for {stall_seconds:g} s; {len(found)} of "
                        f"{len(items)} have ended and {len(running)} run or wait, each for "
                        f"{self._cpus:g} CPU; {what_waits()}; {self._then}"
                    )
        except BaseException as error:
            for reference in running:
                ray.cancel(reference, force=True)
            if isinstance(error, ray.exceptions.RayTaskError) and isinstance(
                error.cause, OnepassError | OSError
            ):
                raise error.cause from None
            if isinstance(error, ray.exceptions.RayError):
                raise failed(self._name, error, then=self._then) from error
            raise
        return [found[number] for number in range(len(items))]


@contextmanager
def tasks(name: str, *, on_ray: bool, address: str | None = None) -> Iterator[Tasks]:
    """A place for tasks; ``on_ray`` joins or starts a Ray session for as long as the block runs.

    Args:
        name: for messages.
        on_ray: where work is too small to repay the ten seconds Ray takes, say no.
        address: of a cluster; None: ``RAY_ADDRESS``, or this machine.

    Raises:
        ClusterError: the cluster cannot be reached or is too small.
    """
    if not on_ray:
        yield Tasks(name, 0)
        return
    from cluster.session import session

    with session(address):
        yield Tasks(name, _places(1.0))


def tasks_of_session(name: str, *, cpus: float, then: str) -> Tasks:
    """A place for tasks in the Ray session that this process holds already.

    Args:
        name: for messages.
        cpus: what each task asks for.
        then: what a message of failure says of what was done and what to do.
    """
    return Tasks(name, _places(cpus), cpus=cpus, then=then)


def _places(cpus: float) -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1) / cpus))
