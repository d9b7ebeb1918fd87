"""Which snapshot is served, and how another replaces it without a request noticing.

``CURRENT`` is read once a second, in an object store every five. A new version is opened and
searched once while the old one is still served, then one assignment swaps them: requests that use
the old one finish on it, and with the last of them its memory is freed, and the disk space of files
that were removed meanwhile. A version that does not open changes nothing but the log and a counter.

Files are compared with their sha256 before a version is served, but for large vectors, which are
compared while it is. Where they differ it is served no longer, and is not opened again unasked.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import re
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import anyio

from api.http.errors import ApiError
from api.http.metrics import Metrics
from api.schemas.index import Integrity, Reloaded
from api.service.served_index import ServedIndex
from common.errors import OnepassError, StorageError, VerifyError, WorkError
from common.storage import is_remote
from index.search.snapshot import Snapshot, current_version
from index.storage.check import Check, compare_files

WATCH_SECONDS = 1.0
REMOTE_WATCH_SECONDS = 5.0  # each request to an object store costs money
RETRY_SECONDS = 30.0  # a version that did not open may have been on its way over a network disk
COLLECT_SECONDS = 5.0  # between collections while a request still uses a replaced snapshot
NO_STORE = "the object store of the index does not answer; its log says why"

logger = logging.getLogger("onepass.api")


class IndexWatcher:
    """Opens the index while the server already answers ``/livez``, and keeps it current.

    Args:
        index: the index folder.
        metrics: gets the version being served, and counts reloads.
        on_failure: called if the index cannot be opened at start-up.
        open_snapshot: opens the current version of an index folder; takes ``check`` as
            ``Snapshot.open`` does.

    Attributes:
        since: when the version being served was opened.
        tried: set after the first attempt to open the index.
        integrity: whether all files of the version being served were compared with their sha256.
    """

    def __init__(
        self,
        index: Path,
        *,
        metrics: Metrics,
        on_failure: Callable[[OnepassError], None],
        open_snapshot: Callable[..., Snapshot],
    ) -> None:
        self.index = index
        self.since: datetime | None = None
        self.tried = asyncio.Event()
        self.integrity: Integrity = "verified"
        self._metrics = metrics
        self._on_failure = on_failure
        self._open_snapshot = open_snapshot
        self._served: ServedIndex | None = None
        self._failed: tuple[str | None, float] | None = None  # version that did not open, when
        self._damaged: tuple[str, OnepassError] | None = None  # a version that was served, and why
        self._opening = asyncio.Lock()
        self._replaced: list[weakref.ref[Snapshot]] = []
        self._half_open = False  # whether a version has failed to open since the last collection
        self._collected = 0.0  # when garbage was last collected

    def served_index(self) -> ServedIndex:
        """The index being served.

        Raises:
            ApiError: 503, it is not open, or not yet, or one of its files was cut.
        """
        if self._served is not None:
            self._served.files.check()
            return self._served
        if self._damaged is not None:
            raise ApiError(503, "index_damaged", self.without_paths(self._damaged[1]))
        if self._failed is not None:
            raise ApiError(503, "not_ready", "the index cannot be opened; the log says why")
        raise ApiError(
            503, "not_ready", "the index is still being opened; try again when /readyz says ok"
        )

    async def watch(self) -> None:
        """Open the index, then follow ``CURRENT`` until cancelled.

        A failure to open it at first goes to ``on_failure``, since nobody awaits this.
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
                cut = self._served is not None and self._served.files.cut
                kept = "nothing is served" if cut else "the earlier snapshot is still served"
                logger.error("%s: %s", kept, error)
            except (
                Exception
            ):  # whatever it was: a watch that ends would serve this version for ever
                logger.exception("the earlier snapshot is still served")
            self._release_replaced()

    async def reload(self) -> Reloaded:
        """Serve the version that ``CURRENT`` names, unless it is being served.

        Raises:
            OnepassError: it does not open; the earlier one is still served.
        """
        async with self._opening:
            before = self._served
            version: str | None = None
            if self.since is None:
                # What is loaded by now stays. Otherwise the garbage collector scans all of it
                # every second under load, and every request waits 60 ms for that. No snapshot is
                # among it: what is frozen is never collected.
                gc.collect()
                gc.freeze()
            try:
                version = await anyio.to_thread.run_sync(current_version, self.index)
                if before is not None and version == before.version and not before.files.cut:
                    self._failed = None
                    return Reloaded(reloaded=False, version=version, before=version)
                opened = await anyio.to_thread.run_sync(self._open, before, abandon_on_cancel=True)
            # Broad: whatever a damaged file raises in FAISS, Arrow or pydantic, watch() goes on.
            except Exception as error:
                self._failed, self._half_open = (version, time.monotonic()), True
                if before is not None:
                    self._metrics.failed_reloads.inc()
                if isinstance(error, OnepassError):
                    raise
                logger.exception("the index cannot be opened")
                raise WorkError(f"{self.index} cannot be opened: {error}") from error
            self._served, self._failed, self._damaged = opened, None, None
            self._compare_later(opened.snapshot)
            self.since = datetime.now(UTC)
            manifest = opened.snapshot.manifest
            self._metrics.snapshot.info({"version": manifest.version})
            self._metrics.rows.set(manifest.rows)
            if before is not None:
                self._metrics.reloads.inc()
                self._replaced.append(weakref.ref(before.snapshot))
            logger.info("serving %s, %d rows", manifest.version, manifest.rows)
            return Reloaded(
                reloaded=True, version=opened.version, before=before.version if before else None
            )

    def _compare_later(self, snapshot: Snapshot) -> None:
        """Compare what was not compared before ``snapshot`` was opened, in the background."""
        version, files = snapshot.manifest.version, snapshot.uncompared
        self.integrity = "verifying" if files else "verified"
        if files:
            logger.info("%s is served while its vectors are compared", version)
            loop = asyncio.get_running_loop()
            # Not in a pool: a server that stops would wait for the end of it.
            threading.Thread(
                target=self._compare, args=(version, files, loop), name="compare", daemon=True
            ).start()

    def _compare(
        self, version: str, files: Mapping[Path, str], loop: asyncio.AbstractEventLoop
    ) -> None:
        """Compare files one after another, on one core, while others answer."""
        damage: VerifyError | None = None
        for file, sha256 in files.items():
            try:
                while not _could_compare(file, sha256, cached=is_remote(self.index)):
                    time.sleep(RETRY_SECONDS)
            except VerifyError as error:
                damage = error
                break
        with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
            loop.call_soon_threadsafe(self._compared, version, damage)

    def _compared(self, version: str, damage: VerifyError | None) -> None:
        if self._served is None or self._served.version != version:
            return  # it was replaced meanwhile
        if damage is None:
            self.integrity = "verified"
            logger.info("%s is verified", version)
            return
        logger.error("%s is served no longer: %s", version, damage)
        self._metrics.failed_reloads.inc()
        self._replaced.append(weakref.ref(self._served.snapshot))
        self._served, self._damaged = None, (version, damage)

    def _release_replaced(self) -> None:
        """Let go of what no request uses any more: replaced snapshots, and what did not open.

        An error and the frames in its traceback can be a cycle. It would keep files open until
        the collector runs, which in a quiet server may take hours.
        """
        self._replaced = [each for each in self._replaced if each() is not None]
        due = time.monotonic() - self._collected > COLLECT_SECONDS
        if due and (self._replaced or self._half_open):
            gc.collect()
            self._collected, self._half_open = time.monotonic(), False

    def close(self) -> None:
        """Undo ``gc.freeze``, or frozen objects are not freed at exit."""
        gc.unfreeze()

    def without_paths(self, error: OnepassError) -> str:
        """An error's text for clients: the index folder and every other path are replaced."""
        if isinstance(error, StorageError):
            return NO_STORE
        text = str(error)
        for folder in sorted({str(self.index), str(self.index.resolve())}, key=len, reverse=True):
            text = text.replace(folder, "the index")
        return re.sub(r"(?<![\w.])(?:[A-Za-z]:)?[/\\][^\s,;:'\"]+", "…", text)

    def _open(self, before: ServedIndex | None) -> ServedIndex:
        # What has failed once is compared as a whole before it is served again.
        check: Check = "later" if self._damaged is None else "all"
        return ServedIndex.open(self._open_snapshot(self.index, check=check), before=before)

    def _outdated(self) -> bool:
        """Whether ``CURRENT`` names another version, and not one that has just failed."""
        try:
            version = current_version(self.index)
        except StorageError:
            self._metrics.failed_reloads.inc()
            raise
        if self._damaged is not None and self._damaged[0] == version:
            return False
        if self._failed is not None and self._failed[0] == version:
            return time.monotonic() - self._failed[1] > RETRY_SECONDS
        return self._served is None or self._served.version != version or self._served.files.cut


def _could_compare(file: Path, sha256: str, *, cached: bool) -> bool:
    """Compare a file; False where this machine refuses, as where too many files are open.

    Args:
        file: of the version being served.
        sha256: of its manifest.
        cached: whether it is a copy from an object store.

    Raises:
        VerifyError: it is missing or differs.
    """
    try:
        compare_files({file: sha256}, trust="process", cached=cached)
    except VerifyError:
        raise
    except OnepassError as error:
        logger.error("it is compared again in %g s: %s", RETRY_SECONDS, error)
        return False
    return True
