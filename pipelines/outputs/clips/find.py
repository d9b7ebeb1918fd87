"""The clips of a run: frames, split, category and errors of each, without embeddings."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import RunError
from common.storage import open_parquet
from pipelines.run import Run

COLUMNS = ("row_id", "sequence", "frame", "split", "category", "error")

_BATCH_ROWS = 65536
_SPLIT_NAME = re.compile(r"\w[\w .-]*")  # it names files


@dataclass
class Clip:
    """The rows of one sequence, anywhere in the run."""

    id: str
    split: str
    category: str | None
    first_row_id: int
    rows: int = 0
    files: list[int] = field(default_factory=list)  # indices of ``Run.files()``
    frames: tuple[int, int] | None = None  # the lowest and the highest
    failed: int = 0
    first_error: tuple[int, str] | None = None  # row_id and text


def find_clips(run: Run) -> list[Clip]:
    """Every clip of ``run``, good or not, in the order of the plan.

    The rows are read in batches and only counted. Clips whose frames overlap between batches take
    another twelve bytes a row, to detect a repeated frame.

    Raises:
        RunError: a column is missing, a clip has no split, two splits or two categories, a
            split cannot name a file, or a frame of a clip is repeated.
    """
    _check_columns(run)
    clips: dict[str, Clip] = {}
    mixed: set[str] = set()
    for number, batch in _batches(run, COLUMNS):
        _count(run, clips, mixed, number, batch)
    if mixed:
        _check_frames(run, sorted(mixed))
    return sorted(clips.values(), key=lambda clip: clip.first_row_id)


def _check_columns(run: Run) -> None:
    with open_parquet(run.files()[0]) as first:
        present = first.schema_arrow.names
    missing = [name for name in COLUMNS if name not in present]
    if missing:
        raise RunError(
            f"{run.path} has no column {missing[0]!r}, which clips are made by; extract videos, "
            "or images with a manifest that has it"
        )


def _batches(run: Run, columns: tuple[str, ...]) -> Iterator[tuple[int, pa.Table]]:
    for number, file in enumerate(run.files()):
        with open_parquet(file) as parquet:
            for batch in parquet.iter_batches(_BATCH_ROWS, columns=list(columns)):
                yield number, pa.Table.from_batches([batch])


def _count(run: Run, clips: dict[str, Clip], mixed: set[str], file: int, batch: pa.Table) -> None:
    """Add a batch to ``clips``; a clip whose frames may be repeated is added to ``mixed``."""
    for name in ("split", "category"):  # of a manifest they may be numbers
        index = batch.column_names.index(name)
        batch = batch.set_column(index, name, batch[name].cast(pa.string()))
    parts = batch.group_by(["sequence", "split", "category"], use_threads=False).aggregate(
        [
            *(("row_id", "min"), ("row_id", "count"), ("error", "count")),
            *(("frame", "min"), ("frame", "max"), ("frame", "count_distinct")),
        ]
    )
    for part in parts.to_pylist():
        key = part["sequence"]
        clip = clips.get(key)
        if clip is None:
            _check_split(run, key, part["split"])
            clip = Clip(key, part["split"], part["category"], part["row_id_min"])
            clips[key] = clip
        for name, then in (("split", clip.split), ("category", clip.category)):
            if part[name] != then:
                raise RunError(
                    f"{run.path}: clip {key} has rows of {name} {then!r} and of {part[name]!r}; "
                    f"give all frames of a clip one {name}"
                )
        if part["frame_count_distinct"] != part["row_id_count"]:
            raise _repeated_frame(run, key)
        low, high = part["frame_min"], part["frame_max"]
        if clip.frames is not None:
            if low <= clip.frames[1] and high >= clip.frames[0]:
                mixed.add(key)
            low, high = min(low, clip.frames[0]), max(high, clip.frames[1])
        clip.frames = (low, high)
        clip.first_row_id = min(clip.first_row_id, part["row_id_min"])
        clip.rows += part["row_id_count"]
        clip.failed += part["error_count"]
        if file not in clip.files[-1:]:
            clip.files.append(file)
    for row in batch.filter(pc.is_valid(batch["error"])).to_pylist():
        clip = clips[row["sequence"]]
        error = (row["row_id"], row["error"])
        clip.first_error = min(clip.first_error or error, error)


def _check_split(run: Run, clip: str, split: str | None) -> None:
    if split is None:
        raise RunError(
            f"{run.path}: clip {clip} has no split; fill the column 'split' in, with 'all' where "
            "there is only one"
        )
    if not _SPLIT_NAME.fullmatch(split):
        raise RunError(
            f"{run.path}: clip {clip} is of split {split!r}, which cannot name a file; use "
            "letters, digits, spaces and . _ -"
        )


def _check_frames(run: Run, clips: list[str]) -> None:
    """Refuse a repeated frame in one of ``clips``, whose frames overlap between batches."""
    names = pa.array(clips)
    codes, frames = [], []
    for _, batch in _batches(run, ("sequence", "frame")):
        code = pc.index_in(batch["sequence"], names)
        codes.append(pc.drop_null(code).to_numpy())
        frames.append(batch["frame"].filter(pc.is_valid(code)).to_numpy())
    code_of, frame_of = np.concatenate(codes), np.concatenate(frames)
    order = np.lexsort((frame_of, code_of))
    same = (np.diff(code_of[order]) == 0) & (np.diff(frame_of[order]) == 0)
    if same.any():
        raise _repeated_frame(run, clips[code_of[order][int(np.argmax(same))]])


def _repeated_frame(run: Run, clip: str) -> RunError:
    return RunError(
        f"{run.path}: clip {clip} has several rows for one frame; clips are made of whole frames, "
        "extract them without boxes"
    )
