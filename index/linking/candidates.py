"""Pairs worth comparing, where two frames hold too many to compare all.

A link is cheap because the two look alike or because they stand at the same place, so each
detection is compared with the tracks nearest to it in either sense. Nearest in looks is asked of
a FAISS index over what the open tracks remember. These are the rows in the time window, by
definition; a built index holds the rows of all times, and not what a track remembers.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from index.linking.state import OpenTracks

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

MAX_PAIRS = 4_000_000
"""Two thousand detections in each of two frames: 32 MiB for each of ten arrays of costs."""

NEAREST = 32
"""Of each kind."""


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
    found = np.hstack([np.asarray(near, dtype=np.int64), _alike(tracks, looks, count)])
    detections = np.repeat(np.arange(len(boxes)), found.shape[1])
    flat = found.ravel()
    known = flat >= 0
    pairs = np.unique(detections[known] * len(tracks) + flat[known])
    return pairs % len(tracks), pairs // len(tracks)


def _alike(tracks: OpenTracks, looks: npt.NDArray[np.float32], count: int) -> Ints:
    """Nearest in cosine among all the looks that the tracks keep, by exact search in blocks."""
    import faiss

    kept = tracks.looks.shape[1]
    filled = tracks.looks.any(axis=2)
    owners = np.nonzero(filled)[0]
    index = faiss.IndexFlatIP(looks.shape[1])
    index.add(_unit(tracks.looks[filled]))
    # A track stands once for each of its looks, so as many more are asked for.
    _, slots = index.search(_unit(looks), min(count * kept, len(owners)))
    positions: Ints = owners[slots]
    return positions


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    unit: npt.NDArray[np.float32] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(unit, dtype=np.float32)
