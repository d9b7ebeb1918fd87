"""Searches that wait together are answered together.

One FAISS call for 32 queries costs little more than one for a single query, and it is the only
way its threads help. So requests do not search themselves: they queue, and whenever the index is
free, everything that waits is taken at once, without a timer. A lone request starts at once and
many requests batch by themselves. Queries with the same filter share one call with the largest k,
if that is searched with the same effort: an answer must not depend on who else asks.

Two threads take turns: one searches with all cores (never two at once, so FAISS's threads do not
compete for them) while the other writes the answers of the batch before.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple

import faiss
import numpy as np
from numpy.typing import NDArray

from api.config import Limits
from api.http.errors import ApiError, too_busy
from api.http.metrics import Metrics
from api.service.answers import PLAIN, SearchResults, Shown, collect_results, shown_value
from api.service.queries import PreparedQueries, Query, read_queries
from cluster.executors import local_cores
from common.errors import ColumnError, FilterError
from index.search.accelerator import width_of
from index.search.filters import Filter
from index.search.groups import search_groups
from index.search.recall import Hits
from index.search.selection import Selection, select

if TYPE_CHECKING:
    from api.service.served_index import ServedIndex

_CLOSE_SECONDS = 10.0  # a call of FAISS cannot be interrupted, only abandoned


@dataclass(frozen=True)
class Search:
    """The queries of one request and their options.

    Attributes:
        queries: Q ids of detections, raw vectors [D], which are finite and not zero, or examples.
        k: hits to find of each query, those of ``offset`` included.
        write: makes the bytes of the answer; called with the results of the whole batch and the
            number of this request's first query in it.
        filter: only rows that match this.
        exact: compare with every vector.
        shown: what hits include.
        offset: nearest hits to leave out.
        score_threshold: the worst score of a hit.
        group_by: find k groups, of rows with one value of this; such a search is a call of its own.
        group_size: most hits of each group.
    """

    queries: list[Query]
    k: int
    write: Callable[[SearchResults, int], bytes]
    filter: Filter | None = None
    exact: bool = False
    shown: Shown = PLAIN
    offset: int = 0
    score_threshold: float | None = None
    group_by: str | None = None
    group_size: int = 1

    @property
    def group(self) -> tuple[Filter | None, bool, int | None, int | None]:
        """Searches of one group can share a call."""
        return self.filter, self.exact, width_of(self.k), width_of(self.k + 1)

    @property
    def cost(self) -> int:
        """Its weight in the queue and in a batch: the queries, and more with vectors.

        An answer with a thousand vectors is megabytes, and those of a batch add up.
        """
        return len(self.queries) * (max(1, self.k // 4) if self.shown.vectors else 1)


class Answer(NamedTuple):
    """The bytes of one answer and the version of the snapshot it came from."""

    body: bytes
    snapshot: str


class _Pending(NamedTuple):
    """A search and the future of its answer."""

    search: Search
    future: asyncio.Future[Answer]


_Outcome = tuple[_Pending, Answer | Exception]


class Batcher:
    """A bounded queue of searches, and the threads that answer them.

    Args:
        served_index: gives the index served now; called once a batch, so that one snapshot
            answers all of it.
        limits: ``waiting_queries``, and ``batch`` and ``hits`` of one call.
        metrics: gets the queue's depth and each batch's size.
    """

    def __init__(
        self, served_index: Callable[[], ServedIndex], *, limits: Limits, metrics: Metrics
    ) -> None:
        self._served_index = served_index
        self._limits = limits
        self._metrics = metrics
        self._queue: SimpleQueue[_Pending | None] = SimpleQueue()
        self._left_over: _Pending | None = None  # too much for the batch before; under _turn
        self._turn = threading.Lock()
        self._depth = 0
        self._depth_lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._work, name=f"search-{number}", daemon=True)
            for number in range(2)
        ]
        metrics.queue_depth.set_function(lambda: self._depth)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Answer what waits, then end the threads."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join(timeout=_CLOSE_SECONDS)

    async def search(self, search: Search) -> Answer:
        """Queue a search and wait for its answer.

        Raises:
            ApiError: 429, too many queries wait; 404, no such detection; 422, the vector or the
                filter does not fit the index.
        """
        with self._depth_lock:
            # A search larger than the whole queue is accepted when nothing else waits.
            if self._depth and self._depth + search.cost > self._limits.waiting_queries:
                self._metrics.rejected.labels("queue").inc()
                raise too_busy(
                    f"{self._depth} queries wait for the index and the limit is "
                    f"{self._limits.waiting_queries}; try again in a second"
                )
            self._depth += search.cost
        pending = _Pending(search, asyncio.get_running_loop().create_future())
        self._queue.put(pending)
        return await pending.future

    def _work(self) -> None:
        # OpenMP keeps this number per thread, so each thread sets its own.
        faiss.omp_set_num_threads(local_cores())
        while self._answer_batch():
            pass

    def _answer_batch(self) -> bool:
        """Wait for a batch and answer it; False: closed.

        A call of its own, so that a thread that waits holds nothing of the snapshot it searched.
        """
        with self._turn:
            batch = self._take()
            if not batch:
                return False
            groups = self._search(batch)
        outcomes = [outcome for group in groups for outcome in group.outcomes()]
        with contextlib.suppress(RuntimeError):  # the loop ended, so nobody waits
            batch[0].future.get_loop().call_soon_threadsafe(_deliver, outcomes)
        return True

    def _take(self) -> list[_Pending]:
        """Wait for a search, then take all that wait, up to one batch; empty: closed."""
        first = self._left_over or self._queue.get()
        self._left_over = None
        if first is None:
            return []
        batch, cost, largest_k = [first], first.search.cost, first.search.k
        with contextlib.suppress(Empty):
            while cost < self._limits.batch:
                pending = self._queue.get_nowait()
                if pending is None:
                    self._queue.put(None)  # close after this batch
                    break
                largest_k = max(largest_k, pending.search.k)
                total = cost + pending.search.cost
                if total > self._limits.batch or total * largest_k > self._limits.hits:
                    self._left_over = pending
                    break
                cost = total
                batch.append(pending)
        with self._depth_lock:
            self._depth -= cost
        return batch

    def _search(self, batch: list[_Pending]) -> list[_Group]:
        """Search each group of a batch in one call; an error fails only its own group."""
        groups: dict[Any, _Group] = {}
        for pending in batch:
            search = pending.search
            key = search.group if search.group_by is None else id(pending)
            groups.setdefault(key, _Group([])).members.append(pending)
        try:
            served = self._served_index()
        except ApiError as error:
            return [_Group(batch, error)]
        for group in groups.values():
            try:
                group.search(served)
                self._metrics.batch_size.observe(len(group.queries))
            except Exception as error:  # this thread must live on; the requests get the error
                group.fail(error)
        return list(groups.values())


class _Group:
    """Searches that share one call of FAISS, their queries one after the other."""

    def __init__(self, members: list[_Pending], error: Exception | None = None) -> None:
        self.members = members
        self.queries: list[Query] = []
        self._failures: dict[asyncio.Future[Answer], Exception] = {}
        self._collect: Callable[[], SearchResults] | None = None
        if error is not None:
            self.fail(error)

    def search(self, served: ServedIndex) -> None:
        """Find the rows; a query that does not fit the index fails only its own request."""
        prepared = read_queries(served, [member.search.queries for member in self.members])
        searches: list[Search] = []
        for (search, future), error in zip(self.members, prepared.errors, strict=True):
            if error is not None:
                self._failures[future] = error
                continue
            self.queries += search.queries
            searches += [search] * len(search.queries)
        if not searches:
            return
        first = searches[0]
        try:
            unknown = served.unknown_ids(first.filter)
            if first.group_by is None:
                selection = _select(served, searches, prepared)
            else:
                selection = _select_groups(served, first, prepared)
        except FilterError as error:
            self.fail(ApiError(422, "invalid_filter", str(error)))
            return
        except ColumnError as error:
            self.fail(ApiError(422, "invalid_column", str(error)))
            return
        shown = [search.shown for search in searches]
        self._collect = lambda: collect_results(
            served.snapshot, selection, shown, served.own_columns, unknown
        )

    def outcomes(self) -> Iterator[_Outcome]:
        """Each member's answer, or why it has none.

        Reads the fields of the hits here, while another thread searches already.
        """
        results = None
        if self._collect is not None:
            try:
                results = self._collect()
            except Exception as error:  # as in Batcher._search
                self.fail(error)
        first = 0
        for member in self.members:
            if member.future in self._failures:
                yield member, self._failures[member.future]
                continue
            assert results is not None
            try:
                body = member.search.write(results, first)
                yield member, Answer(body, results.snapshot.manifest.version)
            except Exception as error:  # as in Batcher._search
                yield member, error
            first += len(member.search.queries)

    def fail(self, error: Exception) -> None:
        """Give ``error`` to every member without an error of its own."""
        for member in self.members:
            self._failures.setdefault(member.future, error)


def _select(served: ServedIndex, searches: list[Search], prepared: PreparedQueries) -> Selection:
    """The hits of queries that share a call, each cut as its own search says."""
    snapshot, first = served.snapshot, searches[0]
    depths = [search.k + more for search, more in zip(searches, prepared.excess, strict=True)]
    find = partial(snapshot.search, filter=first.filter, exact=first.exact)
    hits = _search_apart(find, prepared.vectors, depths)
    offsets = [search.offset for search in searches]
    thresholds = [search.score_threshold for search in searches]
    return select(
        hits,
        snapshot.manifest.metric,
        ends=[search.k for search in searches],
        offsets=offsets if any(offsets) else None,
        thresholds=thresholds if any(limit is not None for limit in thresholds) else None,
        own_rows=prepared.rows,
        excluded=prepared.excluded,
    )


def _search_apart(
    search: Callable[[NDArray[np.float32], int], Hits],
    vectors: NDArray[np.float32],
    depths: list[int],
) -> Hits:
    """Hits of all queries, in one call for those that are searched with the same effort.

    Args:
        search: of a snapshot.
        vectors: ``[Q, D]``.
        depths: ``[Q]`` hits of each; more where it shares a call, row -1 where it does not.
    """
    if width_of(min(depths)) == width_of(max(depths)):
        return search(vectors, max(depths))
    widths: dict[int | None, list[int]] = {}
    for query, depth in enumerate(depths):
        widths.setdefault(width_of(depth), []).append(query)
    parts = [
        (queries, search(vectors[queries], max(depths[query] for query in queries)))
        for queries in widths.values()
    ]
    rows = np.full((len(vectors), max(hits.rows.shape[1] for _, hits in parts)), -1, np.int64)
    scores = np.zeros(rows.shape, np.float32)
    for queries, hits in parts:
        width = hits.rows.shape[1]
        rows[queries, :width], scores[queries, :width] = hits.rows, hits.scores
    return Hits(rows, scores)


def _select_groups(served: ServedIndex, search: Search, prepared: PreparedQueries) -> Selection:
    """The hits of the queries of one search with ``group_by``."""
    column = search.group_by
    assert column is not None
    excluded = [row[row >= 0] for row in prepared.rows[:, None]]
    for query, rows in prepared.excluded:
        excluded[query] = rows
    selection = search_groups(
        served.snapshot,
        prepared.vectors,
        served.grouping(column),
        k=search.k - search.offset,
        group_size=search.group_size,
        offset=search.offset,
        score_threshold=search.score_threshold,
        excluded=excluded,
        filter=search.filter,
        exact=search.exact,
    )
    names = [shown_value(column, value) for value in selection.groups or ()]
    return replace(selection, groups=names)


def _deliver(answers: list[_Outcome]) -> None:
    for pending, answer in answers:
        if pending.future.done():  # its request was cancelled
            continue
        if isinstance(answer, Exception):
            pending.future.set_exception(answer)
        else:
            pending.future.set_result(answer)
