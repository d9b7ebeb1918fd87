"""Between the open tracks and the detections of one frame: which are linked, and how surely.

Where there are too many pairs to compare all, a link is cheap because the two look alike or because
they stand at the same place, so each detection is compared with the tracks nearest to it in either
sense. Nearest in looks is asked of a FAISS index over what the open tracks remember. These are the
rows in the time window, by definition; a built index holds the rows of all times, and not what a
track remembers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from index.vectors import Floats, Ints
from tracks.association.assign import assign, assign_sparse, margins
from tracks.association.costs import cost_terms, cost_terms_of_pairs
from tracks.association.options import LinkOptions
from tracks.association.state import OpenTracks

MAX_PAIRS = 4_000_000
"""Two thousand detections in each of two frames: 32 MiB for each of ten arrays of costs."""

NEAREST = 32
"""Of each kind."""


class Decision(NamedTuple):
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
) -> Decision:
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
        later, earlier = np.nonzero((cost <= limit).T)
        at: tuple[Ints, ...] = (earlier, later)
        cost = cost[at]
    else:
        earlier, later = pairs = candidates(tracks, boxes, looks)
        costs = cost_terms_of_pairs(pairs, *sides, diagonal_px=diagonal_px, weights=options.weights)
        cost = costs.total
        if gate is not None:
            cost = np.where(tracks.within_reach(boxes, steps, gate, pairs), cost, np.inf)
        chosen = assign_sparse(pairs, cost, max_cost=limit, later=len(boxes))
        at = (np.arange(len(cost)),)
    margin = margins((earlier, later), cost, chosen, max_cost=limit, earlier=len(tracks))
    linked = np.flatnonzero(chosen[later] == earlier)
    at = tuple(places[linked] for places in at)
    terms = np.stack([term[at] for term in costs[:-1]], axis=-1)
    earlier, later = earlier[linked], later[linked]
    return Decision(earlier, later, cost[linked], terms, margin[later])


def candidates(
    tracks: OpenTracks,
    boxes: Floats,
    looks: npt.NDArray[np.float32],
) -> tuple[Ints, Ints]:
    """Pairs (track, detection) that are among the nearest in looks or in place, none twice.

    Args:
        tracks: M open tracks.
        boxes: of the detections, ``[N, 4]``.
        looks: of the detections, ``[N, D]`` L1-normalised.
    """
    count = min(NEAREST, len(tracks))
    centres = (tracks.box[:, :2] + tracks.box[:, 2:]) / 2
    _, near = cKDTree(centres).query((boxes[:, :2] + boxes[:, 2:]) / 2, k=range(1, count + 1))
    found = np.hstack(
        [np.asarray(near, dtype=np.int64), _nearest_by_embedding(tracks, looks, count)]
    )
    detections = np.repeat(np.arange(len(boxes)), found.shape[1])
    flat = found.ravel()
    known = flat >= 0
    pairs = np.unique(detections[known] * len(tracks) + flat[known])
    return pairs % len(tracks), pairs // len(tracks)


def _nearest_by_embedding(tracks: OpenTracks, looks: npt.NDArray[np.float32], count: int) -> Ints:
    """Nearest in cosine among all the looks that the tracks keep, by exact search in blocks."""
    import faiss

    kept = tracks.looks.shape[1]
    filled = tracks.looks.any(axis=2)
    owners = np.nonzero(filled)[0]
    index = faiss.IndexFlatIP(looks.shape[1])
    index.add(_unit_vectors(tracks.looks[filled]))
    # A track stands once for each of its looks, so as many more are asked for.
    _, slots = index.search(_unit_vectors(looks), min(count * kept, len(owners)))
    positions: Ints = owners[slots]
    return positions


def _unit_vectors(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(unit, dtype=np.float32)
