"""Videos made by code: real files, encoded here, each frame telling its number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TypeAlias

import av
import numpy as np
from av.packet import Packet
from av.video.stream import VideoStream

VideoPacket: TypeAlias = "Packet[VideoStream]"
SIDE = 64
_WITH_B_FRAMES = {"mpeg4", "libx264", "libx265", "mpeg1video", "mpeg2video"}


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
    b_frames: int = 2,
    turned: int = 0,
    matrix: Sequence[int] | None = None,
    front: bool = False,
    pixels: str = "yuv420p",
    options: dict[str, str] | None = None,
    ticks: Callable[[int], int] | None = None,
    container: dict[str, str] | None = None,
    muxer: str | None = None,
    title: str | None = None,
) -> Path:
    """``count`` numbered frames at 25 a second; B-frames, so that stored order is not shown order.

    ``turned`` degrees counter-clockwise are written beside the pixels, as a phone does, or a whole
    display ``matrix``; ``front`` puts the index before the frames, as files for the web have it.
    ``options`` are the encoder's, ``container`` the container's, which is
    that of the name or ``muxer``. ``ticks`` gives the
    time of a frame in hundredths of a second.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    container = {**(container or {}), **({"movflags": "faststart"} if front else {})}
    with av.open(str(path), "w", format=muxer, options=container) as opened:
        if title is not None:
            opened.metadata["title"] = title
        stream: VideoStream = opened.add_stream(codec, rate=25, options=options or {})  # type: ignore[assignment]
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.gop_size = keyframe_every
        if codec in _WITH_B_FRAMES:
            stream.codec_context.max_b_frames = b_frames
        if not options:
            stream.codec_context.bit_rate = 2_000_000
        if turned:
            stream.set_display_rotation(turned)
        if matrix is not None:
            stream.set_display_matrix(matrix)
        if ticks is not None:
            stream.codec_context.time_base = Fraction(1, 100)
        for number in range(count):
            picture = numbered_frame(number, width=width, height=height)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if ticks is not None:
                frame.pts, frame.time_base = ticks(number), Fraction(1, 100)
            for packet in stream.encode(frame):
                opened.mux(packet)
        for packet in stream.encode(None):
            opened.mux(packet)
    return path


def copy_video(
    source: Path, path: Path, change: Callable[[int, VideoPacket], bytes | None] | None = None
) -> Path:
    """Copy the packets of a video as they are.

    ``change`` may set the time stamps of a packet, and gives its bytes, None to leave it out.
    """
    with av.open(str(source)) as reading, av.open(str(path), "w") as writing:
        stream = reading.streams.video[0]
        copied = writing.add_stream_from_template(stream)
        for position, packet in enumerate(reading.demux(stream)):
            data = bytes(packet) if change is None else change(position, packet)
            if not packet.size or data is None:
                continue
            new = av.Packet(data)
            new.pts, new.dts, new.time_base = packet.pts, packet.dts, packet.time_base
            new.is_keyframe, new.stream = packet.is_keyframe, copied
            writing.mux(new)
    return path


def without_beginning(source: Path, path: Path, part: float = 0.3) -> Path:
    """A transport stream from the middle of a group on."""
    data = source.read_bytes()
    packets = len(data) // 188
    path.write_bytes(data[188 * int(packets * part) :])
    return path


def full_decode(path: Path) -> list[tuple[float | None, np.ndarray]]:
    """Time and RGB pixels as stored of every frame that FFmpeg yields, in its order."""
    with av.open(str(path)) as opened:
        return [(f.time, f.to_ndarray(format="rgb24")) for f in opened.decode(video=0)]


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
