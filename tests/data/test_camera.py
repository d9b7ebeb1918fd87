"""Real cameras: those that stand still are seen to, and one that is knocked is seen to move."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops

from pipelines.config import ExtractConfig
from pipelines.extract import extract
from tracks.association.camera import camera_motion
from tracks.association.linker import link
from tracks.association.options import LinkOptions
from tracks.link import link_run
from tracks.motchallenge import read_truth
from tracks.store import read_tracks

CLIPS = {
    "tracks/tud-stadtmitte/gt.txt": 800.0,
    "tracks/trex-guppies/gt.txt": 3258.0,
    "tracks/ethoscope-flies/gt.txt": 1600.0,
    "flies/clip_gt_mot.txt": 1448.0,
}


def scene_of(file: Path, step: int) -> tuple[np.ndarray, ...]:
    """True boxes of one frame in ``step``, with looks that are the individual's and much noise."""
    truth, _ = read_truth(file)
    rows = np.lexsort([truth.ids, truth.frames])
    rows = rows[(truth.frames[rows] - 1) % step == 0]
    random = np.random.default_rng(0)
    looks = random.normal(size=(int(truth.ids.max()) + 1, 32))[truth.ids[rows]]
    looks += random.normal(scale=0.7, size=looks.shape)
    return truth.frames[rows], truth.boxes[rows].astype(float), looks


@pytest.mark.parametrize("step", [1, 2, 5, 10, 25, 50])
@pytest.mark.parametrize("clip", CLIPS)
def test_a_camera_that_stands_still(data: Path, clip: str, step: int) -> None:
    frames, boxes, looks = scene_of(data / clip, step)
    unit = looks / np.linalg.norm(looks, axis=1, keepdims=True)
    assert camera_motion(frames, boxes, unit).moves == ()
    with_it, without = (
        link(
            frames,
            boxes,
            looks + 3,
            diagonal_px=CLIPS[clip],
            options=LinkOptions(camera_moves=moves),
        )
        for moves in (True, False)
    )
    assert with_it.previous.tolist() == without.previous.tolist()


@pytest.mark.parametrize("clip", list(CLIPS)[:3])
@pytest.mark.parametrize("pixels", [60, 120, 200])
def test_a_nudge_in_a_real_clip(data: Path, clip: str, pixels: int) -> None:
    frames, boxes, looks = scene_of(data / clip, 1)
    unit = looks / np.linalg.norm(looks, axis=1, keepdims=True)
    random = np.random.default_rng(pixels)
    found, tries = 0, 5
    for at in random.choice(np.unique(frames)[5:-5], tries, replace=False).tolist():
        angle = random.uniform(0, 2 * np.pi)
        nudge = pixels * np.array([np.cos(angle), np.sin(angle)])
        moved = boxes + np.where(frames > at, 1.0, 0.0)[:, None] * np.tile(nudge, 2)
        near = np.abs(frames - at) < 60
        moves = camera_motion(frames[near], moved[near], unit[near]).moves
        assert len(moves) <= 1
        for move in moves:
            assert (move.before, move.frame) == (at, at + 1)
            assert move.shift[:2] == pytest.approx(nudge, abs=10)
            found += 1
    assert found >= tries - 1


def test_a_trap_that_is_knocked(data: Path, tmp_path: Path) -> None:
    knock = (118, 22)
    trap = data / "ami-trap"
    with (trap / "detections.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["sequence"] == "sequential"]
    images = sorted({row["image"] for row in rows})
    partitions = []
    for name, moved in (("still", images[:0]), ("knocked", images[3:])):
        folder = tmp_path / name
        folder.mkdir()
        for image in images:
            with Image.open(trap / image) as picture:
                shifted = ImageChops.offset(picture, *knock) if image in moved else picture
                shifted.save(folder / Path(image).name, quality=95)
        with (folder / "boxes.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["detection_id", "image", "sequence", "frame", "x1", "y1", "x2", "y2"])
            for number, row in enumerate(rows):
                dx, dy = knock if row["image"] in moved else (0, 0)
                sides = zip(("x1", "y1", "x2", "y2"), (dx, dy, dx, dy), strict=True)
                box = [float(row[side]) + shift for side, shift in sides]
                frame = images.index(row["image"])
                writer.writerow([number, Path(row["image"]).name, "trap", frame, *box])
        config = ExtractConfig(source=folder / "boxes.csv", model="lite0")
        run = extract(config, folder / "run").run.path
        notes = link_run(run).notes
        assert len(notes) == len(moved[:1])
        assert all("120 pixels between frames 2 and 3" in note for note in notes)
        tracks = read_tracks(run)
        order = np.argsort(tracks["detection_id"].to_numpy().astype(int))
        partitions.append(np.array(tracks["track_id"].to_pylist())[order])
    still, knocked = partitions
    assert len(set(still)) < len(still) / 2
    assert (
        np.unique(still, return_inverse=True)[1] == np.unique(knocked, return_inverse=True)[1]
    ).all()
