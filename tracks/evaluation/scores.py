"""How well boxes were given identities, beside the true ones: HOTA, IDF1, MOTA, switches.

The scores come from ``trackers.eval``, which repeats TrackEval, the official evaluation of
MOTChallenge, number by number; here arrays are only brought into its form. It is imported when
the first score is asked for, since it loads a plotting stack.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from common.extras import optional
from index.vectors import Floats, Ints
from tracks.tracked import TrackBoxes

# The package asks for OpenCV's desktop build, which would replace the headless one that is
# installed here, and needs a display's libraries; so it is installed without what it asks for.


@dataclass(frozen=True)
class Scores:
    """What an evaluation came to; shares are 0 to 1, but MOTA, which can be below 0.

    Attributes:
        hota, det_a, ass_a: of Luiten et al. 2021, averaged over IoU thresholds 0.05 to 0.95:
            finding, and joining, as one number and apart.
        idf1: share of boxes with the right identity, each individual matched to one track.
        mota: 1 less the misses, false boxes and switches for each true box.
        switches: times an individual is taken up by another track than before (IoU of 0.5).
        fragmentations: times an individual is found again after it was not.
        frames: that were judged.
        truth_boxes, truth_tracks: of the truth in those frames.
        boxes, tracks: that were found in them.
        missed, false: true boxes without one found, and found ones without a true one.
    """

    hota: float
    det_a: float
    ass_a: float
    idf1: float
    mota: float
    switches: int
    fragmentations: int
    frames: int
    truth_boxes: int
    truth_tracks: int
    boxes: int
    tracks: int
    missed: int
    false: int


def evaluate(truth: TrackBoxes, found: TrackBoxes) -> Scores:
    """The scores of one sequence, over every frame that stands in ``truth`` or in ``found``.

    Raises:
        InputError: the evaluator is not installed.
        ValueError: no true box, an id twice in one frame, or a box that is not finite.
    """
    return evaluate_together([(truth, found)])[1]


def evaluate_together(
    pairs: Sequence[tuple[TrackBoxes, TrackBoxes]],
) -> tuple[list[Scores], Scores]:
    """The scores of each sequence, and of all: counts added up, not scores averaged.

    Args:
        pairs: truth and what was found, of each sequence; at least one.

    Raises:
        InputError, ValueError: as ``evaluate``.
    """
    judge = _evaluator()
    measured = [_measure(judge, truth, found) for truth, found in pairs]
    hota, clear, identity, sizes = zip(*measured, strict=True)
    together = (
        judge.aggregate_hota_metrics(list(hota)),
        judge.aggregate_clear_metrics(list(clear)),
        judge.aggregate_identity_metrics(list(identity)),
        tuple(map(sum, zip(*sizes, strict=True))),
    )
    return [_scores(*one) for one in measured], _scores(*together)


def _evaluator() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a library's import warnings are not our user's
        return optional("trackers.eval", "tracks", then="pip install --no-deps 'trackers>=2.6'")


def _measure(
    judge: ModuleType, truth: TrackBoxes, found: TrackBoxes
) -> tuple[Any, Any, Any, tuple[int, ...]]:
    if not len(truth.frames):
        raise ValueError("the truth has no boxes; there is nothing to judge by")
    for name, side in (("truth", truth), ("found", found)):
        if not np.isfinite(side.boxes).all():
            raise ValueError(f"{name}: boxes must be finite")
        if (twice := side.repeated()) is not None:
            raise ValueError(f"{name}: id {twice[1]} stands twice in frame {twice[0]}")
    frames = np.unique(np.concatenate([truth.frames, found.frames]))
    true_ids, true_boxes = _by_frame(truth, frames)
    found_ids, found_boxes = _by_frame(found, frames)
    overlaps = [judge.box_iou(t, f) for t, f in zip(true_boxes, found_boxes, strict=True)]
    return (
        judge.compute_hota_metrics(true_ids, found_ids, overlaps),
        judge.compute_clear_metrics(true_ids, found_ids, overlaps),
        judge.compute_identity_metrics(true_ids, found_ids, overlaps),
        (
            *(len(frames), len(truth.ids), len(np.unique(truth.ids))),
            *(len(found.ids), len(np.unique(found.ids))),
        ),
    )


def _by_frame(side: TrackBoxes, frames: Ints) -> tuple[list[Ints], list[Floats]]:
    """Ids, counted from 0, and boxes of each of ``frames``."""
    order = np.argsort(side.frames, kind="stable")
    ids = np.unique(side.ids, return_inverse=True)[1][order]
    cuts = np.searchsorted(side.frames[order], frames)[1:]
    return np.split(ids, cuts), np.split(np.asarray(side.boxes, dtype=np.float64)[order], cuts)


def _scores(hota: Any, clear: Any, identity: Any, sizes: tuple[int, ...]) -> Scores:
    frames, truth_boxes, truth_tracks, boxes, tracks = sizes
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
