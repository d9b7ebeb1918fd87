"""A known number of individuals: tracks are joined until no more than so many are left."""

from __future__ import annotations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching

from index.vectors import Floats
from tracks.association.state import Bools
from tracks.offline.scores import Scores

FOLLOWERS = 64  # of the tracks that begin after the end of one, those that begin first
JOIN, TOO_MANY = (
    1e3,
    1e6,
)  # nats for a join, so that there are no more than needed, and for a track too many


def join_tracks(scores: Scores, count: int, kept: Bools, margin: Floats) -> None:
    """Set ``next`` and ``previous`` of ``scores`` so that, if possible, ``count`` tracks are left.

    Each track is followed by at most one of those that begin after its end, however long that is, and all joins
    together have the most evidence. Tracks that overlap in time stay apart.

    Args:
        scores: with the tracks that were found.
        count: of individuals.
        kept: which detections are in a track ``[N]``.
        margin: of the link to each ``[N]``, set where one is made: its evidence, which alone was not enough.
    """
    heads = np.flatnonzero((scores.next < 0) & kept)
    tails = np.flatnonzero((scores.previous < 0) & kept)
    total = len(tails)
    if total <= count:
        return
    step = scores.scene.step
    first = np.searchsorted(step[tails], step[heads], side="right")
    last = np.minimum(first + FOLLOWERS, total)
    head = np.repeat(np.arange(total), last - first)
    tail = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    # A track that follows none is the first of an individual, or one too many.
    begins = total + np.repeat(np.arange(count), total)
    tracks = np.arange(total)
    rows = np.r_[head, begins, total + count + tracks]
    columns = np.r_[tail, np.tile(tracks, count), tracks]
    worth = scores.links(heads[head], tails[tail])
    cost = np.r_[JOIN - worth, np.zeros(count * total), np.full(total, TOO_MANY)]
    # Every cost above 0, as 0 is no edge there; all tracks pay the same more.
    graph = coo_array((cost - cost.min() + 1, (rows, columns)), shape=(2 * total + count, total))
    before, after = min_weight_full_bipartite_matching(graph.tocsr())
    joined = before < total
    earlier, later = heads[before[joined]], tails[after[joined]]
    margin[later] = scores.links(earlier, later)
    scores.next[earlier], scores.previous[later] = later, earlier
