"""Find rows that are copies of each other, so that one node of an index stands for all of them.

*Equal* rows have the same vector, bit for bit. *Near* ones are closer than three tenths of the
distance that lonely rows have to their nearest: frames of a still moth, of an empty background.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.config import Metric
from index.search.nodes import Nodes
from index.storage import store
from index.storage.layout import VECTORS

MIN_COPIES = 8
"""Fewer rows that are nearly the same stay nodes of their own: a graph copes with them."""

SLICE_ROWS = 50_000  # of one task
_BLOCK_ROWS = 8_192
_SEED = 0x9E3779B97F4A7C15  # any number: the same vectors have the same hashes everywhere

Ints = NDArray[np.int64]
_faiss: Any = faiss


@dataclass(frozen=True)
class Slice:
    """Consecutive rows of a segment, the work of one task."""

    folder: Path  # of the segment
    first: int
    stop: int

    def vectors(self) -> NDArray[np.float32]:
        """Their vectors, [N, D]."""
        opened = store.open_store(self.folder / VECTORS)
        rows: NDArray[np.float32] = opened.reconstruct_n(self.first, self.stop - self.first)
        return rows


def slices(folder: Path, total: int) -> list[Slice]:
    """All rows of a segment in slices."""
    return [
        Slice(folder.resolve(), first, min(first + SLICE_ROWS, total))
        for first in range(0, total, SLICE_ROWS)
    ]


def hash_vectors(part: Slice) -> NDArray[np.uint64]:
    """64 bits of each vector of a slice; equal vectors have equal bits."""
    vectors = part.vectors()
    words = vectors.view(np.uint32)
    random = np.random.default_rng(_SEED)
    factors = random.integers(2**64, size=words.shape[1], dtype=np.uint64) | np.uint64(1)
    hashes = [np.empty(0, np.uint64)]
    for first in range(0, len(words), _BLOCK_ROWS):
        mixed = words[first : first + _BLOCK_ROWS].astype(np.uint64) * factors
        hashes.append((mixed ^ (mixed >> np.uint64(29))).sum(axis=1, dtype=np.uint64))
    return np.concatenate(hashes)


@dataclass(frozen=True)
class EqualRows:
    """Which rows have equal vectors.

    Attributes:
        first: int64 [N], for each row the lowest row with the same vector.
        counts: int64 [N], how many rows have the vector of each.
    """

    first: Ints
    counts: Ints

    @classmethod
    def of(cls, hashes: NDArray[np.uint64]) -> EqualRows:
        """Rows of equal hashes [N]; two vectors by chance are told apart by ``Nodes.radius``."""
        _, first, inverse, counts = np.unique(
            hashes, return_index=True, return_inverse=True, return_counts=True
        )
        return cls(first[inverse], counts[inverse])

    @property
    def single(self) -> Ints:
        """Rows without an equal one, ascending."""
        return np.flatnonzero(self.counts == 1)

    @property
    def node_rows(self) -> Ints:
        """Rows to make nodes of, ascending: of many equal ones the first."""
        return np.flatnonzero(
            (self.counts < MIN_COPIES) | (self.first == np.arange(len(self.first)))
        )


def make_nodes(vectors: Any, rows: Ints, node_of: Ints, metric: Metric) -> Nodes:
    """The nodes of an index, from the node of each row.

    Args:
        vectors: FAISS index of the exact vectors.
        rows: int64 [M], ascending; the lowest row of each node is the one it was made of.
        node_of: int64 [M], the node of each.
        metric: how vectors are compared.
    """
    order = np.argsort(node_of, kind="stable")
    counts = np.bincount(node_of)
    starts = np.concatenate([[0], np.cumsum(counts)])
    first = rows[order[starts[:-1]]]
    radius = np.zeros(len(counts), np.float32)
    copies = order[np.repeat(counts > 1, counts)]
    for begin in range(0, len(copies), _BLOCK_ROWS):
        block = copies[begin : begin + _BLOCK_ROWS]
        nodes = node_of[block]
        members = vectors.reconstruct_batch(rows[block])
        away = distances(members, vectors.reconstruct_batch(first[nodes]), metric)
        np.maximum.at(radius, nodes, away)
    return Nodes(starts, rows[order], radius)


def distances(
    a: NDArray[np.float32], b: NDArray[np.float32], metric: Metric
) -> NDArray[np.float32]:
    """Distance of each row of ``a`` [N, D] to that of ``b``: L1 for l1, otherwise L2."""
    apart = a - b
    if metric == "l1":
        return np.asarray(np.abs(apart).sum(axis=1), np.float32)
    return np.asarray(np.sqrt(np.einsum("ij,ij->i", apart, apart)), np.float32)


class NearCopies:
    """Fills a graph with rows, except those near one that is in it already.

    Args:
        index: FAISS graph, empty.
        vectors: FAISS index of the exact vectors.
        metric: how they are compared; not ``ip``, where the nearest need not be near.
        near: distance up to which rows are copies.
    """

    _EFFORT = 16  # of the search for a row's nearest among those added before
    _ADDED_ROWS = 1_024  # at a time; among themselves they are compared pair by pair

    def __init__(self, index: Any, vectors: Any, metric: Metric, near: float) -> None:
        self._index = index
        self._vectors = vectors
        self._metric = metric
        self._near = near
        self._rows = np.empty(0, np.int64)  # of the nodes, in order
        self._node_of = np.full(vectors.ntotal, -1, np.int64)

    def add(self, rows: Ints, report: Callable[[int], None]) -> None:
        """Add ``rows``, ascending; ``report`` is called with the number done."""
        for first in range(0, len(rows), self._ADDED_ROWS):
            self._add_block(rows[first : first + self._ADDED_ROWS])
            report(min(first + self._ADDED_ROWS, len(rows)))

    def finish(self) -> Ints:
        """Make nodes of the rows in small groups as well.

        Returns:
            The node of each row [N], -1 for rows that were not added.
        """
        counts = np.bincount(self._node_of[self._node_of >= 0], minlength=len(self._rows))
        few = np.append(counts < MIN_COPIES, False)[self._node_of]
        few[self._rows] = False  # nodes already
        own = np.flatnonzero(few)
        for first in range(0, len(own), _BLOCK_ROWS):
            self._index.add(self._vectors.reconstruct_batch(own[first : first + _BLOCK_ROWS]))
        self._node_of[own] = len(self._rows) + np.arange(len(own))
        return self._node_of

    def _add_block(self, block: Ints) -> None:
        vectors = self._vectors.reconstruct_batch(block)
        if len(self._rows):
            params = _faiss.SearchParametersHNSW(efSearch=self._EFFORT)
            nodes = self._index.search(vectors, 1, params=params)[1][:, 0]
            nearest = self._vectors.reconstruct_batch(self._rows[nodes])
            is_near = (nodes >= 0) & (distances(vectors, nearest, self._metric) <= self._near)
            self._node_of[block[is_near]] = nodes[is_near]
            block, vectors = block[~is_near], vectors[~is_near]
        copy_of = self._copies_within(vectors)
        is_new = copy_of < 0
        numbers = len(self._rows) + np.cumsum(is_new) - 1
        self._node_of[block] = np.where(is_new, numbers, numbers[copy_of])
        self._rows = np.concatenate([self._rows, block[is_new]])
        self._index.add(vectors[is_new])

    def _copies_within(self, vectors: NDArray[np.float32]) -> Ints:
        """For each of some vectors the first that it is near, [N]; -1: none before it."""
        copy_of = np.full(len(vectors), -1, np.int64)
        if self._metric == "l1":
            apart = faiss.pairwise_distances(vectors, vectors, metric=faiss.METRIC_L1)
        else:
            apart = np.sqrt(np.maximum(faiss.pairwise_distances(vectors, vectors), 0))
        near = np.tril(apart <= self._near, -1)
        for number in np.flatnonzero(near.any(axis=1)).tolist():
            firsts = np.flatnonzero(near[number] & (copy_of < 0))
            if len(firsts):
                copy_of[number] = firsts[0]
        return copy_of
