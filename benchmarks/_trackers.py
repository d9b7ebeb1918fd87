"""SORT, ByteTrack and OC-SORT of ``trackers`` on boxes that are given: identities out.

Each is run as it is shipped, and again with every combination of what could handicap it on
sparse frames: tracks counted from their first box, a lower IoU, a lost track kept for 1 s of the
clip or for 30 frames of those that are seen. Where the best of these is shown, it was chosen by
HOTA on this very clip, which is more than onepass allows itself.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import supervision as sv
from trackers import ByteTrackTracker, OCSORTTracker, SORTTracker

from index.vectors import Ints
from tracks.evaluation.scores import Tracked

TRACKERS = {"SORT": SORTTracker, "ByteTrack": ByteTrackTracker, "OC-SORT": OCSORTTracker}
_KNOBS = ("lost_track_buffer", "frame_rate", "minimum_consecutive_frames", "minimum_iou_threshold")
_LOW_IOU = 0.01  # any overlap


def shipped(name: str) -> dict[str, Any]:
    """What a tracker does when nothing is said."""
    known = inspect.signature(TRACKERS[name]).parameters
    return {knob: known[knob].default for knob in _KNOBS}


def kinder(name: str, frames_per_second: float) -> Iterator[dict[str, Any]]:
    """Settings for frames that are ``1 / frames_per_second`` apart."""
    usual = shipped(name)
    for rate, first, iou in product(
        (usual["frame_rate"], frames_per_second),
        (1, usual["minimum_consecutive_frames"]),
        (usual["minimum_iou_threshold"], _LOW_IOU),
    ):
        yield {
            **usual,
            "frame_rate": rate,
            "minimum_consecutive_frames": first,
            "minimum_iou_threshold": iou,
        }


def track(name: str, boxes: Tracked, frames: Ints, setting: dict[str, Any]) -> Tracked:
    """Identities of ``boxes``, whose own are not looked at; boxes left without one are dropped."""
    tracker = TRACKERS[name](**setting)
    found: list[tuple[int, int, list[float]]] = []
    for frame in frames.tolist():
        here = boxes.boxes[boxes.frames == frame]
        given = sv.Detections(
            xyxy=here.astype(np.float32), confidence=np.ones(len(here), dtype=np.float32)
        )
        told = tracker.update(given)
        for box, number in zip(told.xyxy.tolist(), told.tracker_id.tolist(), strict=True):
            if number >= 0:
                found.append((frame, number, box))
    table = np.array([[frame, number, *box] for frame, number, box in found]).reshape(-1, 6)
    return Tracked(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:])
