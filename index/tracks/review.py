"""The links to look at first: what was joined with the least margin, as pictures to judge by.

::

    OUT/review.csv      one line a link, most doubtful first, with a column for a verdict
    OUT/review-01.png   the same links: the crop before, the crop after, what the link cost
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from cluster.errors import InputError
from index.linking.options import TERMS
from index.pictures.images import surroundings
from index.pictures.sheet import Link, link_sheet
from index.tracks.linked import Floats, Linked
from index.tracks.scenes import Scenes
from pipelines.records import write_atomic

PER_SHEET = 18
_CROP_PX = 170
_REACH = 1.5  # of the longer side of both boxes is shown: what they sit on helps the eye
_FULL_PX = 100_000  # crops are cut from images as they are

COLUMNS = (
    *("number", "sheet", "sequence", "track_id", "position", "frame_before", "frame"),
    *("previous_detection_id", "detection_id", "margin", "cost"),
    *(f"cost_{term}" for term in TERMS),
    *("image_before", "image", "verdict"),
)

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Review:
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
) -> Review:
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
    linked = Linked.open(run)
    table = out / "review.csv"
    _keep_verdicts(table)
    links = linked.rows.filter(linked.rows["previous_detection_id"].is_valid())
    if not links.num_rows:
        raise InputError(f"{run} has no links to review: every track is one detection")
    order = pc.sort_indices(
        links, [("margin", "ascending"), ("cost", "descending"), ("row_id", "ascending")]
    )
    chosen = Linked(linked.run, links.take(order[:worst]).combine_chunks())
    before = _before(linked, chosen)
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
            zip(chosen.rows.to_pylist(), before.rows.to_pylist(), strict=True), start=1
        )
    ]
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("review-*.png"):
        old.unlink()
    both = Linked(linked.run, pa.concat_tables([before.rows, chosen.rows]).combine_chunks())
    sides = (both.boxes[:, 2:] - both.boxes[:, :2]).max(axis=1)
    reach = _REACH * np.maximum(sides[: len(rows)], sides[len(rows) :]).clip(1)
    with closing(Scenes(linked.run.root, _FULL_PX)) as scenes:
        pictures = _crops(both, scenes, np.tile(reach, 2), progress)
    sheets = []
    for start in range(0, len(rows), PER_SHEET):
        shown = range(start, min(start + PER_SHEET, len(rows)))
        image = link_sheet(
            [Link(pictures[at], pictures[len(rows) + at], _words(rows[at])) for at in shown],
            title=f"{run.name}: doubtful links {start + 1} to {shown[-1] + 1} of {len(rows)}, "
            "smallest margin first; before, after",
            crop_px=_CROP_PX,
        )
        file = out / f"review-{start // PER_SHEET + 1:02d}.png"
        image.save(file)
        sheets.append(str(file))
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(table, text.getvalue().encode())
    return Review(str(table), sheets, len(rows), links.num_rows, dict(scenes.missing))


def _keep_verdicts(table: Path) -> None:
    """See that nobody's work is written over."""
    if not table.is_file():
        return
    with table.open(newline="", encoding="utf-8") as file:
        given = sum(bool((row.get("verdict") or "").strip()) for row in csv.DictReader(file))
    if given:
        raise InputError(f"{table} holds {given} verdicts; give another --out, or move it away")


def _before(linked: Linked, links: Linked) -> Linked:
    """The rows that the links continue, in the order of the links."""
    ids = linked.rows["detection_id"].combine_chunks()
    places = pc.index_in(links.rows["previous_detection_id"], ids)
    return Linked(linked.run, linked.rows.take(places).combine_chunks())


def _crops(
    linked: Linked, scenes: Scenes, reach: Floats, progress: Progress
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
            found[place] = surroundings(
                read[0], linked.boxes[place].tolist(), reach=float(reach[place]), side_px=_CROP_PX
            )
        progress(done, len(reach))
    return found


def _words(row: dict[str, Any]) -> str:
    margin = "not known" if row["margin"] is None else f"{row['margin']:.3f}"
    track = row["track_id"].rpartition(":")[2]
    lines = [
        f"{row['number']}.  margin {margin}",
        f"cost {row['cost']:.3f}",
        *(f"  {term} {row[f'cost_{term}']:.3f}" for term in TERMS),
        f"track {track}",
        f"frame {row['frame_before']} to {row['frame']}",
        row["sequence"],
    ]
    return "\n".join(lines)
