"""Exhaustive search: the k nearest of all rows, or of those that a filter leaves."""

from __future__ import annotations

from threading import Lock
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.config import Metric
from index.metrics import higher_is_nearer
from index.search.allowed import Allowed
from index.search.scores import Neighbors, score_rows, sort_hits

_faiss: Any = faiss

_GPU_MAX_K = 2048  # FAISS selects no more on a GPU
_SPARE = 8  # candidates beyond k, which settle most ties for the last place
_WIDER = 8  # times as many where they do not
_ROUNDING = 4e-6  # of a sum of a thousand products in float32, relative to the largest


class ExactSearch:
    """Compares queries with the vectors of a store; safe to share by threads.

    FAISS finds candidates by products of matrices, whose rounding depends on the number of
    queries, and orders equal ones as it likes. So more than k are taken, until the last is
    farther than the k-th by more than rounding, and scored pair by pair.

    Args:
        store: FAISS index of the exact vectors.
        metric: how they are compared.
        on_gpu: copy them to the GPUs, where there are any.
    """

    def __init__(self, store: Any, metric: Metric, *, on_gpu: bool = False) -> None:
        self._store = store
        self._metric = metric
        self._gpu = _GpuCopy(store) if on_gpu and faiss.get_num_gpus() > 0 else None

    def search(
        self, queries: NDArray[np.float32], k: int, allowed: Allowed | None = None
    ) -> Neighbors:
        """The k nearest rows of each query, [Q, k]; equal values by row number.

        Args:
            queries: [Q, D] float32, prepared for the metric, contiguous.
            k: hits of each query, at most as many as there are rows.
            allowed: return only these rows; None: all.
        """
        count = self._store.ntotal if allowed is None else allowed.count
        values = np.empty((len(queries), k), np.float32)
        rows = np.empty((len(queries), k), np.int64)
        waiting = np.arange(len(queries))
        width = min(count, k + _SPARE)
        while len(waiting):
            own = np.ascontiguousarray(queries[waiting])
            near, candidates = self._candidates(own, width, allowed)
            exact = score_rows(self._store, self._metric, own, candidates)
            values[waiting], rows[waiting] = sort_hits(exact, candidates, self._metric, k)
            if width == count:
                break
            waiting = waiting[self._may_tie(own, near, values[waiting, -1])]
            width = min(count, width * _WIDER)
        return values, rows

    def _may_tie(
        self,
        queries: NDArray[np.float32],
        near: NDArray[np.float32],
        last: NDArray[np.float32],
    ) -> NDArray[np.bool_]:
        """Whether a row that FAISS left out may be as near as the k-th, [Q]."""
        gap = last - near[:, -1] if higher_is_nearer(self._metric) else near[:, -1] - last
        if self._metric == "l2":  # computed from squared lengths
            scale = 4 * np.einsum("ij,ij->i", queries, queries)
        else:
            scale = np.abs(near).max(axis=1)
        return np.asarray(gap <= _ROUNDING * scale)

    def _candidates(
        self, queries: NDArray[np.float32], count: int, allowed: Allowed | None
    ) -> Neighbors:
        neighbors: Neighbors
        if allowed is None:
            gpu = self._gpu if count <= _GPU_MAX_K else None
            neighbors = (gpu or self._store).search(queries, count)
        else:
            # By row number: FAISS reads only these rows, with a bitmap it would test every row.
            params = _faiss.SearchParameters(sel=_faiss.IDSelectorArray(allowed.rows))
            neighbors = self._store.search(queries, count, params=params)
        return neighbors


class _GpuCopy:
    """The vectors on the GPUs; FAISS lets only one thread at a time search them."""

    def __init__(self, store: Any) -> None:
        self._index = _faiss.index_cpu_to_all_gpus(store)
        self._lock = Lock()

    def search(self, queries: NDArray[np.float32], k: int) -> Neighbors:
        with self._lock:
            neighbors: Neighbors = self._index.search(queries, k)
        return neighbors
