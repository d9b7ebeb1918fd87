"""How well onepass tracks real individuals, beside trackers that people use, on the same boxes.

    python -m benchmarks.tracks DATA [--strides 1 5 10 25 50] [--work DIR]

DATA holds ``flies/clip.mp4``, two courting flies for a minute at 25 frames/s, and its truth. The
true boxes of every 1st, 5th, … frame are the detections; their identities are what is asked for.
--work keeps the run of their embeddings: one crop a box, EfficientNet-Lite0.

Rows are the presets of ``onepass link``, and SORT, ByteTrack and OC-SORT of ``trackers`` as shipped and
at the best (by HOTA, on this very clip, which is more than onepass allows itself) of eight settings
for sparse frames: tracks counted from their first box, any overlap, a lost track kept for 1 s. These
work as frames come in and give the first boxes of a track no identity, which the scores count as
boxes not found: look at switches and tracks as well.

Needs ``pip install 'onepass[tracks]'`` and then ``pip install --no-deps 'trackers>=2.6'``.

Printed last on 2026-11-30, 2 cores (AMD EPYC, busy with other work): HOTA / switches at every 25th and 50th
frame: default 1 / 0 and 1 / 0; ami 0.716 / 10 and 0.702 / 10; best of SORT, ByteTrack and OC-SORT 0.983 / 0
and 0.728 / 3 (docs/guides/tracks.md has the whole table).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import runner
from benchmarks.made import embeddings as embeddings_of
from pipelines.run import Run
from tracks.association.linker import link
from tracks.association.options import PRESETS, LinkOptions
from tracks.boxes import TrackBoxes, unique_per_frame
from tracks.evaluation.scores import evaluate
from tracks.motchallenge import FIRST_FRAME, read_truth

FRAMES_PER_SECOND = 25
SIDE = 1024  # of the clip, in pixels
KNOBS = ("lost_track_buffer", "frame_rate", "minimum_consecutive_frames", "minimum_iou_threshold")
ANY_OVERLAP = 0.01
SCORES = ("hota", "det_a", "ass_a", "idf1", "mota", "switches", "fragmentations", "tracks")


def flies(data: Path, work: Path) -> tuple[TrackBoxes, np.ndarray]:
    """The truth, by frame from 0 and shuffled inside, and the embedding [N, D] of each box."""
    truth, _ = read_truth(data / "flies" / "clip_gt_mot.txt")
    truth = replace(truth, frames=truth.frames - FIRST_FRAME)
    # Nobody may profit from how the truth lists its boxes, so each frame is shuffled.
    order = np.lexsort([np.random.default_rng(0).random(len(truth.ids)), truth.frames])
    truth = TrackBoxes(truth.frames[order], truth.ids[order], truth.boxes[order])
    run = work / "run"
    if not (run / "manifest.json").is_file():
        clip = (data / "flies" / "clip.mp4").resolve()
        lines = ["detection_id,image,sequence,frame,x1,y1,x2,y2"]
        for number, (frame, box) in enumerate(zip(truth.frames, truth.boxes, strict=True)):
            sides = ",".join(f"{side:.2f}" for side in box)
            lines.append(f"{number},{clip}#frame={frame},flies,{frame},{sides}")
        (work / "boxes.csv").write_text("\n".join(lines) + "\n")
        words = ["extract", str(work / "boxes.csv"), "--model", "lite0", "--out", str(run)]
        runner.process([*runner.ONEPASS, *words])
    table = Run.open(run).to_arrow(["detection_id", "embedding", "error"])
    assert table["error"].null_count == table.num_rows == len(truth.frames)
    rows = np.argsort(table["detection_id"].to_numpy().astype(int))
    return truth, embeddings_of(table)[rows]


def linked(seen: TrackBoxes, embeddings: np.ndarray, options: LinkOptions) -> TrackBoxes:
    """What ``onepass link`` makes of these boxes and embeddings [N, D]."""
    links = link(seen.frames, seen.boxes, embeddings, diagonal_px=SIDE * 2**0.5, options=options)
    took = links.track >= 0
    numbers = unique_per_frame(seen.frames[took], links.track[took], links.cost[took])
    return TrackBoxes(seen.frames[took], numbers, seen.boxes[took])


def trackers() -> dict[str, Any]:
    """The classes of the other trackers."""
    from trackers import ByteTrackTracker, OCSORTTracker, SORTTracker

    return {"SORT": SORTTracker, "ByteTrack": ByteTrackTracker, "OC-SORT": OCSORTTracker}


def settings(tracker: Any, frames_per_second: float) -> Iterator[dict[str, Any]]:
    """As shipped, and then every combination of what could handicap it on sparse frames."""
    known = inspect.signature(tracker).parameters
    shipped = {knob: known[knob].default for knob in KNOBS}
    for choice in product(
        (shipped["frame_rate"], frames_per_second),
        (shipped["minimum_consecutive_frames"], 1),
        (shipped["minimum_iou_threshold"], ANY_OVERLAP),
    ):
        yield {**shipped, **dict(zip(KNOBS[1:], choice, strict=True))}


def track(tracker: Any, setting: dict[str, Any], boxes: TrackBoxes) -> TrackBoxes:
    """Identities of ``boxes``, whose own are not looked at; boxes left without one are dropped."""
    import supervision as sv

    running = tracker(**setting)
    found = []
    for frame in np.unique(boxes.frames).tolist():
        here = boxes.boxes[boxes.frames == frame].astype(np.float32)
        given = sv.Detections(xyxy=here, confidence=np.ones(len(here), dtype=np.float32))
        answer = running.update(given)
        for box, number in zip(answer.xyxy.tolist(), answer.tracker_id.tolist(), strict=True):
            if number >= 0:
                found.append([frame, number, *box])
    table = np.array(found, float).reshape(-1, 6)
    return TrackBoxes(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), table[:, 2:])


def main() -> None:
    parser = runner.arguments(__doc__, rounds=1)
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, help="keeps the extracted run")
    parser.add_argument("--strides", type=int, nargs="+", default=[1, 5, 10, 25, 50])
    given = runner.parsed(parser, strides=[25, 50])
    report = runner.Report("two flies, the same boxes for all; HOTA, switches and the rest")
    with runner.folder(given.work) as work:
        truth, embeddings = flies(given.data, work)
    for stride in given.strides:
        here = truth.frames % stride == 0
        seen = TrackBoxes(truth.frames[here], truth.ids[here], truth.boxes[here])

        def judged(found: TrackBoxes, seen: TrackBoxes = seen) -> runner.Measures:
            scores = evaluate(seen, found)
            return {name: float(getattr(scores, name)) for name in SCORES}

        rows = {
            f"link --preset {preset}": judged(linked(seen, embeddings[here], options))
            for preset, options in PRESETS.items()
        }
        for name, tracker in trackers().items():
            tried = [
                judged(track(tracker, setting, seen))
                for setting in settings(tracker, FRAMES_PER_SECOND / stride)
            ]
            rows[f"{name}, as shipped"] = tried[0]
            rows[f"{name}, best of {len(tried)}"] = max(tried, key=lambda one: one["hota"])
        print(f"\nevery {stride} frames, {len(seen.ids)} boxes".ljust(32) + " ".join(SCORES))
        for name, scores in rows.items():
            report.rounds[f"every {stride}, {name}"] = [scores]
            print(f"  {name:<28}" + "  ".join(f"{value:.4g}" for value in scores.values()))
    report.write(given.json)


if __name__ == "__main__":
    main()
