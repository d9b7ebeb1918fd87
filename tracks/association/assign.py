"""Between the open tracks and the detections of one frame: which pairs become links, how surely.

The optimal assignment picks the links that together save most against leaving both ends alone
at ``max_cost``. That is not the largest number of links: where a track has one certain
continuation, it is never traded for two doubtful ones.

Where there are too many pairs to compare all, each detection is compared with the tracks nearest to
it by embedding or by position: a cheap link is near in one of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from scipy.spatial import cKDTree

from index.vectors import Floats, Ints
from tracks.association.costs import cost_terms
from tracks.association.options import Assignment, LinkOptions
from tracks.association.state import OpenTracks

MAX_PAIRS = 4_000_000
"""Two thousand detections in each of two frames: 32 MiB for each of ten arrays of costs."""

NEAREST = 32
"""Candidates of each kind for one detection."""


class Decision(NamedTuple):
    """L links."""

    earlier: Ints  # position of the track of each link [L]
    later: Ints  # position of its detection [L]
    cost: Floats  # [L]
    terms: Floats  # [L, 4], unweighted, in the order of TERMS
    margin: Floats  # [L], as of margins


def decide(
    tracks: OpenTracks,
    boxes: Floats,
    embeddings: npt.NDArray[np.float32],
    *,
    steps: Floats,
    diagonal_px: float,
    options: LinkOptions,
    max_pairs: int,
) -> Decision:
    """Link M tracks and N detections of one frame.

    Args:
        tracks: M of them.
        boxes: ``[N, 4]`` in pixels.
        embeddings: ``[N, D]`` L1-normalised.
        steps: frame steps since each track's last detection ``[M]``.
        diagonal_px: of the image, in pixels.
        options: weights, gate, limit, assignment.
        max_pairs: up to this many, all pairs are compared; where there are more and the
            assignment is optimal, the ``candidates``.
    """
    gate, limit = options.motion_gate, options.max_cost
    pairs = None
    if len(tracks) * len(boxes) > max_pairs and options.assignment == "optimal":
        pairs = candidates(tracks, boxes, embeddings)
    costs = cost_terms(
        tracks.embeddings,
        tracks.box,
        embeddings,
        boxes,
        diagonal_px=diagonal_px,
        weights=options.weights,
        pairs=pairs,
    )
    cost = costs.total
    if gate is not None:
        cost = np.where(tracks.within_gate(boxes, steps, gate, pairs), cost, np.inf)
    if pairs is None:
        assigned = assign(cost, max_cost=limit, assignment=options.assignment)
        later, earlier = np.nonzero((cost <= limit).T)
        positions: tuple[Ints, ...] = (earlier, later)
        cost = cost[positions]
    else:
        assigned = assign_sparse(pairs, cost, max_cost=limit, later=len(boxes))
        earlier, later = pairs
        positions = (np.arange(len(cost)),)
    margin = margins((earlier, later), cost, assigned, max_cost=limit, earlier=len(tracks))
    linked = np.flatnonzero(assigned[later] == earlier)
    positions = tuple(axis[linked] for axis in positions)
    terms = np.stack([term[positions] for term in costs[:-1]], axis=-1)
    earlier, later = earlier[linked], later[linked]
    return Decision(earlier, later, cost[linked], terms, margin[later])


def candidates(
    tracks: OpenTracks, boxes: Floats, embeddings: npt.NDArray[np.float32]
) -> tuple[Ints, Ints]:
    """Pairs that are among the nearest by embedding or by position, none twice.

    Args:
        tracks: M open tracks.
        boxes: of the detections, ``[N, 4]``.
        embeddings: of the detections, ``[N, D]`` L1-normalised.

    Returns:
        Positions of the tracks and of the detections.
    """
    count = min(NEAREST, len(tracks))
    centres = (tracks.box[:, :2] + tracks.box[:, 2:]) / 2
    _, near = cKDTree(centres).query((boxes[:, :2] + boxes[:, 2:]) / 2, k=range(1, count + 1))
    similar = _nearest_by_embedding(tracks, embeddings, count)
    nearest = np.hstack([np.asarray(near, dtype=np.int64), similar])
    detections = np.repeat(np.arange(len(boxes)), nearest.shape[1])
    positions = nearest.ravel()
    valid = positions >= 0
    pairs = np.unique(detections[valid] * len(tracks) + positions[valid])
    return pairs % len(tracks), pairs // len(tracks)


def _nearest_by_embedding(
    tracks: OpenTracks, embeddings: npt.NDArray[np.float32], count: int
) -> Ints:
    """Nearest in cosine among all embeddings that the tracks hold, by exact search in blocks."""
    import faiss  # late: few frames have so many pairs

    filled = tracks.appearance.any(axis=2)
    owners = np.nonzero(filled)[0]
    index = faiss.IndexFlatIP(embeddings.shape[1])
    index.add(_unit_vectors(tracks.appearance[filled]))
    # A track occurs once for each of its embeddings, so as many more are searched.
    slots = min(count * tracks.appearance.shape[1], len(owners))
    _, rows = index.search(_unit_vectors(embeddings), slots)
    positions: Ints = owners[rows]
    return positions


def _unit_vectors(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(unit, dtype=np.float32)


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
