"""Any column of an index's rows: its values counted, and rows in its order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import ColumnError
from index.config import Direction
from index.search.filters import Filter
from index.storage.columns import PAYLOAD, plain_name

if TYPE_CHECKING:
    from index.search.snapshot import Snapshot


def read_column(snapshot: Snapshot, name: str) -> pa.ChunkedArray:
    """The values of a column; NaN counts as no value.

    Args:
        snapshot: the index.
        name: of the column; ``payload.`` may stand before one of the user's own, and must where the
            index uses the name itself.

    Returns:
        Values of all rows, the deleted ones included.

    Raises:
        ColumnError: there is no such column.
    """
    names = snapshot.schema.names
    own = snapshot.own_columns
    if name not in names and name.startswith(f"{PAYLOAD}.") and plain_name(name) in own:
        name = plain_name(name)
    if name not in names:
        raise ColumnError(f"there is no column {name[:100]!r}; there are {', '.join(names)}")
    values = snapshot.column(name)
    if pa.types.is_floating(values.type):
        values = pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)
    return values


def count_values(
    snapshot: Snapshot, name: str, filter: Filter | None, limit: int
) -> tuple[int, list[tuple[Any, int]]]:
    """Count the values of a column.

    Args:
        snapshot: the index.
        name: of the column.
        filter: count only rows that match it.
        limit: most values to return.

    Returns:
        The number of distinct values, and the most frequent of them with the number of rows of
        each; equally frequent ones ascend. Rows without a value are not counted.

    Raises:
        ColumnError: there is no such column.
        FilterError: ``filter`` cannot be used.
    """
    values, mask = read_column(snapshot, name), snapshot.mask(filter)
    if not mask.all():
        values = values.filter(pa.array(mask))
    counted = pc.value_counts(values.drop_null())
    table = pa.table({"value": counted.field("values"), "rows": counted.field("counts")})
    order = pc.sort_indices(table, sort_keys=[("rows", "descending"), ("value", "ascending")])
    first = table.take(order[:limit])
    pairs = zip(first["value"].to_pylist(), first["rows"].to_pylist(), strict=True)
    return table.num_rows, list(pairs)


def sort_rows(snapshot: Snapshot, name: str, direction: Direction) -> NDArray[np.int64]:
    """Row numbers in the order of a column.

    Args:
        snapshot: the index, of N rows.
        name: of the column.
        direction: ``asc`` or ``desc``.

    Returns:
        [N]; equal values stay in the order of the rows, rows without a value come last.

    Raises:
        ColumnError: there is no such column.
    """
    values = read_column(snapshot, name)
    towards = "ascending" if direction == "asc" else "descending"
    order: NDArray[np.uint64] = pc.sort_indices(
        pa.table({name: values}), sort_keys=[(name, towards)]
    ).to_numpy()
    return order.astype(np.int64)
