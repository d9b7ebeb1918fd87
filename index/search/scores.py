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
    rows = nodes.first[found] if complete else np.where(found < 0, -1, nodes.first[found])
    values = score_rows(store, metric, queries, rows, complete=complete)
    if mask is None and not nodes.has_copies and rows.shape[1] >= k:
        return sort_hits(values, rows, metric, k)
    grouped = (nodes.counts[found] > 1) & (found >= 0) if nodes.has_copies else None
    if grouped is None or not grouped.any():
        if mask is not None:
            values, rows = _drop(values, rows, ~mask[rows], metric)
        return _padded(*sort_hits(values, rows, metric, k), metric, k)
    near = grouped & _may_be_hits(values, metric, nodes, queries, found, rows, k, mask)
    if mask is not None:
        values, rows = _drop(values, rows, ~mask[rows], metric)
    all_values = np.full((len(queries), k), -np.inf if higher_is_nearer(metric) else np.inf, "f4")
    all_rows = np.full((len(queries), k), -1, np.int64)
    widths = np.where(near, np.minimum(nodes.counts[found], _most(nodes, found, mask, k)), 0)
    order = np.argsort(widths.sum(axis=1), kind="stable")
    total = widths.sum(axis=1)[order]
    first = 0
    while first < len(order):
        last = first + 1
        while last < len(order) and total[last] * (last + 1 - first) <= _PADDED_VALUES:
            last += 1
        part = order[first:last]
        more = _members(nodes, found[part], near[part], widths[part], rows[part], mask)
        more_values = score_rows(store, metric, np.ascontiguousarray(queries[part]), more)
        merged = sort_hits(
            np.hstack([values[part], more_values]), np.hstack([rows[part], more]), metric, k
        )
        all_values[part], all_rows[part] = _padded(*merged, metric, k)
        first = last
    return all_values, all_rows


def _most(
    nodes: Nodes, found: NDArray[np.int64], mask: NDArray[np.bool_] | None, k: int
) -> NDArray[np.int64]:
    """Rows of each node that can be hits: of equal ones only the first ``k``."""
    everything = np.iinfo(np.int64).max
    if mask is not None:
        return np.full(found.shape, everything)
    return np.where(nodes.radius[found] == 0, k, everything)


def _may_be_hits(
    values: NDArray[np.float32],
    metric: Metric,
    nodes: Nodes,
    queries: NDArray[np.float32],
    found: NDArray[np.int64],
    rows: NDArray[np.int64],
    k: int,
    mask: NDArray[np.bool_] | None,
) -> NDArray[np.bool_]:
    """Whether a row of a node may be among the k nearest, by the triangle inequality, [Q, C]."""
    known = values
    if mask is not None:  # the first row of a node says how near it is, even if it cannot be a hit
        known = _drop(values, rows, ~mask[rows], metric)[0]
    higher = higher_is_nearer(metric)
    sign = -1.0 if higher else 1.0
    if known.shape[1] < k:
        return np.ones(found.shape, bool)
    worst = np.partition(sign * known, k - 1, axis=1)[:, k - 1]
    radius = nodes.radius[found] * np.float32(1.0001)  # rounding
    if higher:
        lengths = np.sqrt(np.einsum("ij,ij->i", queries, queries))[:, None]
        best = -(values + radius * lengths)
    elif metric == "l2":  # the values are squares
        best = np.maximum(np.sqrt(np.maximum(values, 0)) - radius, 0) ** 2
    else:
        best = np.maximum(values - radius, 0)
    return np.asarray(best <= (worst + 1e-6 * np.abs(worst))[:, None])


def _members(
    nodes: Nodes,
    found: NDArray[np.int64],
    near: NDArray[np.bool_],
    widths: NDArray[np.int64],
    first_rows: NDArray[np.int64],
    mask: NDArray[np.bool_] | None,
) -> NDArray[np.int64]:
    """Rows of the near nodes, without the first of each, [Q, W]; -1 where a query has fewer."""
    sizes = np.where(near, np.maximum(widths - 1, 0), 0)
    totals = sizes.sum(axis=1)
    members = np.full((len(found), max(1, int(totals.max()))), -1, np.int64)
    flat = sizes.ravel()
    within = np.arange(flat.sum()) - np.repeat(np.cumsum(flat) - flat, flat)
    picked = nodes.rows[np.repeat(nodes.starts[found.ravel()] + 1, flat) + within]
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
