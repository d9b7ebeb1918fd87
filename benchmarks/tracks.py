"""How well onepass tracks real individuals, beside trackers that people use, on the same boxes.

    python benchmarks/tracks.py DATA [--work DIR] [--json out.json] [--strides 1,5,10,25,50]

DATA holds ``flies/clip.mp4``, two courting flies for a minute at 25 frames/s, and its truth. The
true boxes of every 1st, 5th, … frame are the detections; their identities are what is asked for.
``--work`` keeps the run that the embeddings are in: one crop a box, EfficientNet-Lite0.

Rows are onepass' presets, and SORT, ByteTrack and OC-SORT of ``trackers`` as they are shipped and
at the best of the settings of ``_trackers.py`` for that stride, chosen on this clip. All are judged
by ``tracks.evaluation.scores`` (``trackers.eval``). These trackers work as frames come in and give the
first boxes of a track no identity, which the scores count as boxes not found: look at switches and
tracks as well before calling a few thousandths a difference.

Needs ``trackers``, installed without what it asks for: ``pip install --no-deps 'trackers>=2.6'``.
"""

from __future__ import annotations

import argparse
import csv
import json
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from _common import CORES, ENVIRONMENT
from _trackers import TRACKERS, kinder, shipped, track

from pipelines.run import Run
from tracks.association.linker import link
from tracks.association.options import PRESETS, LinkOptions
from tracks.evaluation.motchallenge import FIRST_FRAME, read_truth
from tracks.evaluation.scores import Scores, Tracked, evaluate
from tracks.linked import unclaimed

FRAMES_PER_SECOND = 25
SIDE = 1024  # of the clip, in pixels
PACKAGES = ("trackers", "numpy", "scipy")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, help="keeps the extracted run")
    parser.add_argument("--strides", default="1,5,10,25,50")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        truth, embeddings = flies(given.data.resolve() / "flies", work)
    machine = f"{CORES} cores, {platform.processor() or platform.machine()}"
    versions = {name: version(name) for name in PACKAGES}
    print(f"{machine}; {', '.join(f'{name} {known}' for name, known in versions.items())}")
    rows: list[dict[str, Any]] = []
    for stride in map(int, given.strides.split(",")):
        rows += compared(truth, embeddings, stride)
    if given.json:
        told = {"machine": machine, "versions": versions, "rows": rows}
        given.json.write_text(json.dumps(told, indent=2) + "\n")


def flies(folder: Path, work: Path) -> tuple[Tracked, np.ndarray]:
    """The truth, by frame from 0 and shuffled inside, and the embedding of each of its boxes."""
    truth, _ = read_truth(folder / "clip_gt_mot.txt")
    truth = replace(truth, frames=truth.frames - FIRST_FRAME)
    # Nobody may profit from how the truth lists its boxes, so each frame is shuffled.
    order = np.lexsort([np.random.default_rng(0).random(len(truth.ids)), truth.frames])
    truth = Tracked(truth.frames[order], truth.ids[order], truth.boxes[order])
    run = work / "run"
    if not (run / "manifest.json").is_file():
        manifest = work / "boxes.csv"
        with manifest.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "sequence", "frame", "x1", "y1", "x2", "y2"])
            for frame, box in zip(truth.frames.tolist(), truth.boxes.tolist(), strict=True):
                image = f"{folder / 'clip.mp4'}#frame={frame}"
                writer.writerow([image, "flies", frame, *(f"{side:.2f}" for side in box)])
        command = [sys.executable, "-m", "onepass", "extract", str(manifest), "--model", "lite0"]
        subprocess.run([*command, "--out", str(run)], check=True, timeout=1800, env=ENVIRONMENT)
    table = Run.open(run).table(["frame", "x1", "embedding", "error"])
    assert table["error"].null_count == table.num_rows == len(truth.frames)
    place = {key: row for row, key in enumerate(_keys(table["frame"], table["x1"]))}
    rows = [place[key] for key in _keys(truth.frames, truth.boxes[:, 0])]
    embeddings = np.asarray(table["embedding"].combine_chunks().flatten())
    return truth, embeddings.reshape(table.num_rows, -1)[rows]


def _keys(frames: Iterable[Any], left: Iterable[Any]) -> list[tuple[int, str]]:
    return [(int(frame), f"{float(x):.1f}") for frame, x in zip(frames, left, strict=True)]


def compared(truth: Tracked, embeddings: np.ndarray, stride: int) -> list[dict[str, Any]]:
    """Every contender on every ``stride``-th frame, printed and returned."""
    here = truth.frames % stride == 0
    seen = Tracked(truth.frames[here], truth.ids[here], truth.boxes[here])
    frames = np.unique(seen.frames)
    print(f"\nevery {stride} of 1500 frames: {len(frames)} frames, {len(seen.ids)} boxes")
    print(f"  {'':36}  HOTA  DetA  AssA  IDF1   MOTA  switches  frag.  tracks")
    rows = []

    def tell(name: str, scores: Scores, setting: dict[str, Any]) -> None:
        rows.append({"stride": stride, "name": name, "setting": setting, **asdict(scores)})
        print(
            f"  {name:36} {scores.hota:.3f} {scores.det_a:.3f} {scores.ass_a:.3f} "
            f"{scores.idf1:.3f} {scores.mota:6.3f} {scores.switches:9} {scores.fragmentations:6} "
            f"{scores.tracks:7}"
        )

    for preset, options in PRESETS.items():
        scores = evaluate(seen, linked(seen, embeddings[here], options))
        tell(f"onepass {preset}", scores, asdict(options))
    for name in TRACKERS:
        usual = shipped(name)
        tell(f"{name}, as shipped", evaluate(seen, track(name, seen, frames, usual)), usual)
        tried = [
            (evaluate(seen, track(name, seen, frames, setting)), setting)
            for setting in kinder(name, FRAMES_PER_SECOND / stride)
        ]
        scores, setting = max(tried, key=lambda one: one[0].hota)
        changed = {knob: value for knob, value in setting.items() if value != usual[knob]}
        tell(f"{name}, best of {len(tried)}", scores, setting)
        print(f"  {'':6}{', '.join(f'{k} {v:g}' for k, v in changed.items()) or 'as shipped'}")
    return rows


def linked(seen: Tracked, embeddings: np.ndarray, options: LinkOptions) -> Tracked:
    """What ``onepass link`` makes of these boxes."""
    links = link(seen.frames, seen.boxes, embeddings, diagonal_px=SIDE * 2**0.5, options=options)
    took = links.track >= 0
    numbers = unclaimed(seen.frames[took], links.track[took], links.cost[took])
    return Tracked(seen.frames[took], numbers, seen.boxes[took])


if __name__ == "__main__":
    main()
