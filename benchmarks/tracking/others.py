"""Other people's trackers on the same detections, as shipped and with settings for sparse frames.

* **Hungarian**: neighbouring frames by IoU or by the distance of centres (SciPy), each at several limits.
* **SORT, ByteTrack, OC-SORT, BoT-SORT** of ``trackers``: ``pip install --no-deps 'trackers>=2.6'``. The
  settings are those that help where frames are sparse: a track counts from its first box, any overlap,
  a lost track is kept for 1 s. BoT-SORT as shipped sees the frames and takes camera motion out.
* **DeepSORT** of ``deep-sort-realtime`` (its association alone: Kalman filter, Mahalanobis gate, nearest
  cosine of a track's last 100 embeddings), which is given the very embeddings that onepass has.

Those of ``trackers`` and DeepSORT work as frames come in; as shipped they leave the first boxes of a track
without identity, which scores count as boxes that were not found.
"""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from benchmarks import runner
from benchmarks.made import unit
from benchmarks.tracking.clips import NOBODY, Case, Ints
from tracks.association.costs import box_overlap

DEEP_SORT = "deep-sort-realtime==1.3.2"
GALLERY = 100  # embeddings of a track that DeepSORT compares with, as in its paper
ANY_OVERLAP = 0.01
ALIKE = 1.0  # confidence of every box: the truth has no other
Tracker = Callable[[Case], Ints]


def every_tracker(wheels: Path) -> dict[str, list[Tracker]]:
    """By name, the settings of each; the first is as shipped, except of the Hungarian method.

    Args:
        wheels: a folder to which DeepSORT's wheel is downloaded where it is not installed.
    """
    found: dict[str, list[Tracker]] = {"Hungarian": list(_hungarian_settings())}
    for name in ("SORT", "ByteTrack", "OC-SORT", "BoT-SORT"):
        found[name] = list(_public_settings(name))
    found["DeepSORT"] = list(_deep_sort_settings(wheels))
    return found


def _hungarian_settings() -> Iterator[Tracker]:
    for limit in (1.0, 2.0, 4.0, 8.0, 16.0):  # in box sizes
        yield lambda case, limit=limit: hungarian(case, _distances, limit)  # type: ignore[misc]
    for limit in (0.7, 0.99):
        yield lambda case, limit=limit: hungarian(case, _disjoint, limit)  # type: ignore[misc]


def hungarian(
    case: Case,
    measure: Callable[[NDArray[Any], NDArray[Any]], NDArray[np.float64]],
    limit: float,
) -> Ints:
    """Tracks by the optimal assignment of neighbouring frames alone, nothing but boxes looked at.

    Args:
        case: the detections.
        measure: of boxes ``[M, 4]`` and ``[N, 4]`` the cost of each pair ``[M, N]``.
        limit: pairs of this cost or more are not linked.
    """
    labels = np.full(len(case.frames), NOBODY, dtype=np.int64)
    before, started = np.array([], dtype=np.int64), 0
    for rows in rows_by_frame(case):
        cost = np.minimum(measure(case.boxes[before], case.boxes[rows]), limit)
        earlier, later = linear_sum_assignment(cost)
        linked = cost[earlier, later] < limit
        labels[rows[later[linked]]] = labels[before[earlier[linked]]]
        new = rows[labels[rows] == NOBODY]
        labels[new] = np.arange(started, started + len(new))
        before, started = rows, started + len(new)
    return labels


def _distances(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    """Of centres, in sides of a square as large as the two boxes are in the mean."""
    apart = (before[:, None, :2] + before[:, None, 2:] - after[:, :2] - after[:, 2:]) / 2
    areas = [np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) for boxes in (before, after)]
    sizes = np.sqrt(np.sqrt(areas[0][:, None] * areas[1]))
    found: NDArray[np.float64] = np.linalg.norm(apart, axis=2) / sizes
    return found


def _disjoint(before: NDArray[Any], after: NDArray[Any]) -> NDArray[np.float64]:
    return 1 - box_overlap(before[:, None], after[None])


def rows_by_frame(case: Case) -> list[Ints]:
    """The rows of each frame that has any."""
    edges = np.flatnonzero(np.diff(case.frames)) + 1
    return np.split(np.arange(len(case.frames)), edges) if len(case.frames) else []


def tracker_class(name: str) -> Any:
    """The class of one of ``trackers``."""
    import trackers

    return getattr(trackers, name.replace("-", "") + "Tracker")


def _public_settings(name: str) -> Iterator[Tracker]:
    """As shipped, and then every combination of what could handicap it on sparse frames."""
    known = inspect.signature(tracker_class(name)).parameters
    overlaps = [knob for knob in known if knob.startswith("minimum_iou_threshold")]
    choices: list[Mapping[str, Any]] = [{}]
    for slow, first, any_overlap in product((False, True), repeat=3):
        setting: dict[str, Any] = {"minimum_consecutive_frames": 1} if first else {}
        setting |= dict.fromkeys(overlaps, ANY_OVERLAP) if any_overlap else {}
        setting |= {"slow": True} if slow else {}
        choices.append(setting)
    if "enable_cmc" not in known:
        choices = choices[1:]  # the first combination is as shipped; BoT-SORT's is without frames
    for setting in choices:
        yield lambda case, setting=setting: public(name, setting)(case)  # type: ignore[misc]


def public(name: str, setting: Mapping[str, Any]) -> Tracker:
    """One of ``trackers`` with a setting; ``slow``: lost tracks are kept for 1 s of its real rate."""

    def run(case: Case) -> Ints:
        follow = Following(name, setting, case)
        for rows in rows_by_frame(case):
            follow.update(rows)
        return follow.labels

    return run


class Following:
    """One of ``trackers`` at work on a case, frame by frame.

    Attributes:
        labels: of each detection of the case ``[N]``.
    """

    def __init__(self, name: str, setting: Mapping[str, Any], case: Case) -> None:
        given = dict(setting)
        if given.pop("slow", False):
            given["frame_rate"] = case.frames_per_second
        self._tracker = tracker_class(name)(**given)
        self._case = case
        self.labels = np.full(len(case.frames), NOBODY, dtype=np.int64)

    def update(self, rows: Ints, picture: NDArray[np.uint8] | None = None) -> None:
        """Follow the detections ``rows`` of the next frame; ``picture`` for BoT-SORT alone."""
        import supervision as sv

        given = sv.Detections(
            xyxy=self._case.boxes[rows].astype(np.float32),
            confidence=np.full(len(rows), ALIKE, dtype=np.float32),
            data={"row": rows},
        )
        seen = {} if picture is None else {"frame": picture}
        answer = self._tracker.update(given, **seen)
        if len(answer):
            self.labels[answer.data["row"]] = np.maximum(answer.tracker_id, NOBODY)


def with_camera_motion(pictures: Iterator[NDArray[np.uint8]], cases: Sequence[Case]) -> list[Ints]:
    """BoT-SORT as shipped on all cases of a clip, in one pass over its frames ``pictures``."""
    running = [Following("BoT-SORT", {}, case) for case in cases]
    rows = [{int(case.frames[r[0]]): r for r in rows_by_frame(case)} for case in cases]
    for number, picture in enumerate(pictures):
        for follow, by_frame in zip(running, rows, strict=True):
            if number in by_frame:
                follow.update(by_frame[number], picture)
    return [follow.labels for follow in running]


def _deep_sort_settings(wheels: Path) -> Iterator[Tracker]:
    """As shipped (``deep_sort_realtime.DeepSort``), then for sparse frames."""
    package = _deep_sort(wheels)
    shipped = {"cosine": 0.2, "max_iou_distance": 0.7, "n_init": 3, "max_age": 30}
    choices = [shipped]
    for cosine, distance in product((0.1, 0.2, 0.4), (0.7, 1 - ANY_OVERLAP)):
        choices.append({**shipped, "cosine": cosine, "max_iou_distance": distance, "n_init": 1})
    for setting in choices:
        yield lambda case, setting=setting: deep_sort(package, case, **setting)  # type: ignore[misc]


def _deep_sort(wheels: Path) -> Any:
    """The package, or its wheel, which Python imports as it is."""
    try:
        return importlib.import_module("deep_sort_realtime.deep_sort.tracker")
    except ModuleNotFoundError:
        words = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest"]
        if not (found := list(wheels.glob("deep_sort_realtime-*.whl"))):
            runner.process([*words, str(wheels), "--only-binary=:all:", DEEP_SORT])
            found = list(wheels.glob("deep_sort_realtime-*.whl"))
        sys.path.append(str(found[0]))
        return importlib.import_module("deep_sort_realtime.deep_sort.tracker")


class Gallery:
    """The embeddings of tracks as DeepSORT asks for them; its own copies all of them for each frame.

    Args:
        matching_threshold: largest cosine distance of a match.
    """

    def __init__(self, matching_threshold: float) -> None:
        self.matching_threshold = matching_threshold
        self._held: dict[str, NDArray[np.float32]] = {}

    def partial_fit(
        self, features: NDArray[np.float32], targets: Sequence[str], active: Sequence[str]
    ) -> None:
        """Add ``features`` [N, D] of length 1 to their tracks, and forget tracks that are not active."""
        for feature, target in zip(features, targets, strict=True):
            older = self._held.get(target, features[:0])[1 - GALLERY :]
            self._held[target] = np.vstack([older, feature[None]])
        self._held = {target: self._held[target] for target in active}

    def distance(
        self, features: NDArray[np.float32], targets: Sequence[str]
    ) -> NDArray[np.float64]:
        """Smallest cosine distance of each track to each of ``features`` [T, N]."""
        found = [1 - (self._held[target] @ features.T).max(axis=0) for target in targets]
        return np.array(found, dtype=np.float64)


def deep_sort(package: Any, case: Case, *, cosine: float, **setting: Any) -> Ints:
    """DeepSORT's association: appearance within the gate of motion first, then overlap."""
    detection = importlib.import_module(f"{package.__package__}.detection").Detection
    tracker = package.Tracker(Gallery(cosine), **setting)
    labels = np.full(len(case.frames), NOBODY, dtype=np.int64)
    sides = np.hstack([case.boxes[:, :2], case.boxes[:, 2:] - case.boxes[:, :2]])
    features = unit(case.embeddings)
    for rows in rows_by_frame(case):
        tracker.predict()
        tracker.update([detection(sides[row], ALIKE, features[row], others=row) for row in rows])
        for track in tracker.tracks:
            known = track.is_confirmed() or setting["n_init"] == 1
            if known and track.time_since_update == 0:
                labels[track.others] = int(track.track_id)
    return labels
