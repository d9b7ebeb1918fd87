"""What differs between a run and its source: rows that are new, changed, or not there any more.

A row is known again by image name and box, or by its id where the source gives ids. Its image has
changed if the hash of its content has; times decide nothing, because copying changes them and an
edit need not. After an update a row of the source is what a new run would make of it, with two
exceptions: a changed image keeps the id of its row, and rows that are new come last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from common.errors import RunError, first_line
from common.parquet import read_parquet
from common.storage import arrow
from pipelines.detections import BOX, IMAGE_HASH, derive_ids, with_column
from pipelines.frame_names import parse_frame
from pipelines.frame_numbers import number_frames
from pipelines.run import Run
from pipelines.session import UpdateSummary
from pipelines.sources.plan import Plan
from pipelines.sources.unreadable import UNREAD

Bools = npt.NDArray[np.bool_]

# Columns beside those of a plan, in names that no source has: which rows an update answers, and
# which are not in the source any more.
ANSWER, VANISHED = "update:answer", "update:vanished"


@dataclass(frozen=True)
class Changes:
    """A run's plan as it is to be.

    Attributes:
        plan: all rows, old ones first, with ``row_id`` from 0, ``ANSWER`` and ``VANISHED``.
        summary: of the differences.
        differs: whether anything is to be written.
        notes: for people.
    """

    plan: pa.Table
    summary: UpdateSummary
    differs: bool
    notes: tuple[str, ...] = ()


def find_changes(plan: Plan, run: Run) -> Changes:
    """Compare a run with its source.

    Args:
        plan: of the source as it is now, with ``image_hash``.
        run: finished.

    Raises:
        RunError: the source has other columns than the run, or none of the run's rows.
    """
    old = _planned(run)
    hashed = IMAGE_HASH in old.column_names
    if not hashed:  # made before contents were kept
        old = old.append_column(IMAGE_HASH, pa.nulls(old.num_rows, pa.string()))
    fresh = _with_types_of(old, plan.table, run)
    position, in_source = _positions(plan, old, fresh, run)
    now = fresh.take(pa.array(position))  # row i: what the source says of row i of ``old``
    errors = run.to_arrow(["error"])["error"]
    read_before = _valid(old[IMAGE_HASH]) if hashed else ~_valid(errors)
    gone = ~in_source | (read_before & ~_valid(now[IMAGE_HASH]))
    changed = (
        _content_differs(old, now, ids_given=plan.ids_given)
        if hashed
        else _modified_since(run, plan, now)
    )
    changed = ~gone & (changed | _unread_before(errors, now))
    new = np.setdiff1d(np.arange(fresh.num_rows), position[in_source])
    after = _after(plan, old, fresh, np.where(gone, -1, position), new)
    answer = np.r_[changed, np.ones(len(new), bool)]
    before = after.slice(0, old.num_rows)
    moved = differ(old["frame"], before["frame"]) | differ(old["sequence"], before["sequence"])
    summary = UpdateSummary(
        new=_names(fresh["image"].take(pa.array(new))),
        changed=_names(before["image"].filter(pa.array(changed))),
        vanished=_names(old["image"].filter(pa.array(gone))),
        renumbered=int((moved & ~gone).sum()),
        answered=int(answer.sum()),
    )
    vanished = np.r_[gone, np.zeros(len(new), bool)]
    after = after.append_column(ANSWER, pa.array(answer))
    columns_differ = any(differ(old[name], before[name]).any() for name in old.column_names)
    return Changes(
        plan=after.append_column(VANISHED, pa.array(vanished)).combine_chunks(),
        summary=summary,
        differs=bool(answer.any())
        or columns_differ
        or not hashed
        or int(gone.sum()) != run.manifest.vanished,
        notes=() if hashed else (_note_on_times(run),),
    )


def _positions(
    plan: Plan, old: pa.Table, fresh: pa.Table, run: Run
) -> tuple[npt.NDArray[np.int64], Bools]:
    """For each row of the run the same row of the source, and whether there is one."""

    def keys(table: pa.Table) -> pa.Array | pa.ChunkedArray:
        if plan.ids_given:
            return table["detection_id"]
        return derive_ids(table.drop_columns([IMAGE_HASH]))  # by name and box

    position = pc.index_in(keys(old), keys(fresh))
    in_source = position.is_valid().to_numpy(zero_copy_only=False)
    if not in_source.any():
        raise RunError(
            f"{run.path}: none of its {old.num_rows} rows is in {plan.root} any more; if that is "
            "the right source, give a new `out`"
        )
    return position.fill_null(0).to_numpy().astype(np.int64), in_source


def _after(
    plan: Plan,
    old: pa.Table,
    fresh: pa.Table,
    position: npt.NDArray[np.int64],
    new: npt.NDArray[np.int64],
) -> pa.Table:
    """The run's plan as it is to be.

    Args:
        plan: of the source.
        old: the run's plan.
        fresh: the source's rows, with the columns of ``old``.
        position: of each row of ``old`` in ``fresh``; -1: it stays as it was.
        new: rows of ``fresh`` that ``old`` has not.
    """
    rows = np.where(position < 0, np.arange(old.num_rows), old.num_rows + position)
    after = pa.concat_tables([old, fresh]).take(pa.array(np.r_[rows, old.num_rows + new]))
    after = with_column(after, "row_id", pa.array(np.arange(after.num_rows, dtype=np.int64)))
    new_ids = fresh["detection_id"].take(pa.array(new))
    ids = pa.chunked_array([*old["detection_id"].chunks, *new_ids.chunks], pa.string())
    after = with_column(after, "detection_id", ids)
    if "frame" not in plan.given:  # images that are gone count: their frames are taken
        after = with_column(after, "frame", number_frames(after))
    return after


def _planned(run: Run) -> pa.Table:
    """The plan of a run, by row_id."""
    files = run.plan_files()
    if not files:
        raise RunError(f"{run.path} has no plan; extract again into a new `out`")
    table = pa.concat_tables([read_parquet(run.check(file)) for file in files]).sort_by("row_id")
    return table.replace_schema_metadata(None)


def _with_types_of(old: pa.Table, fresh: pa.Table, run: Run) -> pa.Table:
    """The source's rows with the columns of the run, in its order."""
    then, now = set(old.column_names), set(fresh.column_names)
    if then != now:
        parts = [("no longer has", then - now), ("now has", now - then)]
        what = " and ".join(f"{verb} {', '.join(sorted(own))}" for verb, own in parts if own)
        raise RunError(
            f"{run.path}: the source {what}; a run has the same columns in all rows: give a new "
            "`out`"
        )
    try:
        return fresh.select(old.column_names).cast(old.schema)
    except pa.ArrowException as error:
        raise RunError(
            f"{run.path}: the source has columns of other types than the run "
            f"({first_line(error)}); give a new `out`"
        ) from None


def _content_differs(old: pa.Table, now: pa.Table, *, ids_given: bool) -> Bools:
    differs = differ(old[IMAGE_HASH], now[IMAGE_HASH])
    for name in (*(BOX if ids_given else ()), *(("error",) if "error" in old.column_names else ())):
        differs |= differ(old[name], now[name])
    return differs


def _modified_since(run: Run, plan: Plan, now: pa.Table) -> Bools:
    """Rows whose image was written after the run was begun, or whose place has changed.

    That is all that can be known of a run without ``image_hash``.
    """
    began = _modified([run.path / "request.json"])[0] or 0
    encoded = now["image"].combine_chunks().dictionary_encode()
    frames = [(name, parse_frame(name)) for name in encoded.dictionary.to_pylist()]
    files = [plan.images.path(frame.file if frame else name) for name, frame in frames]
    later = np.array([time is not None and time > began for time in _modified(files)], bool)
    modified: Bools = later[encoded.indices.to_numpy()]
    if plan.ids_given:
        old = _planned(run)
        for name in ("image", *BOX):
            modified |= differ(old[name], now[name])
    return modified


def _modified(files: Sequence[Path]) -> list[int | None]:
    """When files were last written, in nanoseconds since 1970; None where there is none."""
    if not files:
        return []
    system, _ = arrow(files[0])
    infos = system.get_file_info([arrow(file)[1] for file in files])
    return [info.mtime_ns if info.type == fs.FileType.File else None for info in infos]


def _note_on_times(run: Run) -> str:
    return (
        f"{run.path} was made before contents of images were kept: for this once images count as "
        "changed that were written after it was begun"
    )


def _unread_before(errors: pa.ChunkedArray, now: pa.Table) -> Bools:
    """Rows whose image could not be read when they were answered, and can be now."""
    unread = np.zeros(now.num_rows, bool)
    if errors.null_count < len(errors):
        for kind in UNREAD:
            unread |= pc.starts_with(errors, f"{kind}:").fill_null(False).to_numpy()
    return unread & _valid(now[IMAGE_HASH])


def differ(a: pa.ChunkedArray, b: pa.ChunkedArray) -> Bools:
    """Where two columns differ; null equals null, and NaN equals NaN."""
    if pa.types.is_null(a.type):
        return np.zeros(len(a), bool)
    if pa.types.is_nested(a.type):
        pairs = zip(a.to_pylist(), b.to_pylist(), strict=True)
        return np.array([repr(x) != repr(y) for x, y in pairs], bool)
    differs = pc.not_equal(a, b).fill_null(False).to_numpy().copy()
    if pa.types.is_floating(a.type):
        both = pc.and_(pc.is_nan(a), pc.is_nan(b)).fill_null(False).to_numpy()
        differs &= ~both
    either: Bools = differs | (_valid(a) != _valid(b))
    return either


def _valid(column: pa.ChunkedArray) -> Bools:
    valid: Bools = column.is_valid().to_numpy()
    return valid


def _names(images: pa.ChunkedArray) -> tuple[str, ...]:
    return tuple(pc.unique(images).to_pylist())
