"""Inverted lists under a filter that leaves many rows.

Lists are visited in order of distance until they held as many allowed nodes as a search without a
filter would have seen.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.search.allowed import SAFETY, Allowed

_faiss: Any = faiss

_MAX_SCARCITY = 8  # how many times more rows are visited where few near the query are allowed


class FilteredLists:
    """Searches the lists of an index among allowed nodes; safe to share by threads.

    Args:
        index: FAISS index.
        core: its ``IndexIVF``, behind projections and rotations.
    """

    def __init__(self, index: Any, core: Any) -> None:
        self._index = index
        self._core = core

    def search(
        self, queries: NDArray[np.float32], count: int, nprobe: int, allowed: Allowed
    ) -> NDArray[np.int64]:
        """The nodes nearest to each query by their codes, [Q, C]; -1 where there are fewer.

        Args:
            queries: [Q, D], prepared for the metric.
            count: nodes wanted.
            nprobe: lists that a search without a filter visits.
            allowed: the nodes that may be returned.
        """
        projected = self._transform(queries)
        lists = self._core.nlist
        allowed_in_list = allowed.by_list(self._list_of_node, lists)
        metric = self._core.quantizer.metric_type
        distances, nearest = faiss.knn(projected, self._centroids, lists, metric=metric)
        reached = np.cumsum(allowed_in_list[nearest], axis=1)
        unfiltered = nprobe * len(allowed.mask) / lists  # nodes that are visited without a filter
        # Where fewer rows than on average are allowed around the query, its neighbours are far
        # away, and from far away lists are harder to rank: more of them are visited.
        scarcity = unfiltered * allowed.share / np.maximum(reached[:, nprobe - 1], 1)
        enough = SAFETY * unfiltered * np.clip(scarcity, 1, _MAX_SCARCITY)
        enough = np.maximum(enough, float(count))
        visit = (allowed_in_list[nearest] > 0) & (np.roll(reached, 1, axis=1) < enough[:, None])
        visit[:, 0] = allowed_in_list[nearest[:, 0]] > 0
        width = max(1, int(visit.sum(axis=1).max()))
        order = np.argsort(~visit, axis=1, kind="stable")[:, :width]
        visited = np.take_along_axis(np.where(visit, nearest, -1), order, axis=1)
        distances = np.take_along_axis(distances, order, axis=1)
        return self._search(projected, min(count, allowed.count), visited, distances, allowed)

    def _transform(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """Queries after the projections and rotations of the index."""
        if isinstance(self._index, faiss.IndexPreTransform):
            chain: Any = self._index.chain
            for number in range(chain.size()):
                queries = faiss.downcast_VectorTransform(chain.at(number)).apply(queries)
        return np.ascontiguousarray(queries)

    def _search(
        self,
        queries: NDArray[np.float32],
        count: int,
        lists: NDArray[np.int64],
        distances: NDArray[np.float32],
        allowed: Allowed,
    ) -> NDArray[np.int64]:
        # FAISS's Python method of this name takes no parameters; the C++ one behind it does.
        lists, distances = np.ascontiguousarray(lists), np.ascontiguousarray(distances)
        values = np.empty((len(queries), count), np.float32)
        nodes = np.empty((len(queries), count), np.int64)
        self._core.search_preassigned_c(
            len(queries),
            _faiss.swig_ptr(queries),
            count,
            _faiss.swig_ptr(lists),
            _faiss.swig_ptr(distances),
            _faiss.swig_ptr(values),
            _faiss.swig_ptr(nodes),
            False,
            _faiss.SearchParametersIVF(nprobe=lists.shape[1], sel=allowed.selector),
        )
        return nodes

    @cached_property
    def _list_of_node(self) -> NDArray[np.int32]:
        """List number of each node: 4 bytes a node, read at the first filtered search."""
        list_of_node = np.zeros(self._index.ntotal, np.int32)
        lists = self._core.invlists
        for number in range(self._core.nlist):
            size = lists.list_size(number)
            if size:
                list_of_node[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
        return list_of_node

    @cached_property
    def _centroids(self) -> NDArray[np.float32]:
        centroids: NDArray[np.float32] = self._core.quantizer.reconstruct_n(0, self._core.nlist)
        return centroids
