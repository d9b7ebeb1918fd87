"""Files of object stores, fetched ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from pipelines.images.pixels import read

_THREADS = 8  # of each decoding task
_AHEAD = 16  # files held in memory at most


class Prefetcher:
    """Reads files in a given order; while one is used, the next are being fetched.

    Args:
        files: in the order in which they will be read.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = iter(files)
        self._pending: deque[tuple[Path, Future[bytes]]] = deque()
        self._pool: ThreadPoolExecutor | None = None  # None while nothing comes from a store

    def read(self, file: Path) -> bytes:
        """The bytes of a file, fetched already if it is the next.

        Raises:
            ImageError, StorageError: as ``pipelines.images.pixels.read`` raises them.
        """
        for path in islice(self._files, _AHEAD - len(self._pending)):
            self._pool = self._pool or ThreadPoolExecutor(_THREADS, "fetch")
            self._pending.append((path, self._pool.submit(read, path)))
        if self._pending and self._pending[0][0] == file:
            return self._pending.popleft()[1].result()
        return read(file)

    def close(self) -> None:
        """Stop fetching."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
