"""Images to a video file, by PyAV."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from cluster.errors import WorkError, first_line

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_CODECS = ("libx264", "mpeg4")  # the first that this build of FFmpeg has


def encode(
    file: Path, images: Iterator[Image.Image], rate: Fraction, wrote: Callable[[int], None]
) -> tuple[str, tuple[int, int]]:
    """Write images of one size, with even sides, as an H.264 or MPEG-4 video.

    Args:
        file: what to write; its suffix says the container.
        images: at least one.
        rate: frames a second.
        wrote: called with frames written.

    Returns:
        The codec, and width and height in pixels.

    Raises:
        WorkError: FFmpeg refuses.
    """
    import av

    codec = next(name for name in _CODECS if _has(name))
    size = (0, 0)
    try:
        with av.open(str(file), "w") as container:
            stream: VideoStream = container.add_stream(codec, rate=rate)  # type: ignore[assignment]
            stream.pix_fmt = "yuv420p"
            if codec == "libx264":
                stream.options = {"crf": "20", "preset": "veryfast"}
            else:
                stream.bit_rate = 8_000_000
            for number, image in enumerate(images, start=1):
                if number == 1:
                    stream.width, stream.height = size = image.size
                container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(image), "rgb24")))
                wrote(number)
            container.mux(stream.encode())
    except av.FFmpegError as error:
        raise WorkError(f"{file.name} cannot be written: {first_line(error)}") from None
    return codec, size


def _has(codec: str) -> bool:
    import av

    try:
        av.codec.Codec(codec, "w")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
