"""One video's packets and what FFmpeg makes of them: frames, upright pixels, checksums."""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import av
import numpy as np
import torch
from av.container import InputContainer
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from common.errors import first_line
from pipelines.images.errors import ImageError

DAMAGED = "damaged video"
_PLAYLISTS = ("concat", "hls", "dash")  # whose writer would choose the files that are read
_STRAIGHT = 0.01  # of a quarter turn's cosine: half a degree, as FFmpeg rounds


def file_stat(file: Path) -> os.stat_result:
    """Size and time of a file.

    Raises:
        ImageError: it is missing or empty.
    """
    if not file.is_file():
        raise ImageError("missing file", f"{file.name} does not exist")
    stat = file.stat()
    if not stat.st_size:
        raise ImageError("empty file", f"{file.name} has 0 bytes")
    return stat


def open_video(file: Path) -> tuple[InputContainer, VideoStream]:
    """Open a video and choose its first stream of moving pictures.

    Raises:
        ImageError: missing, not a video, or no pictures in it.
    """
    file_stat(file)
    try:
        # Titles and places are often in another encoding, and are not used.
        # Absolute: FFmpeg takes what stands before a colon, as in 10:20.mp4, for a protocol.
        container = av.open(str(file.absolute()), metadata_errors="replace")
    except (av.FFmpegError, OSError, ValueError) as error:
        reason = first_line(error).split(": '")[0].partition("] ")[2] or type(error).__name__
        raise ImageError(DAMAGED, f"{file.name} cannot be opened as a video: {reason}") from None
    if container.format.name in _PLAYLISTS:
        container.close()
        raise ImageError(DAMAGED, f"{file.name} is a list of other files, not a video")
    pictures = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic  # as the cover of a song
    ]
    if not pictures:
        kinds = sorted({str(stream.type) for stream in container.streams}) or ["nothing"]
        container.close()
        raise ImageError("no pictures", f"{file.name} holds only {', '.join(kinds)}")
    if pictures[0].codec_context is None:
        container.close()  # type: ignore[unreachable]  # PyAV's types leave this out
        raise ImageError(DAMAGED, f"{file.name} is in a codec that FFmpeg cannot decode")
    # Every core runs a decoder of its own already, so threads within one gain nothing.
    pictures[0].codec_context.thread_count = 1
    return container, pictures[0]


def read_packets(container: InputContainer, stream: VideoStream) -> Iterator[Packet[VideoStream]]:
    """The packets that hold data, in the file's order.

    Raises:
        ImageError: the container is damaged.
    """
    try:
        for packet in container.demux(stream):
            if packet.size:  # an empty one would end the decoder: AVI stores a pause as such
                yield packet
    except (av.FFmpegError, IndexError) as error:  # PyAV's, where a damaged file grows streams
        raise ImageError(
            DAMAGED, f"{Path(container.name).name} cannot be read through: {first_line(error)}"
        ) from None


def decode_packets(
    stream: VideoStream, packets: Iterable[tuple[int, Packet[VideoStream]]]
) -> Iterator[tuple[int, list[VideoFrame] | None]]:
    """Decode packets, and at their end what the decoder still holds.

    Args:
        stream: of the packets.
        packets: each with its position in the file, from 0. The position replaces the time stamp,
            because decoders hand it on to the frame, and time stamps can be missing or wrong.

    Yields:
        The packet's position, or the last one's again at the end; the frames that came out, whose
        ``pts`` is the position of their packet. None: the decoder refused the packet.
    """
    position = -1
    for position, packet in packets:
        packet.pts = position
        try:
            yield position, packet.decode()
        except av.FFmpegError:
            yield position, None
    try:
        yield position, stream.codec_context.decode(None)
    except av.FFmpegError:
        yield position, None


def checksum(frame: VideoFrame) -> int:
    """CRC-32 of a frame's pixels, where possible as decoded, which saves the conversion."""
    pixels: object = None
    with contextlib.suppress(ValueError, AssertionError):  # a layout that NumPy does not take
        pixels = frame.to_ndarray()
    if not isinstance(pixels, np.ndarray):  # pixels and a palette
        pixels = frame.to_ndarray(format="rgb24")
    return zlib.crc32(np.ascontiguousarray(pixels).data)


def upright(frame: VideoFrame) -> torch.Tensor:
    """A frame's pixels, RGB uint8 ``[3, H, W]``, turned and mirrored as the file asks for.

    Raises:
        ImageError: the pixels have no RGB form, or are to be turned by another angle than 90,
            180 or 270 degrees.
    """
    try:
        array = frame.to_ndarray(format="rgb24")
    except (av.FFmpegError, ValueError) as error:
        raise ImageError(DAMAGED, f"cannot be converted to RGB: {first_line(error)}") from None
    across, down = _display_matrix(frame)
    if across[0] == 0:  # what lay across stands upright
        array = array.swapaxes(0, 1)
    if sum(across) < 0:
        array = array[:, ::-1]
    if sum(down) < 0:
        array = array[::-1]
    return torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1)


def _display_matrix(frame: VideoFrame) -> tuple[tuple[int, int], tuple[int, int]]:
    """How x and y as shown follow from x and y as stored; signs only, sizes stay as they are.

    A phone held upright stores its pictures lying, and a front camera mirrored, with the matrix
    that puts them right.
    """
    stored = frame.side_data.get("DISPLAYMATRIX")
    if stored is None:
        return (1, 0), (0, 1)
    numbers = np.frombuffer(memoryview(stored), np.int32).astype(float)  # type: ignore[arg-type]  # [9], by columns of the stored picture
    matrix = numbers.reshape(3, 3)[:2, :2]
    sizes = np.hypot(*matrix)
    if not sizes.all():  # no angle: FFmpeg shows it as stored
        return (1, 0), (0, 1)
    matrix = (matrix / sizes).T
    signs = matrix.round()
    if np.abs(matrix - signs).max() > _STRAIGHT or np.abs(signs).sum() != 2:
        angle = round(np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))
        raise ImageError(
            "turned video",
            f"frames are to be turned by {angle} degrees; only quarter turns and mirrors are read",
        )
    across, down = signs.astype(int).tolist()
    return tuple(across), tuple(down)
