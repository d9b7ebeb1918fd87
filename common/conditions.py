"""Conditions on the rows of a table: a WHERE condition of DuckDB's SQL over named columns.

``sequence = 'trap-4' AND score >= 0.5 AND timestamp BETWEEN '2024-05-01' AND '2024-05-02'``. DuckDB
parses and evaluates it. Conditions come from clients of a server too, so the parsed form is checked
first: comparisons, arithmetic and the functions below pass; a subquery, a file, an aggregate or a
function that could fill the memory does not.
"""

from __future__ import annotations

import atexit
import json
import os
import re
from collections.abc import Collection, Iterator, Mapping
from functools import lru_cache
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from common.errors import FilterError, first_line

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

Name = tuple[str, ...]  # of a column as an expression has it: ("camera",), ("payload", "camera")


def column_names(where: str) -> tuple[Name, ...]:
    """Check that an expression is a plain condition.

    Args:
        where: the expression.

    Returns:
        The names of columns in it, ascending; whether there are such columns is not checked.

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
    check_utf8(where, f"filter {shorten(where)}")
    with _connect() as connection:
        # In brackets on separate lines, so that nothing in it can end the expression early.
        text = connection.execute("SELECT json_serialize_sql(?)", [_select(where)]).fetchall()[0][0]
    try:
        return tuple(sorted(_check_parsed(where, json.loads(text))))
    except RecursionError:  # Python's JSON parser may fail before the depth is counted
        raise filter_error(where, "it is nested too deep") from None


def evaluate(where: str, rows: pa.Table) -> NDArray[np.bool_]:
    """Whether each row matches, bool [N]; a condition that is null does not match.

    Args:
        where: an expression that ``column_names`` has checked.
        rows: N rows with the columns that it names, and at least one.

    Raises:
        FilterError: it cannot be evaluated, or is not a condition.
    """
    with _connect() as connection:
        connection.register("rows", rows)
        try:
            values = connection.sql(_select(where)).to_arrow_table()["matches"]
        except duckdb.Error as error:
            raise filter_error(where, first_line(error)) from None
    if not pa.types.is_boolean(values.type):
        raise filter_error(where, f"it gives {values.type}, not true or false")
    mask: NDArray[np.bool_] = pc.fill_null(values, False).to_numpy()
    return mask


def find_column(
    where: str, name: Name, candidates: Mapping[str, str], columns: Mapping[str, str]
) -> str:
    """The column that a name in an expression stands for; the case of letters does not matter.

    Args:
        where: the expression, for messages.
        name: in the expression; its last part is looked for.
        candidates: possible last parts, with the column that each is of.
        columns: all that there are, with how each is written in an expression.

    Raises:
        FilterError: there is none, or several differ only in upper and lower case.
    """
    if name[-1] in candidates:
        return candidates[name[-1]]
    alike = [candidates[each] for each in candidates if fold(each) == fold(name[-1])]
    if not alike:
        known = ", ".join(list(columns.values())[:_NAMED])
        more = f" and {len(columns) - _NAMED} more" if len(columns) > _NAMED else ""
        raise filter_error(where, f"there is no column {'.'.join(name)!r}; there are {known}{more}")
    if len(alike) > 1:
        raise _twins_error(where, [columns[column] for column in alike])
    return alike[0]


def check_twins(where: str, names: Collection[str]) -> None:
    """Check that SQL can tell columns apart, which it does not by the case of letters.

    Args:
        where: the expression, for the message.
        names: of the columns that it uses.

    Raises:
        FilterError: it cannot.
    """
    by_fold: dict[str, str] = {}
    for name in sorted(names):
        twin = by_fold.setdefault(fold(name), name)
        if twin != name:
            raise _twins_error(where, [as_in_sql(twin), as_in_sql(name)])


def _twins_error(where: str, names: list[str]) -> FilterError:
    twins = " and ".join(names)
    return filter_error(
        where, f"columns {twins} differ only in upper and lower case; a filter can use one of them"
    )


def as_in_sql(name: str) -> str:
    """A column's name as it stands in an expression, on one line."""
    if _PLAIN_NAME.fullmatch(name):
        return name
    return '"' + repr(name)[1:-1].replace('"', '""') + '"'


def fold(name: str) -> str:
    """A column name as SQL compares it: the case of ASCII letters does not matter."""
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


def check_utf8(text: str, what: str) -> None:
    """Check that text can be encoded: JSON can hold half of a surrogate pair, UTF-8 cannot.

    Args:
        text: the text.
        what: it is, for the message.

    Raises:
        FilterError: it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise FilterError(f"{what} cannot be used: {error.reason}") from None


def shorten(text: str) -> str:
    """A text in quotes, its end left out where it is long."""
    return repr(text if len(text) <= 120 else text[:119] + "…")


def filter_error(where: str, why: str) -> FilterError:
    """The error for an expression that cannot be used."""
    return FilterError(f"filter {shorten(where)} cannot be used: {why}")


def _connect() -> duckdb.DuckDBPyConnection:
    """A connection that sees nothing of others; a database of its own would cost it 20 ms."""
    return _database(os.getpid()).cursor()


@lru_cache(1)
def _database(pid: int) -> duckdb.DuckDBPyConnection:
    """The database of the process ``pid``: one that was inherited from a parent cannot be used."""
    return duckdb.connect(":memory:", config=_SANDBOX)


atexit.register(_database.cache_clear)  # what lives longer is reported as a leak


def _check_parsed(where: str, parsed: dict[str, Any]) -> set[Name]:
    if parsed.get("error"):
        raise filter_error(where, first_line(ValueError(parsed["error_message"])))
    statements = parsed["statements"]
    if len(statements) != 1:
        raise filter_error(where, "it is more than one expression")
    node = statements[0]["node"]
    if node["type"] != "SELECT_NODE" or len(node["select_list"]) != 1:
        raise filter_error(where, "it is more than one expression")
    names: set[Name] = set()
    for part, depth in _expressions(node["select_list"]):
        if depth > MAX_DEPTH:
            raise filter_error(where, "it is nested too deep")
        kind = part["class"]
        if kind == "FUNCTION":
            if part["function_name"].lower() not in _ALLOWED_FUNCTIONS:
                raise filter_error(where, f"the function {part['function_name']!r} is not allowed")
        elif kind not in _ALLOWED_CLASSES:
            raise filter_error(where, f"{kind.lower().replace('_', ' ')} is not allowed")
        elif kind == "COLUMN_REF":
            names.add(tuple(part["column_names"]))
    return names


def _select(where: str) -> str:
    return f"SELECT (\n{where}\n) AS matches FROM rows"  # noqa: S608 - checked before


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
