"""Approximate search: FAISS finds candidates, the exact vectors put them in order.

Three kinds, by what the factory string makes:

- *lists* (``IVF…``): ``nprobe`` lists are visited, ``refine`` candidates scored per neighbour
- *graph* (``HNSW…``): searched with ``efSearch``; its vectors are those of the store, not a copy
- *codes* (``SQ8``, ``PQ…``, ``NSG…``): the number of candidates is the only parameter

Under a filter that leaves few rows none of this is used: ``segment.py`` compares the query with
all of them. Under one that leaves many, lists are visited in order of distance until they held as
many *allowed* rows as an unfiltered search would have seen, so that the recall does not depend on
whether the allowed rows are near the query. A graph is searched with a larger ``efSearch`` and
what is not allowed is dropped; where too few hits remain, the segment compares with all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.config import Metric
from index.metrics import argsort_nearest, higher_is_nearer
from index.search.factory import core_index, has_exact_scores, save

_faiss: Any = faiss

NPROBE, EF_SEARCH, REFINE = "nprobe", "efSearch", "refine"
# From the number of neighbours that are measured, to where a query costs as much as an exact one.
_EF_RANGE = (10, 1024)
_REFINE_FACTORS = (1, 2, 4, 8, 16, 32, 64)
_NEARLY_ALL = 0.9  # share of allowed rows from which a search is done as without a filter
_MAX_FILTERED_EF = 4_096
_MAX_SCARCITY = 8  # how many times more rows are visited where few near the query are allowed
_SAFETY = 1.5  # allowed rows visited under a filter, relative to rows visited without one

Neighbors = tuple[NDArray[np.float32], NDArray[np.int64]]
"""FAISS's values and row numbers, [Q, k] each, nearest first; row -1 where there are fewer."""


class Allowed:
    """The rows that a search may return; ``mask`` is bool [N], one per row."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))
        self._by_list: NDArray[np.int64] | None = None

    @property
    def share(self) -> float:
        """Allowed rows of all rows, 0..1."""
        return self.count / max(1, len(self.mask))

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Numbers of the allowed rows, ascending."""
        return np.flatnonzero(self.mask)

    def by_list(self, list_of_row: NDArray[np.int32], lists: int) -> NDArray[np.int64]:
        """Allowed rows of each inverted list, [lists]; counted once."""
        if self._by_list is None:
            self._by_list = np.bincount(list_of_row[self.mask], minlength=lists)
        return self._by_list

    @cached_property
    def selector(self) -> Any:
        """FAISS's form of the mask, one bit per row."""
        self._bits = np.packbits(self.mask, bitorder="little")  # FAISS keeps only a pointer to it
        return _faiss.IDSelectorBitmap(self._bits)


@dataclass(frozen=True)
class SearchParams:
    """Search parameters by name, as a manifest stores them."""

    values: dict[str, int]

    @property
    def refine(self) -> int:
        """Candidates scored per neighbour."""
        return self.values.get(REFINE, 1)


class Accelerator:
    """An index that finds candidates among the vectors of ``store``; safe to share by threads."""

    def __init__(self, index: Any, store: Any, metric: Metric) -> None:
        self._index = index
        self._store = store
        self._metric = metric
        self._core = core_index(index)
        self._refines = not has_exact_scores(index)
        # The last parameters in FAISS's form: to make them costs a third of a single search.
        self._last_params: tuple[SearchParams | None, Any] = None, None
        if self._refines:
            # FAISS wants as many rows in both; while a build tunes, the held-out ones are missing.
            present, index.ntotal = index.ntotal, store.ntotal
            self._refining = _faiss.IndexRefine(index, store)
            index.ntotal = present

    @classmethod
    def open(cls, file: Path, store: Any, metric: Metric) -> Accelerator:
        """Open an index that ``write`` wrote.

        Args:
            file: ``search.faiss``.
            store: FAISS index of the exact vectors.
            metric: of both.

        Raises:
            RuntimeError: FAISS cannot read the file.
        """
        # FAISS finds lists in a file of their own next to this one, and maps them into memory.
        flags = faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY
        index = faiss.read_index(str(file), flags | faiss.IO_FLAG_SKIP_STORAGE)
        if isinstance(index, faiss.IndexHNSWFlat):
            index.storage, index.own_fields = store, False
            store.this.own(True)  # SWIG gave it to the graph, which does not free it either
        return cls(index, store, metric)

    @staticmethod
    def write(index: Any, file: Path) -> None:
        """Write ``index``; a graph without its vectors, which are in the store.

        Raises:
            OSError: the disk refused.
        """
        skip = faiss.IO_FLAG_SKIP_STORAGE if isinstance(index, faiss.IndexHNSWFlat) else 0
        save(index, file, skip)

    @property
    def supports_filters(self) -> bool:
        """Whether ``search`` takes ``allowed``."""
        return isinstance(self._core, faiss.IndexIVF | faiss.IndexHNSW)

    def search_grid(self) -> list[list[SearchParams]]:
        """Parameters to try when tuning: one row per ``refine``, each in order of rising cost."""
        name, values = "", [0]
        if isinstance(self._core, faiss.IndexIVF):
            name, values = NPROBE, _geometric_steps(1, self._core.nlist)
        elif isinstance(self._core, faiss.IndexHNSW):
            name, values = EF_SEARCH, _geometric_steps(*_EF_RANGE)
        refine = [{REFINE: factor} for factor in _REFINE_FACTORS] if self._refines else [{}]
        if not name:
            return [[SearchParams(factor) for factor in refine]]
        return [[SearchParams({name: value} | factor) for value in values] for factor in refine]

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        params: SearchParams,
        allowed: Allowed | None = None,
        *,
        adaptive: bool = True,
    ) -> Neighbors:
        """Find the ``k`` nearest rows, [Q, k].

        A query with a row -1 may have missed nearer rows too: the caller compares it with all.

        Args:
            queries: [Q, D], prepared for the metric.
            k: neighbours wanted.
            params: search parameters, from ``search_grid``.
            allowed: only these rows; only where ``supports_filters``.
            adaptive: visit more lists where few rows are allowed; False measures the recall of
                an unfiltered search on a part of the rows.
        """
        if allowed is not None and isinstance(self._core, faiss.IndexHNSW):
            return self._search_graph(queries, k, params, allowed)
        if allowed is not None and allowed.share < _NEARLY_ALL and adaptive:
            return self._search_filtered_lists(queries, k, params, allowed)
        if allowed is not None:
            faiss_params = self._faiss_params(params, allowed.selector)
        else:
            last, faiss_params = self._last_params  # read once: other threads replace it
            if last is not params:
                faiss_params = self._faiss_params(params, None)
                self._last_params = params, faiss_params
        index = self._refining if self._refines else self._index
        neighbors: Neighbors = index.search(queries, k, params=faiss_params)
        return neighbors

    def _faiss_params(self, params: SearchParams, selector: Any) -> Any:
        """FAISS parameters; passed to each call, since threads share the index."""
        inner = self._inner_params(params.values, selector)
        if not self._refines:
            return inner
        return _faiss.IndexRefineSearchParameters(k_factor=params.refine, base_index_params=inner)

    def _inner_params(self, values: dict[str, int], selector: Any) -> Any:
        if isinstance(self._core, faiss.IndexIVF):
            params = _faiss.SearchParametersIVF(nprobe=values[NPROBE], sel=selector)
        elif isinstance(self._core, faiss.IndexHNSW):
            params = _faiss.SearchParametersHNSW(efSearch=values[EF_SEARCH], sel=selector)
        else:
            return None
        if isinstance(self._index, faiss.IndexPreTransform):
            return _faiss.SearchParametersPreTransform(index_params=params)
        return params

    def _search_graph(
        self, queries: NDArray[np.float32], k: int, params: SearchParams, allowed: Allowed
    ) -> Neighbors:
        """Search without a filter for more neighbours, and keep those that are allowed.

        FAISS's own selector stops as early as without one and returns what it met by then.
        """
        candidates = k * params.refine
        ef = int(_SAFETY * max(params.values[EF_SEARCH], candidates) / allowed.share)
        ef = min(max(ef, candidates), _MAX_FILTERED_EF, len(allowed.mask))
        faiss_params = self._inner_params({EF_SEARCH: ef}, None)
        scores, rows = self._index.search(queries, max(k, ef), params=faiss_params)
        keep = (rows >= 0) & allowed.mask[rows]
        rows = np.where(keep, rows, -1)
        if self._refines:
            return self._rerank(queries, rows, k)
        order = np.argsort(~keep, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _search_filtered_lists(
        self, queries: NDArray[np.float32], k: int, params: SearchParams, allowed: Allowed
    ) -> Neighbors:
        """Search the nearest lists with allowed rows, until enough of those rows were seen."""
        projected = self._transform(queries)
        lists = self._core.nlist
        nprobe = params.values[NPROBE]
        allowed_in_list = allowed.by_list(self._list_of_row, lists)
        metric = self._core.quantizer.metric_type
        distances, nearest = faiss.knn(projected, self._centroids, lists, metric=metric)
        reached = np.cumsum(allowed_in_list[nearest], axis=1)
        unfiltered = (
            nprobe * len(allowed.mask) / lists
        )  # rows that a search without a filter visits
        # Where fewer rows than on average are allowed around the query, its neighbours are far
        # away, and from far away lists are harder to rank: more of them are visited.
        scarcity = unfiltered * allowed.share / np.maximum(reached[:, nprobe - 1], 1)
        enough = np.maximum(_SAFETY * unfiltered * np.clip(scarcity, 1, _MAX_SCARCITY), float(k))
        visit = (allowed_in_list[nearest] > 0) & (np.roll(reached, 1, axis=1) < enough[:, None])
        visit[:, 0] = allowed_in_list[nearest[:, 0]] > 0
        width = max(1, int(visit.sum(axis=1).max()))
        order = np.argsort(~visit, axis=1, kind="stable")[:, :width]
        visited = np.take_along_axis(np.where(visit, nearest, -1), order, axis=1)
        distances = np.take_along_axis(distances, order, axis=1)
        count = min(k * params.refine * (2 if self._refines else 1), allowed.count)
        scores, rows = self._search_preassigned(projected, count, visited, distances, allowed)
        return self._rerank(queries, rows, k) if self._refines else (scores, rows)

    def _transform(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries after the projections and rotations of the index."""
        if isinstance(self._index, faiss.IndexPreTransform):
            chain: Any = self._index.chain
            for number in range(chain.size()):
                queries = faiss.downcast_VectorTransform(chain.at(number)).apply(queries)
        return np.ascontiguousarray(queries)

    def _search_preassigned(
        self,
        queries: NDArray[np.float32],
        count: int,
        lists: NDArray[np.int64],
        distances: NDArray[np.float32],
        allowed: Allowed,
    ) -> Neighbors:
        # FAISS's Python method of this name takes no parameters; the C++ one behind it does.
        lists, distances = np.ascontiguousarray(lists), np.ascontiguousarray(distances)
        scores = np.empty((len(queries), count), np.float32)
        rows = np.empty((len(queries), count), np.int64)
        self._core.search_preassigned_c(
            len(queries),
            _faiss.swig_ptr(queries),
            count,
            _faiss.swig_ptr(lists),
            _faiss.swig_ptr(distances),
            _faiss.swig_ptr(scores),
            _faiss.swig_ptr(rows),
            False,
            _faiss.SearchParametersIVF(nprobe=lists.shape[1], sel=allowed.selector),
        )
        return scores, rows

    def _rerank(self, queries: NDArray[np.float32], rows: NDArray[np.int64], k: int) -> Neighbors:
        """Score candidates with the exact vectors and keep the ``k`` nearest."""
        rows = np.ascontiguousarray(rows)
        scores = np.empty(rows.shape, np.float32)
        self._store.compute_distance_subset(
            len(queries),
            _faiss.swig_ptr(np.ascontiguousarray(queries)),
            rows.shape[1],
            _faiss.swig_ptr(scores),
            _faiss.swig_ptr(rows),
        )
        scores[rows < 0] = -np.inf if higher_is_nearer(self._metric) else np.inf
        order = argsort_nearest(scores, self._metric, k)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    @cached_property
    def _list_of_row(self) -> NDArray[np.int32]:
        """List number of each row: 4 bytes a row, read at the first filtered search."""
        list_of_row = np.zeros(self._index.ntotal, np.int32)
        lists = self._core.invlists
        for number in range(self._core.nlist):
            size = lists.list_size(number)
            if size:
                list_of_row[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
        return list_of_row

    @cached_property
    def _centroids(self) -> NDArray[np.float32]:
        centroids: NDArray[np.float32] = self._core.quantizer.reconstruct_n(0, self._core.nlist)
        return centroids


def _geometric_steps(start: int, end: int) -> list[int]:
    """From ``start`` to ``end``, each value about half more than the one before."""
    values = [start]
    while values[-1] < end:
        values.append(min(max(values[-1] * 3 // 2, values[-1] + 1), end))
    return values
