"""Which pairs become links, and how close each link was to another choice.

The optimal assignment picks the links that together save most against leaving both ends alone
at ``max_cost``. That is not the largest number of links: where a track has one certain
continuation, it is never traded for two doubtful ones.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from index.vectors import Floats, Ints
from tracks.association.options import Assignment


def assign(cost: Floats, *, max_cost: float, assignment: Assignment = "optimal") -> Ints:
    """Assign later detections to earlier ones.

    Args:
        cost: ``[M, N]``; infinite where a pair is ruled out.
        max_cost: pairs above it are never linked.
        assignment: as in ``LinkOptions``.

    Returns:
        The earlier detection that each later one continues, ``[N]``; -1 for none.
    """
    feasible = cost <= max_cost
    assigned = np.full(cost.shape[1], -1, dtype=np.int64)
    if not feasible.any():
        return assigned
    if assignment == "cheapest":
        cheapest = np.where(feasible, cost, np.inf).argmin(axis=0)
        return np.where(feasible.any(axis=0), cheapest, assigned)
    if assignment == "greedy":
        return _greedy(np.where(feasible, cost, np.inf), assigned)
    # A ruled-out pair costs what leaving both ends alone costs, and slightly more so that a
    # tie goes to a link. Any larger figure would break certain links to make more of them.
    rows, columns = linear_sum_assignment(np.where(feasible, cost, _unlinked_cost(max_cost)))
    kept = feasible[rows, columns]
    assigned[columns[kept]] = rows[kept]
    return assigned


def assign_sparse(pairs: tuple[Ints, Ints], cost: Floats, *, max_cost: float, later: int) -> Ints:
    """Optimal assignment where only the listed pairs may be linked; memory is that of the list.

    Every later detection has a private way to stay unlinked, which makes the matching complete,
    and its sum the one that ``assign`` minimises.

    Args:
        pairs: the earlier and the later detection of each pair, ``[P]`` each; no pair twice.
        cost: ``[P]``.
        max_cost: pairs above it are never linked.
        later: number of later detections.

    Returns:
        As ``assign``, ``[later]``.
    """
    assigned = np.full(later, -1, dtype=np.int64)
    feasible = cost <= max_cost
    if not feasible.any():
        return assigned
    earlier_used, column = np.unique(pairs[0][feasible], return_inverse=True)
    later_used, row = np.unique(pairs[1][feasible], return_inverse=True)
    unlinked = np.arange(len(later_used))
    # One more for every edge: a weight of 0 would be no edge. Each row takes exactly one.
    weights = np.r_[cost[feasible], np.full(len(later_used), _unlinked_cost(max_cost))] + 1
    rows, columns = np.r_[row, unlinked], np.r_[column, len(earlier_used) + unlinked]
    shape = (len(later_used), len(earlier_used) + len(later_used))
    graph = csr_array((weights, (rows, columns)), shape=shape)
    matched, partner = min_weight_full_bipartite_matching(graph)
    linked = partner < len(earlier_used)
    assigned[later_used[matched[linked]]] = earlier_used[partner[linked]]
    return assigned


def margins(
    pairs: tuple[Ints, Ints], cost: Floats, assigned: Ints, *, max_cost: float, earlier: int
) -> Floats:
    """How much more the next best choice costs for either end of each link.

    The next best choice is the cheapest other pair that has either end, or ending the link at
    ``max_cost``. A small margin is a doubtful link; below 0 an end had a cheaper partner that
    another link needed more.

    Args:
        pairs: (earlier, later), ``[P]`` each; none twice, and none at ``max_cost`` or less missing.
        cost: ``[P]``.
        assigned: the result of ``assign``, ``[N]``.
        max_cost: as given to ``assign``.
        earlier: number of earlier detections.

    Returns:
        ``[N]``; NaN where nothing is linked.
    """
    rows, columns = pairs
    linked = assigned[columns] == rows
    row_rival, column_rival = np.full(earlier, max_cost), np.full(len(assigned), max_cost)
    np.minimum.at(row_rival, rows[~linked], cost[~linked])
    np.minimum.at(column_rival, columns[~linked], cost[~linked])
    rows, columns = rows[linked], columns[linked]
    margin = np.full(len(assigned), np.nan)
    margin[columns] = np.minimum(row_rival[rows], column_rival[columns]) - cost[linked]
    return margin


def _unlinked_cost(max_cost: float) -> float:
    return max_cost + 1e-9 * (1.0 + max_cost)


def _greedy(cost: Floats, assigned: Ints) -> Ints:
    """The cheapest pair first, each end once.

    A pair that is the cheapest of both its ends is taken whatever the order, so all of these are
    taken at once, and the rest is examined again.
    """
    cost = cost.copy()
    while np.isfinite(cost).any():
        best_row = cost.argmin(axis=0)
        best_column = cost.argmin(axis=1)
        columns = np.flatnonzero(best_column[best_row] == np.arange(cost.shape[1]))
        columns = columns[np.isfinite(cost[best_row[columns], columns])]
        rows = best_row[columns]
        assigned[columns] = rows
        cost[rows] = np.inf
        cost[:, columns] = np.inf
    return assigned
