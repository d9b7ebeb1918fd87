"""Damaged image files: whole ones of each kind that is read, mutated.

Formats times modes, made with Pillow, tifffile, imagecodecs and PyAV; bits flipped, runs of zeros and ones,
cuts, edited headers, chunks doubled, swapped and taken out, bytes inserted, a part of another kind.
File N of a seed is always the same.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from functools import cache
from typing import Any

import av
import imagecodecs
import numpy as np
import tifffile
import torch
from PIL import Image

_WIDTH, _HEIGHT = 112, 80


def _rgb() -> np.ndarray:
    noise = np.random.default_rng(1).integers(0, 256, (_HEIGHT // 8, _WIDTH // 8, 3), np.uint8)
    return np.array(Image.fromarray(noise).resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC))


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
