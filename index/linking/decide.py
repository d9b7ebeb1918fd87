"""Between the open tracks and the detections of one frame: which are linked, and how surely."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index.linking.assign import assign, assign_listed, margins, margins_listed
from index.linking.candidates import candidates
from index.linking.costs import PairCosts, cost_terms, cost_terms_of
from index.linking.options import LinkOptions
from index.linking.state import OpenTracks

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Decided(NamedTuple):
    """L links.

    ``earlier`` and ``later`` are positions of tracks and of detections; ``cost`` and ``margin``
    are ``[L]``, ``terms`` ``[L, 4]``.
    """

    earlier: Ints
    later: Ints
    cost: Floats
    terms: Floats
    margin: Floats


def decide(
    tracks: OpenTracks,
    boxes: Floats,
    looks: npt.NDArray[np.float32],
    *,
    steps: Floats,
    diagonal_px: float,
    options: LinkOptions,
    max_pairs: int,
) -> Decided:
    """Link M tracks and N detections of one frame.

    Args:
        tracks: M of them.
        boxes: ``[N, 4]`` in pixels.
        looks: ``[N, D]`` L1-normalised.
        steps: frame steps since each track's last detection ``[M]``.
        diagonal_px: of the image.
        options: weights, gate, limit, assignment.
        max_pairs: up to so many all pairs are compared; of more, where the assignment is
            optimal, the ``candidates``.
    """
    sides = (tracks.remembered, tracks.box, looks, boxes)
    gate, limit = options.motion_gate, options.max_cost
    if len(tracks) * len(boxes) <= max_pairs or options.assignment != "optimal":
        costs = cost_terms(*sides, diagonal_px=diagonal_px, weights=options.weights)
        cost = costs.total
        if gate is not None:
            cost = np.where(tracks.within_reach(boxes, steps, gate), cost, np.inf)
        chosen = assign(cost, max_cost=limit, assignment=options.assignment)
        later = np.flatnonzero(chosen >= 0)
        earlier = chosen[later]
        margin = margins(cost, chosen, max_cost=limit)
        at: tuple[Ints, ...] = (earlier, later)
    else:
        pairs = candidates(tracks, boxes, looks)
        costs = cost_terms_of(pairs, *sides, diagonal_px=diagonal_px, weights=options.weights)
        cost = costs.total
        if gate is not None:
            cost = np.where(tracks.within_reach(boxes, steps, gate, pairs), cost, np.inf)
        chosen = assign_listed(pairs, cost, max_cost=limit, later=len(boxes))
        linked = np.flatnonzero(chosen[pairs[1]] == pairs[0])
        earlier, later = pairs[0][linked], pairs[1][linked]
        margin = margins_listed(pairs, cost, chosen, max_cost=limit, earlier=len(tracks))
        at = (linked,)
    return Decided(earlier, later, cost[at], _terms(costs, at), margin[later])


def _terms(costs: PairCosts, at: tuple[Ints, ...]) -> Floats:
    return np.stack([term[at] for term in costs[:-1]], axis=-1)
