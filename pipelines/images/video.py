"""Frames of one video file by number, exact and strict, with PyAV.

A frame's number counts the frames that a full decode of the file yields, from 0. Reading forward
decodes each frame once. A seek starts at the last keyframe before the target; where it does not
give the pixels of reading through, the file is read through from then on. What FFmpeg would
conceal, as a damaged frame painted over, is an error here, and so is what builds on it.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from pipelines.images.errors import ImageError
from pipelines.images.video_index import index_video
from pipelines.images.video_stream import (
    DAMAGED,
    checksum,
    decode_packets,
    open_video,
    read_packets,
    upright,
)


class VideoInfo(NamedTuple):
    """What a video is."""

    width: int  # pixels, upright
    height: int
    fps: float | None  # on average


def read_video_info(file: Path) -> VideoInfo:
    """Size and rate of a video, from its first frame.

    Raises:
        ImageError: missing, not a video, or no frame of it can be decoded.
    """
    container, stream = open_video(file)
    with container:
        for _, frames in decode_packets(stream, enumerate(read_packets(container, stream))):
            if frames:
                _, height, width = upright(frames[0]).shape
                rate = stream.average_rate
                return VideoInfo(width, height, float(rate) if rate else None)
    raise ImageError(DAMAGED, f"{file.name} holds no frame that can be decoded")


class VideoFile:
    """An open video; ``frame`` is fastest in ascending order.

    Raises:
        ImageError: missing, not a video, no pictures in it, or shorter than it promises.
    """

    _frames: Iterator[tuple[int, VideoFrame]]
    _position: int  # the last frame that came out; -1: none since the start or the seek

    def __init__(self, file: Path) -> None:
        self._file = file
        self._index = index_video(file)
        self.count = len(self._index.packet)
        # A frame is known to be sound once all packets up to its own have come out.
        packet, numbers = self._index.packet, np.arange(self.count)
        self._number = np.full(self._index.packets, -1)
        self._number[packet] = numbers
        settled = np.maximum.accumulate(self._number)[packet]
        self._settled = settled if self._index.decoded is None else numbers
        self._position_of: dict[int, int] = {}  # of a packet, by its name; once needed
        self._container, self._stream = open_video(file)
        self._start(None)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def frame(self, number: int, clip: int = 0) -> torch.Tensor:
        """Frame ``number``, upright RGB uint8 ``[3, H, W]``; a video file holds one clip.

        Raises:
            ImageError: there is no such frame, or it cannot be decoded.
        """
        if clip or not 0 <= number < self.count:
            raise ImageError(
                "missing frame", f"{self._file.name} has {self.count} frames, from 0: no {number}"
            )
        decoded = self._index.decoded
        if decoded is not None and decoded.damaged[number]:
            raise self._damaged(number)
        frame = self._find(number)
        is_explained = self._position >= 0 and self._depends_on_damage(number)
        if frame is None and self._is_sought and not is_explained:
            self._index.seekable = False
            self._read_through()
            frame = self._find(number)
        if self._index.is_disordered:
            reason = "its frames come in another order than their time stamps say"
            raise ImageError(DAMAGED, f"{self._file.name}: {reason}")
        if frame is None or (decoded is None and self._depends_on_damage(number)):
            raise self._damaged(number)
        return upright(frame)

    def _damaged(self, number: int) -> ImageError:
        return ImageError(DAMAGED, f"{self._file.name}: frame {number} cannot be decoded")

    def _find(self, number: int) -> VideoFrame | None:
        """Decode up to a frame; None where it does not come, or not as in reading through."""
        for passed in [held for held in self._held if held < number]:
            del self._held[passed]
        if number not in self._held:
            key = self._key_before(number) if self._index.seekable else None
            if key is not None and (number <= self._position or key[0] > self._position):
                self._seek(*key)
            elif number <= self._position:
                self._read_through()
        while self._position < self._settled[number]:
            following = next(self._frames, None)
            if following is None:
                break
            self._position, frame = following
            if self._position >= number:
                self._held[self._position] = frame
        decoded_frame = self._held.get(number)
        decoded = self._index.decoded
        if decoded_frame is None or decoded is None:
            return decoded_frame
        # Also without a seek: damage is filled with whatever stands in memory.
        return decoded_frame if checksum(decoded_frame) == decoded.checksums[number] else None

    def _key_before(self, number: int) -> tuple[int, int] | None:
        """The last keyframe up to a frame, and the time stamp to seek for; None: the start."""
        keys = self._index.keys
        at = bisect_right(keys, number) - 1
        if at < 0 or keys[at] == 0:
            return None
        return int(keys[at]), int(self._index.seek_stamps[at])

    def _depends_on_damage(self, number: int) -> bool:
        """Whether a packet that this frame may build on was damaged."""
        packet, keys = self._index.packet, self._index.keys
        at = bisect_right(keys, number) - 1
        begin = 0 if at < 0 else packet[keys[at]]
        return any(begin <= damaged <= packet[number] for damaged in self._damage)

    def _start(self, key: int | None) -> None:
        """Number frames from keyframe ``key`` on, to which the container was sought; None: all."""
        self._is_sought = key is not None
        self._position = -1
        self._held: dict[int, VideoFrame] = {}  # what came out and was not passed
        self._damage: list[int] = []  # packets
        packets = (
            enumerate(read_packets(self._container, self._stream))
            if key is None
            else self._packets_from(key)
        )
        self._frames = self._numbered(packets, key)

    def _read_through(self) -> None:
        self.close()
        self._container, self._stream = open_video(self._file)
        self._start(None)

    def _seek(self, key: int, stamp: int) -> None:
        # Refused: what comes then is not the keyframe, which is noticed.
        with contextlib.suppress(av.FFmpegError):
            self._container.seek(stamp, stream=self._stream, backward=True)
        self._start(key)

    def _packets_from(self, key: int) -> Iterator[tuple[int, Packet[VideoStream]]]:
        """The packets from that of keyframe ``key`` on, if the seek went to it or before it."""
        begin, has_begun = self._index.packet[key], False
        assert self._index.names is not None
        attribute, names = self._index.names
        if not self._position_of:
            self._position_of = {name: at for at, name in enumerate(names.tolist())}
        with contextlib.suppress(ImageError):  # misread from there on, which reading through is not
            for packet in read_packets(self._container, self._stream):
                position = self._position_of.get(getattr(packet, attribute))
                if position is None or (position > begin and not has_begun):
                    return
                if position >= begin:
                    has_begun = True
                    yield position, packet

    def _numbered(
        self, packets: Iterable[tuple[int, Packet[VideoStream]]], key: int | None
    ) -> Iterator[tuple[int, VideoFrame]]:
        """Decode packets, from the start or from keyframe ``key`` on, and number what comes out."""
        decoded, came, last = self._index.decoded, 0, -1
        for position, frames in decode_packets(self._stream, packets):
            if frames is None:
                self._damage.append(position)
                continue
            for frame in frames:
                numbers, at = self._number, frame.pts
                if decoded is not None and key is None:
                    numbers, at = decoded.output, came
                if at is None or at >= len(numbers):  # damage, decoded otherwise than before
                    return
                number = int(numbers[at])
                if key is not None and not came and not self._is_start(number, frame, key):
                    return
                if number <= last and self._damage:  # damage takes the order from what follows
                    self._damage.append(int(self._index.packet[number]))
                    continue
                if number <= last:
                    self._index.is_disordered |= decoded is None and key is None
                    return
                came, last = came + 1, number
                if frame.is_corrupt:
                    self._damage.append(int(self._index.packet[number]))
                yield number, frame

    def _is_start(self, number: int, frame: VideoFrame, key: int) -> bool:
        """Whether the first frame after a seek is what decoding can start from."""
        return number == key and frame.key_frame and not frame.is_corrupt and not self._damage
