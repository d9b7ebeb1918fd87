"""Videos made by code: real files, encoded here, each frame telling its number."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np

SIDE = 64


def numbered_frame(number: int, *, width: int = SIDE, height: int = SIDE) -> np.ndarray:
    """A frame ``[H, W, 3]`` whose left half's brightness grows with ``number``."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, : width // 2] = 20 + 3 * (number % 70)
    frame[: height // 2, width // 2 :] = (200, 30, 60)
    return frame


def write_video(
    path: Path,
    count: int,
    *,
    width: int = SIDE,
    height: int = SIDE,
    codec: str = "mpeg4",
    keyframe_every: int = 12,
    turned: int = 0,
    front: bool = False,
) -> Path:
    """``count`` numbered frames at 25 a second; B-frames, so that stored order is not shown order.

    ``turned`` degrees counter-clockwise are written beside the pixels, as a phone does;
    ``front`` puts the index before the frames, as files for the web have it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"movflags": "faststart"} if front else {}
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.gop_size = keyframe_every
        stream.codec_context.max_b_frames = 2
        stream.codec_context.bit_rate = 2_000_000
        if turned:
            stream.set_display_rotation(turned)
        for number in range(count):
            picture = numbered_frame(number, width=width, height=height)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode(None):
            container.mux(packet)
    return path


def write_sound(path: Path, *, seconds: float = 0.5) -> Path:
    """A file that looks like a video by its name and holds only sound."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rate = 44_100
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=rate)
        samples = np.zeros((1, int(rate * seconds)), np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def number_of(frame: np.ndarray) -> int:
    """The number that a decoded frame ``[H, W, 3]`` of ``numbered_frame`` tells; below 70."""
    return round((float(frame[:, : frame.shape[1] // 4].mean()) - 20) / 3)


def broken_videos(folder: Path) -> dict[str, str]:
    """Files that are no videos, and what each must say."""
    web = write_video(folder / "web.mp4", 30, front=True).read_bytes()
    (folder / "web.mp4").write_bytes(web[: len(web) // 2])
    plain = write_video(folder / "plain.mp4", 30).read_bytes()
    (folder / "plain.mp4").write_bytes(plain[: len(plain) // 2])
    (folder / "text.mp4").write_text("no video " * 50)
    (folder / "empty.mp4").write_bytes(b"")
    write_sound(folder / "sound.mp4")
    write_video(folder / "one.mp4", 1)
    return {
        "web.mp4": "damaged video: web.mp4 promises 30 frames and holds",
        "plain.mp4": "damaged video: plain.mp4 cannot be opened as a video: Invalid data",
        "text.mp4": "damaged video: text.mp4 cannot be opened as a video: Invalid data",
        "empty.mp4": "empty file: empty.mp4 has 0 bytes",
        "sound.mp4": "no pictures: sound.mp4 holds only audio",
        "one.mp4": "short video: 1 frame, fewer than the 8 to sample",
    }
