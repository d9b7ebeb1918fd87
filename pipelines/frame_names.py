"""Names of frames, the split and category in a name, and the order of names.

``train/bees/clip1.mp4#frame=12`` is frame 12, from 0, of a video;
``train/bees/processed_data.pt#video=3&frame=12`` is one of a clip in a file of many. A frame
of a clip that is stored as a folder of images is named like any image.
"""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

Part = Literal["train", "validation", "test"]

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts"}
    | {".m2ts", ".wmv", ".asf", ".flv", ".f4v", ".ogv", ".3gp", ".3g2", ".vob", ".m2v", ".mxf"}
    | {".divx", ".dv", ".h264", ".264", ".h265", ".265", ".hevc", ".mjpeg", ".mjpg", ".ivf"}
)

ALL = "all"  # the split of a name without one
# Names of splits, and the part of training a head that each is for.
SPLITS: dict[str, Part] = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
}

_FRAME = re.compile(r"(?P<file>.+)#(?:video=(?P<clip>\d+)&)?frame=(?P<frame>\d+)\Z", re.DOTALL)
_CLIP = re.compile(r"#video=\d+\Z")  # a clip of many in a file
_SORTED = re.compile(r"\d+|/|\.(?=[^./]*\Z)")
_LONGEST = 0xD7FF  # digits whose count is told; the characters after it are surrogates


class FrameName(NamedTuple):
    """The parts of a frame's name; ``clip`` is None for files that hold one video."""

    file: str
    clip: int | None
    frame: int


def frame_name(file: str, frame: int, clip: int | None = None) -> str:
    """The image name of one frame.

    Args:
        file: a video, or a file of many clips.
        frame: its number, from 0.
        clip: number of the clip in a file of many, from 0.
    """
    return f"{file}#frame={frame}" if clip is None else f"{file}#video={clip}&frame={frame}"


def parse_frame(name: str) -> FrameName | None:
    """Parse a frame's name; None for the name of an image."""
    match = _FRAME.match(name)
    if match is None:
        return None
    clip = match["clip"]
    return FrameName(match["file"], None if clip is None else int(clip), int(match["frame"]))


def file_in(name: str) -> str:
    """The file of an image, a frame or a clip; a folder's name may have a ``#`` of its own."""
    frame = parse_frame(name)
    return _CLIP.sub("", name) if frame is None else frame.file


def split_and_category(name: str) -> tuple[str, str | None]:
    """The split and the category in a name laid out ``SPLIT/CATEGORY/…/file``.

    A single folder is the split if it has the name of one, else the category of the split
    ``all``. Of an absolute name the two folders above the file count.
    """
    parents = PurePosixPath(file_in(name)).parent.parts
    if parents and parents[0] == "/":
        parents = parents[1:][-2:]
    if len(parents) > 1:
        return parents[0], parents[1]
    if not parents:
        return ALL, None
    return (parents[0], None) if parents[0].lower() in SPLITS else (ALL, parents[0])


def natural(name: str) -> str:
    """A key that sorts names as people do: ``frame9`` before ``frame10``, folder by folder.

    ``a.jpg`` is before ``a1.jpg``: the suffix counts last.

    Numbers of equal value (``1``, ``01``) are told apart by the rest of the name, then by the name
    itself, so that no two names have one key. Digits of any script are numbers.
    """
    return f"{_SORTED.sub(_sort_key, name)}\0{name}"


def _sort_key(part: re.Match[str]) -> str:
    """A separator, or a number with its length before it: shorter ones are smaller.

    All begin with a character that sorts before all text.
    """
    text = part[0]
    if text == ".":
        return "\0."
    if text == "/":
        return "\1"
    if not text.isascii():
        text = "".join(str(unicodedata.decimal(digit)) for digit in text)
    digits = text.lstrip("0")
    return f"\2{chr(min(len(digits), _LONGEST))}{digits}"
