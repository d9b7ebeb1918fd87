"""Taking few out of many, evenly from the first to the last."""

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
