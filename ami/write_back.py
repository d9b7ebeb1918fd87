"""Write a run's features, tracks and labels into an AMI database, or count what would change.

Labels are written only when they are asked for, and not to detections that the companion calls not a
moth: it gives a species to no others, and its counts of species take every label that there is.

Every detection's old values are read together with its new ones, so a dry run and a write count the
same, equal values are not written again, and repeating an interrupted write continues it. A
transaction is ``CHUNK_ROWS`` detections.

Where the run has no value, the database keeps its own: a row with an error, a class that a gate
rejected. Where a track has none, the old value is cleared: a track's first detection has no previous
one, and a detection in no track has no sequence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import sqlalchemy as sa

from ami.examples import Example, Examples
from ami.join import DetectionCount, RowPair, features_of, is_null, read_pairs, require_source
from ami.track_columns import TrackColumns
from common.errors import InputError, RunError, SourceError, WorkError
from pipelines.run import Run
from pipelines.sources.database.connect import name_of, open_database
from pipelines.sources.database.schema import Tables, read_tables

GROUPS = {
    "features": ("cnn_features",),
    "tracks": (
        "sequence_id",
        "sequence_frame",
        "sequence_previous_id",
        "sequence_previous_cost",
    ),
    "labels": ("specific_label", "specific_label_score", "model_name"),
}
"""The columns of ``detections`` that each group writes."""

MOTH = "moth"
"""The companion's ``binary_label`` of what it takes for a moth; others it takes for something else."""

_LONGEST_NAME = 255  # of a model, as the companion declares its column


@dataclass
class Changes:
    """Number of detections by what happens to one of their columns."""

    filled: int = 0  # it was empty
    changed: int = 0  # it held another value
    cleared: int = 0  # it becomes empty
    equal: int = 0  # it holds the value already
    kept: int = 0  # the run has no value for it, or the detection is not a moth, so it stays


@dataclass
class WriteSummary:
    """Counts of a write, or of a dry run."""

    database: str  # its name
    wrote: bool  # False for a dry run
    columns: dict[str, Changes]  # the changes of each column
    rows: int = 0  # of the run
    failed: int = 0  # rows with an error; their detections are not changed
    # Detections of the run that were deleted from the database.
    gone: DetectionCount = field(default_factory=DetectionCount)
    # Whose image or box has changed since; they are not changed.
    moved: DetectionCount = field(default_factory=DetectionCount)
    # That the companion calls not a moth; their labels are not changed.
    nonmoths: DetectionCount = field(default_factory=DetectionCount)
    updated: int = 0  # detections with a value that differs
    examples: list[Example] = field(default_factory=list)  # of those values
    others: int = 0  # detections of the database that are not in the run


def write_database(
    run: Path,
    url: str,
    *,
    features: bool = True,
    tracks: bool = True,
    labels: bool = False,
    label_nonmoths: bool = False,
    write_back: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WriteSummary:
    """Write a run's results into the database it was extracted from, or count the changes.

    Repeating an interrupted call ends in the same state.

    Args:
        run: folder of a finished run, linked if its tracks are to be written.
        url: of the database.
        features: write the embeddings.
        tracks: write the tracks.
        labels: write the classes, their scores and the name of the model.
        label_nonmoths: with ``labels``, also to detections that the companion calls not a moth.
        write_back: False: only count.
        progress: called with the number of rows done and of all rows.

    Raises:
        InputError: nothing is to be written; the database refuses to be written.
        RunError: the run is unfinished, has no tracks, or is not of this database.
        SourceError: the database cannot be read, or lacks a table or column.
        WorkError: it is locked, or failed in between; what was committed stays.
    """
    if not (features or tracks or labels):
        raise InputError("there is nothing to write; give one of `features`, `tracks`, `labels`")
    if label_nonmoths and not labels:
        raise InputError("`label_nonmoths=True` is for labels; give `labels=True` as well")
    wanted = {"features": features, "tracks": tracks, "labels": labels}
    names = [column for group in GROUPS if wanted[group] for column in GROUPS[group]]
    opened, name = Run.open(run), name_of(url)
    require_source(opened, name)
    summary = WriteSummary(name, write_back, {column: Changes() for column in names})
    with open_database(url, write=write_back) as connection:
        tables = read_tables(connection, url)
        _require_columns(tables, names, name)
        target = _target_table(tables, names)
        source = _NewValues(opened, tables, tracks=tracks, labels=labels, nonmoths=label_nonmoths)
        if source.tracks is not None:
            source.tracks.refuse_others(connection, target, tables)
        examples, stored = Examples(names), [*names, *source.judged_by]
        for chunk in read_pairs(
            opened, connection, tables, columns=["label", "score"], stored=stored, lock=write_back
        ):
            updates = list(_updates(chunk, source, summary, examples))
            if write_back:
                _update(connection, target, updates, name)
                connection.commit()
            summary.updated += len(updates)
            progress(summary.rows, opened.manifest.rows.written)
        if summary.gone.count == summary.rows:
            raise RunError(f"{name} has none of the {summary.rows} detections of {run}")
        count = sa.select(sa.func.count()).select_from(target)
        in_database = connection.execute(count).scalar_one()
        summary.others = in_database - (summary.rows - summary.gone.count)
    summary.examples = examples.chosen()
    return summary


def _require_columns(tables: Tables, columns: Sequence[str], name: str) -> None:
    for group, of_group in GROUPS.items():
        for column in of_group:
            if column in columns and column not in tables.detections.c:
                raise SourceError(
                    f"{name}: table 'detections' has no column {column!r}; bring the database up "
                    f"to date with the companion, or write without it (`{group}=False`)"
                )


def _target_table(tables: Tables, columns: Sequence[str]) -> sa.TableClause:
    """The detections with types for writing; features are JSON whatever was declared."""
    types = {**tables.types, "cnn_features": sa.JSON()}
    return sa.table("detections", *(sa.column(name, types[name]) for name in ("id", *columns)))


class _NewValues:
    """What a run says of each detection, as columns of the database."""

    def __init__(
        self, run: Run, tables: Tables, *, tracks: bool, labels: bool, nonmoths: bool
    ) -> None:
        self.tracks = TrackColumns(run) if tracks else None
        leave_nonmoths = labels and not nonmoths and "binary_label" in tables.detections.c
        # The columns that say whether a label may be written.
        self.judged_by = ("binary_label",) if leave_nonmoths else ()
        self._tables = tables
        self._model = model_name(run)

    def of(self, pair: RowPair, stored: sa.RowMapping, nonmoths: DetectionCount) -> dict[str, Any]:
        """The values of one detection, by column; a detection that is no moth is counted."""
        row = pair.run_row
        new: dict[str, Any] = {"cnn_features": pair.embedding}
        if row["label"] is not None:
            if is_nonmoth(stored.get("binary_label")):
                nonmoths.add(row["detection_id"])
            else:
                new["specific_label"] = row["label"]
                new["specific_label_score"] = row["score"]
                new["model_name"] = self._model
        if self.tracks is not None:
            new |= self.tracks.of(row["detection_id"], self._tables)
        return new


def is_nonmoth(binary_label: Any) -> bool:
    """Whether a ``binary_label`` of the companion says that a detection is not a moth."""
    label = "" if is_null(binary_label) else str(binary_label).strip().casefold()
    return label not in ("", MOTH)


def model_name(run: Run) -> str:
    """The model whose classes a run has, and the file of its weights if one was given."""
    request = (run.manifest.classifier or run.manifest.model).request
    file = request.head or request.checkpoint
    name = request.spec if file is None else f"{request.spec} ({PurePosixPath(file).name})"
    return name[:_LONGEST_NAME]


def _updates(
    chunk: Sequence[RowPair], source: _NewValues, summary: WriteSummary, examples: Examples
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Keys and the values that differ from the stored ones; all are counted in ``summary``."""
    for pair in chunk:
        row, detection_id = pair.run_row, pair.run_row["detection_id"]
        summary.rows += 1
        if pair.stored is None:
            summary.gone.add(detection_id)
        if row["error"] is not None:
            summary.failed += 1
        if pair.changed:
            summary.moved.add(detection_id)
        if pair.stored is None or row["error"] is not None or pair.changed:
            continue
        stored = pair.stored._mapping
        new = source.of(pair, stored, summary.nonmoths)
        differing = {}
        for column, counts in summary.columns.items():
            old = stored[column]
            if column not in new:
                counts.kept += 1
            elif _equal(old, new[column]):
                counts.equal += 1
            else:
                counts.filled += is_null(old)
                counts.cleared += new[column] is None
                counts.changed += not (is_null(old) or new[column] is None)
                differing[column] = new[column]
                examples.add(detection_id, column, old, new[column])
        if differing:
            yield pair.key, differing


def _equal(old: Any, new: Any) -> bool:
    """Whether a stored value is the new one; numbers are compared as float32."""
    if is_null(old) or new is None:
        return is_null(old) and new is None
    try:
        if isinstance(new, np.ndarray):
            return np.array_equal(features_of(old).astype(np.float32), new)
        if isinstance(new, float):
            return bool(np.float32(float(old)) == np.float32(new))
    except (TypeError, ValueError):
        return False
    return str(old) == str(new)


def _update(
    connection: sa.Connection,
    target: sa.TableClause,
    updates: Sequence[tuple[Any, dict[str, Any]]],
    name: str,
) -> None:
    """Send the updates: one statement for each set of columns, with many parameters."""
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for key, differing in updates:
        values = {f"new_{column}": value for column, value in differing.items()}
        by_columns[tuple(differing)].append({"key": key, **values})
    for columns, parameters in by_columns.items():
        statement = (
            sa.update(target)
            .where(target.c.id == sa.bindparam("key"))
            .values({column: sa.bindparam(f"new_{column}") for column in columns})
        )
        updated = connection.execute(statement, parameters).rowcount
        if updated != len(parameters):  # a rule, a trigger or a row policy prevents it
            raise WorkError(
                f"{name} took {updated} of {len(parameters)} updates without an error; these were rolled "
                "back, look for its rules, triggers and row policies"
            )
