"""Filters: which rows a search may return, by an expression over their columns or by ids.

An expression is a condition of ``common.conditions`` over the columns of ``rows.arrow``:
``sequence = 'trap-4' AND score >= 0.5``. The user's own columns stand by their names,
``camera = 'north'``, and ``payload.run`` is the own column ``run``, whose name the index uses itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.conditions import (
    Name,
    as_in_sql,
    check_twins,
    check_utf8,
    column_names,
    evaluate,
    find_column,
    fold,
    shorten,
)
from index.storage.columns import PAYLOAD, ROWS_SCHEMA, plain_name


@dataclass(frozen=True)
class Filter:
    """Rows that match ``where`` and whose id is in ``ids``; None matches every row."""

    where: str | None = None
    ids: frozenset[str] | None = None

    def __bool__(self) -> bool:
        return self.where is not None or self.ids is not None


class Columns(Protocol):
    """What a filter reads: an Arrow table, or the rows of a segment."""

    @property
    def schema(self) -> pa.Schema:
        """Names and types."""

    @property
    def num_rows(self) -> int:
        """N."""

    def select(self, names: Sequence[str]) -> pa.Table:
        """These columns, whole."""


def matches(filter: Filter, rows: Columns) -> NDArray[np.bool_]:
    """Whether each row matches, bool [N]; a condition that is null does not match.

    Args:
        filter: condition, ids, or both.
        rows: N rows with the columns of ``ROWS_SCHEMA``, and own columns.

    Raises:
        FilterError: the expression cannot be parsed, contains what is not allowed, or is not a
            condition. The message names only the expression and the columns.
    """
    mask = np.ones(rows.num_rows, bool)
    if filter.ids is not None:
        for detection_id in filter.ids:
            check_utf8(detection_id, f"id {shorten(detection_id)}")
        ids = pa.array(sorted(filter.ids), pa.string())
        mask &= pc.is_in(rows.select(["detection_id"])["detection_id"], ids).to_numpy()
    if filter.where is not None:
        mask &= _evaluate(filter.where, rows)
    return mask


@dataclass(frozen=True)
class References:
    """The columns that an expression reads, by their stored names, ascending.

    Attributes:
        plain: those that it names alone: ``camera``.
        qualified: own columns that it names with ``payload``: ``payload.camera``.
    """

    plain: tuple[str, ...]
    qualified: tuple[str, ...]


def check(where: str, columns: Sequence[str]) -> References:
    """Check that an expression is a plain condition over ``columns``.

    Args:
        where: the expression.
        columns: stored names of those that there are.

    Raises:
        FilterError: it is not; the message names the part that is not allowed.
    """
    plain: set[str] = set()
    qualified: set[str] = set()
    for name in column_names(where):
        (plain if len(name) == 1 else qualified).add(_stored(where, name, columns))
    check_twins(where, plain)
    check_twins(where, {plain_name(name) for name in qualified})
    return References(tuple(sorted(plain)), tuple(sorted(qualified)))


def _stored(where: str, name: Name, columns: Sequence[str]) -> str:
    """The stored name of the column that an expression names.

    Args:
        where: the expression.
        name: ``(column,)``, or ``("payload", column)``.
        columns: stored names of those that there are.
    """
    candidates = {column: column for column in columns}
    if len(name) == 2 and fold(name[0]) == PAYLOAD:
        candidates = {plain_name(each): each for each in columns if each not in ROWS_SCHEMA.names}
    elif len(name) != 1:
        candidates = {}
    return find_column(where, name, candidates, {column: _shown(column) for column in columns})


def _shown(name: str) -> str:
    """A stored column name as it stands in an expression."""
    if name.startswith(f"{PAYLOAD}."):
        return f"{PAYLOAD}.{as_in_sql(plain_name(name))}"
    return as_in_sql(name)


def _evaluate(where: str, rows: Columns) -> NDArray[np.bool_]:
    used = check(where, rows.schema.names)
    # Without a column DuckDB does not know how many rows there are.
    table = rows.select(list(dict.fromkeys(("row_id", *used.plain))))
    if used.qualified:
        own = rows.select(used.qualified)
        own = own.rename_columns([plain_name(name) for name in used.qualified])
        table = table.append_column(PAYLOAD, own.to_struct_array())
    return evaluate(where, table)
