"""The files of MOTChallenge: one a sequence, one line a box, frames from 1.

::

    frame, id, left, top, width, height, conf, class, visibility

Only the first six are needed. A line whose ``conf`` is 0 is one that is not to be judged, as
MOTChallenge marks them in its truth.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

import numpy as np

from common.errors import InputError
from tracks.tracked import TrackBoxes

FIRST_FRAME = 1
_LONGEST = 200  # bytes of a file's name, well below what file systems take


def read_truth(file: Path) -> tuple[TrackBoxes, int]:
    """The boxes to judge by, frames as in the file, and how many lines were marked out.

    Raises:
        InputError: no such file, a line that is not as above, an id twice in a frame, or no box.
    """
    rows: list[list[float]] = []
    left_out = 0
    try:
        with file.open(newline="", encoding="utf-8") as opened:
            for number, fields in enumerate(csv.reader(opened), start=1):
                if any(field.strip() for field in fields):
                    row = _numbers(fields, f"{file}, line {number}")
                    if row[6:7] == [0]:
                        left_out += 1
                    else:
                        rows.append(row[:6])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text of MOTChallenge"
        raise InputError(f"--truth {file} cannot be read: {reason}") from None
    if not rows:
        marked = f" ({left_out} lines are marked not to be judged)" if left_out else ""
        raise InputError(f"--truth {file} has no boxes{marked}; give a MOTChallenge gt.txt")
    table = np.array(rows)
    boxes = np.column_stack([table[:, 2:4], table[:, 2:4] + table[:, 4:6]])
    truth = TrackBoxes(table[:, 0].astype(np.int64), table[:, 1].astype(np.int64), boxes)
    if (twice := truth.repeated()) is not None:
        raise InputError(
            f"{file}: id {twice[1]} stands twice in frame {twice[0]}; an individual has one box a "
            "frame"
        )
    return truth, left_out


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
    """The text of a result file, by frame and id; frames stand as they are given.

    Its confidence is 1: a class's score is not how sure a box is, and 0 would mark a line out.
    """
    rows = zip(tracked.frames.tolist(), tracked.ids.tolist(), tracked.boxes.tolist(), strict=True)
    return "".join(
        f"{frame},{track},{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f},1,-1,-1,-1\n"
        for frame, track, (x1, y1, x2, y2) in sorted(rows, key=lambda row: row[:2])
    )


def file_names(sequences: Iterable[str]) -> dict[str, str]:
    """A file's name, without suffix, for each sequence; no two alike, even where case is not told.

    What a file system may not like stands as ``%2F``; most names stay as they are.
    """
    names: dict[str, str] = {}
    taken: set[str] = set()
    for sequence in sorted(set(sequences)):
        made = quote(sequence, safe=" ()+,=@")
        if made.startswith("."):
            made = f"%2E{made[1:]}"
        if len(made) > _LONGEST:
            made = f"{made[:_LONGEST]}-{blake2b(sequence.encode(), digest_size=8).hexdigest()}"
        name, times = made or "%", 1
        while name.casefold() in taken:
            times += 1
            name = f"{made}~{times}"
        taken.add(name.casefold())
        names[sequence] = name
    return names
