"""The files of MOTChallenge: one per sequence, one line per box, frames from 1.

::

    frame, id, left, top, width, height, conf, class, visibility

Only the first six are needed. A line whose ``conf`` is 0 is not to be judged, as MOTChallenge marks
them in its ground truth. Commas, semicolons, tabs or spaces separate; a header may stand first.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

import numpy as np

from common.errors import InputError
from common.text import decode
from index.vectors import Floats, Ints
from tracks.association.state import Bools
from tracks.boxes import TrackBoxes

FIRST_FRAME = 1
_MAX_NAME_BYTES = 200  # well below what file systems allow
_LAYOUT = "frame,id,left,top,width,height"
_LARGEST = 2**53  # whole numbers above it are not exact as floats
# Of its ground truth: person on vehicle, static person, distractor, reflection.
_DISTRACTOR_CLASSES = (2, 7, 8, 12)
# What other tools call the first six columns; letters and digits alone, in lower case.
_HEADER = (
    {"frame", "frameid", "framenumber", "frameno", "frameindex", "frameidx"},
    {"id", "trackid", "objectid", "targetid", "identity", "individual", "track"},
    {"left", "x", "x1", "xmin", "bbleft", "bboxleft", "boxleft", "bbx", "bboxx"},
    {"top", "y", "y1", "ymin", "bbtop", "bboxtop", "boxtop", "bby", "bboxy"},
    {"width", "w", "bbwidth", "bboxwidth", "boxwidth", "bbw", "bboxw"},
    {"height", "h", "bbheight", "bboxheight", "boxheight", "bbh", "bboxh"},
)


@dataclass(frozen=True)
class UnjudgedBoxes:
    """M true boxes that are not to be judged."""

    frames: Ints  # frame number [M]
    boxes: Floats  # [M, 4] as x1, y1, x2, y2 in pixels
    # Of a class whose boxes MOTChallenge does not count as false either [M].
    distractor: Bools

    def __len__(self) -> int:
        return len(self.frames)


def read_truth(file: Path) -> tuple[TrackBoxes, UnjudgedBoxes]:
    """The true boxes, and those that are not to be judged; frames are as in the file.

    Raises:
        InputError: no such file, a line that is not as above, an id twice in a frame, or no box.
    """
    try:
        text, _ = decode(file.read_bytes())
        rows = _rows(text, file)
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text of MOTChallenge"
        raise InputError(f"`truth={str(file)!r}` cannot be read: {reason}") from None
    table = np.array(rows, dtype=np.float64).reshape(-1, 8)
    judged = table[:, 6] != 0
    if not judged.any():
        marked = f" ({len(table)} lines are marked not to be judged)" if len(table) else ""
        raise InputError(f"`truth={str(file)!r}` has no boxes{marked}; give a MOTChallenge gt.txt")
    frames, ids = table[:, 0].astype(np.int64), table[:, 1].astype(np.int64)
    boxes = np.column_stack([table[:, 2:4], table[:, 2:4] + table[:, 4:6]])
    truth = TrackBoxes(frames[judged], ids[judged], boxes[judged])
    if (duplicate := truth.first_duplicate()) is not None:
        no_id = "; -1 says that it has none: is this a file of detections?" * (duplicate[1] == -1)
        raise InputError(
            f"{file}: id {duplicate[1]} occurs twice in frame {duplicate[0]}; an individual has "
            f"one box per frame{no_id}"
        )
    distractor = np.isin(table[~judged, 7], _DISTRACTOR_CLASSES)
    return truth, UnjudgedBoxes(frames[~judged], boxes[~judged], distractor)


def _rows(text: str, file: Path) -> list[list[float]]:
    """Of each line that is no header: six numbers, the confidence and the class."""
    rows: list[list[float]] = []
    header_allowed = True
    for number, line in enumerate(io.StringIO(text, newline=None), start=1):
        fields = _fields(line)
        if not fields:
            continue
        where = f"{file}, line {number}"
        if not (header_allowed and _is_header(fields, where)):
            rows.append(_numbers(fields, where))
        header_allowed = False
    return rows


def _fields(line: str) -> list[str]:
    """The fields of a line, without empty ones at its end.

    Where semicolons separate, a comma is the decimal point, as spreadsheets save it.
    """
    separator = next((sign for sign in ";," if sign in line), None)
    if separator is None:
        return line.split()
    fields = [field.strip() for field in next(csv.reader([line.strip()], delimiter=separator))]
    while fields and not fields[-1]:
        fields.pop()
    return [field.replace(",", ".") for field in fields] if separator == ";" else fields


def _is_header(fields: list[str], where: str) -> bool:
    """Whether the first line names columns.

    Raises:
        InputError: it does, and they are others than those of MOTChallenge.
    """
    numbers = any(_number(field) is not None for field in fields)
    if len(fields) < 2 or (numbers and not fields[0].startswith("#")):
        return False
    names = [re.sub("[^a-z0-9]", "", field.casefold()) for field in fields]
    names = names[1:] if not names[0] else names  # "# frame id …"
    if len(names) < 6 or any(
        name not in known for name, known in zip(names[:6], _HEADER, strict=True)
    ):
        raise InputError(
            f"{where} is a header, {','.join(fields)[:60]!r}, of other columns than {_LAYOUT}; "
            "bring them into this order, in pixels"
        )
    return True


def _numbers(fields: list[str], where: str) -> list[float]:
    row = [_number(field) for field in fields[:6]]
    # Confidence and class may be missing; a class may be a name.
    confidence = _number(fields[6]) if len(fields) > 6 and fields[6] else 1.0
    label = _number(fields[7]) if len(fields) > 7 else None
    numbers = [value for value in row if value is not None and math.isfinite(value)]
    if len(numbers) < 6 or confidence is None or any(not _is_whole(part) for part in numbers[:2]):
        raise InputError(
            f"{where}: {','.join(fields)[:60]!r} is not {_LAYOUT},…; give a MOTChallenge gt.txt"
        )
    if min(numbers[4:6]) <= 0:
        raise InputError(
            f"{where}: a box {numbers[4]:g} wide and {numbers[5]:g} high; both must be above 0"
        )
    return [*numbers, confidence, math.nan if label is None else label]


def _number(field: str) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None


def _is_whole(value: float) -> bool:
    return value % 1 == 0 and abs(value) <= _LARGEST


def result_lines(tracked: TrackBoxes) -> str:
    """The text of a result file, by frame and id; frame numbers are written as given.

    Its confidence is 1: a class score is not the certainty of a box, and 0 would exclude a line.
    """
    rows = zip(tracked.frames.tolist(), tracked.ids.tolist(), tracked.boxes.tolist(), strict=True)
    return "".join(
        f"{frame},{track},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},1,-1,-1,-1\n"
        for frame, track, (x1, y1, x2, y2) in sorted(rows, key=lambda row: row[:2])
    )


def file_names(sequences: Iterable[str]) -> dict[str, str]:
    """File names without suffix by sequence; no two equal, even on file systems that ignore case.

    Characters that file systems may not allow are escaped as ``%2F``; most names stay unchanged.
    """
    names: dict[str, str] = {}
    used: set[str] = set()
    for sequence in sorted(set(sequences)):
        safe = quote(sequence, safe=" ()+,=@")
        if safe.startswith("."):
            safe = f"%2E{safe[1:]}"
        if len(safe) > _MAX_NAME_BYTES:
            digest = blake2b(sequence.encode(), digest_size=8).hexdigest()
            safe = f"{safe[:_MAX_NAME_BYTES]}-{digest}"
        name, times = safe or "%", 1
        while name.casefold() in used:
            times += 1
            name = f"{safe}~{times}"
        used.add(name.casefold())
        names[sequence] = name
    return names
