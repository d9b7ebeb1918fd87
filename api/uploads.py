"""Uploaded images wait for the model one at a time, and not without bound.

Each may take a gigabyte while it is decoded, and a forward uses every core by itself. Those
that wait hold no worker thread, only their bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from anyio import CapacityLimiter

from api.errors import too_busy
from api.limits import Limits
from api.metrics import Metrics


class Uploads:
    """The images that wait; made and used on the event loop."""

    def __init__(self, *, limits: Limits, metrics: Metrics) -> None:
        self.turn = CapacityLimiter(1)
        self._most = limits.waiting_uploads
        self._metrics = metrics
        self._waiting = 0

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place in the line.

        Raises:
            ApiError: 429, it is full.
        """
        if self._waiting >= self._most:
            self._metrics.rejected("uploads")
            raise too_busy(
                f"{self._waiting} images wait for the model, more may not; ask again in a second"
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1
