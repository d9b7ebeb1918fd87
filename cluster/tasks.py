"""The same function over many items: here, one after another, or on Ray, side by side.

The one loop that waits for Ray tasks: it can be ended by Ctrl-C, it never waits for ever, and it
says what waited for what.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from cluster.children import Child, ChildDiedError
from cluster.executors import ExecutorChoice, choose_executor, local_cores
from cluster.waiting import waiting_tasks
from common.errors import OnepassError, StalledError, work_error

POLL_SECONDS = 0.2  # short, so that Ctrl-C ends a wait
STALL_SECONDS = 600.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class Tasks:
    """Where tasks run; made by ``tasks`` or ``tasks_of_session``.

    Args:
        name: for messages.
        at_once: tasks that run at a time; 0: one after another in this process.
        on_ray: whether they run on Ray; else in child processes.
        cpus: what each task asks Ray for.
        then: what a message of failure says of what was done and what to do.
    """

    def __init__(
        self,
        name: str,
        at_once: int = 0,
        *,
        on_ray: bool = False,
        cpus: float = 1.0,
        then: str = "nothing was changed, try again",
    ) -> None:
        self._name = name
        self._at_once = at_once
        self._on_ray = on_ray
        self._cpus = cpus
        self._then = then

    @property
    def elsewhere(self) -> bool:
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
            function: of one item; it and the items may be sent to other processes.
            items: what to do.
            done: called with each result, in the order they come.
            stall_seconds: without the end of a task; None: ``STALL_SECONDS``.

        Raises:
            StalledError: on Ray, no task ended for ``stall_seconds``.
            WorkError: a task failed; the others are cancelled.
            OSError: a task's own, as of a disk that refused.
        """
        if not self.elsewhere:
            results = []
            for item in items:
                results.append(function(item))
                done(results[-1])
            return results
        if not self._on_ray:
            return self._in_children(function, items, done)
        return self._as_ray_tasks(
            function, items, done, STALL_SECONDS if stall_seconds is None else stall_seconds
        )

    def _in_children(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        done: Callable[[Result], None],
    ) -> list[Result]:
        """A thread for each child hands it items; this one waits for them."""
        waiting = iter(enumerate(items))
        ended: queue.SimpleQueue[tuple[int, Result | None, Exception | None]] = queue.SimpleQueue()
        lock = threading.Lock()
        children = [Child() for _ in range(min(self._at_once, len(items)))]

        def feed(child: Child) -> None:
            while True:
                with lock:
                    number, item = next(waiting, (None, None))
                if number is None or item is None:
                    return
                try:
                    ended.put((number, child.call(function, item), None))
                except Exception as error:
                    ended.put((number, None, error))
                    return

        found: dict[int, Any] = {}
        try:
            for child in children:
                threading.Thread(target=feed, args=(child,), daemon=True).start()
            while len(found) < len(items):
                try:
                    number, result, error = ended.get(timeout=POLL_SECONDS)
                except queue.Empty:  # short waits, so that Ctrl-C ends them
                    continue
                if isinstance(error, ChildDiedError):
                    raise work_error(self._name, error, then=self._then) from None
                if isinstance(error, OnepassError | OSError):
                    raise error
                if error is not None:
                    raise work_error(self._name, error, then=self._then) from error
                found[number] = result
                done(found[number])
        finally:
            for child in children:
                child.close()
        return [found[number] for number in range(len(items))]

    def _as_ray_tasks(
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
                        f"{self._cpus:g} CPU; {waiting_tasks()}; {self._then}"
                    )
        except BaseException as error:
            for reference in running:
                ray.cancel(reference, force=True)
            if isinstance(error, ray.exceptions.RayTaskError) and isinstance(
                error.cause, OnepassError | OSError
            ):
                raise error.cause from None
            if isinstance(error, ray.exceptions.RayError):
                raise work_error(self._name, error, then=self._then) from error
            raise
        return [found[number] for number in range(len(items))]


@contextmanager
def tasks(
    name: str,
    *,
    executor: ExecutorChoice = "auto",
    address: str | None = None,
    large: bool,
    children: bool = True,
    then: str = "nothing was changed, try again",
) -> Iterator[Tasks]:
    """A place for tasks; a Ray session, where it is one, lasts as long as the block runs.

    Args:
        name: for messages.
        executor: where; ``auto`` as ``cluster.executors`` says, and here where it is not ``large``.
        address: of a cluster; None: ``RAY_ADDRESS``, or this machine.
        large: whether the work repays starting processes.
        children: whether large work of this machine is done by child processes. No: the tasks
            themselves use all cores.
        then: what a message of failure says of what was done and what to do.

    Raises:
        ClusterError: the cluster cannot be reached or is too small.
    """
    asked = executor == "ray" or address is not None
    if not large and not asked:
        yield Tasks(name, then=then)
    elif choose_executor(executor, address) == "local":
        yield Tasks(name, local_cores() if children else 0, then=then)
    else:
        from cluster.session import session

        with session(address):
            yield tasks_of_session(name, cpus=1.0, then=then)


def tasks_of_session(name: str, *, cpus: float, then: str) -> Tasks:
    """A place for tasks in the Ray session that this process holds already.

    Args:
        name: for messages.
        cpus: what each task asks for.
        then: what a message of failure says of what was done and what to do.
    """
    return Tasks(name, _places(cpus), on_ray=True, cpus=cpus, then=then)


def _places(cpus: float) -> int:
    import ray

    return max(1, int(ray.cluster_resources().get("CPU", 1) / cpus))
