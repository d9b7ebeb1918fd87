"""A bounded queue of requests for something that serves one request at a time.

An uploaded image may take a gigabyte while it is decoded, a forward pass uses every core, and the
file of live linking has one writer. Waiting requests hold no worker thread, only their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter

from api.http.errors import too_busy
from api.http.metrics import Metrics


class BoundedQueue:
    """Requests that wait for one resource; create and use it on the event loop.

    Args:
        max_waiting: slots, including the one of the request under way.
        waiting: what waits for what, for the error message: "images wait for the model".
        reason: label of rejections in ``metrics``.
        metrics: counts rejections.

    Attributes:
        limiter: admits one request at a time to the resource.
    """

    def __init__(self, max_waiting: int, waiting: str, *, reason: str, metrics: Metrics) -> None:
        self.limiter = CapacityLimiter(1)
        self._max_waiting = max_waiting
        self._description = waiting
        self._reason = reason
        self._metrics = metrics
        self._waiting = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot of the queue.

        Raises:
            ApiError: 429, the queue is full.
        """
        if self._waiting >= self._max_waiting:
            self._metrics.rejected.labels(self._reason).inc()
            raise too_busy(f"{self._waiting} {self._description}, the limit; try again in a second")
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
