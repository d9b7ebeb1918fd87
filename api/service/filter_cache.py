"""The rows of the last few filters, cached for as long as their snapshot lives.

A filter over a million rows takes 200 ms, and whoever browses turns from page to page. Snapshots
never change, so the rows of a filter are computed once.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from index.search.filters import Filter
from index.search.snapshot import Snapshot

CACHED_FILTERS = 8  # 4 bytes a row each

_cache: WeakKeyDictionary[Snapshot, OrderedDict[str | None, NDArray[np.uint32]]] = (
    WeakKeyDictionary()
)
_lock = threading.Lock()  # for the cache only: two threads may compute the same at once


def matching_rows(snapshot: Snapshot, where: str | None) -> NDArray[np.uint32]:
    """The rows that match ``where``, ascending; None matches every row.

    Raises:
        FilterError: the expression cannot be used; safe to show.
    """
    with _lock:
        cached = _cache.setdefault(snapshot, OrderedDict())
        if where in cached:
            cached.move_to_end(where)
            return cached[where]
    rows = snapshot.matching(None if where is None else Filter(where=where)).astype(np.uint32)
    with _lock:
        cached[where] = rows
        while len(cached) > CACHED_FILTERS:
            cached.popitem(last=False)
    return rows
