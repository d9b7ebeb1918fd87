"""Approximate search: FAISS finds candidates, the exact vectors put them in order.

Three kinds, by what the factory string makes:

- *lists* (``IVF…``): ``nprobe`` lists are visited
- *graph* (``HNSW…``): ``efSearch`` nodes are kept while it is walked, and all of them are scored
- *codes* (``SQ8``, ``PQ…``, ``NSG…``): the number of candidates is the only parameter

Lists and codes give ``refine`` candidates for each neighbour wanted.

**Width.** A search for k neighbours is done as for the next of ``WIDTHS``, with parameters tuned
for it, and cut to k. So effort follows k, and what is found for k = 1 is the first of k = 10.

Under a filter that leaves few rows none of this is used: ``segment.py`` compares the query with
all of them. Under one that leaves many, lists are visited in order of distance until they held as
many *allowed* nodes as an unfiltered search would have seen, so that the recall does not depend on
whether the allowed rows are near the query. A graph is searched with a larger ``efSearch`` and
what is not allowed is dropped; where too few hits remain, the segment compares with all rows.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import faiss
import numpy as np
from numpy.typing import NDArray

from index.config import Metric
from index.search.allowed import SAFETY, Allowed
from index.search.factory import core_index, graph_links, has_exact_scores
from index.search.lists import FilteredLists
from index.search.nodes import Nodes
from index.search.scores import Neighbors, nearest_of_nodes

_faiss: Any = faiss

WIDTHS = (12, 64, 256, 1024)
"""Most neighbours of a search that share parameters; above the last, every row is compared.

The first holds the ten that most searches ask for and the query itself, the last a thousand.
"""

NPROBE, EF_SEARCH, REFINE = "nprobe", "efSearch", "refine"
_MAX_EF = 1024  # of a width, or four times the width: there a query costs as much as an exact one
_REFINE_FACTORS = (1, 2, 4, 8, 16, 32, 64)
_CODES_A_VECTOR = 4  # codes compared in the time of one vector, about
_NEARLY_ALL = 0.9  # share of allowed rows from which a search is done as without a filter
_MAX_FILTERED_EF = 4_096


def width_of(k: int) -> int | None:
    """The smallest of ``WIDTHS`` that holds ``k``; None: there is none."""
    position = bisect_left(WIDTHS, k)
    return WIDTHS[position] if position < len(WIDTHS) else None


class SearchParams(NamedTuple):
    """Parameters of a search for up to ``width`` neighbours.

    Attributes:
        width: one of ``WIDTHS``.
        effort: ``nprobe`` of lists, ``efSearch`` of a graph; 0 for codes.
        refine: candidates for each of ``width``; 1 for a graph.
    """

    width: int
    effort: int = 0
    refine: int = 1

    @classmethod
    def read(cls, width: int, stored: dict[str, int]) -> Self:
        """Those that a manifest stores by name."""
        effort = stored.get(EF_SEARCH, stored.get(NPROBE, 0))
        return cls(width, effort, stored.get(REFINE, 1))


class Accelerator:
    """An index that finds candidates among the vectors of ``store``; safe to share by threads.

    Args:
        index: FAISS index of the nodes.
        store: FAISS index of the exact vectors, by row.
        metric: of both.
        nodes: the rows of each number in ``index``.
    """

    def __init__(self, index: Any, store: Any, metric: Metric, nodes: Nodes) -> None:
        self._index = index
        self._store = store
        self._metric = metric
        self._nodes = nodes
        self._core = core_index(index)
        self._exact = has_exact_scores(index)
        self._links = graph_links(self._core)
        # In FAISS's form: to make them costs a third of a single search.
        self._cached_params: dict[SearchParams, Any] = {}

    @classmethod
    def open(cls, file: Path, store: Any, metric: Metric, nodes: Nodes) -> Accelerator:
        """Open an index that ``factory.save`` wrote.

        Args:
            file: ``search.faiss``.
            store: FAISS index of the exact vectors.
            metric: of both.
            nodes: the rows of each number in it.

        Raises:
            RuntimeError: FAISS cannot read the file.
        """
        # FAISS finds lists in a file of their own next to this one, and maps them into memory.
        flags = faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY
        index = faiss.read_index(str(file), flags)
        if isinstance(index, faiss.IndexHNSWFlat) and not index.storage:
            index.storage, index.own_fields = store, False  # format 2 has one copy of the vectors
            store.this.own(True)  # SWIG gave it to the graph, which does not free it either
        return cls(index, store, metric, nodes)

    @property
    def supports_filters(self) -> bool:
        """Whether ``search`` takes ``allowed``."""
        return isinstance(self._core, (faiss.IndexIVF, faiss.IndexHNSW))

    def names(self, params: SearchParams) -> dict[str, int]:
        """The parameters that this kind of index has, by name, as a manifest stores them."""
        if isinstance(self._core, faiss.IndexHNSW):
            return {EF_SEARCH: params.effort}
        refine = {} if self._exact else {REFINE: params.refine}
        return (
            {NPROBE: params.effort} | refine if isinstance(self._core, faiss.IndexIVF) else refine
        )

    def search_grid(self, width: int) -> list[list[SearchParams]]:
        """Parameters to try when tuning: one row per ``refine``, each in order of rising cost."""
        if isinstance(self._core, faiss.IndexHNSW):
            steps = _geometric_steps(width, max(_MAX_EF, 4 * width))
            return [[SearchParams(width, effort) for effort in steps]]
        refine = (1,) if self._exact else _REFINE_FACTORS
        if not isinstance(self._core, faiss.IndexIVF):
            return [[SearchParams(width, 0, factor) for factor in refine]]
        steps = _geometric_steps(1, self._core.nlist)
        return [[SearchParams(width, effort, factor) for effort in steps] for factor in refine]

    def distances(self, params: SearchParams) -> int:
        """About how many exact comparisons a search is worth; an exhaustive one: all rows."""
        if isinstance(self._core, faiss.IndexHNSW):
            return params.effort * 2 * self._links
        scored = 0 if self._exact else params.width * params.refine
        if isinstance(self._core, faiss.IndexIVF):
            lists = self._core.nlist
            return scored + lists + params.effort * len(self._nodes) // lists // _CODES_A_VECTOR
        return scored + len(self._nodes) // _CODES_A_VECTOR

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        params: SearchParams,
        allowed: Allowed | None = None,
        *,
        adaptive: bool = True,
    ) -> Neighbors:
        """Find the ``k`` nearest rows, [Q, k], with their exact values.

        A query with a row -1 may have missed nearer rows too: the caller compares it with all.

        Args:
            queries: [Q, D] contiguous, prepared for the metric.
            k: neighbours wanted, up to ``params.width``.
            params: search parameters, from ``search_grid``.
            allowed: only these rows; only where ``supports_filters``.
            adaptive: visit more lists where few rows are allowed; False measures the recall of
                an unfiltered search on a part of the rows.
        """
        mask = None
        if allowed is None:
            found = self._search(queries, params)
        else:
            mask, of_nodes = allowed.mask, allowed.of_nodes(self._nodes)
            if isinstance(self._core, faiss.IndexHNSW):
                found = self._search_graph(queries, params, of_nodes)
            elif of_nodes.share < _NEARLY_ALL and adaptive:
                count = params.width * params.refine * (1 if self._exact else 2)
                found = self._filtered_lists.search(queries, count, params.effort, of_nodes)
            else:
                found = self._search(queries, params, of_nodes.selector)
        return nearest_of_nodes(self._store, self._metric, self._nodes, queries, found, k, mask)

    def _search(
        self, queries: NDArray[np.float32], params: SearchParams, selector: Any = None
    ) -> NDArray[np.int64]:
        """Candidates as nodes, [Q, C]; -1 where there are fewer."""
        if selector is not None:
            faiss_params = self._faiss_params(params, selector)
        elif (faiss_params := self._cached_params.get(params)) is None and params.effort:
            # Passed to each call, since threads share the index.
            faiss_params = self._cached_params[params] = self._faiss_params(params, None)
        is_graph = isinstance(self._core, faiss.IndexHNSW)
        count = params.effort if is_graph else params.width * params.refine
        count = min(count, len(self._nodes))
        values = np.empty((len(queries), count), np.float32)
        found = np.empty((len(queries), count), np.int64)
        # The C++ method: FAISS's Python one checks everything once more, in half the time of a
        # small search.
        self._index.search_c(
            len(queries),
            _faiss.swig_ptr(queries),
            count,
            _faiss.swig_ptr(values),
            _faiss.swig_ptr(found),
            faiss_params,
        )
        return found

    def _faiss_params(self, params: SearchParams, selector: Any) -> Any:
        if isinstance(self._core, faiss.IndexIVF):
            inner = _faiss.SearchParametersIVF(nprobe=params.effort, sel=selector)
        elif isinstance(self._core, faiss.IndexHNSW):
            inner = _faiss.SearchParametersHNSW(efSearch=params.effort, sel=selector)
        else:
            return None
        if isinstance(self._index, faiss.IndexPreTransform):
            return _faiss.SearchParametersPreTransform(index_params=inner)
        return inner

    def _search_graph(
        self, queries: NDArray[np.float32], params: SearchParams, allowed: Allowed
    ) -> NDArray[np.int64]:
        """Search without a filter for more neighbours, and keep those that are allowed.

        FAISS's own selector stops as early as without one and returns what it met by then.
        """
        effort = int(SAFETY * params.effort / max(allowed.share, 1 / _MAX_FILTERED_EF))
        effort = min(max(effort, params.effort), max(_MAX_FILTERED_EF, params.effort))
        found = self._search(queries, params._replace(effort=effort))
        keep = (found >= 0) & allowed.mask[found]
        order = np.argsort(~keep, axis=1, kind="stable")[:, : max(1, int(keep.sum(axis=1).max()))]
        return np.take_along_axis(np.where(keep, found, -1), order, axis=1)

    @cached_property
    def _filtered_lists(self) -> FilteredLists:
        return FilteredLists(self._index, self._core)


def _geometric_steps(start: int, end: int) -> list[int]:
    """From ``start`` to ``end``, each value about half more than the one before."""
    values = [start]
    while values[-1] < end:
        values.append(min(max(values[-1] * 3 // 2, values[-1] + 1), end))
    return values
