"""Which rows of an index a search may answer with: an expression over their columns, or ids.

An expression is what stands behind WHERE in DuckDB's SQL, over the columns of ``rows.arrow``:
``sequence = 'trap-4' AND score >= 0.5 AND timestamp BETWEEN '2024-05-01' AND '2024-05-02'``.
DuckDB parses it and DuckDB evaluates it. Expressions come from clients of a server, so what it
parsed is looked through first: comparisons, arithmetic and the functions below pass; a subquery,
a file, an aggregate or a function that could fill the memory does not.
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
MAX_DEPTH = 200  # expressions inside each other

_CLASSES = frozenset(
    (
        *("BETWEEN", "CASE", "CAST", "COLUMN_REF", "COMPARISON", "CONJUNCTION"),
        *("CONSTANT", "OPERATOR", "TYPE"),
    )
)
_FUNCTIONS = frozenset(
    (
        *(
            "+",
            "-",
            "*",
            "/",
            "%",
            "//",
            "abs",
            "round",
            "trunc",
            "floor",
            "ceil",
            "greatest",
            "least",
        ),
        *("~~", "!~~", "~~*", "!~~*", "~~~", "regexp_full_match", "regexp_matches"),
        *("lower", "upper", "trim", "length", "contains", "starts_with", "ends_with", "suffix"),
        *("prefix", "substring", "substr", "left", "right", "split_part", "coalesce", "nullif"),
        *("year", "month", "day", "hour", "minute", "second", "dayofweek", "date_part"),
        *("date_trunc", "to_hours", "to_minutes", "to_seconds", "to_days", "isnan", "isfinite"),
    )
)
# Nothing of this machine is to be reached through an expression, whatever DuckDB learns to do.
_CLOSED: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "python_enable_replacements": "false",
    "autoload_known_extensions": "false",
    "memory_limit": "1GB",
    "threads": "1",
}


@dataclass(frozen=True)
class Filter:
    """Rows that fit ``where`` and whose id is among ``ids``; None asks for nothing."""

    where: str | None = None
    ids: frozenset[str] | None = None

    def __bool__(self) -> bool:
        return self.where is not None or self.ids is not None


def matches(chosen: Filter, rows: pa.Table) -> NDArray[np.bool_]:
    """Whether each row fits, [N]; what is null or unknown does not.

    Args:
        chosen: what is asked for.
        rows: columns as in ``ROWS_SCHEMA``.

    Raises:
        FilterError: the expression cannot be read, asks for what is not allowed, or is no
            condition. Its message names nothing but the expression and the columns.
    """
    fits = np.ones(rows.num_rows, bool)
    if chosen.ids is not None:
        for one in chosen.ids:
            _check_utf8(one, f"id {_shorten(one)}")
        wanted = pa.array(sorted(chosen.ids), pa.string())
        fits &= pc.is_in(rows["detection_id"], wanted).to_numpy()
    if chosen.where is not None:
        fits &= _evaluate(chosen.where, rows)
    return fits


def check(where: str, columns: list[str]) -> None:
    """Refuse an expression that is not a plain condition over ``columns``.

    Raises:
        FilterError: says which part of it.
    """
    if not where.strip():
        raise FilterError("the filter is empty; give a condition, as: label = 'moth'")
    if len(where) > MAX_WHERE:
        raise FilterError(
            f"the filter has {len(where)} characters; {MAX_WHERE} are allowed. For a long list of "
            "detections give their ids instead"
        )
    _check_utf8(where, f"filter {_shorten(where)}")
    with duckdb.connect(":memory:", config=_CLOSED) as connection:
        # In brackets, on lines of their own: nothing in it can end the expression early.
        text = connection.execute("SELECT json_serialize_sql(?)", [_select(where)]).fetchall()[0][0]
    try:
        _check_parsed(where, json.loads(text), columns)
    except RecursionError:  # Python's reader of JSON may give up before the depth is counted
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
            if part["function_name"].lower() not in _FUNCTIONS:
                raise _filter_error(where, f"the function {part['function_name']!r} is not allowed")
        elif kind not in _CLASSES:
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
    with duckdb.connect(":memory:", config=_CLOSED) as connection:
        connection.register("rows", rows)
        try:
            found = connection.sql(_select(where)).to_arrow_table()["fits"]
        except duckdb.Error as error:
            raise _filter_error(where, first_line(error)) from None
    if not pa.types.is_boolean(found.type):
        raise _filter_error(where, f"it gives {found.type}, not true or false")
    fits: NDArray[np.bool_] = pc.fill_null(found, False).to_numpy()
    return fits


def _select(where: str) -> str:
    return f"SELECT (\n{where}\n) AS fits FROM rows"  # noqa: S608 (looked through before)


def _expressions(root: Any) -> Iterator[tuple[dict[str, Any], int]]:
    """Every expression inside a parsed one, and how deep in it that stands."""
    waiting = [(root, 0)]
    while waiting:
        node, depth = waiting.pop()
        if isinstance(node, list):
            waiting += [(one, depth) for one in node]
        elif isinstance(node, dict):
            if "class" in node:
                depth += 1
                yield node, depth
            waiting += [(one, depth) for one in node.values()]


def _check_utf8(text: str, what: str) -> None:
    """Refuse what is no text: JSON can spell half of a surrogate pair, UTF-8 cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FilterError(f"{what} cannot be used: {error.reason}") from None


def _shorten(text: str) -> str:
    return repr(text if len(text) <= 120 else text[:119] + "…")


def _filter_error(where: str, why: str) -> FilterError:
    return FilterError(f"filter {_shorten(where)} cannot be used: {why}")
