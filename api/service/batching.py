"""Searches that wait together are answered together.

One FAISS call for 32 queries costs little more than one for a single query, and it is the only
way its threads help. So requests do not search themselves: they queue, and whenever the index is
free, everything that waits is taken at once, without a timer. A lone request starts at once and
many requests batch by themselves. Queries with the same filter share one call with the largest k.

Two threads take turns: one searches with all cores (never two at once, so FAISS's threads do not
fight for them), the other meanwhile writes the answers of the batch before.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import faiss
import numpy as np
from numpy.typing import NDArray

from api.http.errors import ApiError, too_busy
from api.http.limits import Limits
from api.http.metrics import Metrics
from api.service.answers import SearchResults, collect_results
from common.errors import FilterError
from index.search.filters import Filter

if TYPE_CHECKING:
    from api.service.state import ServedIndex

_TOGETHER_K = 100  # a search for more hits is slower for all that share it: such go by themselves
_CLOSE_SECONDS = 10.0  # a call of FAISS cannot be broken off, only left alone


@dataclass(frozen=True)
class Search:
    """The queries of one request and what it wants of them.

    Attributes:
        queries: [Q] each a detection's id, or a raw vector [D] that is finite and not zero.
        write: makes the answer's bytes of what was found, given the place of its first query.
    """

    queries: list[str | NDArray[np.float32]]
    k: int
    write: Callable[[SearchResults, int], bytes]
    chosen: Filter | None = None
    exact: bool = False
    include_features: bool = False

    @property
    def group(self) -> tuple[Filter | None, bool, bool]:
        """Searches of one group can share a call."""
        return self.chosen, self.exact, self.k > _TOGETHER_K

    @property
    def cost(self) -> int:
        """What it weighs in the queue and in a batch: its queries, and more with their vectors.

        An answer with a thousand vectors is megabytes, and all that are made at once add up.
        """
        return len(self.queries) * (max(1, self.k // 4) if self.include_features else 1)


@dataclass(frozen=True)
class Answer:
    """The bytes of one answer and the version of the snapshot it came from."""

    body: bytes
    snapshot: str


class _Pending:
    """A search, and who waits for it."""

    __slots__ = ("future", "loop", "search")

    def __init__(self, search: Search) -> None:
        self.search = search
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[Answer] = self.loop.create_future()


class Batcher:
    """A bounded queue before the index, and the threads that empty it.

    Args:
        held: what is served now; asked once a batch, so that one snapshot answers all of it.
        limits: ``waiting_queries``, and ``batch`` and ``hits`` of one call.
        metrics: told of the queue's depth and of each batch's size.
        together: False answers every request by itself, a thread and a core each.
    """

    def __init__(
        self, held: Callable[[], ServedIndex], *, limits: Limits, metrics: Metrics, together: bool
    ) -> None:
        self._held = held
        self._limits = limits
        self._metrics = metrics
        self._queue: SimpleQueue[_Pending | None] = SimpleQueue()
        self._left_over: _Pending | None = None  # taken, but too much for that batch; under _turn
        self._lock = threading.Lock()
        self._depth = 0
        self._together = together
        self._turn: AbstractContextManager[Any] = threading.Lock() if together else nullcontext()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        self._cores = cores or 1
        self._threads: list[threading.Thread] = []
        metrics.queue_depth.set_function(lambda: self._depth)

    def start(self) -> None:
        """Begin to answer."""
        count = 2 if self._together else self._cores
        self._threads = [
            threading.Thread(target=self._work, name=f"search-{number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout=_CLOSE_SECONDS)

    async def search(self, search: Search) -> Answer:
        """Wait for a search's answer.

        Raises:
            ApiError: 429, too many queries wait; 404, no such detection; 422, the vector or the
                filter does not fit the index.
        """
        with self._lock:
            # What is larger than the whole queue must still get its turn when nothing waits.
            if self._depth and self._depth + search.cost > self._limits.waiting_queries:
                self._metrics.record_rejection("queue")
                raise too_busy(
                    f"{self._depth} queries wait for the index, up to "
                    f"{self._limits.waiting_queries} may; ask again in a second"
                )
            self._depth += search.cost
        waiting = _Pending(search)
        self._queue.put(waiting)
        return await waiting.future

    def _work(self) -> None:
        # OpenMP keeps this per thread, so it is set where it counts.
        faiss.omp_set_num_threads(self._cores if self._together else 1)
        while True:
            with self._turn:
                batch = self._take()
                if not batch:
                    return
                groups = self._search(batch)
            self._answer(groups)

    def _take(self) -> list[_Pending]:
        """All that waits, up to one batch; waits for the first. Empty: it is over."""
        first = self._left_over or self._queue.get()
        self._left_over = None
        if first is None:
            return []
        batch, cost, largest = [first], first.search.cost, first.search.k
        with contextlib.suppress(Empty):
            while self._together and cost < self._limits.batch:
                one = self._queue.get_nowait()
                if one is None:
                    self._queue.put(None)  # end after this batch
                    break
                largest = max(largest, one.search.k)
                more = cost + one.search.cost
                if more > self._limits.batch or more * largest > self._limits.hits:
                    self._left_over = one
                    break
                cost = more
                batch.append(one)
        with self._lock:
            self._depth -= cost
        return batch

    def _search(self, batch: list[_Pending]) -> list[_Group]:
        """Search each group of a batch in one call; every failure stays with whom it belongs to."""
        by_key: dict[Any, list[_Pending]] = {}
        for one in batch:
            by_key.setdefault(one.search.group, []).append(one)
        try:
            held = self._held()
        except ApiError as error:
            return [_Group.failed(batch, error)]
        groups = []
        for members in by_key.values():
            group = _Group(members)
            try:
                group.search(held)
            except Exception as error:
                group = _Group.failed(members, error)
            else:
                self._metrics.batch_size.observe(len(group.queries))
            groups.append(group)
        return groups

    def _answer(self, groups: list[_Group]) -> None:
        done: dict[asyncio.AbstractEventLoop, list[tuple[_Pending, Answer | Exception]]] = {}
        for group in groups:
            group.describe()
            for one, answer in group.answers():
                done.setdefault(one.loop, []).append((one, answer))
        for loop, answers in done.items():
            with contextlib.suppress(RuntimeError):  # its loop ended, and nobody waits any more
                loop.call_soon_threadsafe(_deliver, answers)


class _Group:
    """Searches that share one call of FAISS, their queries one after the other."""

    def __init__(self, members: list[_Pending]) -> None:
        self._members = members
        self._failures: dict[_Pending, Exception] = {}
        self._look_up: Callable[[], SearchResults] | None = None
        self._found: SearchResults | None = None
        self.queries: list[str | NDArray[np.float32]] = []

    @classmethod
    def failed(cls, members: list[_Pending], error: Exception) -> _Group:
        """A group that has no other answer than this."""
        group = cls(members)
        group._failures = dict.fromkeys(members, error)
        return group

    def search(self, held: ServedIndex) -> None:
        """Find the rows; what a member asks for that is not there fails that member alone."""
        snapshot = held.snapshot
        named = [q for one in self._members for q in one.search.queries if isinstance(q, str)]
        rows = iter(snapshot.rows_of(named).tolist() if named else [])
        itself: list[int] = []
        wanted: list[int] = []
        features: list[bool] = []
        for one in self._members:
            search = one.search
            own = [next(rows) if isinstance(query, str) else -1 for query in search.queries]
            refusal = _refusal(held, search, own)
            if refusal is not None:
                self._failures[one] = refusal
                continue
            self.queries += search.queries
            itself += own
            wanted += [search.k] * len(own)
            features += [search.include_features] * len(own)
        if not self.queries:
            return
        own_rows = np.array(itself, np.int64)
        vectors = np.empty((len(own_rows), snapshot.manifest.dim), np.float32)
        known = own_rows >= 0
        if known.any():
            vectors[known] = snapshot.vectors(own_rows[known])
        for place in np.flatnonzero(~known).tolist():
            vectors[place] = self.queries[place]
        first = self._members[0].search
        k = max(wanted) + int(known.any())  # one more, where the query itself is a hit
        try:
            hits = snapshot.search(vectors, k, chosen=first.chosen, exact=first.exact)
        except FilterError as error:
            self._fail(ApiError(422, "invalid_filter", str(error)))
            return
        self._look_up = lambda: collect_results(
            snapshot, hits, wanted, own_rows, np.array(features)
        )

    def answers(self) -> Iterator[tuple[_Pending, Answer | Exception]]:
        """Each member's answer, or why it has none."""
        place = 0
        for one in self._members:
            if one in self._failures:
                yield one, self._failures[one]
                continue
            try:
                assert self._found is not None
                body = one.search.write(self._found, place)
                yield one, Answer(body, self._found.snapshot.manifest.version)
            except Exception as error:
                yield one, error
            place += len(one.search.queries)

    def describe(self) -> None:
        """Read what stands in the rows found, while another thread searches already."""
        if self._look_up is None:
            return
        try:
            self._found = self._look_up()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        """Nobody gets an answer who has no refusal of their own."""
        for one in self._members:
            self._failures.setdefault(one, error)


def _refusal(held: ServedIndex, search: Search, own: list[int]) -> ApiError | None:
    """Why a search cannot be answered by this snapshot."""
    many, dim = len(own) > 1, held.snapshot.manifest.dim
    for number, (query, row) in enumerate(zip(search.queries, own, strict=True)):
        at = f"query {number}: " if many else ""
        if isinstance(query, str):
            if row < 0:
                return held.unknown(query, at)
        elif len(query) != dim:
            return ApiError(
                422,
                "invalid_vector",
                f"{at}the vector has {len(query)} numbers, this index has {dim}",
            )
    return None


def _deliver(answers: list[tuple[_Pending, Answer | Exception]]) -> None:
    for one, answer in answers:
        if one.future.done():  # its request was cancelled
            continue
        if isinstance(answer, Exception):
            one.future.set_exception(answer)
        else:
            one.future.set_result(answer)
