"""A run's features, tracks and labels into an AMI database: looked at first, then written.

Every detection's old values are read beside its new ones, so a dry run and a write count the same
things, what is equal already is not written again, and a write that was interrupted goes on by
being asked for once more. A transaction is ``CHUNK_ROWS`` detections.

Where the run has no value, the database keeps its own: a row with an error, a class that a gate
refused. Where a track has none, the old value goes: a track's first detection has no previous one,
and a detection in no track has no sequence.
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
"""What can be written, and the columns of ``detections`` that it is."""


@dataclass
class Changes:
    """Of one column, how many detections: ``filled`` held nothing, ``cleared`` will hold nothing."""

    filled: int = 0
    changed: int = 0
    cleared: int = 0
    equal: int = 0
    kept: int = 0  # the run has no value


@dataclass
class WriteSummary:
    """What a write came to, or would.

    Attributes:
        database: its name.
        wrote: False for a dry run.
        rows: of the run.
        failed: of them, those with an error; nothing is written of them.
        gone: detections of the run that the database has no more.
        moved: detections whose image or box is another by now; nothing is written of them.
        updated: detections with a value that is not equal already.
        others: detections of the database that the run does not hold.
        columns: what becomes of each.
    """

    database: str
    wrote: bool
    columns: dict[str, Changes]
    rows: int = 0
    failed: int = 0
    gone: DetectionCount = field(default_factory=DetectionCount)
    moved: DetectionCount = field(default_factory=DetectionCount)
    updated: int = 0
    others: int = 0


def write_database(
    path: Path,
    url: str,
    *,
    groups: Sequence[str] = tuple(GROUPS),
    write_back: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> WriteSummary:
    """Write what a run holds of each detection, or count what would be written.

    The same call again, after whatever interrupted it, ends in the same state.

    Args:
        path: a finished run, linked if its tracks are to be written.
        url: of the database it was extracted from.
        groups: keys of ``GROUPS``.
        write_back: False: only count.
        progress: told of rows done and rows there are.

    Raises:
        InputError: a group that is unknown; a database that refuses to be written.
        RunError: no finished run, one without tracks, or not of this database.
        SourceError: the database cannot be read, or lacks a table or column.
        WorkError: it is locked, or failed in between; what was committed stays.
    """
    unknown = [group for group in groups if group not in GROUPS]
    if unknown or not groups:
        raise InputError(
            f"--columns {','.join(groups)}: {(unknown or [''])[0]!r} is unknown; choose from "
            f"{', '.join(GROUPS)}, with commas"
        )
    run, name = Run.open(path), name_of(url)
    require_source(run, name)
    columns = [column for group in GROUPS if group in groups for column in GROUPS[group]]
    tracks = _Tracks(run) if "tracks" in groups else None
    made = WriteSummary(name, write_back, {column: Changes() for column in columns})
    with open_database(url, write=write_back) as connection:
        tables = read_tables(connection, url)
        lacking = [column for column in columns if column not in tables.detections.c]
        if lacking:
            raise SourceError(
                f"{name}: table 'detections' has no column {lacking[0]!r}; bring the database up "
                "to date with the companion, or leave it out with --columns"
            )
        target = _target_table(tables, columns)
        if tracks is not None:
            tracks.refuse_others(connection, target, tables)
        for chunk in read_pairs(
            run, connection, tables, columns=["label", "score"], stored=columns, lock=write_back
        ):
            updates = list(_updates(chunk, columns, tables, tracks, made))
            if write_back:
                _update(connection, target, updates, name)
                connection.commit()
            made.updated += len(updates)
            progress(made.rows, run.manifest.rows.written)
        if made.gone.count == made.rows:
            raise RunError(f"{name} has none of the {made.rows} detections of {path}")
        there = connection.execute(sa.select(sa.func.count()).select_from(target)).scalar_one()
        made.others = there - (made.rows - made.gone.count)
    return made


def _target_table(tables: Tables, columns: Sequence[str]) -> sa.TableClause:
    """Detections with types to write by; features are JSON whatever they were declared as."""
    kinds = {**tables.types, "cnn_features": sa.JSON()}
    return sa.table("detections", *(sa.column(name, kinds[name]) for name in ("id", *columns)))


class _Tracks:
    """The tracks of a run by detection; their ids are unique in the database."""

    def __init__(self, run: Run) -> None:
        self._run = run
        wanted = ["track_id", "position", "previous_detection_id", "cost"]
        table = read_tracks(run.path)
        self._places = {name: at for at, name in enumerate(table["detection_id"].to_pylist())}
        self._table = table.select(wanted).combine_chunks()

    def refuse_others(
        self, connection: sa.Connection, target: sa.TableClause, tables: Tables
    ) -> None:
        """See that no detection that the run does not hold is on one of its tracks.

        Raises:
            RunError: one is, from another run of its session.
        """
        ids = set(self._table["track_id"].to_pylist())
        # Rows with an error are in no track, and are the run's all the same.
        mine = {
            tables.key(name)
            for batch in self._run.batches(["detection_id"], batch_rows=65536)
            for name in batch["detection_id"].to_pylist()
        }
        asked = sa.select(target.c.id, target.c.sequence_id).where(
            target.c.sequence_id.is_not(None)
        )
        with connection.execute(asked, execution_options={"yield_per": 5000}) as rows:
            for row in rows:
                if row.sequence_id in ids and row.id not in mine:
                    raise RunError(
                        f"track {row.sequence_id!r} of {self._run.path} is on detection {row.id} "
                        "already, which is not in the run; extract the whole database and link that"
                    )

    def of(self, detection_id: str, tables: Tables) -> dict[str, Any]:
        """The four columns of a detection.

        Raises:
            RunError: the tracks do not know it.
        """
        place = self._places.get(detection_id)
        if place is None:
            raise RunError(
                f"{self._run.path}: its tracks lack detection {detection_id!r}; link it again with "
                f"'onepass link {self._run.path}'"
            )
        track, position, previous, cost = (column[place].as_py() for column in self._table.columns)
        return {
            "sequence_id": track,
            "sequence_frame": position,
            "sequence_previous_id": None if previous is None else tables.key(previous),
            "sequence_previous_cost": cost,
        }


def _updates(
    chunk: Sequence[RowPair],
    columns: Sequence[str],
    tables: Tables,
    tracks: _Tracks | None,
    made: WriteSummary,
) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Ids and the values that differ from what stands there; counts all in ``made``."""
    for pair in chunk:
        made.rows += 1
        name = pair.ours["detection_id"]
        if pair.theirs is None:
            made.gone.add(name)
        if pair.ours["error"] is not None:
            made.failed += 1
        if pair.other:
            made.moved.add(name)
        if pair.theirs is None or pair.ours["error"] is not None or pair.other:
            continue
        new: dict[str, Any] = {"cnn_features": pair.embedding}
        if pair.ours["label"] is not None:
            new["specific_label"] = pair.ours["label"]
            new["specific_label_score"] = pair.ours["score"]
        if tracks is not None:
            new |= tracks.of(name, tables)
        differs = {}
        for column in columns:
            counts, old = made.columns[column], pair.theirs._mapping[column]
            if column not in new:
                counts.kept += 1
            elif _equal(old, new[column]):
                counts.equal += 1
            else:
                counts.filled += is_null(old)
                counts.cleared += new[column] is None
                counts.changed += not (is_null(old) or new[column] is None)
                differs[column] = new[column]
        if differs:
            yield pair.key, differs


def _equal(old: Any, new: Any) -> bool:
    """Whether a stored value is the new one, as exactly as a float32 can be told."""
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
    alike: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for key, differs in updates:
        values = {f"new_{column}": value for column, value in differs.items()}
        alike[tuple(differs)].append({"key": key, **values})
    for columns, parameters in alike.items():
        statement = (
            sa.update(target)
            .where(target.c.id == sa.bindparam("key"))
            .values({column: sa.bindparam(f"new_{column}") for column in columns})
        )
        done = connection.execute(statement, parameters).rowcount
        if done != len(parameters):  # a rule, a trigger or a row policy keeps them as they are
            raise WorkError(
                f"{name} took {done} of {len(parameters)} updates without an error; these were rolled "
                "back, look for its rules, triggers and row policies"
            )
