"""One video file, its frames by number: PyAV underneath, exact and strict.

A frame's number counts frames in the order they are shown, from 0, and does not depend on
frame rates. Reading forward decodes each frame once; jumping starts at the last keyframe
before the target, and the frame is found by its time stamp, so that a jump gives the same
pixels as reading through. What FFmpeg would conceal (a damaged frame painted over) is an
error here.
"""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import torch
from av.container import InputContainer
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from common.errors import first_line
from pipelines.images.pixels import ImageError

DAMAGED = "damaged video"


class VideoInfo(NamedTuple):
    """What a video's index says of it."""

    frames: int
    width: int  # pixels, as stored: before any rotation
    height: int
    fps: float | None


def read_video_info(file: Path) -> VideoInfo:
    """Count a video's frames without decoding any.

    Raises:
        ImageError: missing, not a video, no pictures in it, or shorter than its index says.
    """
    container, stream = _open(file)
    with container:
        count = _indexed(stream, file.stat().st_size)
        if count is None:
            count = len(_stamps(container, stream))
            if count < stream.frames:
                raise ImageError(
                    DAMAGED, f"{file.name} promises {stream.frames} frames and holds {count}"
                )
        rate = stream.average_rate
        return VideoInfo(
            count,
            stream.codec_context.width,
            stream.codec_context.height,
            float(rate) if rate else None,
        )


class VideoFile:
    """An open video; ``frame`` is fastest when asked in ascending order.

    Raises:
        ImageError: missing, not a video, or no pictures in it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        told = _stat(file)
        stamps = _index(file, told.st_size, told.st_mtime_ns)
        self.count = len(stamps)
        known = [stamp for stamp, _ in stamps if stamp is not None]
        # Without a stamp of its own for each frame there is only counting from the start.
        self._has_stamps = len(set(known)) == len(stamps)
        shown = sorted(known)
        self._number = {stamp: number for number, stamp in enumerate(shown)}
        self._keys = sorted(
            (self._number[stamp], stamp) for stamp, is_key in stamps if is_key and stamp is not None
        )
        self._open()

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
        key, stamp = self._key_before(number)
        if number < self._at or key > self._at:
            self._jump(stamp)
        if not self._reach(number) and self._landed > number:
            self._restart()  # a jump went too far, as it may in files with a poor index
            self._reach(number)
        if self._held is None or self._at != number or self._held.is_corrupt:
            raise ImageError(DAMAGED, f"{self._file.name}: frame {number} cannot be decoded")
        return _upright(self._held)

    def _key_before(self, number: int) -> tuple[int, int]:
        place = bisect_right(self._keys, number, key=lambda key: key[0]) - 1
        return self._keys[place] if self._has_stamps and place >= 0 else (0, 0)

    def _open(self) -> None:
        self._container, self._stream = _open(self._file)
        self._landed = 0  # the first number that was decoded since the last jump
        self._read_on()

    def _restart(self) -> None:
        self.close()
        self._open()

    def _jump(self, stamp: int) -> None:
        if not self._has_stamps:
            self._restart()
            return
        self._container.seek(stamp, stream=self._stream, backward=True)
        self._landed = self.count  # until something is
        self._read_on()

    def _read_on(self) -> None:
        self._decoding = self._decode()
        self._at: int = 0  # the number of the held frame; past all of them at the end
        self._held: VideoFrame | None = None

    def _reach(self, number: int) -> bool:
        """Decode until ``number`` is held; False where the stream goes past it or ends."""
        while self._held is None or self._at < number:
            try:
                self._at, self._held = next(self._decoding)
            except StopIteration:
                self._at, self._held = self.count, None
                return False
            self._landed = min(self._landed, self._at)
        return self._at == number

    def _decode(self) -> Iterator[tuple[int, VideoFrame]]:
        counted = 0
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:  # its frames are missing; whoever wants one is told
                continue
            for frame in frames:
                if not self._has_stamps:
                    yield counted, frame
                    counted += 1
                elif frame.pts in self._number:
                    yield self._number[frame.pts], frame


def _stat(file: Path) -> os.stat_result:
    if not file.is_file():
        raise ImageError("missing file", f"{file.name} does not exist")
    told = file.stat()
    if not told.st_size:
        raise ImageError("empty file", f"{file.name} has 0 bytes")
    return told


def _open(file: Path) -> tuple[InputContainer, VideoStream]:
    _stat(file)
    try:
        container = av.open(str(file))
    except (av.FFmpegError, OSError) as error:
        said = first_line(error).split(": '")[0].partition("] ")[2] or type(error).__name__
        raise ImageError(DAMAGED, f"{file.name} cannot be opened as a video: {said}") from None
    pictures = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic  # the cover of a song
    ]
    if not pictures:
        kinds = sorted({str(stream.type) for stream in container.streams}) or ["nothing"]
        container.close()
        raise ImageError("no pictures", f"{file.name} holds only {', '.join(kinds)}")
    # Every core has a decoder of its own already; threads within one would only take turns.
    pictures[0].codec_context.thread_count = 1
    return container, pictures[0]


def _indexed(stream: VideoStream, file_bytes: int) -> int | None:
    """Frames by the container's own index, where it has one and the file is long enough."""
    entries = list(stream.index_entries)
    if not stream.frames or len(entries) != stream.frames:
        return None
    if max(entry.pos + entry.size for entry in entries) > file_bytes:
        return None
    return sum(not entry.is_discard for entry in entries)


@lru_cache(maxsize=64)  # a long video is opened again for each block of its frames
def _index(file: Path, size: int, changed_ns: int) -> list[tuple[int | None, bool]]:
    """The stamps of a file, as long as it stays the same."""
    container, stream = _open(file)
    with container:
        return _stamps(container, stream)


def _stamps(container: InputContainer, stream: VideoStream) -> list[tuple[int | None, bool]]:
    """Each frame's time stamp and whether it is a keyframe, in the file's order."""
    try:
        return [
            (packet.pts, packet.is_keyframe)
            for packet in container.demux(stream)
            if packet.size and not packet.is_discard
        ]
    except av.FFmpegError as error:
        raise ImageError(
            DAMAGED, f"{Path(container.name).name} cannot be read through: {first_line(error)}"
        ) from None


def _upright(frame: VideoFrame) -> torch.Tensor:
    array = frame.to_ndarray(format="rgb24")
    # A phone held upright stores the picture lying, and by how much to turn it back.
    array = np.rot90(array, round(frame.rotation / 90) % 4)
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
