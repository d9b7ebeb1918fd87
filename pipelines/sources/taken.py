"""When photos were taken, by their EXIF data, and the frame numbers that follow from it.

Names of photos say little about their order: a camera's counter begins again at 9999. Where the source
gives neither frames nor times, they are read from the files before frames are numbered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.storage import is_remote, open_file
from pipelines.detections import with_column
from pipelines.frame_names import parse_frame
from pipelines.frame_numbers import number_frames
from pipelines.images.exif import read_time_taken
from pipelines.images.pillow import quiet
from pipelines.sources.files import AT_ONCE, map_files
from pipelines.sources.plan import Plan

_AT_ONCE = 4  # files: metadata are parsed in Python


def with_times(plan: Plan, report: Callable[[int, int], None] = lambda done, total: None) -> Plan:
    """The plan with the time of every photo that has one, frames numbered by it, and notes.

    Args:
        plan: of a source; one that gives frames stays as it is.
        report: receives files read and files in all.
    """
    if "frame" in plan.given:
        return plan
    table = plan.table
    encoded = table["image"].combine_chunks().dictionary_encode()
    open_rows = table["timestamp"].is_null()
    if "error" in table.column_names:
        open_rows = pc.and_(open_rows, table["error"].is_null())
    unknown = set(encoded.indices.filter(open_rows.combine_chunks()).to_pylist())
    names = encoded.dictionary.to_pylist()
    files = {
        index: plan.images.path(names[index])
        for index in sorted(unknown)
        if parse_frame(names[index]) is None
    }
    taken: list[datetime | None] = [None] * len(names)
    threads = AT_ONCE if is_remote(plan.root) else _AT_ONCE
    with quiet():
        times = map_files(_time_of, list(files.values()), threads, report)
    for index, time in zip(files, times, strict=True):
        taken[index] = time
    stamps = pa.array(taken, table["timestamp"].type).take(encoded.indices)
    table = with_column(table, "timestamp", pc.coalesce(table["timestamp"], stamps))
    notes: list[str] = []
    table = with_column(table, "frame", _renumbered(table, number_frames(table, notes.append)))
    return replace(plan, table=table.combine_chunks(), notes=(*plan.notes, *notes))


def _time_of(file: Path) -> datetime | None:
    try:
        with open_file(file) as stream:
            return read_time_taken(stream)
    except OSError:
        return None


def _renumbered(table: pa.Table, positions: pa.Array) -> pa.Array:
    """The frames of the plan, dealt out anew by the positions of its images.

    Rows that were left out, as by a limit or a condition, keep their numbers free.
    """
    sequences = table["sequence"].combine_chunks().dictionary_encode().indices.to_numpy()
    new = np.column_stack([sequences, positions.to_numpy()])
    old = np.column_stack([sequences, table["frame"].to_numpy()])
    distinct, row = np.unique(new, axis=0, return_inverse=True)
    numbers = np.unique(old, axis=0)
    if len(numbers) != len(distinct) or (numbers[:, 0] != distinct[:, 0]).any():
        return positions  # numbers are not one an image
    return pa.array(numbers[row.reshape(-1), 1])
