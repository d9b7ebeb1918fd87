"""A few of the values that a write changes, before and after, to be looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import chain, zip_longest
from math import isfinite
from typing import Any

import numpy as np

from ami.join import features_of, is_null

SHOWN = 10
"""Examples that are shown."""

_LONGEST = 60  # characters of a text
_FIRST = 3  # numbers of features

Value = str | int | float | None


@dataclass(frozen=True)
class Example:
    """One value that changes; features and long texts are shortened."""

    detection: str  # its id in the run
    column: str  # of the database
    before: Value  # None: empty
    after: Value  # None: emptied


@dataclass
class Examples:
    """Collects ``SHOWN`` values: of every column some, those first that overwrite another.

    Args:
        columns: that are written, in the order in which they are shown.
    """

    columns: Sequence[str]
    _overwritten: dict[str, list[Example]] = field(default_factory=dict)  # by column
    _filled: dict[str, list[Example]] = field(default_factory=dict)

    def add(self, detection: str, column: str, before: Any, after: Any) -> None:
        """Take one value, if so few of its kind have been taken."""
        kind = self._filled if is_null(before) else self._overwritten
        taken = kind.setdefault(column, [])
        if len(taken) < SHOWN:
            taken.append(
                Example(detection, column, _readable(column, before), _readable(column, after))
            )

    def chosen(self) -> list[Example]:
        """The examples, column by column."""
        of_columns = [
            self._overwritten.get(name, []) + self._filled.get(name, []) for name in self.columns
        ]
        turns = chain.from_iterable(zip_longest(*of_columns))  # of every column the first, …
        taken = [example for example in turns if example is not None][:SHOWN]
        return sorted(taken, key=lambda example: self.columns.index(example.column))


def _readable(column: str, value: Any) -> Value:
    """A value of a database or of a run, for people and for JSON."""
    if column == "cnn_features" and (features := _shortened(value)) is not None:
        return features
    if is_null(value):
        return None
    if isinstance(value, Decimal):
        value = float(value)
    if isinstance(value, int | float) and isfinite(value):
        return value
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _shortened(features: Any) -> str | None:
    """The length and the first numbers of features; None if it is none."""
    try:
        numbers = features if isinstance(features, np.ndarray) else features_of(features)
    except ValueError:
        return None
    first = ", ".join(f"{number:.6g}" for number in numbers[:_FIRST])
    return f"{len(numbers)} numbers: {first}" + (", …" if len(numbers) > _FIRST else "")
