"""Arguments of searches in Python, checked: vectors, examples, filters, numbers."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from common.errors import ColumnError, InputError
from index.search.examples import Example
from index.search.filters import Filter

T = TypeVar("T")


def read_vectors(name: str, vectors: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """Numbers ``[N, D]`` or ``[D]``.

    Raises:
        InputError: they are not.
    """
    try:
        values = np.asarray(vectors)
        kind, shape = values.dtype.kind, values.shape
    except ValueError:  # rows of several lengths
        kind, shape = "O", ()
    if kind not in "fiu" or len(shape) not in (1, 2):
        raise InputError(
            f"`{name}`: give numbers [N, D], or [D] for one query, not {type(vectors).__name__} "
            f"of shape {shape}"
        )
    return values.astype(np.float32, copy=False)


def read_examples(name: str, given: Any) -> list[Example]:
    """Examples of a search: one or several ids and vectors ``[D]``, mixed.

    Raises:
        InputError: one is neither.
    """
    if isinstance(given, str):
        return [given]
    if isinstance(given, np.ndarray) and given.ndim == 1 and given.dtype.kind in "fiu":
        return [read_vectors(name, given)]
    if not isinstance(given, Sequence | np.ndarray):
        raise InputError(f"`{name}={given!r}`: give ids or vectors, or a list of them")
    examples: list[Example] = []
    for each in given:
        example = each if isinstance(each, str) else read_vectors(name, each)
        if not isinstance(example, str) and example.ndim != 1:
            raise InputError(f"`{name}`: give ids and vectors [D], not [N, D] among others")
        examples.append(example)
    return examples


def read_filter(where: str | None, ids: Iterable[str] | None) -> Filter:
    """The rows that a search may return.

    Raises:
        InputError: an argument is not of its type.
    """
    if where is not None and not isinstance(where, str):
        raise InputError(f"`where={where!r}`: give a text, as \"label = 'moth'\"")
    if ids is None:
        return Filter(where)
    names = list(ids) if isinstance(ids, Iterable) and not isinstance(ids, str) else None
    if names is None or not all(isinstance(name, str) for name in names):
        raise InputError(f"`ids={ids!r}`: give a list of detection ids")
    return Filter(where, frozenset(names))


def read_count(name: str, value: Any, least: int = 1) -> int:
    """A whole number.

    Raises:
        InputError: it is not one, or is too small.
    """
    try:
        number = int(operator.index(value))  # whole numbers of NumPy too
    except TypeError:
        raise InputError(f"`{name}={value!r}`: give a whole number") from None
    if number < least:
        raise InputError(f"`{name}={number}` is too small; give {least} or more")
    return number


def read_threshold(value: Any) -> float | None:
    """A score, or None.

    Raises:
        InputError: it is not a number.
    """
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if math.isnan(number):
        raise InputError(f"`score_threshold={value!r}`: give a number")
    return number


def of_column(name: str, column: Any, function: Callable[..., T], *arguments: Any) -> T:
    """Call ``function`` with a column that parameter ``name`` gave.

    Raises:
        InputError: it is not the name of a column.
    """
    if not isinstance(column, str):
        raise InputError(f"`{name}={column!r}`: give the name of a column")
    try:
        return function(*arguments)
    except ColumnError as error:
        raise InputError(f"`{name}={column!r}`: {error}") from None
