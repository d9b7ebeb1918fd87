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
    """Reads files in a stated order; while one is used, the next are on their way.

    Args:
        files: in the order in which they will be asked for.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = iter(files)
        self._coming: deque[tuple[Path, Future[bytes]]] = deque()
        self._pool: ThreadPoolExecutor | None = None  # none where nothing comes from a store

    def read(self, file: Path) -> bytes:
        """The bytes of a file, fetched already if it is the next.

        Raises:
            ImageError, StorageError: as ``pipelines.images.pixels.read`` raises them.
        """
        for path in islice(self._files, _AHEAD - len(self._coming)):
            self._pool = self._pool or ThreadPoolExecutor(_THREADS, "fetch")
            self._coming.append((path, self._pool.submit(read, path)))
        if self._coming and self._coming[0][0] == file:
            return self._coming.popleft()[1].result()
        return read(file)

    def close(self) -> None:
        """Fetch nothing more."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
