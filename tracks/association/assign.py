"""Which pairs become links, and how near each link was to another choice.

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
    """The earlier detection each later one continues: ``[N]``, -1 for none.

    Args:
        cost: ``[M, N]``; infinite where a pair is ruled out.
        max_cost: pairs above it are never linked.
        assignment: as in ``LinkOptions``.
    """
    feasible = cost <= max_cost
    chosen = np.full(cost.shape[1], -1, dtype=np.int64)
    if not feasible.any():
        return chosen
    if assignment == "cheapest":
        found = feasible.any(axis=0)
        chosen[found] = np.where(feasible, cost, np.inf).argmin(axis=0)[found]
        return chosen
    if assignment == "greedy":
        return _greedy(np.where(feasible, cost, np.inf), chosen)
    # A ruled-out pair costs what leaving both ends alone costs, and a hair more so that a
    # tie goes to a link. Any larger figure would break certain links to make more of them.
    rows, columns = linear_sum_assignment(np.where(feasible, cost, _unlinked_cost(max_cost)))
    kept = feasible[rows, columns]
    chosen[columns[kept]] = rows[kept]
    return chosen


def assign_sparse(pairs: tuple[Ints, Ints], cost: Floats, *, max_cost: float, later: int) -> Ints:
    """The optimal assignment where only the listed ``pairs`` (earlier, later) may be linked.

    Memory is that of the list. Every later detection has a private way to stay alone, which
    makes the matching complete, and its sum what ``assign`` minimises.

    Args:
        pairs: of each pair the earlier and the later detection, ``[P]`` each; none twice.
        cost: ``[P]``.
        max_cost: pairs above it are never linked.
        later: how many later detections there are.

    Returns:
        As ``assign``, ``[later]``.
    """
    chosen = np.full(later, -1, dtype=np.int64)
    feasible = cost <= max_cost
    if not feasible.any():
        return chosen
    used, one = np.unique(pairs[0][feasible], return_inverse=True)
    here, two = np.unique(pairs[1][feasible], return_inverse=True)
    # One more for every edge: a weight of 0 would be no edge. Each row takes exactly one.
    weights = np.r_[cost[feasible], np.full(len(here), _unlinked_cost(max_cost))] + 1
    rows = np.r_[two, np.arange(len(here))]
    columns = np.r_[one, len(used) + np.arange(len(here))]
    graph = csr_array((weights, (rows, columns)), shape=(len(here), len(used) + len(here)))
    matched, partner = min_weight_full_bipartite_matching(graph)
    linked = partner < len(used)
    chosen[here[matched[linked]]] = used[partner[linked]]
    return chosen


def margins(
    pairs: tuple[Ints, Ints], cost: Floats, chosen: Ints, *, max_cost: float, earlier: int
) -> Floats:
    """How much dearer the next best choice was for either end of each link, ``[N]``.

    The next best choice is the cheapest other pair that has either end, or ending the link at
    ``max_cost``. A small margin is a doubtful link; below 0 an end had a cheaper partner, that
    another link needed more. NaN where nothing is linked.

    Args:
        pairs: (earlier, later), ``[P]`` each; none twice, and none at ``max_cost`` or less missing.
        cost: ``[P]``.
        chosen: what ``assign`` returned.
        max_cost: as given to ``assign``.
        earlier: how many earlier detections there are.
    """
    one, two = pairs
    linked = chosen[two] == one
    by_one, by_two = np.full(earlier, max_cost), np.full(len(chosen), max_cost)
    np.minimum.at(by_one, one[~linked], cost[~linked])
    np.minimum.at(by_two, two[~linked], cost[~linked])
    best = np.full(len(chosen), np.nan)
    best[two[linked]] = np.minimum(by_one[one[linked]], by_two[two[linked]]) - cost[linked]
    return best


def _unlinked_cost(max_cost: float) -> float:
    return max_cost + 1e-9 * (1.0 + max_cost)


def _greedy(cost: Floats, chosen: Ints) -> Ints:
    """The cheapest pair first, each end once.

    A pair that is the cheapest of both its ends is taken in any order of going through them,
    so all of these are taken at once, and the rest is looked at again.
    """
    cost = cost.copy()
    while np.isfinite(cost).any():
        best_row = cost.argmin(axis=0)
        best_column = cost.argmin(axis=1)
        columns = np.flatnonzero(best_column[best_row] == np.arange(cost.shape[1]))
        columns = columns[np.isfinite(cost[best_row[columns], columns])]
        rows = best_row[columns]
        chosen[columns] = rows
        cost[rows] = np.inf
        cost[:, columns] = np.inf
    return chosen
