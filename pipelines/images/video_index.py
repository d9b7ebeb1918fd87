"""Which frames a video has: as many as a full decode yields, in its order, with its times.

Containers do not say it. Packets are not frames: some are never shown, some hold half a frame, some
cannot be decoded because the file begins in the middle of a group. Time stamps can be missing, be
those of the stored order, or occur twice. So every packet is decoded once, and the result is kept
while the file stays as it is. Two kinds of files are counted by their packets, which is far faster:

- codecs without prediction (MJPEG, ProRes, DNxHD, FFV1, raw, …): a packet is a picture;
- H.264, HEVC, VP9 and AV1 in MP4, MOV, Matroska and WebM, where a sample is a shown picture by
  specification. The first frames are decoded to see that it is so.

Both only where each packet has a time stamp of its own, none is cut off by an edit list, and the
file begins with its first frame, a keyframe. A packet that yields nothing is an error then, and
shifts no other frame.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from av.container import InputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipelines.images.errors import ImageError
from pipelines.images.video_numbers import Flags, Ints, Output, Packets, number_frames
from pipelines.images.video_stream import (
    DAMAGED,
    checksum,
    decode_packets,
    file_stat,
    open_video,
    read_packets,
    upright,
)

_SAMPLE_IS_FRAME = frozenset({"h264", "hevc", "vp9", "av1"})
_SAMPLE_CONTAINERS = frozenset({"mov", "matroska"})
_UNTIMED = frozenset({"avi", "h264", "hevc", "m4v", "mpegvideo", "obu"})
_FIRST_FRAMES = 16  # decoded to see whether packets are frames
_KEPT = 1024  # videos whose index stays in memory, some 30 bytes a frame


class Decoded(NamedTuple):
    """What a full decode yielded."""

    output: Ints  # [frames that came out] the number of each, in order
    damaged: Flags  # [N]
    checksums: Ints  # [N]


@dataclass
class VideoIndex:
    """The frames of one video. A packet is named by its position in the file, from 0."""

    width: int  # pixels, upright
    height: int
    fps: float | None  # on average
    times: npt.NDArray[np.float64] | None  # [N] seconds since the first frame; None: not stored
    packet: Ints  # [N] the packet of each frame
    keys: Ints  # [K] frames where decoding can start, ascending
    seek_stamps: Ints  # [K] what to seek for
    names: tuple[Literal["pos", "pts"], Ints] | None  # [packets] what tells a packet after a seek
    decoded: Decoded | None  # None: counted by packets
    packets: int  # number of them
    seekable: bool  # until a seek does not give what reading through gives
    is_disordered: bool = False  # frames were seen to come in another order than their times


def index_video(file: Path) -> VideoIndex:
    """The frames of a video; kept until the file's size or time changes.

    Raises:
        ImageError: missing, not a video, no pictures in it, or shorter than it promises.
    """
    stat = file_stat(file)
    cached = _cached(file, stat.st_size, stat.st_mtime_ns)
    with cached.lock:  # a long video is opened by several threads, and decoded by one
        if cached.index is None:
            cached.index = _index(file, stat.st_size)
        return cached.index


class _Cached:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.index: VideoIndex | None = None


@lru_cache(maxsize=_KEPT)
def _cached(file: Path, size: int, changed_ns: int) -> _Cached:
    return _Cached()


def _index(file: Path, file_bytes: int) -> VideoIndex:
    container, stream = open_video(file)
    with container:
        packets, beginning = _scan(container, stream)
        _check_complete(file, container, stream, packets, file_bytes)
        order = packets.order()
        is_one_each = order is not None and _samples_are_frames(container, stream, packets, order)
        if order is not None and is_one_each and beginning.is_of(order, packets, stream):
            return _by_packets(container, stream, packets, beginning, order)
    container, stream = open_video(file)
    with container:
        return _by_decoding(file, container, stream, one_each=is_one_each)


@dataclass
class _Beginning:
    """The first frames that come out, without their pixels."""

    size: tuple[int, int] = (0, 0)  # height and width of the first, upright
    packets: list[int] = field(default_factory=list)
    is_sound: bool = True  # nothing was refused, nothing is corrupt
    is_interlaced: bool = False

    def add(self, frame: VideoFrame) -> None:
        """Note the next frame."""
        if not self.packets:
            self.size = _upright_size(frame)
        self.packets.append(-1 if frame.pts is None else frame.pts)
        self.is_sound &= not frame.is_corrupt
        self.is_interlaced |= frame.interlaced_frame

    def is_of(self, order: Ints, packets: Packets, stream: VideoStream) -> bool:
        """Whether they are the first packets by time, and not two half pictures each."""
        enough = packets.key[0] and len(self.packets) >= min(_FIRST_FRAMES, len(order))
        in_order = self.packets == order[: len(self.packets)].tolist()
        is_whole = stream.codec_context.codec.intra_only or not self.is_interlaced
        return enough and in_order and is_whole and self.is_sound


def _upright_size(frame: VideoFrame) -> tuple[int, int]:
    _, height, width = upright(frame).shape
    return height, width


def _formats(container: InputContainer) -> set[str]:
    return set(container.format.name.split(","))


def _noted(
    reading: Iterator[Packet[VideoStream]], packets: Packets
) -> Iterator[tuple[int, Packet[VideoStream]]]:
    for position, packet in enumerate(reading):
        packets.add(packet)
        yield position, packet


def _scan(container: InputContainer, stream: VideoStream) -> tuple[Packets, _Beginning]:
    """Read all packets and decode the first frames."""
    packets, beginning = Packets(), _Beginning()
    reading = read_packets(container, stream)
    for _, frames in decode_packets(stream, _noted(reading, packets)):
        beginning.is_sound &= frames is not None
        for frame in frames or []:
            beginning.add(frame)
        if len(beginning.packets) >= _FIRST_FRAMES or not beginning.is_sound:
            break
    for packet in reading:
        packets.add(packet)
    return packets, beginning


def _check_complete(
    file: Path, container: InputContainer, stream: VideoStream, packets: Packets, file_bytes: int
) -> None:
    """Refuse a file that was cut off after its index was written, or before."""
    promised, complete = stream.frames, len(packets.pts)
    formats = _formats(container)
    if "mov" in formats:  # edit lists leave samples out
        entries = list(stream.index_entries)
        promised = len(entries)
        complete = sum(entry.pos + entry.size <= file_bytes for entry in entries)
    elif "avi" in formats and complete:  # pauses are counted as frames
        stamps = [stamp for stamp in packets.dts if stamp is not None] or [0]
        steps = np.diff(stamps, prepend=stamps[0] - 1)  # the last frame may be followed by a pause
        complete = max(complete, int(stamps[-1] - stamps[0] + steps.max()))
    if complete < promised:
        raise ImageError(DAMAGED, f"{file.name} promises {promised} frames and holds {complete}")


def _samples_are_frames(
    container: InputContainer, stream: VideoStream, packets: Packets, order: Ints
) -> bool:
    """Whether codec and container say that each packet is a shown picture."""
    codec = stream.codec_context.codec
    is_specified = codec.intra_only or (
        codec.canonical_name in _SAMPLE_IS_FRAME and bool(_formats(container) & _SAMPLE_CONTAINERS)
    )
    return is_specified and packets.is_plain and len(order) > 0 and bool(order[0] == 0)


def _by_packets(
    container: InputContainer,
    stream: VideoStream,
    packets: Packets,
    beginning: _Beginning,
    order: Ints,
) -> VideoIndex:
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    keys = np.sort(number[np.flatnonzero(packets.key)])
    return _to_index(container, stream, packets, beginning.size, order, keys, None)


def _by_decoding(
    file: Path,
    container: InputContainer,
    stream: VideoStream,
    *,
    one_each: bool,
) -> VideoIndex:
    outputs: list[Output] = []
    refused: dict[int, int] = {}
    size: tuple[int, int] | None = None
    packets = Packets()  # of a damaged file not always those of the first reading
    reading = _noted(read_packets(container, stream), packets)
    for position, frames in decode_packets(stream, reading):
        if frames is None:
            refused[position] = len(outputs)
            continue
        for frame in frames:
            size = size or _upright_size(frame)
            # A decoder that gives no position is one that makes frames of no packet.
            packet = position if frame.pts is None else frame.pts
            outputs.append(Output(packet, frame.key_frame, frame.is_corrupt, checksum(frame)))
    if size is None:
        raise ImageError(DAMAGED, f"{file.name} holds no frame that can be decoded")
    # Of AVI and of bare streams FFmpeg guesses the times, and wrongly where packets are damaged.
    is_timed = not _formats(container) & _UNTIMED
    numbered = number_frames(packets, outputs, refused, one_each=one_each, is_timed=is_timed)
    checksums = np.zeros(len(numbered.packet), np.int64)
    checksums[numbered.output] = [output.checksum for output in outputs]
    is_key = [output.is_key and packets.key[output.packet] for output in outputs]
    keys = numbered.output[np.flatnonzero(is_key)]
    decoded = Decoded(numbered.output, numbered.damaged, checksums)
    return _to_index(container, stream, packets, size, numbered.packet, keys, decoded)


def _to_index(
    container: InputContainer,
    stream: VideoStream,
    packets: Packets,
    size: tuple[int, int],
    packet: Ints,
    keys: Ints,
    decoded: Decoded | None,
) -> VideoIndex:
    times = _times(stream, [packets.pts[at] for at in packet.tolist()])
    names = packets.names()
    can_seek = names is not None and len(np.unique(packet)) == len(packet) and len(keys) > 0
    # These seek by the times when frames are shown, others by those when they are decoded.
    seek = packets.pts if _formats(container) & _SAMPLE_CONTAINERS else packets.dts
    goals = [
        stamp if (stamp := seek[key]) is not None else packets.pts[key] for key in packet[keys]
    ]
    return VideoIndex(
        width=size[1],
        height=size[0],
        fps=float(stream.average_rate) if stream.average_rate else None,
        times=times,
        packet=packet,
        keys=keys,
        seek_stamps=np.array([] if None in goals else goals, np.int64),
        names=names,
        decoded=decoded,
        packets=len(packets.pts),
        seekable=can_seek and None not in goals,
    )


def _times(stream: VideoStream, stamps: list[int | None]) -> npt.NDArray[np.float64] | None:
    """Seconds since the first frame; None where the time stamps of frames do not rise."""
    if None in stamps or stream.time_base is None:
        return None
    ticks = np.array(stamps, np.int64) - (stamps[0] or 0)
    if not (np.diff(ticks) > 0).all():
        return None
    return np.asarray(ticks * stream.time_base.numerator / stream.time_base.denominator)
