"""Segments of an index searched in other processes: who searches which, and asking them.

Shard s of S searches the segments whose number leaves s when divided by S, of whichever version
it is asked for, and opens that version when it is first asked. So a new version needs no
agreement between processes, and a shard that was started again needs to be told nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from api.http.logs import configure
from common.errors import FilterError, OnepassError, SnapshotError, UnavailableError
from index.search.filters import Filter
from index.search.recall import Hits
from index.search.segment import Segment
from index.search.snapshot import Snapshot, open_segments
from index.storage.layout import read_manifest

SEARCH_SECONDS = 20.0  # a shard that is started again needs ten
OPEN_SECONDS = 300.0  # a large segment is read from a slow disk
_SILENT_SECONDS = 1.0  # for a shard that has just been silent
_AGAIN_SECONDS = 0.2
_KEPT_VERSIONS = 2  # of the one before, requests are still under way

logger = logging.getLogger("onepass.api")

_Opened = dict[int, Segment]


class Shard:
    """One shard, in a process of its own.

    Deliberate errors are returned, not raised: Ray would log each with a traceback and wrap it.

    Args:
        index: the index folder.
        own: which shard this is.
        shards: how many there are.
        threads: what FAISS searches with; one search at a time.
        log_json: log lines as JSON.
    """

    def __init__(self, index: Path, own: int, shards: int, threads: int, log_json: bool) -> None:
        configure(as_json=log_json)
        self._index = index
        self._own = own
        self._shards = shards
        self._versions: dict[str, asyncio.Future[_Opened]] = {}  # the last one asked for is last
        # OpenMP keeps its number of threads by thread, so it is set where it counts.
        self._turn = ThreadPoolExecutor(1, "search", faiss.omp_set_num_threads, (threads,))

    async def open(self, version: str) -> OnepassError | None:
        """Have the segments of ``version`` open, or say why they are not."""
        try:
            await self._opened(version)
        except OnepassError as error:
            return error
        return None

    async def search(
        self,
        version: str,
        number: int,
        queries: NDArray[np.float32],
        k: int,
        chosen: Filter | None,
        exact: bool,
    ) -> Hits | OnepassError:
        """Search segment ``number`` of ``version`` as ``Segment.search`` does."""
        try:
            segment = (await self._opened(version))[number]
            return await asyncio.get_running_loop().run_in_executor(
                self._turn, lambda: segment.search(queries, k, chosen=chosen, exact=exact)
            )
        except OnepassError as error:
            return error

    async def _opened(self, version: str) -> _Opened:
        opening = self._versions.pop(version, None) or asyncio.ensure_future(
            asyncio.to_thread(self._read, version)
        )
        self._versions[version] = opening
        while len(self._versions) > _KEPT_VERSIONS:
            del self._versions[next(iter(self._versions))]
        try:
            # Whoever asked may stop waiting; those who ask next find it further on, or done.
            return await asyncio.shield(opening)
        except OnepassError:
            self._versions.pop(version, None)
            raise

    def _read(self, version: str) -> _Opened:
        manifest = read_manifest(self._index, version)
        numbers = range(self._own, len(manifest.segments), self._shards)
        return dict(zip(numbers, open_segments(self._index, manifest, numbers), strict=True))


class Shards:
    """All shards of an index, as others reach them.

    Args:
        handles: of ``Shard`` 0, 1, …: Ray Serve's, which finds a replica that is free.
    """

    def __init__(self, handles: Sequence[Any]) -> None:
        self._reached = [_ShardClient(handle) for handle in handles]

    def open_snapshot(self, index: Path) -> Snapshot:
        """Open the current version here to look rows up, and in the shards to search them.

        Args:
            index: the index folder of the shards, which this process sees as well.

        Raises:
            SnapshotError: there is none, or it is damaged.
            UnavailableError: a shard does not answer.
        """
        version = read_manifest(index).version
        with ThreadPoolExecutor(len(self._reached)) as side_by_side:
            list(side_by_side.map(lambda shard: shard.open(version), self._reached))
        return Snapshot.open(
            index,
            version,
            elsewhere=lambda number: _RemoteSegment(self._of(number), version, number),
        )

    def _of(self, number: int) -> _ShardClient:
        return self._reached[number % len(self._reached)]


class _RemoteSegment:
    """A segment that a shard searches."""

    def __init__(self, shard: _ShardClient, version: str, number: int) -> None:
        self._shard = shard
        self._version = version
        self._number = number

    def search(
        self, queries: NDArray[np.float32], k: int, *, chosen: Filter | None, exact: bool
    ) -> Hits:
        """As ``Segment.search``.

        Raises:
            FilterError: ``chosen`` cannot be used.
            UnavailableError: the shard does not answer, or cannot open the version any more.
        """
        try:
            return self._shard.search(self._version, self._number, queries, k, chosen, exact)
        except FilterError:
            raise
        except SnapshotError as error:
            logger.error("segment %d of %s: %s", self._number, self._version, error)
            raise UnavailableError(f"segment {self._number} cannot be searched: {error}") from None


class _ShardClient:
    """A shard and how long to wait for it: one that was silent is not waited for as long again.

    Requests queue behind each other, and all behind a shard that is dead would wait for it.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._patience = SEARCH_SECONDS

    def open(self, version: str) -> None:
        self._ask(self._handle.open, version, seconds=OPEN_SECONDS)

    def search(self, *arguments: Any) -> Hits:
        try:
            found: Hits = self._ask(self._handle.search, *arguments, seconds=self._patience)
        except UnavailableError:
            self._patience = _SILENT_SECONDS
            raise
        self._patience = SEARCH_SECONDS
        return found

    def _ask(self, method: Any, *arguments: Any, seconds: float) -> Any:
        """Call the shard and wait; a replica that dies meanwhile is followed by another.

        Raises:
            OnepassError: what the shard answered.
            UnavailableError: no answer within ``seconds``.
        """
        from ray.exceptions import RayActorError
        from ray.serve.exceptions import RayServeException

        deadline = time.monotonic() + seconds
        why = ""
        while (left := deadline - time.monotonic()) > 0:
            response = method.remote(*arguments)
            try:
                answer = response.result(timeout_s=left)
            except TimeoutError:
                response.cancel()
                why = "it is busy, or being started"
            except (RayActorError, RayServeException) as error:
                why = type(error).__name__
                time.sleep(_AGAIN_SECONDS)
            else:
                if isinstance(answer, OnepassError):
                    raise answer
                return answer
        silent = UnavailableError(
            f"{self._handle.app_name} did not answer within {seconds:g} s: {why}"
        )
        logger.error("%s", silent)
        raise silent
