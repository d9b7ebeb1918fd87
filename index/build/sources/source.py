"""The contract of a source of vectors, and the rows of it that can be indexed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import SnapshotError
from index.storage.columns import OwnColumns, plain_name
from index.storage.layout import RunEntry
from index.storage.rows import hash_ids, to_index_rows
from index.vectors import NAMED, unusable
from pipelines.model_info import ModelInfo

BATCH_ROWS = 8192

NO_EMBEDDING, ZERO, NOT_FINITE = "no_embedding", "zero", "not_finite"
"""Why a row is not indexed: it has no vector, or one without a direction."""


class Batch(NamedTuple):
    """Consecutive rows of a source.

    Attributes:
        row_ids: int64 [N], position of each row in the source.
        ids: text [N], the detection ids, without a null.
        rows: N rows, other columns under the names that they have in the source.
        vectors: [N, D], as they are stored, of any float type.
        has_vector: [N]; where False the row of ``vectors`` means nothing.
    """

    row_ids: NDArray[np.int64]
    ids: pa.Array
    rows: pa.RecordBatch
    vectors: NDArray[np.floating]
    has_vector: NDArray[np.bool_]


class Reader(Protocol):
    """Reads a part of a source. It is sent to tasks, which may be other processes."""

    def batches(self, columns: Sequence[str]) -> Iterator[Batch]:
        """Read the rows in their order, up to ``BATCH_ROWS`` at a time.

        Args:
            columns: other columns that are wanted; one that the source does not have is left out.

        Raises:
            SnapshotError: the data are not what the source said.
        """


class VectorSource(Protocol):
    """Rows with vectors of one dimension and one model."""

    @property
    def path(self) -> Path:
        """Folder or file; its name in messages."""

    @property
    def dim(self) -> int:
        """Values of a vector."""

    @property
    def model(self) -> ModelInfo | None:
        """What made the vectors; None: they were made elsewhere."""

    @property
    def fingerprint(self) -> str:
        """Vectors of equal fingerprints can be compared."""

    @property
    def rows(self) -> int:
        """Rows, those without a vector included."""

    @property
    def row_ids(self) -> NDArray[np.int64] | None:
        """Which rows are wanted, ascending; None: all."""

    @property
    def own_columns(self) -> OwnColumns:
        """The user's own columns."""

    @property
    def index_columns(self) -> frozenset[str]:
        """Its columns that are columns of the index."""

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of how the source was read."""

    def select(self, row_ids: NDArray[np.int64] | None) -> VectorSource:
        """The same source with other ``row_ids``."""

    def readers(self) -> Sequence[Reader]:
        """Readers of all rows, one after another; each is small or cannot be divided."""

    def digest(self) -> str:
        """Hash of what is read: ``manifest_sha256`` of its entry."""

    def entry(self, rows: int) -> RunEntry:
        """The manifest's entry of this source, of which ``rows`` are indexed."""


@dataclass(frozen=True)
class RowCounts:
    """How many rows of a part can be indexed, and why the others cannot."""

    rows: int
    skipped: dict[str, int]  # reason to rows
    named: dict[str, list[str]]  # reason to the first few ids
    hashes: NDArray[np.uint64]  # of the detection ids, in the order of the rows

    @classmethod
    def add(cls, counts: Sequence[RowCounts]) -> RowCounts:
        """The sum of several parts, in order."""
        skipped: Counter[str] = Counter()
        named: dict[str, list[str]] = {}
        for each in counts:
            skipped.update(each.skipped)
            for reason, ids in each.named.items():
                named[reason] = [*named.get(reason, []), *ids][:NAMED]
        hashes = np.concatenate([np.empty(0, np.uint64), *(each.hashes for each in counts)])
        return cls(len(hashes), dict(skipped), named, hashes)


class IndexRows(NamedTuple):
    """Rows that can be indexed: with the columns of ``rows.arrow``, and vectors [N, D]."""

    rows: pa.RecordBatch
    vectors: NDArray[np.floating]


@dataclass(frozen=True)
class Part:
    """The rows of some readers of one source; one task reads them."""

    run: int  # position of the source in the manifest
    path: Path  # of the source, for messages
    readers: tuple[Reader, ...]
    row_ids: NDArray[np.int64] | None  # ascending; None: all
    dim: int
    schema: pa.Schema  # of the rows of the segment
    filled: frozenset[str]  # columns of the schema that the source has

    @classmethod
    def of(cls, source: VectorSource, run: int, reader: Reader, schema: pa.Schema) -> Part:
        """The rows of one reader.

        Args:
            source: whose reader it is.
            run: position of the source in the manifest.
            reader: reads the rows.
            schema: of the rows of the segment.
        """
        filled = source.index_columns.union(source.own_columns.schema.names)
        return cls(run, source.path, (reader,), source.row_ids, source.dim, schema, filled)

    def batches(self) -> Iterator[IndexRows]:
        """The rows that can be indexed, in their order; never an empty batch.

        Raises:
            SnapshotError: the source is damaged, or a value does not fit its column.
        """
        for batch in self._read():
            _, _, good = _judge(batch)
            if self.row_ids is not None:
                good &= np.isin(batch.row_ids, self.row_ids)
            if not good.any():
                continue
            rows = self._to_index_rows(batch)
            if good.all():
                yield IndexRows(rows, batch.vectors)
            else:
                yield IndexRows(rows.filter(pa.array(good)), batch.vectors[good])

    def count(self) -> RowCounts:
        """Count the rows that can be indexed, and of all others why they cannot.

        Every value is read, so that what cannot be indexed is found before anything is written.
        """
        hashes = [np.empty(0, np.uint64)]
        skipped: Counter[str] = Counter()
        named: dict[str, list[str]] = {}
        for batch in self._read():
            zero, not_finite, good = _judge(batch)
            for reason, rows in (
                (NO_EMBEDDING, ~batch.has_vector),
                (ZERO, zero & batch.has_vector),
                (NOT_FINITE, not_finite & batch.has_vector),
            ):
                if rows.any():
                    skipped[reason] += int(rows.sum())
                    ids = batch.ids.filter(pa.array(rows))[:NAMED].to_pylist()
                    named[reason] = [*named.get(reason, []), *ids][:NAMED]
            if self.row_ids is not None:
                good &= np.isin(batch.row_ids, self.row_ids)
            self._to_index_rows(batch)
            hashes.append(hash_ids(batch.ids.filter(pa.array(good)).to_pylist()))
        joined = np.concatenate(hashes)
        return RowCounts(len(joined), dict(skipped), named, joined)

    def _to_index_rows(self, batch: Batch) -> pa.RecordBatch:
        return to_index_rows(
            batch.rows, self.run, batch.row_ids, batch.ids, self.schema, self.filled
        )

    def _read(self) -> Iterator[Batch]:
        made = ("run", "row_id", "detection_id")
        wanted = [name for name in self.schema.names if name in self.filled and name not in made]
        columns = list(dict.fromkeys(map(plain_name, wanted)))
        for reader in self.readers:
            for batch in reader.batches(columns):
                if batch.vectors.shape[1:] != (self.dim,):
                    raise SnapshotError(
                        f"{self.path} holds vectors of {batch.vectors.shape[1:]} values where "
                        f"{self.dim} are expected; it is damaged or has changed"
                    )
                yield batch


def _judge(batch: Batch) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each vector is zero, is not finite, or is there and can be indexed; each [N]."""
    zero, not_finite = unusable(batch.vectors)
    return zero, not_finite, batch.has_vector & ~zero & ~not_finite


def left_out(source: VectorSource) -> NDArray[np.int64]:
    """Row ids that a build leaves out, because they have no vector or one without a direction."""
    row_ids = [np.empty(0, np.int64)]
    for reader in source.readers():
        for batch in reader.batches(()):
            *_, good = _judge(batch)
            row_ids.append(batch.row_ids[~good])
    return np.sort(np.concatenate(row_ids))
