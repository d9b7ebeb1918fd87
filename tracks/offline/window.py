"""Links the detections of one window of a sequence at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from index.vectors import Floats, Ints
from tracks.association.camera import CameraMove, camera_motion
from tracks.association.costs import box_overlap
from tracks.association.frames import frame_step
from tracks.association.options import LinkOptions
from tracks.association.state import Bools
from tracks.offline.individuals import join_tracks
from tracks.offline.learn import Shown
from tracks.offline.looks import Shortener
from tracks.offline.merges import resolve_merges
from tracks.offline.scene import Scene
from tracks.offline.scores import Scores
from tracks.offline.solve import fitted_scores, solve

_AT_ONCE = 4_096  # embeddings in memory


@dataclass(frozen=True)
class Sequence:
    """N detections of one sequence, as ``link_offline`` takes them."""

    frames: Ints
    boxes: Floats
    embeddings: Callable[[slice], npt.NDArray[np.float32]]
    sizes: Floats
    seconds: Floats | None
    weak: Bools  # [N]
    parts: list[slice]


class LinkedWindow(NamedTuple):
    """Links of the M detections of a window, counted in it."""

    previous: Ints  # [M]; -1 for none
    cost: Floats  # [M]
    terms: Floats  # [M, 4]
    margin: Floats  # [M]
    others: dict[int, list[int]]  # of boxes that hold several, a detection of each other track
    at_border: Bools  # [M]
    moves: list[CameraMove]
    shown: Shown


def link_window(
    sequence: Sequence, rows: slice, shortener: Shortener, options: LinkOptions
) -> LinkedWindow:
    frames, boxes = sequence.frames[rows], sequence.boxes[rows]
    blocks = range(rows.start, rows.stop, _AT_ONCE)
    look = np.concatenate(
        [shortener(sequence.embeddings(slice(at, min(at + _AT_ONCE, rows.stop)))) for at in blocks]
    )
    parts = [
        slice(max(part.start, rows.start) - rows.start, min(part.stop, rows.stop) - rows.start)
        for part in sequence.parts
        if part.start < rows.stop and rows.start < part.stop
    ]
    longest = int(np.ptp(frames)) // frame_step(frames) + 1
    max_lag = min(options.gap_frames + 1, max(longest, 1))
    moves: list[CameraMove] = []
    steady = boxes
    if options.camera_moves:
        steady = np.concatenate(
            [_steady(frames[part], boxes[part], look[part], moves.append) for part in parts]
        )
    sizes = sequence.sizes[rows]
    scene = Scene.of(frames, boxes, look, sizes, steady=steady, parts=parts, far=max_lag + 1)
    limit, seconds = options.max_gap_seconds, sequence.seconds
    times = None if limit is None or seconds is None else (seconds[rows], limit)
    graph = fitted_scores(scene, max_lag=max_lag, times=times)
    margin = solve(graph)
    others = resolve_merges(graph, steady, margin)
    if options.individuals is not None:
        strong = with_a_strong_one(numbered_tracks(graph.previous)[0], sequence.weak[rows])
        join_tracks(graph, options.individuals, strong, margin)
    cost, terms = _costs(graph, steady)
    shown = graph.learned.shown()
    return LinkedWindow(graph.previous, cost, terms, margin, others, scene.at_border, moves, shown)


def _steady(
    frames: Ints,
    boxes: Floats,
    look: npt.NDArray[np.float32],
    on_move: Callable[[CameraMove], None],
) -> Floats:
    """Boxes as if the camera had stood still."""
    motion = camera_motion(frames, boxes, look.astype(np.float64))
    for move in motion.moves:
        on_move(move)
    return motion.steady_boxes(frames, boxes)


def _costs(graph: Scores, boxes: Floats) -> tuple[Floats, Floats]:
    """Of each link its cost ``[M]`` and its terms ``[M, 4]``; NaN where there is none."""
    scene = graph.scene
    cost, terms = np.full(len(scene), np.nan), np.full((len(scene), 4), np.nan)
    later = np.flatnonzero(graph.previous >= 0)
    earlier = graph.previous[later]
    cost[later] = -graph.links(earlier, later)
    moved = np.linalg.norm(scene.centre[later] - scene.centre[earlier], axis=1)
    terms[later] = np.column_stack(
        [
            1 - scene.cosine(earlier, later),
            1 - box_overlap(boxes[earlier], boxes[later]),
            1 - np.exp(-np.abs(scene.growth(earlier, later))),
            moved / np.hypot(*scene.sizes[later].T),
        ]
    )
    return cost, terms


def numbered_tracks(previous: Ints) -> tuple[Ints, Ints]:
    """The number of the track of each detection, by their start, and its position in it."""
    starts = previous < 0
    track, position = np.cumsum(starts) - 1, np.zeros(len(starts), dtype=np.int64)
    for row in np.flatnonzero(~starts).tolist():
        before = previous[row]
        track[row], position[row] = track[before], position[before] + 1
    return track, position


def with_a_strong_one(track: Ints, weak: Bools) -> Bools:
    """Which detections are in a track that has a strong one."""
    strong: Bools = np.bincount(track, ~weak) > 0
    return strong[track]
