"""Which detections of a run are linked, in which order, and where their embeddings are stored.

A sequence is linked in the order of its frame numbers. Where ``frame`` was not given, time decided when
the run was planned, and names where times are not known or the same. What looks wrong about a sequence becomes a warning, not a guess.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from common.errors import InputError, RunError
from common.parquet import read_parquet
from index.vectors import Floats, Ints, l1_normalise
from pipelines.detections import BOX
from pipelines.embeddings import read_embeddings
from pipelines.run import Run
from tracks.association.frames import by_frame

_COLUMNS = ("row_id", "detection_id", "image", *BOX, "sequence", "timestamp", "frame", "error")
DETECTOR_SCORE = "detector_score"  # the usual name, read without being asked for
# Columns beside those of a run, in names that no source has.
SCORE = "link:score"
FILE, FILE_ROW = "link:file", "link:file_row"  # which of run.files() an embedding is in, and where
WINDOW_BYTES = 16 * 2**20  # of embeddings in memory
_GAPS_SHOWN = 3  # of a sequence, in one line
_MOST_SHARED = 0.5  # of the frames; more with the time of another are hardly bursts


@dataclass(frozen=True)
class LinkPlan:
    """The detections of a run that have an embedding."""

    # By sequence, frame and row_id; FILE and FILE_ROW locate the embedding, SCORE exists
    # where a score column was given, or the run has a DETECTOR_SCORE of numbers.
    table: pa.Table
    sequences: list[slice]  # the rows of each sequence
    left_out: int  # number of rows with an error, which have no embedding


def read_plan(run: Run, score_column: str | None) -> LinkPlan:
    """Read everything about a run's detections but their embeddings.

    Raises:
        RunError: the run keeps no embeddings.
        InputError: ``score_column`` is not a column of numbers.
    """
    if "embedding" not in run.columns:
        raise RunError(f"{run.path} keeps no embeddings; extract again and keep them")
    if score_column is not None and score_column not in run.columns:
        names = ", ".join(name for name in run.columns if name not in ("embedding", "topk"))
        raise InputError(
            f"`score_column={score_column!r}`: {run.path} has no such column; it has {names}"
        )
    scores = score_column or DETECTOR_SCORE
    columns = dict.fromkeys([*_COLUMNS, *([scores] if scores in run.columns else [])])
    table = read_rows(run, list(columns))
    if score_column is not None or (scores in columns and _is_numeric(table[scores])):
        table = table.append_column(SCORE, _scores(table[scores], scores))
    rows = table.num_rows
    table = table.filter(pc.is_null(table["error"])).drop_columns(["error"])
    table = table.sort_by(
        [("sequence", "ascending"), ("frame", "ascending"), ("row_id", "ascending")]
    )
    return LinkPlan(table, sequence_slices(table), rows - table.num_rows)


def read_rows(run: Run, columns: list[str]) -> pa.Table:
    """Columns of a run in the order they are stored, with ``FILE`` and ``FILE_ROW`` of each row."""
    tables = []
    for number, file in enumerate(run.files()):
        table = read_parquet(run.check(file), columns=columns)
        file_rows = np.arange(table.num_rows, dtype=np.int32)
        table = table.append_column(FILE, pa.array(np.full(table.num_rows, number, np.int32)))
        tables.append(table.append_column(FILE_ROW, pa.array(file_rows)))
    return pa.concat_tables(tables)


def image_numbers(rows: pa.Table) -> Ints:
    """A number for each row ``[N]``, the same where the image is the same."""
    encoded = rows["image"].combine_chunks().dictionary_encode()
    return np.asarray(encoded.indices.to_numpy(), dtype=np.int64)


def sequence_slices(rows: pa.Table) -> list[slice]:
    """The rows of each sequence of a table that is sorted by sequence."""
    names = rows["sequence"].combine_chunks().dictionary_encode()
    return by_frame(names.indices.to_numpy())


class EmbeddingReader:
    """L1-normalised embeddings of the rows of a plan, read when they are needed, in order.

    Only the row groups that hold one are read; memory is that of the window and one batch.

    Args:
        run: that the plan was made of.
        plan: of ``read_plan``, or some of its rows.
        window_bytes: read at once, or the rows of one call if these are more.
    """

    def __init__(self, run: Run, plan: pa.Table, *, window_bytes: int = WINDOW_BYTES) -> None:
        self._run = run
        self._ids = plan["detection_id"].combine_chunks()
        self._files, self._file_rows = plan[FILE].to_numpy(), plan[FILE_ROW].to_numpy()
        self._window_rows = max(1, window_bytes // (4 * run.manifest.model.feature_dim))
        self._first = 0
        self._window = np.empty((0, run.manifest.model.feature_dim), dtype=np.float32)

    def rows(self, start: int, stop: int) -> npt.NDArray[np.float32]:
        """Embeddings of the plan's rows ``[start, stop)``, as ``[stop - start, D]``.

        Raises:
            InputError: embeddings that are zero or not finite, named.
            RunError: a row has no embedding, although it has no error.
        """
        if start < self._first or stop > self._first + len(self._window):
            part = slice(start, max(stop, min(start + self._window_rows, len(self._ids))))
            raw = read_embeddings(self._run, self._files[part], self._file_rows[part])
            self._window, self._first = l1_normalise(raw, self._ids[part]), start
        return self._window[start - self._first : stop - self._first]


def order_warnings(name: str, rows: pa.Table) -> list[str]:
    """Warnings about the times and the frame numbers of one sequence.

    Args:
        name: of the sequence.
        rows: its rows of a plan, one or more.
    """
    frames, seconds = rows["frame"].to_numpy(), seconds_of(rows["timestamp"])
    first = np.flatnonzero(np.diff(frames, prepend=frames[0] - 1))
    times = seconds[first]
    times = times[~np.isnan(times)]
    warnings = []
    falls = int((np.diff(times) < 0).sum())
    if falls:
        warnings.append(
            f"sequence {name!r}: time runs backwards {falls} times from a frame to the next; "
            "frame numbers decide the order"
        )
    _, counts = np.unique(times, return_counts=True)
    shared = int(counts[counts > 1].sum())
    if shared > _MOST_SHARED * len(times):
        warnings.append(
            f"sequence {name!r}: {shared} of {len(times)} frames have the time of another; if two "
            "cameras write into one folder, tell them apart with a column 'sequence'"
        )
    images = rows["image"].combine_chunks()
    other = np.flatnonzero((np.diff(image_numbers(rows)) != 0) & (np.diff(frames) == 0))
    if len(other):
        at = int(other[0])
        warnings.append(
            f"sequence {name!r}: {len(np.unique(frames[other]))} frames have several images, frame "
            f"{frames[at]} {images[at].as_py()!r} and {images[at + 1].as_py()!r}; an individual on both "
            "is two tracks. If these are two cameras, tell them apart with a column 'sequence'; if "
            "not, leave 'frame' out, and times or names decide"
        )
    return warnings


def gap_warnings(name: str, frames: Ints, seconds: Floats, parts: list[slice]) -> list[str]:
    """A warning about the gaps of one sequence that no link crosses.

    Args:
        name: of the sequence.
        frames: frame number of each detection ``[N]``.
        seconds: time of each detection ``[N]``.
        parts: as of ``sessions``.
    """
    starts = [part.start for part in parts[1:]]
    if not starts:
        return []
    timed = not np.isnan(seconds).all()
    shown = ", ".join(
        f"{_duration(seconds[at] - seconds[at - 1])} from frame {frames[at - 1]} to {frames[at]} "
        f"({_clock(seconds[at - 1])} to {_clock(seconds[at])})"
        if timed
        else f"from frame {frames[at - 1]} to {frames[at]}"
        for at in starts[:_GAPS_SHOWN]
    )
    more = f" and {len(starts) - _GAPS_SHOWN} more" if len(starts) > _GAPS_SHOWN else ""
    return [
        f"sequence {name!r}: no link crosses {len(starts)} gaps that are far beyond its rhythm: "
        f"{shown}{more}; to link across them, give `max_gap_{'seconds' if timed else 'frames'}`"
    ]


def _duration(seconds: float) -> str:
    days, rest = divmod(round(seconds), 86_400)
    return f"{days} d " * bool(days) + f"{rest // 3600}:{rest // 60 % 60:02d}:{rest % 60:02d} h"


def _clock(seconds: float) -> str:
    return str(np.datetime64(int(seconds), "s")).replace("T", " ")


def seconds_of(column: pa.ChunkedArray) -> Floats:
    """Timestamps as seconds, NaN where there is none."""
    micros = column.cast(pa.int64())
    seconds: Floats = micros.fill_null(0).to_numpy() / 1e6
    seconds[micros.is_null().to_numpy()] = np.nan
    return seconds


def _scores(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    if not _is_numeric(column):
        raise InputError(f"`score_column={name!r}` holds {column.type}; give a column of numbers")
    return column.cast(pa.float64())


def _is_numeric(column: pa.ChunkedArray) -> bool:
    return bool(pa.types.is_floating(column.type) or pa.types.is_integer(column.type))
