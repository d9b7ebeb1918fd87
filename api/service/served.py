"""Which snapshot is served, and how another takes its place without a request noticing.

``CURRENT`` is looked at once a second, in an object store every five. A new version is opened and searched once beside the old
one, then one assignment swaps them: whoever holds the old one ends on it, and it goes when the
last of them lets go. A version that does not open changes nothing but the log and a counter.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import anyio

from api.http.errors import ApiError
from api.http.metrics import Metrics
from api.service.state import ServedIndex
from common.errors import OnepassError, StorageError, WorkError
from common.storage import is_remote
from index.search.snapshot import Snapshot, current_version

WATCH_SECONDS = 1.0
REMOTE_WATCH_SECONDS = 5.0  # each look at an object store costs money
RETRY_SECONDS = 30.0  # a version that did not open may have been on its way over a network disk
NO_STORE = "the object store of the index does not answer; its log says why"

logger = logging.getLogger("onepass.api")


@dataclass(frozen=True)
class Reload:
    """What a look at ``CURRENT`` led to."""

    reloaded: bool
    version: str
    before: str | None


class Service:
    """Opens the holdings while the server already answers ``/livez``, and keeps them current."""

    def __init__(
        self,
        index: Path,
        *,
        metrics: Metrics,
        on_failure: Callable[[OnepassError], None],
        open_snapshot: Callable[[Path], Snapshot],
    ) -> None:
        self.index = index
        self.draining = False  # told to stop: not ready any more, but still answering
        self.since: datetime | None = None
        self._metrics = metrics
        self._on_failure = on_failure
        self._open_snapshot = open_snapshot
        self._served: ServedIndex | None = None
        self._failed: tuple[str | None, float] | None = None  # version that did not open, when
        self._opening = asyncio.Lock()
        self.tried = asyncio.Event()  # to open the index, for the first time

    def served_index(self) -> ServedIndex:
        """What is served.

        Raises:
            ApiError: 503, it is not open, or not yet.
        """
        if self._served is not None:
            return self._served
        if self._failed is not None:
            raise ApiError(503, "not_ready", "the index cannot be opened; the log says why")
        raise ApiError(
            503, "not_ready", "the index is still being opened; ask again when /readyz says ok"
        )

    async def watch(self) -> None:
        """Open the index, then follow ``CURRENT`` until cancelled.

        A first failure is told to ``on_failure``, since nobody awaits this.
        """
        try:
            await self.reload()
        except OnepassError as error:
            self._on_failure(error)
        self.tried.set()
        while True:
            await asyncio.sleep(REMOTE_WATCH_SECONDS if is_remote(self.index) else WATCH_SECONDS)
            try:
                if await anyio.to_thread.run_sync(self._outdated):
                    await self.reload()
            except OnepassError as error:
                logger.error("the snapshot served before is served on: %s", error)

    async def reload(self) -> Reload:
        """Serve the version that ``CURRENT`` names, if it is not served already.

        Raises:
            OnepassError: it does not open; what was served is served on.
        """
        async with self._opening:
            before = self._served
            version: str | None = None
            try:
                version = await anyio.to_thread.run_sync(current_version, self.index)
                if before is not None and version == before.version:
                    self._failed = None
                    return Reload(reloaded=False, version=before.version, before=before.version)
                opened = await anyio.to_thread.run_sync(self._open, before, abandon_on_cancel=True)
            except Exception as error:
                self._failed = (version, time.monotonic())
                if before is not None:
                    self._metrics.failed_reloads.inc()
                if isinstance(error, OnepassError):
                    raise
                logger.exception("the index cannot be opened")
                raise WorkError(f"{self.index} cannot be opened: {error}") from error
            self._served, self._failed = opened, None
            if before is None:
                # What is loaded by now stays. Left to itself, the garbage collector looks through
                # all of it every second under load, and every request waits 60 ms for that.
                gc.collect()
                gc.freeze()
            self.since = datetime.now(UTC)
            manifest = opened.snapshot.manifest
            self._metrics.record_snapshot(manifest.version, manifest.rows)
            if before is not None:
                self._metrics.reloads.inc()
            logger.info("serving %s, %d rows", manifest.version, manifest.rows)
            return Reload(
                reloaded=True,
                version=opened.version,
                before=before.version if before is not None else None,
            )

    def close(self) -> None:
        """Let the garbage collector have everything back, or what it frees at exit is not freed."""
        gc.unfreeze()

    def without_paths(self, error: OnepassError) -> str:
        """An error's text for clients: the index folder has no name, and no other path is left."""
        if isinstance(error, StorageError):
            return NO_STORE
        text = str(error)
        for folder in sorted({str(self.index), str(self.index.resolve())}, key=len, reverse=True):
            text = text.replace(folder, "the index")
        return re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[/\\][^\s,;:'\"]+", "…", text)

    def _open(self, before: ServedIndex | None) -> ServedIndex:
        return ServedIndex.open(self._open_snapshot(self.index), before=before)

    def _outdated(self) -> bool:
        """Whether ``CURRENT`` names another version, and not one that has just failed."""
        try:
            version = current_version(self.index)
        except StorageError:
            self._metrics.failed_reloads.inc()
            raise
        if self._failed is not None and self._failed[0] == version:
            return time.monotonic() - self._failed[1] > RETRY_SECONDS
        return self._served is None or self._served.version != version
