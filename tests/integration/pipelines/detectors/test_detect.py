"""``detect``: every image exactly once, whatever happens, and its boxes as a source of ``extract``."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from PIL import Image
from torchvision.transforms.functional import to_pil_image

import onepass
from common.errors import (
    FileAccessError,
    FolderError,
    InputError,
    RunError,
    SourceError,
    VerifyError,
)
from pipelines.config import ExtractConfig
from pipelines.detected.config import DetectConfig
from pipelines.detected.folder import Detections
from pipelines.detections import BOX
from pipelines.detectors import detect as module
from pipelines.detectors.detect import detect
from pipelines.extract import extract
from pipelines.images.reader import read_image
from tests.helpers.commands import ROOT, here
from tests.helpers.detectors import NAME, calibrated, of_classes, photo, reference
from tests.helpers.refusals import only_error
from tests.helpers.videos import write_video

IMAGES = 12
TURNED = (3, 6)  # images and EXIF's orientation


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.nn.Module, Path]:
    model = calibrated(of_classes(2))
    model.roi_heads.score_thresh = 0.0
    file = tmp_path_factory.mktemp("network") / "a.pth"
    torch.save(model.state_dict(), file)
    return model, file


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos") / "night"
    folder.mkdir()
    for number in range(IMAGES):
        exif = Image.Exif()
        if number == TURNED[0]:
            exif[0x0112] = TURNED[1]
        photo(number, (120, 80)).save(folder / f"{number:02d}.png", exif=exif)
    return folder


@pytest.fixture(scope="module")
def score(network: tuple[torch.nn.Module, Path], photos: Path) -> float:
    """One by which a third of the images has no box."""
    best = [found(network[0], file, 0.0)["scores"].max() for file in sorted(photos.iterdir())]
    assert len(set(best)) > 6
    return float(np.quantile(best, 1 / 3) + 1e-6)


def found(model: torch.nn.Module, file: Path, score: float) -> dict[str, np.ndarray]:
    with Image.open(file) as image:
        return reference(model, image, score)


def config_of(photos: Path, network: tuple[torch.nn.Module, Path], score: float) -> DetectConfig:
    return DetectConfig(
        source=str(photos),
        detector=f"torchvision:{NAME}",
        checkpoint=str(network[1]),
        score=score,
        max_boxes=500,
    )


@pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_every_image_has_the_boxes_of_the_network(
    executor: Any, photos: Path, network: Any, score: float, tmp_path: Path, request: Any
) -> None:
    if executor == "ray":
        request.getfixturevalue("ray_session")
    config = config_of(photos, network, score).model_copy(update={"executor": executor})
    # A worker of Ray has one thread for its CPU, and sums in another order.
    near = 1e-4 if executor == "local" else 1e-2
    images = detect(config, tmp_path / "boxes").images()
    assert images["image"].to_pylist() == [f"{number:02d}.png" for number in range(IMAGES)]
    assert images["frame"].to_pylist() == list(range(IMAGES))
    empty = 0
    for row, file in zip(images.to_pylist(), sorted(photos.iterdir()), strict=True):
        expected = found(network[0], file, score)
        order = np.argsort(-expected["scores"], kind="stable")
        corners = np.array([[box[side] for side in BOX] for box in row["boxes"]]).reshape(-1, 4)
        assert corners == pytest.approx(expected["boxes"][order], abs=near)
        scores = [box["detector_score"] for box in row["boxes"]]
        assert scores == pytest.approx(expected["scores"][order].tolist(), abs=near)
        assert (row["width"], row["height"]) == (120, 80)
        empty += not len(corners)
    assert empty >= 3
    manifest = Detections(tmp_path / "boxes").manifest
    assert (manifest.images, manifest.empty, manifest.failed) == (IMAGES, empty, 0)


def test_extract_takes_it_and_turns_boxes_with_their_image(
    photos: Path, network: Any, score: float, tmp_path: Path
) -> None:
    boxes = detect(config_of(photos, network, score), tmp_path / "boxes")
    config = ExtractConfig(source=str(tmp_path / "boxes"), model="tiny")
    outcome = extract(config, tmp_path / "run")
    columns = ["image", "frame", *BOX, "detector_score", "detector_label", "error"]
    table = outcome.run.to_arrow(columns)
    assert table.num_rows == len(boxes)
    assert table["error"].null_count == table.num_rows
    stored = boxes.boxes().to_pandas().set_index("image")
    upright = table.to_pandas().set_index("image")
    plain = stored.index != f"{TURNED[0]:02d}.png"
    same = [*BOX, "detector_score", "frame"]
    assert upright.loc[plain, same].to_numpy() == pytest.approx(stored.loc[plain, same].to_numpy())
    # Orientation 6 is shown after a quarter turn to the right: what was below is on the left.
    if (~plain).any():
        one, other = (each.loc[[f"{TURNED[0]:02d}.png"]] for each in (stored, upright))
        turned = np.column_stack([80 - one.y2, one.x1, 80 - one.y1, one.x2])
        assert other[list(BOX)].to_numpy() == pytest.approx(turned, abs=1e-3)
    # Images without boxes keep their number.
    assert sorted(set(upright.frame)) == sorted(set(stored.frame))
    assert len(set(upright.frame)) < IMAGES


def test_one_that_fails_is_continued_and_a_finished_one_is_left_alone(
    photos: Path, network: Any, score: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(photos, network, score)
    whole = detect(config, tmp_path / "whole").images()
    real, calls = module.answer, []

    def fails_once(block: Any) -> int:
        calls.append(block.file.name)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(block)

    monkeypatch.setattr(module, "answer", fails_once)
    out = tmp_path / "boxes"
    with pytest.raises(OSError, match="No space"):
        detect(config, out)
    with pytest.raises(RunError):
        Detections(out)
    with pytest.raises(InputError):  # unfinished ones are no source
        extract(ExtractConfig(source=str(out), model="tiny"), tmp_path / "run")
    assert detect(config, out).images().equals(whole)
    assert calls.count(calls[0]) == 1
    before = len(calls)
    assert detect(config, out).images().equals(whole)
    assert len(calls) == before
    for changes in ({"score": score / 2}, {"limit": 3}, {"max_boxes": 2}):
        with pytest.raises(FolderError):
            detect(config.model_copy(update=changes), out)


def test_killed_at_any_moment_the_same_command_continues(
    photos: Path, network: Any, score: float, tmp_path: Path
) -> None:
    config, out = config_of(photos, network, score), tmp_path / "boxes"
    whole = detect(config, tmp_path / "whole").images()
    words = ["detect", photos, "--detector", config.detector, "--checkpoint", network[1]]
    words += ["--score", repr(score), "--out", out]
    command = [sys.executable, "-m", "onepass", *map(str, words)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    limit = time.monotonic() + 60
    while not list(out.glob("images/part-*")) and process.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(10)
    assert here(*words).returncode == 0
    assert Detections(out).images().equals(whole)
    assert sorted(file.name for file in (out / "images").iterdir()) == sorted(
        name.partition("/")[2] for name in Detections(out).manifest.files
    )


def test_an_image_that_cannot_be_read_is_a_row_with_an_error(
    photos: Path, network: Any, score: float, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in sorted(photos.iterdir())[:5]:
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "02.png").write_bytes(b"not an image")
    found = detect(config_of(folder, network, score), tmp_path / "boxes")
    images = found.images()
    assert pc.sum(images["error"].is_valid()).as_py() == found.manifest.failed == 1
    assert images["boxes"].to_pylist()[2] is None
    whole = {file: file.read_bytes() for file in folder.iterdir()}
    for file in whole:
        file.write_bytes(b"nothing")
    with pytest.raises(FileAccessError):
        detect(config_of(folder, network, score), tmp_path / "none")
    for file, data in whole.items():
        file.write_bytes(data)
    again = detect(config_of(folder, network, score), tmp_path / "none")
    assert again.images().equals(images)


def test_what_does_not_fit_writes_nothing(photos: Path, network: Any, tmp_path: Path) -> None:
    config = config_of(photos, network, 0.5)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "mine.txt").write_text("mine")
    with pytest.raises(FolderError):
        detect(config, tmp_path / "other")
    assert [each.name for each in (tmp_path / "other").iterdir()] == ["mine.txt"]
    with pytest.raises(InputError):
        detect(config.model_copy(update={"detector": "ami:1999"}), tmp_path / "new")
    assert not (tmp_path / "new").exists()
    done = here("detect", photos, "--detector", "ami:2023", "--out", tmp_path / "new")
    assert "--checkpoint" in only_error(done.returncode, done.stdout, done.stderr)
    done = here(
        "detect", photos, "--detector", "x", "--checkpoint", network[1], "--out", tmp_path / "new"
    )
    assert "ami:2021" in only_error(done.returncode, done.stdout, done.stderr)


def test_nothing_found_and_damage_are_said(
    photos: Path, network: Any, score: float, tmp_path: Path
) -> None:
    detect(config_of(photos, network, 1.0), tmp_path / "none")
    with pytest.raises(SourceError, match="score"):
        extract(ExtractConfig(source=str(tmp_path / "none"), model="tiny"), tmp_path / "run")
    out = tmp_path / "boxes"
    detect(config_of(photos, network, score), out)
    part = next((out / "images").iterdir())
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(VerifyError):
        Detections(out).images()


def test_from_python_and_as_json(photos: Path, network: Any, score: float, tmp_path: Path) -> None:
    found = onepass.detect(
        photos,
        f"torchvision:{NAME}",
        tmp_path / "boxes",
        checkpoint=network[1],
        score=score,
        progress=False,
    )
    assert len(found) == found.boxes().num_rows == len(onepass.open_detections(tmp_path / "boxes"))
    run = onepass.extract(tmp_path / "boxes", model="tiny", out=tmp_path / "run", progress=False)
    assert len(run) == len(found)
    done = here(
        *("detect", photos, "--detector", f"torchvision:{NAME}", "--checkpoint", network[1]),
        *("--score", repr(score), "--out", tmp_path / "boxes", "--json"),
    )
    record = json.loads(done.stdout)
    assert (record["boxes"], record["images"]) == (len(found), IMAGES)


def test_frames_of_videos(network: Any, score: float, tmp_path: Path) -> None:
    write_video(tmp_path / "clips" / "train" / "still" / "a.mp4", 12)
    config = config_of(tmp_path / "clips", network, 0.0)
    found = detect(
        config.model_copy(update={"kind": "video", "frames": 5, "max_boxes": 3}), tmp_path / "boxes"
    )
    images = found.images().to_pylist()
    assert len(images) == found.manifest.images == 5
    for row in images:
        pixels = read_image(tmp_path / "clips", row["image"]).pixels
        assert (row["height"], row["width"], row["orientation"]) == (*pixels.shape[1:], 1)
        expected = reference(network[0], to_pil_image(pixels), 0.0)["boxes"][:3]
        corners = np.array([[box[side] for side in BOX] for box in row["boxes"]])
        assert corners == pytest.approx(expected, abs=1e-4)
    outcome = extract(ExtractConfig(source=str(tmp_path / "boxes"), model="tiny"), tmp_path / "run")
    assert outcome.run.manifest.rows.written == len(found) == 15
