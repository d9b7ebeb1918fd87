"""Only the formats that the documentation names are opened, whatever else Pillow can do."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from pipelines.images.formats import decode
from pipelines.images.header import header_of
from pipelines.images.pillow import FORMATS, open_image
from pipelines.images.pixels import ImageError
from tests.helpers.pictures import drawn, encoded

PICTURE = drawn(5, width=64, height=48)
MPEG = (
    b"\0\0\1\xb3" + bytes([4, 0, 0x30]) + bytes([0x13, 0xFF, 0xFF, 0xE0, 0x18, 1, 0, 1, 0, 1, 8, 0])
)
SMALL = encoded(Image.new("RGB", (16, 16)), "PNG")
CURSOR = struct.pack("<HHHBBBBHHII", 0, 2, 1, 16, 16, 0, 0, 1, 1, len(SMALL), 22) + SMALL
FITS = b"".join(
    line.ljust(80)
    for line in (
        b"SIMPLE  =                    T",
        b"BITPIX  =                    8",
        b"NAXIS   =                    2",
        b"NAXIS1  =                    4",
        b"NAXIS2  =                    4",
        b"END",
    )
).ljust(2880) + bytes(2880)
OTHERS = {
    **{kind: encoded(PICTURE, kind) for kind in ("EPS", "PCX", "ICO", "SGI", "PDF", "QOI", "ICNS")},
    "ICO of 70 kB": b"\0\0\1\0\1\0\x20\x20\0\0\1\0\x20\0"
    + struct.pack("<II", 70_000, 22)
    + bytes(70_000),
    "XBM": encoded(PICTURE.convert("1"), "XBM"),
    "SPIDER": encoded(PICTURE.convert("F"), "SPIDER"),
    "BLP": encoded(PICTURE.convert("P"), "BLP"),
    "CUR": CURSOR,
    "FITS": FITS,
    "MPEG": MPEG + bytes(4000),
    "WMF": b"\xd7\xcd\xc6\x9a" + bytes(2) + struct.pack("<hhhhH", 0, 0, 90, 90, 96) + bytes(400),
    "XPM": b'/* XPM */\nstatic char *a[] = {\n"1 1 1 1",\n"a c #ff0000",\n"a"};\n',
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 4, 4, 8, 3) + bytes(4000),
    "HDF5": b"\x89HDF\r\n\x1a\n" + bytes(4000),
    "PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_format_is_no_image(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.init()
    tried = []
    for other in set(Image.OPEN) - set(FORMATS):
        monkeypatch.setitem(Image.OPEN, other, (lambda *_, o=other: tried.append(o), None))
    with pytest.raises(ImageError, match=r"known are JPEG, PNG, .*TGA") as caught:
        decode(OTHERS[name])
    assert caught.value.kind == "not an image"
    with pytest.raises(ImageError, match="known are JPEG"):
        header_of(io.BytesIO(OTHERS[name]))
    assert not tried


@pytest.mark.parametrize("kind", [*FORMATS, "MPO"])
def test_each_known_format_is_opened(kind: str) -> None:
    data = encoded(PICTURE, kind)
    opened = open_image(io.BytesIO(data))
    assert opened is not None
    assert opened.format == kind if kind != "MPO" else "JPEG"
    assert decode(data).pixels.shape == (3, 48, 64)


@pytest.mark.parametrize("mode", ["L", "P", "RGB", "RGBA", "LA"])
@pytest.mark.parametrize("compression", [None, "tga_rle"])
def test_every_tga_is_known(mode: str, compression: str | None) -> None:
    picture = PICTURE.convert(mode)
    data = encoded(picture, "TGA", compression=compression)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert (decode(data).pixels.permute(1, 2, 0).numpy() == expected).all()
