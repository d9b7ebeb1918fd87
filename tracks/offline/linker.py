"""Links all frames of one sequence at once; what ``tracks.link`` calls for ``method="offline"``."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from index.vectors import Floats, Ints
from tracks.association.camera import CameraMove, camera_motion
from tracks.association.costs import box_overlap
from tracks.association.frames import frame_step
from tracks.association.linker import Links
from tracks.association.options import LinkOptions
from tracks.offline.learn import Shown
from tracks.offline.looks import Shortener
from tracks.offline.scene import Scene
from tracks.offline.scores import Scores
from tracks.offline.solve import fitted_scores, solve

MAX_DETECTIONS = 1_000_000
"""Of one sequence: some 0.6 kB each in memory. A longer one is linked frame by frame."""

_AT_ONCE = 4_096  # embeddings in memory


def link_offline(
    frames: Ints,
    boxes: Floats,
    embeddings: Callable[[slice], npt.NDArray[np.float32]],
    sizes: Floats,
    shortener: Shortener,
    *,
    parts: list[slice],
    seconds: Floats | None = None,
    scores: npt.NDArray[np.floating] | None = None,
    options: LinkOptions,
    on_move: Callable[[CameraMove], None] = lambda move: None,
) -> tuple[Links, Shown]:
    """Link one sequence; nothing is checked.

    Args:
        frames: frame number of each detection ``[N]``, never falling.
        boxes: ``[N, 4]`` as x1, y1, x2, y2 in pixels.
        embeddings: gives those of a slice of neighbouring rows, L1-normalised ``[R, D]``.
        sizes: width and height of the image of each detection ``[N, 2]``, in pixels.
        shortener: fitted to embeddings of the run.
        parts: of the rows, between which no link is made.
        seconds: time of each detection ``[N]``; needed for ``max_gap_seconds``.
        scores: of each detection ``[N]``, for ``strong_score``; NaN counts as strong.
        options: of ``method="offline"``.
        on_move: called where the camera moved.

    Returns:
        Tracks in the order of their start. A cost is the evidence against a link, in nats; a margin is how
        much worse the next best choice of either end would have been. Of the terms, the first
        is 1 - cosine of the short embeddings. Also what the sequence showed.
    """
    blocks = [slice(at, at + _AT_ONCE) for at in range(0, len(frames), _AT_ONCE)]
    look = np.concatenate([shortener(embeddings(block)) for block in blocks])
    longest = int(np.ptp(frames)) // frame_step(frames) + 1
    max_lag = min(options.gap_frames + 1, max(longest, 1))
    steady = boxes
    if options.camera_moves:
        steady = np.concatenate(
            [_steady(frames[part], boxes[part], look[part], on_move) for part in parts]
        )
    scene = Scene.of(frames, boxes, look, sizes, steady=steady, parts=parts, far=max_lag + 1)
    limit = options.max_gap_seconds
    times = None if limit is None or seconds is None else (seconds, limit)
    graph = fitted_scores(scene, max_lag=max_lag, times=times)
    margin = solve(graph)
    links = _links(graph, steady, margin, scores, options.strong_score)
    return links, graph.learned.shown()


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


def _links(
    graph: Scores,
    boxes: Floats,
    margin: Floats,
    scores: npt.NDArray[np.floating] | None,
    strong_score: float | None,
) -> Links:
    """As ``Links``; tracks of weak detections alone are left out."""
    links = Links.unlinked(len(graph.previous))
    starts = graph.previous < 0
    track, position = np.cumsum(starts) - 1, np.zeros(len(starts), dtype=np.int64)
    for row, before in enumerate(graph.previous.tolist()):
        if before >= 0:
            track[row], position[row] = track[before], position[before] + 1
    kept = np.ones(len(starts), dtype=bool)
    if strong_score is not None and scores is not None:
        strong = np.bincount(track, ~(np.asarray(scores) < strong_score)) > 0
        kept, track = strong[track], np.cumsum(strong)[track] - 1
    links.track[kept], links.position[kept] = track[kept], position[kept]
    later = np.flatnonzero(kept & (graph.previous >= 0))
    earlier = graph.previous[later]
    scene = graph.scene
    links.previous[later] = earlier
    links.cost[later] = -graph.links(earlier, later)
    links.margin[later] = margin[later]
    moved = np.linalg.norm(scene.centre[later] - scene.centre[earlier], axis=1)
    links.terms[later] = np.column_stack(
        [
            1 - scene.cosine(earlier, later),
            1 - box_overlap(boxes[earlier], boxes[later]),
            1 - np.exp(-np.abs(scene.growth(earlier, later))),
            moved / np.hypot(*scene.sizes[later].T),
        ]
    )
    return links
