"""How well tracks match the true identities: HOTA, IDF1, MOTA, switches.

The scores come from ``trackers.eval``, which repeats TrackEval, the official evaluation of
MOTChallenge, number by number; here arrays are only brought into its form. It is imported when
the first score is needed, since it loads a plotting stack.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from common.extras import optional
from index.vectors import Floats, Ints
from tracks.boxes import TrackBoxes


@dataclass(frozen=True)
class Scores:
    """Scores of an evaluation. Shares are 0 to 1; MOTA can be below 0."""

    # Of Luiten et al. 2021, averaged over IoU thresholds 0.05 to 0.95: detection and association
    # in one number.
    hota: float
    det_a: float  # its detection accuracy alone
    ass_a: float  # its association accuracy alone
    idf1: float  # share of boxes with the right identity, each individual matched to one track
    mota: float  # 1 minus misses, false boxes and switches per true box
    switches: int  # times that an individual continues in another track (IoU of 0.5)
    fragmentations: int  # times that an individual is found again after it was missed
    frames: int  # evaluated frames
    truth_boxes: int  # true boxes in these frames
    truth_tracks: int  # individuals in these frames
    boxes: int  # boxes of the run in these frames
    tracks: int  # tracks of the run in these frames
    missed: int  # true boxes without a box of the run
    false: int  # boxes of the run without a true box


def evaluate(truth: TrackBoxes, tracked: TrackBoxes) -> Scores:
    """The scores of one sequence, over every frame with a box in ``truth`` or in ``tracked``.

    Raises:
        InputError: the evaluator is not installed.
        ValueError: no true box, an id twice in one frame, or a box that is not finite.
    """
    return evaluate_together([(truth, tracked)])[1]


def evaluate_together(
    pairs: Sequence[tuple[TrackBoxes, TrackBoxes]],
) -> tuple[list[Scores], Scores]:
    """The scores of each sequence, and of all: counts added up, not scores averaged.

    Args:
        pairs: truth and tracks of each sequence; at least one.

    Raises:
        InputError: the evaluator is not installed.
        ValueError: as ``evaluate``.
    """
    evaluator = _evaluator()
    measured = [_measure(evaluator, truth, tracked) for truth, tracked in pairs]
    hota, clear, identity, counts = zip(*measured, strict=True)
    together = (
        evaluator.aggregate_hota_metrics(list(hota)),
        evaluator.aggregate_clear_metrics(list(clear)),
        evaluator.aggregate_identity_metrics(list(identity)),
        tuple(map(sum, zip(*counts, strict=True))),
    )
    return [_scores(*metrics) for metrics in measured], _scores(*together)


def _evaluator() -> Any:
    # Without its dependencies: they include OpenCV's desktop build, which would replace the
    # headless one that is installed here, and needs the libraries of a display.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports; users can do nothing about them
        return optional("trackers.eval", "tracks", then="pip install --no-deps 'trackers>=2.6'")


def _measure(
    evaluator: ModuleType, truth: TrackBoxes, tracked: TrackBoxes
) -> tuple[Any, Any, Any, tuple[int, ...]]:
    if not len(truth.frames):
        raise ValueError("`truth` has no boxes; there is nothing to judge by")
    for name, side in (("truth", truth), ("tracked", tracked)):
        if not np.isfinite(side.boxes).all():
            raise ValueError(f"`{name}`: boxes must be finite")
        if (duplicate := side.first_duplicate()) is not None:
            raise ValueError(f"`{name}`: id {duplicate[1]} occurs twice in frame {duplicate[0]}")
    true_ids, ids, overlaps = map(list, zip(*by_frame(truth, tracked, from_0=True), strict=True))
    return (
        evaluator.compute_hota_metrics(true_ids, ids, overlaps),
        evaluator.compute_clear_metrics(true_ids, ids, overlaps),
        evaluator.compute_identity_metrics(true_ids, ids, overlaps),
        (
            *(len(overlaps), len(truth.ids), len(np.unique(truth.ids))),
            *(len(tracked.ids), len(np.unique(tracked.ids))),
        ),
    )


def by_frame(
    truth: TrackBoxes, tracked: TrackBoxes, *, from_0: bool = False
) -> Iterator[tuple[Ints, Ints, Floats]]:
    """Both sides, frame by frame, as the evaluator wants them.

    Args:
        truth: true boxes.
        tracked: boxes in tracks.
        from_0: number the ids of each side from 0.

    Yields:
        Of each frame with a box: ids of its T true boxes ``[T]``, ids of its R boxes of the run
        ``[R]``, and their IoU ``[T, R]``.

    Raises:
        InputError: the evaluator is not installed.
    """
    evaluator = _evaluator()
    frames = np.unique(np.concatenate([truth.frames, tracked.frames]))
    sides = (_split(truth, frames, from_0), _split(tracked, frames, from_0))
    for (true_ids, true_boxes), (ids, boxes) in zip(*sides, strict=True):
        yield true_ids, ids, evaluator.box_iou(true_boxes, boxes)


def _split(side: TrackBoxes, frames: Ints, from_0: bool) -> Iterator[tuple[Ints, Floats]]:
    """Ids and boxes in each of ``frames``."""
    order = np.argsort(side.frames, kind="stable")
    ids = np.unique(side.ids, return_inverse=True)[1] if from_0 else side.ids
    cuts = np.searchsorted(side.frames[order], frames)[1:]
    boxes = np.asarray(side.boxes, dtype=np.float64)
    return zip(np.split(ids[order], cuts), np.split(boxes[order], cuts), strict=True)


def _scores(hota: Any, clear: Any, identity: Any, counts: tuple[int, ...]) -> Scores:
    frames, truth_boxes, truth_tracks, boxes, tracks = counts
    return Scores(
        hota=float(hota["HOTA"]),
        det_a=float(hota["DetA"]),
        ass_a=float(hota["AssA"]),
        idf1=float(identity["IDF1"]),
        mota=float(clear["MOTA"]),
        switches=int(clear["IDSW"]),
        fragmentations=int(clear["Frag"]),
        frames=frames,
        truth_boxes=truth_boxes,
        truth_tracks=truth_tracks,
        boxes=boxes,
        tracks=tracks,
        missed=int(clear["CLR_FN"]),
        false=int(clear["CLR_FP"]),
    )
