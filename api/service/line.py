"""A line of requests for one thing that does one at a time, and not without bound.

An uploaded image may take a gigabyte while it is decoded, and a forward uses every core by
itself; the file of live linking has one writer. Those that wait hold no worker thread, only
their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter

from api.http.errors import too_busy
from api.http.metrics import Metrics


class BoundedQueue:
    """Those that wait; made and used on the event loop.

    Args:
        most: places, that of the one whose turn it is included.
        waiting: who waits for what, for the refusal: "images wait for the model".
        reason: of the refusal, for ``metrics``.
        metrics: where refusals are counted.
    """

    def __init__(self, most: int, waiting: str, *, reason: str, metrics: Metrics) -> None:
        self.turn = CapacityLimiter(1)
        self._most = most
        self._what = waiting
        self._reason = reason
        self._metrics = metrics
        self._waiting = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the line.

        Raises:
            ApiError: 429, it is full.
        """
        if self._waiting >= self._most:
            self._metrics.rejected(self._reason)
            raise too_busy(f"{self._waiting} {self._what}, more may not; ask again in a second")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
