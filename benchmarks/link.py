"""How fast is linking, beside the usual double loop?

    python -m benchmarks.link [--detections 200] [--frames 200] [--dim 1280]

On a made scene of objects that walk at random and look nearly alike: all frames through ``Linker``
(presets ``default``, and ``ami``, the same rule as the loop) in one process. The loop, one Python loop
inside another, needs minutes for what takes seconds, so it links one pair of frames in ten. The links
of these are compared, so that both do the same work. Memory by the number of frames is in
``memory.py``.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work), 60 frames: default 5.8 ms a frame,
ami 5.3, double loop 627: 108 and 117 times as long.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import runner
from benchmarks.made import column, write_run
from index.vectors import l1_normalise
from tracks.association.linker import Linker
from tracks.association.options import PRESETS
from tracks.association.threads import one_thread

SIDE_PX = 4000
Box = Sequence[float]


class Frame(NamedTuple):
    """Boxes [N, 4] and raw embeddings [N, D] of one image."""

    boxes: NDArray[np.float64]
    embeddings: NDArray[np.float32]


def scene(frames: int, detections: int, dim: int, *, seed: int = 0) -> Iterator[Frame]:
    """Objects that walk at random; no two frames list them in the same order."""
    dice = np.random.default_rng(seed)
    own = dice.gamma(0.5, size=dim) + dice.gamma(0.5, size=(detections, dim))
    corners = dice.uniform(0, SIDE_PX - 200, (detections, 2))
    sides = dice.uniform(40, 160, (detections, 2))
    for _ in range(frames):
        corners = np.clip(corners + dice.normal(0, 10, corners.shape), 0, SIDE_PX - 200)
        seen = own + dice.gamma(0.5, 0.4, size=own.shape)
        order = dice.permutation(detections)
        boxes = np.hstack([corners, corners + sides])
        yield Frame(boxes[order], seen[order].astype(np.float32))


def double_loop(before: Frame, after: Frame, *, diagonal: float, max_cost: float) -> list[int]:
    """The cheapest predecessor of each later detection, -1 where none costs ``max_cost`` or less.

    It keeps the habits of such scripts: one pair at a time, every cosine from two vectors.
    """
    chosen = []
    for here, box in zip(after.embeddings, after.boxes.tolist(), strict=True):
        best, least = -1, max_cost
        others = zip(before.embeddings, before.boxes.tolist(), strict=True)
        for number, (there, other) in enumerate(others):
            cost = (
                (1 - _cosine(there, here))
                + (1 - _iou(other, box))
                + (1 - min(_area(other), _area(box)) / max(_area(other), _area(box)))
                + math.dist(_centre(other), _centre(box)) / diagonal
            )
            if cost <= least:
                best, least = number, cost
        chosen.append(best)
    return chosen


def _cosine(one: NDArray[np.float32], two: NDArray[np.float32]) -> float:
    one, two = one / np.abs(one).sum(), two / np.abs(two).sum()
    return float(np.dot(one, two) / (np.linalg.norm(one) * np.linalg.norm(two)))


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _centre(box: Box) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def _iou(one: Box, two: Box) -> float:
    wide = max(0.0, min(one[2], two[2]) - max(one[0], two[0]))
    high = max(0.0, min(one[3], two[3]) - max(one[1], two[1]))
    return wide * high / (_area(one) + _area(two) - wide * high)


def frames_of(given: Any, report: runner.Report) -> None:
    """Milliseconds a frame of both presets and of the loop."""
    diagonal = math.hypot(SIDE_PX, SIDE_PX)
    linkers = {name: Linker(given.dim, PRESETS[name]) for name in ("online", "ami")}
    spent: dict[str, list[float]] = {name: [] for name in (*linkers, "double loop")}
    last: Frame | None = None
    for number, frame in enumerate(scene(given.frames, given.detections, given.dim)):
        for name, linker in linkers.items():
            began = time.perf_counter()
            ids = range(given.detections)
            vectors = l1_normalise(frame.embeddings, ids)  # type: ignore[arg-type]
            links = linker.step(number, frame.boxes, vectors, diagonal_px=diagonal)
            spent[name].append(1000 * (time.perf_counter() - began))
        if last is not None and number % max(2, given.frames // 10) == 1:
            began = time.perf_counter()
            limit = PRESETS["ami"].max_cost
            chosen = double_loop(last, frame, diagonal=diagonal, max_cost=limit)
            spent["double loop"].append(1000 * (time.perf_counter() - began))
            first = (number - 1) * given.detections
            if [-1 if one < 0 else one + first for one in chosen] != links.previous.tolist():
                sys.exit(f"frame {number}: the loop and the ami preset link differently")
        last = frame
    for name, times in spent.items():
        report.rounds.setdefault(name, []).append({"ms a frame": float(np.mean(times))})


def write_scene(path: Path, frames: int, *, detections: int, dim: int) -> Path:
    """A run of a made scene, 20 frames a file."""

    def tables() -> Iterator[pa.Table]:
        pending = []
        for number, frame in enumerate(scene(frames, detections, dim)):
            first = number * detections
            values: dict[str, Any] = {
                "row_id": np.arange(first, first + detections),
                "detection_id": [f"{number}-{one}" for one in range(detections)],
                "image": [f"{number:05d}.jpg"] * detections,
                "sequence": ["scene"] * detections,
                "frame": np.full(detections, number),
                "embedding": column(frame.embeddings),
            }
            for at, side in enumerate(("x1", "y1", "x2", "y2")):
                values[side] = frame.boxes[:, at].astype(np.float32)
            pending.append(pa.table(values))
            if len(pending) == 20 or number == frames - 1:
                yield pa.concat_tables(pending)
                pending = []

    return write_run(path, dim, tables()).path


def main() -> None:
    parser = runner.arguments(__doc__)
    parser.add_argument("--detections", type=int, default=200, help="of a frame")
    parser.add_argument("--frames", type=int, default=200)
    parser.add_argument("--dim", type=int, default=1280)
    given = runner.parsed(parser, detections=20, frames=20)
    report = runner.Report(f"linking {given.detections} detections a frame of {given.dim} numbers")
    with one_thread():  # as ``onepass link`` does
        for _ in range(given.rounds):
            frames_of(given, report)
    for name in ("online", "ami"):
        report.ratio("double loop", name, "ms a frame")
    report.show()
    report.write(given.json)


if __name__ == "__main__":
    main()
