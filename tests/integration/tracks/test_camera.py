"""Runs whose camera was moved, or changed the size of its images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.detections import BOX
from tests.helpers.runs import write_run
from tests.helpers.scenes import moths
from tracks.association.options import PRESETS
from tracks.evaluation.labels import labelled_by_truth
from tracks.link import link_run
from tracks.store import TracksManifest, read_tracks

SIZE = (1600, 900)


def run_of(
    folder: Path,
    scene: tuple[np.ndarray, ...],
    sizes: list[tuple[int, int]] | None = None,
) -> Path:
    """A run of a scene whose images have these sizes in turn, their boxes scaled with them."""
    folder.mkdir()
    frames, boxes, looks, _ = scene
    sizes = sizes or [SIZE]
    of_frames = [sizes[frame % len(sizes)] for frame in range(int(frames.max()) + 1)]
    for frame, size in enumerate(of_frames):
        Image.new("L", size).save(folder / f"{frame}.png")
    factors = np.array([of_frames[frame] for frame in frames.tolist()]) / SIZE
    scaled = boxes * np.tile(factors, 2)
    plan: dict[str, list[Any]] = {
        "image": [f"{frame}.png" for frame in frames],
        "sequence": ["x"] * len(frames),
        "frame": frames.tolist(),
    }
    plan |= {side: scaled[:, at].tolist() for at, side in enumerate(BOX)}
    return write_run(folder / "run", plan, looks, root=folder).path


def individuals(run: Path) -> list[str]:
    return [track.rpartition(":")[2] for track in read_tracks(run)["track_id"].to_pylist()]


@pytest.mark.parametrize("count", [4, 10])
def test_a_nudge_swaps_nobody_and_is_said(tmp_path: Path, count: int) -> None:
    scene = moths(count, moves={5: (118.0, 22.0)})
    run = run_of(tmp_path / "a", scene)
    summary = link_run(run)
    assert individuals(run) == [f"{who:05d}" for who in scene[3]]
    (note,) = summary.notes
    assert "sequence 'x': the camera moved by about 120 pixels between frames 4 and 5" in note
    assert TracksManifest.read(run / "tracks").counts.notes == summary.notes
    # Without looking at the camera, each is taken for its neighbour.
    without = link_run(run, options=PRESETS["online"].replace(camera_moves=False))
    assert without.notes == ()
    assert individuals(run) != [f"{who:05d}" for who in scene[3]]


@pytest.mark.parametrize(
    "sizes",
    [
        [SIZE, (800, 450)],
        [SIZE, (400, 225), SIZE, (3200, 1800)],
        [SIZE, SIZE, SIZE, (533, 300)],  # rounded
    ],
)
def test_every_second_image_in_another_size_gives_the_same_tracks(
    tmp_path: Path, sizes: list[tuple[int, int]]
) -> None:
    scene = moths(6, frames=8, spacing=90, missing={3: [2], 4: [2]}, moves={6: (0.0, 80.0)})
    one, many = run_of(tmp_path / "one", scene), run_of(tmp_path / "many", scene, sizes)
    link_run(one)
    notes = link_run(many).notes
    assert individuals(many) == individuals(one) == [f"{who:05d}" for who in scene[3]]
    for name in ("cost", "cost_iou", "cost_distance", "margin"):
        expected, got = (
            read_tracks(run)[name].to_numpy(zero_copy_only=False) for run in (one, many)
        )
        assert got == pytest.approx(expected, rel=1e-5, abs=2e-3, nan_ok=True)
    assert f"{len(set(sizes))} sizes" in notes[0]
    assert "80 pixels between frames 5 and 6" in notes[-1]


def test_a_turned_image_is_said(tmp_path: Path) -> None:
    run = run_of(tmp_path / "a", moths(4), [SIZE, SIZE, SIZE, SIZE[::-1]])
    (note,) = link_run(run).notes
    assert "2 images have another shape, such as 900x1600" in note
    assert "column 'sequence'" in note


def test_the_truth_has_the_pixels_of_each_image(tmp_path: Path) -> None:
    scene = moths(4)
    run = run_of(tmp_path / "a", scene, [SIZE, (800, 450)])
    frames, boxes, _, who = scene
    lines = []
    for frame, (x1, y1, x2, y2), individual in zip(frames, boxes, who, strict=True):
        factor = 0.5 if frame % 2 else 1.0
        sides = ",".join(f"{factor * side:.2f}" for side in (x1, y1, x2 - x1, y2 - y1))
        lines.append(f"{frame + 1},{individual + 1},{sides},1")
    (tmp_path / "x.txt").write_text("\n".join(lines))
    (sequence,) = labelled_by_truth(run, tmp_path)
    assert sequence.individuals.tolist() == (who + 1).tolist()
    assert sequence.boxes == pytest.approx(boxes, abs=0.01)
    assert len(set(sequence.diagonals.tolist())) == 1
