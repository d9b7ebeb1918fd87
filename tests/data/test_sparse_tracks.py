"""Real individuals at frame rates that no rule was set for: one default, judged by a third party."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipelines.config import ExtractConfig
from pipelines.extract import extract
from tracks.evaluation.evaluate import evaluate_run
from tracks.link import link_run
from tracks.motchallenge import read_truth

VIDEOS = {
    "tracks/tud-stadtmitte": "TUD-Stadtmitte.mp4",
    "tracks/ethoscope-flies": "arena_10x2_sortTubes.mp4",
}
FISH = "tracks/trex-guppies"


# Least IDF1: in brackets the best of SORT, ByteTrack, OC-SORT and BoT-SORT on the same boxes.
@pytest.mark.parametrize(
    ("clip", "every", "least"),
    [
        ("tracks/tud-stadtmitte", 5, 0.98),  # (0.994)
        ("tracks/tud-stadtmitte", 20, 0.93),  # (0.535)
        ("tracks/ethoscope-flies", 40, 1.0),  # (0.694)
        (FISH, 5, 0.68),  # (0.324)
    ],
)
def test_one_default_for_people_flies_and_fish(
    data: Path, tmp_path: Path, clip: str, every: int, least: float
) -> None:
    file = data / clip / "gt.txt"
    truth, _ = read_truth(file)
    photos = sorted((data / clip / "img1").glob("*")) if clip == FISH else []
    with (tmp_path / "boxes.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["image", "sequence", "frame", "x1", "y1", "x2", "y2"])
        for frame, box in zip((truth.frames - 1).tolist(), truth.boxes.tolist(), strict=True):
            if frame % every == 0:
                image = photos[frame] if photos else f"{data / clip / VIDEOS[clip]}#frame={frame}"
                writer.writerow([image, "clip", frame, *box])
    run = extract(ExtractConfig(source=tmp_path / "boxes.csv", model="lite0"), tmp_path / "run").run
    link_run(run.path)
    scores = evaluate_run(run.path, file).together
    assert (scores.missed, scores.false) == (0, 0)
    assert scores.idf1 >= least
