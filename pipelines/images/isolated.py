"""Images of strangers, decoded in a process of their own.

A decoder is C code that reads hostile bytes: it may hang, crash, or take memory without end. There it
ends only that process, which has limits of time, memory, files and more (``isolated_child``), and the next
image gets a new one. What comes back is pixels and short texts of checked sizes, never a pickle, by which
a decoder that was taken over could run code here: so neither ``multiprocessing`` nor
``cluster.children`` serves.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from typing import IO, cast

import numpy as np

from common.errors import UnavailableError, first_line
from pipelines.images.errors import ImageError
from pipelines.images.header import ImageHeader
from pipelines.images.isolated_child import (
    ANSWER,
    CRASHED,
    DECODED,
    MAX_TEXT,
    NO_MEMORY,
    READY,
    REFUSED,
    REQUEST,
    Upload,
    decode_upload,
)

TOO_SLOW, TOO_MUCH_MEMORY = "too slow", "too much memory"  # kinds of errors, beside the child's

# A TIFF of 64-bit floats takes 39 bytes a pixel, more than any other format.
_BYTES_PER_PIXEL, _MORE_BYTES = 40, 256 * 2**20
_START_SECONDS = 60.0
_PIPE_BYTES = 2**20
_MAX_UPLOADS = 1000  # of one process: decoders leak a little memory of damaged files
_ENVIRONMENT = {"MALLOC_ARENA_MAX": "2", "OPENBLAS_NUM_THREADS": "1"}  # both reserve by the core
_COMMAND = (
    "import sys; from pipelines.images.isolated_child import main; "
    "main(sys.argv[1], int(sys.argv[2]))"
)

Decode = Callable[[bytes, int], Upload]


class IsolatedDecoder:
    """Decodes one image after another in a child process; safe to share between threads.

    The process is started by ``start`` or the first image, in a fifth of a second, as it needs no torch.

    Args:
        max_pixels: of any image; the process may take memory in proportion.
        decode: the function that it calls, at the top of a module.
    """

    def __init__(self, max_pixels: int, decode: Decode = decode_upload) -> None:
        self._max_pixels = max_pixels
        self._memory = _MORE_BYTES + _BYTES_PER_PIXEL * max_pixels
        self._decode = f"{decode.__module__}:{decode.__qualname__}"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._is_ready = False
        self._uploads = 0  # of this process

    def decode(self, data: bytes, *, max_pixels: int, seconds: float) -> Upload:
        """Decode an image; blocks.

        Args:
            data: the file.
            max_pixels: that it may have, at most those of all.
            seconds: that it may take.

        Raises:
            ImageError: it is none, or damaged; it has more pixels (``OVER_LIMIT``), takes longer
                (``TOO_SLOW``) or more memory (``TOO_MUCH_MEMORY``), or ends its decoder (``CRASHED``).
            UnavailableError: this machine cannot start the process.
        """
        max_pixels = min(max_pixels, self._max_pixels)
        with self._lock:
            process = self._ready()
            self._uploads += 1
            try:
                with _time_limit(process, seconds) as is_over:
                    answer = _exchange(process, data, max_pixels, seconds)
            except (EOFError, OSError):
                answer = _death(self._end(), seconds, is_over=is_over.is_set())
            except BaseException:
                self._end()  # what it would send next is of this image
                raise
            kind = answer.kind if isinstance(answer, ImageError) else None
            if kind == TOO_MUCH_MEMORY or is_over.is_set() or self._uploads >= _MAX_UPLOADS:
                self._end()
            with suppress(UnavailableError):  # the next image says so, if it is still so
                self._start()  # where it has ended: the next image need not wait for it
        if isinstance(answer, ImageError):
            raise answer
        return answer

    def start(self) -> None:
        """Start the process if there is none, and wait until it is ready.

        Raises:
            UnavailableError: as for ``decode``.
        """
        with self._lock:
            self._ready()

    def close(self) -> None:
        """End the process; an image that is being decoded is refused."""
        if self._process is not None:
            self._process.kill()
        with self._lock:
            self._end()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._process.poll() is None:
            return self._process
        self._end()
        path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)  # noqa: PTH109
        try:
            process = subprocess.Popen(  # noqa: S603 - no word of it is a request's
                [sys.executable, "-P", "-c", _COMMAND, self._decode, str(self._memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
            )
        except OSError as error:
            reason = f"the process that decodes images cannot be started: {first_line(error)}"
            raise UnavailableError(reason) from None
        self._process = process
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError, AttributeError):  # halves what large images take to come across
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        return process

    def _ready(self) -> subprocess.Popen[bytes]:
        """The process, once it waits for an image."""
        process = self._start()
        if self._is_ready:
            return process
        assert process.stdout is not None
        with _time_limit(process, _START_SECONDS):
            self._is_ready = process.stdout.read(len(READY)) == READY
        if not self._is_ready:
            code = self._end()
            raise UnavailableError(
                f"the process that decodes images ended before the first (exit code {code})"
            )
        return process

    def _end(self) -> int | None:
        """End the process, if there is one; its exit code."""
        process, self._process, self._is_ready, self._uploads = self._process, None, False, 0
        if process is None:
            return None
        process.kill()
        for pipe in (process.stdin, process.stdout):
            assert pipe is not None
            with suppress(OSError):  # it ended before it had read all
                pipe.close()
        return process.wait()


@contextmanager
def _time_limit(process: subprocess.Popen[bytes], seconds: float) -> Iterator[threading.Event]:
    """End a process after some seconds, which ends all reading from it; sets the event if it did."""
    is_over = threading.Event()

    def end() -> None:
        is_over.set()
        process.kill()

    timer = threading.Timer(seconds, end)
    timer.start()
    try:
        yield is_over
    finally:
        timer.cancel()
        timer.join()  # so that it does not end the process in the middle of the next image


def _exchange(
    process: subprocess.Popen[bytes], data: bytes, max_pixels: int, seconds: float
) -> Upload | ImageError:
    """Send an image and receive its pixels or what is wrong with it.

    Raises:
        EOFError: the process ended, or sent what it never sends by itself.
        OSError: the process ended.
    """
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(REQUEST.pack(len(data), max_pixels, seconds))
    process.stdin.write(data)
    process.stdin.flush()
    head = _read(process.stdout, ANSWER.size)
    status, size, height, width, *header = ANSWER.unpack(head)
    if status == NO_MEMORY:
        return ImageError(TOO_MUCH_MEMORY, "it takes more than this server gives to an image")
    if status == REFUSED and size <= MAX_TEXT:
        kind, _, detail = _read(process.stdout, size).decode("utf-8", "replace").partition(": ")
        return ImageError(kind, detail)
    if status != DECODED or not 0 < height * width <= max_pixels:
        raise EOFError
    pixels = np.empty((height, width, 3), np.uint8)
    # It fills all of its argument, unless the pipe is closed.
    if cast(BufferedReader, process.stdout).readinto(pixels.reshape(-1).data) < pixels.nbytes:
        raise EOFError
    return Upload(pixels, ImageHeader(*header) if all(header) else None)


def _read(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def _death(code: int | None, seconds: float, *, is_over: bool) -> ImageError:
    """Why a process ended in the middle of an image."""
    if is_over or code == -signal.SIGALRM:
        return ImageError(TOO_SLOW, f"it takes over {seconds:.3g} s to decode; send it smaller")
    cause = f"exit code {code}" if code is None or code >= 0 else signal.strsignal(-code)
    return ImageError(CRASHED, f"the image ended the process that decoded it ({cause})")
