"""Write a run's features, tracks and labels into an AMI database, or count what would change.

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
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from ami.join import DetectionCount, RowPair, features_of, is_null, read_pairs, require_source
from common.errors import InputError, RunError, SourceError, WorkError
from pipelines.run import Run
from pipelines.sources.database.connect import name_of, open_database
from pipelines.sources.database.schema import Tables, read_tables
from tracks.store import read_tracks

GROUPS = {
    "features": ("cnn_features",),
    "tracks": (
        "sequence_id",
        "sequence_frame",
        "sequence_previous_id",
        "sequence_previous_cost",
    ),
    "labels": ("specific_label", "specific_label_score"),
}
"""The columns of ``detections`` that each group writes."""


@dataclass
class Changes:
    """Number of detections by what happens to one of their columns."""

    filled: int = 0  # it was empty
    changed: int = 0  # it held another value
    cleared: int = 0  # it becomes empty
    equal: int = 0  # it holds the value already
    kept: int = 0  # the run has no value, so it stays


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
    updated: int = 0  # detections with a value that differs
    others: int = 0  # detections of the database that are not in the run


def write_database(
    run: Path,
    url: str,
    *,
    columns: Sequence[str] = tuple(GROUPS),
    write_back: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WriteSummary:
    """Write a run's results into the database it was extracted from, or count the changes.

    Repeating an interrupted call ends in the same state.

    Args:
        run: folder of a finished run, linked if its tracks are to be written.
        url: of the database.
        columns: groups of columns to write, keys of ``GROUPS``.
        write_back: False: only count.
        progress: called with the number of rows done and of all rows.

    Raises:
        InputError: an unknown group; the database refuses to be written.
        RunError: the run is unfinished, has no tracks, or is not of this database.
        SourceError: the database cannot be read, or lacks a table or column.
        WorkError: it is locked, or failed in between; what was committed stays.
    """
    unknown = [group for group in columns if group not in GROUPS]
    if unknown or not columns:
        raise InputError(
            f"`columns={','.join(columns)!r}`: {(unknown or [''])[0]!r} is unknown; choose from "
            f"{', '.join(GROUPS)}, with commas"
        )
    opened, name = Run.open(run), name_of(url)
    require_source(opened, name)
    names = [column for group in GROUPS if group in columns for column in GROUPS[group]]
    tracks = _Tracks(opened) if "tracks" in columns else None
    summary = WriteSummary(name, write_back, {column: Changes() for column in names})
    with open_database(url, write=write_back) as connection:
        tables = read_tables(connection, url)
        missing = [column for column in names if column not in tables.detections.c]
        if missing:
            raise SourceError(
                f"{name}: table 'detections' has no column {missing[0]!r}; bring the database up "
                "to date with the companion, or leave it out of `columns`"
            )
        target = _target_table(tables, names)
        if tracks is not None:
            tracks.refuse_others(connection, target, tables)
        for chunk in read_pairs(
            opened, connection, tables, columns=["label", "score"], stored=names, lock=write_back
        ):
            updates = list(_updates(chunk, tables, tracks, summary))
            if write_back:
                _update(connection, target, updates, name)
                connection.commit()
            summary.updated += len(updates)
            progress(summary.rows, opened.manifest.rows.written)
        if summary.gone.count == summary.rows:
            raise RunError(f"{name} has none of the {summary.rows} detections of {run}")
        count = sa.select(sa.func.count()).select_from(target)
        stored = connection.execute(count).scalar_one()
        summary.others = stored - (summary.rows - summary.gone.count)
    return summary


def _target_table(tables: Tables, columns: Sequence[str]) -> sa.TableClause:
    """The detections with types for writing; features are JSON whatever was declared."""
    types = {**tables.types, "cnn_features": sa.JSON()}
    return sa.table("detections", *(sa.column(name, types[name]) for name in ("id", *columns)))


class _Tracks:
    """The tracks of a run by detection; track ids must be unique in the database."""

    def __init__(self, run: Run) -> None:
        self._run = run
        table = read_tracks(run.path)
        self._rows = {name: row for row, name in enumerate(table["detection_id"].to_pylist())}
        columns = ["track_id", "position", "previous_detection_id", "cost"]
        self._table = table.select(columns).combine_chunks()

    def refuse_others(
        self, connection: sa.Connection, target: sa.TableClause, tables: Tables
    ) -> None:
        """Check that no detection outside the run has the id of one of its tracks.

        Args:
            connection: to the database.
            target: its detections.
            tables: of the database.

        Raises:
            RunError: one has, from another run of its session.
        """
        track_ids = set(self._table["track_id"].to_pylist())
        # With the rows that have an error: they are in no track, but in the run.
        keys = {
            tables.key(name)
            for batch in self._run.iter_batches(65536, columns=["detection_id"])
            for name in batch["detection_id"].to_pylist()
        }
        linked = target.c.sequence_id.is_not(None)
        select = sa.select(target.c.id, target.c.sequence_id).where(linked)
        with connection.execute(select, execution_options={"yield_per": 5000}) as rows:
            for row in rows:
                if row.sequence_id in track_ids and row.id not in keys:
                    raise RunError(
                        f"track {row.sequence_id!r} of {self._run.path} is on detection {row.id} "
                        "already, which is not in the run; extract the whole database and link that"
                    )

    def of(self, detection_id: str, tables: Tables) -> dict[str, Any]:
        """The four columns of a detection.

        Raises:
            RunError: it is not in the tracks.
        """
        row = self._rows.get(detection_id)
        if row is None:
            raise RunError(
                f"{self._run.path}: its tracks lack detection {detection_id!r}; link it again with "
                f"'onepass link {self._run.path}'"
            )
        track, position, previous, cost = (column[row].as_py() for column in self._table.columns)
        return {
            "sequence_id": track,
            "sequence_frame": position,
            "sequence_previous_id": None if previous is None else tables.key(previous),
            "sequence_previous_cost": cost,
        }


def _updates(
    chunk: Sequence[RowPair], tables: Tables, tracks: _Tracks | None, summary: WriteSummary
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Keys and the values that differ from the stored ones; all are counted in ``summary``."""
    for pair in chunk:
        row, stored, detection_id = pair.run_row, pair.stored, pair.run_row["detection_id"]
        summary.rows += 1
        if stored is None:
            summary.gone.add(detection_id)
        if row["error"] is not None:
            summary.failed += 1
        if pair.changed:
            summary.moved.add(detection_id)
        if stored is None or row["error"] is not None or pair.changed:
            continue
        new: dict[str, Any] = {"cnn_features": pair.embedding}
        if row["label"] is not None:
            new["specific_label"] = row["label"]
            new["specific_label_score"] = row["score"]
        if tracks is not None:
            new |= tracks.of(detection_id, tables)
        differing = {}
        for column, counts in summary.columns.items():
            old = stored._mapping[column]
            if column not in new:
                counts.kept += 1
            elif _equal(old, new[column]):
                counts.equal += 1
            else:
                counts.filled += is_null(old)
                counts.cleared += new[column] is None
                counts.changed += not (is_null(old) or new[column] is None)
                differing[column] = new[column]
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
