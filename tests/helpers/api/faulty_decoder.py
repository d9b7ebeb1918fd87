"""A decoder for ``IsolatedDecoder`` that does to its process what an image asks for.

``fault("hang")`` is an image that makes it hang; any other image is decoded as usual.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable

import numpy as np

from pipelines.images.isolated_child import ANSWER, DECODED, REFUSED, Upload, decode_upload

_MARK = b"fault: "
_HUGE = 2**32 - 1


def fault(name: str) -> bytes:
    """An image that makes the decoder fail in the way of that name."""
    return _MARK + name.encode()


def decode(data: bytes, max_pixels: int) -> Upload:
    """``decode_upload``, but for the images of ``fault``."""
    if not data.startswith(_MARK):
        return decode_upload(data, max_pixels)
    FAULTS[data.removeprefix(_MARK).decode()]()
    return Upload(np.zeros((4, 4, 3), np.uint8), None)


def limits(_: bytes, __: int) -> Upload:
    """Bytes that it could write, files it could open, its limit of core files, whether it has torch."""
    written = 0
    with contextlib.suppress(OSError), tempfile.TemporaryFile(buffering=0) as file:
        written = file.write(b"x")
    opened = []
    while len(opened) < 255:
        try:
            opened.append(os.dup(0))
        except OSError:
            break
    for number in opened:
        os.close(number)
    core = sum(resource.getrlimit(resource.RLIMIT_CORE))
    has_torch = "torch" in sys.modules
    row = np.array([written, len(opened), core, has_torch, 0, 0], np.uint8)
    return Upload(row.reshape(1, 2, 3), None)


def no_decoder(_: bytes, __: int) -> Upload:
    """Its name is gone when a process looks for it, which therefore does not start."""
    raise AssertionError


no_decoder.__qualname__ = "missing"


def _spin() -> None:
    while True:
        pass


def _in_small_pieces() -> None:
    pieces = []
    while True:
        pieces.append(bytes(2**16))


def _in_c() -> None:
    """As a library of C++ does that cannot go on without memory."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    while address := libc.malloc(ctypes.c_size_t(2**26)):
        ctypes.memset(address, 1, 2**26)
    os.abort()


def _write(*parts: bytes, pause: float = 0.0) -> None:
    """Write to whatever is open, as code of an attacker would."""
    for part in parts:
        for number in range(3, 32):
            try:
                os.write(number, part)
            except OSError:
                continue
        time.sleep(pause)


def _close_all() -> None:
    os.closerange(0, 32)
    time.sleep(3600)


class _Attack:
    """Unpickled, it makes a file where the server was started."""

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, ("taken-over",)


_HEAD = ANSWER.pack(DECODED, 0, 4, 4, 4, 4, 1)

SLOW: dict[str, Callable[[], object]] = {
    "hang": lambda: time.sleep(3600),
    "hang in C": lambda: ctypes.PyDLL(None).sleep(3600),  # no other thread of it runs
    "spin": _spin,
    "stop": lambda: os.kill(os.getpid(), signal.SIGSTOP),
    "half an answer": lambda: (_write(_HEAD, bytes(20)), time.sleep(3600)),
    "an answer byte by byte": lambda: _write(_HEAD, *[b"\1"] * 46, pause=1.0),
}
LARGE: dict[str, Callable[[], object]] = {
    "4 GB": lambda: np.full(2**32, 1, np.uint8),
    "4 GB in small pieces": _in_small_pieces,
}
DEADLY: dict[str, Callable[[], object]] = {
    "abort": os.abort,
    "segmentation fault": lambda: ctypes.string_at(0),
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "unknown signal": lambda: os.kill(os.getpid(), signal.SIGRTMIN + 6),
    "exit": lambda: os._exit(0),
    "4 GB in C": _in_c,
    "exception": lambda: 1 / 0,
    "interrupt": lambda: signal.raise_signal(signal.SIGUSR1),
    "all files closed": _close_all,
    "pickle": lambda: _write(pickle.dumps(_Attack())),
    "noise": lambda: _write(*[b"\xaa" * 2**16] * 100),
    "too many pixels": lambda: _write(ANSWER.pack(DECODED, 0, _HUGE, _HUGE, 1, 1, 1), bytes(999)),
    "no pixels": lambda: _write(ANSWER.pack(DECODED, 0, 0, 9, 1, 1, 1)),
    "long text": lambda: _write(ANSWER.pack(REFUSED, _HUGE, 0, 0, 0, 0, 0), bytes(9999)),
    "unknown answer": lambda: _write(ANSWER.pack(77, 0, 1, 1, 1, 1, 1), bytes(3)),
}
FAULTS = SLOW | LARGE | DEADLY
