"""Types of a CSV file's columns, from all of their values; what numbers would lose stays text."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pyarrow as pa
import pyarrow.compute as pc

# The order in which they are tried; what fits none is text.
_TYPES = (
    *(pa.int64(), pa.float64()),
    *(pa.date32(), pa.timestamp("s"), pa.timestamp("ns")),
)
_TRUE, _FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
# Of a code, not of a number: 007, and more digits than numbers hold.
_CODE = r"^[+-]?(0\d|\d{19,}$)"
_COMMA = r"^[+-]?\d+(,\d+)?([eE][+-]?\d+)?$"


def infer_type(
    name: str,
    column: pa.ChunkedArray,
    *,
    decimal_comma: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> pa.ChunkedArray:
    """A column of text as numbers, true and false, dates with or without a time, or as it is.

    Args:
        name: of the column, for notes.
        column: of text; null where there is no value.
        decimal_comma: numbers may be written 1,5.
        note: receives what people should know of the choice.
    """
    if column.null_count == len(column):
        return pa.chunked_array([pa.nulls(len(column))])
    plain = _trimmed(name, column, decimal_comma, note)
    if pc.any(pc.match_substring_regex(plain, _CODE)).as_py():
        return column
    if pc.all(pc.is_in(plain.drop_null(), pa.array([*_TRUE, *_FALSE]))).as_py():
        return pc.if_else(plain.is_valid(), pc.is_in(plain, pa.array(_TRUE)), None)
    for kind in _TYPES:
        try:
            values = plain.cast(kind)
        except pa.ArrowInvalid:
            continue
        if kind == pa.float64() and _merges(plain, values):
            note(f"column {name!r} has values as 1.1 and 1.10, and was read as text")
            return column
        return values
    return column


def read_numbers(
    name: str,
    column: pa.ChunkedArray,
    *,
    decimal_comma: bool = False,
    note: Callable[[str], None] = lambda text: None,
) -> pa.ChunkedArray:
    """A column that is to hold numbers: ``007`` is 7; text where it holds others.

    Args:
        name, column, decimal_comma, note: as ``infer_type`` takes them.
    """
    plain = _trimmed(name, column, decimal_comma, note)
    for kind in (pa.int64(), pa.float64()):
        with suppress(pa.ArrowInvalid):
            return plain.cast(kind)
    return plain


def _trimmed(
    name: str, column: pa.ChunkedArray, decimal_comma: bool, note: Callable[[str], None]
) -> pa.ChunkedArray:
    """Text without spaces around its values, numbers with a decimal point."""
    plain = pc.utf8_trim_whitespace(column)
    if (
        decimal_comma
        and pc.any(pc.match_substring(plain, ",")).as_py()
        and pc.all(pc.match_substring_regex(plain, _COMMA)).as_py()
    ):
        note(f"column {name!r}: numbers have a decimal comma")
        plain = pc.replace_substring(plain, ",", ".")
    return plain


def _merges(texts: pa.ChunkedArray, numbers: pa.ChunkedArray) -> bool:
    """Whether two texts differ in zeros at their end alone: names, as 1.1 and 1.10, not numbers."""
    dotted = pc.match_substring(texts, ".")
    distinct = pc.count_distinct(texts.filter(dotted)).as_py()
    return bool(distinct > pc.count_distinct(numbers.filter(dotted)).as_py())
