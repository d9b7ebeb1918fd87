"""The process in which images of strangers are decoded: what it may do, when it ends, what comes back."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from PIL import Image

from benchmarks.damaged_files import kinds
from common.errors import UnavailableError
from pipelines.images import isolated
from pipelines.images.errors import ImageError
from pipelines.images.formats import decode
from pipelines.images.header import ImageHeader
from pipelines.images.isolated import IsolatedDecoder
from pipelines.images.isolated_child import OVER_LIMIT, Upload
from pipelines.images.pixels import resize
from pipelines.model_info import Preprocess
from tests.helpers.api import faulty_decoder
from tests.helpers.pictures import drawn, encoded
from tests.helpers.processes import ROOT, process_tree, start_time

PIXELS = 1_000_000
GOOD = encoded(drawn(3))
SIZE = Preprocess(input_size=(32, 32), resize="crop", mean=(0.5,) * 3, std=(0.5,) * 3)


def turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(drawn(orientation), exif=exif)


def ratio() -> bytes:
    """A JPEG whose EXIF has the orientation as a ratio, 6 to 1."""
    entry = struct.pack("<HHII", 0x0112, 5, 1, 26)
    exif = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4) + struct.pack("<II", 6, 1)
    return encoded(drawn(6), exif=b"Exif\0\0" + exif)


def two_widths() -> bytes:
    """A TIFF whose width is damaged: it has two."""
    data = kinds()["tiff"]
    at = data.index(struct.pack("<HH", 256, 4))
    return data[: at + 4] + struct.pack("<I", 2) + data[at + 8 :]


ODD = {"ratio": ratio(), "two widths": two_widths()}
WHOLE = ODD | kinds() | {f"orientation {number}": turned(number) for number in range(2, 9)}


def upload(decoder: IsolatedDecoder, data: bytes = GOOD, *, seconds: float = 30.0) -> Upload:
    return decoder.decode(data, max_pixels=PIXELS, seconds=seconds)


def process_of(decoder: IsolatedDecoder) -> int:
    assert decoder._process is not None
    return decoder._process.pid


@pytest.fixture(scope="module")
def decoder() -> Iterator[IsolatedDecoder]:
    decoder = IsolatedDecoder(PIXELS)
    yield decoder
    decoder.close()


@pytest.mark.parametrize("name", WHOLE)
def test_pixels_and_errors_are_those_of_this_process(decoder: IsolatedDecoder, name: str) -> None:
    expected, pixels = (
        _result(function)
        for function in (
            lambda: decode(WHOLE[name]).pixels,
            lambda: torch.from_numpy(upload(decoder, WHOLE[name]).pixels).permute(2, 0, 1),
        )
    )
    if isinstance(expected, str) or isinstance(pixels, str):
        assert pixels == expected
    else:
        assert torch.equal(pixels, expected)
        assert torch.equal(resize(pixels, SIZE), resize(expected, SIZE))


def _result(function: Callable[[], torch.Tensor]) -> torch.Tensor | str:
    try:
        return function()
    except ImageError as error:
        return str(error)


def test_the_header_comes_back(decoder: IsolatedDecoder) -> None:
    assert upload(decoder, ratio()).header == ImageHeader(320, 240, 6)
    assert upload(decoder, turned(6)).header == ImageHeader(320, 240, 6)


def test_an_image_over_the_limit_is_not_decoded(decoder: IsolatedDecoder) -> None:
    for most in (0, 320 * 240 - 1):
        with pytest.raises(ImageError) as refused:
            decoder.decode(GOOD, max_pixels=most, seconds=30)
        assert refused.value.kind == OVER_LIMIT
    assert decoder.decode(GOOD, max_pixels=320 * 240, seconds=30).pixels.shape == (240, 320, 3)
    with pytest.raises(ImageError) as refused:  # more than the decoder takes of any image
        decoder.decode(encoded(Image.new("L", (1001, 1000))), max_pixels=2**40, seconds=30)
    assert refused.value.kind == OVER_LIMIT


def test_it_writes_no_file_and_opens_few() -> None:
    decoder = IsolatedDecoder(PIXELS, faulty_decoder.limits)
    try:
        written, opened, core, has_torch, *_ = upload(decoder).pixels.ravel().tolist()
    finally:
        decoder.close()
    assert (written, core, has_torch) == (0, 0, 0)
    assert 0 < opened < 32


def test_one_that_ended_is_replaced(decoder: IsolatedDecoder) -> None:
    upload(decoder)
    before = process_of(decoder)
    os.kill(before, signal.SIGKILL)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    assert upload(decoder).pixels.shape == (240, 320, 3)
    assert process_of(decoder) != before


def test_signals_of_the_terminal_do_not_end_it(decoder: IsolatedDecoder) -> None:
    """Ctrl-C and a stop of the service reach all processes; the server finishes what it answers."""
    upload(decoder)
    before = process_of(decoder)
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(before, number)
        upload(decoder)
    assert process_of(decoder) == before


def test_a_process_is_replaced_after_some_uploads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolated, "_MAX_UPLOADS", 3)
    decoder = IsolatedDecoder(PIXELS)
    processes = []
    try:
        for number in range(9):
            if number % 2:
                upload(decoder)
            else:
                with pytest.raises(ImageError):
                    upload(decoder, b"no image")
            processes.append(process_of(decoder))
    finally:
        decoder.close()
    # Each is already the next one's after the third.
    assert [processes.count(process) for process in dict.fromkeys(processes)] == [2, 3, 3, 1]


def test_it_starts_without_anything_that_a_request_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    decoder = IsolatedDecoder(PIXELS)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            upload(decoder)


OWNER = """
import sys
from pipelines.images.isolated import IsolatedDecoder
from tests.helpers.api import faulty_decoder
decoder = IsolatedDecoder(1_000_000, faulty_decoder.decode)
decoder.start()
print("started", flush=True)
decoder.decode(faulty_decoder.fault(sys.argv[1]) if sys.argv[1:] else sys.stdin.buffer.read(), max_pixels=1, seconds=1.0)
"""


@pytest.mark.parametrize("doing", [(), ("hang",), ("hang in C",), ("spin",)])
def test_it_ends_when_its_server_is_killed(doing: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", OWNER, *doing]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as owner:  # type: ignore[call-overload]
        assert owner.stdout.readline() == b"started\n"
        (child,) = process_tree(owner.pid).keys() - {owner.pid}
        born = start_time(child)
        time.sleep(0.1)
        owner.kill()
    for _ in range(600):
        if start_time(child) != born:
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("it outlives its server")
