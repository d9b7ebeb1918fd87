"""The links to look at first: those with the smallest margin, as pictures to judge by.

::

    OUT/review.csv      one line per link, most doubtful first, with a column for a verdict
    OUT/review-01.png   the same links: the earlier crop, the later crop, the cost of the link
"""

from __future__ import annotations

import csv
import io
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from common.errors import InputError
from common.json_models import write_atomic
from common.moved import Pairs
from common.text import decode
from index.vectors import Floats
from tracks.association.options import TERMS
from tracks.linked_run import LinkedRun, Progress
from tracks.pictures.scenes import RunImages
from tracks.pictures.sheet import BLANK, RED, Tile, contact_sheet
from tracks.store import TracksManifest

Row = Mapping[str, Any]

PER_SHEET = 18
_PER_ROW = 3
_CROP_PX = 170
_CROP_SIDES = 1.5  # crops are so many times the longest side of both boxes, to show context

COLUMNS = (
    *("number", "sheet", "sequence", "track_id", "position", "frame_before", "frame"),
    *("previous_detection_id", "detection_id", "margin", "cost"),
    *(f"cost_{term}" for term in TERMS),
    *("in_one_box_with", "camera_moved"),
    *("image_before", "image", "verdict"),
)

# What a formula begins with, of usual and of full width, and the apostrophe that prevents one.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20", "'")


@dataclass(frozen=True)
class ReviewSummary:
    """The links to look at."""

    table: str  # path of the CSV file
    sheets: list[str]  # paths of the pictures
    links: int  # number of links shown
    of: int  # number of links of the run
    # Number of images that could not be read, by reason; their crops are grey.
    missing: dict[str, int]


def review_run(
    run: Path,
    out: Path,
    *,
    worst: int = 50,
    pairs: Pairs = (),
    progress: Progress = lambda done, total: None,
) -> ReviewSummary:
    """Show the ``worst`` links of a run: smallest margin first, then highest cost.

    Args:
        run: a linked run.
        out: the folder; older sheets in it are replaced.
        worst: number of links.
        pairs: of folders of images that were moved.
        progress: called with the number of crops cut and of all crops.

    Raises:
        RunError: the run is not linked.
        VerifyError: its tracks differ from their manifest.
        InputError: it has no link, or ``out`` holds a review with verdicts in it.
    """
    linked = LinkedRun.open(run, pairs=pairs)
    table = out / "review.csv"
    _refuse_verdicts(table)
    links = linked.rows.filter(linked.rows["previous_detection_id"].is_valid())
    if not links.num_rows:
        raise InputError(f"{run} has no links to review: every track is one detection")
    order = pc.sort_indices(
        links, [("margin", "ascending"), ("cost", "descending"), ("row_id", "ascending")]
    )
    after = links.take(order[:worst])
    ids = linked.rows["detection_id"].combine_chunks()
    before = linked.rows.take(pc.index_in(after["previous_detection_id"], ids))
    joined = zip(after.to_pylist(), before.to_pylist(), strict=True)
    together, moves = _companions(linked), _camera_moves(linked)
    rows = [
        {
            **later,
            "number": number,
            "sheet": (number - 1) // PER_SHEET + 1,
            "frame_before": earlier["frame"],
            "image_before": earlier["image"],
            "in_one_box_with": ", ".join(sorted(together(earlier, later))),
            "camera_moved": moves(earlier, later),
            "verdict": "",
        }
        for number, (later, earlier) in enumerate(joined, start=1)
    ]
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("review-*.png"):
        old.unlink()
    both = LinkedRun(linked.run, pa.concat_tables([before, after]).combine_chunks())
    with closing(RunImages(linked.run.images)) as images:
        crops = _crops(both, images, progress)
    sheets = [
        _write_sheet(rows, crops, start, out, run.name) for start in range(0, len(rows), PER_SHEET)
    ]
    write_atomic(table, to_csv(rows).encode())
    return ReviewSummary(str(table), sheets, len(rows), links.num_rows, dict(images.missing))


def _companions(linked: LinkedRun) -> Callable[[Row, Row], set[str]]:
    """Names the tracks that are in one box with a track, from one of its detections to the next."""
    known: dict[str, list[tuple[int, set[str]]]] = {}  # by track, in order
    rows = linked.rows.filter(linked.rows["other_track_ids"].is_valid())
    for row in rows.select(["track_id", "frame", "other_track_ids"]).to_pylist():
        members = {row["track_id"], *row["other_track_ids"]}
        for name in members:
            known.setdefault(name, []).append((row["frame"], members - {name}))

    def together(before: Row, after: Row) -> set[str]:
        frames = known.get(after["track_id"], [])
        first = bisect_left(frames, before["frame"], key=itemgetter(0))
        last = bisect_right(frames, after["frame"], key=itemgetter(0))
        return set().union(*(others for _, others in frames[first:last]))

    return together


def _camera_moves(linked: LinkedRun) -> Callable[[Row, Row], str]:
    """Says by how many pixels the camera moved between two detections of a sequence."""
    moves = TracksManifest.read(linked.run.path / "tracks").camera_moves

    def moved(before: Row, after: Row) -> str:
        shifts = [
            move.shift
            for move in moves.get(after["sequence"], [])
            if move.before < after["frame"] and before["frame"] < move.frame
        ]
        x, y = sum(shift.dx for shift in shifts), sum(shift.dy for shift in shifts)
        return f"{x:.0f} {y:.0f}" if shifts else ""

    return moved


def to_csv(rows: Iterable[Mapping[str, Any]]) -> str:
    """The text of ``review.csv``, in which a spreadsheet finds no formula.

    Names come from files and from whoever made the detections. One that a spreadsheet would compute
    gets an apostrophe before it, and so does one that begins with an apostrophe: to have a name
    back, take one away.

    Args:
        rows: values of ``COLUMNS``; others are left out.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _cell(value) for name, value in row.items()})
    return text.getvalue()


def _cell(value: Any) -> Any:
    """A value of a table; numbers stay numbers."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULAS) else value


def _write_sheet(
    rows: list[dict[str, Any]], crops: list[Image.Image | None], start: int, out: Path, name: str
) -> str:
    """Write the sheet that begins with ``rows[start]``; ``crops`` are all earlier, then all later ones."""
    shown = range(start, min(start + PER_SHEET, len(rows)))
    tiles = [
        Tile(crops[number + after * len(rows)], caption)
        for number in shown
        for after, caption in enumerate(_captions(rows[number]))
    ]
    image = contact_sheet(
        [tiles[at : at + 2 * _PER_ROW] for at in range(0, len(tiles), 2 * _PER_ROW)],
        title=f"{name}: doubtful links {start + 1} to {shown.stop} of {len(rows)}, smallest margin "
        "first; before, after",
        tile_px=_CROP_PX,
    )
    file = out / f"review-{start // PER_SHEET + 1:02d}.png"
    image.save(file)
    return str(file)


def _refuse_verdicts(table: Path) -> None:
    """Check that no verdicts would be overwritten."""
    if not table.is_file():
        return
    # As a spreadsheet saves it: in another encoding, with semicolons or tabs.
    text, _ = decode(table.read_bytes())
    header = text.partition("\n")[0]
    separator = max(",;\t", key=header.count)
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator)
    verdicts = sum(bool((row.get("verdict") or "").strip()) for row in rows)
    if verdicts:
        raise InputError(f"{table} holds {verdicts} verdicts; give another `out`, or move it away")


def _crops(linked: LinkedRun, images: RunImages, progress: Progress) -> list[Image.Image | None]:
    """A crop of each row, None where its image cannot be read.

    The rows are all earlier detections of links, then all later ones; both crops of a link have one
    scale.
    """
    crops: list[Image.Image | None] = [None] * linked.rows.num_rows
    longest = (linked.boxes[:, 2:] - linked.boxes[:, :2]).max(axis=1).reshape(2, -1).max(axis=0)
    sides = np.tile(_CROP_SIDES * longest.clip(1), 2)
    # Images in order, so that videos are read forwards.
    order = pc.sort_indices(linked.rows, [("sequence", "ascending"), ("frame", "ascending")])
    names = linked.rows["image"].to_pylist()
    name, image = None, None
    for done, row in enumerate(order.to_pylist(), start=1):
        if names[row] != name:
            name, image = names[row], images.read(names[row])
        if image is not None:
            crops[row] = _crop(image, linked.boxes[row], float(sides[row]))
        progress(done, len(crops))
    return crops


def _crop(image: Image.Image, box: Floats, side: float) -> Image.Image:
    """A box, outlined, in the middle of a square of ``side`` pixels; blank outside the image."""
    factor = max(1, int(side / _CROP_PX))  # transform() alone would skip pixels
    left, top = (box[:2] + box[2:] - side) / 2
    square = image.reduce(factor).transform(
        (_CROP_PX, _CROP_PX),
        Image.Transform.EXTENT,
        (left / factor, top / factor, (left + side) / factor, (top + side) / factor),
        Image.Resampling.BICUBIC,
        fillcolor=BLANK,
    )
    corners = (box - np.array([left, top] * 2)) * _CROP_PX / side
    ImageDraw.Draw(square).rectangle(tuple(corners), outline=RED)
    return square


def _captions(row: dict[str, Any]) -> tuple[str, str]:
    """The captions of the earlier and of the later crop."""
    margin = "not known" if row["margin"] is None else f"{row['margin']:.3f}"
    track = row["track_id"].rpartition(":")[2]
    before = [f"margin {margin}", f"track {track}", row["sequence"]]
    if row["in_one_box_with"]:
        others = [name.rpartition(":")[2] for name in row["in_one_box_with"].split(", ")]
        before.append(f"in one box with {', '.join(others)}")
    if row["camera_moved"]:
        before.append(f"camera moved {row['camera_moved']} px")
    after = [f"cost {row['cost']:.3f}", *(f"  {term} {row[f'cost_{term}']:.3f}" for term in TERMS)]
    return (
        "\n".join([f"{row['number']}.  frame {row['frame_before']}", *before]),
        "\n".join([f"{row['number']}.  frame {row['frame']}", *after]),
    )
