"""The columns of ``rows.arrow``: those of every index, and the user's own.

Own columns are all others of a run or file, where they have a simple type: text, numbers,
booleans, dates and times. They come after the columns of the index, under their own names; a name
that the index uses itself, as ``run``, gets the prefix ``payload.``.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import date, time
from math import isfinite
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from common.conditions import fold
from common.errors import SnapshotError, first_line
from pipelines.detections import PLAN_SCHEMA

PAYLOAD = "payload"
"""Prefix of the names that an index uses itself, and the qualifier of own columns in a filter."""

ROWS_SCHEMA = pa.schema(
    [
        ("run", pa.int16()),  # position in the manifest's runs
        *PLAN_SCHEMA,
        ("label", pa.string()),
        ("label_index", pa.int32()),
        ("score", pa.float32()),
    ]
)
"""The columns of the index itself."""

_AS_THEY_ARE = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_float32, pa.types.is_float64)
_STORED: tuple[tuple[tuple[Any, ...], pa.DataType], ...] = (
    ((pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view), pa.string()),
    ((pa.types.is_float16,), pa.float32()),
    ((pa.types.is_decimal,), pa.float64()),
    ((pa.types.is_date,), pa.date32()),
    ((pa.types.is_time,), pa.time64("us")),
    ((pa.types.is_timestamp,), pa.timestamp("us")),
)


@dataclass(frozen=True)
class OwnColumns:
    """What an index keeps of a run's or file's own columns.

    Attributes:
        schema: the kept columns, with the names and types that they are stored with.
        left_out: name and type of those that are not.
    """

    schema: pa.Schema
    left_out: dict[str, str]

    @classmethod
    def choose(cls, schema: pa.Schema, ignored: Collection[str]) -> OwnColumns:
        """The own columns among those of a run or file.

        Args:
            schema: all columns.
            ignored: names of the columns that are not the user's own.
        """
        fields, left_out = [], {}
        for field in schema:
            if field.name in ignored:
                continue
            kind = _stored_type(field.type)
            if kind is not None:
                fields.append(pa.field(_stored_name(field.name), kind))
            elif not pa.types.is_null(field.type):  # a column without any value says nothing
                left_out[field.name] = str(field.type)
        return cls(pa.schema(fields), left_out)


def payload_schema(schema: pa.Schema) -> dict[str, str]:
    """Own columns of a schema as a manifest has them: stored name to type."""
    return {field.name: str(field.type) for field in schema if field.name not in ROWS_SCHEMA.names}


def rows_schema(payload: Mapping[str, str]) -> pa.Schema:
    """``ROWS_SCHEMA``, and the own columns that a manifest names."""
    own = [pa.field(name, pa.type_for_alias(kind)) for name, kind in payload.items()]
    return pa.schema([*ROWS_SCHEMA, *own])


def is_rows_schema(schema: pa.Schema) -> bool:
    """Whether a table has the columns of every index, and own columns after them."""
    return bool(pa.schema(list(schema)[: len(ROWS_SCHEMA)]) == ROWS_SCHEMA)


def plain_name(name: str) -> str:
    """The name that the user gave a column, from its stored one."""
    return name.removeprefix(f"{PAYLOAD}.")


def _stored_name(name: str) -> str:
    folded = fold(name)
    taken = folded in ROWS_SCHEMA.names or folded == PAYLOAD or folded.startswith(f"{PAYLOAD}.")
    return f"{PAYLOAD}.{name}" if taken else name


def _stored_type(kind: pa.DataType) -> pa.DataType | None:
    """The type that a column is stored with; None where an index does not keep it."""
    if isinstance(kind, pa.BaseExtensionType):
        return _stored_type(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return _stored_type(kind.value_type)
    if any(fits(kind) for fits in _AS_THEY_ARE):
        return kind
    return next((stored for fits, stored in _STORED if any(each(kind) for each in fits)), None)


def unify(schemas: Iterable[tuple[str, pa.Schema]]) -> pa.Schema:
    """One schema for the own columns of several runs, files or segments.

    A column that some do not have is null there. Whole numbers of several sizes become int64,
    other numbers double.

    Args:
        schemas: where they are from, for messages, and their own columns as stored.

    Raises:
        SnapshotError: a column has types that have no common one.
    """
    types: dict[str, pa.DataType] = {}
    first: dict[str, str] = {}
    for where, schema in schemas:
        for field in schema:
            known = types.setdefault(field.name, field.type)
            first.setdefault(field.name, where)
            both = _common_type(known, field.type)
            if both is None:
                raise SnapshotError(
                    f"column {plain_name(field.name)!r} is {field.type} in {where} and {known} in "
                    f"{first[field.name]}; an index keeps one type for a column: change or rename "
                    "it in one of them, or build one index for each"
                )
            types[field.name] = both
    return pa.schema(list(types.items()))


def _common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if one == other:
        return one
    numbers = [pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in (one, other)]
    if not all(numbers):
        return None
    unsigned = pa.uint64() in (one, other)
    if pa.types.is_integer(one) and pa.types.is_integer(other) and not unsigned:
        return pa.int64()
    return pa.float64()


def to_type(column: pa.Array | pa.ChunkedArray, kind: pa.DataType, name: str) -> Any:
    """A column with the type that it is stored with.

    Args:
        column: as it was read.
        kind: the stored type.
        name: of the column, for messages.

    Raises:
        SnapshotError: a value does not fit: a time that microseconds since 1970 cannot hold.
    """
    if column.type == kind:
        return column
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    try:
        if isinstance(column.type, pa.BaseExtensionType):
            column = column.cast(column.type.storage_type)
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if pa.types.is_timestamp(column.type) and column.type.tz is not None:
            column = _cast(column, pa.timestamp("us", "UTC"))
        return _cast(column, kind)
    except pa.ArrowException as error:
        raise SnapshotError(
            f"column {plain_name(name)!r} is {column.type} and cannot be kept as {kind} "
            f"({first_line(error)})"
        ) from None


def _cast(column: Any, kind: pa.DataType) -> Any:
    # Nanoseconds are cut off, and whole numbers above 2**53 rounded where others are double.
    options = pc.CastOptions(
        kind, allow_time_truncate=True, allow_float_truncate=True, allow_decimal_truncate=True
    )
    return pc.cast(column, options=options)


def payload(columns: Mapping[str, list[Any]], names: Iterable[str]) -> list[dict[str, Any]]:
    """Own columns of R rows as R dicts that can be written as JSON, by the user's names.

    Args:
        columns: R Python values per column.
        names: stored names of the own columns.
    """
    wanted = {plain_name(name): [to_json(value) for value in columns[name]] for name in names}
    rows = len(next(iter(columns.values()), []))
    return [{name: values[row] for name, values in wanted.items()} for row in range(rows)]


def to_json(value: Any) -> Any:
    """A value of an own column as one that JSON can hold: times as ISO 8601, NaN as null."""
    if isinstance(value, date | time):  # a datetime is a date
        return value.isoformat()
    if isinstance(value, float) and not isfinite(value):
        return None
    return value
