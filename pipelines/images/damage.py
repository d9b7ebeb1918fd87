"""Damage that Pillow's decoders pass over, found in the files themselves.

A PNG has checksums. The coders of lossy WebP and of AVIF leave no run of zeros, so one is a part
that was never written. Formats without either, as BMP, cannot be checked.
"""

from __future__ import annotations

import zlib

from PIL import Image

_WEBP_HOLE = bytes(64)
_AVIF_HOLE = bytes(1024)


def find_damage(data: bytes, header: Image.Image) -> str | None:
    """What is wrong with a file that Pillow may decode; None if nothing is known.

    Args:
        data: the file.
        header: the same, opened.
    """
    if header.format == "PNG":
        return _png(data)
    if header.format == "WEBP":
        return _webp(data)
    return _avif(data, header) if header.format == "AVIF" else None


def _png(data: bytes) -> str | None:
    """A chunk of the picture whose checksum is wrong, or that is cut."""
    view, at = memoryview(data), 8
    while at + 8 <= len(data):
        length, name = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        end = at + 8 + length
        if not name[0] & 0x20:  # a capital letter: the pixels depend on it
            if end + 4 > len(data):
                return f"chunk {_text(name)} is cut" if name != b"IEND" else None
            if zlib.crc32(view[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
                return f"the checksum of chunk {_text(name)} at byte {at} is wrong"
            if name == b"IEND":
                return None
        at = end + 4
    return None  # what is there is right, and Pillow sees whether it is enough


def _text(name: bytes) -> str:
    return name.decode("ascii", "backslashreplace")


def _webp(data: bytes) -> str | None:
    at = 12
    while at + 8 <= len(data):
        end = at + 8 + int.from_bytes(data[at + 4 : at + 8], "little")
        if data[at : at + 4] == b"VP8 ":
            return _hole(data, _WEBP_HOLE, at, end)
        at = end + end % 2
    return None


def _avif(data: bytes, header: Image.Image) -> str | None:
    """A hole in the coded pictures; EXIF lies among them and may have zeros of its own."""
    known = [header.info.get(name) for name in ("exif", "xmp", "icc_profile")]
    if any(isinstance(part, bytes) and _AVIF_HOLE in part for part in known):
        return None
    at = 0
    while at + 16 <= len(data):
        size = int.from_bytes(data[at : at + 4])
        if size == 1:
            size = int.from_bytes(data[at + 8 : at + 16])
        end = at + size if size >= 8 else len(data)
        if data[at + 4 : at + 8] == b"mdat" and (hole := _hole(data, _AVIF_HOLE, at, end)):
            return hole
        at = end
    return None


def _hole(data: bytes, zeros: bytes, begin: int, end: int) -> str | None:
    at = data.find(zeros, begin, end)
    return None if at < 0 else f"zeros in place of the picture at byte {at}"
