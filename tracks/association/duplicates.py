"""Boxes of one image that are of one individual: saved twice, or left by a weak suppression.

Detectors leave boxes a few pixels apart where their suppression is weak. Two individuals overlap
too, so where the boxes alone do not decide, the embeddings must nearly agree: crops of nearly the
same pixels look nearly the same. Measured with EfficientNet-Lite0 on four clips with identities
(people, guppies, courting flies, flies in tubes: 236,537 pairs of two individuals in one frame),
the nearest pair has an IoU of 0.84 at a cosine of 0.87, a side 8.5 pixels apart, and lacks 0.034
of the cosine that is asked for. Of true boxes whose sides were moved by up to 3 pixels, 99 % are
recognised, of those moved by 4 pixels 77 % (the others are in boxes of 30 pixels and less).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from index.vectors import Floats, Ints
from tracks.association.costs import box_overlap
from tracks.association.frames import by_frame
from tracks.association.linker import Links

SAME_IOU = 0.9
"""Least IoU of two boxes of one individual, whatever their embeddings."""

SAME_PX = 4.0
"""Most that the sides of two boxes of one individual are apart, whatever their embeddings; in pixels."""

_LEAST_IOU = 0.5  # of boxes that are within SAME_PX: small boxes may be of neighbours
# Between these IoUs the embeddings decide, by a least cosine that falls from the first to the last.
_LOOK_IOU, _LOOK_COSINE = (0.65, SAME_IOU), (0.98, 0.9)
_PAIRS_AT_ONCE = 1_000_000

EmbeddingsOf = Callable[[Ints], npt.NDArray[np.float32]]


def find_duplicates(
    frames: Ints,
    images: Ints,
    boxes: Floats,
    embeddings: EmbeddingsOf,
    scores: npt.NDArray[np.floating] | None = None,
) -> Ints:
    """The detection of which each one of a sequence is a duplicate, itself where it is none.

    Args:
        frames: frame number of each detection ``[N]``, never falling.
        images: number of its image ``[N]``; only boxes of one image can be duplicates.
        boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels.
        embeddings: gives those of detections at rising positions ``[R]``, all of one frame, as
            ``[R, D]`` of any scale. It is called where boxes alone do not decide.
        scores: of the detector ``[N]``, NaN for none. Of duplicates, the highest is kept, and the
            first of equals.

    Returns:
        Positions ``[N]``; a kept detection has its own.
    """
    kept = np.arange(len(frames))
    for frame in by_frame(frames):
        if frame.stop - frame.start < 2:
            continue
        rows = kept[frame]
        pairs = _same_individual(rows, images, boxes, embeddings)
        if len(pairs[0]):
            kept[frame] = frame.start + _representatives(
                pairs, None if scores is None else scores[frame], count=len(rows)
            )
    return kept


def expand_links(links: Links, kept: Ints) -> Links:
    """The links of all N detections, where only those that are no duplicates were linked.

    Args:
        links: of the detections that are no duplicates, in order.
        kept: as ``find_duplicates`` returns it ``[N]``.

    Returns:
        Links ``[N]``: a duplicate has the track and the position of the detection it repeats, and
        continues none.
    """
    linked = np.flatnonzero(kept == np.arange(len(kept)))
    source = np.searchsorted(linked, kept)
    whole = replace(Links.unlinked(len(kept)), others=links.others)
    whole.track[:], whole.position[:] = links.track[source], links.position[source]
    whole.previous[linked], whole.margin[linked] = links.previous, links.margin
    whole.cost[linked], whole.terms[linked] = links.cost, links.terms
    return whole


def _same_individual(
    rows: Ints, images: Ints, boxes: Floats, embeddings: EmbeddingsOf
) -> tuple[Ints, Ints]:
    """Pairs of places in the frame ``rows`` that are of one individual."""
    first, second, overlap = _overlapping(boxes[rows])
    same_image = images[rows[first]] == images[rows[second]]
    first, second, overlap = first[same_image], second[same_image], overlap[same_image]
    apart = np.abs(boxes[rows[first]] - boxes[rows[second]]).max(axis=1, initial=0)
    same = (overlap >= SAME_IOU) | (apart <= SAME_PX)
    doubtful = np.flatnonzero(~same & (overlap >= _LOOK_IOU[0]))
    if len(doubtful):
        places, ends = np.unique([first[doubtful], second[doubtful]], return_inverse=True)
        vectors = embeddings(rows[places]).astype(np.float64)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        one, other = ends.reshape(2, -1)
        cosine = np.einsum("pd,pd->p", vectors[one], vectors[other])
        same[doubtful] = cosine >= np.interp(overlap[doubtful], _LOOK_IOU, _LOOK_COSINE)
    return first[same], second[same]


def _overlapping(boxes: Floats) -> tuple[Ints, Ints, Floats]:
    """Pairs of boxes of at least the least IoU, as (earlier, later, IoU), ``[P]`` each."""
    count = len(boxes)
    step = max(1, _PAIRS_AT_ONCE // count)
    parts = []
    for start in range(0, count, step):
        # An IoU of a half needs left sides no more than half of the wider box apart.
        left, width = boxes[:, 0], boxes[:, 2] - boxes[:, 0]
        some = slice(start, start + step)
        near = np.abs(left[some, None] - left) <= np.maximum(width[some, None], width) / 2
        first, second = np.nonzero(near)
        first += start
        later = first < second
        first, second = first[later], second[later]
        overlap = box_overlap(boxes[first], boxes[second])
        enough = overlap >= _LEAST_IOU
        parts.append((first[enough], second[enough], overlap[enough]))
    first, second, overlap = (np.concatenate(column) for column in zip(*parts, strict=True))
    return first, second, overlap


def _representatives(
    pairs: tuple[Ints, Ints], scores: npt.NDArray[np.floating] | None, *, count: int
) -> Ints:
    """The kept one of each of ``count`` detections, of which ``pairs`` are of one individual."""
    graph = coo_array((np.ones(len(pairs[0]), dtype=bool), pairs), shape=(count, count))
    groups, group = connected_components(graph, directed=False)
    rank = np.zeros(count) if scores is None else -np.nan_to_num(scores, nan=-np.inf)
    best_first = np.argsort(rank, kind="stable")
    kept = np.empty(groups, dtype=np.int64)
    kept[group[best_first[::-1]]] = best_first[::-1]
    return kept[group]
