"""What every kind of file of vectors says of itself, and how ids are read from any of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from common.errors import SnapshotError
from index.build.sources.source import Reader

ID_COLUMNS = ("detection_id", "id")  # the first that is there


@dataclass(frozen=True)
class FileLayout:
    """An opened file of vectors.

    Attributes:
        dim: values of a vector.
        rows: all rows.
        columns: names and types of the columns besides vectors and ids.
        readers: of its rows, one after another.
        files: the file, and others that belong to it.
        notes: what a user should know of how it was read.
    """

    dim: int
    rows: int
    columns: pa.Schema
    readers: tuple[Reader, ...]
    files: tuple[Path, ...]
    notes: tuple[str, ...] = ()


def choose_id_column(path: Path, wanted: str | None, names: Collection[str]) -> str | None:
    """The column with the ids; None: there is none, and none was asked for.

    Raises:
        SnapshotError: there is none of the wanted name.
    """
    if wanted is not None and wanted not in names:
        raise SnapshotError(
            f"`id_column={wanted!r}`: {path} has no such column (it has {', '.join(names)})"
        )
    return wanted or next((name for name in ID_COLUMNS if name in names), None)


def to_ids(column: pa.Array, path: Path, first_row: int) -> pa.Array:
    """Detection ids as text.

    Args:
        column: text or whole numbers.
        path: the file, for messages.
        first_row: number of the first of these rows in the file, for messages.

    Raises:
        SnapshotError: it is neither, or a value is missing.
    """
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.cast(column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    text = (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )
    if not text and not pa.types.is_integer(kind) and not pa.types.is_null(kind):
        raise SnapshotError(f"{path}: the ids are {kind}; give text or whole numbers")
    if column.null_count:
        missing = first_row + int(np.argmax(np.asarray(column.is_null())))
        raise SnapshotError(f"{path}: row {missing} (counted from 0) has no id; fill it in")
    return column.cast(pa.string())


def to_floats(values: NDArray[np.generic], path: Path) -> NDArray[np.floating]:
    """Numbers of a file as floats that can be normalised: float16, 32 or 64, whole numbers as 32.

    Raises:
        SnapshotError: they are no real numbers.
    """
    if values.dtype.kind == "f" and values.dtype.itemsize <= 8:
        native: NDArray[np.floating] = values.astype(values.dtype.newbyteorder("="), copy=False)
        return native
    if values.dtype.kind in "iu":
        return values.astype(np.float32)
    raise SnapshotError(f"{path}: the vectors are {values.dtype}; give float16, float32 or float64")
