"""Boxes of a run compared with true boxes, frame by frame."""

from __future__ import annotations

import numpy as np
from scipy.optimize import linear_sum_assignment

from index.vectors import Floats, Ints
from tracks.association.costs import box_overlap
from tracks.association.frames import by_frame
from tracks.boxes import TrackBoxes

SAME_BOX = 0.5
"""Least IoU of a true box and a detection to be of the same individual."""

UNMATCHED = -1
_COMPARED_FRAMES = 200  # at most, spread over those of a run
_LEAST_GAIN = 0.01  # share of the overlap: less changes no score much
_SIGMAS = 4  # standard errors of a gain that boxes with noise may have


def match_boxes(frames: Ints, boxes: Floats, truth: TrackBoxes) -> Ints:
    """Match detections to true boxes, each at most once, for the largest total overlap.

    Args:
        frames: of N detections ``[N]``, never falling.
        boxes: of the detections, ``[N, 4]``.
        truth: M true boxes, by the same frame numbers.

    Returns:
        The true box of each detection, as its place in ``truth``, else ``UNMATCHED`` ``[N]``.
    """
    matches = np.full(len(frames), UNMATCHED, dtype=np.int64)
    order = np.argsort(truth.frames, kind="stable")
    for rows in by_frame(frames):
        frame = frames[rows.start]
        start, stop = np.searchsorted(truth.frames[order], [frame, frame + 1])
        true = order[start:stop]
        overlap = box_overlap(boxes[rows][:, None], truth.boxes[true][None])
        detection, matched = linear_sum_assignment(-np.where(overlap >= SAME_BOX, overlap, 0))
        same = overlap[detection, matched] >= SAME_BOX
        matches[rows.start + detection[same]] = true[matched[same]]
    return matches


def better_shift(frames: Ints, boxes: Floats, truth: TrackBoxes) -> int | None:
    """By how many frames a truth lies clearly better on the boxes of a run, if it is shifted.

    Tried are what lets both begin, or both end, together, and from the best on one frame earlier or
    later each. Two shifts are compared on the frames that have true boxes with both.

    Args:
        frames: of N boxes of the run ``[N]``, never falling.
        boxes: of the run, ``[N, 4]``.
        truth: true boxes, by the same frame numbers.

    Returns:
        What is to be taken from the truth's frame numbers; None where no shift is better.
    """
    if not len(frames):
        return None
    order = np.argsort(truth.frames, kind="stable")
    truth = TrackBoxes(truth.frames[order], truth.ids[order], truth.boxes[order])
    shift = 0
    for other in (int(truth.frames[0] - frames[0]), int(truth.frames[-1] - frames[-1])):
        if _clearly_better(frames, boxes, truth, other, shift):
            shift = other
    for step in (-1, 1):
        while _clearly_better(frames, boxes, truth, shift + step, shift):
            shift += step
    return shift or None


def _clearly_better(frames: Ints, boxes: Floats, truth: TrackBoxes, shift: int, than: int) -> bool:
    """Whether boxes overlap the true ones more with one shift than with another."""
    both = np.isin(frames + shift, truth.frames) & np.isin(frames + than, truth.frames)
    numbers = np.unique(frames[both])
    some = np.linspace(0, len(numbers) - 1, min(len(numbers), _COMPARED_FRAMES)).astype(np.int64)
    compared = np.isin(frames, numbers[some])
    if shift == than or not compared.any():
        return False
    with_shift, without = (
        _overlaps(frames[compared] + number, boxes[compared], truth) for number in (shift, than)
    )
    gain = with_shift - without
    uncertainty = _SIGMAS * gain.std() / np.sqrt(len(gain))
    return bool(gain.mean() > max(uncertainty, _LEAST_GAIN * without.mean()))


def _overlaps(frames: Ints, boxes: Floats, truth: TrackBoxes) -> Floats:
    """IoU of each box with the nearest true box of its frame, of which there is one ``[N]``."""
    nearest = []
    for rows in by_frame(frames):
        start, stop = np.searchsorted(truth.frames, [frames[rows.start], frames[rows.start] + 1])
        overlap = box_overlap(boxes[rows][:, None], truth.boxes[start:stop][None])
        nearest.append(overlap.max(axis=1))
    return np.concatenate(nearest)
