"""What an ``add`` finds in its sources: rows that are new, changed, or in the index as they are.

A row is known by its detection id. It has changed where its vector or one of its columns is not what
the index stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import SnapshotError
from index.build.sources.source import Part, VectorSource
from index.metrics import prepare
from index.search.snapshot import Snapshot
from index.storage.columns import payload_schema, rows_schema, unify
from index.vectors import NAMED, name_some

_ROUNDING = 4 * np.finfo(np.float32).eps
"""Vectors that differ by no more than this share of their largest value are equal."""


@dataclass(frozen=True)
class RowChanges:
    """How many rows an ``add`` took from its runs, and how many it left out.

    Attributes:
        added: rows whose id was not in the index.
        replaced: rows that took the place of others of the same id.
        unchanged: rows that were in the index already, as they are.
        differing: rows that are in the index with other content, which was kept.
        named: the first few ids of these.
    """

    added: int = 0
    replaced: int = 0
    unchanged: int = 0
    differing: int = 0
    named: tuple[str, ...] = ()

    @property
    def taken(self) -> int:
        """Rows that were taken from the runs."""
        return self.added + self.replaced

    def describe(self) -> list[str]:
        """What was left out, as warnings: one text for each reason."""
        texts = []
        if self.unchanged:
            texts.append(f"{self.unchanged} rows are in the index already and were left out")
        if self.differing:
            texts.append(
                f"{self.differing} rows differ from those of the same id in the index, which were "
                f"kept: {name_some(self.named, self.differing)}; `replace=True` takes the new ones"
            )
        return texts


@dataclass
class SourceChanges:
    """The rows of one source that are to be indexed, and those of the index that they replace."""

    number: int  # position of the source in the manifest
    wanted: list[NDArray[np.int64]] = field(default_factory=list)  # row ids
    replaced: list[NDArray[np.int64]] = field(default_factory=list)  # rows of the snapshot
    unchanged: int = 0
    differing: list[str] = field(default_factory=list)  # ids that are kept as they are

    @property
    def row_ids(self) -> NDArray[np.int64] | None:
        """Row ids of the rows to index, ascending; None: all of the source."""
        if not self.unchanged and not self.differing:
            return None
        return np.sort(np.concatenate([np.empty(0, np.int64), *self.wanted]))

    @property
    def replaced_rows(self) -> NDArray[np.int64]:
        """Rows of the snapshot that rows of the source replace."""
        return np.concatenate([np.empty(0, np.int64), *self.replaced])


def summarise(sources: Sequence[SourceChanges]) -> RowChanges:
    """The counts of all sources together."""
    replaced = sum(len(each.replaced_rows) for each in sources)
    wanted = sum(len(rows) for each in sources for rows in each.wanted)
    differing = [name for each in sources for name in each.differing]
    return RowChanges(
        added=wanted - replaced,
        replaced=replaced,
        unchanged=sum(each.unchanged for each in sources),
        differing=len(differing),
        named=tuple(differing[:NAMED]),
    )


def find_changes(
    source: VectorSource, number: int, snapshot: Snapshot, *, replace: bool
) -> SourceChanges:
    """Compare the rows of a source with those of the same id in an index.

    Args:
        source: its vectors are comparable with those of the index.
        number: its position in the manifest: that of the same run, where the index has it.
        snapshot: the version that the rows are to be added to.
        replace: take what has changed, too.

    Raises:
        SnapshotError: without ``replace``, an id is in the index from another run with other
            content; or own columns of one name have types that do not go together.
    """
    changes = SourceChanges(number)
    known = pa.schema([snapshot.schema.field(name) for name in snapshot.own_columns])
    own = unify(
        [
            (f"version {snapshot.manifest.version}", known),
            (str(source.path), source.own_columns.schema),
        ]
    )
    schema = rows_schema(payload_schema(own))
    for reader in source.readers():
        part = Part.of(source, number, reader, schema)
        for rows, raw in part.batches():
            ids = rows["detection_id"].to_pylist()
            at = snapshot.rows_of(ids)
            row_ids = rows["row_id"].to_numpy()
            changes.wanted.append(row_ids[at < 0])
            known_rows = np.flatnonzero(at >= 0)
            if not len(known_rows):
                continue
            vectors = prepare(
                raw[known_rows], [ids[row] for row in known_rows], snapshot.manifest.metric
            )
            differs = _differ(rows.take(pa.array(known_rows)), vectors, at[known_rows], snapshot)
            changes.unchanged += int((~differs).sum())
            changed = known_rows[differs]
            if replace:
                changes.wanted.append(row_ids[changed])
                changes.replaced.append(at[changed])
                continue
            _refuse_other_runs(
                [ids[row] for row in changed], at[changed], changes.number, source, snapshot
            )
            changes.differing += [ids[row] for row in changed]
    return changes


def _differ(
    rows: pa.RecordBatch, vectors: NDArray[np.float32], at: NDArray[np.int64], snapshot: Snapshot
) -> NDArray[np.bool_]:
    """Whether each row, with its prepared vector, differs from the row ``at`` of the snapshot."""
    stored = snapshot.vectors(at)
    largest = np.abs(stored).max(axis=1, keepdims=True)
    differs: NDArray[np.bool_] = (np.abs(vectors - stored) > _ROUNDING * largest).any(axis=1)
    columns = snapshot.columns(at)
    # The position in a run says nothing about a row of another run.
    same_run = np.asarray(columns["run"]) == rows["run"].to_numpy()
    for each in rows.schema:
        if each.name == "run":
            continue
        values = columns.get(each.name, [None] * len(at))
        unequal = _unequal(rows[each.name], pa.array(values, each.type))
        differs |= unequal & same_run if each.name == "row_id" else unequal
    return differs


def _unequal(one: pa.Array, other: pa.Array) -> NDArray[np.bool_]:
    """Whether values differ; null equals null, and NaN equals NaN."""
    equal = pc.fill_null(pc.equal(one, other), False)
    equal = pc.or_(equal, pc.and_(pc.is_null(one), pc.is_null(other)))
    if pa.types.is_floating(one.type):
        both_nan = pc.and_(pc.is_nan(one), pc.is_nan(other))
        equal = pc.or_(equal, pc.fill_null(both_nan, False))
    return ~np.asarray(equal)


def _refuse_other_runs(
    ids: Sequence[str],
    at: NDArray[np.int64],
    number: int,
    source: VectorSource,
    snapshot: Snapshot,
) -> None:
    """Refuse rows that differ from those of the same id that another run brought."""
    if not ids:
        return
    runs = np.asarray(snapshot.columns(at, ["run"])["run"])
    foreign = np.flatnonzero(runs != number)
    if len(foreign):
        first = int(foreign[0])
        raise SnapshotError(
            f"detection_id {ids[first]!r} of {source.path} is in {snapshot.path} already, from "
            f"{snapshot.manifest.runs[runs[first]].path} and with other content; an id names one "
            "row: if it is the same image, `replace=True` takes the new one; if not, extract this "
            "run again into a new folder, where ids are made of the images' content, or with an "
            "`id_prefix`"
        )
