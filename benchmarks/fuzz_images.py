"""Damaged image files through the project's own decoders: no exception but an error row, no crash.

    python -m benchmarks.fuzz_images [--files 50000] [--begin 0] [--seed 1]

Whole files of each kind (formats times modes, made with Pillow, tifffile, imagecodecs and PyAV) are
mutated: bits flipped, runs of zeros and ones, cuts, edited headers, chunks doubled, swapped and taken
out, bytes inserted, a part of another kind. File N of a seed is always the same. Each is read as a row
of a run is, half of them with ``damaged="keep"``, in a worker process with a time limit: a decoder that
crashes or hangs is named with its file. Exit code 1 where one did, or where an exception was no error row.

Printed last on 2026-11-30, 2 cores (AMD EPYC), 50,000 files of 45 kinds; ICO, PCX and SGI are no known formats:

    all              50000 files, 16434 decoded, 23909 damaged image, 4013 not an image, 1817 kept,
    1535 damaged video, 754 damaged tensors, 598 unknown scale, 374 missing frame, 308 unsupported
    image, 140 too large, 118 no pictures
    slowest: 0.1 s (gif moving, file 2531)
    0 exception, 0 crash, 0 hang
"""

from __future__ import annotations

import io
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import av
import imagecodecs
import numpy as np
import pyarrow as pa
import tifffile
import torch
from PIL import Image

from benchmarks import runner
from cluster.children import Child, ChildDiedError
from pipelines.config import OnDamage
from pipelines.detections import IMAGE_DAMAGE, complete
from pipelines.images.decode import PIXELS, decode_rows, unpack
from pipelines.model_info import Preprocess

SIZE = Preprocess(input_size=(32, 32), resize="crop", mean=(0.5,) * 3, std=(0.5,) * 3)
SECONDS = 60.0  # of a file
_WIDTH, _HEIGHT = 112, 80
BAD = ("exception", "crash", "hang")


def _rgb() -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 256, (_HEIGHT // 8, _WIDTH // 8, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC))


def _pillow(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(_rgb()).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def _tiff(samples: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, samples, **options)
    return stream.getvalue()


def _exif() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif.get_ifd(0x8769)[0x9003] = "2022:07:28 23:22:39"
    return exif


def _video(container: str, codec: str, pixels: str) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format=container) as output:
        video = output.add_stream(codec, rate=10)
        video.width, video.height, video.pix_fmt = _WIDTH, _HEIGHT, pixels
        for shift in range(8):
            frame = av.VideoFrame.from_ndarray(np.roll(_rgb(), 4 * shift, 1), format="rgb24")
            output.mux(video.encode(frame))
        output.mux(video.encode())
    return stream.getvalue()


def _tensors() -> bytes:
    stream = io.BytesIO()
    torch.save(torch.from_numpy(_rgb()).permute(2, 0, 1)[None].repeat(4, 1, 1, 1), stream)
    return stream.getvalue()


@cache
def kinds() -> dict[str, bytes]:
    """A whole file of each kind."""
    rgb = _rgb()
    grey, deep = rgb[..., 1], rgb.astype(np.uint16) * 257
    floats = rgb[..., 0] / np.float32(255)
    header = b"%d %d\n" % (_WIDTH, _HEIGHT)
    return {
        "jpeg": _pillow("JPEG", quality=90, exif=_exif()),
        "jpeg progressive": _pillow("JPEG", progressive=True),
        "jpeg restarts": _pillow("JPEG", restart_marker_blocks=3),
        "jpeg grey": _pillow("JPEG", "L", optimize=True),
        "jpeg cmyk": _pillow("JPEG", "CMYK"),
        "mpo": _pillow("MPO", save_all=True, append_images=[Image.fromarray(rgb)]),
        "png": _pillow("PNG", exif=_exif()),
        "png palette": _pillow("PNG", "P"),
        "png 16 bits": imagecodecs.png_encode(deep),
        "png one bit": _pillow("PNG", "1"),
        "gif": _pillow("GIF", "P"),
        "gif moving": _pillow("GIF", save_all=True, append_images=[Image.fromarray(rgb[::-1])]),
        "webp": _pillow("WEBP", exif=_exif().tobytes()),
        "webp lossless": _pillow("WEBP", lossless=True),
        "bmp": _pillow("BMP"),
        "bmp palette": _pillow("BMP", "P"),
        "avif": _pillow("AVIF", exif=_exif().tobytes()),
        "avif 10 bits": imagecodecs.avif_encode(rgb.astype(np.uint16) * 4, bitspersample=10),
        "jp2": _pillow("JPEG2000"),
        "jp2 16 bits": imagecodecs.jpeg2k_encode(deep, level=0),
        "ppm": _pillow("PPM"),
        "pgm 16 bits": b"P5\n" + header + b"4095\n" + (deep[..., 0] >> 4).astype(">u2").tobytes(),
        "pfm": b"Pf\n" + header + b"-1.0\n" + floats.tobytes(),
        "tga": _pillow("TGA", compression="tga_rle"),
        "dds": _pillow("DDS"),
        "ico": _pillow("ICO"),
        "pcx": _pillow("PCX"),
        "sgi": _pillow("SGI"),
        "tiff": _tiff(rgb, photometric="rgb"),
        "tiff lzw": _tiff(rgb, photometric="rgb", compression="lzw", predictor=2),
        "tiff deflate": _tiff(deep, photometric="rgb", compression="deflate", rowsperstrip=16),
        "tiff zstd tiles": _tiff(deep, photometric="rgb", compression="zstd", tile=(32, 32)),
        "tiff jpeg": _tiff(rgb, photometric="ycbcr", compression="jpeg"),
        "tiff packbits": _tiff(grey, compression="packbits"),
        "tiff float": _tiff(floats, compression="deflate", predictor=3),
        "tiff planes": _tiff(np.moveaxis(deep, -1, 0), photometric="rgb", planarconfig="separate"),
        "tiff 12 bits": _tiff(deep[..., 0] >> 4, bitspersample=12),
        "tiff cmyk": _pillow("TIFF", "CMYK"),
        "tiff fax": _pillow("TIFF", "1", compression="group4"),
        "bigtiff": _tiff(rgb, photometric="rgb", bigtiff=True, byteorder=">"),
        "imagej": _tiff(deep[..., 0], imagej=True, metadata={"min": 0.0, "max": 65535.0}),
        "video.mp4": _video("mp4", "libx264", "yuv420p"),
        "video.avi": _video("avi", "mjpeg", "yuvj420p"),
        "video.mkv": _video("matroska", "libvpx", "yuv420p"),
        "tensors.pt": _tensors(),
    }


def _place(dice: random.Random, data: bytes, most: int) -> tuple[int, int]:
    """A random part of ``data``, not longer than ``most``."""
    begin = dice.randrange(len(data))
    return begin, min(len(data), begin + 1 + int(most ** dice.random()))


def _flip(dice: random.Random, data: bytes) -> bytes:
    mutated = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8, 64))):
        mutated[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
    return bytes(mutated)


def _fill(dice: random.Random, data: bytes) -> bytes:
    begin, end = _place(dice, data, len(data))
    return data[:begin] + dice.choice((b"\0", b"\0", b"\xff")) * (end - begin) + data[end:]


def _cut(dice: random.Random, data: bytes) -> bytes:
    return data[: dice.randrange(1, len(data))]


def _edit_header(dice: random.Random, data: bytes) -> bytes:
    mutated = bytearray(data)
    for _ in range(dice.randrange(1, 5)):
        at = dice.randrange(min(len(data), 256))
        mutated[at] = dice.choice((0, 1, 127, 128, 255, dice.randrange(256)))
    return bytes(mutated)


def _edit_number(dice: random.Random, data: bytes) -> bytes:
    at, size = dice.randrange(min(len(data), 512)), dice.choice((2, 4, 8))
    number = dice.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), dice.randrange(2**16)))
    return data[:at] + number.to_bytes(size, dice.choice(("big", "little"))) + data[at + size :]


def _double(dice: random.Random, data: bytes) -> bytes:
    begin, end = _place(dice, data, 4096)
    return data[:end] + data[begin:end] * dice.choice((1, 1, 20)) + data[end:]


def _remove(dice: random.Random, data: bytes) -> bytes:
    begin, end = _place(dice, data, 4096)
    return data[:begin] + data[end:] or data[:1]


def _swap(dice: random.Random, data: bytes) -> bytes:
    (begin, end), (other, last) = sorted(_place(dice, data, 2048) for _ in range(2))
    end, other = min(end, other), max(end, other)
    return data[:begin] + data[other:last] + data[end:other] + data[begin:end] + data[last:]


def _insert(dice: random.Random, data: bytes) -> bytes:
    at, _ = _place(dice, data, 1)
    return data[:at] + dice.randbytes(dice.choice((1, 2, 16, 700))) + data[at:]


def _splice(dice: random.Random, data: bytes) -> bytes:
    other = dice.choice(list(kinds().values()))
    begin, end = _place(dice, other, len(other))
    at = dice.randrange(len(data))
    return data[:at] + other[begin:end] + data[at + end - begin :]


MUTATIONS: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    *(_flip, _fill, _cut, _edit_header, _edit_number, _double, _remove, _swap, _insert, _splice),
)


def made(seed: int, number: int) -> tuple[str, bytes]:
    """Kind and content of a mutated file."""
    dice = random.Random(f"{seed}/{number}")
    names = list(kinds())
    name = names[number % len(names)]
    data = kinds()[name]
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        data = dice.choice(MUTATIONS)(dice, data)
    return name, data


class Outcome(NamedTuple):
    """What became of a file."""

    kind: str
    outcome: str  # "decoded", the kind of an error, or one of BAD
    detail: str
    seconds: float


def answer(given: tuple[int, int]) -> Outcome:
    """Make a file, and read it as a row of a run is read; in a worker.

    Args:
        given: seed and number of the file.
    """
    seed, number = given
    name, data = made(seed, number)
    keep: OnDamage = "keep" if number // len(kinds()) % 2 else "error"
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, name).write_bytes(data)
        image = f"{name}#frame=3" if "." in name else name
        row = complete(pa.table({"image": [image]}), where="made")
        started = time.monotonic()
        try:
            decoded = decode_rows(row, Path(folder), {PIXELS: SIZE}, damaged=keep)
            error = decoded["error"][0].as_py()
            pixels = unpack(decoded, PIXELS, SIZE)
            assert pixels.shape == (1, *SIZE.input_size, 3)
        except Exception as raised:  # what the benchmark is for
            seconds = time.monotonic() - started
            return Outcome(name, "exception", f"{type(raised).__name__}: {raised}", seconds)
        seconds = time.monotonic() - started
    if error is not None:
        return Outcome(name, error.partition(":")[0], error, seconds)
    damage = decoded[IMAGE_DAMAGE][0].as_py() if keep == "keep" else None
    return Outcome(name, "kept" if damage else "decoded", "", seconds)


class Fuzz:
    """Workers that read files, and what became of each.

    Args:
        seed: of the mutations.
        numbers: of the files.
    """

    def __init__(self, seed: int, numbers: range) -> None:
        self._seed = seed
        self._todo = iter(numbers)
        self._lock = threading.Lock()
        self.outcomes: dict[str, Counter[str]] = {name: Counter() for name in kinds()}
        self.slowest = (0.0, "")
        self.bad: list[str] = []

    def run(self) -> None:
        """Read all files, one worker a core."""
        threads = [threading.Thread(target=self._work) for _ in range(runner.CORES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def _work(self) -> None:
        child = Child()
        try:
            child.call(answer, (self._seed, 0))  # torch and FFmpeg take seconds
            while (number := self._next()) is not None:
                started = time.monotonic()
                try:
                    outcome = child.call(answer, (self._seed, number), seconds=SECONDS)
                except ChildDiedError as error:
                    seconds = time.monotonic() - started
                    name = list(kinds())[number % len(kinds())]
                    what = "hang" if seconds >= SECONDS else "crash"
                    outcome = Outcome(name, what, str(error), seconds)
                    child.close()
                    child = Child()
                self._count(number, outcome)
        finally:
            child.close()

    def _next(self) -> int | None:
        with self._lock:
            return next(self._todo, None)

    def _count(self, number: int, outcome: Outcome) -> None:
        with self._lock:
            self.outcomes[outcome.kind][outcome.outcome] += 1
            self.slowest = max(self.slowest, (outcome.seconds, f"{outcome.kind}, file {number}"))
            if outcome.outcome in BAD:
                self.bad.append(
                    f"{outcome.kind}, file {number}: {outcome.outcome}: {outcome.detail}"
                )

    def show(self) -> None:
        """Print a line a kind, and every file that is none."""
        total = Counter[str]()
        for name, outcomes in self.outcomes.items():
            total += outcomes
            _print(name, outcomes)
        _print("all", total)
        print("\n".join(self.bad))
        print(f"slowest: {self.slowest[0]:.1f} s ({self.slowest[1]})")
        print(", ".join(f"{total[name]} {name}" for name in BAD))


def _print(name: str, outcomes: Counter[str]) -> None:
    errors = [f"{count} {what}" for what, count in outcomes.most_common() if what != "decoded"]
    print(
        f"{name:18}{outcomes.total():7} files, {outcomes['decoded']:6} decoded, {', '.join(errors)}"
    )


def main() -> None:
    parser = runner.arguments(__doc__)
    parser.add_argument("--files", type=int, default=50_000, help="default: 50000")
    parser.add_argument("--begin", type=int, default=0, help="number of the first file")
    parser.add_argument("--seed", type=int, default=1)
    given = runner.parsed(parser, files=500)
    fuzz = Fuzz(given.seed, range(given.begin, given.begin + given.files))
    fuzz.run()
    print(f"Damaged files, seed {given.seed}\n{runner.machine()}")
    fuzz.show()
    if given.json is not None:
        given.json.write_text(json.dumps({"outcomes": fuzz.outcomes, "bad": fuzz.bad}, indent=2))
    read = sum(outcomes.total() for outcomes in fuzz.outcomes.values())
    sys.exit(bool(fuzz.bad) or read < given.files)


if __name__ == "__main__":
    from benchmarks import fuzz_images  # by its name, so that workers find its functions

    fuzz_images.main()
