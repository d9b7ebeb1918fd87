"""The links to look at first: what was joined with the least margin, as pictures to judge by.

::

    OUT/review.csv      one line a link, most doubtful first, with a column for a verdict
    OUT/review-01.png   the same links: the crop before, the crop after, what the link cost
"""

from __future__ import annotations

import csv
import io
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw

from common.errors import InputError
from common.json_models import write_atomic
from index.vectors import Floats
from tracks.association.options import TERMS
from tracks.linked import LinkedRun, Progress
from tracks.pictures.scenes import RunImages
from tracks.pictures.sheet import BLANK, RED, Tile, contact_sheet

PER_SHEET = 18
_PER_ROW = 3
_CROP_PX = 170
_REACH = 1.5  # of the longer side of both boxes is shown: what they sit on helps the eye

COLUMNS = (
    *("number", "sheet", "sequence", "track_id", "position", "frame_before", "frame"),
    *("previous_detection_id", "detection_id", "margin", "cost"),
    *(f"cost_{term}" for term in TERMS),
    *("image_before", "image", "verdict"),
)


@dataclass(frozen=True)
class ReviewSummary:
    """What there is to look at.

    Attributes:
        table: the CSV file.
        sheets: the pictures.
        links: shown.
        of: links of the run.
        missing: images that could not be read, by reason; their crops are grey.
    """

    table: str
    sheets: list[str]
    links: int
    of: int
    missing: dict[str, int]


def review_run(
    run: Path, out: Path, *, worst: int = 50, progress: Progress = lambda done, total: None
) -> ReviewSummary:
    """Show the ``worst`` links of a run: smallest margin first, then dearest.

    Args:
        run: a linked run.
        out: the folder; older sheets in it are replaced.
        worst: how many.
        progress: called with crops cut and crops to cut.

    Raises:
        RunError, VerifyError: the run is not linked, or not as its manifests say.
        InputError: it has no link, or ``out`` holds a review with verdicts in it.
    """
    linked = LinkedRun.open(run)
    table = out / "review.csv"
    _refuse_verdicts(table)
    links = linked.rows.filter(linked.rows["previous_detection_id"].is_valid())
    if not links.num_rows:
        raise InputError(f"{run} has no links to review: every track is one detection")
    order = pc.sort_indices(
        links, [("margin", "ascending"), ("cost", "descending"), ("row_id", "ascending")]
    )
    chosen = links.take(order[:worst])
    ids = linked.rows["detection_id"].combine_chunks()
    before = linked.rows.take(pc.index_in(chosen["previous_detection_id"], ids))
    both = LinkedRun(linked.run, pa.concat_tables([before, chosen]).combine_chunks())
    rows = [
        {
            **later,
            "number": number,
            "sheet": (number - 1) // PER_SHEET + 1,
            "frame_before": earlier["frame"],
            "image_before": earlier["image"],
            "verdict": "",
        }
        for number, (later, earlier) in enumerate(
            zip(chosen.to_pylist(), before.to_pylist(), strict=True), start=1
        )
    ]
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("review-*.png"):
        old.unlink()
    sides = (both.boxes[:, 2:] - both.boxes[:, :2]).max(axis=1)
    reach = _REACH * np.maximum(sides[: len(rows)], sides[len(rows) :]).clip(1)
    with closing(RunImages(linked.run.root)) as scenes:
        pictures = _crops(both, scenes, np.tile(reach, 2), progress)
    sheets = []
    for start in range(0, len(rows), PER_SHEET):
        tiles = [
            Tile(pictures[at + after * len(rows)], words)
            for at in range(start, min(start + PER_SHEET, len(rows)))
            for after, words in enumerate(_captions(rows[at]))
        ]
        image = contact_sheet(
            [tiles[at : at + 2 * _PER_ROW] for at in range(0, len(tiles), 2 * _PER_ROW)],
            title=f"{run.name}: doubtful links {start + 1} to {start + len(tiles) // 2} of "
            f"{len(rows)}, smallest margin first; before, after",
            tile_px=_CROP_PX,
        )
        file = out / f"review-{start // PER_SHEET + 1:02d}.png"
        image.save(file)
        sheets.append(str(file))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(table, text.getvalue().encode())
    return ReviewSummary(str(table), sheets, len(rows), links.num_rows, dict(scenes.missing))


def _refuse_verdicts(table: Path) -> None:
    """See that nobody's work is written over."""
    if not table.is_file():
        return
    with table.open(newline="", encoding="utf-8") as file:
        given = sum(bool((row.get("verdict") or "").strip()) for row in csv.DictReader(file))
    if given:
        raise InputError(f"{table} holds {given} verdicts; give another --out, or move it away")


def _crops(
    linked: LinkedRun, scenes: RunImages, reach: Floats, progress: Progress
) -> list[Image.Image | None]:
    """A crop of each row, ``reach`` pixels wide, None where its image is gone; images in order."""
    found: list[Image.Image | None] = [None] * len(reach)
    order = pc.sort_indices(linked.rows, [("sequence", "ascending"), ("frame", "ascending")])
    images = linked.rows["image"].to_pylist()
    name, read = None, None
    for done, place in enumerate(order.to_pylist(), start=1):
        if images[place] != name:
            name, read = images[place], scenes.read(images[place])
        if read is not None:
            found[place] = _crop(read, linked.boxes[place], float(reach[place]))
        progress(done, len(reach))
    return found


def _crop(image: Image.Image, box: Floats, reach: float) -> Image.Image:
    """A box, outlined, in the middle of a square of ``reach`` pixels; what lies outside is blank.

    Both crops of a link have one ``reach``, so their scale is the same.
    """
    factor = max(1, int(reach / _CROP_PX))  # transform() alone would skip pixels
    left, top = (box[:2] + box[2:] - reach) / 2
    square = image.reduce(factor).transform(
        (_CROP_PX, _CROP_PX),
        Image.Transform.EXTENT,
        (left / factor, top / factor, (left + reach) / factor, (top + reach) / factor),
        Image.Resampling.BICUBIC,
        fillcolor=BLANK,
    )
    corners = (box - np.array([left, top] * 2)) * _CROP_PX / reach
    ImageDraw.Draw(square).rectangle(tuple(corners), outline=RED)
    return square


def _captions(row: dict[str, Any]) -> tuple[str, str]:
    """What stands below the crop before, and below the crop after."""
    margin = "not known" if row["margin"] is None else f"{row['margin']:.3f}"
    track = row["track_id"].rpartition(":")[2]
    before = [f"margin {margin}", f"track {track}", row["sequence"]]
    after = [f"cost {row['cost']:.3f}", *(f"  {term} {row[f'cost_{term}']:.3f}" for term in TERMS)]
    return (
        "\n".join([f"{row['number']}.  frame {row['frame_before']}", *before]),
        "\n".join([f"{row['number']}.  frame {row['frame']}", *after]),
    )
