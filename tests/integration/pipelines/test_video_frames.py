"""Frames of videos: number N is the N-th frame that a full decode by PyAV yields, however read."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipelines.images.errors import ImageError
from pipelines.images.video import VideoFile, read_video_info
from pipelines.images.video_index import index_video
from tests.helpers.videos import (
    SIDE,
    VideoPacket,
    copy_video,
    full_decode,
    number_of,
    numbered_frame,
    without_beginning,
    write_video,
)
from tracks.geometry import upright_size

Options = dict[str, Any]  # of `write_video`
Change = Callable[[Path, Path], Path]

COUNT = 45
H264: Options = {"codec": "libx264", "options": {"preset": "veryfast"}}
H265: Options = {
    "codec": "libx265",
    "options": {"preset": "veryfast", "x265-params": "log-level=none"},
}
OPEN_GOP: Options = {
    "codec": "libx264",
    "b_frames": 3,
    "options": {"x264-params": "open-gop=1:keyint=12:scenecut=0"},
}
REFRESH: Options = {
    "codec": "libx264",
    "b_frames": 0,
    "options": {"x264-params": "intra-refresh=1:keyint=15"},
}
VP8: Options = {
    "codec": "libvpx",
    "options": {"b": "300k", "cpu-used": "8", "deadline": "realtime"},
}
VP9: Options = {
    "codec": "libvpx-vp9",
    "options": {"auto-alt-ref": "1", "lag-in-frames": "16", "cpu-used": "8"},
}
AV1: Options = {"codec": "libsvtav1", "options": {"preset": "12"}}
INTERLACED = {"flags": "+ildct+ilme"}

# What encoders and muxers make: name, options of `write_video`.
WRITTEN: dict[str, Options] = {
    **{f"h264.{suffix}": H264 for suffix in ("mp4", "mov", "mkv", "ts", "m2ts", "flv", "avi")},
    "pyramid.avi": {"codec": "libx264", "b_frames": 4, "options": {"b_strategy": "0"}},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    **{f"{name}.h264": {**H264, "muxer": "h264", "b_frames": name} for name in (0, 2, 4)},
    "raw.hevc": {**H265, "muxer": "hevc"},
    "raw.m4v": {"codec": "mpeg4", "muxer": "m4v"},
    "h265.mp4": H265,
    "h265.ts": H265,
    "open.mkv": OPEN_GOP,
    "open.ts": OPEN_GOP,
    **{f"refresh.{suffix}": REFRESH for suffix in ("mp4", "mkv", "ts")},
    **{f"fragments.{suffix}": {**H264, "container": {"movflags": "frag_keyframe+empty_moov"}}
       for suffix in ("mp4", "mov")},
    "mpeg1.mpg": {"codec": "mpeg1video"},
    "mpeg2.mpg": {"codec": "mpeg2video"},
    "mpeg2.vob": {"codec": "mpeg2video", "muxer": "vob"},
    "mpeg2.mxf": {"codec": "mpeg2video"},
    "interlaced.ts": {"codec": "mpeg2video", "options": INTERLACED},
    "interlaced.mp4": {"codec": "libx264", "options": {**INTERLACED, "x264-params": "tff=1"}},
    "wmv1.wmv": {"codec": "wmv1"},
    "wmv2.wmv": {"codec": "wmv2"},
    "msmpeg4.avi": {"codec": "msmpeg4"},
    "sorenson.flv": {"codec": "flv"},
    "h263.3gp": {"codec": "h263", "width": 176, "height": 144},
    "mjpeg.avi": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "mjpeg.mov": {"codec": "mjpeg", "pixels": "yuvj420p"},
    "prores.mov": {"codec": "prores_ks", "pixels": "yuv422p10le"},
    "ffv1.mkv": {"codec": "ffv1"},
    "odd.mkv": {"codec": "ffv1", "width": 67, "height": 65},
    "png.avi": {"codec": "png", "pixels": "rgb24"},
    "raw.avi": {"codec": "rawvideo", "pixels": "bgr24"},
    "vp8.webm": VP8,
    "vp9.webm": VP9,
    "vp9.mkv": VP9,
    "vp9.mp4": VP9,
    "av1.mp4": AV1,
    "av1.mkv": AV1,
    "av1.webm": AV1,
    **{f"rate.{suffix}": {**H264, "ticks": lambda n: n * n} for suffix in ("mp4", "mkv", "ts")},
    "rate.avi": {"codec": "mjpeg", "pixels": "yuvj420p", "ticks": lambda n: 4 * n + 4 * n // 5},
    "pauses.avi": {**H264, "ticks": lambda n: 4 * (n + n // 10 * 5)},
    "jump.ts": {**H264, "ticks": lambda n: 4 * n + (n >= 20) * 500_000},
    "wrap.ts": {**H264, "container": {"output_ts_offset": "95442.9"}},
    "late.ts": {**H264, "container": {"output_ts_offset": "5000"}},
    "negative.mkv": {
        **H264, "ticks": lambda n: 4 * n - 20, "container": {"avoid_negative_ts": "disabled"}
    },
}  # fmt: skip


def made_from(codec: Options, source: str, change: Change) -> Callable[[Path, str], Path]:
    """What cameras, cutters and bad muxers make: a good file, changed."""

    def make(folder: Path, name: str) -> Path:
        written = write_video(folder / source, COUNT, **codec)
        return change(written, folder / name)

    return make


def hide(*numbers: int) -> Change:
    """Packets of VP8 that are decoded and never shown, as alternate references are."""

    def change(position: int, packet: VideoPacket) -> bytes:
        data = bytearray(bytes(packet))
        if position in numbers:
            data[0] &= ~0x10
        return bytes(data)

    return lambda source, path: copy_video(source, path, change)


def earlier(frames: int) -> Change:
    """An edit list that begins after some frames."""

    def change(position: int, packet: VideoPacket) -> bytes:
        if packet.pts is not None and packet.dts is not None:
            packet.pts -= 512 * frames
            packet.dts -= 512 * frames
        return bytes(packet)

    return lambda source, path: copy_video(source, path, change)


def stored_order(position: int, packet: VideoPacket) -> bytes:
    """Times in the order of storage, which are wrong with B-frames."""
    if packet.size:
        packet.pts = packet.dts = position * int(1 / (25 * packet.time_base))
    return bytes(packet)


def in_pairs(position: int, packet: VideoPacket) -> bytes:
    """The same time for two frames."""
    if packet.size:
        packet.pts = packet.dts = position // 2 * int(2 / (25 * packet.time_base))
    return bytes(packet)


def without_sync_table(source: Path, path: Path) -> Path:
    """Every sample is called a keyframe."""
    path.write_bytes(source.read_bytes().replace(b"stss", b"free"))
    return path


def twice(source: Path, path: Path) -> Path:
    """Two recordings in one file, with the same times."""
    path.write_bytes(source.read_bytes() * 2)
    return path


def twice_cut(source: Path, path: Path) -> Path:
    """Two recordings, both from the middle of a group on."""
    return twice(without_beginning(source, path), path)


CHANGED: dict[str, Callable[[Path, str], Path]] = {
    "cut-h264.ts": made_from(H264, "a.ts", without_beginning),
    "cut-open.ts": made_from(OPEN_GOP, "a.ts", without_beginning),
    "cut-h265.ts": made_from(H265, "a.ts", without_beginning),
    "cut-mpeg2.ts": made_from({"codec": "mpeg2video"}, "a.ts", without_beginning),
    "hidden.webm": made_from(VP8, "a.webm", hide(5, 17, 30)),
    "hidden.mkv": made_from(VP8, "a.mkv", hide(1, 2, 40)),
    "hidden.ivf": made_from(VP8, "a.ivf", hide(3, 25)),
    "edit-h264.mp4": made_from(H264, "a.mp4", earlier(15)),
    "edit-open.mov": made_from(OPEN_GOP, "a.mov", earlier(14)),
    "edit-h265.mp4": made_from(H265, "a.mp4", earlier(16)),
    "order.mp4": made_from(H264, "a.mp4", lambda s, p: copy_video(s, p, stored_order)),
    "order.mkv": made_from(H264, "a.mkv", lambda s, p: copy_video(s, p, stored_order)),
    "pairs.mkv": made_from(H264, "a.mkv", lambda s, p: copy_video(s, p, in_pairs)),
    "sync-h264.mp4": made_from(H264, "a.mp4", without_sync_table),
    "sync-h265.mp4": made_from(H265, "a.mp4", without_sync_table),
    "sync-mpeg4.mp4": made_from({}, "a.mp4", without_sync_table),
    "twice.ts": made_from(H264, "a.ts", twice),
    "twice-mpeg2.ts": made_from({"codec": "mpeg2video"}, "a.ts", twice),
    "twice-cut.ts": made_from(H264, "a.ts", twice_cut),
    "twice.h264": made_from({**H264, "muxer": "h264"}, "a.h264", twice),
}


def as_array(video: VideoFile, number: int) -> np.ndarray:
    return video.frame(number).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("name", [*WRITTEN, *CHANGED])
def test_frames_are_those_of_a_full_decode(tmp_path: Path, name: str) -> None:
    if name in CHANGED:
        file = CHANGED[name](tmp_path, name)
    else:
        file = write_video(tmp_path / name, COUNT, **WRITTEN[name])
    expected = full_decode(file)
    count = len(expected)
    video = VideoFile(file)
    assert video.count == count > 20
    shuffled = np.random.default_rng(0).permutation(count).tolist()
    for numbers in (range(count), reversed(range(count)), shuffled, range(3, count, 13)):
        fresh = VideoFile(file)
        for number in numbers:
            np.testing.assert_array_equal(as_array(fresh, number), expected[number][1])
        fresh.close()
    times = np.array([time for time, _ in expected], float)  # NaN: none
    index = index_video(file)
    if (np.diff(times) > 0).all():
        assert index.times is not None
        np.testing.assert_allclose(index.times, times - times[0], atol=1e-6)
    else:
        assert index.times is None


def as_shown(stored: np.ndarray, matrix: list[int]) -> np.ndarray:
    """The pixels [H, W, 3] at the places that the display matrix gives them, one by one."""
    y, x = np.mgrid[: stored.shape[0], : stored.shape[1]]
    new_x = np.sign(matrix[0]) * x + np.sign(matrix[3]) * y
    new_y = np.sign(matrix[1]) * x + np.sign(matrix[4]) * y
    new_x, new_y = new_x - new_x.min(), new_y - new_y.min()
    shown = np.zeros((new_y.max() + 1, new_x.max() + 1, 3), np.uint8)
    shown[new_y, new_x] = stored
    return shown


def display_matrix(across: tuple[int, int], down: tuple[int, int]) -> list[int]:
    """x as shown and y as shown from x and y as stored, as FFmpeg stores it."""
    one = 1 << 16
    return [across[0] * one, down[0] * one, 0, across[1] * one, down[1] * one, 0, 0, 0, 1 << 30]


UPRIGHT = [((a, 0), (0, b)) for a, b in product((1, -1), repeat=2)]
LYING = [((0, a), (b, 0)) for a, b in product((1, -1), repeat=2)]
TWICE_AS_LARGE = ((0, 2), (-2, 0))


@pytest.mark.parametrize(("across", "down"), [*UPRIGHT, *LYING, TWICE_AS_LARGE])
@pytest.mark.parametrize("name", ["a.mp4", "a.mov"])
def test_every_display_matrix_is_applied(
    tmp_path: Path, name: str, across: tuple[int, int], down: tuple[int, int]
) -> None:
    matrix = display_matrix(across, down)
    file = write_video(tmp_path / name, 3, width=96, matrix=matrix)
    stored = full_decode(write_video(tmp_path / "plain.mp4", 3, width=96))
    shown = as_shown(stored[2][1], matrix)
    np.testing.assert_array_equal(as_array(VideoFile(file), 2), shown)
    info = read_video_info(file)
    assert (info.height, info.width) == shown.shape[:2]
    index = index_video(file)
    assert (index.height, index.width) == shown.shape[:2]


def test_a_matrix_that_is_no_quarter_turn_is_refused(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", 3, turned=30)
    with pytest.raises(ImageError) as refused:
        VideoFile(file)
    assert refused.value.kind == "turned video"
    assert "30 degrees" in str(refused.value)


def damaged(file: Path, *positions: int, part: tuple[float, float] = (0, 1)) -> Path:
    """Zeros in some of a video's packets."""
    with av.open(str(file)) as opened:
        packets = [bytes(packet) for packet in opened.demux(video=0) if packet.size]
    data = bytearray(file.read_bytes())
    for position in positions:
        at = data.index(packets[position][-40:]) + len(packets[position][-40:])
        begin, end = (at - int(len(packets[position]) * (1 - share)) for share in part)
        data[begin:end] = bytes(end - begin)
    changed = file.with_name(f"damaged-{file.name}")
    changed.write_bytes(data)
    return changed


DAMAGE = {
    "one packet": ((16,), (0, 1)),
    "half a packet": ((15,), (0.5, 1)),
    "the middle of two": ((14, 18), (0.3, 0.6)),
    "a keyframe": ((12,), (0, 1)),
    "the end": ((44,), (0, 1)),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264.mkv", "h264.avi", "h264.flv", "mpeg4.avi", "mpeg4.mp4", "mjpeg.avi"]
)
def test_damage_shifts_no_other_frame(tmp_path: Path, name: str, damage: str) -> None:
    options = WRITTEN.get(name, H264)
    good = write_video(tmp_path / name, COUNT, **options)
    expected = full_decode(good)
    positions, part = DAMAGE[damage]
    file = damaged(good, *positions, part=part)
    video = VideoFile(file)
    assert video.count == COUNT
    failed: dict[str, set[int]] = {}
    shuffled = np.random.default_rng(0).permutation(COUNT).tolist()
    for order, numbers in {"forward": range(COUNT), "shuffled": shuffled}.items():
        failed[order] = set()
        for number in numbers:
            try:
                pixels = as_array(video, number)
            except ImageError:
                failed[order].add(number)
            else:
                np.testing.assert_array_equal(pixels, expected[number][1])
    assert failed["forward"] == failed["shuffled"]
    assert failed["forward"]
    assert len(failed["forward"]) <= 26  # groups of twelve frames, and two at most


def test_a_file_that_begins_with_damage_keeps_its_numbers(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mkv"):
        good = write_video(tmp_path / name, COUNT, **H264)
        expected = full_decode(good)
        video = VideoFile(damaged(good, 0))
        assert video.count == COUNT
        np.testing.assert_array_equal(as_array(video, COUNT - 1), expected[-1][1])
        with pytest.raises(ImageError):
            video.frame(0)


def test_an_index_is_kept_while_the_file_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_video(tmp_path / "a.ts", 12, **H264)
    first = index_video(file)
    assert index_video(file) is first
    write_video(file, 24, **H264)
    assert len(index_video(file).packet) == 24


def test_the_end_of_a_video_is_not_the_end_of_reading_it(tmp_path: Path) -> None:
    video = VideoFile(write_video(tmp_path / "clip.mp4", 20))
    assert number_of(as_array(video, 19)) == 19
    with pytest.raises(ImageError) as refused:
        video.frame(20)
    assert refused.value.kind == "missing frame"
    assert number_of(as_array(video, 19)) == 19


def test_a_seek_that_goes_elsewhere_is_made_good(tmp_path: Path) -> None:
    for name in ("clip.mp4", "clip.ts"):
        file = write_video(tmp_path / name, 40, **H264)
        video = VideoFile(file)
        index = index_video(file)
        index.seek_stamps = np.roll(index.seek_stamps, -1)
        for number in (39, 13, 1):
            assert number_of(as_array(video, number)) == number
        assert not index.seekable


def test_pixels_that_differ_from_the_full_decode_are_an_error(tmp_path: Path) -> None:
    file = write_video(tmp_path / "clip.ts", 40, **H264)
    index = index_video(file)
    assert index.decoded is not None
    index.decoded.checksums[30] += 1
    video = VideoFile(file)
    with pytest.raises(ImageError):
        video.frame(30)
    assert not index.seekable
    assert number_of(as_array(video, 31)) == 31


def test_size_and_rate_come_without_an_index(tmp_path: Path) -> None:
    assert read_video_info(write_video(tmp_path / "a.mp4", 3, width=96)) == (96, SIDE, 25.0)
    assert numbered_frame(0, width=96).shape == (SIDE, 96, 3)


def test_a_name_with_a_colon_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert VideoFile(write_video(tmp_path / "10:20:30.mp4", 3)).count == 3
    assert VideoFile(Path("10:20:30.mp4")).count == 3


def test_titles_that_are_not_utf8_are_no_matter(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", 3, title="Mottemotte")
    file.write_bytes(file.read_bytes().replace(b"Mottemotte", b"M\xf6tt\xe9motte"))
    assert VideoFile(file).count == 3


def test_boxes_are_within_the_upright_frame(tmp_path: Path) -> None:
    file = write_video(tmp_path / "a.mp4", 3, width=96, turned=90)
    assert upright_size(Path(f"{file}#frame=1")) == (SIDE, 96)
