"""One function over many items: in this process, in child processes, or as Ray tasks.

Waiting ends with Ctrl-C, and on Ray after a stated time without progress, with an error that names
what the tasks waited for.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, TypeVar

from cluster.children import Child, ChildDiedError
from cluster.executors import ExecutorChoice, choose_executor, local_cores
from cluster.session import session
from cluster.waiting import waiting_tasks
from common.errors import OnepassError, StalledError, work_error

POLL_SECONDS = 0.2  # short, so that Ctrl-C ends a wait
STALL_SECONDS = 600.0

Item = TypeVar("Item")
Result = TypeVar("Result")


class Tasks:
    """Runs tasks; made by ``tasks`` or ``tasks_of_session``.

    Args:
        name: of the work, for messages.
        workers: tasks that run at a time; 0: one after another in this process.
        on_ray: whether they run on Ray; else in child processes.
        cpus: logical CPUs that each task requests from Ray.
        then: the end of an error message: what was kept or changed, and what to do next.
    """

    def __init__(
        self,
        name: str,
        workers: int = 0,
        *,
        on_ray: bool = False,
        cpus: float = 1.0,
        then: str = "nothing was changed, try again",
    ) -> None:
        self._name = name
        self._workers = workers
        self._on_ray = on_ray
        self._cpus = cpus
        self._then = then

    @property
    def is_parallel(self) -> bool:
        """Whether tasks run side by side, in other processes than this one."""
        return self._workers > 0

    def run(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        done: Callable[[Result], None] = lambda _: None,
        stall_seconds: float | None = None,
    ) -> list[Result]:
        """Call ``function`` on every item.

        Args:
            function: of one item; it and the items may be pickled.
            items: its arguments.
            done: called with each result, in the order in which they come.
            stall_seconds: give up after so long without the end of a task; None: 600.

        Returns:
            The results, in the order of the items.

        Raises:
            StalledError: on Ray, no task ended for ``stall_seconds``.
            WorkError: a task failed; the others are cancelled.
            OSError: that of a task, as of a full disk.
        """
        if not self.is_parallel:
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
        """As many threads as children: each takes a free child, and waits for its answer."""
        children = [Child() for _ in range(min(self._workers, len(items)))]
        free: queue.SimpleQueue[Child] = queue.SimpleQueue()
        for child in children:
            free.put(child)

        def call(item: Item) -> Result:
            child = free.get()
            try:
                return child.call(function, item)
            finally:
                free.put(child)

        threads = ThreadPoolExecutor(max(1, len(children)))
        try:
            futures = [threads.submit(call, item) for item in items]
            for future in as_completed(futures):
                error = future.exception()
                if isinstance(error, ChildDiedError):
                    raise work_error(self._name, error, then=self._then) from None
                if isinstance(error, OnepassError | OSError):
                    raise error
                if error is not None:
                    raise work_error(self._name, error, then=self._then) from error
                done(future.result())
        finally:
            threads.shutdown(wait=False, cancel_futures=True)
            for child in children:
                child.close()
        return [future.result() for future in futures]

    def _as_ray_tasks(
        self,
        function: Callable[[Item], Result],
        items: Sequence[Item],
        done: Callable[[Result], None],
        stall_seconds: float,
    ) -> list[Result]:
        import ray

        def call(item: Item) -> Result:  # Ray takes no partial and no builtin
            return function(item)

        task = ray.remote(num_cpus=self._cpus)(call).options(name=self._name)
        results: dict[int, Result] = {}
        running: dict[Any, int] = {}
        waiting = list(enumerate(items))[::-1]
        last_end = time.monotonic()
        try:
            while waiting or running:
                while waiting and len(running) < self._workers:
                    number, item = waiting.pop()
                    running[task.remote(item)] = number
                ready, _ = ray.wait(list(running), timeout=POLL_SECONDS)
                for reference in ready:
                    number = running.pop(reference)
                    results[number] = ray.get(reference)
                    done(results[number])
                    last_end = time.monotonic()
                if time.monotonic() - last_end > stall_seconds:
                    raise StalledError(
                        f"{self._name}: no task ended for {stall_seconds:g} s; {len(results)} of "
                        f"{len(items)} have ended and {len(running)} run or wait, each for "
                        f"{self._cpus:g} CPU; {waiting_tasks()}; {self._then}"
                    )
        except BaseException as error:  # Ctrl-C too: no task may run on
            for reference in running:
                ray.cancel(reference, force=True)
            if isinstance(error, ray.exceptions.RayTaskError) and isinstance(
                error.cause, OnepassError | OSError
            ):
                raise error.cause from None
            if isinstance(error, ray.exceptions.RayError):
                raise work_error(self._name, error, then=self._then) from error
            raise
        return [results[number] for number in range(len(items))]


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
    """Tasks where ``executor`` says; a Ray session that is needed lasts as long as the block.

    Args:
        name: of the work, for messages.
        executor: ``auto`` is this process where the work is not ``large``, else as
            ``choose_executor`` says.
        address: of a cluster; None: ``RAY_ADDRESS``, or this machine.
        large: whether the work is worth the start of processes.
        children: whether large work on this machine runs in child processes; False where each
            task uses all cores itself.
        then: the end of an error message: what was kept or changed, and what to do next.

    Raises:
        ClusterError: the cluster cannot be reached or is too small.
    """
    ray_requested = executor == "ray" or address is not None
    if not large and not ray_requested:
        yield Tasks(name, then=then)
    elif choose_executor(executor, address) == "local":
        yield Tasks(name, local_cores() if children else 0, then=then)
    else:
        with session(address):
            yield tasks_of_session(name, cpus=1.0, then=then)


def tasks_of_session(name: str, *, cpus: float, then: str) -> Tasks:
    """Tasks on the Ray session that this process has joined already.

    Args:
        name: of the work, for messages.
        cpus: logical CPUs that each task requests.
        then: the end of an error message: what was kept or changed, and what to do next.
    """
    import ray

    workers = max(1, int(ray.cluster_resources().get("CPU", 1) / cpus))
    return Tasks(name, workers, on_ray=True, cpus=cpus, then=then)
