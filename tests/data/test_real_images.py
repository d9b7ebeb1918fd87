"""Real images, real weights: classes that are right and tracks that are there."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from index.tracks import link_run, read_tracks
from pipelines.extract import extract
from pipelines.facts import ModelRequest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

LITE0 = ModelRequest(spec="lite0")


def test_two_hundred_imagenet_images(ray_session: None, data: Path, tmp_path: Path) -> None:
    with (data / "imagenet" / "classes.csv").open() as file:
        index_of = {row["wnid"]: int(row["index"]) for row in csv.DictReader(file)}
    outcome = extract(str(data / "imagenet"), LITE0, tmp_path / "run")
    assert outcome.skipped_files == {".csv": 1}
    assert outcome.run.manifest.rows.failed == 0
    table = outcome.run.table(["image", "label_index", "embedding"])
    truth = [index_of[image.split("_")[0]] for image in table["image"].to_pylist()]
    assert len(truth) == 200
    assert np.mean(table["label_index"].to_numpy() == truth) >= 0.87
    # The widest gap of one wrong preprocessing step is 7 points; of a wrong layer, all of them.
    embeddings = np.asarray(table["embedding"].combine_chunks().flatten()).reshape(200, -1)
    assert len(np.unique(embeddings, axis=0)) == 200
    audit = outcome.run.manifest.precision_audit
    assert audit is None or audit.cosine_min > 0.99


def test_a_night_at_the_trap(ray_session: None, data: Path, tmp_path: Path) -> None:
    run = extract(str(data / "ami-trap" / "detections.csv"), LITE0, tmp_path / "run").run
    assert run.manifest.rows.written == 119
    detections = run.table(["detection_id", "error", "detector_score", "detector_label"])
    assert detections["detector_score"].null_count == 0
    summary = link_run(run.path)
    tracks = read_tracks(run.path)
    good = detections.filter(pc.is_null(detections["error"]))["detection_id"].to_pylist()
    assert sorted(tracks["detection_id"].to_pylist()) == sorted(good)
    assert summary.detections == len(good) == 119 - run.manifest.rows.failed
    still = tracks.filter(pc.equal(tracks["sequence"], "sequential"))
    lengths = still.group_by("track_id").aggregate([("detection_id", "count")])
    assert pc.max(lengths["detection_id_count"]).as_py() == 5
    # A track never takes two detections of one frame.
    frames = still.group_by(["track_id", "frame"]).aggregate([("detection_id", "count")])
    assert pc.max(frames["detection_id_count"]).as_py() == 1
