"""Between the open tracks and the detections of one frame: which are linked, and how surely.

Where there are too many pairs to compare all, each detection is compared with the tracks nearest to
it by embedding or by position: a cheap link is near in one of them. Nearest by embedding is
searched in a FAISS index over the embeddings that the open tracks hold. A built index cannot answer
that: it holds the rows of all times, and not the averages of tracks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from index.vectors import Floats, Ints
from tracks.association.assign import assign, assign_sparse, margins
from tracks.association.costs import cost_terms
from tracks.association.options import LinkOptions
from tracks.association.state import OpenTracks

MAX_PAIRS = 4_000_000
"""Two thousand detections in each of two frames: 32 MiB for each of ten arrays of costs."""

NEAREST = 32
"""Candidates of each kind for one detection."""


class Decision(NamedTuple):
    """L links.

    Attributes:
        earlier: position of the track of each link ``[L]``.
        later: position of its detection ``[L]``.
        cost: ``[L]``.
        terms: ``[L, 4]``, unweighted, in the order of ``TERMS``.
        margin: ``[L]``, as in ``assign.margins``.
    """

    earlier: Ints
    later: Ints
    cost: Floats
    terms: Floats
    margin: Floats


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
