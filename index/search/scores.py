"""Exact scores of candidates, and the order of hits: by score, equal scores by row number.

A score is computed pair by pair, never by a product of matrices, whose rounding depends on how
many queries come together: the same query and row have the same score in every search.
"""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from index.config import Metric
from index.metrics import higher_is_nearer
from index.search.nodes import Nodes

_faiss: Any = faiss

Neighbors = tuple[NDArray[np.float32], NDArray[np.int64]]
"""FAISS's values and row numbers, [Q, k] each, nearest first; row -1 where there are fewer."""

_PADDED_VALUES = 4_000_000  # candidates scored at once, where queries have very different numbers


def all_found(rows: NDArray[np.int64]) -> bool:
    """Whether no query has fewer than wanted: then the last of its row [Q, C] is -1."""
    if len(rows) == 1 and rows.size:  # a quarter of the time of the general case
        return bool(rows[0, -1] >= 0)
    return rows.size == 0 or bool(rows[:, -1].min() >= 0)


def score_rows(
    store: Any,
    metric: Metric,
    queries: NDArray[np.float32],
    rows: NDArray[np.int64],
    *,
    complete: bool = False,
) -> NDArray[np.float32]:
    """FAISS's values of pairs, [Q, C]; the worst of all where the row is -1.

    Args:
        store: FAISS index of the exact vectors.
        metric: how they are compared.
        queries: [Q, D] float32, prepared for the metric, contiguous.
        rows: [Q, C] row numbers.
        complete: none of them is -1.
    """
    values = np.empty(rows.shape, np.float32)
    rows = np.ascontiguousarray(rows)
    if metric == "l1":  # FAISS computes no single pairs of it
        for query, own, out in zip(queries, rows, values, strict=True):
            vectors = store.reconstruct_batch(np.maximum(own, 0))
            out[:] = np.abs(vectors - query).sum(axis=1, dtype=np.float64)
    elif rows.size:
        store.compute_distance_subset(
            len(queries),
            _faiss.swig_ptr(queries),
            rows.shape[1],
            _faiss.swig_ptr(values),
            _faiss.swig_ptr(rows),
        )
    if not complete and rows.size and rows.min() < 0:
        values[rows < 0] = -np.inf if higher_is_nearer(metric) else np.inf
    return values


def sort_hits(
    values: NDArray[np.float32], rows: NDArray[np.int64], metric: Metric, k: int
) -> Neighbors:
    """The ``k`` nearest of each query, [Q, min(k, C)]; equal values by row number.

    Args:
        values: [Q, C] of ``score_rows``.
        rows: [Q, C] row numbers, each once per query.
        metric: that of the values.
        k: hits to return.
    """
    signed = -values if higher_is_nearer(metric) else values
    if len(values) == 1:  # a third of the time of the general case
        first = np.lexsort((rows[0], signed[0]))[:k]
        return values[0][first][None], rows[0][first][None]
    order = np.lexsort((rows, signed), axis=-1)[:, :k]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(rows, order, axis=1)


def nearest_of_nodes(
    store: Any,
    metric: Metric,
    nodes: Nodes,
    queries: NDArray[np.float32],
    found: NDArray[np.int64],
    k: int,
    mask: NDArray[np.bool_] | None,
) -> Neighbors:
    """The ``k`` nearest rows among those of some nodes, [Q, k]; row -1 where there are fewer.

    Args:
        store: FAISS index of the exact vectors.
        metric: how they are compared.
        nodes: of the index.
        queries: [Q, D] float32, prepared for the metric.
        found: [Q, C] nodes; -1: none.
        k: hits of each query.
        mask: bool [N], the rows that may be hits; None: all.
    """
    complete = all_found(found)
    first_rows = nodes.first[found] if complete else np.where(found < 0, -1, nodes.first[found])
    first_values = score_rows(store, metric, queries, first_rows, complete=complete)
    values, rows = first_values, first_rows
    if mask is not None:
        values, rows = _drop(values, rows, ~mask[rows], metric)
    hits = _padded(*sort_hits(values, rows, metric, k), metric, k)
    if not nodes.has_copies:
        return hits
    near = _near_groups(first_values, metric, nodes, queries, found, hits[0][:, -1])
    if not len(near):
        return hits
    near_query, near_node = near // found.shape[1], found.ravel()[near]
    sizes = nodes.counts[near_node] - 1  # without the first row
    if mask is None:  # of equal rows only the first k can be hits
        sizes = np.where(nodes.radius[near_node] == 0, np.minimum(sizes, k - 1), sizes)
    totals = np.bincount(near_query, sizes, len(queries)).astype(np.int64)
    order = np.argsort(totals, kind="stable")
    order = order[np.searchsorted(totals[order], 1) :]
    start = 0
    while start < len(order):
        stop = start + 1
        while stop < len(order) and totals[order[stop]] * (stop + 1 - start) <= _PADDED_VALUES:
            stop += 1
        part = np.sort(order[start:stop])
        own = np.isin(near_query, part)
        more = _members(nodes, near_node[own], sizes[own], totals[part], mask)
        more_values = score_rows(store, metric, np.ascontiguousarray(queries[part]), more)
        merged = sort_hits(
            np.hstack([values[part], more_values]), np.hstack([rows[part], more]), metric, k
        )
        hits[0][part], hits[1][part] = _padded(*merged, metric, k)
        start = stop
    return hits


def _near_groups(
    values: NDArray[np.float32],
    metric: Metric,
    nodes: Nodes,
    queries: NDArray[np.float32],
    found: NDArray[np.int64],
    worst: NDArray[np.float32],
) -> NDArray[np.int64]:
    """Positions in ``found``, flat, of nodes with a row beside the first that may be a hit.

    By the triangle inequality: no row of a node is nearer than its first by more than the radius.

    Args:
        values: [Q, C] FAISS's, of the first row of each node.
        metric: that of the values.
        nodes: of the index.
        queries: [Q, D] float32.
        found: [Q, C] nodes; -1: none.
        worst: [Q] value of the last hit among the first rows.
    """
    flat = found.ravel()
    grouped = np.flatnonzero(nodes.is_group[flat])
    if not len(grouped):
        return grouped
    node, value, query = flat[grouped], values.ravel()[grouped], grouped // found.shape[1]
    radius = nodes.radius[node] * np.float32(1.0001)  # rounding
    worst = worst[query]
    margin = 1e-6 * np.where(np.isfinite(worst), np.abs(worst), 0)
    if higher_is_nearer(metric):
        own = queries[query]
        near = value + radius * np.sqrt(np.einsum("ij,ij->i", own, own)) >= worst - margin
    elif metric == "l2":  # the values are squares
        near = np.maximum(np.sqrt(np.maximum(value, 0)) - radius, 0) ** 2 <= worst + margin
    else:
        near = value - radius <= worst + margin
    positions: NDArray[np.int64] = grouped[near & (node >= 0)]
    return positions


def _members(
    nodes: Nodes,
    near: NDArray[np.int64],
    sizes: NDArray[np.int64],
    totals: NDArray[np.int64],
    mask: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """Rows of some nodes without the first of each, [Q, W]; -1 where a query has fewer.

    Args:
        nodes: of the index.
        near: [G] nodes, those of the first query first.
        sizes: [G] rows to take of each.
        totals: [Q] the sum of ``sizes`` of each query.
        mask: bool [N], the rows that may be hits; None: all.
    """
    members = np.full((len(totals), int(totals.max())), -1, np.int64)
    within = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    picked = nodes.rows[np.repeat(nodes.starts[near] + 1, sizes) + within]
    if mask is not None:
        picked = np.where(mask[picked], picked, -1)
    members[np.arange(members.shape[1]) < totals[:, None]] = picked
    return members


def _drop(
    values: NDArray[np.float32],
    rows: NDArray[np.int64],
    dropped: NDArray[np.bool_],
    metric: Metric,
) -> Neighbors:
    """The same with row -1 and the worst value where ``dropped``."""
    worst = np.float32(-np.inf if higher_is_nearer(metric) else np.inf)
    return np.where(dropped, worst, values), np.where(dropped, -1, rows)


def _padded(
    values: NDArray[np.float32], rows: NDArray[np.int64], metric: Metric, k: int
) -> Neighbors:
    missing = k - rows.shape[1]
    if missing <= 0:
        return values, rows
    worst = -np.inf if higher_is_nearer(metric) else np.inf
    return (
        np.pad(values, ((0, 0), (0, missing)), constant_values=worst),
        np.pad(rows, ((0, 0), (0, missing)), constant_values=-1),
    )
