"""The files of MOTChallenge: one per sequence, one line per box, frames from 1.

::

    frame, id, left, top, width, height, conf, class, visibility

Only the first six are needed. A line whose ``conf`` is 0 is not to be judged, as MOTChallenge marks
them in its ground truth.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

import numpy as np

from common.errors import InputError
from common.text import decode
from tracks.boxes import TrackBoxes

FIRST_FRAME = 1
_MAX_NAME_BYTES = 200  # well below what file systems allow


def read_truth(file: Path) -> tuple[TrackBoxes, int]:
    """The true boxes, frames as in the file, and the number of lines that are not to be judged.

    Raises:
        InputError: no such file, a line that is not as above, an id twice in a frame, or no box.
    """
    rows: list[list[float]] = []
    unjudged = 0
    try:
        text, _ = decode(file.read_bytes())
        for number, fields in enumerate(csv.reader(io.StringIO(text, newline="")), start=1):
            if any(field.strip() for field in fields):
                row = _numbers(fields, f"{file}, line {number}")
                if row[6:7] == [0]:
                    unjudged += 1
                else:
                    rows.append(row[:6])
    except (OSError, ValueError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text of MOTChallenge"
        raise InputError(f"`truth={str(file)!r}` cannot be read: {reason}") from None
    if not rows:
        marked = f" ({unjudged} lines are marked not to be judged)" if unjudged else ""
        raise InputError(f"`truth={str(file)!r}` has no boxes{marked}; give a MOTChallenge gt.txt")
    table = np.array(rows)
    boxes = np.column_stack([table[:, 2:4], table[:, 2:4] + table[:, 4:6]])
    truth = TrackBoxes(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), boxes)
    if (duplicate := truth.first_duplicate()) is not None:
        raise InputError(
            f"{file}: id {duplicate[1]} occurs twice in frame {duplicate[0]}; an individual has "
            "one box per frame"
        )
    return truth, unjudged


def _numbers(fields: list[str], where: str) -> list[float]:
    try:
        row = [float(field) for field in fields if field.strip()]
    except ValueError:
        row = []
    if len(row) < 6 or not np.isfinite(row[:6]).all() or any(part % 1 for part in row[:2]):
        raise InputError(
            f"{where}: {','.join(fields)[:60]!r} is not frame,id,left,top,width,height,…; give a "
            "MOTChallenge gt.txt"
        )
    if min(row[4:6]) <= 0:
        raise InputError(
            f"{where}: a box {row[4]:g} wide and {row[5]:g} high; both must be above 0"
        )
    return row


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
