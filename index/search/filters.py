"""Filters: which rows a search may return, by an expression over their columns or by ids.

An expression is a WHERE condition of DuckDB's SQL, over the columns of ``rows.arrow``:
``sequence = 'trap-4' AND score >= 0.5 AND timestamp BETWEEN '2024-05-01' AND '2024-05-02'``.
DuckDB parses and evaluates it. Expressions come from clients of a server, so the parsed form is
checked first: comparisons, arithmetic and the functions below pass; a subquery, a file, an
aggregate or a function that could fill the memory does not.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import FilterError, first_line

MAX_WHERE = 4_000  # characters
MAX_DEPTH = 200  # nested expressions

_CLASSES = "BETWEEN CASE CAST COLUMN_REF COMPARISON CONJUNCTION CONSTANT OPERATOR TYPE"
_FUNCTIONS = """
+ - * / % // abs round trunc floor ceil greatest least
~~ !~~ ~~* !~~* ~~~ regexp_full_match regexp_matches
lower upper trim length contains starts_with ends_with suffix prefix
substring substr left right split_part coalesce nullif
year month day hour minute second dayofweek date_part date_trunc
to_hours to_minutes to_seconds to_days isnan isfinite
"""
_ALLOWED_CLASSES = frozenset(_CLASSES.split())
_ALLOWED_FUNCTIONS = frozenset(_FUNCTIONS.split())
# No expression reaches anything else of this machine, whatever later versions of DuckDB can do.
_SANDBOX: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "1GB",
    "threads": "1",
}


@dataclass(frozen=True)
class Filter:
    """Rows that match ``where`` and whose id is in ``ids``; None matches every row."""

    where: str | None = None
    ids: frozenset[str] | None = None

    def __bool__(self) -> bool:
        return self.where is not None or self.ids is not None


def matches(filter: Filter, rows: pa.Table) -> NDArray[np.bool_]:
    """Whether each row matches, bool [N]; a condition that is null does not match.

    Args:
        filter: condition, ids, or both.
        rows: N rows with the columns of ``ROWS_SCHEMA``.

    Raises:
        FilterError: the expression cannot be parsed, contains what is not allowed, or is not a
            condition. The message names only the expression and the columns.
    """
    mask = np.ones(rows.num_rows, bool)
    if filter.ids is not None:
        for detection_id in filter.ids:
            _check_utf8(detection_id, f"id {_shorten(detection_id)}")
        ids = pa.array(sorted(filter.ids), pa.string())
        mask &= pc.is_in(rows["detection_id"], ids).to_numpy()
    if filter.where is not None:
        mask &= _evaluate(filter.where, rows)
    return mask


def check(where: str, columns: list[str]) -> None:
    """Check that an expression is a plain condition over ``columns``.

    Raises:
        FilterError: it is not; the message names the part that is not allowed.
    """
    if not where.strip():
        raise FilterError("the filter is empty; give a condition, as: label = 'moth'")
    if len(where) > MAX_WHERE:
        raise FilterError(
            f"the filter has {len(where)} characters; {MAX_WHERE} are allowed. For a long list of "
            "detections give their ids instead"
        )
    _check_utf8(where, f"filter {_shorten(where)}")
    with duckdb.connect(":memory:", config=_SANDBOX) as connection:
        # In brackets on separate lines, so that nothing in it can end the expression early.
        text = connection.execute("SELECT json_serialize_sql(?)", [_select(where)]).fetchall()[0][0]
    try:
        _check_parsed(where, json.loads(text), columns)
    except RecursionError:  # Python's JSON parser may fail before the depth is counted
        raise _filter_error(where, "it is nested too deep") from None


def _check_parsed(where: str, parsed: dict[str, Any], columns: list[str]) -> None:
    if parsed.get("error"):
        raise _filter_error(where, first_line(ValueError(parsed["error_message"])))
    statements = parsed["statements"]
    if len(statements) != 1:
        raise _filter_error(where, "it is more than one expression")
    node = statements[0]["node"]
    if node["type"] != "SELECT_NODE" or len(node["select_list"]) != 1:
        raise _filter_error(where, "it is more than one expression")
    for part, depth in _expressions(node["select_list"]):
        if depth > MAX_DEPTH:
            raise _filter_error(where, "it is nested too deep")
        kind = part["class"]
        if kind == "FUNCTION":
            if part["function_name"].lower() not in _ALLOWED_FUNCTIONS:
                raise _filter_error(where, f"the function {part['function_name']!r} is not allowed")
        elif kind not in _ALLOWED_CLASSES:
            raise _filter_error(where, f"{kind.lower().replace('_', ' ')} is not allowed")
        elif kind == "COLUMN_REF" and (
            len(part["column_names"]) != 1 or part["column_names"][0].lower() not in columns
        ):
            name = ".".join(part["column_names"])
            raise _filter_error(
                where, f"there is no column {name!r}; there are {', '.join(columns)}"
            )


def _evaluate(where: str, rows: pa.Table) -> NDArray[np.bool_]:
    check(where, rows.column_names)
    with duckdb.connect(":memory:", config=_SANDBOX) as connection:
        connection.register("rows", rows)
        try:
            values = connection.sql(_select(where)).to_arrow_table()["matches"]
        except duckdb.Error as error:
            raise _filter_error(where, first_line(error)) from None
    if not pa.types.is_boolean(values.type):
        raise _filter_error(where, f"it gives {values.type}, not true or false")
    mask: NDArray[np.bool_] = pc.fill_null(values, False).to_numpy()
    return mask


def _select(where: str) -> str:
    return f"SELECT (\n{where}\n) AS matches FROM rows"  # noqa: S608 (checked before)


def _expressions(root: Any) -> Iterator[tuple[dict[str, Any], int]]:
    """Every expression inside a parsed one, with its depth."""
    waiting = [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, list):
            waiting += [(child, depth) for child in node]
        elif isinstance(node, dict):
            if "class" in node:
                depth += 1
                yield node, depth
            waiting += [(child, depth) for child in node.values()]


def _check_utf8(text: str, what: str) -> None:
    """Check that text can be encoded: JSON can hold half of a surrogate pair, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FilterError(f"{what} cannot be used: {error.reason}") from None


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:119] + "…")


def _filter_error(where: str, why: str) -> FilterError:
    return FilterError(f"filter {_shorten(where)} cannot be used: {why}")
