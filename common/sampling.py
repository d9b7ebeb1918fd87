"""Even samples of a sequence, and ranges of nearly equal length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def evenly(count: int, sample: int) -> list[int]:
    """``sample`` positions out of ``count``, from the first to the last, evenly spaced.

    No position comes twice where ``sample`` is at most ``count``.
    """
    return [int(position) for position in np.linspace(0, count - 1, sample).astype(int)]


def spread(items: Sequence[T], limit: int | None) -> Sequence[T]:
    """At most ``limit`` of ``items``, evenly spaced, in their order; None: all of them."""
    if limit is None or limit >= len(items):
        return items
    return [items[position] for position in evenly(len(items), limit)]


def even_parts(total: int, limit: int) -> list[tuple[int, int]]:
    """Cut ``total`` rows into as few parts as possible of at most ``limit`` rows, nearly equal.

    Returns:
        Begin and end of each part; one empty part for no rows.
    """
    parts = max(1, -(-total // limit))
    return [(total * part // parts, total * (part + 1) // parts) for part in range(parts)]
