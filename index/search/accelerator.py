"""What makes a search fast: finds candidates, which the exact vectors then put in order.

Three kinds, by what their factory string makes:

- *lists* (``IVF…``): ``nprobe`` lists are looked into, ``refine`` candidates a neighbour scored
- *graph* (``HNSW…``): walked ``efSearch`` wide; its vectors are the store's own, not a copy
- *codes* (``SQ8``, ``PQ…``, ``NSG…``): no way to search harder than to score more candidates

Under a filter that leaves few rows none of this is used: ``segment.py`` compares with all of
them. Under one that leaves many, lists are visited from the nearest on until they held as many
*fitting* rows as an unfiltered search would have seen: then it does not matter whether the
rows that fit are near the query or all somewhere else. A graph is walked wide and what does not
fit is dropped: where too little is left, the rows that fit are far, and all are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.metrics import Metric, argsort_nearest, higher_is_nearer
from index.search.factory import core_index, has_exact_scores, save

_faiss: Any = faiss

NPROBE, EF_SEARCH, REFINE = "nprobe", "efSearch", "refine"
# As many as neighbours are measured; and where a query costs as much as an exact one.
_EF_LADDER = (10, 1024)
_REFINE_LADDER = (1, 2, 4, 8, 16, 32, 64)
_NEARLY_ALL = 0.9  # of the rows fit: searched like all of them
_MOST_WALKED = 4_096  # rows of a graph under a filter
_FAR = 8  # times as many where hardly any fits around the query
_SAFETY = 1.5  # fitting rows looked at under a filter, over what is looked at without one


class Allowed:
    """The rows that a search may answer with; ``mask`` is bool [N], one for each row."""

    def __init__(self, mask: NDArray[np.bool_]) -> None:
        self.mask = mask
        self.count = int(np.count_nonzero(mask))
        self._by_list: NDArray[np.int64] | None = None

    @property
    def share(self) -> float:
        """Of all rows."""
        return self.count / max(1, len(self.mask))

    @cached_property
    def rows(self) -> NDArray[np.int64]:
        """Their numbers, ascending."""
        return np.flatnonzero(self.mask)

    def by_list(self, list_of_row: NDArray[np.int32], lists: int) -> NDArray[np.int64]:
        """How many of them each inverted list holds, [lists]; counted once."""
        if self._by_list is None:
            self._by_list = np.bincount(list_of_row[self.mask], minlength=lists)
        return self._by_list

    @cached_property
    def selector(self) -> Any:
        """They as FAISS asks for them, one bit a row."""
        self._bits = np.packbits(self.mask, bitorder="little")  # FAISS keeps a bare pointer
        return _faiss.IDSelectorBitmap(self._bits)


@dataclass(frozen=True)
class SearchParams:
    """How hard to search: the values of the knobs, as they stand in a manifest."""

    values: dict[str, int]

    @property
    def refine(self) -> int:
        """Candidates scored for each neighbour wanted."""
        return self.values.get(REFINE, 1)


class Accelerator:
    """An index that finds candidates among the vectors of ``store``; safe to share."""

    def __init__(self, index: Any, store: Any, metric: Metric) -> None:
        self._index = index
        self._store = store
        self._metric = metric
        self._core = core_index(index)
        self._refines = not has_exact_scores(index)
        # The last effort as parameters: to make them costs a third of a single search.
        self._usual: tuple[SearchParams | None, Any] = None, None
        if self._refines:
            # FAISS wants as many rows in both; while a build tunes, those held out are missing.
            present, index.ntotal = index.ntotal, store.ntotal
            self._refining = _faiss.IndexRefine(index, store)
            index.ntotal = present

    @classmethod
    def open(cls, file: Path, store: Any, metric: Metric) -> Accelerator:
        """Open what ``write`` wrote.

        Raises:
            RuntimeError: FAISS's own, for a file that is none.
        """
        # Lists that stand in a file of their own are found beside this one, mapped into memory.
        flags = faiss.IO_FLAG_ONDISK_SAME_DIR | faiss.IO_FLAG_READ_ONLY
        index = faiss.read_index(str(file), flags | faiss.IO_FLAG_SKIP_STORAGE)
        if isinstance(index, faiss.IndexHNSWFlat):
            index.storage, index.own_fields = store, False
        return cls(index, store, metric)

    @staticmethod
    def write(index: Any, file: Path) -> None:
        """Write ``index``; a graph without its vectors, which stand in the store.

        Raises:
            OSError: the disk refused.
        """
        skip = faiss.IO_FLAG_SKIP_STORAGE if isinstance(index, faiss.IndexHNSWFlat) else 0
        save(index, file, skip)

    @property
    def filters(self) -> bool:
        """Whether it can be told which rows to answer with."""
        return isinstance(self._core, faiss.IndexIVF | faiss.IndexHNSW)

    def ladders(self) -> list[list[SearchParams]]:
        """Efforts to try, each ladder from little to much; one where there is nothing to turn."""
        knob, steps = "", [0]
        if isinstance(self._core, faiss.IndexIVF):
            knob, steps = NPROBE, _geometric_steps(1, self._core.nlist)
        elif isinstance(self._core, faiss.IndexHNSW):
            knob, steps = EF_SEARCH, _geometric_steps(*_EF_LADDER)
        factors = _REFINE_LADDER if self._refines else (0,)
        if not knob:
            return [[SearchParams({REFINE: factor} if factor else {}) for factor in factors]]
        return [
            [SearchParams({knob: step} | ({REFINE: factor} if factor else {})) for step in steps]
            for factor in factors
        ]

    def search(
        self,
        queries: NDArray[np.float32],
        k: int,
        effort: SearchParams,
        allowed: Allowed | None = None,
        *,
        no_harder: bool = False,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """FAISS's values and rows of the ``k`` nearest, [Q, k]; -1 where it found fewer.

        A query with a -1 may have missed nearer rows too: it is for the caller to compare with all.

        Args:
            queries: [Q, D], prepared for the metric.
            k: neighbours wanted.
            effort: how hard to look.
            allowed: only these rows; ask only where ``filters``.
            no_harder: look into as many lists as if all rows were allowed, to measure that.
        """
        if allowed is not None and isinstance(self._core, faiss.IndexHNSW):
            return self._walk(queries, k, effort, allowed)
        if allowed is not None and allowed.share < _NEARLY_ALL and not no_harder:
            return self._visit(queries, k, effort, allowed)
        if allowed is not None:
            params = self._parameters(effort, allowed.selector)
        else:
            of, params = self._usual  # read once: other threads replace it
            if of is not effort:
                params = self._parameters(effort, None)
                self._usual = effort, params
        searched = self._refining if self._refines else self._index
        found: tuple[NDArray[np.float32], NDArray[np.int64]]
        found = searched.search(queries, k, params=params)
        return found

    def _parameters(self, effort: SearchParams, selector: Any) -> Any:
        """FAISS parameters; given to each call, since threads share the index."""
        params = self._inner_parameters(effort.values, selector)
        if not self._refines:
            return params
        return _faiss.IndexRefineSearchParameters(k_factor=effort.refine, base_index_params=params)

    def _inner_parameters(self, values: dict[str, int], selector: Any) -> Any:
        if isinstance(self._core, faiss.IndexIVF):
            params = _faiss.SearchParametersIVF(nprobe=values[NPROBE], sel=selector)
        elif isinstance(self._core, faiss.IndexHNSW):
            params = _faiss.SearchParametersHNSW(efSearch=values[EF_SEARCH], sel=selector)
        else:
            return None
        if isinstance(self._index, faiss.IndexPreTransform):
            return _faiss.SearchParametersPreTransform(index_params=params)
        return params

    def _walk(
        self, queries: NDArray[np.float32], k: int, effort: SearchParams, allowed: Allowed
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Take what fits among the nearest of all.

        Not with a selector: FAISS then stops as early as without one, and answers with whatever
        it met that fits.
        """
        wanted = k * effort.refine
        wide = int(_SAFETY * max(effort.values[EF_SEARCH], wanted) / allowed.share)
        wide = min(max(wide, wanted), _MOST_WALKED, len(allowed.mask))
        params = self._inner_parameters({EF_SEARCH: wide}, None)
        scores, rows = self._index.search(queries, max(k, wide), params=params)
        fits = (rows >= 0) & allowed.mask[rows]
        rows = np.where(fits, rows, -1)
        if self._refines:
            return self._in_order(queries, rows, k)
        order = np.argsort(~fits, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    def _visit(
        self, queries: NDArray[np.float32], k: int, effort: SearchParams, allowed: Allowed
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Search the nearest lists that hold rows which fit, until enough of those were seen."""
        inner = self._projected(queries)
        lists = self._core.nlist
        probed = effort.values[NPROBE]
        held = allowed.by_list(self._list_of_row, lists)
        centres: NDArray[np.float32] = self._centres
        metric = self._core.quantizer.metric_type
        nearness, nearest = faiss.knn(inner, centres, lists, metric=metric)
        seen = np.cumsum(held[nearest], axis=1)
        usual = probed * len(allowed.mask) / lists
        # Where fewer fit around the query than anywhere, the nearest that fit are far away, and
        # from far away lists are harder to tell apart: more of them are looked into.
        scarcity = usual * allowed.share / np.maximum(seen[:, probed - 1], 1)
        enough = np.maximum(_SAFETY * usual * np.clip(scarcity, 1, _FAR), float(k))
        wanted = (held[nearest] > 0) & (np.roll(seen, 1, axis=1) < enough[:, None])
        wanted[:, 0] = held[nearest[:, 0]] > 0
        width = max(1, int(wanted.sum(axis=1).max()))
        order = np.argsort(~wanted, axis=1, kind="stable")[:, :width]
        visited = np.take_along_axis(np.where(wanted, nearest, -1), order, axis=1)
        distance = np.take_along_axis(nearness, order, axis=1)
        count = min(k * effort.refine * (2 if self._refines else 1), allowed.count)
        scores, rows = self._search_lists(inner, count, visited, distance, allowed)
        return self._in_order(queries, rows, k) if self._refines else (scores, rows)

    def _projected(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries as the lists know them: behind the projections and rotations."""
        if isinstance(self._index, faiss.IndexPreTransform):
            chain: Any = self._index.chain
            for number in range(chain.size()):
                step = faiss.downcast_VectorTransform(chain.at(number))
                queries = step.apply(queries)
        return np.ascontiguousarray(queries)

    def _search_lists(
        self,
        inner: NDArray[np.float32],
        count: int,
        visited: NDArray[np.int64],
        distance: NDArray[np.float32],
        allowed: Allowed,
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        # The method of that name in FAISS's Python takes no parameters, what is behind it does.
        visited, distance = np.ascontiguousarray(visited), np.ascontiguousarray(distance)
        scores = np.empty((len(inner), count), np.float32)
        rows = np.empty((len(inner), count), np.int64)
        self._core.search_preassigned_c(
            len(inner),
            _faiss.swig_ptr(inner),
            count,
            _faiss.swig_ptr(visited),
            _faiss.swig_ptr(distance),
            _faiss.swig_ptr(scores),
            _faiss.swig_ptr(rows),
            False,
            _faiss.SearchParametersIVF(nprobe=visited.shape[1], sel=allowed.selector),
        )
        return scores, rows

    def _in_order(
        self, queries: NDArray[np.float32], rows: NDArray[np.int64], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Score candidates with the vectors themselves and keep the ``k`` nearest."""
        rows = np.ascontiguousarray(rows)
        scores = np.empty(rows.shape, np.float32)
        self._store.compute_distance_subset(
            len(queries),
            _faiss.swig_ptr(np.ascontiguousarray(queries)),
            rows.shape[1],
            _faiss.swig_ptr(scores),
            _faiss.swig_ptr(rows),
        )
        far = -np.inf if higher_is_nearer(self._metric) else np.inf
        scores[rows < 0] = far
        order = argsort_nearest(scores, self._metric, k)
        return np.take_along_axis(scores, order, axis=1), np.take_along_axis(rows, order, axis=1)

    @cached_property
    def _list_of_row(self) -> NDArray[np.int32]:
        """The list each row stands in: 4 bytes a row, read when first filtered."""
        found = np.zeros(self._index.ntotal, np.int32)
        lists = self._core.invlists
        for number in range(self._core.nlist):
            size = lists.list_size(number)
            if size:
                ids = faiss.rev_swig_ptr(lists.get_ids(number), size)
                found[ids] = number
        return found

    @cached_property
    def _centres(self) -> NDArray[np.float32]:
        centres: NDArray[np.float32] = self._core.quantizer.reconstruct_n(0, self._core.nlist)
        return centres


def _geometric_steps(start: int, end: int) -> list[int]:
    """From ``start`` to ``end``, each value about half over the one before."""
    values = [start]
    while values[-1] < end:
        values.append(min(max(values[-1] * 3 // 2, values[-1] + 1), end))
    return values
