"""Clips whose individuals are known: their true boxes as detections, with the embedding of each.

A box of the truth is a detection, and its identity is what is asked for. A clip is embedded once, by
``onepass extract`` with EfficientNet-Lite0, and the run is kept in the folder of work.

The fish are those of ``onepass demo``, boxes by a threshold; ``fish.txt`` says who is in each: a line a frame,
a digit a box from left to right, ``.`` where it holds two fish or three. The bodies in a merged blob were told
apart at higher thresholds, and the nearest fish in the next frame is the same one, where a swap of any two
would cost 25 pixels and more; where it costs less (eleven frames of six merges) eyes decided, by heads and tails.
Boxes of merged fish are given to every tracker and not judged.

Left out: ``ami-trap/sequential``, which has no identities; what is known of it is asserted in ``tests/data``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import runner
from benchmarks.made import embeddings as embeddings_of
from onepass import demo_clip
from pipelines.run import Run
from tracks.boxes import TrackBoxes
from tracks.evaluation.scores import Scores, evaluate
from tracks.motchallenge import FIRST_FRAME, read_truth

Ints = NDArray[np.int64]
NOBODY = -1  # id of a false box; label of a box in no track


@dataclass(frozen=True)
class Clip:
    """A clip of the data folder."""

    name: str
    media: str  # a video, or a folder of images in the order of their names; of the fish, in the work folder
    truth: str  # MOTChallenge
    size: tuple[int, int]  # width and height in pixels
    strides: tuple[int, ...]  # one frame in so many is seen
    frames_per_second: float


CLIPS = {
    clip.name: clip
    for clip in (
        Clip("flies", "flies/clip.mp4", "flies/clip_gt_mot.txt", (1024, 1024), (1, 5, 25, 50), 25),
        Clip(
            "ethoscope-flies",
            "tracks/ethoscope-flies/arena_10x2_sortTubes.mp4",
            "tracks/ethoscope-flies/gt.txt",
            (1280, 960),
            (1, 5, 20, 40, 80),
            20,
        ),
        Clip(
            "trex-guppies",
            "tracks/trex-guppies/img1",
            "tracks/trex-guppies/gt.txt",
            (2304, 2304),
            (1, 2, 5, 10),
            30,  # not published
        ),
        Clip(
            "tud-stadtmitte",
            "tracks/tud-stadtmitte/TUD-Stadtmitte.mp4",
            "tracks/tud-stadtmitte/gt.txt",
            (640, 480),
            (1, 5, 10, 20),
            25,
        ),
        Clip("fish", "fish/clip/frames", "", (1160, 938), (1, 2, 5), 25),
    )
}


@dataclass(frozen=True)
class Case:
    """N detections to be tracked, by frame, and who they are."""

    name: str
    frames: Ints  # [N], never falling
    ids: Ints  # of the individual [N]; NOBODY of a false box
    boxes: NDArray[np.float64]  # [N, 4] as x1, y1, x2, y2 in pixels
    embeddings: NDArray[np.float32]  # [N, D]
    size: tuple[int, int]  # of the images, width and height in pixels
    frames_per_second: float  # of the frames that are seen
    images: tuple[str, ...] = ()  # of each detection; without any, blank ones of this size

    def select(self, rows: NDArray[Any], name: str = "", **changes: Any) -> Case:
        """Some rows of it, by number or by a mask."""
        numbers = np.arange(len(self.frames))[rows]
        return replace(
            self,
            name=name or self.name,
            frames=self.frames[numbers],
            ids=self.ids[numbers],
            boxes=self.boxes[numbers],
            embeddings=self.embeddings[numbers],
            images=tuple(self.images[row] for row in numbers) if self.images else (),
            **changes,
        )

    def thin(self, stride: int, phase: int) -> Case:
        """Every ``stride``-th frame, from frame ``phase`` on."""
        kept = self.frames % stride == phase
        rate = self.frames_per_second / stride
        return self.select(kept, f"{self.name}/{stride}+{phase}", frames_per_second=rate)


def phases(stride: int, most: int) -> list[int]:
    """Up to ``most`` first frames of a thinned clip, spread over the ``stride`` that there are."""
    return sorted(
        {int(first) for first in np.arange(min(stride, most)) * stride / min(stride, most)}
    )


def load(clip: Clip, data: Path, work: Path) -> Case:
    """A whole clip; frames from 0."""
    truth = _fish(work) if clip.name == "fish" else _truth(data / clip.truth)
    media = _media(clip, data, work)
    if media.is_dir():
        files = sorted(str(file) for file in media.iterdir())
        images = [files[frame] for frame in truth.frames.tolist()]
    else:
        images = [f"{media}#frame={frame}" for frame in truth.frames.tolist()]
    found = embed(work / clip.name, clip.name, truth.frames, truth.boxes, images)
    # Nobody may profit from how the truth lists its boxes, so each frame is shuffled.
    order = np.lexsort([np.random.default_rng(0).random(len(images)), truth.frames])
    rate, size = clip.frames_per_second, clip.size
    whole = Case(clip.name, truth.frames, truth.ids, truth.boxes, found, size, rate, tuple(images))
    return whole.select(order)


def _media(clip: Clip, data: Path, work: Path) -> Path:
    return ((work if clip.name == "fish" else data) / clip.media).resolve()


def _truth(file: Path) -> TrackBoxes:
    truth, _ = read_truth(file)
    order = np.lexsort([truth.ids, truth.frames])
    return TrackBoxes(truth.frames[order] - FIRST_FRAME, truth.ids[order], truth.boxes[order])


def _fish(work: Path) -> TrackBoxes:
    """The boxes of the demo, which are found again where ``work`` has none, with who is in them."""
    found = work / "fish" / "clip"
    if not (found / "detections.csv").is_file():
        demo_clip.find_fish(demo_clip.fetch_clip(runner.ROOT / ".cache"), found)
    with (found / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    frames = np.array([int(row["frame"]) for row in rows])
    names = Path(__file__).with_name("fish.txt").read_text().split()
    if [len(names_here) for names_here in names] != np.bincount(frames).tolist():
        raise ValueError("this OpenCV finds other boxes of fish than those that fish.txt names")
    ids = [NOBODY if name == "." else int(name) for name in "".join(names)]
    boxes = [[float(row[side]) for side in ("x1", "y1", "x2", "y2")] for row in rows]
    return TrackBoxes(frames, np.array(ids), np.array(boxes))


def embed(
    work: Path, sequence: str, frames: Ints, boxes: NDArray[np.float64], images: list[str]
) -> NDArray[np.float32]:
    """The embedding [N, D] of each box, from the run in ``work``, which is made if it is not there."""
    run = work / "run"
    if not (run / "manifest.json").is_file():
        work.mkdir(parents=True, exist_ok=True)
        lines = ["detection_id,image,sequence,frame,x1,y1,x2,y2"]
        for number, (image, frame, box) in enumerate(zip(images, frames, boxes, strict=True)):
            sides = ",".join(f"{side:.2f}" for side in box)
            lines.append(f"{number},{image},{sequence},{frame},{sides}")
        (work / "boxes.csv").write_text("\n".join(lines) + "\n")
        words = ["extract", str(work / "boxes.csv"), "--model", "lite0", "--out", str(run)]
        runner.process([*runner.ONEPASS, *words])
    table = Run.open(run).to_arrow(["detection_id", "embedding", "error"])
    assert table["error"].null_count == table.num_rows == len(frames)
    return embeddings_of(table)[np.argsort(table["detection_id"].to_numpy().astype(int))]


def pictures(clip: Clip, data: Path, work: Path) -> Iterator[NDArray[np.uint8]]:
    """Every frame of a clip in turn, BGR [H, W, 3]."""
    import cv2

    media = _media(clip, data, work)
    if media.is_dir():
        for file in sorted(media.iterdir()):
            yield cv2.imread(str(file))
        return
    video = cv2.VideoCapture(str(media))
    read, picture = video.read()
    while read:
        yield picture
        read, picture = video.read()


def judge(case: Case, labels: Ints) -> Scores:
    """Scores of the number of a track, or NOBODY, for each detection [N].

    Boxes that are no individual are left out of both sides: whether a detector is right is not asked.
    """
    real = case.ids != NOBODY
    tracked = real & (labels != NOBODY)
    return evaluate(
        TrackBoxes(case.frames[real], case.ids[real], case.boxes[real]),
        TrackBoxes(case.frames[tracked], labels[tracked], case.boxes[tracked]),
    )
