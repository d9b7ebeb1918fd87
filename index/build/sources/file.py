"""A file of vectors that were made elsewhere, as a source: Parquet, Arrow, NumPy, HDF5."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import DamagedFileError, SnapshotError, SourceError, first_line
from common.json_models import sha256_file, sha256_json
from common.storage import is_remote, storage_errors
from index.build.sources.arrays import open_hdf5, open_npy
from index.build.sources.layout import FileLayout
from index.build.sources.source import Reader
from index.build.sources.tables import open_arrow, open_parquet_file
from index.storage.columns import OwnColumns, plain_name
from index.storage.layout import RunEntry, vectors_fingerprint
from pipelines.detections import BOX
from pipelines.sources.box_layouts import find_four, find_single

_OPEN: dict[str, Callable[[Path, str | None], FileLayout]] = {
    **dict.fromkeys((".parquet", ".pq"), open_parquet_file),
    **dict.fromkeys((".arrow", ".feather", ".ipc", ".arrows"), open_arrow),
    ".npy": open_npy,
    **dict.fromkeys((".h5", ".hdf5"), open_hdf5),
}
SUFFIXES = tuple(_OPEN)

_TEXT = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_NUMBER = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
_INDEX_COLUMNS: dict[str, tuple[Callable[[pa.DataType], bool], ...]] = {
    **dict.fromkeys(("image", "sequence", "label"), (*_TEXT, pa.types.is_integer)),
    **dict.fromkeys(("x1", "y1", "x2", "y2", "score"), _NUMBER),
    **dict.fromkeys(("frame", "label_index"), (pa.types.is_integer,)),
    "timestamp": (pa.types.is_timestamp, pa.types.is_date),
}
"""Columns of a file that become those of the index, where their type is one of these."""


@dataclass(frozen=True)
class FileSource:
    """A file of vectors: a ``VectorSource``.

    Attributes:
        path: the file.
        layout: its vectors, ids and columns.
        model_name: what made the vectors, in the user's words; None: not said.
        row_ids: which rows are wanted, ascending; None: all.
    """

    path: Path
    layout: FileLayout
    model_name: str | None
    row_ids: NDArray[np.int64] | None = None

    @property
    def dim(self) -> int:
        """Values of a vector."""
        return self.layout.dim

    @property
    def model(self) -> None:
        """None: there is no model here that could make such vectors."""
        return

    @property
    def fingerprint(self) -> str:
        """What the user says of the model."""
        return vectors_fingerprint(self.model_name)

    @property
    def rows(self) -> int:
        """Rows, those without a vector included."""
        return self.layout.rows

    @cached_property
    def own_columns(self) -> OwnColumns:
        """All columns that do not become columns of the index."""
        return OwnColumns.choose(self.layout.columns, self.index_columns)

    @cached_property
    def index_columns(self) -> frozenset[str]:
        """Columns with a name of the index and a type that fits."""
        return frozenset(
            field.name
            for field in self.layout.columns
            if any(fits(_values(field.type)) for fits in _INDEX_COLUMNS.get(field.name, ()))
        )

    @property
    def notes(self) -> Sequence[str]:
        """What a user should know of how the file was read."""
        kept = [plain_name(name) for name in self.own_columns.schema.names]
        other = [
            f"column {field.name!r} of {self.path.name} is {field.type}, so it is no column of the "
            f"index but your own: payload.{field.name}"
            for field in self.layout.columns
            if field.name in _INDEX_COLUMNS and field.name in kept
        ]
        return (*self.layout.notes, *other, *self._notes_on_boxes())

    def _notes_on_boxes(self) -> Sequence[str]:
        """A remark where no column is a box of the index, though some look like boxes."""
        names = [field.name for field in self.layout.columns]
        nested = [field.name for field in self.layout.columns if pa.types.is_nested(field.type)]
        if self.index_columns.issuperset(BOX):
            return ()
        try:
            similar = [*find_four(names), *find_single(nested)]
        except SourceError as error:
            return (f"{self.path.name}: {error}",)
        return [
            f"columns {', '.join(boxes.names)} of {self.path.name} look like boxes and are columns of "
            "your own; the index reads x1, y1, x2, y2 in pixels of the upright image"
            for boxes in similar
        ]

    def select(self, row_ids: NDArray[np.int64] | None) -> FileSource:
        """The same file with other ``row_ids``."""
        return replace(self, row_ids=row_ids)

    def readers(self) -> Sequence[Reader]:
        """Readers of its rows, one after another."""
        return self.layout.readers

    def digest(self) -> str:
        """That of the file, or of it and its ids."""
        digests = [sha256_file(file) for file in self.layout.files]
        return digests[0] if len(digests) == 1 else sha256_json(digests)

    def entry(self, rows: int) -> RunEntry:
        """The manifest's entry of the file."""
        return RunEntry(
            path=str(self.path),
            root=str(self.path.parent),
            rows=rows,
            manifest_sha256=self.digest(),
        )


def open_file(
    path: Path,
    *,
    id_column: str | None = None,
    model_name: str | None = None,
) -> FileSource:
    """Open a file of vectors.

    Args:
        path: its suffix says what it is, one of ``SUFFIXES``.
        id_column: name of the column, or of the HDF5 dataset, that holds the ids; None:
            ``detection_id`` or ``id``.
        model_name: what made the vectors.

    Raises:
        SnapshotError: there is no such file, or it is not what its suffix says, or has no ids.
    """
    with storage_errors(path):
        if not path.is_file():
            raise SnapshotError(f"{path}: no such file")
        path = path.resolve()
    suffix = path.suffix.lower()
    if is_remote(path) and _OPEN[suffix] in (open_npy, open_hdf5):
        raise SnapshotError(f"{path}: {suffix} files are read on this machine only; copy it here")
    try:
        layout = _OPEN[suffix](path, id_column)
    # HDF5 raises KeyError and RuntimeError where an object of the file is damaged.
    except (
        OSError,
        ValueError,
        KeyError,
        RuntimeError,
        pa.ArrowException,
        DamagedFileError,
    ) as error:
        why = error.reason if isinstance(error, DamagedFileError) else first_line(error)
        raise SnapshotError(f"{path} cannot be read as {suffix}: {why}") from None
    return FileSource(path, layout, model_name)


def _values(kind: pa.DataType) -> pa.DataType:
    """The type of a column's values, where it is a dictionary of them."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind
