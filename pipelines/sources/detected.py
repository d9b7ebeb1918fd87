"""The plan of detections: a row for each box that a detector found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from common.errors import SourceError
from common.moved import Pairs, apply_pairs
from common.storage import to_path
from pipelines.detected.folder import Detections, flattened
from pipelines.detections import BOX, complete, with_column
from pipelines.images.header import ImageHeader
from pipelines.sources.plan import Plan


def read_detections(path: Path, pairs: Pairs = ()) -> Plan:
    """The boxes of finished detections as a plan, in pixels of upright images.

    Images without boxes have no row but keep their frame number, so that a track that was not found in one has a gap.

    Raises:
        RunError, VerifyError: the folder is unfinished or damaged.
        SourceError: not one box was found.
    """
    found = Detections(path)
    boxes = flattened(found.images())
    counts = found.manifest
    if not boxes.num_rows:
        raise SourceError(
            f"{path}: not one box was found in {counts.images} images; with a lower `score` the "
            "detector finds more"
        )
    notes: list[str] = []
    if counts.failed:
        notes.append(f"{counts.failed} images that the detector could not read have no rows")
    table = _upright(boxes).drop_columns(["number", "width", "height", "orientation"])
    table = complete(table, where=str(path), note=notes.append)
    root = to_path(apply_pairs(pairs, found.manifest.root))
    given = frozenset({"image", "sequence", "frame", "timestamp", *BOX})
    return Plan(table, root, {}, tuple(notes), given=given, pairs=pairs)


def _upright(boxes: pa.Table) -> pa.Table:
    """With boxes of the images as EXIF turns them."""
    corners = np.column_stack([boxes[side].to_numpy() for side in BOX])
    names = ("width", "height", "orientation")
    headers = np.column_stack([boxes[name].to_numpy() for name in names])
    turned = np.flatnonzero(headers[:, 2] != 1)
    distinct, which = np.unique(headers[turned], axis=0, return_inverse=True)
    for number, header in enumerate(distinct.tolist()):
        rows = turned[which.reshape(-1) == number]
        corners[rows] = ImageHeader(*map(int, header)).to_upright(corners[rows])
    for side, column in zip(BOX, corners.T, strict=True):
        boxes = with_column(boxes, side, pa.array(column, pa.float32()))
    return boxes
