"""Frames by number, clips by folder: exact, in order, and every trouble named."""

from __future__ import annotations

import shutil
import struct
from datetime import datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from common.errors import SourceError
from pipelines.frame_names import natural, parse_frame, split_and_category
from pipelines.images import video_index
from pipelines.images.decode import PIXELS, decode_rows, unpack
from pipelines.images.errors import ImageError
from pipelines.images.reader import read_image
from pipelines.images.tensors import TensorFile
from pipelines.images.video import VideoFile
from pipelines.images.video_index import index_video
from pipelines.model_info import Preprocess
from pipelines.sources.plan import Plan
from pipelines.sources.read import read_source
from pipelines.sources.videos import sample_frames
from tests.helpers.videos import SIDE, broken_videos, number_of, numbered_frame, write_video

VIDEO: dict[str, Any] = {"kind": "video", "frames": 8}


def as_array(pixels: torch.Tensor) -> np.ndarray:
    return pixels.permute(1, 2, 0).numpy()


def test_a_video_that_lies_is_turned_upright(tmp_path: Path) -> None:
    lying = write_video(tmp_path / "lying.mp4", 3, width=96, turned=90)
    plain = write_video(tmp_path / "plain.mp4", 3, width=96)
    expected = np.rot90(as_array(VideoFile(plain).frame(1)))
    np.testing.assert_array_equal(as_array(VideoFile(lying).frame(1)), expected)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n#EXT-X-ENDLIST\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\n",
    ],
    ids=["concat", "HLS", "SDP"],
)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts"])
def test_a_list_of_other_files_is_no_video(tmp_path: Path, name: str, text: str) -> None:
    write_video(tmp_path / "other.mp4", 3)
    (tmp_path / name).write_text(text)
    with pytest.raises(ImageError) as caught:
        VideoFile(tmp_path / name)
    assert caught.value.kind == "damaged video"


def test_only_the_frames_that_are_damaged_are_errors(tmp_path: Path) -> None:
    file = write_video(tmp_path / "clip.mp4", 36)
    with av.open(str(file)) as opened:
        packets = [(e.pos, e.size) for e in opened.streams.video[0].index_entries]
    data = bytearray(file.read_bytes())
    at, size = packets[14]  # in the second of three groups
    data[at : at + size] = bytes(size)
    file.write_bytes(data)
    video = VideoFile(file)
    failed = {}
    for number in range(36):
        try:
            video.frame(number)
        except ImageError as error:
            failed[number] = error.kind
    assert failed
    assert failed.keys() <= set(range(12, 24))
    assert set(failed.values()) == {"damaged video"}
    with pytest.raises(ImageError, match=r"missing frame: clip.mp4 has 36 frames, from 0: no 36"):
        video.frame(36)


def test_each_video_that_cannot_be_used_is_one_row_that_says_why(tmp_path: Path) -> None:
    expected = broken_videos(tmp_path / "train" / "flies")
    write_video(tmp_path / "train" / "flies" / "good.mp4", 20)
    table = read_source(str(tmp_path), **VIDEO).table
    errors = dict(zip(table["sequence"].to_pylist(), table["error"].to_pylist(), strict=True))
    assert errors.pop("train/flies/good.mp4") is None
    assert errors.keys() == {f"train/flies/{name}" for name in expected}
    for name, text in expected.items():
        assert errors[f"train/flies/{name}"].startswith(text), name
        assert errors[f"train/flies/{name}"].endswith(f"[train/flies/{name}]")
    assert table.num_rows == 8 + len(expected)


def test_whatever_a_decoder_raises_is_one_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "a.mp4", 3)
    write_video(tmp_path / "b.mp4", 3)

    def index(file: Path) -> object:
        if file.name == "a.mp4":
            raise struct.error("unpack requires a buffer of 4 bytes")
        return index_video(file)

    monkeypatch.setattr(video_index, "index_video", index)
    table = read_source(str(tmp_path), kind="video", frames=0).table
    errors = table["error"].to_pylist()
    assert [error is None for error in errors] == [False, True, True, True]
    assert "a.mp4" in errors[0]


def test_clips_of_every_kind_are_planned_alike(tmp_path: Path) -> None:
    write_video(tmp_path / "train" / "bees" / "20260102030405.mp4", 15)
    sequence = tmp_path / "val" / "ants" / "walk"
    sequence.mkdir(parents=True)
    for number in range(12):  # named so that text order is not number order
        Image.fromarray(numbered_frame(number)).save(sequence / f"frame{number}.png")
    stacked = torch.stack(
        [torch.from_numpy(numbered_frame(n)).permute(2, 0, 1) for n in range(20)]
    ).reshape(2, 10, 3, SIDE, SIDE)
    (tmp_path / "val" / "bees").mkdir()
    torch.save({"videos": stacked}, tmp_path / "val" / "bees" / "processed_data.pt")
    (tmp_path / "val" / "wasps").mkdir()
    (tmp_path / "notes.txt").write_text("hello")

    plan = read_source(str(tmp_path), **VIDEO)
    rows = plan.table.to_pylist()
    clips = list(dict.fromkeys((r["sequence"], r["split"], r["category"]) for r in rows))
    assert clips == [
        ("train/bees/20260102030405.mp4", "train", "bees"),
        ("val/ants/walk", "val", "ants"),
        ("val/bees/processed_data.pt#video=0", "val", "bees"),
        ("val/bees/processed_data.pt#video=1", "val", "bees"),
    ]
    numbers = {name: [r["frame"] for r in rows if r["sequence"] == name] for name, _, _ in clips}
    assert list(numbers.values()) == [
        list(np.linspace(0, count - 1, 8).astype(int)) for count in (15, 12, 10, 10)
    ]
    assert plan.skipped == {".txt": 1}
    assert plan.notes == ("folders without a clip: val/wasps",)
    stamps = plan.table["timestamp"].to_pylist()
    assert stamps[1].isoformat() == "2026-01-02T03:04:05.080000"  # frame 2, at 25 a second
    assert stamps[8] is None
    assert decoded_numbers(plan) == [r["frame"] for r in rows[:24]] + [
        10 + r["frame"] for r in rows[24:]
    ]


def decoded_numbers(plan: Plan) -> list[int]:
    """What the decoded pixels tell: not what the names say."""
    how = Preprocess(input_size=(SIDE, SIDE), mean=(0.5,) * 3, std=(0.5,) * 3, resize="squash")
    decoded = decode_rows(plan.table, plan.root, {PIXELS: how})
    assert decoded["error"].null_count == decoded.num_rows
    return [number_of(frame) for frame in unpack(decoded, PIXELS, how)]


def test_timestamps_are_the_files_own(tmp_path: Path) -> None:
    """Of variable rates as well; from the rate only where the file holds none, which is said."""
    began = datetime(2026, 1, 2, 3, 4, 5)
    for name, ticks in {"mp4": lambda n: n * n, "mkv": lambda n: 500 * n, "ts": None}.items():
        write_video(tmp_path / f"20260102030405.{name}", 20, codec="libx264", ticks=ticks)
    for name in ("avi", "h264"):
        write_video(tmp_path / f"20260102030405.{name}", 20, codec="libx264")
    plan = read_source(str(tmp_path), kind="video", frames=3)
    rows = plan.table.group_by("sequence", use_threads=False).aggregate([("timestamp", "list")])
    stamps = dict(zip(*(column.to_pylist() for column in rows.columns), strict=True))
    seconds = {
        name.split(".")[1]: [(stamp - began).total_seconds() for stamp in stamps[name]]
        for name in stamps
    }
    assert seconds == {
        "mp4": [0, 0.81, 3.61],
        "mkv": [0, 45, 95],
        "ts": [0, 0.36, 0.76],
        "avi": [0, 0.36, 0.76],
        "h264": [0, 0.36, 0.76],
    }
    (note,) = plan.notes
    assert "20260102030405.avi, 20260102030405.h264" in note


def test_every_frame_and_a_few_clips(tmp_path: Path) -> None:
    for number in range(9):
        write_video(tmp_path / f"{number}.mp4", 3 + number)
    every = read_source(str(tmp_path), kind="video", frames=0).table
    assert every.num_rows == sum(3 + number for number in range(9))
    few = read_source(str(tmp_path), kind="video", frames=2, limit=3).table
    assert few["image"].to_pylist() == [
        *("0.mp4#frame=0", "0.mp4#frame=2"),
        *("4.mp4#frame=0", "4.mp4#frame=6"),
        *("8.mp4#frame=0", "8.mp4#frame=10"),
    ]
    assert few["row_id"].to_pylist() == list(range(6))
    alone = read_source(str(tmp_path / "3.mp4"), kind="video", frames=2).table
    assert alone["image"].to_pylist() == ["3.mp4#frame=0", "3.mp4#frame=5"]
    assert alone["split"].to_pylist() == ["all", "all"]
    assert alone["category"].to_pylist() == [None, None]


def test_sizes_that_differ_are_said(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 8)
    write_video(tmp_path / "b.mp4", 8, width=128)
    (tmp_path / "c").mkdir()
    for number in range(8):
        picture = Image.fromarray(numbered_frame(number, width=64 + number // 4 * 32))
        picture.save(tmp_path / "c" / f"{number}.png")
    plan = read_source(str(tmp_path), **VIDEO)
    assert plan.notes == (
        "clips of 2 sizes, all resized alike: 64x64 (1), 128x64 (1)",
        "clips whose frames differ in size, all resized alike: c",
    )
    assert decoded_numbers(plan) == [*range(8)] * 3


def test_rows_with_a_known_error_keep_it_and_read_nothing(tmp_path: Path) -> None:
    write_video(tmp_path / "good.mp4", 8)
    write_video(tmp_path / "short.mp4", 3)
    plan = read_source(str(tmp_path), **VIDEO)
    shutil.rmtree(tmp_path)
    how = Preprocess(input_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    done: list[int] = []
    decoded = decode_rows(plan.table, plan.root, {PIXELS: how}, done=done.append)
    errors = decoded["error"].to_pylist()
    assert errors[:8] == [
        f"missing file: good.mp4 does not exist [good.mp4#frame={n}]" for n in range(8)
    ]
    assert errors[8:] == plan.table["error"].to_pylist()[8:]
    assert sum(done) == 9


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("scale", [1, 1 / 255, 1.0])
def test_tensors_are_pixels_whatever_their_scale(
    tmp_path: Path, scale: float, old_format: bool
) -> None:
    clip = torch.from_numpy(np.stack([numbered_frame(n) for n in range(5)])).permute(0, 3, 1, 2)
    if isinstance(scale, float):
        clip = clip * scale
    torch.save(clip, tmp_path / "c.pt", _use_new_zipfile_serialization=not old_format)
    file = TensorFile(tmp_path / "c.pt")
    assert file.shape == (1, 5, SIDE, SIDE)
    np.testing.assert_array_equal(as_array(file.frame(4)), numbered_frame(4))
    with pytest.raises(ImageError) as refused:
        file.frame(5)
    assert refused.value.kind == "missing frame"


@pytest.mark.parametrize(
    "value",
    [
        torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8),  # normalised already
        torch.full((2, 3, 8, 8), torch.nan),
        torch.zeros(2, 5, 8, 8),
        {"labels": torch.zeros(3)},
        Path("code"),
    ],
    ids=["normalised", "NaN", "five channels", "no videos", "not tensors"],
)
def test_tensors_that_are_no_pixels_are_refused(tmp_path: Path, value: object) -> None:
    torch.save(value, tmp_path / "c.pt")
    with pytest.raises(ImageError) as refused:
        TensorFile(tmp_path / "c.pt").frame(0)
    assert refused.value.kind == "damaged tensors"


def test_names() -> None:
    assert parse_frame("a/b.mp4#frame=12") == ("a/b.mp4", None, 12)
    assert parse_frame("a/b.pt#video=3&frame=0") == ("a/b.pt", 3, 0)
    assert parse_frame("odd#frame.jpg") is None
    assert parse_frame("photo#frame=x") is None
    assert split_and_category("train/bees/deep/x.jpg") == ("train", "bees")
    assert split_and_category("bees/x.mp4#frame=3") == ("all", "bees")
    assert split_and_category("train/x.mp4") == ("train", None)
    assert split_and_category("x.mp4") == ("all", None)
    assert split_and_category("/data/set/val/ants/x.jpg") == ("val", "ants")
    assert sorted(["f10", "f9", "f", "g1"], key=natural) == ["f", "f9", "f10", "g1"]
    assert sample_frames(1500, 64)[:3] == [0, 23, 47]
    assert sample_frames(64, 64) == list(range(64))


def test_an_odd_image_name_is_still_an_image(tmp_path: Path) -> None:
    Image.fromarray(numbered_frame(7)).save(tmp_path / "odd#frame=x.png")
    assert number_of(as_array(read_image(tmp_path, "odd#frame=x.png").pixels)) == 7


@pytest.mark.parametrize(
    ("name", "source", "kind", "hint"),
    [
        ("a.mp4", "", "images", "kind='video'"),
        ("a.mp4", "a.mp4", "images", "kind='video'"),
        ("a.txt", "", "video", "found: 1 .txt"),
        ("a.csv", "a.csv", "video", "takes a folder or a video"),
    ],
)
def test_the_wrong_kind_of_source(
    tmp_path: Path, name: str, source: str, kind: Any, hint: str
) -> None:
    (tmp_path / name).write_bytes(b"image\n")
    with pytest.raises(SourceError, match=hint):
        read_source(str(tmp_path / source), kind=kind)


def test_a_limit_of_images_takes_them_from_the_whole_source(tmp_path: Path) -> None:
    rows = [(f"{image}.jpg", float(box)) for image in range(10) for box in range(image % 3)]
    table = pa.table({"image": [i for i, _ in rows], "x1": [x for _, x in rows]})
    for name, value in (("y1", 0.0), ("x2", 50.0), ("y2", 50.0)):
        table = table.append_column(name, pa.array([value] * len(rows)))
    pq.write_table(table, tmp_path / "rows.parquet")
    plan = read_source(str(tmp_path / "rows.parquet"), limit=3).table
    assert plan["image"].to_pylist() == ["1.jpg", "4.jpg", "8.jpg", "8.jpg"]
    assert plan["row_id"].to_pylist() == [0, 1, 2, 3]
