"""Segments of an index searched in other processes.

Shard s of S searches the segments whose number modulo S is s. Each call names a version, and a
shard opens it at the first call. So a new version needs no agreement between processes, and a
shard that was restarted needs no set-up.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from api.config import AppConfig
from api.http.logs import configure
from common.errors import FilterError, OnepassError, SnapshotError, UnavailableError
from common.moved import Pairs
from common.storage import to_path
from index.search.filters import Filter
from index.search.recall import Hits
from index.search.segment import Segment, open_segments
from index.search.snapshot import Snapshot
from index.storage.check import Check
from index.storage.layout import read_manifest

SEARCH_SECONDS = 20.0  # a shard that restarts needs ten
OPEN_SECONDS = 300.0  # a large segment is read from a slow disk
_RETRY_TIMEOUT_SECONDS = 1.0  # for a shard whose last call timed out
_PAUSE_SECONDS = 0.2  # between two replicas of a shard
_KEPT_VERSIONS = 2  # requests for the version before are still under way

logger = logging.getLogger("onepass.api")

_Segments = dict[int, Segment]


class Shard:
    """One shard, in a process of its own.

    Expected errors are returned, not raised: Ray would log each with a traceback and wrap it.

    Args:
        config: of the application; ``shard`` is this shard's number.
    """

    def __init__(self, config: AppConfig) -> None:
        configure(config.log_json)
        self._config = config
        self._versions: dict[str, asyncio.Future[_Segments]] = {}  # last used last
        # OpenMP keeps its number of threads per thread, so the searching thread sets it.
        threads = max(1, int(config.cpus))
        self._executor = ThreadPoolExecutor(1, "search", faiss.omp_set_num_threads, (threads,))

    async def open(self, version: str) -> OnepassError | None:
        """Open the segments of ``version``, or return why they do not open."""
        try:
            await self._open_segments(version)
        except OnepassError as error:
            return error
        return None

    async def search(
        self,
        version: str,
        number: int,
        queries: NDArray[np.float32],
        k: int,
        filter: Filter | None,
        exact: bool,
    ) -> Hits | OnepassError:
        """Search a segment as ``Segment.search`` does.

        Args:
            version: of the index.
            number: of the segment.
            queries: ``[Q, D]``, prepared.
            k: neighbours of each query.
            filter: only rows that match this.
            exact: compare with every vector.
        """
        try:
            segment = (await self._open_segments(version))[number]
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, lambda: segment.search(queries, k, filter=filter, exact=exact)
            )
        except OnepassError as error:
            return error

    async def _open_segments(self, version: str) -> _Segments:
        opening = self._versions.pop(version, None) or asyncio.ensure_future(
            asyncio.to_thread(self._read, version)
        )
        self._versions[version] = opening
        while len(self._versions) > _KEPT_VERSIONS:
            del self._versions[next(iter(self._versions))]
        try:
            # A caller may stop waiting; opening goes on for the next ones.
            return await asyncio.shield(opening)
        except OnepassError:
            self._versions.pop(version, None)
            raise

    def _read(self, version: str) -> _Segments:
        manifest = read_manifest(self._config.index, version)
        numbers = range(self._config.shard, len(manifest.segments), self._config.shards)
        segments = open_segments(to_path(self._config.index), manifest, numbers, check="all")
        return dict(zip(numbers, segments, strict=True))


class Shards:
    """All shards of an index, as other processes reach them.

    Args:
        handles: of ``Shard`` 0, 1, …: Ray Serve's, which choose a free replica.
    """

    def __init__(self, handles: Sequence[Any]) -> None:
        self._clients = [_ShardClient(handle) for handle in handles]

    def open_snapshot(self, index: Path, *, pairs: Pairs = (), check: Check = "known") -> Snapshot:
        """Open the current version: its rows in this process, its vectors in the shards.

        Args:
            index: the index folder of the shards, which this process sees as well.
            pairs: of folders of runs and images that were moved.
            check: not used: the shards compare all files before they open them, and on the same
                machine their comparisons count here.

        Raises:
            SnapshotError: there is none.
            VerifyError: a file of it is damaged.
            UnavailableError: a shard does not answer.
        """
        version = read_manifest(index).version
        with ThreadPoolExecutor(len(self._clients)) as pool:
            list(pool.map(lambda client: client.open(version), self._clients))

        def remote_segment(number: int) -> _RemoteSegment:
            return _RemoteSegment(self._clients[number % len(self._clients)], version, number)

        return Snapshot.open(index, version, searcher=remote_segment, pairs=pairs)


class _ShardClient:
    """Calls one shard; if a call timed out, the next one gets less time.

    Requests queue behind each other, and all of them would wait for a shard that is dead.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._timeout_s = SEARCH_SECONDS

    def open(self, version: str) -> None:
        """Let the shard open a version."""
        self._call(self._handle.open, version, timeout_s=OPEN_SECONDS)

    def search(self, *arguments: Any) -> Hits:
        """Call ``Shard.search``."""
        try:
            hits: Hits = self._call(self._handle.search, *arguments, timeout_s=self._timeout_s)
        except UnavailableError:
            self._timeout_s = _RETRY_TIMEOUT_SECONDS
            raise
        self._timeout_s = SEARCH_SECONDS
        return hits

    def _call(self, method: Any, *arguments: Any, timeout_s: float) -> Any:
        """Call the shard and wait; if a replica dies meanwhile, another one is called.

        Raises:
            OnepassError: the error that the shard returned.
            UnavailableError: no answer within ``timeout_s`` seconds.
        """
        from ray.exceptions import RayActorError  # late: Ray takes seconds
        from ray.serve.exceptions import RayServeException

        deadline = time.monotonic() + timeout_s
        cause = ""
        while (remaining := deadline - time.monotonic()) > 0:
            response = method.remote(*arguments)
            try:
                answer = response.result(timeout_s=remaining)
            except TimeoutError:
                response.cancel()
                cause = "it is busy, or starting"
            except (RayActorError, RayServeException) as error:
                cause = type(error).__name__
                time.sleep(_PAUSE_SECONDS)
            else:
                if isinstance(answer, OnepassError):
                    raise answer
                return answer
        unavailable = UnavailableError(
            f"{self._handle.app_name} did not answer within {timeout_s:g} s: {cause}"
        )
        logger.error("%s", unavailable)
        raise unavailable


@dataclass(frozen=True)
class _RemoteSegment:
    """A segment that a shard searches."""

    client: _ShardClient
    version: str
    number: int

    def search(
        self, queries: NDArray[np.float32], k: int, *, filter: Filter | None, exact: bool
    ) -> Hits:
        """As ``Segment.search``.

        Raises:
            FilterError: ``filter`` cannot be used.
            UnavailableError: the shard does not answer, or cannot open the version any more.
        """
        try:
            return self.client.search(self.version, self.number, queries, k, filter, exact)
        except FilterError:
            raise
        except SnapshotError as error:
            logger.error("segment %d of %s: %s", self.number, self.version, error)
            raise UnavailableError(f"segment {self.number} cannot be searched: {error}") from None
