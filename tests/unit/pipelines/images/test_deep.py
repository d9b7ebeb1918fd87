"""Samples of more or other than 8 bits: scaled as the file declares, or an error; never guessed."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from pipelines.images.errors import ImageError
from pipelines.images.formats import decode
from pipelines.images.header import ImageHeader, header_of
from tests.helpers.pictures import drawn, encoded

RGB = np.array(drawn(3, width=64, height=48))
RGB[0, 0], RGB[0, 1] = 0, 255
GREY = RGB[..., 1].copy()
GREY16, RGB16 = GREY.astype(np.uint16) * 257, RGB.astype(np.uint16) * 257
SMIN, SMAX, MAX_SAMPLE, NO_DATA = 340, 341, 281, 42113


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, samples, **options)
    return stream.getvalue()


def tag(code: int, kind: int, *values: Any) -> dict[str, Any]:
    value = values[0] if len(values) == 1 else values
    count = len(value) + 1 if isinstance(value, str) else len(values)
    return {"extratags": [(code, kind, count, value, True)]}


def pixels_of(data: bytes) -> np.ndarray:
    return decode(data).pixels.permute(1, 2, 0).numpy().astype(int)


def compare(data: bytes, expected: np.ndarray, most: int = 0) -> None:
    """The decoded pixels are these, up to rounding."""
    wanted = np.repeat(expected[..., None], 3, axis=2) if expected.ndim == 2 else expected
    found = pixels_of(data)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= most


SHORT, DOUBLE, TEXT = 3, 12, 2
FLOATS = (GREY / 255).astype(np.float32)
TWELVE = GREY.astype(np.uint16) << 4 | GREY >> 4
INKS = np.dstack([255 - RGB, np.zeros_like(GREY)])
DECLARED = {
    "float32": (tiff(FLOATS), GREY),
    "float64 RGB": (tiff(RGB / 255, photometric="rgb"), RGB),
    "float32, predictor": (tiff(FLOATS, compression="deflate", predictor=3), GREY),
    "uint32": (tiff(GREY.astype(np.uint32) * 0x01010101), GREY),
    "int16": (tiff((GREY16.astype(np.int32) - 32768).astype(np.int16)), GREY),
    "int8": (tiff((GREY.astype(int) - 128).astype(np.int8)), GREY),
    "white is zero, 16 bits": (tiff(GREY16, photometric="miniswhite"), 255 - GREY),
    "white is zero, 8 bits": (tiff(GREY, photometric="miniswhite"), 255 - GREY),
    "planes of 16 bits": (
        tiff(np.moveaxis(RGB16, -1, 0), photometric="rgb", planarconfig="separate"),
        RGB,
    ),
    "planes of 8 bits": (
        tiff(np.moveaxis(RGB, -1, 0), photometric="rgb", planarconfig="separate"),
        RGB,
    ),
    "RGB of 16 bits, LZW": (tiff(RGB16, photometric="rgb", compression="lzw", predictor=2), RGB),
    "RGB of 16 bits, alpha": (
        tiff(np.dstack([RGB16, GREY16]), photometric="rgb", extrasamples=["unassalpha"]),
        RGB,
    ),
    "RGB and infrared": (
        tiff(np.dstack([RGB, GREY]), photometric="rgb", extrasamples=["unspecified"]),
        RGB,
    ),
    "inks of 16 bits": (tiff(INKS.astype(np.uint16) * 257, photometric="separated"), RGB),
    "planes of inks": (
        tiff(np.moveaxis(INKS.astype(np.uint16), -1, 0) * 257, photometric="separated"),
        RGB,
    ),
    "BigTIFF": (tiff(RGB16, photometric="rgb", bigtiff=True, byteorder=">"), RGB),
    "tiles": (tiff(RGB16, photometric="rgb", tile=(16, 16), compression="zstd"), RGB),
    "12 bits packed": (tiff(TWELVE, bitspersample=12), GREY),
    "10 bits packed": (tiff(GREY.astype(np.uint16) << 2, bitspersample=10), GREY),
    "4 bits": (tiff(GREY >> 4, bitspersample=4), (GREY >> 4) * 17),
    "12 bits in 16, SMaxSampleValue": (tiff(TWELVE, **tag(SMAX, SHORT, 4095)), GREY),
    "12 bits in 16, MaxSampleValue": (tiff(TWELVE, **tag(MAX_SAMPLE, SHORT, 4095)), GREY),
    "12 bits in 16, OME": (
        tiff(TWELVE, ome=True, metadata={"axes": "YX", "SignificantBits": 12}),
        GREY,
    ),
    "float, declared": (tiff(GREY.astype(np.float32), **tag(SMAX, DOUBLE, 255.0)), GREY),
    "ImageJ's range": (
        tiff(GREY.astype(np.uint16) * 10, imagej=True, metadata={"min": 0.0, "max": 2550.0}),
        GREY,
    ),
    "no data": (
        tiff(
            np.where(GREY < 9, -9999, GREY / 255).astype(np.float32), **tag(NO_DATA, TEXT, "-9999")
        ),
        np.where(GREY < 9, 0, GREY),
    ),
    "bytes, stretched": (tiff((GREY16 // 257 // 8 * 257).astype(np.uint16)), GREY // 8),
    "the first of a stack": (tiff(np.stack([GREY16, 65535 - GREY16])), GREY),
}


@pytest.mark.parametrize("name", DECLARED)
def test_a_tiff_is_scaled_by_what_it_declares(name: str) -> None:
    compare(*DECLARED[name], most=1)


REFUSED = {
    "12 bits in 16": (tiff(TWELVE), "unknown scale"),
    "14 bits in 16": (tiff(GREY.astype(np.uint16) * 64), "unknown scale"),
    "int16 from 0": (tiff((GREY16 // 2).astype(np.int16)), "unknown scale"),
    "int32 of counts": (tiff(GREY.astype(np.int32)), "unknown scale"),
    "uint32 of counts": (tiff(GREY.astype(np.uint32) * 16), "unknown scale"),
    "float 0..255": (tiff(GREY.astype(np.float32)), "unknown scale"),
    "float -1..1": (tiff(FLOATS * 2 - 1), "unknown scale"),
    "NaN": (tiff(np.where(GREY < 9, np.nan, FLOATS).astype(np.float32)), "unknown scale"),
    "more than declared": (tiff(GREY16, **tag(SMAX, SHORT, 4095)), "unknown scale"),
    "complex": (tiff(GREY.astype(np.complex64)), "unsupported image"),
    "five bands": (
        tiff(np.dstack([RGB, RGB[..., :2]]), photometric="minisblack", planarconfig="contig"),
        "unsupported image",
    ),
    "a sensor": (tiff(GREY16, photometric="cfa"), "unsupported image"),
    "a DNG": (tiff(RGB, photometric="rgb", **tag(50706, 1, 1, 4, 0, 0)), "unsupported image"),
    "a small picture first": (tiff(RGB, photometric="rgb", subfiletype=1), "unsupported image"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tiff_that_does_not_say_is_an_error(name: str) -> None:
    data, kind = REFUSED[name]
    with pytest.raises(ImageError) as caught:
        decode(data)
    assert caught.value.kind == kind


PLAIN = {
    "grey": (Image.fromarray(GREY), {}),
    "RGB": (Image.fromarray(RGB), {"compression": "tiff_lzw"}),
    "deflate": (Image.fromarray(RGB), {"compression": "tiff_adobe_deflate"}),
    "packbits": (Image.fromarray(RGB), {"compression": "packbits"}),
    "palette": (Image.fromarray(RGB).quantize(200), {}),
    "one bit": (Image.fromarray(GREY > 128), {}),
    "fax": (Image.fromarray(GREY > 128), {"compression": "group4"}),
    "older fax": (Image.fromarray(GREY > 128), {"compression": "group3"}),
    "oldest fax": (Image.fromarray(GREY > 128), {"compression": "tiff_ccitt"}),
    "inks": (Image.fromarray(RGB).convert("CMYK"), {}),
    "JPEG": (Image.fromarray(RGB), {"compression": "jpeg"}),
    "alpha": (Image.fromarray(np.dstack([RGB, GREY])), {}),
    "grey and alpha": (Image.fromarray(np.dstack([GREY, GREY])), {}),
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_tiff_is_as_pillow_reads_it(name: str) -> None:
    image, options = PLAIN[name]
    data = encoded(image, "TIFF", **options)
    compare(data, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))


def test_a_palette_of_bytes() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (3, 256), np.uint16)
    compare(tiff(GREY, photometric="palette", colormap=colours), colours.T[GREY])
    compare(tiff(GREY, photometric="palette", colormap=colours * 257), colours.T[GREY])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_turned_as_it_says(orientation: int) -> None:
    turns = [
        *(lambda a: a, lambda a: a[:, ::-1], lambda a: np.rot90(a, 2), lambda a: a[::-1]),
        *(lambda a: a.swapaxes(0, 1), lambda a: np.rot90(a, -1)),
        *(lambda a: np.rot90(a, 2).swapaxes(0, 1), lambda a: np.rot90(a, 1)),
    ]
    data = tiff(RGB16, photometric="rgb", bigtiff=True, **tag(274, SHORT, orientation))
    compare(data, turns[orientation - 1](RGB))
    assert header_of(io.BytesIO(data)) == ImageHeader(64, 48, orientation)


@pytest.mark.parametrize("compression", [None, "lzw", "deflate", "zstd", "packbits", "jpeg"])
def test_a_tiff_that_is_cut_or_has_a_hole(compression: str | None) -> None:
    noise = np.random.default_rng(2).integers(0, 256, (64, 80, 3), np.uint8)
    data = tiff(noise, photometric="rgb", compression=compression, rowsperstrip=16)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        begin, length = page.dataoffsets[2], page.databytecounts[2]
    with pytest.raises(ImageError):
        decode(data[: begin + length // 2])
    if compression is not None:  # nothing tells zeros from black where pixels lie bare
        with pytest.raises(ImageError):
            decode(data[:begin] + bytes(length) + data[begin + length :])


def png(rows: np.ndarray, depth: int, colour: int, chunks: bytes = b"") -> bytes:
    """A PNG of these rows; rows are bytes, most significant first."""
    size = struct.pack(">IIBBBBB", GREY.shape[1], GREY.shape[0], depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", size), chunks, chunk(b"IDAT", pixels), chunk(b"IEND")]
    )


def chunk(name: bytes, content: bytes = b"") -> bytes:
    return (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )


def test_png_of_any_depth() -> None:
    compare(png(GREY16.astype(">u2"), 16, 0), GREY)
    compare(png(RGB16.astype(">u2"), 16, 2), RGB)
    compare(png(np.dstack([RGB16, GREY16]).astype(">u2"), 16, 6), RGB)
    compare(png(np.dstack([GREY16, GREY16]).astype(">u2"), 16, 4), GREY)
    twelve = (TWELVE << 4 | TWELVE >> 8).astype(">u2")
    compare(png(twelve, 16, 0, chunk(b"sBIT", b"\x0c")), GREY)
    packed = GREY[:, ::2] >> 4 << 4 | GREY[:, 1::2] >> 4
    compare(png(packed, 4, 0), (GREY >> 4) * 17)


@pytest.mark.parametrize("most", [100, 255, 1023, 4095, 65535])
def test_portable_maps_are_scaled_by_their_maximum(most: int) -> None:
    for magic, values in ((b"P5", GREY), (b"P6", RGB)):
        scaled = (values / 255 * most).round().astype(np.uint8 if most < 256 else ">u2")
        header = b"%s\n%d %d\n%d\n" % (magic, GREY.shape[1], GREY.shape[0], most)
        compare(header + scaled.tobytes(), values, most=2)


def test_portable_floats() -> None:
    header = b"Pf\n%d %d\n-1.0\n" % (GREY.shape[1], GREY.shape[0])
    compare(header + FLOATS[::-1].tobytes(), GREY)
    with pytest.raises(ImageError) as caught:
        decode(header + (FLOATS * 255)[::-1].tobytes())
    assert caught.value.kind == "unknown scale"


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_jpeg_2000_of_any_depth(bits: int) -> None:
    for values in (GREY, RGB):
        deep = (values.astype(np.uint32) * (2**bits - 1) // 255).astype(np.uint16)
        samples = deep if bits > 8 else values
        compare(imagecodecs.jpeg2k_encode(samples, level=0, bitspersample=bits), values, most=1)


@pytest.mark.parametrize("bits", [8, 10, 12])
def test_avif_of_any_depth(bits: int) -> None:
    samples = RGB if bits == 8 else RGB.astype(np.uint16) << (bits - 8)
    compare(imagecodecs.avif_encode(samples, bitspersample=bits, level=100), RGB, most=2)


def test_lab_is_converted() -> None:
    lab = np.full((8, 8, 3), (128, 40, 216), np.uint8)  # L 50, a 40, b -40
    red, green, blue = pixels_of(tiff(lab, photometric="cielab"))[4, 4]
    assert blue > red > green  # a purple, as CIELAB has it
    assert abs(red - 159) + abs(green - 93) + abs(blue - 189) < 6
