"""Taking few out of many, evenly from the first to the last; cutting many into equal parts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def evenly(count: int, wanted: int) -> list[int]:
    """``wanted`` places of ``count``, from the first to the last; no place twice if they suffice."""
    return [int(place) for place in np.linspace(0, count - 1, wanted).astype(int)]


def spread(items: Sequence[T], limit: int | None) -> Sequence[T]:
    """At most ``limit`` of ``items``, in their order; all of them where it is None."""
    if limit is None or limit >= len(items):
        return items
    return [items[place] for place in evenly(len(items), limit)]


def even_parts(total: int, most: int) -> list[tuple[int, int]]:
    """``total`` rows cut into as few parts as hold at most ``most`` each, all nearly as long.

    Returns:
        Where each part begins and ends; one empty part of no rows.
    """
    parts = max(1, -(-total // most))
    return [(total * part // parts, total * (part + 1) // parts) for part in range(parts)]
