"""The files of a snapshot that are mapped into memory, watched for being cut.

Reading a mapped file behind its new end does not raise: it ends the process (SIGBUS). So whoever is
about to read asks first whether the files are still as long as they were.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from api.http.errors import ApiError
from common.storage import is_remote
from index.storage.layout import SEGMENTS, SnapshotManifest

_SHARE = 0.01  # of the time that checks may take
MAX_SECONDS = 0.1  # between two checks, however long one took

logger = logging.getLogger("onepass.api")


class MappedFiles:
    """The files of all segments of a snapshot; create it when they are opened.

    Args:
        index: the index folder; one in an object store is read from copies, which are not watched.
        manifest: of the snapshot.
    """

    def __init__(self, index: Path, manifest: SnapshotManifest) -> None:
        segments = [] if is_remote(index) else manifest.segments
        paths = [index / SEGMENTS / entry.name / file for entry in segments for file in entry.files]
        self._index = index
        self._files = [(path, *_identity(path)) for path in paths if path.is_file()]
        self._problem: str | None = None
        self._next = 0.0

    @property
    def cut(self) -> bool:
        """Whether one was cut; it stays so until the snapshot is opened again."""
        return self._problem is not None

    def check(self) -> None:
        """Raise where one was cut.

        Raises:
            ApiError: 503 ``index_damaged``; the log says which file.
        """
        began = time.monotonic()
        if self._problem is None and began >= self._next:
            for path, inode, size in self._files:
                # Another file of this name, or none, says nothing of the one that is mapped.
                try:
                    now_inode, now_size = _identity(path)
                except OSError:
                    continue
                if now_inode == inode and now_size < size:
                    self._problem = (
                        f"{path.relative_to(self._index)} of the index was cut from {size:,} to "
                        f"{now_size:,} bytes while it was served; restore it from a copy, or build "
                        "the index again"
                    )
                    logger.error("%s: %s", self._index, self._problem)
                    break
            ended = time.monotonic()
            self._next = ended + min((ended - began) / _SHARE, MAX_SECONDS)
        if self._problem is not None:
            raise ApiError(503, "index_damaged", self._problem, headers={"retry-after": "5"})


def _identity(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_ino, stat.st_size
