"""Real images, real weights: classes that are right and tracks that are there."""

from __future__ import annotations

import csv
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from onepass.cli.inspect import inspect
from pipelines.config import ExtractConfig
from pipelines.engines.engine import Engine
from pipelines.extract import Outcome, extract
from pipelines.images.formats import decode
from pipelines.images.pixels import read, resize
from pipelines.run import Run
from tracks.association.options import LinkOptions
from tracks.link import link_run
from tracks.store import read_tracks


def lite0(source: Path, **fields: Any) -> ExtractConfig:
    return ExtractConfig(source=source, model="lite0", **fields)


def insects(data: Path, source: Path) -> ExtractConfig:
    return ExtractConfig(
        source=source,
        model="timm:mobilenetv2_100",
        checkpoint=str(data / "models" / "mobilenetv2_100_same_inat_insect.pth"),
        labels=str(data / "models" / "inat_insect_labels.txt"),
        mean=(128 / 255,) * 3,
        std=(128 / 255,) * 3,
        resize="squash",
    )


def truth_of(data: Path, images: list[str]) -> list[int]:
    with (data / "imagenet" / "classes.csv").open() as file:
        index_of = {row["wnid"]: int(row["index"]) for row in csv.DictReader(file)}
    return [index_of[image.split("_")[0]] for image in images]


@pytest.fixture(scope="module")
def imagenet(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return extract(lite0(data / "imagenet"), tmp_path_factory.mktemp("imagenet") / "run")


def top1(run: Run, data: Path) -> float:
    table = run.to_arrow(["image", "label_index"])
    truth = truth_of(data, table["image"].to_pylist())
    assert len(truth) == 200
    return float(np.mean(table["label_index"].to_numpy() == truth))


def test_two_hundred_imagenet_images(imagenet: Outcome, data: Path) -> None:
    assert imagenet.skipped_files == {".csv": 1}
    assert imagenet.run.manifest.rows.failed == 0
    # The widest gap of one wrong preprocessing step is 7 points; of a wrong layer, all of them.
    assert top1(imagenet.run, data) >= 0.87
    table = imagenet.run.to_arrow(["embedding"])
    embeddings = np.asarray(table["embedding"].combine_chunks().flatten()).reshape(200, -1)
    assert len(np.unique(embeddings, axis=0)) == 200


def test_what_auto_chose_keeps_class_and_embedding(imagenet: Outcome, data: Path) -> None:
    """Against every image in exact float32: what ``auto`` promises for any format it takes."""
    facts = imagenet.run.manifest.model
    table = imagenet.run.to_arrow(["image", "label_index", "embedding"])
    pixels = np.stack(
        [
            resize(decode(read(data / "imagenet" / image)).pixels, facts.preprocess).permute(
                1, 2, 0
            )
            for image in table["image"].to_pylist()
        ]
    )
    exact = Engine(facts, "fp32")(pixels)
    stored = np.asarray(table["embedding"].combine_chunks().flatten()).reshape(200, -1)
    lengths = np.linalg.norm(stored, axis=1) * np.linalg.norm(exact.embedding, axis=1)
    assert ((stored * exact.embedding).sum(1) / lengths).mean() >= 0.999
    assert (table["label_index"].to_numpy() == exact.logits.argmax(1)).mean() >= 0.995


def test_wrong_preprocessing_shows(
    imagenet: Outcome, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    run = extract(lite0(data / "imagenet", **wrong), tmp_path / "run").run
    assert top1(run, data) <= top1(imagenet.run, data) - 0.03
    assert run.manifest.fingerprint != imagenet.run.manifest.fingerprint
    for shown, numbers in ((run, "mean 0.485 0.456 0.406"), (imagenet.run, "mean 0.5 0.5 0.5")):
        inspect(shown.path)
        assert numbers in capsys.readouterr().out


def test_an_insect_classifier_of_somebodys_own(data: Path, tmp_path: Path) -> None:
    """A checkpoint, its labels and its preprocessing: bees are bees, trap crops get insects."""
    bees = extract(insects(data, data / "hymenoptera" / "val"), tmp_path / "bees").run
    table = bees.to_arrow(["image", "label", "score"])
    names = table["label"].to_pylist()
    of_bees = [n for n, f in zip(names, table["image"].to_pylist(), strict=True) if "bees" in f]
    assert len(of_bees) == 40
    assert Counter(of_bees).most_common(1)[0][0] == "Apis mellifera (Honey Bee)"
    assert np.mean(["Bee" in n or "Bumble" in n for n in of_bees]) >= 0.6
    trap = extract(insects(data, data / "ami-trap" / "detections.csv"), tmp_path / "trap").run
    table = trap.to_arrow(["label", "score", "error"])
    assert table["error"].null_count == table.num_rows == 119
    named = [
        name
        for name, score in zip(table["label"].to_pylist(), table["score"].to_pylist(), strict=True)
        if name != "background" and score >= 0.3
    ]
    # Most boxes of the trap are a few dozen pixels; those it does name are mostly moths.
    assert len(named) >= 5
    assert np.mean(["Moth" in name for name in named]) >= 0.5


def test_a_night_at_the_trap(data: Path, tmp_path: Path) -> None:
    run = extract(lite0(data / "ami-trap" / "detections.csv"), tmp_path / "run").run
    assert run.manifest.rows.written == 119
    detections = run.to_arrow(["detection_id", "error", "detector_score", "detector_label"])
    assert detections["detector_score"].null_count == 0
    summary = link_run(run.path)
    tracks = read_tracks(run.path)
    good = detections.filter(pc.is_null(detections["error"]))["detection_id"].to_pylist()
    assert sorted(tracks["detection_id"].to_pylist()) == sorted(good)
    assert summary.detections == len(good) == 119 - run.manifest.rows.failed
    # Nothing is claimed twice, and no track takes two detections of one frame.
    claimed = tracks["previous_detection_id"].drop_null()
    assert len(claimed) == pc.count_distinct(claimed).as_py()
    frames = tracks.group_by(["track_id", "frame"]).aggregate([("detection_id", "count")])
    assert pc.max(frames["detection_id_count"]).as_py() == 1
    for still in STILL:
        assert track_from(run, still) == [0, 1, 2, 3, 4]
    assert track_from(run, ORANGE_MOTH) == [0, 1, 2, 3, 4]
    link_run(run.path, options=LinkOptions(max_gap_frames=3))
    assert track_from(run, THIN_FLY) == [0, 1, 4]
    link_run(run.path, options=LinkOptions(max_gap_frames=0))
    assert track_from(run, THIN_FLY) == [0, 1]


# Individuals of the five frames by the centre of their first box, in pixels; who is who was seen
# by eye. The moth walks 735 pixels, the fly is not detected in frames 2 and 3.
STILL = (
    *((1537, 929), (1667, 507), (800, 1646), (719, 1431)),
    *((2157, 308), (1730, 1554), (3800, 397), (2733, 837)),
)
ORANGE_MOTH = (889, 846)
THIN_FLY = (1062, 1142)


def track_from(run: Run, start: tuple[int, int]) -> list[int]:
    """Frames of the track that starts in frame 0 of the five, around ``start``."""
    boxes = run.to_arrow(["detection_id", "x1", "y1", "x2", "y2", "sequence", "frame"]).to_pylist()
    first = [
        box["detection_id"]
        for box in boxes
        if (box["sequence"], box["frame"]) == ("sequential", 0)
        and abs(box["x1"] + box["x2"] - 2 * start[0]) <= 4
        and abs(box["y1"] + box["y2"] - 2 * start[1]) <= 4
    ]
    assert len(first) == 1
    tracks = read_tracks(run.path).to_pylist()
    (name,) = [row["track_id"] for row in tracks if row["detection_id"] == first[0]]
    return [row["frame"] for row in tracks if row["track_id"] == name]
