"""Real individuals that overlap are no duplicates; boxes of theirs that were moved a little are."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from pipelines.config import ExtractConfig
from pipelines.extract import extract
from tracks.association.costs import box_overlap
from tracks.association.duplicates import find_duplicates
from tracks.association.frames import by_frame
from tracks.boxes import TrackBoxes
from tracks.evaluation.evaluate import evaluate_run
from tracks.link import link_run
from tracks.motchallenge import read_truth
from tracks.store import read_tracks

PEOPLE = "tracks/tud-stadtmitte/gt.txt"
CLIPS = (PEOPLE, "tracks/trex-guppies/gt.txt", "tracks/ethoscope-flies/gt.txt")
CLIPS += ("flies/clip_gt_mot.txt",)


def sorted_truth(file: Path) -> TrackBoxes:
    truth, _ = read_truth(file)
    order = np.argsort(truth.frames, kind="stable")
    return TrackBoxes(truth.frames[order], truth.ids[order], truth.boxes[order])


@pytest.mark.parametrize("clip", CLIPS)
def test_no_two_true_boxes_are_one_whatever_they_look_like(data: Path, clip: str) -> None:
    """At a cosine of 0.9, the most that two of them have where they overlap by more than a half."""
    truth = sorted_truth(data / clip)
    alike = np.array([np.sqrt(0.9), np.sqrt(0.1)])

    def embeddings(rows: np.ndarray) -> np.ndarray:
        vectors = np.zeros((len(rows), len(rows) + 1), np.float32)
        vectors[:, 0] = alike[0]
        vectors[np.arange(len(rows)), np.arange(len(rows)) + 1] = alike[1]
        return vectors

    found = find_duplicates(truth.frames, truth.frames, truth.boxes, embeddings)
    assert found.tolist() == list(range(len(found)))


def test_people_who_cross_are_two_and_their_boxes_again_are_none_more(
    data: Path, tmp_path: Path
) -> None:
    truth = sorted_truth(data / PEOPLE)
    close = [
        rows
        for rows in by_frame(truth.frames)
        for overlap in [box_overlap(truth.boxes[rows][:, None], truth.boxes[rows][None])]
        if np.triu(overlap, 1).max(initial=0) >= 0.65
    ]
    assert len(close) > 10
    video, random = data / "tracks/tud-stadtmitte/TUD-Stadtmitte.mp4", np.random.default_rng(0)
    with (tmp_path / "boxes.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["detection_id", "image", "sequence", "frame", "x1", "y1", "x2", "y2", "detector_score"]
        )
        for row in np.concatenate([np.arange(rows.start, rows.stop) for rows in close]).tolist():
            frame = int(truth.frames[row]) - 1
            again = truth.boxes[row] + random.uniform(-3, 3, 4)
            for name, box in ((f"{row}", truth.boxes[row]), (f"{row} again", again)):
                image = f"{video}#frame={frame}"
                writer.writerow([name, image, "people", frame, *box, random.uniform()])
    run = extract(ExtractConfig(source=tmp_path / "boxes.csv", model="lite0"), tmp_path / "run").run
    summary = link_run(run.path)
    assert summary.detections == 2 * summary.duplicates > 100
    for row in read_tracks(run.path).to_pylist():
        of = row["duplicate_of"]
        assert of is None or of.split()[0] == row["detection_id"].split()[0]
    scores = evaluate_run(run.path, data / PEOPLE).together
    assert scores.boxes == summary.duplicates
    assert scores.false == 0
