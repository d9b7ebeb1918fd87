"""The process that decodes images of strangers: one after another, from a pipe to a pipe.

``isolated`` starts it, and says why. It limits itself before it reads the first image, so that a decoder
that is taken over can neither raise a limit nor start without one.
"""

from __future__ import annotations

import importlib
import io
import os
import resource
import signal
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import AvifImagePlugin

from common.errors import first_line
from pipelines.images.errors import ImageError
from pipelines.images.formats import decode_array
from pipelines.images.header import ImageHeader, header_of

OVER_LIMIT, CRASHED = "over the limit", "decoder crashed"  # kinds of errors

READY = b"\1"  # sent once, before the first image
REQUEST = struct.Struct("<QQd")  # bytes of an image, pixels that it may have, seconds; the image
DECODED, REFUSED, NO_MEMORY = range(3)
# One of these; bytes of the text that follows, or else height and width of the pixels that follow, and
# of the header width, height and orientation, which are 0 where it cannot be read.
ANSWER = struct.Struct("<BIIIIIB")
MAX_TEXT = 2000  # bytes

_OPEN_FILES = 32  # libraries are loaded when a format needs them
_AVIF_THREADS = 2  # by default one a core: a hundred of them would need gigabytes of addresses


class Upload(NamedTuple):
    """A decoded image, and what its header says."""

    pixels: np.ndarray  # uint8 [H, W, 3], upright
    header: ImageHeader | None  # None: it cannot be read


def decode_upload(data: bytes, max_pixels: int) -> Upload:
    """Decode an image if its header says that it is small enough.

    Args:
        data: the file.
        max_pixels: that it may have.

    Raises:
        ImageError: of the kind ``OVER_LIMIT``, it has more; of others as of ``decode_array``.
        MemoryError: it takes more memory than this process may have.
    """
    header = None
    with suppress(Exception):  # decoding says what is wrong with it
        header = header_of(io.BytesIO(data))
    if header is not None:
        _check_pixels(header.width, header.height, max_pixels)
    pixels = decode_array(data).pixels
    _check_pixels(pixels.shape[1], pixels.shape[0], max_pixels)
    return Upload(pixels, header)


def _check_pixels(width: int, height: int, max_pixels: int) -> None:
    if width * height > max_pixels:
        raise ImageError(OVER_LIMIT, f"{width}x{height} is over {max_pixels} pixels")


def main(decode: str, memory: int) -> None:
    """Decode what comes on standard input, until it is closed.

    Args:
        decode: module and name of a function as ``decode_upload``, with a colon between.
        memory: bytes of addresses that decoding may take.
    """
    answers = os.fdopen(os.dup(1), "wb")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the server answers to the end, and then ends this
    module, _, name = decode.partition(":")
    function = getattr(importlib.import_module(module), name)
    AvifImagePlugin.DEFAULT_MAX_THREADS = _AVIF_THREADS
    _set_limits(memory)
    answers.write(READY)
    answers.flush()
    # Until here it says why the start fails; what decoders print of an image is for nobody.
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    while len(head := sys.stdin.buffer.read(REQUEST.size)) == REQUEST.size:
        size, max_pixels, seconds = REQUEST.unpack(head)
        data = sys.stdin.buffer.read(size)
        # Ends this process in the middle of C code. The server's clock is the first to do so, but a
        # decoder that hangs must not outlive a server that was killed.
        signal.setitimer(signal.ITIMER_REAL, seconds + 1)
        try:
            upload = function(data, max_pixels)
        except MemoryError:
            answers.write(ANSWER.pack(NO_MEMORY, 0, 0, 0, 0, 0, 0))
        except Exception as error:  # the boundary of a process
            if not isinstance(error, ImageError):
                error = ImageError(CRASHED, f"{type(error).__name__}: {first_line(error)}")
            text = str(error).encode("utf-8", "backslashreplace")[:MAX_TEXT]
            answers.write(ANSWER.pack(REFUSED, len(text), 0, 0, 0, 0, 0) + text)
        else:
            height, width, _ = upload.pixels.shape
            header = upload.header or (0, 0, 0)
            answers.write(ANSWER.pack(DECODED, 0, height, width, *header))
            answers.write(np.ascontiguousarray(upload.pixels).data)
            del upload
        answers.flush()
        signal.setitimer(signal.ITIMER_REAL, 0)


def _set_limits(memory: int) -> None:
    """Limit what this process may take, for good."""
    limits = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: _OPEN_FILES,
    }
    with suppress(OSError):  # Linux only: elsewhere memory is not limited
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + memory
        # Where the machine has no memory left, the kernel ends this process and not the server.
        Path("/proc/self/oom_score_adj").write_text("1000")
    for limit, most in limits.items():
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))
