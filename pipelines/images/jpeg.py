"""JPEGs, decoded by libjpeg-turbo, and what shows that one is damaged.

libjpeg conceals damage, as a player does: it warns, paints something, and goes on. Here each
warning counts, but for those about metadata and a few bytes of padding at the end. Three things
it does not warn of are looked for: scans that were never stored, zeros in place of the data, and
a picture that ends before its end marker.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg

from common.errors import first_line

_EOI, _SOS, _DHT, _COM = 0xD9, 0xDA, 0xC4, 0xFE
_APP0, _APP14, _APP15 = 0xE0, 0xEE, 0xEF
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {_DHT, 0xC8, 0xCC})
_DECISIVE = _FRAMES | {_SOS}
_LOSSLESS = frozenset({0xC3, 0xC7, 0xCB, 0xCF})
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB})
_SEQUENTIAL = frozenset({0xC0, 0xC1, 0xC9})
_ALL_COEFFICIENTS = b"\x00\x3f\x00"  # first, last and bits, in the header of a scan
_PROGRESSIVE = frozenset({0xC2, 0xCA})
_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # not a stuffed 0xFF, nor one of restarts
_JFIF = b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00"
_PADDING_BYTES = 16  # zeros that some cameras write before the end marker
_PADDING = re.compile(r"(\d+) extraneous bytes before marker 0xd9")
# Coded data have no such run: as many zero bits would be hundreds of equal coefficients.
_HOLE = bytes(64)


class _Segment(NamedTuple):
    """A marker of a file, with what belongs to it."""

    marker: int
    at: int  # of the marker
    begin: int  # of the content, after its length
    end: int


def decode_jpeg(data: bytes, *, cmyk: bool = False) -> tuple[np.ndarray, str | None]:
    """Decode, and say what shows that the picture is damaged.

    Args:
        data: the file.
        cmyk: it has four components.

    Returns:
        uint8 ``[H, W, 3]``, or ``[H, W, 4]`` as they are stored; what is wrong, None if nothing.

    Raises:
        ValueError: there are no pixels, not even of a part.
    """
    space = "CMYK" if cmyk else "RGB"
    damage: str | None = None
    try:
        pixels = simplejpeg.decode_jpeg(data, space)
    except ValueError:
        pixels, damage = _decode_warned(data, space)
    return pixels, damage or find_damage(data)


def _decode_warned(data: bytes, space: str) -> tuple[np.ndarray, str | None]:
    """A file that libjpeg warns of: again without its metadata, then as far as it goes."""
    bare = _without_metadata(data)
    if not any(segment.marker in _ARITHMETIC for segment in _segments(bare)):
        bare += (
            b"\xff\xd9"  # a whole picture may lack its end marker; arithmetic coding hides a cut
        )
    try:
        return simplejpeg.decode_jpeg(bare, space), None
    except ValueError as error:
        damage = first_line(error)
    pixels = simplejpeg.decode_jpeg(bare, space, strict=False)
    return pixels, None if _is_padding(bare, damage) else damage


def _without_metadata(data: bytes) -> bytes:
    """The file with only what decides its pixels; unchanged where its header is irregular.

    Some phones write other bounds of the coefficients than a sequential JPEG has; it has all.
    """
    kept, at, frame = [data[:2]], 2, 0
    for segment in _segments(data):
        if segment.at != at:
            return data
        at = segment.end
        if segment.marker == _SOS:
            if frame in _SEQUENTIAL:
                kept += [data[segment.at : segment.end - 3], _ALL_COEFFICIENTS]
                return b"".join([*kept, data[segment.end :]])
            return b"".join([*kept, data[segment.at :]])
        if segment.marker in _FRAMES:
            frame = segment.marker
        content = data[segment.begin : segment.end]
        if segment.marker == _APP0 and content.startswith(b"JFIF\0"):
            kept.append(_JFIF)
        elif segment.marker == _APP14 and content.startswith(b"Adobe"):
            known = len(content) < 12 or content[11] <= 2
            kept.append(data[segment.at : segment.end] if known else b"")
        elif not (_APP0 <= segment.marker <= _APP15 or segment.marker == _COM):
            kept.append(data[segment.at : segment.end])
    return data


def _is_padding(data: bytes, warning: str) -> bool:
    """Whether a warning is only of a few zeros after the last pixel."""
    match = _PADDING.search(warning)
    if match is None or int(match[1]) > _PADDING_BYTES:
        return False
    end = next((segment.at for segment in _segments(data) if segment.marker == _EOI), 0)
    return not any(data[end - int(match[1]) : end])


def find_damage(data: bytes) -> str | None:
    """What is wrong with a file although libjpeg does not warn; None if nothing is.

    Args:
        data: the file.
    """
    frame: tuple[int, list[int]] | None = None
    scans: list[_Segment] = []
    missing: dict[int, list[int]] = {}  # of each component: bits that each coefficient lacks
    for segment in _segments(data):
        if segment.marker not in _DECISIVE:
            continue
        content = data[segment.begin : segment.end]
        if segment.marker in _FRAMES and len(content) >= 6:
            if segment.marker in _LOSSLESS:
                return None
            frame = segment.marker, [*content[6 : 6 + 3 * content[5] : 3]]
            missing = {component: [-1] * 64 for component in frame[1]}
        elif segment.marker == _SOS and content and len(content) >= 2 * content[0] + 4:
            scans.append(segment)
            first, last, steps = content[2 * content[0] + 1 : 2 * content[0] + 4]
            if frame is not None and frame[0] in _SEQUENTIAL:
                first, last, steps = _ALL_COEFFICIENTS
            for component in content[1 : 1 + 2 * content[0] : 2]:
                if component in missing:
                    missing[component][first : last + 1] = [steps & 15] * (last + 1 - first)
            if not any(map(any, missing.values())):
                break
    if frame is None or not scans:
        return "no picture data"
    if any(map(any, missing.values())):
        return f"the file ends after {len(scans)} scans of its picture: detail is missing"
    return _find_hole(data, frame[0], scans[0].end)


def _find_hole(data: bytes, frame: int, begin: int) -> str | None:
    """A run of zeros in the coded data, where zeros do not mean a flat area."""
    if data.find(_HOLE, begin) < 0:
        return None
    first: dict[int, int] = {}  # symbol that zeros stand for, by class and number of its table
    for segment in _segments(data):
        if segment.marker == _EOI:
            break  # what follows is not the picture
        content = data[segment.begin : segment.end]
        if segment.marker == _DHT:
            while len(content) > 17:
                first[content[0]] = content[17]
                content = content[17 + sum(content[1:17]) :]
        if segment.marker == _SOS and len(content) >= 2 * content[0] + 4:
            following = _MARKER.search(data, segment.end)
            hole = data.find(_HOLE, segment.end, following.start() if following else len(data))
            if hole >= 0 and (frame in _ARITHMETIC or not _may_be_flat(content, frame, first)):
                return f"zeros in place of the picture at byte {hole}"
    return None


def _may_be_flat(scan: bytes, frame: int, first: dict[int, int]) -> bool:
    """Whether zeros in a scan may be an even area, or are single bits of a refinement."""
    begin, end, steps = scan[2 * scan[0] + 1 : 2 * scan[0] + 4]
    if frame in _PROGRESSIVE and steps >> 4:
        return True
    tables = [0x10 | number & 15 for number in scan[2 : 2 + 2 * scan[0] : 2] if end]
    tables += [number >> 4 for number in scan[2 : 2 + 2 * scan[0] : 2] if not begin]
    return all(first.get(table, 0) & 15 == 0 and first.get(table) != 0xF0 for table in tables)


def _segments(data: bytes) -> Iterator[_Segment]:
    """The segments of a file up to its end marker; coded data are passed over."""
    at = 2
    while (match := _MARKER.search(data, at)) is not None:
        marker, begin = data[match.start() + 1], match.end()
        if marker == _EOI:
            yield _Segment(marker, match.start(), begin, begin)
            return
        at = begin + max(2, int.from_bytes(data[begin : begin + 2]))
        yield _Segment(marker, match.start(), begin + 2, at)
