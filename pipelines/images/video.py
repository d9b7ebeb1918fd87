"""Frames of one video file by number, exact and strict, with PyAV.

A frame's number counts frames in display order, from 0, independent of frame rates. Reading
forward decodes each frame once. A seek starts at the last keyframe before the target and finds the
frame by its timestamp, so that it gives the same pixels as reading through. What FFmpeg would
conceal, as a damaged frame painted over, is an error here.
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
    """What a video's index says."""

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
    """An open video; ``frame`` is fastest in ascending order.

    Raises:
        ImageError: missing, not a video, or no pictures in it.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        stat = _stat(file)
        stamps = _index(file, stat.st_size, stat.st_mtime_ns)
        self.count = len(stamps)
        shown = sorted(stamp for stamp, _ in stamps if stamp is not None)
        # Without a unique timestamp for each frame, frames can only be counted from the start.
        self._has_stamps = len(set(shown)) == len(stamps)
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
        if number < self._position or key > self._position:
            self._seek(stamp)
        if not self._decode_to(number) and self._first_decoded > number:
            self._reopen()  # the seek went too far, as it may in files with a poor index
            self._decode_to(number)
        if self._current is None or self._position != number or self._current.is_corrupt:
            raise ImageError(DAMAGED, f"{self._file.name}: frame {number} cannot be decoded")
        return _upright(self._current)

    def _key_before(self, number: int) -> tuple[int, int]:
        index = bisect_right(self._keys, number, key=lambda key: key[0]) - 1
        return self._keys[index] if self._has_stamps and index >= 0 else (0, 0)

    def _open(self) -> None:
        self._container, self._stream = _open(self._file)
        self._first_decoded = 0  # number of the first frame since the last seek
        self._start_decoding()

    def _reopen(self) -> None:
        self.close()
        self._open()

    def _seek(self, stamp: int) -> None:
        if not self._has_stamps:
            self._reopen()
            return
        self._container.seek(stamp, stream=self._stream, backward=True)
        self._first_decoded = self.count  # none yet
        self._start_decoding()

    def _start_decoding(self) -> None:
        self._decoding = self._decode()
        self._position: int = 0  # number of the current frame; ``count`` at the end
        self._current: VideoFrame | None = None

    def _decode_to(self, number: int) -> bool:
        """Decode until ``number`` is current; False where the stream goes past it or ends."""
        while self._current is None or self._position < number:
            try:
                self._position, self._current = next(self._decoding)
            except StopIteration:
                self._position, self._current = self.count, None
                return False
            self._first_decoded = min(self._first_decoded, self._position)
        return self._position == number

    def _decode(self) -> Iterator[tuple[int, VideoFrame]]:
        counted = 0
        for packet in self._container.demux(self._stream):
            try:
                frames = packet.decode()
            except av.FFmpegError:  # its frames are missing; ``frame`` raises for each
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
    stat = file.stat()
    if not stat.st_size:
        raise ImageError("empty file", f"{file.name} has 0 bytes")
    return stat


def _open(file: Path) -> tuple[InputContainer, VideoStream]:
    _stat(file)
    try:
        container = av.open(str(file))
    except (av.FFmpegError, OSError) as error:
        reason = first_line(error).split(": '")[0].partition("] ")[2] or type(error).__name__
        raise ImageError(DAMAGED, f"{file.name} cannot be opened as a video: {reason}") from None
    pictures = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic  # as the cover of a song
    ]
    if not pictures:
        kinds = sorted({str(stream.type) for stream in container.streams}) or ["nothing"]
        container.close()
        raise ImageError("no pictures", f"{file.name} holds only {', '.join(kinds)}")
    # Every core runs a decoder of its own already, so threads within one gain nothing.
    pictures[0].codec_context.thread_count = 1
    return container, pictures[0]


def _indexed(stream: VideoStream, file_bytes: int) -> int | None:
    """Number of frames by the container's index; None where it has none or the file is cut."""
    entries = list(stream.index_entries)
    if not stream.frames or len(entries) != stream.frames:
        return None
    if max(entry.pos + entry.size for entry in entries) > file_bytes:
        return None
    return sum(not entry.is_discard for entry in entries)


@lru_cache(maxsize=64)  # a long video is opened again for each block of its frames
def _index(file: Path, size: int, changed_ns: int) -> list[tuple[int | None, bool]]:
    """``_stamps`` of a file, cached until its size or time changes."""
    container, stream = _open(file)
    with container:
        return _stamps(container, stream)


def _stamps(container: InputContainer, stream: VideoStream) -> list[tuple[int | None, bool]]:
    """Each frame's timestamp and whether it is a keyframe, in the file's order."""
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
    # A phone held upright stores the picture rotated, with the angle to rotate it back.
    array = np.rot90(array, round(frame.rotation / 90) % 4)
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)
