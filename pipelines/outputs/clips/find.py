"""The clips of a run: frames, split, category and errors of each, without embeddings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from common.errors import RunError
from common.parquet import read_parquet
from pipelines.detections import with_column
from pipelines.run import Run

COLUMNS = ("row_id", "sequence", "frame", "split", "category", "error")

_SPLIT_NAME = re.compile(r"\w[\w .-]*")  # it names files


@dataclass
class Clip:
    """The rows of one sequence, anywhere in the run."""

    id: str
    split: str
    category: str | None
    rows: int
    files: list[int]  # indices of ``Run.files()``
    failed: int  # rows with an error
    error: str | None  # the first of them


def find_clips(run: Run) -> list[Clip]:
    """Every clip of ``run``, good or not, in the order of the plan.

    Raises:
        RunError: a column is missing, a clip has no split, two splits or two categories, a
            split cannot name a file, or a frame of a clip is repeated.
    """
    missing = [name for name in COLUMNS if name not in run.columns]
    if missing:
        raise RunError(
            f"{run.path} has no column {missing[0]!r}, which clips are made by; extract videos, "
            "or images with a manifest that has it"
        )
    rows = pa.concat_tables([_read(run, number) for number in range(len(run.files()))])
    # Without threads, so that the first error is that of the lowest row_id.
    clips = rows.sort_by("row_id").group_by("sequence", use_threads=False)
    every = pc.CountOptions(mode="all")  # null as well
    clips = clips.aggregate(
        [
            ("row_id", "min"),
            ("row_id", "count"),
            ("frame", "count_distinct"),
            ("split", "distinct", every),
            ("category", "distinct", every),
            ("file", "distinct"),
            ("error", "count"),
            ("error", "first"),
        ]
    )
    return [_clip(run, clip) for clip in clips.sort_by("row_id_min").to_pylist()]


def _read(run: Run, number: int) -> pa.Table:
    table = read_parquet(run.check(run.files()[number]), columns=list(COLUMNS))
    for name in ("split", "category"):  # of a manifest they may be numbers
        table = with_column(table, name, table[name].cast(pa.string()))
    return table.append_column("file", pa.array([number] * table.num_rows, pa.int32()))


def _clip(run: Run, clip: dict[str, Any]) -> Clip:
    name = clip["sequence"]
    for column in ("split", "category"):
        if len(values := clip[f"{column}_distinct"]) > 1:
            raise RunError(
                f"{run.path}: clip {name} has rows of {column} {values[0]!r} and of {values[1]!r}; "
                f"give all frames of a clip one {column}"
            )
    (split,), (category,) = clip["split_distinct"], clip["category_distinct"]
    if split is None:
        raise RunError(
            f"{run.path}: clip {name} has no split; fill the column 'split' in, with 'all' where "
            "there is only one"
        )
    if not _SPLIT_NAME.fullmatch(split):
        raise RunError(
            f"{run.path}: clip {name} is of split {split!r}, which cannot name a file; use "
            "letters, digits, spaces and . _ -"
        )
    if clip["frame_count_distinct"] != clip["row_id_count"]:
        raise RunError(
            f"{run.path}: clip {name} has several rows for one frame; clips are made of whole "
            "frames, extract them without boxes"
        )
    return Clip(
        id=name,
        split=split,
        category=category,
        rows=clip["row_id_count"],
        files=clip["file_distinct"],
        failed=clip["error_count"],
        error=clip["error_first"],
    )
