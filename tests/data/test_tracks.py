"""Two courting flies with their truth: boxes in, identities out, judged by a third party."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipelines.config import ExtractConfig
from pipelines.extract import extract
from tracks.association.options import PRESETS
from tracks.evaluation.evaluate import evaluate_run
from tracks.link import link_run
from tracks.motchallenge import read_truth

STRIDE = 10


@pytest.fixture(scope="module")
def flies(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the true boxes of every tenth frame."""
    folder = tmp_path_factory.mktemp("flies")
    truth, _ = read_truth(data / "flies" / "clip_gt_mot.txt")
    with (folder / "boxes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "sequence", "frame", "x1", "y1", "x2", "y2"])
        for frame, box in zip((truth.frames - 1).tolist(), truth.boxes.tolist(), strict=True):
            if frame % STRIDE == 0:
                image = f"{data / 'flies' / 'clip.mp4'}#frame={frame}"
                writer.writerow([image, "flies", frame, *box])
    run = extract(ExtractConfig(source=folder / "boxes.csv", model="lite0"), folder / "run").run
    assert (run.manifest.rows.written, run.manifest.rows.failed) == (300, 0)
    return run.path


def test_two_flies_are_two_tracks(flies: Path, data: Path) -> None:
    summary = link_run(flies)
    assert (summary.detections, summary.tracks) == (300, 2)
    judged = evaluate_run(flies, data / "flies" / "clip_gt_mot.txt").sequences[0]
    scores = judged.scores
    assert (scores.frames, scores.truth_boxes, scores.truth_tracks) == (150, 300, 2)
    assert (judged.unseen_frames, judged.empty_frames, judged.truthless_frames) == (1350, 0, 0)
    assert (scores.switches, scores.fragmentations, scores.missed, scores.false) == (0, 0, 0, 0)
    # Boxes went through float32, no further: IoU stays above HOTA's last threshold, 0.95.
    assert scores.hota == scores.idf1 == scores.mota == 1


def test_the_old_rule_loses_them(flies: Path, data: Path) -> None:
    """What the scores say of worse tracks: the greedy rule on the last frame alone."""
    link_run(flies, options=PRESETS["ami"])
    scores = evaluate_run(flies, data / "flies" / "clip_gt_mot.txt").together
    assert scores.det_a == 1
    assert scores.hota == pytest.approx(0.88, abs=0.03)
    assert scores.idf1 == pytest.approx(0.843, abs=0.04)
    assert 4 <= scores.switches <= 6
    assert scores.tracks == scores.switches + 2
