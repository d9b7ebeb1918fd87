"""Filters: which rows a search may return, by an expression over their columns or by ids.

An expression is a WHERE condition of DuckDB's SQL, over the columns of ``rows.arrow``:
``sequence = 'trap-4' AND score >= 0.5 AND timestamp BETWEEN '2024-05-01' AND '2024-05-02'``. The
user's own columns stand by their names, ``camera = 'north'``, and ``payload.run`` is the own column
``run``, whose name the index uses itself.
DuckDB parses and evaluates it. Expressions come from clients of a server, so the parsed form is
checked first: comparisons, arithmetic and the functions below pass; a subquery, a file, an
aggregate or a function that could fill the memory does not.
"""

from __future__ import annotations

import atexit
import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import FilterError, first_line
from index.storage.columns import PAYLOAD, ROWS_SCHEMA, fold, plain_name

MAX_WHERE = 4_000  # characters
MAX_DEPTH = 200  # nested expressions
_NAMED = 40  # columns that a message lists

_CLASSES = "BETWEEN CASE CAST COLUMN_REF COMPARISON CONJUNCTION CONSTANT OPERATOR TYPE"
_FUNCTIONS = """
+ - * / % // abs round trunc floor ceil greatest least
~~ !~~ ~~* !~~* ~~~ regexp_full_match regexp_matches
lower upper trim length contains starts_with ends_with suffix prefix
substring substr left right split_part coalesce nullif
year month day hour minute second dayofweek date_part date_trunc
to_hours to_minutes to_seconds to_days isnan isfinite
"""
_PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
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
            _check_utf8(detection_id, f"id {_shorten(detection_id)}")
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
    if not where.strip():
        raise FilterError("the filter is empty; give a condition, as: label = 'moth'")
    if len(where) > MAX_WHERE:
        raise FilterError(
            f"the filter has {len(where)} characters; {MAX_WHERE} are allowed. For a long list of "
            "detections give their ids instead"
        )
    _check_utf8(where, f"filter {_shorten(where)}")
    with _connect() as connection:
        # In brackets on separate lines, so that nothing in it can end the expression early.
        text = connection.execute("SELECT json_serialize_sql(?)", [_select(where)]).fetchall()[0][0]
    try:
        return _check_parsed(where, json.loads(text), columns)
    except RecursionError:  # Python's JSON parser may fail before the depth is counted
        raise _filter_error(where, "it is nested too deep") from None


def _connect() -> duckdb.DuckDBPyConnection:
    """A connection that sees nothing of others; a database of its own would cost it 20 ms."""
    return _database(os.getpid()).cursor()


@lru_cache(1)
def _database(pid: int) -> duckdb.DuckDBPyConnection:
    """The database of the process ``pid``: one that was inherited from a parent cannot be used."""
    return duckdb.connect(":memory:", config=_SANDBOX)


atexit.register(_database.cache_clear)  # what lives longer is reported as a leak


def _check_parsed(where: str, parsed: dict[str, Any], columns: Sequence[str]) -> References:
    if parsed.get("error"):
        raise _filter_error(where, first_line(ValueError(parsed["error_message"])))
    statements = parsed["statements"]
    if len(statements) != 1:
        raise _filter_error(where, "it is more than one expression")
    node = statements[0]["node"]
    if node["type"] != "SELECT_NODE" or len(node["select_list"]) != 1:
        raise _filter_error(where, "it is more than one expression")
    plain: set[str] = set()
    qualified: set[str] = set()
    for part, depth in _expressions(node["select_list"]):
        if depth > MAX_DEPTH:
            raise _filter_error(where, "it is nested too deep")
        kind = part["class"]
        if kind == "FUNCTION":
            if part["function_name"].lower() not in _ALLOWED_FUNCTIONS:
                raise _filter_error(where, f"the function {part['function_name']!r} is not allowed")
        elif kind not in _ALLOWED_CLASSES:
            raise _filter_error(where, f"{kind.lower().replace('_', ' ')} is not allowed")
        elif kind == "COLUMN_REF":
            name = part["column_names"]
            stored = _resolve(where, name, columns)
            (plain if len(name) == 1 else qualified).add(stored)
    _check_twins(where, plain)
    _check_twins(where, {plain_name(name) for name in qualified})
    return References(tuple(sorted(plain)), tuple(sorted(qualified)))


def _resolve(where: str, name: list[str], columns: Sequence[str]) -> str:
    """The stored name of the column that an expression names.

    Args:
        where: the expression.
        name: ``[column]``, or ``["payload", column]``.
        columns: stored names of those that there are.
    """
    candidates = {column: column for column in columns}
    if len(name) == 2 and fold(name[0]) == PAYLOAD:
        candidates = {plain_name(each): each for each in columns if each not in ROWS_SCHEMA.names}
    elif len(name) != 1:
        candidates = {}
    if name[-1] in candidates:
        return candidates[name[-1]]
    alike = [candidates[each] for each in candidates if fold(each) == fold(name[-1])]
    if not alike:
        known = ", ".join(_as_in_sql(column) for column in columns[:_NAMED])
        more = f" and {len(columns) - _NAMED} more" if len(columns) > _NAMED else ""
        raise _filter_error(
            where, f"there is no column {'.'.join(name)!r}; there are {known}{more}"
        )
    if len(alike) > 1:
        raise _twins_error(where, alike)
    return alike[0]


def _check_twins(where: str, names: Collection[str]) -> None:
    """Check that SQL can tell the columns apart, which it does not by the case of letters."""
    by_fold: dict[str, str] = {}
    for name in sorted(names):
        twin = by_fold.setdefault(fold(name), name)
        if twin != name:
            raise _twins_error(where, [twin, name])


def _twins_error(where: str, names: list[str]) -> FilterError:
    twins = " and ".join(_as_in_sql(name) for name in names)
    return _filter_error(
        where, f"columns {twins} differ only in upper and lower case; a filter can use one of them"
    )


def _as_in_sql(name: str) -> str:
    """A stored column name as it stands in an expression, on one line."""
    if name.startswith(f"{PAYLOAD}."):
        return f"{PAYLOAD}.{_as_in_sql(plain_name(name))}"
    if _PLAIN_NAME.fullmatch(name):
        return name
    return '"' + repr(name)[1:-1].replace('"', '""') + '"'


def _evaluate(where: str, rows: Columns) -> NDArray[np.bool_]:
    used = check(where, rows.schema.names)
    # Without a column DuckDB does not know how many rows there are.
    table = rows.select(list(dict.fromkeys(("row_id", *used.plain))))
    if used.qualified:
        own = rows.select(used.qualified)
        own = own.rename_columns([plain_name(name) for name in used.qualified])
        table = table.append_column(PAYLOAD, own.to_struct_array())
    with _connect() as connection:
        connection.register("rows", table)
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
