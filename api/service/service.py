"""All that the routes of one application use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial

import anyio

from api.config import ServeConfig
from api.http.metrics import Metrics
from api.service.batching import Batcher
from api.service.queues import BoundedQueue
from api.service.uploads import UploadDecoder
from api.service.watcher import IndexWatcher
from common.errors import OnepassError
from common.moved import read_pairs
from common.storage import to_path
from index.search.snapshot import Snapshot
from tracks.live.session import LiveLinker
from tracks.live.store import LinkStore
from tracks.live.transaction import Caps


class Service:
    """The index being served, the queues in front of it, live linking, limits and metrics.

    Args:
        config: of the service.
        open_snapshot, on_failure: as for ``create_app``.

    Attributes:
        watcher: opens the index and keeps it current.
        batcher: answers searches.
        decoder: decodes uploads.
        live: links frames of live cameras.
        uploads: the queue of the model.
        frames: the queue of ``live``.
        crop_limiter: how many crops are decoded at once.
        vectors_limiter: how many pages with vectors are written at once: some megabytes each, while
            nothing else runs.
        draining: the server is stopping: not ready any more, but still answering.
    """

    uploads: BoundedQueue
    frames: BoundedQueue
    crop_limiter: anyio.CapacityLimiter
    vectors_limiter: anyio.CapacityLimiter

    def __init__(
        self,
        config: ServeConfig,
        *,
        open_snapshot: Callable[..., Snapshot],
        on_failure: Callable[[OnepassError], None],
    ) -> None:
        pairs = read_pairs(config.images)
        self.limits = config.limits
        self.metrics = Metrics()
        self.watcher = IndexWatcher(
            to_path(config.index),
            metrics=self.metrics,
            on_failure=on_failure,
            open_snapshot=partial(open_snapshot, pairs=pairs) if pairs else open_snapshot,
        )
        self.batcher = Batcher(self.watcher.served_index, limits=self.limits, metrics=self.metrics)
        self.decoder = UploadDecoder(self.limits)
        self.live = LiveLinker(LinkStore(config.link_file), config.linking)
        caps = Caps(
            sequences=config.limits.link_sequences,
            sequence_bytes=config.limits.link_sequence_bytes,
            total_bytes=config.limits.link_bytes,
        )
        self.live = LiveLinker(LinkStore(config.link_file, caps=caps), config.linking)
        # A server of searches alone may have no disk to write to.
        self._links = config.live and config.link_state is not None
        self.draining = False

    def check_link_state(self) -> None:
        """Raise where this server links live frames and cannot write their state.

        It does where a frame was linked with this file, or `link_state` names one.

        Raises:
            LinkStateError: it cannot.
        """
        if self._links or self.live.store.exists:
            self.live.store.check()

    @asynccontextmanager
    async def running(self, startup_wait_s: float) -> AsyncIterator[None]:
        """Open the index, keep it current and answer searches until the block ends."""
        limits, metrics = self.limits, self.metrics
        self.uploads = BoundedQueue(
            limits.waiting_uploads, "images wait for the model", reason="uploads", metrics=metrics
        )
        self.frames = BoundedQueue(
            limits.waiting_frames, "frames wait to be linked", reason="frames", metrics=metrics
        )
        self.crop_limiter = anyio.CapacityLimiter(os.cpu_count() or 1)  # each decodes an image
        self.vectors_limiter = anyio.CapacityLimiter(1)
        self.batcher.start()
        watching = asyncio.create_task(self.watcher.watch())
        if startup_wait_s:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.watcher.tried.wait(), startup_wait_s)
        yield
        watching.cancel()
        with suppress(asyncio.CancelledError):
            await watching
        await anyio.to_thread.run_sync(self.batcher.close)
        await anyio.to_thread.run_sync(self.decoder.close)
        await anyio.to_thread.run_sync(self.live.store.close)
        self.watcher.close()
